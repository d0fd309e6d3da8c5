"""Cut a prompt into the units that are attributed: tokens, words, sentences, or spans that the user names."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from unpact_lens.attribution.result import Attribution
from unpact_lens.errors import InputError, nearest
from unpact_lens.models.tokens import Encoded, HasTokenizer, Text, token_strings
from unpact_lens.words import WORD

Span = tuple[int, int] | str
Units = str | Sequence[Span] | Callable[[tuple[str, ...]], Sequence[Span]]
"""`"token"`, `"word"`, `"sentence"`; half-open ranges of token indices, or pieces of the prompt's text; or a function
from the prompt's tokens to such spans."""

SENTENCE = re.compile(r"\S.*?(?:[.!?…]+[\"'”’)\]]*(?=\s|$)|\n|$)", re.DOTALL)
"""A sentence: text up to an end mark followed by white space, a line break, or the end."""

BOS = -1
"""Index of the BOS token in a unit; other members are indices of the prompt's tokens."""


@dataclass(frozen=True)
class Example:
    """Hold one prompt with its answer, and the units of the prompt.

    Attributes:
        encoded: Token ids.
        text: Text of the prompt.
        answer: Text of the answer.
        members: Indices of the prompt tokens of each unit.
        labels: Text of each unit.
        spans: Characters of each unit in `text`.
    """

    encoded: Encoded
    text: str
    answer: str
    members: tuple[tuple[int, ...], ...]
    labels: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]

    def without(self, units: Sequence[int]) -> Encoded:
        """Return the ids with these units deleted.

        Raises:
            InputError: If nothing would remain before the answer.
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
        """Refuse an example in which removing one unit leaves nothing before the answer.

        Raises:
            InputError: If there is such a unit. The message names it.
        """
        for u, members in enumerate(self.members):
            if len(members) == len(self.encoded.context):
                self.without([u])

    def positions(self, unit: int) -> tuple[int, ...]:
        """Return the positions of the unit's tokens in the model's input."""
        offset = len(self.encoded.head)
        return tuple(0 if m == BOS else offset + m for m in self.members[unit])


def unit_masks(example: Example, device: torch.device) -> Bool[Tensor, "unit pos"]:
    """Return the positions of the model's input that each unit holds."""
    mask = torch.zeros(len(example.members), len(example.encoded.ids) - 1, dtype=torch.bool, device=device)
    for u in range(len(example.members)):
        mask[u, list(example.positions(u))] = True
    return mask


def make_example(
    model: HasTokenizer,
    encoded: Encoded,
    prompt: Text,
    answer: Text,
    *,
    units: Units = "token",
    attribute_bos: bool = False,
) -> Example:
    """Cut an encoded prompt into units.

    Args:
        model: Model whose tokenizer locates each token in the text.
        encoded: Ids of the prompt and the answer.
        prompt: Prompt as given by the user, text or ids.
        answer: Answer as given by the user, text or ids.
        units: Units, as described at `Units`.
        attribute_bos: Give BOS a unit of its own, the first.

    Raises:
        InputError: If the units are unknown, overlap, are empty or outside the prompt, or there is no BOS to attribute.
    """
    text = prompt if isinstance(prompt, str) else text_of(model, encoded.prompt)
    spans = character_spans(model, encoded.prompt, text, encoded.prompt_spans)
    if not spans:
        raise InputError(
            f"the prompt {text!r} has no token of its own: its last token belongs to the answer; end the prompt where "
            "a token ends, or give token ids"
        )
    tokens = token_strings(model, encoded.prompt)
    groups = _groups(units, text, spans, tokens)
    labels = [_label(tokens, g, text, spans) for g in groups]
    where = [(min(spans[i][0] for i in g), max(spans[i][1] for i in g)) for g in groups]
    if attribute_bos:
        if not encoded.n_bos:
            raise InputError("attribute_bos=True, but this model's input has no BOS (cfg.default_prepend_bos is False)")
        groups, labels = [(BOS,), *groups], [token_strings(model, encoded.head[:1])[0], *labels]
        where = [(0, 0), *where]
    shown = answer if isinstance(answer, str) else text_of(model, encoded.answer)
    return Example(encoded, text, shown, tuple(groups), tuple(labels), tuple(where))


