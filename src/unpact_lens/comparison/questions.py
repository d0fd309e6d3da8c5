"""Questions of a data set, one at a time: what is asked, and which of them belong together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from unpact_lens.data.benchmark import QA
from unpact_lens.errors import InputError
from unpact_lens.models.tokens import Text


@dataclass(frozen=True)
class Question:
    """One question as the measures over a data set see it.

    Attributes:
        prompt: text or ids.
        answer: text or ids.
        id: the item's id; its number where it has none.
        subject: what it is drawn with in a bootstrap: the facts about one subject are not independent.
        about: the subject as the item names it; empty where it names none.
    """

    prompt: Text
    answer: Text
    id: str
    subject: str
    about: str


def questions(items: Iterable[QA | tuple[Text, Text]]) -> Iterator[Question]:
    """Each item in turn; nothing is kept of those that were read.

    Raises:
        InputError: once the iterable is exhausted, if it held nothing.
    """
    count = 0
    for i, item in enumerate(items):
        count += 1
        if isinstance(item, QA):
            subject = item.subject or item.id or f"item {i}"
            yield Question(item.prompt, item.answer, item.id or str(i), subject, item.subject)
        else:
            yield Question(*item, str(i), f"item {i}", "")
    if not count:
        raise InputError("no items; give questions to average over, e.g. bench.forget")
