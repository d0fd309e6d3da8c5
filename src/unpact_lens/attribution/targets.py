"""What of the model's output is attributed: a number for each answer token, or one for the whole answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unpact_lens.errors import InputError, nearest
from unpact_lens.models.tokens import Text, text_ids
from unpact_lens.scoring import gather_log_probs

Values = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Target:
    """A function of the logits at the answer's positions.

    Attributes:
        name: how results call it.
        unit: what its values are measured in.
        values: takes logits `[batch, answer, d_vocab]` and the answer ids `[batch, answer]`; gives `[batch, answer]`,
            or `[batch, 1]` where the target is one number for the whole answer.
    """

    name: str
    unit: str
    values: Values


def log_prob(
    logits: Float[Tensor, "batch answer d_vocab"], answers: Int[Tensor, "batch answer"]
) -> Float[Tensor, "batch answer"]:
    r"""$\log p(y_k \mid x, y_{<k})$, nats. Its mean over the answer is LP(x, y), the paper's target."""
    return gather_log_probs(logits, answers)


def logit(
    logits: Float[Tensor, "batch answer d_vocab"], answers: Int[Tensor, "batch answer"]
) -> Float[Tensor, "batch answer"]:
    """The answer token's logit, which a shift of all logits moves and which the log-probability ignores."""
    return wide(logits).gather(-1, answers[..., None])[..., 0]


def prob(
    logits: Float[Tensor, "batch answer d_vocab"], answers: Int[Tensor, "batch answer"]
) -> Float[Tensor, "batch answer"]:
    r"""$p(y_k \mid x, y_{<k})$ of each answer token, between 0 and 1."""
    return gather_log_probs(logits, answers).exp()


PLAIN: dict[str, Target] = {
    "log_prob": Target("log_prob", "nats", log_prob),
    "logit": Target("logit", "logits", logit),
    "prob": Target("prob", "probability", prob),
}
"""Targets that need no argument."""


def logit_difference(answer: Sequence[int], foil: Sequence[int]) -> Values:
    """The answer's logit minus the foil's.

    A foil as long as the answer is compared token by token, each after the *answer's* own beginning. Another one is
    compared at the first token that differs, which gives one number for the whole answer.

    Raises:
        InputError: if the two are equal, or one only begins the other.
    """
    answer, foil = tuple(answer), tuple(foil)
    if answer == foil:
        raise InputError("the foil equals the answer, so their difference is 0 everywhere; give another foil")
    if len(answer) == len(foil):

        def each(logits: Tensor, answers: Tensor) -> Tensor:
            foils = torch.tensor(foil, device=logits.device).expand_as(answers)
            return logit(logits, answers) - logit(logits, foils)

        return each
    first = next((k for k, (a, b) in enumerate(zip(answer, foil, strict=False)) if a != b), None)
    if first is None:
        raise InputError("the answer and the foil begin alike and one of them ends there; give a foil that differs")

    def at_first_difference(logits: Tensor, answers: Tensor) -> Tensor:
        at = wide(logits)[:, first]
        return (at[:, answer[first]] - at[:, foil[first]])[:, None]

    return at_first_difference


def from_callable(function: Callable[[Tensor, Tensor], Tensor]) -> Values:
    """A user's function of one example's logits `[answer, d_vocab]` and answer ids `[answer]`.

    It gives one value for each answer token, or a scalar.

    Raises:
        InputError: when called, if its result is neither.
    """

    def values(logits: Tensor, answers: Tensor) -> Tensor:
        rows = [function(l, a) for l, a in zip(wide(logits), answers, strict=True)]
        for row in rows:
            if not isinstance(row, Tensor) or row.shape not in ((), answers.shape[1:]):
                got = f"shape {tuple(row.shape)}" if isinstance(row, Tensor) else f"a {type(row).__name__}"
                raise InputError(
                    f"the target function returned {got}; it takes logits [answer, d_vocab] and ids [answer], and "
                    f"returns a scalar tensor or one of shape [{answers.shape[1]}], one value for each answer token"
                )
        stacked = torch.stack(rows)
        return stacked if stacked.ndim == 2 else stacked[:, None]

    return values


def resolve(
    model: Any, target: str | Target | Callable[..., Tensor], answer: Sequence[int], foil: Text | None
) -> Target:
    """The target that the user asked for.

    Args:
        model: whose tokenizer reads the foil.
        target: a name in `PLAIN`, `"logit_diff"` (needs `foil`), a `Target`, or a function for `from_callable`.
        answer: ids of the answer.
        foil: text or ids of the foil, for `"logit_diff"` only.

    Raises:
        InputError: if the name is unknown, or a foil is missing or not wanted.
    """
    if isinstance(target, Target):
        return target
    if target == "logit_diff":
        if foil is None:
            raise InputError("target 'logit_diff' needs a foil, e.g. foil=' Paris'")
        return Target("logit_diff", "logits", logit_difference(answer, text_ids(model, foil, "foil")))
    if foil is not None:
        raise InputError(f"foil={foil!r} is used by target='logit_diff' only, not by {target!r}")
    if callable(target):
        return Target(getattr(target, "__name__", "callable"), "", from_callable(target))
    if target not in PLAIN:
        raise InputError(f"unknown target {target!r}; {nearest(str(target), [*PLAIN, 'logit_diff'])}")
    return PLAIN[target]


def wide(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """In single precision at least: half precision is for weights and activations, not for scores."""
    return values if values.dtype == torch.float64 else values.float()
