r"""Register PDU, primal-dual unlearning: flatten the logits on the forget set, with a limit on the retain loss.

The weight of the retain term is a dual variable: $\lambda \leftarrow \max(0, \lambda + \eta\,(L_{retain} - \epsilon))$
after every step. It starts at alpha.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from unpact_lens.unlearning import bounded_losses
from unpact_lens.unlearning.job import Job
from unpact_lens.unlearning.option import Number, Option
from unpact_lens.unlearning.registry import METHODS, Method
from unpact_lens.unlearning.retain_terms import add_rehearsed, retain_kl, retain_nll
from unpact_lens.unlearning.trainer import Row, StepBatch


class DualWeight:
    """Weigh the retain term by a dual variable.

    Args:
        job: Run with the options `retain_limit` and `dual_step`.
    """

    def __init__(self, job: Job) -> None:
        self.limit, self.rate = job.options["retain_limit"], job.options["dual_step"]
        self.duals = {0: job.settings.alpha}  # by step; a step may be gathered twice with half-precision weights

    def gather(self, batch: StepBatch) -> dict[str, float]:
        """Leave the gradient of the Lagrangian, and update the dual variable for the next step."""
        dual, forget, retain = self.duals[batch.step], batch.term("forget"), batch.term("retain")
        values = {"forget": batch.add(forget), "retain": batch.add(retain, dual)}
        self._update(batch.step, values["retain"])
        loss = forget.weight * values["forget"] + dual * (values["retain"] - self.limit)
        return {**values, "dual": dual, "loss": loss}

    def resume(self, rows: Sequence[Row]) -> None:
        """Restore the dual variable of the next step."""
        last = rows[-1]
        self.duals[int(last["step"]) - 1] = float(last["dual"])
        self._update(int(last["step"]) - 1, float(last["retain"]))

    def _update(self, step: int, retain: float) -> None:
        """Set the dual variable of the step that follows."""
        self.duals[step + 1] = max(0.0, self.duals[step] + self.rate * (retain - self.limit))


PDU = Method(
    "pdu",
    "flatten the logits of the answers, with a dual variable that holds the retain loss below a limit",
    "γ·mean (max_v z_v − mean_v z_v)² + λ·([−mean log p on D_r] − ε), λ ← max(0, λ + η·([−mean log p on D_r] − ε))",
    "Entesari et al. 2025, arXiv 2506.05314; as in locuslab/open-unlearning",
    forget=lambda view, options: bounded_losses.logit_margin(view.logits, view.mask),
    retain=retain_nll,
    options={"retain_limit": Option(0.05, Number(0)), "dual_step": Option(1.0, Number(0))},
    combine=DualWeight,
    note="ε is retain_limit, λ starts at alpha. The limit is in nats a token; the source takes a multiple of the "
    "original model's retain loss. The history has λ as `dual`.",
)

METHODS.add("pdu", PDU)
add_rehearsed(replace(PDU, retain=retain_kl, formula=PDU.formula.replace("−mean log p", "mean KL(p_θ0 ‖ p_θ)")))
