r"""Register SAM-NPO: NPO at the weights nearby where the forget loss is largest, so that relearning undoes it less.

The forget gradient is taken at $\theta + \rho\, g / \|g\|$ with $g = \nabla L_{forget}(\theta)$; that of the retain
term at $\theta$.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from unpact_lens.unlearning import losses
from unpact_lens.unlearning.bounds import norm_of
from unpact_lens.unlearning.job import Job
from unpact_lens.unlearning.methods.npo import NPO
from unpact_lens.unlearning.option import Number, Option
from unpact_lens.unlearning.registry import Method
from unpact_lens.unlearning.retain_terms import add_with_retain_terms
from unpact_lens.unlearning.trainer import Row, StepBatch


class SharpnessAware:
    """Take the forget gradient at the weights at distance rho in the direction of the forget gradient.

    Args:
        job: Run with the option `rho`, the distance.
    """

    def __init__(self, job: Job) -> None:
        self.rho: float = job.options["rho"]

    def gather(self, batch: StepBatch) -> dict[str, float]:
        """Leave the gradient of the forget term nearby, and of the retain term here."""
        forget, params = batch.term("forget"), batch.distinct()
        values = {"forget": batch.add(forget)}
        batch.tied.fold_gradient()
        moved = [(p, p.grad) for p in params if p.grad is not None]
        here = [p.detach().clone() for p, _ in moved]
        size = norm_of([grad for _, grad in moved])
        with torch.no_grad():
            for p, grad in moved:
                p.add_(grad, alpha=self.rho / max(size, 1e-30))
        batch.write()
        batch.weights.clear()
        values["forget_nearby"] = batch.add(forget)
        with torch.no_grad():
            for (p, _), start in zip(moved, here, strict=True):
                p.copy_(start)
        batch.write()
        return values | {term.name: batch.add(term) for term in batch.terms if term.name != "forget"}

    def resume(self, rows: Sequence[Row]) -> None:
        """Do nothing: no state is kept between steps."""


add_with_retain_terms(
    Method(
        "sam_npo",
        "NPO at the weights nearby where its loss is largest (sharpness-aware minimisation)",
        "max over ‖δ‖ ≤ ρ of NPO(θ + δ), δ = ρ·∇NPO(θ)/‖∇NPO(θ)‖",
        "Fan et al. 2025, arXiv 2502.05374; loss of arXiv 2404.05868, SAM of arXiv 2010.01412",
        forget=lambda view, options: losses.npo(view.log_probs, view.ref_log_probs, view.mask, options["beta"]),
        per="example",
        sums=True,
        options={**NPO, "rho": Option(0.01, Number(0, above=True))},
        combine=SharpnessAware,
        adapts="the distance rho is of the weights themselves",
        note="the history has the forget loss at θ (`forget`) and at θ + δ (`forget_nearby`). A retain term is taken "
        "at θ, as in the source. Two forward and backward passes of the forget batch a step.",
    ),
    rehearsed=True,
)
