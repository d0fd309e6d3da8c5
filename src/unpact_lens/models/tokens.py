"""Prompt and answer as token ids, under one convention for the whole library.

Prompt and answer are tokenised apart and joined as ids. BOS stands in front where `model.cfg.default_prepend_bos`
says so. With a chat template, only the user's content is the *prompt*; the template's tokens stand around it as `head`
and `tail`. A prefill (the answer's opening, given to the model) is part of `tail`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unpact_lens.errors import InputError

DEFAULT_BATCH_TOKENS = 4096
"""Input tokens in one forward pass, padding included."""

Text = str | Sequence[int] | Tensor
"""A prompt or an answer: text, or token ids (a list of int or a 1-D tensor)."""


@dataclass(frozen=True)
class Encoded:
    """One prompt with one answer, as ids: `head + prompt + tail + answer` is what the model reads.

    Attributes:
        head: BOS, if the model takes one, and what a chat template puts before the content.
        prompt: the ids that can be attributed or removed.
        tail: what a chat template puts after the content, and the prefill.
        answer: the ids that are scored.
        n_bos: 1 if `head` starts with BOS, else 0.
    """

    head: tuple[int, ...]
    prompt: tuple[int, ...]
    tail: tuple[int, ...]
    answer: tuple[int, ...]
    n_bos: int = 0

    @property
    def context(self) -> tuple[int, ...]:
        """All that stands before the answer."""
        return (*self.head, *self.prompt, *self.tail)

    @property
    def ids(self) -> tuple[int, ...]:
        """Context and answer."""
        return (*self.context, *self.answer)

    def without(self, removed: Sequence[int]) -> Encoded:
        """The same with the prompt ids at these indices deleted; nothing is re-tokenised."""
        gone = set(removed)
        prompt = tuple(t for i, t in enumerate(self.prompt) if i not in gone)
        return Encoded(self.head, prompt, self.tail, self.answer, self.n_bos)


def text_ids(model: Any, text: Text, what: str) -> tuple[int, ...]:
    """Ids of a piece of text, no special tokens added; ids are passed through after a check.

    Args:
        model: whose tokenizer and vocabulary count.
        text: text or ids.
        what: how an error calls it, e.g. `"prompt"`.

    Raises:
        InputError: if there is no tokenizer for a text, or an id lies outside the vocabulary.
    """
    if isinstance(text, str):
        if not text:
            return ()
        if model.tokenizer is None:
            raise InputError(f"{what} {text!r} is text, but the model has no tokenizer; pass token ids instead")
        return tuple(model.tokenizer(text, add_special_tokens=False)["input_ids"])
    if isinstance(text, Tensor) and text.ndim != 1:
        raise InputError(f"{what} ids have shape {tuple(text.shape)}; pass a 1-D tensor or a list of int")
    ids = tuple(int(t) for t in text)
    for t in ids:
        if not 0 <= t < model.cfg.d_vocab:
            raise InputError(f"{what} id {t} lies outside the vocabulary (0 to {model.cfg.d_vocab - 1})")
    return ids


def bos_ids(model: Any) -> tuple[int, ...]:
    """`(bos,)` where the model's convention puts BOS in front, else `()`.

    Raises:
        InputError: if the convention asks for a BOS that the tokenizer does not have.
    """
    if not model.cfg.default_prepend_bos or model.tokenizer is None:
        return ()
    bos = model.tokenizer.bos_token_id
    if bos is None:
        raise InputError("cfg.default_prepend_bos is True but the tokenizer has no BOS token; set it to False")
    return (int(bos),)


_CONTENT = "\u241fCONTENT\u241f"


def chat_wrapping(model: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ids that the tokenizer's chat template puts before and after one user message.

    Raises:
        InputError: if the tokenizer has no chat template.
    """
    tokenizer = model.tokenizer
    if tokenizer is None or not getattr(tokenizer, "chat_template", None):
        raise InputError("chat=True, but the model's tokenizer has no chat template; use chat=False")
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": _CONTENT}], tokenize=False, add_generation_prompt=True
    )
    before, after = text.split(_CONTENT)
    return text_ids(model, before, "chat template"), text_ids(model, after, "chat template")


