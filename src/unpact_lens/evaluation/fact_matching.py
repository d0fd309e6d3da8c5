"""Decide whether a text gives a fact, in any script.

Algorithm:

1. Fold text and fact alike (`text_folding.fold`): forms, case (short facts keep it), accents, digits, separators.
2. Find each occurrence of the fact as whole words. Letters, digits and combining marks form a word; `+` and `#` belong
   to the word that they follow, so "C" is not in "C++". Chinese, Japanese and Thai are matched by character, never
   inside a combining sequence, a number or a katakana word. Korean particles and the prefixes of Arabic and Hebrew may
   be attached.
3. Mark an occurrence as negated if its clause negates it: "It is not Oslo" (`negation.is_negated`).

Inflected forms are other words: "Москве" does not give "Москва". Give them as aliases.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from unpact_lens.errors import InputError
from unpact_lens.evaluation.negation import is_negated
from unpact_lens.evaluation.text_folding import UNSPACED, fold, is_word_character, shape

CASE_MATTERS_UP_TO = 3
"""Facts of at most this many characters are matched case-sensitively: 'No' is nobelium, 'no' is a word."""

_PREFIXED_FROM = 3
"""Smallest number of letters of an Arabic or Hebrew fact that may carry a prefix."""

# Particles and copulas that Korean attaches to a noun.
_PARTICLES = (
    "은 는 이 가 을 를 의 에 에서 에게 께서 로 으로 와 과 도 만 까지 부터 이다 다 입니다 이었다 였다 "
    "이었습니다 였습니다 예요 이에요 며 이며 고 이고 라고 이라고 라는 이라는 인데 지만 이지만 "
    "야 이야 랑 이랑 처럼 보다 이나 나 인 일 뿐 밖에 조차 마저"
)
_KOREAN_TAIL = "(?:" + "|".join(sorted(_PARTICLES.split(), key=len, reverse=True)) + "){0,2}"
_ARABIC_HEAD = "[وف]?[بكل]?(?:ال|(?<=ل)ل)?"
_HEBREW_HEAD = "[ושהכלבמ]{0,2}"
_NUMERALS = frozenset("0123456789零〇一二三四五六七八九十百千万萬亿億兆")
_DATE = re.compile(r"\d{1,4}([./-])\d{1,2}\1\d{1,4}")


@dataclass(frozen=True)
class Match:
    """Say how a text mentions a fact.

    Attributes:
        given: True if at least one mention of the fact, or of an alias, is not negated.
        negated: True if the fact is mentioned and every mention is negated.
    """

    given: bool
    negated: bool

    @property
    def mentioned(self) -> bool:
        """Return whether the text mentions the fact, negated or not."""
        return self.given or self.negated


def match_fact(text: str, fact: str, aliases: Sequence[str] = ()) -> Match:
    """Find a fact in a text as whole words, and say whether the text asserts or negates it.

    Args:
        text: Answer of a model, one line or several.
        fact: Text of the fact.
        aliases: Other names that count as the fact.

    Returns:
        Whether the fact is given, and whether it is only mentioned negated.

    Raises:
        InputError: If the fact or an alias is empty.

    >>> match_fact("It is not Oslo.", "Oslo"), match_fact("挪威的首都是奥斯陆。", "奥斯陆").given
    (Match(given=False, negated=True), True)
    """
    for name in (fact, *aliases):
        if not name.strip():
            raise InputError(f"fact {name!r} is empty; give the text that an answer must contain")
    negated = False
    for name in (fact, *aliases):
        for plain, start, end in _mentions(text, name.strip()):
            if not is_negated(plain, start, end):
                return Match(given=True, negated=False)
            negated = True
    return Match(given=False, negated=negated)


def _mentions(text: str, name: str) -> Iterator[tuple[str, int, int]]:
    """Yield the folded text in its own case, start and end of every mention of a name, in both spellings of umlauts."""
    spellings = (False,) if name.isascii() and text.isascii() else (False, True)
    for two_letters in spellings:
        cased, wanted = (fold(t, keep_case=True, two_letters=two_letters) for t in (text, name))
        if len("".join(shape(wanted).split())) > CASE_MATTERS_UP_TO:
            lower, wanted = cased.casefold(), wanted.casefold()
        else:
            lower = cased
        if len(lower) != len(cased):  # A letter whose lower case is longer, outside Latin and Greek.
            cased = lower
        for start, end in _occurrences(lower, wanted):
            yield cased, start, end


def _occurrences(text: str, fact: str) -> list[tuple[int, int]]:
    """Return `(start, end)` of every mention of a folded fact in a folded text."""
    words = shape(fact).split()
    if not words:  # A fact of signs only, such as "→".
        return [m.span() for m in re.finditer(re.escape(fact), text)]
    between = " *" if any(map(UNSPACED.search, words)) else " +"
    core = between.join(map(re.escape, words))
    head = _prefixes(words[0])
    tail = _KOREAN_TAIL if "\uac00" <= words[-1][-1] <= "\ud7a3" else ""
    signed = fact.startswith("-") and words[0][0].isdigit()
    found = []
    for hit in re.finditer(f"(?={head}(?P<core>{core}){tail}(?P<end>))", shape(text)):
        start, end = hit.span("core")
        whole = _starts_word(text, hit.start(), words[0]) and _ends_word(text, end, hit.end("end"), words[-1])
        if whole and _has_minus(text, start, words[0]) == signed and not _within_number(text, start, end, words):
            found.append((start, end))
    return found


def _prefixes(first: str) -> str:
    """Return the pattern of prefixes that the script of a word attaches to it."""
    if len(first) >= _PREFIXED_FROM and "\u0620" <= first[0] <= "\u06ff":
        return _ARABIC_HEAD
    if len(first) >= _PREFIXED_FROM and "\u05d0" <= first[0] <= "\u05ea":
        return _HEBREW_HEAD
    return ""


def _starts_word(text: str, start: int, first: str) -> bool:
    if start == 0:
        return True
    before = text[start - 1]
    if _is_katakana(first[0]) and _is_katakana(before):
        return False
    if UNSPACED.match(first):
        return True
    return not is_word_character(before) or bool(UNSPACED.match(before))


def _ends_word(text: str, core_end: int, end: int, last: str) -> bool:
    if core_end < len(text) and unicodedata.category(text[core_end])[0] == "M":
        return False  # A combining mark would change the last letter.
    if end >= len(text):
        return True
    after = text[end]
    if _is_katakana(last[-1]) and _is_katakana(after):
        return False
    if UNSPACED.match(last[-1]):
        return True
    return after not in "+#" and (not is_word_character(after) or bool(UNSPACED.match(after)))


def _is_katakana(character: str) -> bool:
    return "\u30a1" <= character <= "\u30fa" or character == "ー"


def _has_minus(text: str, start: int, first: str) -> bool:
    """Return whether a number has a minus sign before it; a hyphen within a word or a date is none."""
    return first[0].isdigit() and text[:start].endswith("-") and (start == 1 or text[start - 2] in " \n\t([")


def _within_number(text: str, start: int, end: int, words: Sequence[str]) -> bool:
    """Return whether a mention is part of a longer number: 5 in 3.5, 三 in 三十. Parts of a date are whole."""
    run_start, run_end = start, end
    while run_start > 0 and text[run_start - 1] in "0123456789.,:/-":
        run_start -= 1
    while run_end < len(text) and text[run_end] in "0123456789.,:/-":
        run_end += 1
    if len(words) == 1 and _DATE.fullmatch(text[run_start:run_end].strip(".,:/-")):
        return False
    before, after = text[max(0, start - 2) : start], text[end : end + 2]
    if words[0][0].isdigit() and len(before) == 2 and before[0].isdigit() and before[1] in ".,:/":
        return True
    if words[-1][-1].isdigit() and len(after) == 2 and after[0] in ".,:/" and after[1].isdigit():
        return True
    if all(c in _NUMERALS for word in words for c in word):
        return text[start - 1 : start] in _NUMERALS or text[end : end + 1] in _NUMERALS
    return False
