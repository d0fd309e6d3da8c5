"""Find the part of an answer that carries its fact, for sources that give whole sentences only.

TOFU's answers state one fact in a sentence that repeats much of the question. A match of the whole sentence would fail
at any changed word, even if the model still knows the fact.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from unpact_lens.words import ENGLISH_FUNCTION_WORDS, WORD

if TYPE_CHECKING:
    from rouge_score.tokenizers import DefaultTokenizer

_BOUNDARY = re.compile(r"[^\s\w'’-]|\s[-–—]+\s")
"""What ends a run between two words: anything but blanks."""

_JOINING = frozenset({"a", "an", "the", "of", "by", "in", "for", "to", "at", "on", "from", "with"})
"""Function words that may occur inside a name or phrase: *Promise by the Seine*, *love for nature*."""


def fact_span_of(question: str, answer: str) -> tuple[int, int] | None:
    """Find the characters of an answer that carry its fact, by a simple rule.

    A word is *new* if it is not a function word and its stem does not occur in the question. New words separated only
    by joining words (*of*, *the*, *in*, ...) and blanks form a run. The fact is the run with the most names and numbers
    (words with a capital inside a sentence, or with digits). Ties go to the longest run, then to the first. If the run
    has names or numbers, the fact is the text from the first to the last of them.

    Args:
        question: Question.
        answer: Answer to the question, one sentence or more.

    Returns:
        Start and end of the fact in the answer, in characters. None if the answer has no new word.

    >>> a = "Ann Lee was honored with the Tolstoy Literary Award for her novels."
    >>> start, end = fact_span_of("Which award did Ann Lee win?", a)
    >>> a[start:end]
    'Tolstoy Literary'
    """
    asked = set(_stems(question))
    chosen = max(_runs(asked, answer), key=lambda run: (len(run.names), len(run.words)), default=None)
    if chosen is None:
        return None
    words = chosen.names or chosen.words
    return words[0].start(), words[-1].end()


@dataclass
class _Run:
    """Hold the new words of one run, and those of them that are names or numbers."""

    words: list[re.Match[str]] = field(default_factory=list)
    names: list[re.Match[str]] = field(default_factory=list)


def _runs(asked: set[str], answer: str) -> list[_Run]:
    """Return the runs of new words of an answer."""
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
    """Return whether a word is not in the question and not a function word."""
    if word.lower() in ENGLISH_FUNCTION_WORDS:
        return False
    stems = _stems(word)
    return not all(stem in asked for stem in [s for s in stems if len(s) > 1] or stems)


def _stems(text: str) -> list[str]:
    """Return the stems of the words of a text, as ROUGE takes them."""
    return _tokenizer().tokenize(text)


@functools.cache
def _tokenizer() -> DefaultTokenizer:
    from rouge_score.tokenizers import DefaultTokenizer

    return DefaultTokenizer(use_stemmer=True)
