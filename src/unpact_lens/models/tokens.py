"""Tokenise prompts and answers under one convention for the whole library.

All texts that a model reads one after the other (the chat template's, prompt, answer prefix, answer) are tokenised as
one text, and the ids of each are cut out of it; see `joint_tokens`. Parts that are given as ids are kept as they are.
BOS comes first, once, if `model.cfg.default_prepend_bos` is True, whether or not the texts or ids bring one. With a
chat template, only the user's content is the *prompt*. The template's tokens before and after it are `head` and `tail`.
An answer prefix (`prefill`) is part of `tail`.

Control tokens in a user's text, such as `<|im_start|>`, are read as text unless `special=True`. A BOS at the very
beginning of a text is one all the same, where the model takes BOS.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from torch import Tensor

from unpact_lens.data.chat import Chat, read_chat
from unpact_lens.errors import InputError
from unpact_lens.models.chat_template import wrapped
from unpact_lens.models.hooked import HookedModel, Tokenizer
from unpact_lens.models.joint_tokens import SharedToken, Span, cut_jointly, ids_after, plain_ids

Text = str | Sequence[int] | Tensor
"""A prompt or an answer: text, or token ids (a list of int or a 1-D tensor)."""

Part = str | tuple[int, ...]
"""One part of an input: text, or ids that are kept as they are."""

TEMPLATE = "chat template"
NAMES = ("chat template before the prompt", "prompt", "chat template after the prompt", "prefill", "answer")
"""Parts of an input, in their order, as messages name them."""


class SharedTokenWarning(UserWarning):
    """Warn that a token holds characters of two parts of the input, so that the border between them moved."""


@dataclass(frozen=True)
class Encoded:
    """Hold the ids of one prompt and one answer; the model reads `head + prompt + tail + answer`.

    Two examples with the same ids are equal.

    Attributes:
        head: BOS, if the model takes one, and the chat template's tokens before the content.
        prompt: Ids that can be attributed or removed.
        tail: Chat template's tokens after the content, and the answer prefix.
        answer: Ids that are scored.
        n_bos: 1 if `head` starts with BOS, else 0.
        prompt_spans: Characters of each prompt token in the prompt's text. None if the prompt was given as ids.
        answer_spans: Characters of each answer token in the answer's text. None if the answer was given as ids.
        parts: What comes before the answer, as texts or ids: template, prompt, template, prefill. Another answer is
            tokenised together with them. None if ids were removed or replaced.
        skipped: Number of characters of the prompt's text before `parts[1]`: a BOS, or white space that the template
            trims.
        notes: Notes for the reader, e.g. that a border between parts lies inside a token.
        special: Whether control tokens in the user's texts were read as such.
    """

    head: tuple[int, ...]
    prompt: tuple[int, ...]
    tail: tuple[int, ...]
    answer: tuple[int, ...]
    n_bos: int = 0
    prompt_spans: tuple[Span, ...] | None = field(default=None, compare=False, repr=False)
    answer_spans: tuple[Span, ...] | None = field(default=None, compare=False, repr=False)
    parts: tuple[Part, ...] | None = field(default=None, compare=False, repr=False)
    skipped: int = field(default=0, compare=False, repr=False)
    notes: tuple[str, ...] = field(default=(), compare=False, repr=False)
    special: bool = field(default=False, compare=False, repr=False)

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
    """Return the ids of a text by itself, without special tokens; check and return ids that are given as ids.

    For a text that follows another one, use `encode` or `continuation_ids`. Control tokens in the text are text.

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
        return _checked(model, plain_ids(_tokenizer(model, text, what), text, literal=True), what)
    _check_form(text, what)
    return _checked(model, tuple(int(t) for t in text), what)


def continuation_ids(model: HookedModel, text: Text, what: str) -> tuple[int, ...]:
    """Return the ids of a text as they are inside a longer text, without the "▁" that some tokenizers put first.

    Args:
        model: Model whose tokenizer and vocabulary are used.
        text: Text or ids.
        what: Name of the text in error messages.

    Raises:
        InputError: As `text_ids`.
    """
    if not isinstance(text, str) or not text:
        return text_ids(model, text, what)
    return _checked(model, ids_after(_tokenizer(model, text, what), (), [text], [True]).ids[0], what)


