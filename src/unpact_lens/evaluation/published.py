"""Figures that others published, so that a run prints beside them; and tables as the papers print them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from unpact_lens.registry import Registry
from unpact_lens.results import Result


@dataclass(frozen=True, eq=False)
class Published(Result):
    """A published table.

    Attributes:
        name: as registered.
        columns: its metrics, in MUSE's and open-unlearning's names.
        rows: its methods.
        values: one row a method, one number a metric.
        direction: for each metric, what is best.
        model: which model the figures are of.
        source: where they stand.
    """

    name: str
    columns: tuple[str, ...]
    rows: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]
    direction: tuple[str, ...]
    model: str
    source: str

    def to_frame(self) -> pd.DataFrame:
        """One row a method, one column a metric."""
        return pd.DataFrame(self.values, index=pd.Index(self.rows, name="method"), columns=list(self.columns))

    def beside(self, runs: Mapping[str, Mapping[str, float]]) -> pd.DataFrame:
        """The published rows, then the user's own.

        Args:
            runs: for each of the user's rows, its metrics by the names of `columns`; what is missing is left empty.

        Returns:
            The table, with a column `from`: `"published"` or `"this run"`.
        """
        theirs = self.to_frame().assign(**{"from": "published"})
        ours = pd.DataFrame(
            [[run.get(c, float("nan")) for c in self.columns] for run in runs.values()],
            index=pd.Index(list(runs), name="method"),
            columns=list(self.columns),
        ).assign(**{"from": "this run"})
        return pd.concat([theirs, ours])


PUBLISHED: Registry[Published] = Registry("published table")
"""By the name of the benchmark."""

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
    ),
):
    PUBLISHED.add(_table.name, _table)


def published(name: str) -> Published:
    """The figures published for a benchmark: `"muse-news"`, `"muse-books"` or `"tofu-forget10"`.

    Raises:
        InputError: if there are none of that name.

    >>> published("muse-news").to_frame().loc["retrain", "privleak"]
    np.float64(0.0)
    """
    return PUBLISHED[name]


def to_markdown(frame: pd.DataFrame, *, digits: int = 3) -> str:
    r"""A table as Markdown: index first if it has a name, numbers with `digits` significant ones, the undefined empty.

    >>> print(to_markdown(pd.DataFrame({"p": [1.7e-21, float("nan")]}, index=pd.Index(["a|b", "c"], name="method"))))
    | method | p |
    |---|---|
    | a\|b | 1.7e-21 |
    | c |  |
    <BLANKLINE>
    """
    rows = _cells(frame, digits)
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]) + "\n"


def to_latex(frame: pd.DataFrame, *, digits: int = 3) -> str:
    r"""A table as LaTeX (`booktabs`), every cell escaped; the same cells as `to_markdown`.

    >>> print(to_latex(pd.DataFrame({"lr_a": ["50%"]})))
    \begin{tabular}{l}
    \toprule
    lr\_a \\
    \midrule
    50\% \\
    \bottomrule
    \end{tabular}
    <BLANKLINE>
    """
    rows = [" & ".join(_latex(cell) for cell in row) + r" \\" for row in _cells(frame, digits)]
    numbers = [pd.api.types.is_numeric_dtype(frame[c]) for c in frame.columns]
    columns = ("l" if frame.index.name else "") + "".join("r" if n else "l" for n in numbers)
    head = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", rows[0], r"\midrule"]
    return "\n".join([*head, *rows[1:], r"\bottomrule", r"\end{tabular}"]) + "\n"


def _cells(frame: pd.DataFrame, digits: int) -> list[list[str]]:
    """Header and rows as text."""

    def cell(value: object) -> str:
        if isinstance(value, float):
            return "" if value != value else f"{value:.{digits}g}"
        return str(value)

    named = frame.reset_index() if frame.index.name else frame
    return [[str(c) for c in named.columns], *([cell(v) for v in row] for row in named.itertuples(index=False))]


_ESCAPES = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
}  # fmt: skip


def _latex(text: str) -> str:
    return "".join(_ESCAPES.get(c, c) for c in text)
