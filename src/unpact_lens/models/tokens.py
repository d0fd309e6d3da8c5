"""Tokenise prompts and answers under one convention for the whole library.

Prompt and answer are tokenised separately and joined as ids. BOS comes first if `model.cfg.default_prepend_bos` is
True. With a chat template, only the user's content is the *prompt*. The template's tokens before and after it are
`head` and `tail`. An answer prefix (`prefill`) is part of `tail`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from unpact_lens.errors import InputError
from unpact_lens.models.hooked import HookedModel, Tokenizer

DEFAULT_BATCH_TOKENS = 4096
"""Default for the largest number of input tokens in one forward pass, padding included."""

Text = str | Sequence[int] | Tensor
"""A prompt or an answer: text, or token ids (a list of int or a 1-D tensor)."""


@dataclass(frozen=True)
class Encoded:
    """Hold the ids of one prompt and one answer; the model reads `head + prompt + tail + answer`.

    Attributes:
        head: BOS, if the model takes one, and the chat template's tokens before the content.
        prompt: Ids that can be attributed or removed.
        tail: Chat template's tokens after the content, and the answer prefix.
        answer: Ids that are scored.
        n_bos: 1 if `head` starts with BOS, else 0.
    """

    head: tuple[int, ...]
    prompt: tuple[int, ...]
    tail: tuple[int, ...]
    answer: tuple[int, ...]
    n_bos: int = 0

    @property
    def context(self) -> tuple[int, ...]:
        """All ids before the answer."""
        return (*self.head, *self.prompt, *self.tail)

    @property
    def ids(self) -> tuple[int, ...]:
        """All ids: context and answer."""
        return (*self.context, *self.answer)

    def without(self, removed: Sequence[int]) -> Encoded:
        """Return a copy without the prompt ids at these indices; nothing is tokenised again."""
        gone = set(removed)
        prompt = tuple(t for i, t in enumerate(self.prompt) if i not in gone)
        return Encoded(self.head, prompt, self.tail, self.answer, self.n_bos)


@runtime_checkable
class HasTokenizer(Protocol):
    """A model or an endpoint: anything that decodes token ids."""

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer, or None for a model that takes token ids only."""
        ...


def text_ids(model: HookedModel, text: Text, what: str) -> tuple[int, ...]:
    """Return the ids of a text without special tokens; check and return ids that are given as ids.

    Args:
        model: Model whose tokenizer and vocabulary are used.
        text: Text or ids.
        what: Name of the text in error messages, e.g. `"prompt"`.

    Raises:
        InputError: If a text is given and the model has no tokenizer, or an id is outside the vocabulary.
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


def bos_ids(model: HookedModel) -> tuple[int, ...]:
    """Return `(bos,)` if `model.cfg.default_prepend_bos` is True, else `()`.

    Raises:
        InputError: If the tokenizer has no BOS token although the configuration asks for one.
    """
    if not model.cfg.default_prepend_bos or model.tokenizer is None:
        return ()
    bos = model.tokenizer.bos_token_id
    if bos is None:
        raise InputError("cfg.default_prepend_bos is True but the tokenizer has no BOS token; set it to False")
    return (int(bos),)


def rendered(tokenizer: Tokenizer, turns: list[dict[str, str]], **options: object) -> str:
    """Write a conversation with the tokenizer's chat template.

    Raises:
        InputError: If the template fails, or writes no text.
    """
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False, **options)
    except Exception as error:  # a template is a program: it fails in any way
        why = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"the chat template of the tokenizer fails ({why}); mend it, or use chat=False") from None
    if not isinstance(text, str):
        raise InputError(f"the chat template of the tokenizer writes {type(text).__name__}, not text; use chat=False")
    return text


_CONTENT = "\u241fCoNtEnT\u241f"  # mixed case shows a template that changes the case


def chat_wrapping(model: HookedModel) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the ids that the tokenizer's chat template puts before and after one user message.

    Raises:
        InputError: If the tokenizer has no chat template, it fails, or it does not contain the message exactly once.
    """
    tokenizer = model.tokenizer
    if tokenizer is None or not getattr(tokenizer, "chat_template", None):
        raise InputError("chat=True, but the model's tokenizer has no chat template; use chat=False")
    text = rendered(tokenizer, [{"role": "user", "content": _CONTENT}], add_generation_prompt=True)
    before, *rest = text.split(_CONTENT)
    if len(rest) != 1:
        raise InputError(
            f"the chat template contains the user's message {len(rest)} times unchanged, and must contain it once; "
            "mend tokenizer.chat_template, or use chat=False"
        )
    after = rest[0]
    return text_ids(model, before, "chat template"), text_ids(model, after, "chat template")


def encode(model: HookedModel, prompt: Text, answer: Text, *, chat: bool = False, prefill: Text = "") -> Encoded:
    """Tokenise a prompt and its answer.

    Args:
        model: Hooked model with its tokenizer.
        prompt: Text or ids.
        answer: Text, leading space included, or ids.
        chat: Wrap the prompt in the tokenizer's chat template.
        prefill: Answer prefix, given to the model and not scored.

    Returns:
        The ids of each part.

    Raises:
        InputError: If prompt or answer is empty, an id is outside the vocabulary, the input is longer than the
            model's context, or there is no chat template.
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
        raise InputError("there is no token before the answer; give a prompt, or a model that takes BOS")
    return encoded


def encode_context(model: HookedModel, prompt: Text, *, chat: bool = False, prefill: Text = "") -> Encoded:
    """Tokenise a prompt whose answer will be generated, as `encode` does; the result's `answer` is empty.

    Raises:
        InputError: If the prompt is empty or there is no chat template.
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


def token_strings(model: HasTokenizer, ids: Sequence[int]) -> tuple[str, ...]:
    """Decode each id by itself, or return the ids as text if the model has no tokenizer.

    An id that is part of a character gives the replacement character.
    """
    tokenizer = model.tokenizer
    if tokenizer is None:
        return tuple(str(t) for t in ids)
    return tuple(tokenizer.decode([t], clean_up_tokenization_spaces=False) for t in ids)


def pad_right(rows: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> Tensor:
    """Return rows of ids as one `[batch, pos]` tensor, padded on the right with zeros (never seen by scored tokens)."""
    width = max(len(r) for r in rows)
    return torch.tensor([[*r, *([0] * (width - len(r)))] for r in rows], dtype=torch.long, device=device)


def length_batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Yield batches of indices, sorted by length, of at most `batch_tokens` tokens each, padding included.

    An item that is longer than `batch_tokens` is a batch by itself.

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
