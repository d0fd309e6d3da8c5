"""Compare metrics of answers with human labels: how often they agree on right and wrong.

The labelled pairs in `assets/answer_pairs.json` were written and labelled for this library, one by one. Most are hard
on purpose: right answers in other words, wrong answers in the same words. Those of the case `"plain"` are easy.
Accuracies on them rank metrics. They do not estimate a metric's accuracy on a model's usual answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unpact_lens.data.benchmark import QA
from unpact_lens.display import joined
from unpact_lens.errors import InputError
from unpact_lens.evaluation.answers import holds_fact
from unpact_lens.evaluation.exact_match import exact_match
from unpact_lens.evaluation.membership_inference import auc
from unpact_lens.evaluation.rouge import rouge
from unpact_lens.evaluation.semantic import SAME_MEANING, embedder_installed, semantic_similarity
from unpact_lens.registry import Registry
from unpact_lens.results import Result, read_json, storable
from unpact_lens.stats.estimate import Rate

LABELLED = Path(__file__).parent / "assets" / "answer_pairs.json"


@storable
@dataclass(frozen=True)
class LabelledPair:
    """Hold a gold answer, a given answer, and its label.

    Attributes:
        question: The question.
        gold: The gold answer.
        answer: The answer to judge.
        right: Label: True if a reader judged the answer right.
        case: What makes the pair hard, e.g. `"negation"`.
    """

    question: str
    gold: str
    answer: str
    right: bool
    case: str = ""


@dataclass(frozen=True)
class AnswerMetric:
    """Hold a metric that compares two texts.

    Attributes:
        score: Function of generated and gold answers that returns one number for each, larger for better answers.
        threshold: Smallest score of an answer that counts as right.
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
"""Metrics that need only the two texts."""
ANSWER_METRICS.add("exact_match", AnswerMetric(_each(exact_match), 1.0))
ANSWER_METRICS.add("contains", AnswerMetric(_each(lambda generated, qa: holds_fact(generated, qa.answer)), 1.0))
ANSWER_METRICS.add("rouge_l", AnswerMetric(_each(partial(_rouge, which="rougeL", part=1)), 0.5))
ANSWER_METRICS.add("rouge_l_recall", AnswerMetric(_each(partial(_rouge, which="rougeL", part=0)), 0.5))
ANSWER_METRICS.add("rouge_1", AnswerMetric(_each(partial(_rouge, which="rouge1", part=1)), 0.5))
ANSWER_METRICS.add("semantic_similarity", AnswerMetric(semantic_similarity, SAME_MEANING))


@dataclass(frozen=True, eq=False)
class Agreement(Result):
    """Hold the score of each metric for each labelled pair.

    Attributes:
        metrics: Names of the rows of `scores`.
        thresholds: Smallest score that counts as right, for each metric.
        scores: Scores, larger for better answers.
        pairs: The labelled pairs.
    """

    metrics: tuple[str, ...]
    thresholds: tuple[float, ...]
    scores: Float[Tensor, "metric pair"]
    pairs: tuple[LabelledPair, ...]

    def _brief(self) -> str:
        return joined([f"{len(self.metrics)} metrics", f"{len(self.pairs)} labelled pairs", ", ".join(self.metrics)])

    @property
    def right(self) -> Bool[Tensor, " pair"]:
        """Return the labels."""
        return torch.tensor([p.right for p in self.pairs])

    def says_right(self, metric: str) -> Bool[Tensor, " pair"]:
        """Return which answers a metric counts as right at its threshold."""
        row = self._row(metric)
        return self.scores[row] >= self.thresholds[row]

    def accuracy(self, metric: str, case: str | None = None) -> float:
        """Compute the share of pairs, all or of one case, where a metric agrees with the label; NaN if none."""
        chosen = torch.tensor([case in (None, p.case) for p in self.pairs])
        agrees = (self.says_right(metric) == self.right)[chosen]
        return float(agrees.double().mean()) if len(agrees) else float("nan")

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row for each metric.

        Accuracy at its threshold with a 95% CI, AUC (no threshold), and both kinds of error. `wrong_held_right` is the
        share of wrong answers that the metric counts as right; `right_held_wrong` is the reverse.
        """
        right = self.right
        rows = []
        for i, metric in enumerate(self.metrics):
            says = self.says_right(metric)
            accuracy = Rate(int((says == right).sum()), len(right))
            rows.append(
                {
                    "metric": metric, "threshold": self.thresholds[i], "accuracy": accuracy.value,
                    "low": accuracy.low, "high": accuracy.high,
                    "auc": auc(self.scores[i][right], self.scores[i][~right]),
                    "wrong_held_right": float(says[~right].double().mean()),
                    "right_held_wrong": float((~says[right]).double().mean()), "n": len(right),
                }
            )  # fmt: skip
        return pd.DataFrame(rows)

    def by_case(self) -> pd.DataFrame:
        """Return a table of accuracies: one row for each case, one column for each metric."""
        cases = list(dict.fromkeys(p.case for p in self.pairs))
        table = {m: [self.accuracy(m, c) for c in cases] for m in self.metrics}
        counts = [sum(p.case == c for p in self.pairs) for c in cases]
        return pd.DataFrame({"n": counts, **table}, index=pd.Index(cases, name="case"))

    def failures(self, metric: str) -> pd.DataFrame:
        """Return a table of the pairs where a metric disagrees with the label."""
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
    """Return the pairs of this library, written and labelled by hand."""
    return tuple(LabelledPair(**row) for row in read_json(LABELLED))


def agreement(
    metrics: Sequence[str] | Mapping[str, AnswerMetric] | None = None,
    labelled: Sequence[LabelledPair] | pd.DataFrame | None = None,
) -> Agreement:
    """Compare answer metrics with labels.

    Args:
        metrics: Names of `ANSWER_METRICS`, or the user's own metrics by name. If None, all that are installed.
        labelled: Labelled pairs, or a DataFrame with the columns gold, answer, right (and question, case). If None, the
            pairs of this library.

    Raises:
        InputError: If there is no metric, one is unknown or not installed, a column is missing, or all labels are
            equal.

    >>> agreement(["rouge_l"]).accuracy("rouge_l", "negation") < 0.5
    True
    """
    pairs = _pairs(labelled)
    if len({p.right for p in pairs}) < 2:
        raise InputError(f"{len(pairs)} labelled pairs, all with the same label; give right and wrong answers")
    if isinstance(metrics, str):
        raise InputError(f"metrics={metrics!r} is one text; give a list of names, e.g. [{metrics!r}]")
    if not isinstance(metrics, Mapping):
        names = [n for n in ANSWER_METRICS if n != "semantic_similarity" or embedder_installed()]
        metrics = {name: ANSWER_METRICS[name] for name in (names if metrics is None else metrics)}
    if not metrics:
        raise InputError("metrics is empty; name at least one, e.g. ['rouge_l']")
    generated, gold = [p.answer for p in pairs], [p.gold for p in pairs]
    scores = [metric.score(generated, gold).double() for metric in metrics.values()]
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
