"""Cut the ids of several parts out of one tokenisation of the text that they form together.

Parts that are tokenised apart and joined give other ids than the text that the model would read: many tokenizers put a
space or "▁" before each text, and others merge characters across the border. Here the whole is tokenised once, and the
tokenizer's offsets say to which part each token belongs. A token that holds characters of several parts belongs to the
last of them, so the border moves to the token's start.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from unpact_lens.models.control_tokens import Record, literal_needed, literal_record
from unpact_lens.models.hooked import Tokenizer

Span = tuple[int, int]
"""Characters `(start, end)`."""

ANCHORS = ("a", ".", "1", "\n")
"""Texts after which a continuation is tokenised, where the ids before it are not those of their own text."""


@dataclass(frozen=True)
class SharedToken:
    """Describe a token that holds characters of several parts.

    Attributes:
        first: Index of the first part that it touches.
        owner: Index of the part that it belongs to, the last one.
        text: The token's text.
    """

    first: int
    owner: int
    text: str


@dataclass(frozen=True)
class Cut:
    """Hold the ids of each part of a text.

    Attributes:
        ids: Ids of each part. Together they are the ids of the whole.
        spans: Characters of each part's tokens, counted from the part's start; None if the tokenizer does not tell.
        shared: Tokens that hold characters of several parts.
    """

    ids: tuple[tuple[int, ...], ...]
    spans: tuple[tuple[Span, ...] | None, ...]
    shared: tuple[SharedToken, ...] = ()


def plain_ids(tokenizer: Tokenizer, text: str, *, literal: bool = False) -> tuple[int, ...]:
    """Return the ids of a text without special tokens that the tokenizer would add.

    Args:
        tokenizer: Tokenizer of the model.
        text: The text.
        literal: Whether control tokens in it are text.
    """
    return _record(tokenizer, [text], [literal]).ids


def decoded_whole(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """Return ids as text, special tokens included."""
    return tokenizer.decode(list(ids), clean_up_tokenization_spaces=False, skip_special_tokens=False)


def _record(tokenizer: Tokenizer, texts: Sequence[str], literal: Sequence[bool], *, where: bool = False) -> Record:
    """Tokenise texts as one.

    Args:
        tokenizer: Tokenizer of the model.
        texts: Parts of the text.
        literal: For each part, whether control tokens in it are text.
        where: Whether the characters of each token are wanted.

    Returns:
        The ids, and the characters of each token. These are None if the tokenizer does not tell; one without offsets
        tells if its ids decode to the text itself.
    """
    whole = "".join(texts)
    if literal_needed(tokenizer, texts, literal):
        found = literal_record(tokenizer, texts, literal)
        ids, offsets = found.ids, found.offsets
    else:
        told = where and bool(getattr(tokenizer, "is_fast", False))
        record = tokenizer(whole, add_special_tokens=False, **({"return_offsets_mapping": True} if told else {}))
        ids, offsets = tuple(record["input_ids"]), record.get("offset_mapping")
    if offsets is not None:
        return Record(ids, tuple((int(a), int(b)) for a, b in offsets))
    if not where or decoded_whole(tokenizer, ids) != whole:
        return Record(ids, None)
    # An incomplete character decodes to the replacement character or to nothing; each of its tokens reaches into it.
    begun = [decoded_whole(tokenizer, ids[:n]) for n in range(len(ids) + 1)]
    starts = [len(shown.rstrip("\ufffd")) for shown in begun]
    ends = [start + (len(shown) > start) for shown, start in zip(begun, starts, strict=True)]
    return Record(ids, tuple((starts[n], min(max(starts[n] + 1, ends[n + 1]), len(whole))) for n in range(len(ids))))


def cut_jointly(tokenizer: Tokenizer, texts: Sequence[str], literal: Sequence[bool] | None = None) -> Cut:
    """Tokenise several texts as one, and cut the ids at their borders.

    Args:
        tokenizer: Tokenizer of the model.
        texts: Parts in their order; an empty part has no ids.
        literal: For each part, whether control tokens in it are text. If None, they are control tokens everywhere.

    Returns:
        The ids of each part.
    """
    filled = [i for i, text in enumerate(texts) if text]
    ids: list[tuple[int, ...]] = [()] * len(texts)
    spans: list[tuple[Span, ...] | None] = [()] * len(texts)
    if not filled:
        return Cut(tuple(ids), tuple(spans))
    whole = "".join(texts)
    borders = [*accumulate(len(texts[i]) for i in filled)][:-1]  # where each part but the first begins
    parts, flags = [texts[i] for i in filled], [bool(literal and literal[i]) for i in filled]
    found = _record(tokenizer, parts, flags, where=True)
    every, offsets = found.ids, found.offsets
    if offsets is None:
        heads = [_record(tokenizer, parts[:k], flags[:k]).ids for k in range(1, len(parts))]
        owners, shared = _by_prefixes(tokenizer, heads, every)
    else:
        owners, shared = _by_offsets(tokenizer, whole, borders, every, offsets)
    for k, i in enumerate(filled):
        own = [n for n, owner in enumerate(owners) if owner == k]
        start = borders[k - 1] if k else 0
        ids[i] = tuple(every[n] for n in own)
        spans[i] = None if offsets is None else tuple(
            (max(offsets[n][0] - start, 0), max(offsets[n][1] - start, 0)) for n in own
        )  # fmt: skip
    named = tuple(SharedToken(filled[s.first], filled[s.owner], s.text) for s in shared)
    return Cut(tuple(ids), tuple(spans), named)


def ids_after(
    tokenizer: Tokenizer, before: Sequence[int], texts: Sequence[str], literal: Sequence[bool] | None = None
) -> Cut:
    """Tokenise texts as the continuation of ids that are given and kept.

    Where the ids before are the tokenizer's own of their text, the whole is tokenised. Otherwise the texts are
    tokenised after a short text that shares no token with them.

    Args:
        tokenizer: Tokenizer of the model.
        before: Ids that come first; may be empty.
        texts: Parts that follow, in their order.
        literal: For each of them, whether control tokens in it are text; as in `cut_jointly`.

    Returns:
        The ids of each part of `texts`.
    """
    anchors = [*([decoded_whole(tokenizer, before)] if before else []), *ANCHORS]
    for n, anchor in enumerate(anchors):
        cut = cut_jointly(tokenizer, [anchor, *texts], None if literal is None else [False, *literal])
        own = tuple(before) if before and n == 0 else plain_ids(tokenizer, anchor)
        if own and cut.ids[0] == own and not any(s.first == 0 for s in cut.shared):
            shared = tuple(SharedToken(s.first - 1, s.owner - 1, s.text) for s in cut.shared)
            return Cut(cut.ids[1:], cut.spans[1:], shared)
    return cut_jointly(tokenizer, texts, literal)


def _by_offsets(
    tokenizer: Tokenizer, whole: str, borders: Sequence[int], ids: Sequence[int], offsets: Sequence[Span]
) -> tuple[list[int], list[SharedToken]]:
    """Return the part that each token belongs to, and the tokens that hold characters of several parts.

    A token belongs to the last part in which one of its characters lies, i.e. to the number of borders before its end.
    """
    owners = [*accumulate((bisect_left(borders, end) for _, end in offsets), max)]
    shared = []
    for n, owner in enumerate(owners):
        if owner == (owners[n - 1] if n else 0) and n:
            continue  # only the first token of a part can begin before it
        start = offsets[n][0]
        before = offsets[n - 1][1] if n else 0
        # Some tokenizers leave the blanks that a token begins with out of its offsets.
        if before < start and whole[before:start].isspace():
            left_out = _blanks(decoded_whole(tokenizer, ids[n : n + 1])) - _blanks(whole[start : offsets[n][1]])
            start = max(before, start - max(left_out, 0))
        first = sum(border <= start for border in borders)
        if first < owner:
            shared.append(SharedToken(first, owner, decoded_whole(tokenizer, ids[n : n + 1])))
    return owners, shared


def _blanks(text: str) -> int:
    """Return the number of characters of white space that a text begins with."""
    return len(text) - len(text.lstrip())


def _by_prefixes(
    tokenizer: Tokenizer, heads: Sequence[Sequence[int]], ids: Sequence[int]
) -> tuple[list[int], list[SharedToken]]:
    """Do what `_by_offsets` does without offsets: a part ends where its tokens leave those of the whole.

    Where the text up to a border (`heads`, as ids) has other ids at its end than the whole, the border moves to the
    last common id.
    """
    owners, shared = [0] * len(ids), []
    for k, head in enumerate(heads):
        common = next((n for n, (a, b) in enumerate(zip(head, ids, strict=False)) if a != b), min(len(head), len(ids)))
        for n in range(common, len(ids)):
            owners[n] = k + 1
        if common < len(head) and common < len(ids):
            shared.append(SharedToken(k, k + 1, decoded_whole(tokenizer, ids[common : common + 1])))
    return owners, shared
