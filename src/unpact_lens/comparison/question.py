"""Hold one question of a data set: what is asked, and which questions belong together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import cast

from unpact_lens.data.as_facts import FactSource, as_pair, as_questions
from unpact_lens.data.benchmark import QA
from unpact_lens.errors import InputError
from unpact_lens.models.tokens import Text


@dataclass(frozen=True)
class Question:
    """Hold one prompt and its answer.

    Attributes:
        prompt: Text or ids.
        answer: Text or ids.
        id: Id of the item; empty if it has none.
        subject: Person or thing that the fact is about; empty if unknown. Bootstraps draw whole subjects.
    """

    prompt: Text
    answer: Text
    id: str = ""
    subject: str = ""

    @classmethod
    def of(cls, prompt: Text | QA, answer: Text | None = None) -> Question:
        """Make a question of a prompt and an answer, or of a `QA`.

        Args:
            prompt: Text or ids; or a `QA`, which holds its answer.
            answer: Text, leading space included, or ids; None if `prompt` is a `QA`.

        Raises:
            InputError: If the answer is missing, or given beside a `QA`.
        """
        if isinstance(prompt, QA):
            if answer is not None:
                raise InputError(
                    f"QA {prompt.id or prompt.prompt!r} holds its own answer; leave out answer={answer!r}, "
                    "or pass the prompt as text"
                )
            return cls(prompt.prompt, prompt.answer, prompt.id, prompt.subject)
        if answer is None:
            raise InputError(f"no answer to the prompt {prompt!r}; pass prompt and answer, or a QA")
        return cls(prompt, answer)


Items = FactSource | Iterable[QA | tuple[Text, Text]]
"""Questions: facts in any form that `from_pairs` reads, or pairs of token ids. An iterator is read once."""


def questions(items: Items) -> Iterator[Question]:
    """Yield the question of each item; keep nothing of those that were read.

    Raises:
        InputError: If an item is no question with its answer; or after all are read, if there were none.
    """
    number = 0
    for number, item in enumerate(as_questions(items, "items"), start=1):
        if isinstance(item, QA):
            yield Question.of(item)
        else:
            prompt, answer = cast("tuple[Text, Text]", as_pair(item, "items", number))
            yield Question.of(prompt, answer)
    if not number:
        raise InputError("no items; give questions to average over, e.g. bench.forget")
