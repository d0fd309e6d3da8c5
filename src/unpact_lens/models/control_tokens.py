"""Read control tokens in a user's text as text: `<|im_start|>` in a prompt opens no turn of a conversation.

Control tokens are what the tokenizer calls *special*. A text that holds none of them is tokenised as usual. Otherwise
the parts that a user wrote are tokenised without them (`split_special_tokens=True` in transformers), and those of the
chat template with them.
"""

from __future__ import annotations

import re
import unicodedata
import weakref
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol, runtime_checkable

import tokenizers

from unpact_lens.errors import InputError
from unpact_lens.models.hooked import Tokenizer

_STAND_IN = 0x100000
"""First of the private characters that stand for control tokens."""


@runtime_checkable
class TellsControlTokens(Protocol):
    """The part of a Hugging Face tokenizer that names its control tokens."""

    @property
    def added_tokens_decoder(self) -> dict[int, tokenizers.AddedToken]: ...  # noqa: D102
    @property
    def backend_tokenizer(self) -> tokenizers.Tokenizer: ...  # noqa: D102


@dataclass(frozen=True)
class ControlTokens:
    """Hold the control tokens of a tokenizer.

    Attributes:
        ids: Id of each, by how it is written, longest first.
        pattern: Finds the longest that begins at a character.
        anywhere: The same, whatever the case: some tokenizers lower it first.
        firsts: Characters that one begins with, in both cases.
    """

    ids: dict[str, int]
    pattern: re.Pattern[str]
    anywhere: re.Pattern[str]
    firsts: frozenset[str]

    def may_be_in(self, text: str) -> bool:
        """Return whether the tokenizer may find a control token in a text."""
        shown = (text, unicodedata.normalize("NFKC", text))
        return any(self.firsts.intersection(t) and self.anywhere.search(t) for t in shown)


_KNOWN: weakref.WeakKeyDictionary[Tokenizer, tuple[object, ControlTokens | None]] = weakref.WeakKeyDictionary()
"""Control tokens of each tokenizer, with the state that they belong to."""


def control_tokens(tokenizer: Tokenizer) -> ControlTokens | None:
    """Return the control tokens of a tokenizer; None if it has none, or does not tell."""
    if not hasattr(tokenizer, "added_tokens_decoder"):
        return None
    named = tuple(map(str, getattr(tokenizer, "all_special_tokens", ())))
    state = (len(tokenizer) if isinstance(tokenizer, Sized) else 0, named)
    if tokenizer not in _KNOWN or _KNOWN[tokenizer][0] != state:
        _KNOWN[tokenizer] = (state, _read(tokenizer.added_tokens_decoder, named))
    return _KNOWN[tokenizer][1]


def _read(decoder: Mapping[int, tokenizers.AddedToken], named: Sequence[str]) -> ControlTokens | None:
    """Return the tokens that are special, or named as special ones; some slow tokenizers do not mark them."""
    added = {
        str(token): int(i) for i, token in decoder.items() if str(token) and (token.special or str(token) in named)
    }
    if not added:
        return None
    ids = dict(sorted(added.items(), key=lambda pair: (-len(pair[0]), pair[0])))
    written = "|".join(map(re.escape, ids))
    firsts = frozenset(c for token in ids for c in (token[0], token[0].lower(), token[0].upper()))
    return ControlTokens(ids, re.compile(written), re.compile(written, re.IGNORECASE), firsts)


def literal_needed(tokenizer: Tokenizer, texts: Sequence[str], literal: Sequence[bool]) -> bool:
    """Return whether a control token is in a user's text, or arises where it meets another text.

    Args:
        tokenizer: Tokenizer of the model.
        texts: Parts of the input, in their order.
        literal: For each part, whether a user wrote it.
    """
    tokens = control_tokens(tokenizer) if any(literal) else None
    if tokens is None:
        return False
    if any(own and tokens.may_be_in(text) for text, own in zip(texts, literal, strict=True)):
        return True
    ends = [*accumulate(map(len, texts))]
    spans = [(end - len(text), end) for text, end, own in zip(texts, ends, literal, strict=True) if own]
    found = [match.span() for match in tokens.pattern.finditer("".join(texts))]
    return any(a < end and b > start for a, b in found for start, end in spans)


