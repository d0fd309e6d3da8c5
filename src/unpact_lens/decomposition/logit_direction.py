"""Define what is decomposed: at which positions, and along which direction of the unembedding."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.errors import InputError
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.tokens import Encoded, HasTokenizer, Text, foil_ids, token_strings

VOCABULARY = "<mean of the vocabulary>"
"""Value of `versus` for the answer's logit minus the mean logit of the whole vocabulary."""


@dataclass(frozen=True)
class LogitDirection:
    """Hold the T numbers that a decomposition splits, each linear in the output of `ln_final` at its position.

    Attributes:
        example: Prompt and answer as ids.
        steps: Indices of the answer tokens that count, `[T]`.
        foil: Ids that are subtracted, `[T]`, or None.
        versus: Foil as the result names it, or None.
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
        """The T input positions that predict them."""
        return tuple(len(self.example.context) - 1 + k for k in self.steps)

    def direction(
        self, W_U: Float[Tensor, "d_model d_vocab"], b_U: Float[Tensor, " d_vocab"] | None
    ) -> tuple[Float[Tensor, "answer d_model"], Float[Tensor, " answer"]]:
        """Return the unembedding direction of each answer token minus the foil's, and its bias."""
        ids = torch.tensor(self.answer, device=W_U.device)
        bias = torch.zeros_like(W_U[0]) if b_U is None else b_U
        along, constant = W_U[:, ids].T, bias[ids]  # [answer, d_model], [answer]
        if self.foil is not None:
            foil = torch.tensor(self.foil, device=W_U.device)
            return along - W_U[:, foil].T, constant - bias[foil]
        if self.versus == VOCABULARY:
            return along - W_U.mean(1), constant - bias.mean()
        return along, constant

    @property
    def ids(self) -> tuple[int, ...] | None:
        """The tokens whose logits these numbers need: answer, then foil. None if they need all."""
        return None if self.versus == VOCABULARY and self.foil is None else (*self.answer, *(self.foil or ()))

    def of_logits(self, logits: Float[Tensor, "answer d_vocab"]) -> Float[Tensor, " answer"]:
        """Compute the T numbers from the logits at the T positions."""
        if self.ids is not None:
            return self.of_own(logits[:, list(self.ids)])
        return logits[range(len(self.steps)), list(self.answer)] - logits.mean(-1)

    def of_own(self, logits: Float[Tensor, "answer column"]) -> Float[Tensor, " answer"]:
        """Compute the T numbers from the logits of `ids` only."""
        count = len(self.steps)
        # Row t of the logits belongs to answer token t: its own logit is on the diagonal.
        value = logits[:, :count].diagonal()
        return value if self.foil is None else value - logits[:, count:].diagonal()


def logit_direction(model: HookedModel, example: Encoded, versus: Text | None = None) -> LogitDirection:
    """Resolve the answer's tokens, or their difference to a foil's.

    A foil as long as the answer is subtracted token by token, in the answer's context. A foil of another length is
    scored at the first token that differs, where both have the same context.

    Args:
        model: Model whose tokenizer reads the foil.
        example: Prompt and answer.
        versus: Foil, `VOCABULARY`, or None.

    Raises:
        InputError: If the foil is empty, is the answer itself, or one of them is the beginning of the other.
    """
    every = tuple(range(len(example.answer)))
    if versus is None:
        return LogitDirection(example, every, None, None)
    if isinstance(versus, str) and versus == VOCABULARY:
        return LogitDirection(example, every, None, VOCABULARY)
    foil = foil_ids(model, example, versus)
    shown = versus if isinstance(versus, str) else "".join(token_strings(model, foil))
    if not foil:
        raise InputError("the foil (versus) is 0 tokens long; give an answer to compare with, or omit versus")
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


def text_of(model: HasTokenizer, text: Text) -> str:
    """Return a prompt or an answer as text; ids are decoded one by one."""
    return text if isinstance(text, str) else "".join(token_strings(model, [int(t) for t in text]))
