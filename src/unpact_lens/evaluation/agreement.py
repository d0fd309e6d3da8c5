"""How often a metric of answers agrees with what a reader holds right or wrong.

The labelled pairs in `assets/answer_pairs.json` were written and labelled for this library, one by one. Most are hard
on purpose: right answers in other words, wrong answers in the same words; those of the case `"plain"` are not.
Accuracies on them rank metrics; they are no estimate of a metric's accuracy on a model's usual answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unpact_lens.data.benchmark import QA
from unpact_lens.errors import InputError
from unpact_lens.evaluation.answers import exact_match, holds_fact, rouge
from unpact_lens.evaluation.membership_inference import auc
from unpact_lens.evaluation.semantic import SAME_MEANING, embedder_installed, semantic_similarity
from unpact_lens.registry import Registry
from unpact_lens.results import Result, read_json, storable
from unpact_lens.stats.intervals import wilson

LABELLED = Path(__file__).parent / "assets" / "answer_pairs.json"


@storable
@dataclass(frozen=True)
class LabelledPair:
    """A gold answer, an answer given, and whether a reader holds it right.

    Attributes:
        question: what was asked.
        gold: the gold answer.
        answer: the answer to judge.
        right: the label.
        case: what makes the pair hard, e.g. `"negation"`.
    """

    question: str
    gold: str
    answer: str
    right: bool
    case: str = ""


@dataclass(frozen=True)
class AnswerMetric:
    """A metric of one answer against its gold answer.

    Attributes:
        score: from generated and gold answers to one number each, larger for better answers.
        threshold: from which score an answer counts as right.
    """

    score: Callable[[Sequence[str], Sequence[str]], Float[Tensor, " item"]]
    threshold: float


def _each(judge: Callable[[str, QA], float]) -> Callable[[Sequence[str], Sequence[str]], Tensor]:
    def score(generated: Sequence[str], gold: Sequence[str]) -> Tensor:
        pairs = zip(generated, gold, strict=True)
        return torch.tensor([float(judge(g, QA(prompt="?", answer=t))) for g, t in pairs], dtype=torch.double)

    return score


def _rouge(generated: str, qa: QA, *, which: str, part: int) -> float:
    return rouge(generated, qa, which)[part]


ANSWER_METRICS: Registry[AnswerMetric] = Registry("answer metric")
"""Metrics that need the two texts only."""
ANSWER_METRICS.add("exact_match", AnswerMetric(_each(exact_match), 1.0))
ANSWER_METRICS.add("contains", AnswerMetric(_each(lambda generated, qa: holds_fact(generated, qa.answer)), 1.0))
ANSWER_METRICS.add("rouge_l", AnswerMetric(_each(partial(_rouge, which="rougeL", part=1)), 0.5))
ANSWER_METRICS.add("rouge_l_recall", AnswerMetric(_each(partial(_rouge, which="rougeL", part=0)), 0.5))
ANSWER_METRICS.add("rouge_1", AnswerMetric(_each(partial(_rouge, which="rouge1", part=1)), 0.5))
ANSWER_METRICS.add("semantic_similarity", AnswerMetric(semantic_similarity, SAME_MEANING))


@dataclass(frozen=True, eq=False)
class Agreement(Result):
    """What each metric says of each labelled pair.

    Attributes:
        metrics: names of the rows of `scores`.
        thresholds: from which score each metric counts an answer as right.
        scores: larger for better answers.
        pairs: the labelled pairs.
    """

    metrics: tuple[str, ...]
    thresholds: tuple[float, ...]
    scores: Float[Tensor, "metric pair"]
    pairs: tuple[LabelledPair, ...]

    @property
    def right(self) -> Bool[Tensor, " pair"]:
        """The labels."""
        return torch.tensor([p.right for p in self.pairs])

    def says_right(self, metric: str) -> Bool[Tensor, " pair"]:
        """Which answers a metric counts as right, at its threshold."""
        row = self._row(metric)
        return self.scores[row] >= self.thresholds[row]

    def accuracy(self, metric: str, case: str | None = None) -> float:
        """Share of pairs on which a metric agrees with the label, of all or of one case; NaN where there are none."""
        chosen = torch.tensor([case in (None, p.case) for p in self.pairs])
        agrees = (self.says_right(metric) == self.right)[chosen]
        return float(agrees.double().mean()) if len(agrees) else float("nan")

    def to_frame(self) -> pd.DataFrame:
        """One row a metric: accuracy at its threshold with a 95% interval, AUC (no threshold), errors both ways.

        `wrong_held_right` is the share of wrong answers that the metric counts as right; `right_held_wrong` the
        reverse.
        """
        right = self.right
        rows = []
        for i, metric in enumerate(self.metrics):
            says = self.says_right(metric)
            hits = int((says == right).sum())
            low, high = wilson(hits, len(right))
            rows.append(
                {
                    "metric": metric, "threshold": self.thresholds[i], "accuracy": hits / len(right), "low": low,
                    "high": high, "auc": auc(self.scores[i][right], self.scores[i][~right]),
                    "wrong_held_right": float(says[~right].double().mean()),
                    "right_held_wrong": float((~says[right]).double().mean()), "n": len(right),
                }
            )  # fmt: skip
        return pd.DataFrame(rows)

    def by_case(self) -> pd.DataFrame:
        """Accuracy of each metric (columns) in each case (rows): where it fails."""
        cases = list(dict.fromkeys(p.case for p in self.pairs))
        table = {m: [self.accuracy(m, c) for c in cases] for m in self.metrics}
        counts = [sum(p.case == c for p in self.pairs) for c in cases]
        return pd.DataFrame({"n": counts, **table}, index=pd.Index(cases, name="case"))

    def failures(self, metric: str) -> pd.DataFrame:
        """The pairs on which a metric disagrees with the label."""
        row, says = self._row(metric), self.says_right(metric)
        return pd.DataFrame(
            [
                {"case": p.case, "gold": p.gold, "answer": p.answer, "right": p.right, "score": float(score)}
                for p, score, said in zip(self.pairs, self.scores[row], says.tolist(), strict=True)
                if said != p.right
            ]
        )

    def _row(self, metric: str) -> int:
        if metric not in self.metrics:
            raise InputError(f"metric {metric!r} was not compared; compared are {', '.join(self.metrics)}")
        return self.metrics.index(metric)


def labelled_pairs() -> tuple[LabelledPair, ...]:
    """The pairs that ship with this library: written and labelled by hand."""
    return tuple(LabelledPair(**row) for row in read_json(LABELLED))


def agreement(
    metrics: Sequence[str] | Mapping[str, AnswerMetric] | None = None,
    labelled: Sequence[LabelledPair] | pd.DataFrame | None = None,
) -> Agreement:
    """Compare answer metrics with labels.

    Args:
        metrics: names of `ANSWER_METRICS`; or metrics of one's own by name; None for all that are installed.
        labelled: pairs with their label, or a DataFrame with the columns gold, answer, right (and question, case); None
            for those that ship with the library.

    Raises:
        InputError: if a metric is unknown or not installed, a column is missing, or all labels are alike.

    >>> agreement(["rouge_l"]).accuracy("rouge_l", "negation") < 0.5
    True
    """
    pairs = _pairs(labelled)
    if len({p.right for p in pairs}) < 2:
        raise InputError(f"{len(pairs)} labelled pairs, all alike; give right and wrong answers")
    if isinstance(metrics, str):
        raise InputError(f"metrics={metrics!r} is one text; give a list of names, e.g. [{metrics!r}]")
    if not isinstance(metrics, Mapping):
        names = [n for n in ANSWER_METRICS if n != "semantic_similarity" or embedder_installed()]
        metrics = {name: ANSWER_METRICS[name] for name in (names if metrics is None else metrics)}
    generated, gold = [p.answer for p in pairs], [p.gold for p in pairs]
    scores: list[Any] = [metric.score(generated, gold).double() for metric in metrics.values()]
    return Agreement(
        metrics=tuple(metrics),
        thresholds=tuple(m.threshold for m in metrics.values()),
        scores=torch.stack(scores),
        pairs=pairs,
    )


def _pairs(labelled: Sequence[LabelledPair] | pd.DataFrame | None) -> tuple[LabelledPair, ...]:
    if labelled is None:
        return labelled_pairs()
    if not isinstance(labelled, pd.DataFrame):
        return tuple(labelled)
    if missing := [c for c in ("gold", "answer", "right") if c not in labelled.columns]:
        raise InputError(f"the labelled pairs have no column {missing[0]!r}; they have {', '.join(labelled.columns)}")
    return tuple(
        LabelledPair(
            question=str(row.get("question", "")),
            gold=str(row["gold"]),
            answer=str(row["answer"]),
            right=bool(row["right"]),
            case=str(row.get("case", "")),
        )
        for row in labelled.to_dict("records")
    )
