"""Add retain terms to a method: GDR goes on learning the retain set, KLR keeps the predictions there.

With self-rehearsal, the original model writes the retain set itself; see `self_rehearsal`.

Sources: TOFU, arXiv 2401.06121; MUSE, arXiv 2407.06460.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

from torch import Tensor

from unpact_lens.unlearning import bounded_losses, losses
from unpact_lens.unlearning.batch import View
from unpact_lens.unlearning.registry import METHODS, Method
from unpact_lens.unlearning.self_rehearsal import REHEARSAL
from unpact_lens.unlearning.trainer import Options


def retain_nll(view: View, options: Options) -> Tensor:
    """Compute GDR: the negative log-likelihood of the retain set."""
    return losses.nll(view.log_probs, view.mask)


def retain_kl(view: View, options: Options) -> Tensor:
    """Compute KLR: the KL divergence from the original model's next-token distributions on the retain set."""
    return losses.kl_to_reference(view.logits, view.ref_logits, view.mask)


def retain_jensen_shannon(view: View, options: Options) -> Tensor:
    """Compute the Jensen-Shannon divergence from the original model's next-token distributions on the retain set."""
    return bounded_losses.jensen_shannon(view.logits, view.ref_logits, view.mask)


RETAIN_TERMS = {
    "gdr": (retain_nll, "−mean log p on D_r"),
    "klr": (retain_kl, "mean KL(p_θ0 ‖ p_θ) on D_r"),
}
"""Loss and formula of each retain term, by the suffix of the variants' names."""


def add_with_retain_terms(
    method: Method,
    lr: Mapping[str, float] = MappingProxyType({}),
    *,
    rehearsed: bool = False,
    replace: bool = False,
) -> None:
    """Register a method, and a variant of it with each retain term, e.g. `npo`, `npo_gdr` and `npo_klr`.

    Args:
        method: Method without a retain term.
        lr: Default learning rate of each variant, by the name of its retain term. Default: that of the method.
        rehearsed: Whether to register a variant with self-rehearsal too, e.g. `npo_self`.
        replace: Take the place of methods of the same names.
    """
    METHODS.add(method.name, method, replace=replace)
    for suffix, (loss, formula) in RETAIN_TERMS.items():
        line = f"the retain set is held by {suffix.upper()}"
        variant = dataclasses.replace(_variant(method, suffix, line, formula, lr), retain=loss)
        METHODS.add(variant.name, variant, replace=replace)
    if rehearsed:
        add_rehearsed(method, lr, replace=replace)


def add_rehearsed(method: Method, lr: Mapping[str, float] = MappingProxyType({}), *, replace: bool = False) -> None:
    """Register the variant of a method with self-rehearsal, e.g. `npo_self`.

    Args:
        method: Method without self-rehearsal. Its retain term, if it has one, takes the place of KLR.
        lr: Default learning rate of the variant, under `"self"`. Default: that of the method.
        replace: Take the place of a method of the same name.
    """
    if method.retain is None:
        line = "the answers to questions that the original model wrote itself are held by KLR"
        named = _variant(method, "self", line, "mean KL(p_θ0 ‖ p_θ) on D_self", lr)
    else:
        line = f"{method.line}; the retain set is what the original model wrote itself"
        formula = method.formula.replace("D_r", "D_self")
        named = dataclasses.replace(_variant(method, "self", "", "", lr), line=line, formula=formula)
    variant = dataclasses.replace(
        named,
        retain=method.retain or retain_kl,
        rehearses=True,
        options={**method.options, **REHEARSAL},
        source=f"{method.source}; self-rehearsal: this toolkit, after arXiv 2403.01244",
    )
    METHODS.add(variant.name, variant, replace=replace)


def _variant(method: Method, suffix: str, line: str, formula: str, lr: Mapping[str, float]) -> Method:
    """Return a method under its name with a suffix, with the line, formula and learning rate of a retain term."""
    return dataclasses.replace(
        method,
        name=f"{method.name}_{suffix}",
        line=f"{method.line}; {line}",
        formula=f"γ·[{method.formula}] + α·[{formula}]",
        defaults={**method.defaults, **({"lr": lr[suffix]} if suffix in lr else {})},
    )
