"""Register JensUn: Jensen-Shannon divergence to a refusal on the forget set, and to the original model elsewhere."""

from __future__ import annotations

from unpact_lens.unlearning import bounded_losses
from unpact_lens.unlearning.methods.idk import train_on_refusals
from unpact_lens.unlearning.option import Option, Texts
from unpact_lens.unlearning.registry import METHODS, Method
from unpact_lens.unlearning.retain_terms import add_rehearsed, retain_jensen_shannon

TARGET = (" No idea",)
"""Refusal that the source trains towards."""

JENSUN = Method(
    "jensun",
    "move the answers to a refusal by the Jensen-Shannon divergence, which is bounded, and keep the rest by the same",
    "γ·mean JSD(p_θ(·|x, y_<k), certain of y_k) on refusals y + α·mean JSD(p_θ, p_θ0) on D_r",
    "Singh et al. 2025, arXiv 2509.02820",
    forget=lambda view, options: bounded_losses.jensen_shannon_to_label(view.log_probs, view.mask),
    retain=retain_jensen_shannon,
    options={"refusals": Option(TARGET, Texts(one=True))},
    prepare=train_on_refusals,
    note="the refusal ends with the token that ends an answer; the source repeats its refusal over the length of the "
    "answer. A benchmark's own refusals are used where it has some.",
)

METHODS.add("jensun", JENSUN)
add_rehearsed(JENSUN)
