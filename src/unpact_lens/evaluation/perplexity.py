"""Perplexity of plain text: general ability, apart from facts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unpact_lens.errors import InputError
from unpact_lens.models.tokens import Encoded, bos_ids, text_ids
from unpact_lens.scoring import score_rows

WINDOW = 512
"""Tokens of a text that are read at once; bounds the memory that the logits take."""


@dataclass(frozen=True)
class TextScores:
    """How well a model predicts some texts.

    Attributes:
        nll: negative log-likelihood of each text, nats, summed over its tokens.
        tokens: how many tokens that is; the first of a text counts only after a BOS.
    """

    nll: Float[Tensor, " text"]
    tokens: Int[Tensor, " text"]


def score_texts(model: Any, texts: Sequence[str], *, window: int = WINDOW) -> TextScores:
    """Negative log-likelihood of texts, each read from its start in windows that do not overlap.

    Args:
        model: a hooked model with a tokenizer.
        texts: plain texts.
        window: tokens of a window; the model's context if that is shorter.

    Returns:
        Sum of −log p over each text's tokens, and their number.

    Raises:
        InputError: if a text has no token to predict.
    """
    bos = bos_ids(model)
    width = min(window, model.cfg.n_ctx) - len(bos)
    rows: list[Encoded] = []
    owner: list[int] = []
    for i, text in enumerate(texts):
        ids = text_ids(model, text, "plain text")
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
    r"""$\exp\big(\sum \mathrm{NLL} / \sum \mathrm{tokens}\big)$ over all texts; NaN of no text."""
    return float((nll.double().sum() / tokens.sum()).exp()) if len(nll) else float("nan")


def _window(bos: tuple[int, ...], ids: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What is given and what is scored: all after a BOS, all but the first token without one."""
    return (bos, ids) if bos else (ids[:1], ids[1:])
