"""Declare what the report reads of a study. `unpact_lens.study.Study` provides it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import pandas as pd

    from unpact_lens.comparison.diff import ModelDiff
    from unpact_lens.comparison.focus import Focus
    from unpact_lens.evaluation.result import Scores
    from unpact_lens.evaluation.verdict import Verdict
    from unpact_lens.recovery.result import Recovery
    from unpact_lens.unlearning.result import History

# ruff: noqa: D102


@runtime_checkable
class CellLike(Protocol):
    """Hold the results of one method with one seed."""

    @property
    def method(self) -> str: ...

    @property
    def seed(self) -> int: ...

    @property
    def scores(self) -> Scores: ...

    @property
    def recovery(self) -> Recovery: ...

    @property
    def focus(self) -> Focus | None: ...

    @property
    def focus_retain(self) -> Focus | None: ...

    @property
    def diffs(self) -> tuple[ModelDiff, ...]: ...

    @property
    def verdict(self) -> Verdict: ...

    @property
    def history(self) -> History: ...

    @property
    def stopped(self) -> str: ...

    @property
    def settings(self) -> dict[str, Any]: ...

    @property
    def seconds(self) -> float: ...

    @property
    def warnings(self) -> tuple[str, ...]: ...


@runtime_checkable
class StudyLike(Protocol):
    """Hold the results of a finished study."""

    @property
    def config(self) -> dict[str, Any]: ...

    @property
    def before(self) -> Scores | None: ...

    @property
    def control(self) -> Scores | None: ...

    @property
    def cells(self) -> tuple[CellLike, ...]: ...

    @property
    def notes(self) -> tuple[str, ...]: ...

    @property
    def seconds(self) -> float: ...

    @property
    def environment(self) -> dict[str, Any]: ...

    def to_frame(self) -> pd.DataFrame: ...
