"""The units of a prompt that are attributed: tokens, words, sentences, or spans that the user names."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from unpact_lens.attribution.result import Attribution
from unpact_lens.errors import InputError, nearest
from unpact_lens.models.tokens import Encoded, Text, token_strings
from unpact_lens.words import WORD

Span = tuple[int, int] | str
Units = str | Sequence[Span] | Callable[[tuple[str, ...]], Sequence[Span]]
"""`"token"`, `"word"`, `"sentence"`; half-open ranges of token indices, or pieces of the prompt's text; or a function
from the prompt's tokens to such spans."""

SENTENCE = re.compile(r"\S.*?(?:[.!?…]+[\"'”’)\]]*(?=\s|$)|\n|$)", re.DOTALL)
"""Up to an end mark that blank space follows, a line break, or the end."""

BOS = -1
"""How a unit names the BOS token; other members are indices of the prompt's tokens."""


@dataclass(frozen=True)
class Example:
    """One prompt with its answer, and what of the prompt is attributed.

    Attributes:
        encoded: the ids.
        text: the prompt's text.
        answer: the answer's text.
        members: for each unit, the prompt tokens it holds.
        labels: for each unit, its text.
        spans: for each unit, its characters in `text`.
    """

    encoded: Encoded
    text: str
    answer: str
    members: tuple[tuple[int, ...], ...]
    labels: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]

    def without(self, units: Sequence[int]) -> Encoded:
        """The ids with these units deleted.

        Raises:
            InputError: if nothing would stand before the answer.
        """
        gone = [m for u in units for m in self.members[u]]
        left = self.encoded.without([m for m in gone if m != BOS])
        if BOS in gone:
            left = Encoded(left.head[1:], left.prompt, left.tail, left.answer, 0)
        if not left.context:
            removed = ", ".join(repr(self.labels[u]) for u in units)
            raise InputError(
                f"removing {removed} leaves no context before the answer; give a longer prompt, or a model that takes "
                "BOS (cfg.default_prepend_bos)"
            )
        return left

    def require_context(self) -> None:
        """Refuse an example in which removing some unit leaves nothing before the answer.

        Raises:
            InputError: naming the unit.
        """
        for u, members in enumerate(self.members):
            if len(members) == len(self.encoded.context):
                self.without([u])

    def positions(self, unit: int) -> tuple[int, ...]:
        """Where the unit's tokens stand in the model's input."""
        offset = len(self.encoded.head)
        return tuple(0 if m == BOS else offset + m for m in self.members[unit])


def make_example(
    model: Any, encoded: Encoded, prompt: Text, answer: Text, *, units: Units = "token", attribute_bos: bool = False
) -> Example:
    """Cut an encoded prompt into units.

    Args:
        model: whose tokenizer says where each token stands in the text.
        encoded: what `encode` gave.
        prompt: text or ids, as given by the user.
        answer: the same for the answer.
        units: see `Units`.
        attribute_bos: give BOS a row of its own, the first.

    Raises:
        InputError: if the units are unknown, overlap, are empty or lie outside the prompt, or there is no BOS to
            attribute.
    """
    text = prompt if isinstance(prompt, str) else text_of(model, encoded.prompt)
    spans = character_spans(model, encoded.prompt, text)
    groups = _groups(units, text, spans, token_strings(model, encoded.prompt))
    labels = [_label(model, encoded.prompt, g, text, spans) for g in groups]
    where = [(min(spans[i][0] for i in g), max(spans[i][1] for i in g)) for g in groups]
    if attribute_bos:
        if not encoded.n_bos:
            raise InputError("attribute_bos=True, but this model's input has no BOS (cfg.default_prepend_bos is False)")
        groups, labels = [(BOS,), *groups], [token_strings(model, encoded.head[:1])[0], *labels]
        where = [(0, 0), *where]
    shown = answer if isinstance(answer, str) else text_of(model, encoded.answer)
    return Example(encoded, text, shown, tuple(groups), tuple(labels), tuple(where))


def example_of(attribution: Attribution) -> Example:
    """The example that an attribution is of, ids for ids."""
    bos = int(attribution.bos_row)
    encoded = Encoded(
        attribution.head_ids,
        attribution.token_ids[bos:],
        attribution.tail_ids,
        attribution.answer_ids,
        # BOS can be told from a template's first token only where it has a row; nothing else needs it.
        bos,
    )
    members = tuple(tuple(m - bos for m in group) for group in attribution.members)
    a = attribution
    return Example(encoded, a.prompt, a.answer, members, a.tokens, a.spans)


