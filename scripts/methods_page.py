"""Write docs/reference/methods.md from the registry: `python scripts/methods_page.py`. A test compares the two."""

from __future__ import annotations

import re
from pathlib import Path

from unpact_lens.unlearning import METHODS, Method

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "methods.md"
HEAD = """# Unlearning methods

Written from the registry by `python scripts/methods_page.py`; a test refuses a page that differs from it.

Notation: ℓ is the sum of log p over an answer's T tokens, θ0 the model before, D_f and D_r the forget and the retain
set, sg[·] a value that carries no gradient. What is minimised is γ times the forget loss plus α times the retain loss,
where there is one. Token losses are means over all answer tokens of a step's batch, sequence losses means over its
examples. Settings that all methods share are those of `Settings` ([reference](unlearning.md)); `lora_` before the name
of a trained method trains adapters of rank 8 and merges them.
"""
SUFFIXES = {
    "gdr": "retain term −mean log p on D_r",
    "klr": "retain term mean KL(p_θ0 ‖ p_θ) on D_r, a true KL of distributions",
}


def page() -> str:
    """The whole page."""
    variants: dict[str, list[str]] = {}
    for name in METHODS:
        base = re.sub(r"_(gdr|klr)$", "", name)
        variants.setdefault(base, []).append(name)
    return "\n".join([HEAD, *(section(METHODS[base], names[1:]) for base, names in variants.items())])


def section(method: Method, variants: list[str]) -> str:
    """One method: what it does, its formula, its defaults, its source, and what differs from that."""
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
    lines.append("- Defaults of its own: " + (", ".join(f"`{k}={v!r}`" for k, v in defaults.items()) or "none"))
    lines.append(f"- Source: {method.source}")
    if method.note:
        lines.append(f"- Differs, and why: {method.note}")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
