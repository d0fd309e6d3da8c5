"""Scoring by an endpoint: rows become texts again, and the endpoint says how likely their answers are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.attribution.scorer import Family, Scorer
from unpact_lens.attribution.targets import PLAIN, Target
from unpact_lens.errors import InputError
from unpact_lens.models.endpoint import Echo, Endpoint
from unpact_lens.models.tokens import Encoded, Text, encode


class RemoteScorer:
    """Scores families of rows by an endpoint. What is removed is removed from the *text*, which the endpoint tokenises.

    Args:
        endpoint: whom to ask.

    Attributes:
        whole: values of the whole prompts scored so far.
        retokenised: rows whose answer the endpoint cut into another number of tokens than the whole prompt's. Their sum
            is spread evenly, so that the mean is that of the same number of tokens.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.model, self.target = endpoint, PLAIN["log_prob"]
        self.whole: dict[Encoded, Tensor] = {}
        self.retokenised = 0

    @property
    def settings(self) -> dict[str, Any]:
        """What was in force."""
        return {
            "endpoint": self.model.url,
            "served_model": self.model.model,
            "shift": self.model.shift,
            "answers_retokenised": self.retokenised,
        }

    def __call__(self, families: Sequence[Family]) -> list[list[Tensor]]:
        """Log p of each answer token, nats, for each row of each family; equal rows are asked for once."""
        rows = list(dict.fromkeys(row for family in families for row in family))
        echoes = dict(zip(rows, self.model.echo([self.model.text(row.ids) for row in rows]), strict=True))
        results = []
        for family in families:
            first = self._values(echoes[family[0]], family[0])
            results.append([self._like(first, self._values(echoes[row], row)) for row in family])
            self.whole[family[0]] = first
        return results

    def _values(self, echo: Echo, row: Encoded) -> Float[Tensor, " answer"]:
        """Log-probabilities of the tokens that reach into the answer."""
        border = len(self.model.text(row.context))
        answer = [
            value for value, (start, end) in zip(echo.log_probs, echo.spans, strict=True)
            if end > border or start >= border
        ]  # fmt: skip
        if not answer or any(value is None for value in answer):
            raise InputError(f"the endpoint gives no log-probability of the answer in {self.model.text(row.ids)!r}")
        return torch.tensor(answer, dtype=torch.float64)

    def _like(self, first: Tensor, values: Tensor) -> Tensor:
        if len(values) == len(first):
            return values
        self.retokenised += 1
        return (values.sum() / len(first)).expand_as(first).clone()


def scorer_for(model: Any, target: Target, batch_tokens: int | None) -> Scorer | RemoteScorer:
    """What scores rows of this model, or of this endpoint."""
    if not isinstance(model, Endpoint):
        return Scorer(model, target, batch_tokens)
    if target is not PLAIN["log_prob"]:
        raise InputError(f"an endpoint gives log-probabilities only, not target {target.name!r}; leave target out")
    if batch_tokens is not None:
        raise InputError(f"batch_tokens={batch_tokens} has no meaning for an endpoint; set its concurrency=")
    return RemoteScorer(model)


def encode_for(model: Any, prompt: Text, answer: Text, *, chat: bool, prefill: Text) -> Encoded:
    """`encode`, or the endpoint's own cut of the text.

    Raises:
        InputError: for what an endpoint cannot be given: ids, a chat template.
    """
    if not isinstance(model, Endpoint):
        return encode(model, prompt, answer, chat=chat, prefill=prefill)
    for what, value in (("prompt", prompt), ("answer", answer), ("prefill", prefill)):
        if not isinstance(value, str):
            raise InputError(f"an endpoint takes text, not ids; give the {what} as text")
        if not value and what != "prefill":
            raise InputError(f"the {what} is empty; give the text that the endpoint reads")
    if chat:
        raise InputError("chat=True needs the model's tokenizer; write the template into the prompt and give units=")
    return model.encode(str(prompt), str(answer), str(prefill))
