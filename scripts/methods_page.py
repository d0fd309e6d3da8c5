"""Write docs/reference/methods.md from the registry of methods; a test compares the two.

Run `python scripts/methods_page.py`.
"""

from __future__ import annotations

import re
from pathlib import Path

from unpact_lens.unlearning import METHODS, Method

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "methods.md"
HEAD = """# Unlearning methods

Generated from the registry by `python scripts/methods_page.py`; a test compares both. Each family of methods is one
file of `unpact_lens/unlearning/methods/`.

Notation: ℓ is the sum of log p over an answer's T tokens, θ0 the original model, D_f and D_r the forget and the retain
set, sg[·] a value without gradient. Training minimises γ times the forget loss plus, where there is one, α times the
retain loss. Token losses are means over all answer tokens of a step's batch, sequence losses means over its examples.
The hyperparameters that all methods share are those of `Settings` ([reference](unlearning.md)). `lora_` before the name
of a trained method trains adapters of rank 8 and merges them.
"""
SUFFIXES = {
    "gdr": "retain term −mean log p on D_r",
    "klr": "retain term mean KL(p_θ0 ‖ p_θ) on D_r, a true KL of distributions",
}


def page() -> str:
    """Return the whole page."""
    variants: dict[str, list[str]] = {}
    for name in METHODS:
        base = re.sub(r"_(gdr|klr)$", "", name)
        variants.setdefault(base, []).append(name)
    return "\n".join([HEAD, *(section(METHODS[base], names[1:]) for base, names in variants.items())])


def section(method: Method, variants: list[str]) -> str:
    """Return the section of one method: formula, variants, defaults, source, and the difference from the source."""
    defaults = {**method.defaults, **method.options}
    lines = [
        f"## `{method.name}`",
        "",
        f"{method.line[0].upper()}{method.line[1:]}.",
        "",
        f"- Formula: `{method.formula}`",
    ]
    if variants:
        lines.append("- Variants: " + "; ".join(f"`{v}`, {SUFFIXES[v[-3:]]}" for v in variants))
    lines.append("- Retain set: " + ("needed" if method.retain is not None else "not needed"))
    lines.append("- Own defaults: " + (", ".join(f"`{k}={v!r}`" for k, v in defaults.items()) or "none"))
    lines.append(f"- Source: {method.source}")
    if method.note:
        lines.append(f"- Difference from the source: {method.note}")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
