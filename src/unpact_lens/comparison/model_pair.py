"""Hold two models that can be compared number by number: same shape, same vocabulary, same tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unpact_lens.errors import InputError
from unpact_lens.models import hooked
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.shared_weights import shares_weights
from unpact_lens.models.weights import stored_weights

FIELDS = (
    "n_layers", "d_model", "n_heads", "n_key_value_heads", "d_head", "d_mlp", "d_vocab", "act_fn",
    "normalization_type", "positional_embedding_type", "parallel_attn_mlp", "gated_mlp", "default_prepend_bos",
)  # fmt: skip
"""Fields of `cfg` in which two models must agree."""

DIRECTIONS = ("before_into_after", "after_into_before")
"""Which model gives its activations or weights to the other."""


@dataclass(frozen=True)
class ModelPair:
    """Hold the two models of a comparison, and the two models of its noise baseline.

    Make it with `ModelPair.of`, which checks that the models can be compared.

    Attributes:
        before: Original model.
        after: Unlearned model.
        noise: Two models that differ by noise only, e.g. two training seeds; or None.
    """

    before: HookedModel
    after: HookedModel
    noise: ModelPair | None = None

    @classmethod
    def of(cls, before: HookedModel, after: HookedModel, *, floor: Sequence[HookedModel] | None = None) -> ModelPair:
        """Check that two models, and those of the noise baseline, can be compared.

        Args:
            before: Original model.
            after: Unlearned model.
            floor: Noise baseline: two models that differ by noise only; or None.

        Raises:
            InputError: If the models differ in shape, vocabulary or tokenizer (the first mismatch is named), or if
                `floor` is not a pair of models that can be compared with `before`.
        """
        require_comparable(before, after)
        if floor is None:
            return cls(before, after)
        if not isinstance(floor, (tuple, list)) or len(floor) != 2:
            raise InputError("floor= takes a pair of models that differ by noise only, e.g. (one seed, another seed)")
        for model in floor:
            require_comparable(before, model)
        return cls(before, after, cls(floor[0], floor[1]))

    @property
    def models(self) -> tuple[HookedModel, HookedModel]:
        """Both models: before, after."""
        return self.before, self.after

    @property
    def shared(self) -> bool:
        """Return whether the models have the same weights but for adapters, so that they need the memory of one."""
        return shares_weights(self.before, self.after)

    def donor_and_recipient(self, direction: str) -> tuple[HookedModel, HookedModel]:
        """Return the model that gives and the model that takes, for one of `DIRECTIONS`."""
        return (self.before, self.after) if direction == DIRECTIONS[0] else (self.after, self.before)


def require_comparable(before: HookedModel, after: HookedModel) -> None:
    """Refuse two models whose activations or weights do not mean the same things.

    Args:
        before: Original model.
        after: Unlearned model.

    Raises:
        InputError: If one is a combined model; or naming the first mismatch: the kind of wrapper, a field of the
            configuration, a weight's shape, or a token's id.
    """
    for when, model in (("before", before), ("after", after)):
        if hooked.members_of(model):
            raise InputError(
                f"{when} is a {type(model).__name__}, a combined model, which has no activations of its own; compare "
                "one of its members"
            )
    kinds = [("a TransformerBridge" if hooked.is_bridge(m) else "a HookedTransformer") for m in (before, after)]
    if kinds[0] != kinds[1]:
        raise InputError(f"before is {kinds[0]}, after is {kinds[1]}; load both with the same wrap=")
    for field in FIELDS:
        ours, theirs = getattr(before.cfg, field, None), getattr(after.cfg, field, None)
        if ours != theirs:
            raise InputError(f"the models differ in shape: cfg.{field} is {ours!r} before and {theirs!r} after")
    _require_same_weights(before, after)
    _require_same_tokenizer(before, after)


def _require_same_weights(before: HookedModel, after: HookedModel) -> None:
    ours, theirs = stored_weights(before), stored_weights(after)
    for name in [*ours, *theirs]:
        if name not in theirs or name not in ours:
            raise InputError(f"weight {name} exists only {'before' if name in ours else 'after'}")
        if ours[name].shape != theirs[name].shape:
            raise InputError(f"weight {name} is {tuple(ours[name].shape)} before and {tuple(theirs[name].shape)} after")


def _require_same_tokenizer(before: HookedModel, after: HookedModel) -> None:
    if before.tokenizer is None or after.tokenizer is None or before.tokenizer is after.tokenizer:
        return
    ours, theirs = before.tokenizer.get_vocab(), after.tokenizer.get_vocab()
    if ours == theirs:
        return
    token = min((t for t in {*ours, *theirs} if ours.get(t) != theirs.get(t)), key=lambda t: (ours.get(t, 1 << 60), t))
    raise InputError(
        f"the tokenizers differ: token {token!r} has id {ours.get(token)} before and {theirs.get(token)} after"
    )