def text_of(model: Any, ids: Sequence[int]) -> str:
    """The text of ids; the ids themselves with blanks between them where there is no tokenizer."""
    if model.tokenizer is None:
        return " ".join(str(t) for t in ids)
    return str(model.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))


def character_spans(model: Any, ids: Sequence[int], text: str) -> list[tuple[int, int]]:
    """Where each token stands in the text, `(start, end)` in characters.

    Taken from the tokenizer's own record where it keeps one, else from the lengths of ever longer decoded beginnings.
    """
    tokenizer = model.tokenizer
    if tokenizer is not None and getattr(tokenizer, "is_fast", False):
        record = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        if tuple(record["input_ids"]) == tuple(ids):
            return [(int(a), int(b)) for a, b in record["offset_mapping"]]
    # An unfinished character decodes to the replacement character, which is not of the text yet.
    ends = [len(text_of(model, ids[:n]).rstrip("\ufffd")) for n in range(len(ids) + 1)]
    return [(ends[i], max(ends[i], ends[i + 1])) for i in range(len(ids))]


def _groups(units: Units, text: str, spans: list[tuple[int, int]], tokens: tuple[str, ...]) -> list[tuple[int, ...]]:
    if units == "token":
        return [(i,) for i in range(len(tokens))]
    if units == "word":
        return _pieces_of(WORD, text, spans)
    if units == "sentence":
        return _pieces_of(SENTENCE, text, spans)
    if isinstance(units, str):
        raise InputError(f"unknown units {units!r}; {nearest(units, ['token', 'word', 'sentence'])}")
    named = units(tokens) if callable(units) else units
    return _ranges(named, text, spans)


def _pieces_of(pattern: re.Pattern[str], text: str, spans: list[tuple[int, int]]) -> list[tuple[int, ...]]:
    """Tokens by the match that they overlap; a token of no match is a unit by itself."""
    matches = [m.span() for m in pattern.finditer(text)]
    groups: dict[tuple[str, int], list[int]] = {}
    for i, (start, end) in enumerate(spans):
        owner = next((w for w, (a, b) in enumerate(matches) if max(a, start) < min(b, end)), None)
        groups.setdefault(("token", i) if owner is None else ("match", owner), []).append(i)
    return [tuple(g) for g in groups.values()]


def _ranges(named: Sequence[Span], text: str, spans: list[tuple[int, int]]) -> list[tuple[int, ...]]:
    if not named:
        raise InputError("no units are given; name at least one span of the prompt")
    groups: list[tuple[int, ...]] = []
    owner: dict[int, Span] = {}
    for unit in named:
        members = _find(unit, text, spans) if isinstance(unit, str) else _range(unit, len(spans))
        for i in members:
            if i in owner:
                raise InputError(
                    f"units {owner[i]!r} and {unit!r} overlap at prompt token {i}; each token has one unit"
                )
            owner[i] = unit
        groups.append(members)
    return groups


def _range(unit: Any, n: int) -> tuple[int, ...]:
    try:
        start, end = (int(v) for v in unit)
    except (TypeError, ValueError):
        raise InputError(
            f"unit {unit!r} is not a span; give (start, end) token indices, or a piece of the text"
        ) from None
    if not 0 <= start < end <= n:
        raise InputError(f"unit ({start}, {end}) lies outside the prompt of {n} tokens; 0 <= start < end <= {n}")
    return tuple(range(start, end))


def _find(piece: str, text: str, spans: list[tuple[int, int]]) -> tuple[int, ...]:
    count = text.count(piece) if piece else 0
    if count != 1:
        raise InputError(f"unit {piece!r} occurs {count} times in the prompt {text!r}; give token indices instead")
    start = text.index(piece)
    members = tuple(i for i, (a, b) in enumerate(spans) if max(a, start) < min(b, start + len(piece)))
    if not members:
        raise InputError(f"unit {piece!r} holds no token of its own; give token indices instead")
    return members


def _label(model: Any, ids: Sequence[int], group: tuple[int, ...], text: str, spans: list[tuple[int, int]]) -> str:
    if len(group) == 1:
        return token_strings(model, [ids[group[0]]])[0]
    return text[spans[group[0]][0] : spans[group[-1]][1]]
