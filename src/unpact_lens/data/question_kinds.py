"""Classify the kind of knowledge that a question asks for, for sources without such labels.

The first pattern that matches the question decides. If none matches, the form of the answer decides. The rule is meant
for English questions such as those of TOFU and MUSE.
"""

from __future__ import annotations

import re

KINDS = ("date", "number", "place", "relation", "procedural", "entity", "verbatim", "description")
"""Kinds of knowledge: when; how many; where; how two things are related; how something is done; who or what; literal
text; anything that takes a sentence."""

_RULES = tuple(
    (kind, re.compile(pattern, re.IGNORECASE))
    for kind, pattern in (
        ("number", r"\bhow (many|much|old|tall|long|far)\b|\bwhat (percentage|number|proportion|amount)\b"),
        ("date", r"^when\b|\bwhen and where\b|\bdate of birth\b|\bbirth ?date\b"),
        ("date", r"\b(what|which) (year|date|month|day|decade|century|period)\b"),
        ("procedural", r"^how (do|can|should) (you|one|we|i)\b|\b(procedure|protocol|method for)\b"),
        ("relation", r"\b(parents?|father|mother|mentor|influenced?|inspired?|related?|relationship|spouse)\b"),
        ("entity", r"\bfull name\b|\bwho\b|\bwhose\b|^name\b"),
        ("place", r"\bwhere\b|\b(city|country|state|region|continent|capital|birthplace|hometown)\b"),
        ("entity", r"\b(title|titled|award|awards|book|books|genre|gender|profession|occupation)s?\b"),
    )
)
_YEAR = re.compile(r"^\D{0,12}\b(1\d{3}|20\d{2})\b\D{0,3}$")


def kind_of(question: str, answer: str) -> str:
    """Return the kind of knowledge of a question and its answer, one of `KINDS`.

    >>> kind_of("In what year did it open?", "In 1923."), kind_of("Where is it?", "Oslo"), kind_of("Which one?", "Ann")
    ('date', 'place', 'entity')
    """
    short = len(answer.split()) <= 20
    for kind, pattern in _RULES:
        # A long answer to "which of her books …" is a description, despite the word "books".
        if pattern.search(question) and (kind not in ("entity", "place") or short):
            return kind
    if _YEAR.match(answer.strip()):
        return "date"
    if re.fullmatch(r"[\d.,]+\s*%?", answer.strip()):
        return "number"
    return "entity" if len(answer.split()) <= 5 else "description"
