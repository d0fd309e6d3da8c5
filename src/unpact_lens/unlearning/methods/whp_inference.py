"""Register Who's Harry Potter at inference: original and reinforced model predict together, nothing is trained."""

from __future__ import annotations

from unpact_lens.models.hooked import HookedModel
from unpact_lens.unlearning import losses
from unpact_lens.unlearning.ensembles import Ensemble
from unpact_lens.unlearning.job import Plan
from unpact_lens.unlearning.methods.whp import REINFORCEMENT, reinforce
from unpact_lens.unlearning.registry import METHODS, Method
from unpact_lens.unlearning.trainer import Run


def whp(base: HookedModel, reinforced: HookedModel, alpha: float = 5.0) -> Ensemble:
    r"""Predict $z_b - \alpha\,\mathrm{ReLU}(z_r - z_b)$, without training the base model.

    Args:
        base: Original model, with logits $z_b$.
        reinforced: The original model trained further on the forget set, with logits $z_r$.
        alpha: Strength. With 0, the predictions are those of the base model.

    Raises:
        InputError: If the models cannot be combined; see `CombinedModel`.

    Source: Eldan and Russinovich 2023, arXiv 2310.02238; MUSE, arXiv 2407.06460.
    """
    return Ensemble("whp", alpha, (base, reinforced))


def predict_together(plan: Plan) -> Run:
    """Combine the copy with the reinforced model."""
    reinforced = plan.job.data.reinforced
    assert reinforced is not None
    model = whp(plan.after, reinforced, float(plan.job.options["strength"]))
    return Run([{"step": 0, **plan.checks.take(model, 0, last=True)}], "nothing to train", model)


METHODS.add(
    "whp_inference",
    Method(
        "whp_inference",
        "Who's Harry Potter with no training of the model: the generic predictions themselves",
        "z_b − a·ReLU(z_r − z_b) at inference, z_r of a model trained further on D_f",
        "Eldan and Russinovich 2023, arXiv 2310.02238; MUSE, arXiv 2407.06460",
        forget=lambda view, options: losses.nll(view.log_probs, view.mask),
        defaults={"lr": 2e-4},
        options=REINFORCEMENT,
        prepare=reinforce,
        carry_out=predict_together,
        combines=True,
        adapts="it trains nothing but the reinforced model",
        note="the result is two models that predict together; it can be scored, asked and attributed, not decomposed.",
    ),
)
