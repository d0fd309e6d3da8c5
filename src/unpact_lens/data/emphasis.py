"""Emphasise words of a prompt by fixed templates, and put unrelated text before a prompt as a control.

All are functions of strings. Templates use words of the prompt only, so none can reveal an answer. Emphasis is added
before or inside the prompt, never after it. So a completion prompt ("The capital of Japan is") still ends where the
answer starts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from unpact_lens.errors import InputError
from unpact_lens.registry import Registry

HEADLINE = "focus_list"
"""Template that is reported first. It was chosen before any run."""


@dataclass(frozen=True)
class Template:
    """Hold one way of emphasising words of a prompt.

    Attributes:
        name: Key of the template in `EMPHASIS`.
        needs_words: If True, the template must be given the words to emphasise.
        description: One line on what the template does.
        wording: Function that rewrites the prompt, given the prompt and the checked words.
    """

    name: str
    needs_words: bool
    description: str
    wording: Callable[[str, tuple[str, ...]], str]

    def apply(self, prompt: str, words: Sequence[str] = ()) -> str:
        """Return the prompt with emphasis.

        Args:
            prompt: Prompt without emphasis.
            words: Words of the prompt to emphasise, in the order of listing. Outer blanks and repetitions are dropped.
                A template with `needs_words=False` ignores them.

        Returns:
            The emphasised prompt. It ends as `prompt` ends, unless the last word is emphasised.

        Raises:
            InputError: If the prompt is empty, no word is given, or a word does not occur in the prompt as a whole.

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
    """Return a pattern for `word` outside longer words."""
    return rf"(?<!\w){re.escape(word)}(?!\w)"


def _any_of(words: tuple[str, ...]) -> str:
    """Return a pattern for any of the words. Of overlapping words, the longest matches."""
    return "(?:" + "|".join(_whole(w) for w in sorted(words, key=len, reverse=True)) + ")"


def _quoted(prompt: str, words: tuple[str, ...]) -> str:
    """Put every occurrence of a word into double quotes. Adjacent words share one pair."""
    word = _any_of(words)
    return re.sub(rf"{word}(?:\s+{word})*", lambda m: f'"{m.group()}"', prompt)


def _doubled(prompt: str, words: tuple[str, ...]) -> str:
    """Repeat every occurrence of a word."""
    return re.sub(_any_of(words), lambda m: f"{m.group()} {m.group()}", prompt)


EMPHASIS: Registry[Template] = Registry("emphasis template")
"""Emphasis templates by name, `HEADLINE` first."""

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
        "puts the words into double quotes",
        _quoted,
    ),
    Template(
        "doubled",
        True,
        "repeats each word in place",
        _doubled,
    ),
    Template(
        "reminder",
        True,
        "reminds before the prompt that the words matter",
        lambda prompt, words: f"Remember that this matters here: {' and '.join(words)}. {prompt}",
    ),
    Template(
        "repeat_question",
        False,
        "repeats the whole prompt on a second line",
        lambda prompt, words: f"{prompt}\n{prompt}",
    ),
):
    EMPHASIS.add(_template.name, _template)


def unrelated_prefix(prompt: str, filler_text: str, n_words: int | None = None) -> str:
    """Put unrelated text before the prompt, as a control for the effect of a longer prompt.

    Args:
        prompt: Prompt without emphasis.
        filler_text: Text unrelated to the prompt. It is repeated if it is too short.
        n_words: Number of filler words. If None, as many as the prompt has.

    Returns:
        The filler words, with a full stop added unless they end a sentence, and the prompt.

    Raises:
        InputError: If the prompt or the filler is empty, or `n_words` is below 1.

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