def encode(model: Any, prompt: Text, answer: Text, *, chat: bool = False, prefill: Text = "") -> Encoded:
    """Tokenise a prompt and its answer.

    Args:
        model: a hooked model with its tokenizer.
        prompt: text or ids.
        answer: text, leading space included, or ids.
        chat: wrap the prompt in the tokenizer's chat template.
        prefill: the opening of the answer, given to the model and not scored.

    Returns:
        The ids, apart by what they are.

    Raises:
        InputError: if prompt or answer is empty, an id is outside the vocabulary, all is longer than the model's
            context, or there is no chat template.
    """
    answer_ids = text_ids(model, answer, "answer")
    if not answer_ids:
        raise InputError(
            f"answer {_shown(answer)} is 0 tokens long; give the text (or ids) whose log-probability counts"
        )
    example = encode_context(model, prompt, chat=chat, prefill=prefill)
    encoded = Encoded(example.head, example.prompt, example.tail, answer_ids, example.n_bos)
    if len(encoded.ids) > model.cfg.n_ctx:
        raise InputError(
            f"prompt and answer are {len(encoded.context)} + {len(answer_ids)} = {len(encoded.ids)} tokens, the "
            f"model's context is {model.cfg.n_ctx}; "
            f"shorten the {'answer' if len(answer_ids) > len(encoded.context) else 'prompt'}"
        )
    if not encoded.context:
        raise InputError("nothing stands before the answer; give a prompt, or a model that takes BOS")
    return encoded


def encode_context(model: Any, prompt: Text, *, chat: bool = False, prefill: Text = "") -> Encoded:
    """Like `encode`, for a prompt whose answer is yet to be generated (`answer` is empty).

    Raises:
        InputError: if the prompt is empty or there is no chat template.
    """
    prompt_ids = text_ids(model, prompt, "prompt")
    if not prompt_ids:
        raise InputError(f"prompt {_shown(prompt)} is 0 tokens long; give the text (or ids) that the model reads")
    head, tail = chat_wrapping(model) if chat else ((), ())
    bos = bos_ids(model)
    if bos and head[:1] == bos:
        bos = ()
    n_bos = int(bool(bos) or (bool(head) and head[:1] == bos_ids(model) != ()))
    return Encoded((*bos, *head), prompt_ids, (*tail, *text_ids(model, prefill, "prefill")), (), n_bos)


def token_strings(model: Any, ids: Sequence[int]) -> tuple[str, ...]:
    """Each id decoded by itself; an id that is part of a character shows as the replacement character.

    Without a tokenizer, the ids as text.
    """
    if model.tokenizer is None:
        return tuple(str(t) for t in ids)
    return tuple(model.tokenizer.decode([t], clean_up_tokenization_spaces=False) for t in ids)


def pad_right(rows: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> Tensor:
    """Rows of ids as one `[batch, pos]` tensor, filled up on the right with zeros (never read by what is scored)."""
    width = max(len(r) for r in rows)
    return torch.tensor([[*r, *([0] * (width - len(r)))] for r in rows], dtype=torch.long, device=device)


def length_batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Indices in batches of like length, each at most `batch_tokens` tokens with its padding; never an empty batch.

    >>> list(length_batches([3, 9, 3, 2], batch_tokens=9))
    [[3, 0, 2], [1]]
    """
    if batch_tokens < 1:
        raise InputError(f"batch_tokens={batch_tokens}; give a positive number of tokens")
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if batch and (len(batch) + 1) * lengths[i] > batch_tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _shown(text: Text) -> str:
    return repr(text) if isinstance(text, str) else f"of {len(text)} ids"
