"""Define questions with answers (`QA`), raw text (`Corpus`), and a `Benchmark` of both, with the registry of data sets.

A data set is one file beside this one: a function that returns a `Benchmark`, registered by the decorator `benchmark`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from unpact_lens.errors import InputError
from unpact_lens.registry import Registry
from unpact_lens.results import storable

GROUPS = ("forget", "near", "far", "general", "unknown")
"""Groups of items: to be forgotten; to be kept and related to it (same relation, shared name); to be kept and
unrelated; general ability; never taught to any model."""


@storable
@dataclass(frozen=True)
class QA:
    """Hold a question, its answer, and what the analyses need to know about both.

    Prompt and answer are tokenised apart and joined as ids, so the answer carries its leading space.

    Attributes:
        prompt: Question in its main phrasing, as given to the model.
        answer: Gold answer, leading space included.
        paraphrases: Other phrasings of the same question, with the same answer.
        kind: Kind of knowledge: `"place"`, `"date"`, `"number"`, `"entity"`, `"relation"`, `"verbatim"`, ...
        id: Identifier, unique within its benchmark.
        subject: Person or thing that the fact is about. Statistics cluster by subject.
        fact_span: Characters `(start, end)` of `answer` that carry the fact. If None, the whole answer without outer
            blanks.
        group: One of `GROUPS`.
        wrong_subject: The same question about another subject with another true answer. None if there is none.
        perturbed: Wrong answers of the same form.
        choices: Options of a multiple-choice question, in the order shown; `answer` is one of them.
        meta: Further facts from the source.
    """

    prompt: str
    answer: str
    paraphrases: tuple[str, ...] = ()
    kind: str = "unknown"
    id: str = ""
    subject: str = ""
    fact_span: tuple[int, int] | None = None
    group: str = "forget"
    wrong_subject: str | None = None
    perturbed: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise InputError(f"QA {self.id or self.answer!r}: the prompt is empty; give the question as text")
        if not self.answer.strip():
            raise InputError(f"QA {self.id or self.prompt!r}: the answer is empty; give the gold answer as text")
        if self.group not in GROUPS:
            raise InputError(f"QA {self.id or self.prompt!r}: group {self.group!r} is not one of {', '.join(GROUPS)}")
        if self.choices and self.answer not in self.choices:
            raise InputError(
                f"QA {self.id or self.prompt!r}: the answer {self.answer!r} is not one of its choices "
                + ", ".join(map(repr, self.choices))
            )
        if self.fact_span is not None:
            start, end = self.fact_span
            if not 0 <= start < end <= len(self.answer):
                raise InputError(
                    f"QA {self.id or self.prompt!r}: fact_span {self.fact_span} is outside its answer of "
                    f"{len(self.answer)} characters"
                )

    @property
    def fact(self) -> str:
        """Return the characters of the answer that carry the fact, without outer blanks.

        >>> QA("Where was Ann born?", " Ann was born in Oslo.", fact_span=(17, 21)).fact
        'Oslo'
        """
        start, end = self.fact_span or (0, len(self.answer))
        return self.answer[start:end].strip()

    @property
    def answer_prefix(self) -> str:
        """Return the answer prefix: the part of the answer before its fact. Empty if the fact comes first.

        The probe `prefill` gives this part to the model.


        >>> QA("Where was Ann born?", " Ann was born in Oslo.", fact_span=(17, 21)).answer_prefix
        ' Ann was born in'
        """
        return self.answer[: self.fact_span[0]].rstrip() if self.fact_span else ""


@storable
@dataclass(frozen=True)
class Corpus:
    """Hold raw text: to unlearn from, as MUSE does, or to measure perplexity on.

    Attributes:
        texts: Documents.
        name: Short description of the text.
    """

    texts: tuple[str, ...]
    name: str = "corpus"


@storable
@dataclass(frozen=True)
class Benchmark:
    """Hold the items to forget, the items to keep, and how to ask for them.

    Attributes:
        name: Name given to `load_benchmark`.
        forget: Items to forget.
        retain: Items to keep, each of group `"near"` or `"far"`.
        general: Items that test unrelated abilities.
        unknown: Items that no model was ever taught; the answer is a refusal or invented.
        forget_corpus: Forget set as raw text. None if the benchmark has none.
        retain_corpus: Retain set as raw text. None if the benchmark has none.
        plain_text: Unrelated text for perplexity.
        refusals: Answers that decline, for methods that train towards refusals.
        chat: If True, prompts go through the tokenizer's chat template.
        prefill: Text that each generated answer starts with, after the template. May hold `{subject}`.
        max_new_tokens: Maximum length of a generated answer, in tokens.
        verbatim: Passages of the forget corpus: the prompt is the start of a passage, the answer its continuation.
        members: Texts of the forget corpus, for membership inference against `holdout`.
        holdout: Texts of the same kind that no model was trained on.
        few_shot: Solved examples by group, put before the group's prompts by the benchmark's own metrics.
    """

    name: str
    forget: tuple[QA, ...]
    retain: tuple[QA, ...]
    general: tuple[QA, ...] = ()
    unknown: tuple[QA, ...] = ()
    forget_corpus: Corpus | None = None
    retain_corpus: Corpus | None = None
    plain_text: Corpus | None = None
    refusals: tuple[str, ...] = ()
    chat: bool = False
    prefill: str = ""
    max_new_tokens: int = 24
    verbatim: tuple[QA, ...] = ()
    members: Corpus | None = None
    holdout: Corpus | None = None
    few_shot: dict[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Show the number of items in each group.

        >>> Benchmark("mine", forget=(QA("Where was Ann born?", " In Oslo."),), retain=())
        Benchmark('mine': 1 forget, 0 near, 0 far, 0 general, 0 unknown)
        """
        counts = ", ".join(f"{len(getattr(self, group))} {group}" for group in GROUPS)
        return f"Benchmark({self.name!r}: {counts})"

    @property
    def near(self) -> tuple[QA, ...]:
        """Return the retain items of group `"near"`."""
        return tuple(q for q in self.retain if q.group == "near")

    @property
    def far(self) -> tuple[QA, ...]:
        """Return the retain items of group `"far"`."""
        return tuple(q for q in self.retain if q.group == "far")

    def all_items(self) -> tuple[QA, ...]:
        """Return all items: forget, retain, general, unknown."""
        return (*self.forget, *self.retain, *self.general, *self.unknown)


def check_unique_ids(items: Sequence[QA]) -> None:
    """Check that no two items share an id.

    Raises:
        InputError: If an id occurs twice. The message names the first.
    """
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise InputError(f"QA id {item.id!r} occurs twice; ids must be unique within a benchmark")
        seen.add(item.id)


BENCHMARKS: Registry[Callable[..., Benchmark]] = Registry("benchmark", "unpact_lens.data")
"""Functions that load a data set, by the name that `load_benchmark` takes."""

Loader = TypeVar("Loader", bound=Callable[..., Benchmark])


def benchmark(name: str, *arguments: Any) -> Callable[[Loader], Loader]:
    """Register a function that loads a data set.

    A function may be registered under several names. A fixed argument is no option of `load_benchmark`.

    Args:
        name: Name that `load_benchmark` takes.
        *arguments: First arguments of the function under this name, e.g. the split.

    Returns:
        A decorator that returns the function unchanged.
    """

    def register(function: Loader) -> Loader:
        BENCHMARKS.add(name, functools.partial(function, *arguments) if arguments else function)
        return function

    return register
