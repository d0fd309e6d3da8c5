"""Define what a probe is, and register the probes by name.

A probe is one function in one file of this package. It is registered with `@probe` and turns a `Scene` into rows. A
`PromptRow` holds prompts that are fixed in the recovery plan. An `AnswerRow` holds a function from a model to its
answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool
from torch import Tensor

from unpact_lens.data.benchmark import QA, Benchmark
from unpact_lens.errors import InputError, nearest
from unpact_lens.evaluation.answers import fact_right
from unpact_lens.models.hooked import HookedModel
from unpact_lens.recovery.plan import RecoveryPlan
from unpact_lens.recovery.probing import ALL, Probing
from unpact_lens.recovery.result import Example
from unpact_lens.registry import Registry

PROMPT, WEIGHTS, COMPUTATION = "prompt", "weights", "computation"
FAMILIES = (PROMPT, WEIGHTS, COMPUTATION)
"""What a probe changes."""

BEFORE, AFTER, TEXTS = "before", "after", "texts"
"""What a probe may need at run time: the original model, the unlearned model, unrelated texts of the benchmark."""


@dataclass(frozen=True)
class Scene:
    """Hold what a probe builds its rows from.

    Attributes:
        probing: Options of the run.
        bench: Benchmark that gives the chat template, the answer prefix and the answer length.
        items: Facts to ask.
        keys: Key words of each fact.
        plan: Recovery plan. None while its prompts are being written.
        before: Original model. None if it was not given.
        after: Unlearned model. None while the plan is made.
        counted: True for the facts that count: the candidates of the plan, or the common set at run time.
    """

    probing: Probing
    bench: Benchmark
    items: tuple[QA, ...]
    keys: tuple[tuple[str, ...], ...]
    plan: RecoveryPlan | None = None
    before: HookedModel | None = None
    after: HookedModel | None = None
    counted: Bool[Tensor, " item"] | None = None

    def judged(self, texts: Sequence[str], asked: Bool[Tensor, " item"]) -> Answered:
        """Judge generated answers.

        Args:
            texts: One answer for each fact that was asked.
            asked: True for the facts that were asked.
        """
        right = torch.zeros(len(self.items), dtype=torch.bool)
        for i, text in zip(asked.nonzero()[:, 0].tolist(), texts, strict=True):
            right[i] = fact_right(text, self.items[i])
        return Answered(right)


@dataclass(frozen=True)
class PromptRow:
    """Hold the prompts of one row of the plan. The original model must be right under it for a fact to count.

    Attributes:
        name: Name of the row.
        cells: Prompt and answer prefix of each fact. None where the fact cannot be asked.
    """

    name: str
    cells: tuple[tuple[str, str] | None, ...]


@dataclass(frozen=True)
class Answered:
    """Hold the answers of one model under an `AnswerRow`.

    Attributes:
        right: True where the answer holds the fact.
        never: The same for the never-known facts. None if they are not asked.
        examples: Answers for the facts that are shown.
        settings: Numbers to store with the result.
    """

    right: Bool[Tensor, " item"]
    never: Bool[Tensor, " never"] | None = None
    examples: tuple[Example, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class AnswerRow:
    """Hold a row that is asked by changing the weights or the computation, or with prompts that no plan can fix.

    Attributes:
        name: Name of the row.
        asked: True for the facts that can be asked.
        answer: Function that asks a model.
        before: What the original model answers right, if that is known already.
    """

    name: str
    asked: Bool[Tensor, " item"]
    answer: Callable[[HookedModel], Answered]
    before: Bool[Tensor, " item"] | None = None


Rows = Sequence[PromptRow] | Sequence[AnswerRow]


@dataclass(frozen=True)
class Probe:
    """Hold a registered probe.

    Attributes:
        name: Name in `recover(probes=...)`.
        family: What the probe changes: `"prompt"`, `"weights"` or `"computation"`.
        line: One line on what the probe does.
        source: Paper that the probe follows, or `unpact-lens` if it is defined here.
        rows: Function that builds its rows.
        compared: True if the rows are prompts of the plan.
        needs: What is needed at run time, of `"before"`, `"after"` and `"texts"`. A probe that needs the unlearned
            model cannot be planned.
        refuse: Function of the headline and the benchmark (None if not loaded yet) that returns why the probe cannot be
            asked, or None.
        check: Function that raises an `InputError` if the probe would do nothing on a model. It is called for each
            model before anything is asked.
    """

    name: str
    family: str
    line: str
    source: str
    rows: Callable[[Scene], Rows]
    compared: bool = False
    needs: tuple[str, ...] = ()
    refuse: Callable[[str, Benchmark | None], str | None] | None = None
    check: Callable[[HookedModel], None] | None = None

    def prompt_rows(self, scene: Scene) -> list[PromptRow]:
        """Build the rows whose prompts are written into the plan."""
        return [row for row in self.rows(scene) if isinstance(row, PromptRow)]

    def answer_rows(self, scene: Scene) -> list[AnswerRow]:
        """Build the rows that are asked by a function."""
        return [row for row in self.rows(scene) if isinstance(row, AnswerRow)]


PROBES: Registry[Probe] = Registry("probe", "unpact_lens.recovery.probes")
"""Probes by name. Each is registered by its own module in `unpact_lens.recovery.probes`."""


def probe(
    name: str,
    family: str,
    line: str,
    source: str,
    *,
    compared: bool = False,
    needs: tuple[str, ...] = (),
    refuse: Callable[[str, Benchmark | None], str | None] | None = None,
    check: Callable[[HookedModel], None] | None = None,
    replace: bool = False,
) -> Callable[[Callable[[Scene], Rows]], Callable[[Scene], Rows]]:
    """Register the decorated function, which turns a scene into rows, as a probe.

    The arguments are the fields of `Probe`, and `replace`: take the place of a probe of the same name.

    Raises:
        ValueError: If the name is taken, and `replace` is False.
    """

    def register(rows: Callable[[Scene], Rows]) -> Callable[[Scene], Rows]:
        PROBES.add(name, Probe(name, family, line, source, rows, compared, needs, refuse, check), replace=replace)
        return rows

    return register


def probes() -> pd.DataFrame:
    """Return a table of the registered probes: name, family, one line and source."""
    columns = ["name", "family", "line", "source"]
    return pd.DataFrame([{c: getattr(entry, c) for c in columns} for entry in _ordered()], columns=columns)


def checked(probing: Probing, bench: Benchmark | None = None) -> Probing:
    """Return the options with the names of their probes checked, in order and without repetition.

    `"all"` becomes the names of all probes that can be asked.

    Args:
        probing: Options of a run.
        bench: Benchmark. If None, checks that need it are skipped.

    Raises:
        InputError: If `probes` is not a list of names, a name is unknown, or the probe cannot be asked.
    """

    def refusal(entry: Probe) -> str | None:
        return None if entry.refuse is None else entry.refuse(probing.headline, bench)

    if probing.probes == ALL:
        return replace(probing, probes=tuple(entry.name for entry in _ordered() if refusal(entry) is None))
    if isinstance(probing.probes, str):
        given = probing.probes
        raise InputError(f"probes={given!r} is one text; give a list of names, e.g. probes=[{given!r}], or 'all'")
    names = tuple(dict.fromkeys(probing.probes))
    for name in names:
        if name not in PROBES:
            raise InputError(f"unknown probe {name!r}; {nearest(str(name), PROBES)}")
        if reason := refusal(PROBES[name]):
            raise InputError(reason)
    return replace(probing, probes=names)


def _ordered() -> list[Probe]:
    """Return all probes, by family and then by name."""
    return sorted(PROBES.values(), key=lambda entry: (FAMILIES.index(entry.family), entry.name))
