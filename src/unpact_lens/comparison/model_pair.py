"""Whether two models can be compared number by number: same shape, same vocabulary, same tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from unpact_lens.errors import InputError
from unpact_lens.models import hooked
from unpact_lens.models.checkpoint import named_weights

FIELDS = (
    "n_layers", "d_model", "n_heads", "n_key_value_heads", "d_head", "d_mlp", "d_vocab", "act_fn",
    "normalization_type", "positional_embedding_type", "parallel_attn_mlp", "gated_mlp", "default_prepend_bos",
)  # fmt: skip
"""Fields of `cfg` in which two models must agree."""

DIRECTIONS = ("before_into_after", "after_into_before")
"""Which model's activations or weights go into which."""


def donor_and_recipient(before: Any, after: Any, direction: str) -> tuple[Any, Any]:
    """The model that gives and the one that takes, for one of `DIRECTIONS`."""
    return (before, after) if direction == DIRECTIONS[0] else (after, before)


def require_comparable(before: Any, after: Any) -> None:
    """Refuse two models whose activations or weights do not stand for the same things.

    Args:
        before: a hooked model.
        after: the other one.

    Raises:
        InputError: naming the first mismatch: the kind of wrapper, a field of the configuration, a weight's shape, or
            a token's id.
    """
    kinds = [("a TransformerBridge" if hooked.is_bridge(m) else "a HookedTransformer") for m in (before, after)]
    if kinds[0] != kinds[1]:
        raise InputError(f"before is {kinds[0]}, after is {kinds[1]}; load both with the same wrap=")
    for field in FIELDS:
        ours, theirs = getattr(before.cfg, field, None), getattr(after.cfg, field, None)
        if ours != theirs:
            raise InputError(f"the models differ in shape: cfg.{field} is {ours!r} before and {theirs!r} after")
    _require_same_weights(before, after)
    _require_same_tokenizer(before, after)


def floor_of(before: Any, floor: Sequence[Any]) -> tuple[Any, Any]:
    """The pair of models that gives a noise floor, once it is known to be one.

    Args:
        before: a model of the comparison that it is the floor of.
        floor: two models that differ by noise only.

    Raises:
        InputError: if it is not a pair, or its models cannot be compared with `before`.
    """
    if not isinstance(floor, (tuple, list)) or len(floor) != 2:
        raise InputError("floor= takes a pair of models that differ by noise only, e.g. (one seed, another seed)")
    for model in floor:
        require_comparable(before, model)
    return floor[0], floor[1]


def _require_same_weights(before: Any, after: Any) -> None:
    ours, theirs = named_weights(before), named_weights(after)
    for name in [*ours, *theirs]:
        if name not in theirs or name not in ours:
            raise InputError(f"weight {name} exists only {'before' if name in ours else 'after'}")
        if ours[name].shape != theirs[name].shape:
            raise InputError(f"weight {name} is {tuple(ours[name].shape)} before and {tuple(theirs[name].shape)} after")


def _require_same_tokenizer(before: Any, after: Any) -> None:
    if before.tokenizer is None or after.tokenizer is None or before.tokenizer is after.tokenizer:
        return
    ours, theirs = before.tokenizer.get_vocab(), after.tokenizer.get_vocab()
    if ours == theirs:
        return
    token = min((t for t in {*ours, *theirs} if ours.get(t) != theirs.get(t)), key=lambda t: (ours.get(t, 1 << 60), t))
    raise InputError(
        f"the tokenizers differ: token {token!r} has id {ours.get(token)} before and {theirs.get(token)} after"
    )