def example_of(attribution: Attribution) -> Example:
    """Rebuild the example of an attribution, with the same ids."""
    bos = int(attribution.bos_row)
    encoded = Encoded(
        attribution.head_ids,
        attribution.token_ids[bos:],
        attribution.tail_ids,
        attribution.answer_ids,
        # BOS is distinguished from a template's first token only if it has a row; nothing else depends on it.
        bos,
    )
    members = tuple(tuple(m - bos for m in group) for group in attribution.members)
    a = attribution
    return Example(encoded, a.prompt, a.answer, members, a.tokens, a.spans)


def text_of(model: HasTokenizer, ids: Sequence[int]) -> str:
    """Decode ids; without a tokenizer, return the ids separated by spaces."""
    if model.tokenizer is None:
        return " ".join(str(t) for t in ids)
    return str(model.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))


def character_spans(
    model: HasTokenizer, ids: Sequence[int], text: str, known: Sequence[tuple[int, int]] | None = None
) -> list[tuple[int, int]]:
    """Locate each token in the text, as `(start, end)` in characters.

    Args:
        model: Model whose tokenizer decodes the ids.
        ids: Ids of the text.
        text: The text.
        known: Characters of each token, as `encode` found them. If None, they come from the lengths of decoded
            beginnings of the ids.
    """
    if known is not None:
        return list(known)
    # An incomplete character decodes to the replacement character, which is not part of the text yet.
    ends = [len(text_of(model, ids[:n]).rstrip("\ufffd")) for n in range(len(ids) + 1)]
    return [(ends[i], max(ends[i], ends[i + 1])) for i in range(len(ids))]


def _groups(units: Units, text: str, spans: list[tuple[int, int]], tokens: tuple[str, ...]) -> list[tuple[int, ...]]:
    """Group the prompt's tokens into units."""
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
    """Group tokens by the match that they overlap; a token without a match is a unit by itself."""
    matches = [m.span() for m in pattern.finditer(text)]
    groups: dict[tuple[str, int], list[int]] = {}
    for i, (start, end) in enumerate(spans):
        owner = next((w for w, (a, b) in enumerate(matches) if max(a, start) < min(b, end)), None)
        groups.setdefault(("token", i) if owner is None else ("match", owner), []).append(i)
    return [tuple(g) for g in groups.values()]


def _ranges(named: Sequence[Span], text: str, spans: list[tuple[int, int]]) -> list[tuple[int, ...]]:
    """Group tokens by the spans that the user named, which must not overlap."""
    if not named:
        raise InputError("no units are given; name at least one span of the prompt")
    groups: list[tuple[int, ...]] = []
    owner: dict[int, Span] = {}
    for unit in named:
        members = _find(unit, text, spans) if isinstance(unit, str) else _range(unit, len(spans))
        for i in members:
            if i in owner:
                raise InputError(
                    f"units {owner[i]!r} and {unit!r} overlap at prompt token {i}; a token belongs to one unit"
                )
            owner[i] = unit
        groups.append(members)
    return groups


def _range(unit: object, n: int) -> tuple[int, ...]:
    """Return the token indices of a `(start, end)` range."""
    try:
        start, end = (int(v) for v in unit)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        raise InputError(
            f"unit {unit!r} is not a span; give (start, end) token indices, or a piece of the text"
        ) from None
    if not 0 <= start < end <= n:
        raise InputError(f"unit ({start}, {end}) lies outside the prompt of {n} tokens; 0 <= start < end <= {n}")
    return tuple(range(start, end))


def _find(piece: str, text: str, spans: list[tuple[int, int]]) -> tuple[int, ...]:
    """Return the tokens of a piece of the text, which must occur once."""
    count = text.count(piece) if piece else 0
    if count != 1:
        raise InputError(f"unit {piece!r} occurs {count} times in the prompt {text!r}; give token indices instead")
    start = text.index(piece)
    members = tuple(i for i, (a, b) in enumerate(spans) if max(a, start) < min(b, start + len(piece)))
    if not members:
        raise InputError(f"unit {piece!r} holds no token of its own; give token indices instead")
    return members


def _label(tokens: Sequence[str], group: tuple[int, ...], text: str, spans: list[tuple[int, int]]) -> str:
    """Return the text of a unit: the token itself, or the text that several tokens span."""
    if len(group) == 1:
        return tokens[group[0]]
    return text[spans[group[0]][0] : spans[group[-1]][1]]
