"""Define questions with answers (`QA`), raw text (`Corpus`), and a `Benchmark` of both, with the registry of data sets.

A data set is one file beside this one: a function that returns a `Benchmark`, registered by the decorator `benchmark`.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from unpact_lens.checked_by_hand import Texts
from unpact_lens.data.chat import Chat, read_chat
from unpact_lens.data.splits import (
    SHARES,
    UNSEEN,
    Facts,
    FactsGiven,
    RetainParts,
    RetainSplit,
    SplitRequest,
    checked_shares,
    deal_subjects,
    gaps,
    split_retain,
)
from unpact_lens.display import joined, one_line, quoted, short
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

    Prompt and answer are joined as they are and tokenised as one text, so the answer carries its leading space.

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
        aliases: Other names that count as the fact: "USA" beside "United States", inflected forms, other scripts.
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
    aliases: Texts = ()

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
        if isinstance(self.aliases, str) or not all(isinstance(a, str) and a.strip() for a in self.aliases):
            raise InputError(
                f"QA {self.id or self.prompt!r}: aliases={self.aliases!r}; give a tuple of texts, none of them empty"
            )
        if self.fact_span is not None:
            start, end = self.fact_span
            if not 0 <= start < end <= len(self.answer):
                raise InputError(
                    f"QA {self.id or self.prompt!r}: fact_span {self.fact_span} is outside its answer of "
                    f"{len(self.answer)} characters"
                )

    def __repr__(self) -> str:
        """Show prompt, answer, group and id.

        >>> QA("Where was Ann born?", " In Oslo.", id="ann-1")
        QA(“Where was Ann born?” → “In Oslo.”, forget, ann-1)
        """
        return one_line("QA", joined([f"{quoted(self.prompt, 44)} → {quoted(self.answer, 24)}", self.group, self.id]))

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
        subjects: Subject of each document, to split documents as facts are split. Empty if unknown.

    Raises:
        InputError: If there are subjects, but not one for each document.
    """

    texts: tuple[str, ...]
    name: str = "corpus"
    subjects: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.texts, (str, bytes)):
            raise InputError(
                f"corpus {self.name!r}: texts is one string, {short(str(self.texts), 40)!r}; give a tuple of "
                "documents, e.g. Corpus((text,))"
            )
        if wrong := [t for t in self.texts if not isinstance(t, str)]:
            raise InputError(f"corpus {self.name!r}: a document is {wrong[0]!r:.60}; give each document as text")
        object.__setattr__(self, "texts", tuple(self.texts))
        if self.subjects and len(self.subjects) != len(self.texts):
            raise InputError(
                f"corpus {self.name!r} has {len(self.subjects)} subjects for {len(self.texts)} documents; give one "
                "subject a document, or none"
            )

    def __repr__(self) -> str:
        """Show the number of documents and their length.

        >>> Corpus(("Ann paints.", "Bob sails."), name="news")
        Corpus('news': 2 documents, 21 characters)
        """
        size = sum(len(text) for text in self.texts)
        return one_line("Corpus", f"{short(self.name, 30)!r}: {len(self.texts)} documents, {size:,} characters")

    def about(self, subjects: Sequence[str]) -> Corpus:
        """Return the documents about these subjects.

        >>> Corpus(("Ann paints.", "Bob sails."), subjects=("Ann", "Bob")).about(["Bob"]).texts
        ('Bob sails.',)
        """
        wanted = set(subjects)
        kept = [i for i, subject in enumerate(self.subjects) if subject in wanted]
        return replace(self, texts=tuple(self.texts[i] for i in kept), subjects=tuple(self.subjects[i] for i in kept))


