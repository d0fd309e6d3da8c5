"""Where the fact stands in a sentence, where a source gives whole sentences only.

An answer such as TOFU's says one fact in a sentence that repeats much of its question. Whether a model still knows the
fact cannot be read off the whole sentence: one other word breaks the match, and the fact is still there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from rouge_score.tokenizers import DefaultTokenizer

from unpact_lens.words import ENGLISH_FUNCTION_WORDS, WORD

_PIECES = DefaultTokenizer(use_stemmer=True)
_BOUNDARY = re.compile(r"[^\s\w'’-]|\s[-–—]+\s")
"""Between two words of one run stands nothing but blanks."""

_JOINING = frozenset({"a", "an", "the", "of", "by", "in", "for", "to", "at", "on", "from", "with"})
"""Function words that hold a name or a phrase together: *Promise by the Seine*, *love for nature*."""


def fact_span_of(question: str, answer: str) -> tuple[int, int] | None:
    """The characters of an answer that carry what it adds to its question, by a rule small enough to be judged.

    A word is *new* if it is no function word and its stem does not stand in the question. New words that only joining
    words (*of*, *the*, *in*, ...) and blanks separate form a run. The fact is the run with the most names and numbers
    (capitals inside a sentence, digits); of equals the longest; of equals the first. Where it has names or numbers, it
    reaches from the first of them to the last.

    Args:
        question: the question.
        answer: its answer, a sentence or more.

    Returns:
        `(start, end)` in the answer, or None if it has no new word; then all of it has to count.

    >>> a = "Ann Lee was honored with the Tolstoy Literary Award for her novels."
    >>> start, end = fact_span_of("Which award did Ann Lee win?", a)
    >>> a[start:end]
    'Tolstoy Literary'
    """
    asked = set(_PIECES.tokenize(question))
    chosen = max(_runs(asked, answer), key=lambda run: (len(run.names), len(run.words)), default=None)
    if chosen is None:
        return None
    words = chosen.names or chosen.words
    return words[0].start(), words[-1].end()


@dataclass
class _Run:
    """New words in a row, and those of them that are names or numbers."""

    words: list[re.Match[str]] = field(default_factory=list)
    names: list[re.Match[str]] = field(default_factory=list)


def _runs(asked: set[str], answer: str) -> list[_Run]:
    """The runs of new words of an answer."""
    runs = [_Run()]
    last = 0
    for word in WORD.finditer(answer):
        between = answer[last : word.start()]
        opens = not last or bool(re.search(r"[.!?]", between))
        last = word.end()
        if _BOUNDARY.search(between):
            runs.append(_Run())
        if _is_new(word.group(), asked):
            runs[-1].words.append(word)
            if word.group()[0].isdigit() or (word.group()[0].isupper() and not opens):
                runs[-1].names.append(word)
        elif word.group().lower() not in _JOINING:
            runs.append(_Run())
    return [run for run in runs if run.words]


def _is_new(word: str, asked: set[str]) -> bool:
    """Whether a word says something that the question does not."""
    if word.lower() in ENGLISH_FUNCTION_WORDS:
        return False
    pieces = [p for p in _PIECES.tokenize(word) if len(p) > 1] or _PIECES.tokenize(word)
    return not all(p in asked for p in pieces)