def document_ids(model: HookedModel, text: Text, what: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return BOS, if the model takes one, and the ids of a whole text, which may bring its own BOS.

    Args:
        model: Model whose tokenizer and vocabulary are used.
        text: Text or ids.
        what: Name of the text in error messages.

    Returns:
        `(bos,)` or `()`, and the ids after it.

    Raises:
        InputError: As `text_ids` and `bos_ids`.
    """
    bos = bos_ids(model)
    if isinstance(text, str):
        return bos, text_ids(model, _without_bos(model, text), what)
    ids = text_ids(model, text, what)
    return bos, ids[1:] if bos and ids[:1] == bos else ids


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


def encode(
    model: HookedModel, prompt: Text, answer: Text, *, chat: Chat = False, prefill: Text = "", special: bool = False
) -> Encoded:
    """Tokenise a prompt and its answer as one text.

    Args:
        model: Hooked model with its tokenizer.
        prompt: Text or ids.
        answer: Text, leading space included, or ids.
        chat: Wrap the prompt in the tokenizer's chat template; a mapping gives the template's options.
        prefill: Answer prefix, given to the model and not scored.
        special: Read control tokens in prompt, prefill and answer as such; if False, they are text.

    Returns:
        The ids of each part. Where a token holds characters of two parts, it belongs to the second, with a note and a
        `SharedTokenWarning`.

    Raises:
        InputError: If prompt or answer is empty, an id is outside the vocabulary, the input is longer than the
            model's context, there is no chat template, or the template fails or changes the prompt.
    """
    if not len(answer):
        raise _no_answer(answer)
    encoded = _encoded(model, prompt, chat, prefill, answer, special)
    if not encoded.answer:
        raise _no_answer(answer)
    check_length(model, encoded)
    if not encoded.context:
        raise InputError("there is no token before the answer; give a prompt, or a model that takes BOS")
    return encoded


def encode_context(
    model: HookedModel, prompt: Text, *, chat: Chat = False, prefill: Text = "", special: bool = False
) -> Encoded:
    """Tokenise a prompt whose answer will be generated, as `encode` does; the result's `answer` is empty.

    Raises:
        InputError: If the prompt is empty, there is no chat template, or the template fails or changes the prompt.
    """
    return _encoded(model, prompt, chat, prefill, (), special)


def with_answer(model: HookedModel, example: Encoded, answer: Text, what: str = "answer") -> Encoded:
    """Return the same input with another answer: a foil, a refusal, an alternative.

    The answer is tokenised together with the input's texts, so a token that both share may belong to it.

    Args:
        model: Hooked model with its tokenizer.
        example: Tokenised prompt and answer.
        answer: Text or ids of the other answer.
        what: Kind of answer, for error messages.

    Raises:
        InputError: If an id is outside the vocabulary.
    """
    if not isinstance(answer, str):
        ids = text_ids(model, answer, what)
        return dataclasses.replace(example, answer=ids, answer_spans=None)
    if not answer:
        return dataclasses.replace(example, answer=(), answer_spans=())
    if example.parts is None:
        cut = ids_after(_tokenizer(model, answer, what), example.context, [answer], [not example.special])
        return dataclasses.replace(example, answer=_checked(model, cut.ids[0], what), answer_spans=cut.spans[0])
    names = (*NAMES[:-1], what)
    return _assembled(model, example.parts, answer, names, skipped=example.skipped, special=example.special)


def foil_ids(model: HookedModel, example: Encoded, foil: Text) -> tuple[int, ...]:
    """Return the ids of a foil in the place of an example's answer.

    Args:
        model: Hooked model with its tokenizer.
        example: Tokenised prompt and answer.
        foil: Text or ids.

    Raises:
        InputError: If the foil changes the tokens before it, or an id is outside the vocabulary.
    """
    other = with_answer(model, example, foil, "foil")
    if other.context != example.context:
        raise InputError(
            f"the foil {_shown(foil)} shares a token with the text before it, so it has another context than the "
            "answer; begin the foil with white space, or give answer and foil as ids"
        )
    return other.answer


def check_length(model: HookedModel, encoded: Encoded) -> None:
    """Refuse an input that is longer than the model's context.

    Raises:
        InputError: If it is. The message says what to shorten.
    """
    context, answer = len(encoded.context), len(encoded.answer)
    if context + answer > model.cfg.n_ctx:
        raise InputError(
            f"prompt and answer are {context} + {answer} = {context + answer} tokens, the model's context is "
            f"{model.cfg.n_ctx}; shorten the {'answer' if answer > context else 'prompt'}"
        )


def token_strings(model: HasTokenizer, ids: Sequence[int]) -> tuple[str, ...]:
    """Decode each id by itself, or return the ids as text if the model has no tokenizer.

    An id that is part of a character gives the replacement character.
    """
    tokenizer = model.tokenizer
    if tokenizer is None:
        return tuple(str(t) for t in ids)
    return tuple(tokenizer.decode([t], clean_up_tokenization_spaces=False) for t in ids)


def _encoded(model: HookedModel, prompt: Text, chat: Chat, prefill: Text, answer: Text, special: bool) -> Encoded:
    """Tokenise the parts of an input; see `encode`."""
    for part, what in ((prompt, "prompt"), (prefill, "prefill"), (answer, "answer")):
        _check_form(part, what)
    if not len(prompt):
        raise _no_prompt(prompt)
    chat = read_chat(chat)
    given = prompt if isinstance(prompt, str) else text_ids(model, prompt, "prompt")
    notes: tuple[str, ...] = ()
    before, inside, after, skipped = "", given, "", 0
    if chat is not False:
        found = wrapped(model.tokenizer, given if isinstance(given, str) else None, chat)
        before, after, notes = found.before, found.after, found.notes
        for note in notes:
            warnings.warn(note, stacklevel=4)
        if isinstance(given, str):
            inside = found.content
            skipped = given.index(inside)
            notes += ("the chat template leaves out white space around the prompt",) * (inside != given)
    elif isinstance(given, str):
        inside = _without_bos(model, given)
        skipped = len(given) - len(inside)
    last = prefill if isinstance(prefill, str) else text_ids(model, prefill, "prefill")
    encoded = _assembled(model, (before, inside, after, last), answer, NAMES, skipped=skipped, special=special)
    if not encoded.prompt and not encoded.notes:
        raise _no_prompt(prompt)
    return dataclasses.replace(encoded, notes=(*notes, *encoded.notes))


def _assembled(
    model: HookedModel, parts: Sequence[Part], answer: Text, names: Sequence[str], *, skipped: int, special: bool
) -> Encoded:
    """Tokenise the parts of an input and its answer, and put BOS first if the model takes one.

    Args:
        model: Model whose tokenizer and vocabulary are used.
        parts: Template, prompt, template, prefill.
        answer: Text or ids.
        names: Names of the five parts in messages.
        skipped: Number of characters of the prompt's text before its part.
        special: Read control tokens in the texts that are no template's as such.
    """
    scored = answer if isinstance(answer, str) else text_ids(model, answer, names[-1])
    ids, spans, shared = _tokenised(model, (*parts, scored), names, special)
    head, prompt, *tail, answered = ids
    prompt_spans, answer_spans = spans[1], spans[-1]
    bos = bos_ids(model)
    if bos and not head and prompt[:1] == bos:
        head, prompt, prompt_spans = bos, prompt[1:], None if prompt_spans is None else prompt_spans[1:]
    elif bos and head[:1] != bos:
        head = (*bos, *head)
    if prompt_spans is not None:
        prompt_spans = tuple((a + skipped, b + skipped) for a, b in prompt_spans)
    return Encoded(
        head,
        prompt,
        tuple(t for part in tail for t in part),
        answered,
        len(bos),
        prompt_spans=prompt_spans,
        answer_spans=answer_spans,
        parts=tuple(parts),
        skipped=skipped,
        notes=_shared_notes(shared, names),
        special=special,
    )


def _tokenised(
    model: HookedModel, parts: Sequence[Part], names: Sequence[str], special: bool
) -> tuple[list[tuple[int, ...]], list[tuple[Span, ...] | None], list[SharedToken]]:
    """Tokenise each run of texts as one, after the ids before it, and return ids and characters of each part."""
    ids: list[tuple[int, ...]] = [() if isinstance(part, str) else part for part in parts]
    spans: list[tuple[Span, ...] | None] = [() if isinstance(part, str) else None for part in parts]
    shared: list[SharedToken] = []
    for run in _runs(parts):
        texts = [str(parts[i]) for i in run]
        tokenizer = _tokenizer(model, *next((t, names[i]) for t, i in zip(texts, run, strict=True) if t))
        before = tuple(t for part in ids[: run[0]] for t in part)
        literal = [not special and TEMPLATE not in names[i] for i in run]
        cut = ids_after(tokenizer, before, texts, literal) if before else cut_jointly(tokenizer, texts, literal)
        for i, own, where in zip(run, cut.ids, cut.spans, strict=True):
            ids[i], spans[i] = _checked(model, own, names[i]), where
        shared += [SharedToken(run[s.first], run[s.owner], s.text) for s in cut.shared]
    return ids, spans, shared


def _runs(parts: Sequence[Part]) -> list[list[int]]:
    """Return the indices of texts that follow each other without ids between them; empty parts are left out."""
    runs: list[list[int]] = [[]]
    for i, part in enumerate(parts):
        if isinstance(part, str) and part:
            runs[-1].append(i)
        elif part:
            runs.append([])
    return [run for run in runs if run]


def _shared_notes(shared: Sequence[SharedToken], names: Sequence[str]) -> tuple[str, ...]:
    """Describe tokens that hold characters of two parts, and warn of them."""
    notes = []
    for s in shared:
        first, owner = names[s.first], names[s.owner]
        notes.append(
            f"the token {s.text!r} holds the end of the {first} and the beginning of the {owner}; it counts as {owner}"
        )
        if TEMPLATE in first or TEMPLATE in owner:  # the user cannot move this border
            continue
        # The text names no token, so that Python shows it once.
        warnings.warn(
            f"a token holds the end of the {first} and the beginning of the {owner}, and counts as {owner}; `notes` of "
            f"the result name such tokens. White space at the end of the {first} is the usual cause: put it at the "
            f"beginning of the {owner}",
            SharedTokenWarning,
            stacklevel=2,
        )
    return tuple(notes)


def _tokenizer(model: HookedModel, text: str, what: str) -> Tokenizer:
    """Return the model's tokenizer.

    Raises:
        InputError: If it has none.
    """
    if model.tokenizer is None:
        raise InputError(f"{what} {text!r} is text, but the model has no tokenizer; pass token ids instead")
    return model.tokenizer


def _check_form(text: Text, what: str) -> None:
    """Refuse text that no tokenizer reads, and ids that are no list of whole numbers.

    Raises:
        InputError: If a text holds half a character, a tensor has not one axis, or an id is no whole number.
    """
    if isinstance(text, str):
        if any("\ud800" <= c <= "\udfff" for c in text):
            raise InputError(f"the {what} {text[:60]!r} holds a lone surrogate, which is no character; decode it again")
        return
    if isinstance(text, Tensor) and (text.ndim != 1 or text.is_floating_point()):
        kind = f"shape {tuple(text.shape)} and type {str(text.dtype).removeprefix('torch.')}"
        raise InputError(f"{what} ids have {kind}; pass a 1-D tensor of whole numbers or a list of int")
    if not isinstance(text, Tensor) and (odd := [t for t in text if not hasattr(t, "__index__")]):
        raise InputError(f"{what} ids hold {odd[0]!r}, which is no whole number; pass a list of int")


def _checked(model: HookedModel, ids: tuple[int, ...], what: str) -> tuple[int, ...]:
    """Return ids that all have a row in the embedding.

    Raises:
        InputError: If one has none.
    """
    for t in ids:
        if not 0 <= t < model.cfg.d_vocab:
            raise InputError(
                f"{what} id {t} lies outside the vocabulary (0 to {model.cfg.d_vocab - 1}); a token that was added to "
                "the tokenizer needs a row in the embedding: model.resize_token_embeddings(len(tokenizer))"
            )
    return ids


def _without_bos(model: HookedModel, text: str) -> str:
    """Return a text without the BOS that it begins with, where the model takes one; BOS is added later."""
    if not bos_ids(model):
        return text
    return text.removeprefix(str(getattr(model.tokenizer, "bos_token", None) or ""))


def _no_answer(answer: Text) -> InputError:
    return InputError(f"answer {_shown(answer)} is 0 tokens long; give the text (or ids) whose log-probability counts")


def _no_prompt(prompt: Text) -> InputError:
    return InputError(f"prompt {_shown(prompt)} is 0 tokens long; give the text (or ids) that the model reads")


def _shown(text: Text) -> str:
    return repr(text) if isinstance(text, str) else f"of {len(text)} ids"
