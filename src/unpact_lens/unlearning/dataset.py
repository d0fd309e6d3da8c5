"""From questions and raw text to the token ids that training reads, and the order in which it reads them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from unpact_lens.data.benchmark import QA, Corpus
from unpact_lens.errors import InputError
from unpact_lens.models.tokens import Encoded, bos_ids, encode, text_ids
from unpact_lens.unlearning.settings import Settings

Source = Sequence[QA] | Corpus
"""What is forgotten or kept: questions with answers, or raw text."""


def examples(model: Any, source: Source, settings: Settings, what: str) -> list[Encoded]:
    """Token ids of every training example.

    Args:
        model: whose tokenizer and context count.
        source: questions (the loss is on answers only) or raw text (the loss is on every token).
        settings: phrasings, chat template and prefill.
        what: `"forget"` or `"retain"`, for errors.

    Returns:
        One row for each phrasing of each question, or each chunk of each text.

    Raises:
        InputError: if there is nothing, or an example does not fit the model's context; the message names it.
    """
    if isinstance(source, Corpus):
        return chunks(model, source, what, settings.chunk_tokens)
    if not source:
        raise InputError(f"the {what} set is empty; give at least one QA")
    rows = []
    for i, qa in enumerate(source):
        prompts = (qa.prompt, *qa.paraphrases) if settings.phrasings == "all" else (qa.prompt,)
        prefill = settings.prefill.replace("{subject}", qa.subject)
        for prompt in prompts:
            try:
                rows.append(encode(model, prompt, qa.answer, chat=settings.chat, prefill=prefill))
            except InputError as error:
                raise InputError(f"{what} item {qa.id or i}: {error}") from None
    return rows


def owners(source: Source, settings: Settings) -> list[int]:
    """For each row that `examples` makes of questions, the index of its question; empty for raw text."""
    if isinstance(source, Corpus):
        return []
    every = settings.phrasings == "all"
    return [i for i, qa in enumerate(source) for _ in range(1 + len(qa.paraphrases) * every)]


def chunks(model: Any, corpus: Corpus, what: str, tokens: int) -> list[Encoded]:
    """Raw text cut into pieces; every token but the first of a piece (the BOS, where there is one) is scored.

    Args:
        model: whose tokenizer and context count.
        corpus: the texts; a piece never spans two of them.
        what: `"forget"` or `"retain"`, for errors.
        tokens: length of a piece, BOS included; cut to the model's context.

    Returns:
        One row for each piece of at least two tokens.

    Raises:
        InputError: if no text has two tokens.
    """
    bos = bos_ids(model)
    room = min(model.cfg.n_ctx, tokens) - len(bos)
    rows = []
    for text in corpus.texts:
        ids = text_ids(model, text, f"{what} text")
        for start in range(0, len(ids), room):
            piece = ids[start : start + room]
            context, answer = (bos, piece) if bos else (piece[:1], piece[1:])
            if answer:
                rows.append(Encoded(context, (), (), answer, len(bos)))
    if not rows:
        raise InputError(f"the {what} corpus {corpus.name!r} holds no text; give at least one document of two tokens")
    return rows


def check_overlap(forget: Source, retain: Source) -> None:
    """Warn where the same is to be forgotten and kept.

    Raises:
        InputError: if every forget item stands in the retain set.
    """
    kept, gone = _keys(retain), _keys(forget)
    both = len(gone & kept)
    if both == len(gone):
        raise InputError(f"all {both} forget items stand in the retain set as well; give a retain set without them")
    if both:
        warnings.warn(
            f"{both} of {len(gone)} forget items stand in the retain set as well; they are pulled both ways",
            stacklevel=3,
        )


def _keys(source: Source) -> set[tuple[str, ...]]:
    return {(t,) for t in source.texts} if isinstance(source, Corpus) else {(q.prompt, q.answer) for q in source}


def draw_order(n: int, steps: int, batch: int, generator: torch.Generator) -> Int[Tensor, "step batch"]:
    """Which examples each step reads: pass after pass over all of them, each in a fresh random order.

    Args:
        n: how many examples there are.
        steps: optimiser steps.
        batch: examples a step; cut to `n`, so that no step reads an example twice unless a pass ends within it.
        generator: decides the order.
    """
    batch = min(batch, n)
    passes = -(-steps * batch // n)
    order = torch.cat([torch.randperm(n, generator=generator) for _ in range(passes)])
    return order[: steps * batch].reshape(steps, batch)
