"""Compute the perplexity of plain text, a measure of general ability apart from facts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unpact_lens.errors import InputError
from unpact_lens.evaluation.metrics import INFINITY, metric
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.tokens import Encoded, bos_ids, document_ids
from unpact_lens.scoring import score_rows

WINDOW = 512
"""Number of tokens of a text in one forward pass; it bounds the memory of the logits."""


@dataclass(frozen=True)
class TextScores:
    """Hold how well a model predicts some texts.

    Attributes:
        nll: Negative log-likelihood of each text, nats, summed over its tokens.
        tokens: Number of tokens scored in each text. The first token is scored only after a BOS.
    """

    nll: Float[Tensor, " text"]
    tokens: Int[Tensor, " text"]


def score_texts(model: HookedModel, texts: Sequence[str], *, window: int = WINDOW) -> TextScores:
    """Compute the negative log-likelihood of texts, each read from its start in windows that do not overlap.

    Args:
        model: Hooked model with a tokenizer.
        texts: Plain texts.
        window: Number of tokens in a window; the model's context if that is shorter.

    Returns:
        Sum of −log p over each text's tokens, and their number.

    Raises:
        InputError: If a text has no token to predict.
    """
    bos = bos_ids(model)
    width = min(window, model.cfg.n_ctx) - len(bos)
    rows: list[Encoded] = []
    owner: list[int] = []
    for i, text in enumerate(texts):
        _, ids = document_ids(model, text, "plain text")
        before = len(rows)
        for start in range(0, len(ids), width):
            given, scored = _window(bos, ids[start : start + width])
            if scored:
                rows.append(Encoded(given, (), (), scored, len(bos)))
                owner.append(i)
        if len(rows) == before:
            raise InputError(f"plain text {text[:40]!r} has no token to predict; leave it out")
    nll = torch.zeros(len(texts), dtype=torch.double)
    counts = torch.zeros(len(texts), dtype=torch.long)
    for i, log_probs in zip(owner, score_rows(model, rows, batch_tokens=window), strict=True):
        nll[i] -= log_probs.double().sum()
        counts[i] += len(log_probs)
    return TextScores(nll, counts)


def perplexity(nll: Float[Tensor, " text"], tokens: Int[Tensor, " text"]) -> float:
    r"""Compute $\exp\big(\sum \mathrm{NLL} / \sum \mathrm{tokens}\big)$ over all texts; NaN without texts."""
    return float((nll.double().sum() / tokens.sum()).exp()) if len(nll) else float("nan")


def _window(bos: tuple[int, ...], ids: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Split ids into those given and those scored: all after a BOS, or all but the first token without one."""
    return (bos, ids) if bos else (ids[:1], ids[1:])


@metric(
    "perplexity",
    source="exp of the mean negative log-likelihood",
    better="lower",
    bounds=(1.0, INFINITY),
    of="texts",
)
def perplexity_of_texts(texts: TextScores) -> float:
    """Compute the perplexity of the benchmark's plain text."""
    return perplexity(texts.nll, texts.tokens)
