"""Hold published tables of results, to print a run beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from unpact_lens.display import joined
from unpact_lens.errors import InputError, nearest
from unpact_lens.evaluation.result import Scores
from unpact_lens.registry import Registry
from unpact_lens.results import Result


@dataclass(frozen=True, eq=False)
class Published(Result):
    """Hold a published table.

    Attributes:
        name: Name as registered.
        columns: Metrics, by the names that MUSE and open-unlearning use.
        rows: Methods.
        values: One row for each method, one number for each metric.
        direction: Best value of each metric: `"higher"`, `"lower"` or `"zero"`.
        model: Model that the numbers are of.
        source: Publication.
        truth_ratio: Definition of the truth ratio behind forget quality and model utility (`tofu.TRUTH_RATIOS`). None
            for tables without one. Score your own row with `tofu_scores(..., truth_ratio=)` of the same.
    """

    name: str
    columns: tuple[str, ...]
    rows: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]
    direction: tuple[str, ...]
    model: str
    source: str
    truth_ratio: str | None = None

    def _brief(self) -> str:
        return joined([self.name, self.model, f"{len(self.rows)} rows × {len(self.columns)} columns"])

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row for each method and one column for each metric."""
        return pd.DataFrame(self.values, index=pd.Index(self.rows, name="method"), columns=list(self.columns))

    @property
    def metrics(self) -> tuple[str, ...]:
        """Return the metrics that `evaluate` must compute for a row of this table, by the names that it takes."""
        return tuple(_MEASURED_BY.get(column, column) for column in self.columns)

    def beside(self, runs: Mapping[str, Scores | Mapping[str, float]]) -> pd.DataFrame:
        """Return the published rows, followed by the user's rows.

        Args:
            runs: For each of the user's rows, the scores from `evaluate`, or numbers by the names of `columns`. Missing
                numbers are left empty.

        Returns:
            The table, with a column `from`: `"published"` or `"this run"`.

        Raises:
            InputError: If scores have none of the metrics of this table, or the table has no column of a given name.
        """
        theirs = self.to_frame().assign(**{"from": "published"})
        ours = pd.DataFrame(
            [self._row(name, run) for name, run in runs.items()],
            index=pd.Index(list(runs), name="method"),
            columns=list(self.columns),
        ).assign(**{"from": "this run"})
        return pd.concat([theirs, ours])

    def _row(self, name: str, run: Scores | Mapping[str, float]) -> list[float]:
        if not isinstance(run, Scores):
            for column in run:
                if column not in self.columns:
                    raise InputError(
                        f"row {name!r}: {self.name} has no column {column!r}; {nearest(column, self.columns)}"
                    )
            return [run.get(c, float("nan")) for c in self.columns]
        if not set(self.metrics) & run.overall.keys():
            raise InputError(
                f"row {name!r}: its scores hold none of the metrics of {self.name}; "
                f"evaluate with metrics={self.metrics}"
            )
        found = [run.overall.get(metric, float("nan")) for metric in self.metrics]
        # Papers print the p-value. `evaluate` gives its logarithm, which does not underflow.
        return [10.0**v if m == "forget_quality_log10" else v for m, v in zip(self.metrics, found, strict=True)]


_MEASURED_BY = {
    "verbmem_f": "verbmem",
    "knowmem_f": "knowmem_forget",
    "knowmem_r": "knowmem_retain",
    "forget_quality": "forget_quality_log10",
}
"""Metric of `evaluate` for each column that the papers name differently."""

PUBLISHED: Registry[Published] = Registry("published table")
"""Published tables by the name of the benchmark."""

_MUSE_METRICS = ("verbmem_f", "knowmem_f", "privleak", "knowmem_r")
_MUSE_BEST = ("lower", "lower", "zero", "higher")
_MUSE_ROWS = (
    "target", "retrain", "ga", "ga_gdr", "ga_klr", "npo", "npo_gdr", "npo_klr", "task_vector", "whp",
)  # fmt: skip
_MUSE_SOURCE = "Shi et al. 2024, arXiv 2407.06460, Table 3"

for _table in (
    Published(
        name="muse-news",
        columns=_MUSE_METRICS,
        rows=_MUSE_ROWS,
        values=(
            (58.4, 63.9, -99.8, 55.2),
            (20.8, 33.1, 0.0, 55.0),
            (0.0, 0.0, 5.2, 0.0),
            (4.9, 31.0, 108.1, 27.3),
            (27.4, 50.2, -96.1, 44.8),
            (0.0, 0.0, 24.4, 0.0),
            (1.2, 54.6, 105.8, 40.5),
            (26.9, 49.0, -95.8, 45.4),
            (57.2, 66.2, -99.8, 55.8),
            (19.7, 21.2, 109.6, 28.3),
        ),
        direction=_MUSE_BEST,
        model="LLaMA-2 7B",
        source=_MUSE_SOURCE,
    ),
    Published(
        name="muse-books",
        columns=_MUSE_METRICS,
        rows=_MUSE_ROWS,
        values=(
            (99.8, 59.4, -57.5, 66.9),
            (14.3, 28.9, 0.0, 74.5),
            (0.0, 0.0, -25.0, 0.0),
            (0.0, 0.0, -26.5, 10.7),
            (16.0, 21.9, -40.2, 37.2),
            (0.0, 0.0, -24.3, 0.0),
            (0.0, 0.0, -30.8, 22.8),
            (17.0, 25.0, -43.5, 44.6),
            (99.7, 52.4, -57.5, 64.7),
            (18.0, 55.7, 56.5, 63.6),
        ),
        direction=_MUSE_BEST,
        model="ICLM 7B",
        source=_MUSE_SOURCE,
    ),
    Published(
        name="tofu-forget10",
        columns=("forget_quality", "model_utility"),
        rows=("finetuned", "retrain", "ga", "ga_gdr", "idk_dpo", "npo", "simnpo", "rmu"),
        values=(
            (1.66e-21, 0.60),
            (1.0, 0.59),
            (1.06e-239, 0.0),
            (1.06e-239, 0.49),
            (4.64e-12, 0.23),
            (0.02, 0.46),
            (2.47e-203, 0.54),
            (3.15e-15, 0.59),
        ),
        direction=("higher", "higher"),
        model="Llama-3.2-1B-Instruct",
        source="open-unlearning, docs/repro.md (GradDiff is our ga_gdr)",
        truth_ratio="open-unlearning",
    ),
):
    PUBLISHED.add(_table.name, _table)


def published(name: str) -> Published:
    """Return the published table of a benchmark: `"muse-news"`, `"muse-books"` or `"tofu-forget10"`.

    Raises:
        InputError: If there is none of that name.

    >>> published("muse-news").to_frame().loc["retrain", "privleak"]
    np.float64(0.0)
    """
    return PUBLISHED[name]
