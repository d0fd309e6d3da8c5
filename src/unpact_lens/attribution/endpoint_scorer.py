"""Score rows by an endpoint: decode them to text and read the log-probabilities of their answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.attribution.scorer import Family, Scorer
from unpact_lens.attribution.targets import PLAIN, Target
from unpact_lens.errors import InputError
from unpact_lens.models.asking import Asking
from unpact_lens.models.endpoint import Echo, Endpoint
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.tokens import Encoded, Text


class EndpointScorer:
    """Score families of rows by an endpoint. Units are removed from the *text*, which the endpoint tokenises.

    Args:
        endpoint: Endpoint to ask.

    Attributes:
        model: The endpoint.
        target: Log-probability, the only target of an endpoint.
        whole: Values of the whole prompts scored so far.
        retokenised: Number of rows whose answer the endpoint cut into another number of tokens than the whole
            prompt's. Their sum is spread evenly, so that the mean is over the same number of tokens.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.model, self.target = endpoint, PLAIN["log_prob"]
        self.whole: dict[Encoded, Tensor] = {}
        self.retokenised = 0

    @property
    def settings(self) -> dict[str, Any]:
        """Settings to record with a result."""
        return {
            "endpoint": self.model.url,
            "served_model": self.model.model,
            "shift": self.model.shift,
            "answers_retokenised": self.retokenised,
        }

    def __call__(self, families: Sequence[Family]) -> list[list[Tensor]]:
        """Compute log p of each answer token, nats, for each row of each family; equal rows are requested once."""
        rows = list(dict.fromkeys(row for family in families for row in family))
        echoes = dict(zip(rows, self.model.echo([self.model.text(row.ids) for row in rows]), strict=True))
        results = []
        for family in families:
            first = self._values(echoes[family[0]], family[0])
            results.append([self._like(first, self._values(echoes[row], row)) for row in family])
            self.whole[family[0]] = first
        return results

    def _values(self, echo: Echo, row: Encoded) -> Float[Tensor, " answer"]:
        """Return the log-probabilities of the tokens that overlap the answer."""
        border = len(self.model.text(row.context))
        answer = [
            value for value, (start, end) in zip(echo.log_probs, echo.spans, strict=True)
            if end > border or start >= border
        ]  # fmt: skip
        if not answer or any(value is None for value in answer):
            raise InputError(f"the endpoint gives no log-probability of the answer in {self.model.text(row.ids)!r}")
        return torch.tensor(answer, dtype=torch.float64)

    def _like(self, first: Float[Tensor, " answer"], values: Float[Tensor, " other"]) -> Float[Tensor, " answer"]:
        """Spread a sum over as many tokens as the whole prompt's answer has."""
        if len(values) == len(first):
            return values
        self.retokenised += 1
        return (values.sum() / len(first)).expand_as(first).clone()


def scorer_for(model: HookedModel | Endpoint, target: Target, batch_tokens: int | None) -> Scorer | EndpointScorer:
    """Return the scorer of a model or of an endpoint.

    Raises:
        InputError: If the endpoint cannot compute the target, or `batch_tokens` is given for it.
    """
    if not isinstance(model, Endpoint):
        return Scorer(model, target, batch_tokens)
    if target is not PLAIN["log_prob"]:
        raise InputError(f"an endpoint gives log-probabilities only, not target {target.name!r}; omit target")
    if batch_tokens is not None:
        raise InputError(f"batch_tokens={batch_tokens} has no meaning for an endpoint; set its concurrency=")
    return EndpointScorer(model)


def encode_for(model: HookedModel | Endpoint, prompt: Text, answer: Text, asked: Asking) -> Encoded:
    """Tokenise a prompt and its answer for a model, or cut their text for an endpoint.

    Raises:
        InputError: If an endpoint is given ids, an empty text or a chat template.
    """
    if not isinstance(model, Endpoint):
        return asked.encode(model, prompt, answer)
    for what, value in (("prompt", prompt), ("answer", answer), ("prefill", asked.prefill)):
        if not isinstance(value, str):
            raise InputError(f"an endpoint takes text, not ids; give the {what} as text")
        if not value and what != "prefill":
            raise InputError(f"the {what} is empty; give the text that the endpoint reads")
    if asked.chat:
        raise InputError("chat=True needs the model's tokenizer; write the template into the prompt and give units=")
    if asked.special:
        raise InputError(
            "special=True needs the model's tokenizer; an endpoint reads control tokens as it does; drop it"
        )
    return model.encode(str(prompt), str(answer), str(asked.prefill))
