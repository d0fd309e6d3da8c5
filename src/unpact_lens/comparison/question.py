"""Hold one question of a data set: what is asked, and which questions belong together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

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


def questions(items: Iterable[QA | tuple[Text, Text]]) -> Iterator[Question]:
    """Yield the question of each item; keep nothing of those that were read.

    Raises:
        InputError: After the iterable is exhausted, if it held nothing.
    """
    count = 0
    for item in items:
        count += 1
        yield Question.of(item) if isinstance(item, QA) else Question.of(*item)
    if not count:
        raise InputError("no items; give questions to average over, e.g. bench.forget")