@dataclass(frozen=True)
class Record:
    """Hold the ids of a text and the characters of each token, or None if the tokenizer does not tell."""

    ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...] | None


def literal_record(tokenizer: Tokenizer, texts: Sequence[str], literal: Sequence[bool]) -> Record:
    """Tokenise texts as one, with the control tokens of those that no user wrote, and without those of the others.

    Args:
        tokenizer: Tokenizer of the model.
        texts: Parts of the input, in their order.
        literal: For each part, whether a user wrote it.

    Raises:
        InputError: If a template holds control tokens too, and the tokenizer is a slow one, which cannot tell them
            apart.
    """
    tokens = control_tokens(tokenizer)
    assert tokens is not None  # `literal_needed`
    fast = bool(getattr(tokenizer, "is_fast", False))
    if not any(tokens.pattern.search(text) for text, own in zip(texts, literal, strict=True) if not own):
        whole = "".join(texts)
        options = {"add_special_tokens": False, "split_special_tokens": True}
        record = tokenizer(whole, **options, **({"return_offsets_mapping": True} if fast else {}))
        offsets = record.get("offset_mapping")
        return Record(tuple(record["input_ids"]), None if offsets is None else tuple((a, b) for a, b in offsets))
    if not fast:
        raise InputError(
            "the text holds a control token of the tokenizer, which is a slow one and cannot read it as text beside a "
            f"chat template; take it out, or pass special=True to read it as a control token (one of {[*tokens.ids]})"
        )
    reader = _reader(tokenizer)
    written = [
        text if own else tokens.pattern.sub(lambda found: reader.stand_ins[found[0]], text)
        for text, own in zip(texts, literal, strict=True)
    ]
    encoding = reader.backend.encode("".join(written), add_special_tokens=False)
    return Record(tuple(reader.back.get(i, i) for i in encoding.ids), tuple(encoding.offsets))


@dataclass(frozen=True)
class _Reader:
    """Hold a copy of a tokenizer that reads stand-ins in place of control tokens.

    Attributes:
        control: Control tokens that it was made for.
        backend: The copy.
        stand_ins: Private characters, as many as the token has, for each control token.
        back: Id of the control token for the id of each stand-in.
    """

    control: ControlTokens
    backend: tokenizers.Tokenizer
    stand_ins: dict[str, str]
    back: dict[int, int]


_READERS: weakref.WeakKeyDictionary[Tokenizer, _Reader] = weakref.WeakKeyDictionary()


def _reader(tokenizer: Tokenizer) -> _Reader:
    """Return the copy of a fast tokenizer with stand-ins, made once."""
    control = control_tokens(tokenizer)
    assert control is not None
    assert isinstance(tokenizer, TellsControlTokens)
    if tokenizer not in _READERS or _READERS[tokenizer].control is not control:
        backend = tokenizers.Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        backend.no_truncation()
        backend.no_padding()
        stand_ins = {token: chr(_STAND_IN + n) * len(token) for n, token in enumerate(control.ids)}
        back = {}
        for token, i in control.ids.items():
            flags = tokenizer.added_tokens_decoder[i]
            same = {name: getattr(flags, name) for name in ("lstrip", "rstrip", "single_word")}
            # Not special, so that it is read where special ones are not.
            backend.add_tokens([tokenizers.AddedToken(stand_ins[token], normalized=False, special=False, **same)])
            made = backend.token_to_id(stand_ins[token])
            assert made is not None
            back[made] = i
        backend.encode_special_tokens = True
        _READERS[tokenizer] = _Reader(control, backend, stand_ins, back)
    return _READERS[tokenizer]
