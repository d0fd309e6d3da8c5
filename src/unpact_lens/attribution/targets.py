"""Define what of the model's output is attributed: a number for each answer token, or one for the whole answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unpact_lens.errors import InputError, nearest
from unpact_lens.models.endpoint import Endpoint
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.tokens import Encoded, Text, foil_ids
from unpact_lens.scoring import gather_log_probs

Values = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Target:
    """Hold a function of the logits at the answer's positions.

    Attributes:
        name: Name in results.
        unit: Unit of the values.
        values: Function of logits `[batch, answer, d_vocab]` and answer ids `[batch, answer]`. It returns
            `[batch, answer]`, or `[batch, 1]` if the target is one number for the whole answer.
    """

    name: str
    unit: str
    values: Values


def log_prob(
    logits: Float[Tensor, "batch answer d_vocab"], answers: Int[Tensor, "batch answer"]
) -> Float[Tensor, "batch answer"]:
    r"""Compute $\log p(y_k \mid x, y_{<k})$, nats. The mean over the answer is LP(x, y), the paper's target."""
    return gather_log_probs(logits, answers)


def logit(
    logits: Float[Tensor, "batch answer d_vocab"], answers: Int[Tensor, "batch answer"]
) -> Float[Tensor, "batch answer"]:
    """Return the answer token's logit. Unlike the log-probability, it depends on a shift of all logits."""
    return wide(logits).gather(-1, answers[..., None])[..., 0]


def prob(
    logits: Float[Tensor, "batch answer d_vocab"], answers: Int[Tensor, "batch answer"]
) -> Float[Tensor, "batch answer"]:
    r"""Compute $p(y_k \mid x, y_{<k})$ of each answer token, between 0 and 1."""
    return gather_log_probs(logits, answers).exp()


PLAIN: dict[str, Target] = {
    "log_prob": Target("log_prob", "nats", log_prob),
    "logit": Target("logit", "logits", logit),
    "prob": Target("prob", "probability", prob),
}
"""Targets without arguments, by name."""


def logit_difference(answer: Sequence[int], foil: Sequence[int]) -> Values:
    """Return the target "logit of the answer minus logit of the foil".

    A foil as long as the answer is compared token by token, each after the *answer's* own beginning. A foil of another
    length is compared at the first token that differs, which gives one number for the whole answer.

    Raises:
        InputError: If the two are equal, or one is the beginning of the other.
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
        raise InputError("one of answer and foil is the beginning of the other; give a foil that differs")

    def at_first_difference(logits: Tensor, answers: Tensor) -> Tensor:
        at = wide(logits)[:, first]  # [batch, d_vocab]
        return (at[:, answer[first]] - at[:, foil[first]])[:, None]

    return at_first_difference


def from_callable(function: Callable[[Tensor, Tensor], Tensor]) -> Values:
    """Wrap a user's function of one example's logits `[answer, d_vocab]` and answer ids `[answer]`.

    The function returns one value for each answer token, or a scalar.

    Raises:
        InputError: If the function returns something else when it is called.
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
        stacked = torch.stack(rows)  # [batch, answer] or [batch]
        return stacked if stacked.ndim == 2 else stacked[:, None]

    return values


def resolve(
    model: HookedModel | Endpoint,
    target: str | Target | Callable[..., Tensor],
    example: Encoded,
    foil: Text | None,
) -> Target:
    """Return the target that the user asked for.

    Args:
        model: Model whose tokenizer reads the foil.
        target: Name in `PLAIN`, `"logit_diff"` (needs `foil`), a `Target`, or a function for `from_callable`.
        example: Tokenised prompt and answer.
        foil: Text or ids of the foil, for `"logit_diff"` only.

    Raises:
        InputError: If the name is unknown, or a foil is missing, not used, or changes the tokens before it.
    """
    if isinstance(target, Target):
        return target
    if target == "logit_diff":
        if foil is None:
            raise InputError("target 'logit_diff' needs a foil, e.g. foil=' Paris'")
        if isinstance(model, Endpoint):
            raise InputError(f"foil={foil!r} needs logits, but an endpoint gives log-probabilities of its prompt only")
        return Target("logit_diff", "logits", logit_difference(example.answer, foil_ids(model, example, foil)))
    if foil is not None:
        raise InputError(f"foil={foil!r} is used by target='logit_diff' only, not by {target!r}")
    if callable(target):
        return Target(getattr(target, "__name__", "callable"), "", from_callable(target))
    if target not in PLAIN:
        raise InputError(f"unknown target {target!r}; {nearest(str(target), [*PLAIN, 'logit_diff'])}")
    return PLAIN[target]


def wide(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Convert to single precision, unless the values are in double precision. Scores are never in half precision."""
    return values if values.dtype == torch.float64 else values.float()
