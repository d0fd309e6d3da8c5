"""Register `unpact_recall`: penalise the answer tokens that are recalled and not copied; see `selective`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unpact_lens.attribution import TopK
from unpact_lens.attribution.units import character_spans
from unpact_lens.scoring import score_rows
from unpact_lens.unlearning.job import Job
from unpact_lens.unlearning.methods.npo import NPO
from unpact_lens.unlearning.registry import Method
from unpact_lens.unlearning.retain_terms import add_with_retain_terms
from unpact_lens.unlearning.selective import (
    KEEP_REST,
    KEYS,
    attributed_questions,
    largest_1,
    on_base_loss,
    selective_ascent,
    selective_npo,
    without_tokens,
)
from unpact_lens.words import WORD


def copied(spans: Sequence[tuple[int, int]], answer: str, words: Iterable[str]) -> Bool[Tensor, " answer"]:
    """Mark the tokens of an answer that lie in one of these words, whatever their case.

    Args:
        spans: First and last character, exclusive, of each token in the answer.
        answer: Text of the answer.
        words: Words to look for, e.g. those of the prompt.
    """
    wanted = {w.casefold() for w in words}
    at = [m.span() for m in WORD.finditer(answer) if m.group().casefold() in wanted]
    return torch.tensor([any(low < e and high > s for s, e in at) for low, high in spans], dtype=torch.bool)


def recalled_weights(
    read: Float[Tensor, " answer"],
    hidden: Float[Tensor, " seen"],
    seen: Bool[Tensor, " answer"],
    copies: Bool[Tensor, " answer"],
) -> Float[Tensor, " answer"]:
    r"""Compute $w_k = \max(0, \log p(y_k | x, y_{<k}) - \log p(y_k | x', y'_{<k}))$, scaled to a maximum of 1.

    $x'$ and $y'$ are prompt and answer without the key words.

    Args:
        read: Log-probabilities of the answer's tokens, nats.
        hidden: Log-probabilities of the tokens that remain when the key words are hidden, nats.
        seen: True on the tokens that remain.
        copies: True on the tokens that the answer copies from the prompt; their weight is 0.

    Returns:
        Weights; all 0 where no token becomes less likely.
    """
    raw = torch.zeros_like(read)
    raw[seen] = (read[seen] - hidden).clamp(min=0)
    raw[copies] = 0
    return largest_1(raw)


def weigh_recalled(job: Job) -> None:
    """Give every answer token of the forget set the weight of what the answer recalls and does not copy.

    Raises:
        InputError: If the forget set is raw text.
    """
    items, found = attributed_questions(job)
    rule = TopK(job.options["key_tokens"], words=True)
    rows, seen, copies = [], [], []
    for row, item, a in zip(job.data.rows, items, found, strict=True):
        answer = row.answer[: len(a.answer_ids)]  # The end token, if any, gets weight 0.
        spans = character_spans(job.before, answer, item.answer, row.answer_spans)
        keys = a.key_tokens(rule)
        echo = copied(spans, item.answer, keys.words)
        heard = tuple(t for t, gone in zip(answer, echo.tolist(), strict=True) if not gone)
        rows.append(dataclasses.replace(without_tokens(row, keys.indices), answer=heard))
        seen.append(~echo)
        copies.append(copied(spans, item.answer, WORD.findall(item.prompt)))
    read = [log_probs[: len(kept)] for log_probs, kept in zip(job.data.log_probs, seen, strict=True)]
    parts = zip(read, score_rows(job.before, rows), seen, copies, strict=True)
    job.data.weights = [recalled_weights(*part).float() for part in parts]


RECALL = Method(
    "unpact_recall",
    "ascent on the answer tokens that get less likely with the key words hidden, likelihood of the rest",
    "base loss with token weights w_k ∝ max(0, log p(y_k | x, y<k) − log p(y_k | x', y'<k)), at most 1, 0 for what is "
    "copied from x, − keep_rest·mean [w_k = 0]·log p",
    "this toolkit, from the first and third findings of arXiv 2509.24675",
    forget=selective_ascent,
    options={**KEYS, **KEEP_REST},
    prepare=weigh_recalled,
    note="x' and y' lack the key_tokens words that contribute most, which are found once, with the original model. For "
    "answers that are sentences and repeat the question; on bare facts it is much like unpact_select.",
)
for _method in (RECALL, on_base_loss(RECALL, "NPO", selective_npo, NPO)):
    add_with_retain_terms(_method, lr={"gdr": 4e-4, "klr": 4e-4})
