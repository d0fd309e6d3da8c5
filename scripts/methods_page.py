"""Write docs/reference/methods.md from the registry of methods; a test compares the two.

Run `python scripts/methods_page.py`.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from unpact_lens.unlearning import METHODS, Method
from unpact_lens.unlearning.option import declared
from unpact_lens.unlearning.registry import LR
from unpact_lens.unlearning.settings import Settings

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "methods.md"
HEAD = """# Unlearning methods

Generated from the registry by `python scripts/methods_page.py`; a test compares both. Each family of methods is one
file of `unpact_lens/unlearning/methods/`.

Notation: ℓ is the sum of log p over an answer's T tokens, θ0 the original model, D_f and D_r the forget and the retain
set, D_self what the original model wrote itself (`self_rehearsal`), sg[·] a value without gradient. Training minimises
γ times the forget loss plus, where there is one, α times the retain loss. Token losses are means over all answer tokens
of a step's batch, sequence losses means over its examples.
`lora_` before the name of a trained method trains adapters of rank 8 and merges them.

The default learning rate is that for the embedded model (`d_model · n_layers` = 256), on which it was searched
(`experiments/defaults`). For another model, `unlearn` multiplies it by 256 / (`d_model · n_layers`), for adapters by 4.
The scaling was not measured on larger models: search theirs with `tune`.
"""
SUFFIXES = {
    "gdr": "retain term −mean log p on D_r",
    "klr": "retain term mean KL(p_θ0 ‖ p_θ) on D_r, a true KL of distributions",
    "self": "the same KL on D_self, questions about other subjects that the original model named and answered; their "
    "number is set by `subjects`, `drawn` and `templates`",
}


def page() -> str:
    """Return the whole page."""
    variants: dict[str, list[str]] = {}
    for name in METHODS:
        base = re.sub(r"_(gdr|klr|self)$", "", name)
        variants.setdefault(base, []).append(name)
    return "\n".join([HEAD, shared_table(), *(section(METHODS[base], names[1:]) for base, names in variants.items())])


def section(method: Method, variants: list[str]) -> str:
    """Return the section of one method: formula, variants, defaults, source, and the difference from the source."""
    lines = [
        f"## `{method.name}`",
        "",
        f"{method.line[0].upper()}{method.line[1:]}.",
        "",
        f"- Formula: `{method.formula}`",
    ]
    if variants:
        lines.append("- Variants: " + "; ".join(f"`{v}`, {variant_text(method, v)}" for v in variants))
    lines.append("- Retain set: " + ("needed" if method.retain is not None else "not needed"))
    shared = {"lr": LR, **method.defaults}
    lines.append("- Own defaults of shared hyperparameters: " + ", ".join(f"`{k}={v!r}`" for k, v in shared.items()))
    if method.options:
        lines.append("- Own hyperparameters: " + "; ".join(map(stated, method.options, method.options.values())))
    lines.append(f"- Source: {method.source}")
    if method.note:
        lines.append(f"- Difference from the source: {method.note}")
    return "\n".join([*lines, ""])


def variant_text(method: Method, variant: str) -> str:
    """Return what a variant adds; one of a method with a retain term of its own is described by its formula."""
    if method.retain is None:
        return SUFFIXES[variant.rsplit("_", 1)[1]]
    return f"`{METHODS[variant].formula}`, with D_self as for `npo_self`"


def stated(name: str, option: object) -> str:
    """Return the default of an option and what it accepts."""
    known = declared(option)
    return f"`{name}={known.default!r}` ({known.accepts.words()})"


def shared_table() -> str:
    """Return the table of the hyperparameters that all methods share."""
    rows = [
        f"| `{f.name}` | `{'by method and size' if f.name == 'lr' else repr(f.default)}` "
        f"| {f.metadata['accepts'].words()} |"
        for f in dataclasses.fields(Settings)
    ]
    return "\n".join(
        ["## Hyperparameters of all methods", "", "| name | default | accepted |", "|---|---|---|", *rows, ""]
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
