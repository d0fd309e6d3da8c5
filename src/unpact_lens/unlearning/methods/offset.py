"""Register offset unlearning: unlearn with a small model, and add the change of its logits to the big model's."""

from __future__ import annotations

from unpact_lens.errors import InputError
from unpact_lens.models.checkpoint import clone
from unpact_lens.models.hooked import HookedModel
from unpact_lens.unlearning import losses
from unpact_lens.unlearning.ensembles import Ensemble
from unpact_lens.unlearning.option import Model, Number, Option
from unpact_lens.unlearning.registry import Method
from unpact_lens.unlearning.retain_terms import add_with_retain_terms
from unpact_lens.unlearning.trainer import Options


def offset(big: HookedModel, small_after: HookedModel, small_before: HookedModel, weight: float = 1.0) -> Ensemble:
    r"""Predict $z_{big} + w\,(z_{small'} - z_{small})$: carry what a small model unlearned over to a big model.

    Args:
        big: Model to use; it is never trained.
        small_after: Small model of the same vocabulary, after unlearning.
        small_before: Small model before unlearning.
        weight: Weight w. With 0, or equal small models, the predictions are exactly those of the big model.

    Raises:
        InputError: If the models cannot be combined; see `CombinedModel`.

    Source: Huang et al. 2024, arXiv 2404.11045.
    """
    return Ensemble("offset", weight, (big, small_after, small_before))


def with_small_model(model: HookedModel, options: Options) -> Ensemble:
    """Combine the big model with two copies of the small one, of which the first is trained."""
    small = options["small"]
    if small is None:
        raise InputError("method 'offset' needs a small model; give small=, a hooked model with the same tokenizer")
    big, tuned, fixed = clone(model), clone(small), clone(small)
    return offset(big.requires_grad_(False), tuned, fixed.requires_grad_(False), options["weight"])


add_with_retain_terms(
    Method(
        "offset",
        "offset unlearning: train a small model, add what changed in its logits to the big one's",
        "mean log p under z_big + w(z_small' − z_small), small' trained",
        "Huang et al. 2024, arXiv 2404.11045",
        forget=lambda view, options: losses.gradient_ascent(view.log_probs, view.mask),
        options={"small": Option(None, Model()), "weight": Option(1.0, Number(0, above=True))},
        start=with_small_model,
        combines=True,
        note="small= is a HookedTransformer with the same tokenizer. The result is three models that predict together.",
    )
)
