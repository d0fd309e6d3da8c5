"""What is decomposed: at which positions, and along which direction of the unembedding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.errors import InputError
from unpact_lens.models.tokens import Encoded, Text, text_ids, token_strings

VOCABULARY = "<mean of the vocabulary>"
"""Given as `versus`: the answer's logit minus the mean logit of the whole vocabulary."""


@dataclass(frozen=True)
class LogitDirection:
    """T numbers that a decomposition splits, each linear in the output of `ln_final` at its position.

    Attributes:
        example: prompt and answer as ids.
        steps: which answer tokens count, `[T]`.
        foil: ids subtracted, `[T]`; None where there is no foil.
        versus: as the result will say it.
    """

    example: Encoded
    steps: tuple[int, ...]
    foil: tuple[int, ...] | None
    versus: str | None

    @property
    def answer(self) -> tuple[int, ...]:
        """The T answer ids that count."""
        return tuple(self.example.answer[k] for k in self.steps)

    @property
    def positions(self) -> tuple[int, ...]:
        """The T input positions whose next-token logits count."""
        return tuple(len(self.example.context) - 1 + k for k in self.steps)

    def direction(
        self, W_U: Float[Tensor, "d_model d_vocab"], b_U: Float[Tensor, " d_vocab"] | None
    ) -> tuple[Float[Tensor, "answer d_model"], Float[Tensor, " answer"]]:
        """The unembedding direction of each answer token, minus the foil's, and the bias that goes with it."""
        ids = torch.tensor(self.answer, device=W_U.device)
        bias = torch.zeros_like(W_U[0]) if b_U is None else b_U
        along, constant = W_U[:, ids].T, bias[ids]
        if self.foil is not None:
            foil = torch.tensor(self.foil, device=W_U.device)
            return along - W_U[:, foil].T, constant - bias[foil]
        if self.versus == VOCABULARY:
            return along - W_U.mean(1), constant - bias.mean()
        return along, constant

    @property
    def ids(self) -> tuple[int, ...] | None:
        """The only tokens whose logits these numbers need: answer, then foil; None where they need all."""
        return None if self.versus == VOCABULARY and self.foil is None else (*self.answer, *(self.foil or ()))

    def of_logits(self, logits: Float[Tensor, "answer d_vocab"]) -> Float[Tensor, " answer"]:
        """The T numbers themselves, from the logits at the T positions."""
        if self.ids is not None:
            return self.of_own(logits[:, list(self.ids)])
        return logits[range(len(self.steps)), list(self.answer)] - logits.mean(-1)

    def of_own(self, logits: Float[Tensor, "answer column"]) -> Float[Tensor, " answer"]:
        """The same, from the logits of `ids` only."""
        count = len(self.steps)
        value = logits[:, :count].diagonal()
        return value if self.foil is None else value - logits[:, count:].diagonal()


def logit_direction(model: Any, example: Encoded, versus: Text | None = None) -> LogitDirection:
    """The answer's tokens, or their difference to a foil's.

    A foil as long as the answer is subtracted token by token, in the answer's context. One of another length is scored
    at the first token that differs, where both have the same context.

    Args:
        model: whose tokenizer reads the foil.
        example: prompt and answer.
        versus: the foil, `VOCABULARY`, or None.

    Raises:
        InputError: if the foil is empty, is the answer itself, or one of them only continues the other.
    """
    every = tuple(range(len(example.answer)))
    if versus is None:
        return LogitDirection(example, every, None, None)
    if isinstance(versus, str) and versus == VOCABULARY:
        return LogitDirection(example, every, None, VOCABULARY)
    foil = text_ids(model, versus, "foil")
    shown = versus if isinstance(versus, str) else "".join(token_strings(model, foil))
    if not foil:
        raise InputError("the foil (versus) is 0 tokens long; give an answer to compare with, or leave it out")
    if foil == example.answer:
        raise InputError(f"the foil {shown!r} is the answer itself; give another answer to compare with")
    if len(foil) == len(example.answer):
        return LogitDirection(example, every, foil, shown)
    for k, (ours, theirs) in enumerate(zip(example.answer, foil, strict=False)):
        if ours != theirs:
            return LogitDirection(example, (k,), (theirs,), shown)
    raise InputError(
        f"answer and foil {shown!r} agree in all of the shorter one's {min(len(foil), len(example.answer))} tokens; "
        "give a foil that differs, or one as long as the answer"
    )


def text_of(model: Any, text: Text) -> str:
    """A prompt or an answer as text, also where it was given as ids."""
    return text if isinstance(text, str) else "".join(token_strings(model, [int(t) for t in text]))