@storable
@dataclass(frozen=True)
class Benchmark:
    """Hold the items to forget, the items to keep, and how to ask for them.

    Attributes:
        name: Name given to `load_benchmark`.
        forget: Items to forget.
        retain: Items to keep that a retain term may train on, each of group `"near"` or `"far"`.
        general: Items that test unrelated abilities.
        unknown: Items that no model was ever taught; the answer is a refusal or invented.
        forget_corpus: Forget set as raw text. None if the benchmark has none.
        retain_corpus: Text that a retain term may train on. None if the benchmark has none.
        plain_text: Unrelated text for perplexity.
        refusals: Answers that decline, for methods that train towards refusals.
        chat: If True, prompts go through the tokenizer's chat template. A mapping gives the template's options.
        prefill: Text that each generated answer starts with, after the template. May hold `{subject}`.
        max_new_tokens: Maximum length of a generated answer, in tokens.
        stop: Texts that end a generated answer, besides the model's end tokens. Empty for answers of several lines.
        verbatim: Passages of the forget corpus: the prompt is the start of a passage, the answer its continuation.
        members: Texts of the forget corpus, for membership inference against `holdout`.
        holdout: Texts of the same kind that no model was trained on.
        few_shot: Solved examples by group, put before the group's prompts by the benchmark's own metrics.
        validation: Items to keep for `tune` and other searches of settings.
        unseen: Items to keep that neither training nor a search sees. Destruction is measured on them.
        validation_corpus: Documents of the retain set for searches. None without documents of known subjects.
        unseen_corpus: Documents of the retain set that neither training nor a search sees.
        retain_split: Shares and seed of the split by subject into `retain`, `validation` and `unseen`. None without a
            split: all items to keep are in `retain`, and destruction is undefined.
        unlearn_from: What `unlearn` trains on: the `"questions"` in `forget` and `retain`, or the two corpora
            (`"corpus"`), where the questions are for evaluation only, as in MUSE and WMDP.
    """

    name: str
    forget: tuple[QA, ...]
    retain: FactsGiven
    general: tuple[QA, ...] = ()
    unknown: tuple[QA, ...] = ()
    forget_corpus: Corpus | None = None
    retain_corpus: Corpus | None = None
    plain_text: Corpus | None = None
    refusals: tuple[str, ...] = ()
    chat: Chat = False
    prefill: str = ""
    max_new_tokens: int = 24
    verbatim: tuple[QA, ...] = ()
    members: Corpus | None = None
    holdout: Corpus | None = None
    few_shot: dict[str, str] = field(default_factory=dict)
    stop: Texts = ("\n",)
    validation: FactsGiven = field(default_factory=Facts)
    unseen: FactsGiven = field(default_factory=Facts)
    validation_corpus: Corpus | None = None
    unseen_corpus: Corpus | None = None
    retain_split: RetainSplit | None = None
    unlearn_from: str = "questions"

    def __post_init__(self) -> None:
        if isinstance(self.stop, str) or not all(isinstance(s, str) and s for s in self.stop):
            raise InputError(
                f"benchmark {self.name!r}: stop={self.stop!r}; give a tuple of texts that end an answer, or ()"
            )
        object.__setattr__(self, "stop", tuple(self.stop))
        object.__setattr__(self, "chat", read_chat(self.chat))
        for name in ("retain", "validation", "unseen"):
            object.__setattr__(self, name, Facts(getattr(self, name)))

    def __repr__(self) -> str:
        """Show the number of items in each group.

        >>> Benchmark("mine", forget=(QA("Where was Ann born?", " In Oslo."),), retain=())
        Benchmark('mine': 1 forget, 0 near, 0 far, 0 general, 0 unknown)
        """
        counts = ", ".join(f"{len(getattr(self, group))} {group}" for group in GROUPS)
        return one_line("Benchmark", f"{short(self.name, 30)!r}: {counts}")

    @property
    def kept(self) -> Facts:
        """Return all items to keep: trained, validation and unseen. A retrained model is trained on all of them."""
        return Facts((*self.retain, *self.validation, *self.unseen))

    @property
    def near(self) -> Facts:
        """Return the items of `kept` of group `"near"`. Destruction is measured on `unseen.near` only."""
        return self.kept.near

    @property
    def far(self) -> Facts:
        """Return the items of `kept` of group `"far"`. Destruction is measured on `unseen.far` only."""
        return self.kept.far

    def all_items(self) -> tuple[QA, ...]:
        """Return all items: forget, retain, validation, unseen, general, unknown."""
        return (*self.forget, *self.kept, *self.general, *self.unknown)

    def split(self, shares: SplitRequest = "auto", seed: int = 0) -> Benchmark:
        """Split the items to keep by subject into trained, validation and unseen ones; see `split_retain`.

        Documents of the retain set follow their subjects. Where there are documents but no items, they are split alike.
        An earlier split is undone first.

        Args:
            shares: Shares of the subjects: trained, validation, unseen. `"auto"` is 0.5, 0.15, 0.35. If there are
                too few subjects, it warns: a group then lacks its trained or validation part, or nothing is split. None
                gives everything to the retain term.
            seed: Random seed of the split.

        Returns:
            The benchmark with its split. Without anything to keep, it is unchanged.

        Raises:
            InputError: If the shares are not valid, or there are too few subjects for the shares given.
        """
        automatic = shares == "auto"
        wanted = SHARES if automatic else None if shares is None else checked_shares(shares)
        whole = self._whole()
        if wanted is None or not (whole.kept or (whole.retain_corpus and whole.retain_corpus.subjects)):
            return whole
        split = RetainSplit(wanted, seed)
        facts = whole._split_facts()
        parts = deal_subjects(facts, wanted, seed)
        try:
            return whole._with_parts(split_retain(facts, wanted, seed), split)
        except InputError as error:
            if not automatic:
                raise InputError(f"benchmark {self.name!r}: {error}") from None
            usable = parts.trained and not any(UNSEEN in missing for missing in gaps(parts, wanted).values())
            told = "lacks a part" if usable else "is not split, so its destruction is undefined"
            warnings.warn(f"benchmark {self.name!r} {told}: {error}", stacklevel=3)
            return whole._with_parts(parts, split) if usable else whole

    def _whole(self) -> Benchmark:
        """Return the benchmark without a split."""
        if self.retain_split is None:
            return self
        corpora = [c for c in (self.retain_corpus, self.validation_corpus, self.unseen_corpus) if c is not None]
        corpus = self.retain_corpus
        if corpus is not None and corpus.subjects:
            corpus = replace(
                corpus,
                texts=tuple(t for c in corpora for t in c.texts),
                subjects=tuple(s for c in corpora for s in c.subjects),
            )
        return replace(
            self, retain=self.kept, validation=Facts(), unseen=Facts(), retain_corpus=corpus, validation_corpus=None,
            unseen_corpus=None, retain_split=None,
        )  # fmt: skip

    def _split_facts(self) -> Facts:
        """Return what is split: the items to keep, or without them one item for each document's subject."""
        if self.kept or self.retain_corpus is None:
            return self.kept
        return Facts(QA(s, s, subject=s, group="far") for s in dict.fromkeys(self.retain_corpus.subjects))

    def _with_parts(self, parts: RetainParts, split: RetainSplit) -> Benchmark:
        """Return this benchmark, which has no split, with these parts."""
        corpus = self.retain_corpus
        made = replace(self, retain_split=split)
        if self.kept:
            made = replace(made, retain=parts.trained, validation=parts.validation, unseen=parts.unseen)
        if corpus is None or not corpus.subjects:
            return made
        # A document about nobody in the facts to keep may be trained on.
        elsewhere = {*corpus.subjects} - {s for part in parts for s in part.subjects}
        return replace(
            made,
            retain_corpus=corpus.about([*parts.trained.subjects, *elsewhere]),
            validation_corpus=corpus.about(parts.validation.subjects),
            unseen_corpus=corpus.about(parts.unseen.subjects),
        )


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


def benchmark(name: str, *arguments: Any, replace: bool = False) -> Callable[[Loader], Loader]:
    """Register a function that loads a data set.

    The function returns all items to keep in `retain`; `load_benchmark` splits them. A function may be registered under
    several names. A fixed argument is no option of `load_benchmark`.

    Args:
        name: Name that `load_benchmark` takes.
        *arguments: First arguments of the function under this name, e.g. the split.
        replace: Take the place of a data set of the same name.

    Returns:
        A decorator that returns the function unchanged.
    """

    def register(function: Loader) -> Loader:
        BENCHMARKS.add(name, functools.partial(function, *arguments) if arguments else function, replace=replace)
        return function

    return register
