"""The items that every benchmark is made of: questions with answers, and raw text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from unpact_lens.errors import InputError
from unpact_lens.results import storable

GROUPS = ("forget", "near", "far", "general", "unknown")
"""Where an item stands: to be forgotten; to be kept and close to it (same relation, shared name); to be kept and
unrelated; general ability; something that no model was ever taught."""


@storable
@dataclass(frozen=True)
class QA:
    """A question and its answer, with what the analysis needs to know about them.

    Prompt and answer are tokenised apart and joined as ids, so the answer carries its leading space.

    Attributes:
        prompt: the question in its headline phrasing, as given to the model.
        answer: the gold answer, leading space included.
        paraphrases: other phrasings of the same question; the same answer fits them.
        kind: the kind of knowledge: `"place"`, `"date"`, `"number"`, `"entity"`, `"relation"`, `"verbatim"`, ...
        id: unique within its benchmark.
        subject: whom or what the fact is about; statistics cluster by it.
        fact_span: `(start, end)` characters of `answer` that carry the fact. None means all of it but outer blanks.
        group: one of `GROUPS`.
        wrong_subject: the same question about another subject, whose true answer differs; None where there is none.
        perturbed: wrong answers of the same form.
        choices: the options of a multiple-choice question, in the order shown; `answer` is one of them.
        meta: anything else the source says.
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
                    f"QA {self.id or self.prompt!r}: fact_span {self.fact_span} lies outside its answer of "
                    f"{len(self.answer)} characters"
                )

    @property
    def fact(self) -> str:
        """The characters of the answer that carry the fact, without outer blanks.

        >>> QA("Where was Ann born?", " Ann was born in Oslo.", fact_span=(17, 21)).fact
        'Oslo'
        """
        start, end = self.fact_span or (0, len(self.answer))
        return self.answer[start:end].strip()

    @property
    def opening(self) -> str:
        """The answer before its fact: what the *prefill* probe gives away. Empty where the fact comes first.

        >>> QA("Where was Ann born?", " Ann was born in Oslo.", fact_span=(17, 21)).opening
        ' Ann was born in'
        """
        return self.answer[: self.fact_span[0]].rstrip() if self.fact_span else ""


@storable
@dataclass(frozen=True)
class Corpus:
    """Raw text to unlearn, as MUSE does, or to measure plain-text perplexity on.

    Attributes:
        texts: one document each.
        name: what it is.
    """

    texts: tuple[str, ...]
    name: str = "corpus"


@storable
@dataclass(frozen=True)
class Benchmark:
    """What is to be forgotten, what is to be kept, and how to ask.

    Attributes:
        name: as given to `load_benchmark`.
        forget: the items to forget.
        retain: the items to keep; each has group `"near"` or `"far"`.
        general: unrelated abilities.
        unknown: items that no model was ever taught (a refusal is the answer, or there is none).
        forget_corpus: the forget set as raw text, None where the benchmark has none.
        retain_corpus: the retain set as raw text.
        plain_text: unrelated text on which perplexity is measured.
        refusals: answers that decline, for methods that train towards them.
        chat: whether prompts go through the tokenizer's chat template.
        prefill: what the answer is made to start with, after the template; may hold `{subject}`.
        max_new_tokens: how long an answer may get when generated.
        verbatim: passages of the forget corpus: the prompt opens one, the answer is how it goes on.
        members: texts of the forget corpus that membership inference tries to tell from `holdout`.
        holdout: texts of the same kind that no model was trained on.
        few_shot: for a group, the solved examples that stand before its prompts in the benchmark's own metrics.
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
        """How many items of each kind there are; thousands of questions written out help nobody.

        >>> Benchmark("mine", forget=(QA("Where was Ann born?", " In Oslo."),), retain=())
        Benchmark('mine': 1 forget, 0 near, 0 far, 0 general, 0 unknown)
        """
        counts = ", ".join(f"{len(getattr(self, group))} {group}" for group in GROUPS)
        return f"Benchmark({self.name!r}: {counts})"

    @property
    def near(self) -> tuple[QA, ...]:
        """Retain items of group `"near"`."""
        return tuple(q for q in self.retain if q.group == "near")

    @property
    def far(self) -> tuple[QA, ...]:
        """Retain items of group `"far"`."""
        return tuple(q for q in self.retain if q.group == "far")

    def all_items(self) -> tuple[QA, ...]:
        """Every QA, forget first."""
        return (*self.forget, *self.retain, *self.general, *self.unknown)


def check_unique_ids(items: Sequence[QA]) -> None:
    """Refuse items that share an id.

    Raises:
        InputError: naming the first id that occurs twice.
    """
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise InputError(f"QA id {item.id!r} occurs twice; ids must be unique within a benchmark")
        seen.add(item.id)
