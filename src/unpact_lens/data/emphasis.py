"""The fixed wordings by which a prompt is given emphasis, and the unrelated text that serves as a control.

All are functions of strings. They use words of the prompt and nothing else, so none can give an answer away. Every
result still *ends* as the prompt does, so that a completion prompt ("The capital of Japan is") and a question both
remain answerable: emphasis stands before the prompt or inside it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from unpact_lens.errors import InputError
from unpact_lens.registry import Registry

HEADLINE = "focus_list"
"""The template that is reported first; chosen before any run."""


@dataclass(frozen=True)
class Template:
    """One way of giving words of a prompt emphasis.

    Attributes:
        name: its key in `EMPHASIS`.
        needs_words: whether it is told which words to emphasise.
        description: one line on what it does.
        wording: the rewriting itself, given the prompt and the checked words.
    """

    name: str
    needs_words: bool
    description: str
    wording: Callable[[str, tuple[str, ...]], str]

    def apply(self, prompt: str, words: Sequence[str] = ()) -> str:
        """The prompt with emphasis.

        Args:
            prompt: the prompt as it stands without emphasis.
            words: the words of it to emphasise, in the order of their listing; blanks around them and repetitions are
                dropped. A template with `needs_words=False` ignores them.

        Returns:
            The emphasised prompt; it ends as `prompt` ends, unless its last word itself is emphasised.

        Raises:
            InputError: if the prompt is empty, no word is given, or a word does not occur in the prompt as a whole.

        >>> EMPHASIS["focus_list"].apply("Where was Ann Lee born?", ["Ann", "Lee"])
        'Focus on: Ann, Lee. Where was Ann Lee born?'
        >>> EMPHASIS["doubled"].apply("Where was Ann Lee born?", ["Ann"])
        'Where was Ann Ann Lee born?'
        """
        if not prompt.strip():
            raise InputError(f"emphasis {self.name!r}: the prompt is empty; give the question as text")
        return self.wording(prompt, self._checked(prompt, words) if self.needs_words else ())

    def _checked(self, prompt: str, words: Sequence[str]) -> tuple[str, ...]:
        if isinstance(words, str):
            raise InputError(f"emphasis {self.name!r}: words is the text {words!r}; give a list of words")
        kept = tuple(dict.fromkeys(w.strip() for w in words if w.strip()))
        if not kept:
            raise InputError(f"emphasis {self.name!r} needs at least one word to emphasise; none was given")
        for word in kept:
            if not re.search(_whole(word), prompt):
                raise InputError(
                    f"emphasis {self.name!r}: the word {word!r} does not occur as a whole in the prompt {prompt!r}; "
                    "emphasis uses words of the prompt only"
                )
        return kept


def _whole(word: str) -> str:
    """A pattern for `word` where it is not part of a longer word."""
    return rf"(?<!\w){re.escape(word)}(?!\w)"


def _any_of(words: tuple[str, ...]) -> str:
    """A pattern for any of the words; where they overlap, the longest is taken."""
    return "(?:" + "|".join(_whole(w) for w in sorted(words, key=len, reverse=True)) + ")"


def _quoted(prompt: str, words: tuple[str, ...]) -> str:
    """Every occurrence of a word in double quotes; words that follow one another share a pair."""
    word = _any_of(words)
    return re.sub(rf"{word}(?:\s+{word})*", lambda m: f'"{m.group()}"', prompt)


def _doubled(prompt: str, words: tuple[str, ...]) -> str:
    """Every occurrence of a word said twice."""
    return re.sub(_any_of(words), lambda m: f"{m.group()} {m.group()}", prompt)


EMPHASIS: Registry[Template] = Registry("emphasis template")
"""The emphasis templates by name, `HEADLINE` first."""

for _template in (
    Template(
        "focus_list",
        True,
        "lists the words before the prompt: 'Focus on: w1, w2.'",
        lambda prompt, words: f"Focus on: {', '.join(words)}. {prompt}",
    ),
    Template(
        "quotes",
        True,
        "puts the words into double quotes where they stand",
        _quoted,
    ),
    Template(
        "doubled",
        True,
        "says each word twice where it stands",
        _doubled,
    ),
    Template(
        "reminder",
        True,
        "says before the prompt that the words matter",
        lambda prompt, words: f"Remember that this matters here: {' and '.join(words)}. {prompt}",
    ),
    Template(
        "repeat_question",
        False,
        "gives the whole prompt twice, on two lines",
        lambda prompt, words: f"{prompt}\n{prompt}",
    ),
):
    EMPHASIS.add(_template.name, _template)


def unrelated_prefix(prompt: str, filler_text: str, n_words: int | None = None) -> str:
    """The prompt after unrelated text: what a longer prompt does by itself.

    Args:
        prompt: the prompt as it stands without emphasis.
        filler_text: text that has nothing to do with the prompt; taken from its start, and again if it is too short.
        n_words: how many words of it; None for as many as the prompt has.

    Returns:
        That many words of filler, a full stop where the last has no end mark, and the prompt.

    Raises:
        InputError: if the prompt or the filler is empty, or `n_words` is below 1.

    >>> unrelated_prefix("Where was Ann born?", "The sea is calm. Boats lie at anchor.", 6)
    'The sea is calm. Boats lie. Where was Ann born?'
    """
    if not prompt.strip():
        raise InputError("unrelated prefix: the prompt is empty; give the question as text")
    words = filler_text.split()
    if not words:
        raise InputError("unrelated prefix: the filler text is empty; give a few unrelated sentences")
    count = len(prompt.split()) if n_words is None else n_words
    if count < 1:
        raise InputError(f"unrelated prefix: n_words is {count}; give at least 1")
    taken = " ".join(words[i % len(words)] for i in range(count)).rstrip(",;:")
    return f"{taken if taken[-1] in '.?!' else taken + '.'} {prompt}"
