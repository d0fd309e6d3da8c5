"""Turn questions and raw text into the token ids that training reads, and draw the order in which it reads them."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from unpact_lens.data.benchmark import QA, Corpus
from unpact_lens.errors import InputError
from unpact_lens.models.answer_end import end_of_answer
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.tokens import Encoded, bos_ids, document_ids, encode
from unpact_lens.unlearning.settings import Settings

Source = Sequence[QA] | Corpus
"""Data to forget or to keep: questions with answers, or raw text."""


def examples(model: HookedModel, source: Source, settings: Settings, what: str) -> list[Encoded]:
    """Tokenise every training example.

    Args:
        model: Model whose tokenizer and context length are used.
        source: Questions (the loss is on answers and their end token only) or raw text (the loss is on every token).
        settings: Phrasings, chat template, prefill and length of a chunk.
        what: Name of the data set in error messages: `"forget"` or `"retain"`.

    Returns:
        One row for each phrasing of each question, or each chunk of each text.

    Raises:
        InputError: If the set is empty, or an example does not fit the model's context. The message names it.
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
                row = encode(model, prompt, qa.answer, chat=settings.chat, prefill=prefill)
                rows.append(dataclasses.replace(row, answer=ended(model, row.answer, settings)))
            except InputError as error:
                raise InputError(f"{what} item {qa.id or i}: {error}") from None
    return rows


def ended(model: HookedModel, answer: Sequence[int], settings: Settings) -> tuple[int, ...]:
    """Return an answer's ids with the token that ends it, once, unless `settings.end_token` is False.

    Without that label, training changes where answers end although no loss says so, and answers run on.

    Args:
        model: Model whose end token is used. Without one, the answer is unchanged.
        answer: Ids of the answer.
        settings: `end_token`, and `chat`, because a chat template may end answers with a token of its own.
    """
    end = None if settings.end_token is False else end_of_answer(model, chat=settings.chat)
    return tuple(answer) if end is None or tuple(answer[-1:]) == (end,) else (*answer, end)


def owners(source: Source, settings: Settings) -> list[int]:
    """Return, for each row that `examples` makes of questions, the index of its question; for raw text, nothing."""
    if isinstance(source, Corpus):
        return []
    every = settings.phrasings == "all"
    return [i for i, qa in enumerate(source) for _ in range(1 + len(qa.paraphrases) * every)]


def chunks(model: HookedModel, corpus: Corpus, what: str, tokens: int) -> list[Encoded]:
    """Cut raw text into chunks. Every token of a chunk but its first (BOS, where there is one) is scored.

    Args:
        model: Model whose tokenizer and context length are used.
        corpus: Texts. A chunk never spans two of them.
        what: Name of the data set in error messages: `"forget"` or `"retain"`.
        tokens: Length of a chunk, BOS included; at most the model's context length.

    Returns:
        One row for each chunk of at least two tokens.

    Raises:
        InputError: If no text has two tokens.
    """
    bos = bos_ids(model)
    room = min(model.cfg.n_ctx, tokens) - len(bos)
    rows = []
    for text in corpus.texts:
        _, ids = document_ids(model, text, f"{what} text")
        for start in range(0, len(ids), room):
            piece = ids[start : start + room]
            context, answer = (bos, piece) if bos else (piece[:1], piece[1:])
            if answer:
                rows.append(Encoded(context, (), (), answer, len(bos)))
    if not rows:
        raise InputError(f"the {what} corpus {corpus.name!r} holds no text; give at least one document of two tokens")
    return rows


def check_overlap(forget: Source, retain: Source) -> None:
    """Warn if the same item is to be forgotten and kept.

    Raises:
        InputError: If every forget item is in the retain set.
    """
    kept, gone = _keys(retain), _keys(forget)
    both = len(gone & kept)
    if both == len(gone):
        raise InputError(f"all {both} forget items are in the retain set as well; give a retain set without them")
    if both:
        warnings.warn(
            f"{both} of {len(gone)} forget items are in the retain set as well; they are pulled both ways",
            stacklevel=3,
        )


def _keys(source: Source) -> set[tuple[str, ...]]:
    """Return what identifies each item."""
    return {(t,) for t in source.texts} if isinstance(source, Corpus) else {(q.prompt, q.answer) for q in source}


def draw_order(n: int, steps: int, batch: int, generator: torch.Generator) -> Int[Tensor, "step batch"]:
    """Draw the examples that each step reads: pass after pass over all examples, each in a new random order.

    Args:
        n: Number of examples.
        steps: Number of optimiser steps.
        batch: Number of examples in one step, at most `n`. A step reads an example twice only if a pass ends within it.
        generator: Source of randomness.
    """
    batch = min(batch, n)
    passes = -(-steps * batch // n)
    order = torch.cat([torch.randperm(n, generator=generator) for _ in range(passes)])
    return order[: steps * batch].reshape(steps, batch)
