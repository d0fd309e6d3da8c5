"""Register NPO with a small change: the norm of the change of all weights together is bounded."""

from __future__ import annotations

from unpact_lens.unlearning import losses
from unpact_lens.unlearning.methods.npo import NPO
from unpact_lens.unlearning.registry import Method
from unpact_lens.unlearning.retain_terms import add_with_retain_terms

add_with_retain_terms(
    Method(
        "npo_small",
        "NPO whose change of all weights together is scaled back to a small norm after every step",
        "(2/β)·mean softplus(β(ℓ_θ − ℓ_θ0)) / mean T with ‖θ − θ0‖ ≤ radius·‖θ0‖",
        "this toolkit; projection to a norm ball after Gouk et al. 2021, arXiv 2002.08253; loss of arXiv 2404.05868",
        forget=lambda view, options: losses.npo(view.log_probs, view.ref_log_probs, view.mask, options["beta"]),
        per="example",
        sums=True,
        defaults={"radius": 0.05},
        options=NPO,
        adapts="the bound is on the change of the weights themselves",
        note="radius= bounds every other method as well, and anchor= is its soft form.",
    ),
    rehearsed=True,
)
