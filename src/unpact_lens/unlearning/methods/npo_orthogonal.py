r"""Register NPO whose gradient is projected off that of the retain term where the two conflict.

With $g_f$ the gradient of NPO and $g_r$ that of the retain loss, the update follows
$g_f - \min(0, \langle g_f, g_r\rangle)\, g_r / \|g_r\|^2 + \alpha\, g_r$.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from unpact_lens.unlearning import losses
from unpact_lens.unlearning.job import Job
from unpact_lens.unlearning.methods.npo import NPO
from unpact_lens.unlearning.option import OneOf, Option
from unpact_lens.unlearning.registry import METHODS, Method
from unpact_lens.unlearning.retain_terms import add_rehearsed, retain_kl, retain_nll
from unpact_lens.unlearning.trainer import Row, StepBatch


class ProjectedGradient:
    """Remove from the forget gradient what lies along the retain gradient.

    Args:
        job: Run with the option `project`: `"conflict"` projects only where the two gradients point apart, `"always"`
            at every step.
    """

    def __init__(self, job: Job) -> None:
        self.always = job.options["project"] == "always"

    def gather(self, batch: StepBatch) -> dict[str, float]:
        """Leave the projected forget gradient plus the weighted retain gradient."""
        forget, retain, params = batch.term("forget"), batch.term("retain"), batch.distinct()
        values = {"retain": batch.add(retain, 1.0)}
        batch.tied.fold_gradient()
        kept = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in params]
        batch.weights.clear()
        values = {"forget": batch.add(forget), **values}
        batch.tied.fold_gradient()
        along = sum(float((p.grad.double() * k.double()).sum()) for p, k in zip(params, kept, strict=True)
                    if p.grad is not None)  # fmt: skip
        size = sum(float(k.double().square().sum()) for k in kept)
        share = along / size if size > 0 and (self.always or along < 0) else 0.0
        for p, k in zip(params, kept, strict=True):
            added = (retain.weight - share) * k
            p.grad = added if p.grad is None else p.grad + added
        return {**values, "conflict": along}

    def resume(self, rows: Sequence[Row]) -> None:
        """Do nothing: no state is kept between steps."""


NPO_ORTHOGONAL = Method(
    "npo_orthogonal",
    "NPO whose gradient is projected off that of the retain loss where they conflict",
    "update along g_f − min(0, ⟨g_f, g_r⟩)·g_r/‖g_r‖² + α·g_r, g_f = γ·∇NPO, g_r = ∇[−mean log p on D_r]",
    "Wang et al. 2025 (GRU), arXiv 2503.09117; projection of arXiv 2001.06782",
    forget=lambda view, options: losses.npo(view.log_probs, view.ref_log_probs, view.mask, options["beta"]),
    per="example",
    sums=True,
    retain=retain_nll,
    options={**NPO, "project": Option("conflict", OneOf(("conflict", "always")))},
    combine=ProjectedGradient,
    note="the source has no retain term besides (alpha=0) and smooths the retain gradient over steps. Both gradients "
    "are of the batch of the step. The history has their inner product as `conflict`.",
)

METHODS.add("npo_orthogonal", NPO_ORTHOGONAL)
KL_FORMULA = NPO_ORTHOGONAL.formula.replace("−mean log p", "mean KL(p_θ0 ‖ p_θ)")
add_rehearsed(replace(NPO_ORTHOGONAL, retain=retain_kl, formula=KL_FORMULA))
