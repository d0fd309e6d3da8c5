"""What an evaluation found: every metric on every item, and what follows for each group of facts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unpact_lens.data.benchmark import GROUPS
from unpact_lens.errors import InputError, nearest
from unpact_lens.evaluation.perplexity import perplexity
from unpact_lens.results import Result
from unpact_lens.stats.bootstrap import mean_interval
from unpact_lens.stats.estimate import Estimate, MeanRate, Rate, lost

FACT = "fact_span"
"""The metric by which a fact counts as right."""

RETAIN = "retain"
"""Near and far together."""

PLAIN_TEXT = "plain text"
"""The group under which perplexity stands."""

BENCHMARK = "benchmark"
"""The group under which metrics of a whole benchmark stand."""


def kept_groups(groups: Iterable[str]) -> tuple[str, ...]:
    """Whose losses D is the mean of: near and far, or the one of them that a benchmark has.

    Args:
        groups: of a benchmark's items.

    >>> kept_groups(["forget", "far", "near", "far"]), kept_groups(["forget", "far"])
    (('near', 'far'), ('far',))
    """
    found = set(groups)
    return tuple(group for group in ("near", "far") if group in found)


@dataclass(frozen=True, eq=False)
class Scores(Result):
    """Metrics of one model on one benchmark, item by item, beside those of the models it is compared with.

    Attributes:
        benchmark: its name.
        metrics: names of the metrics per item, in the order of the rows of `values`.
        ids: id of each item.
        subjects: whom or what each is about; intervals cluster by it.
        kinds: kind of knowledge of each.
        groups: group of each, one of `GROUPS`.
        generated: what the model answered to the plain prompt, greedily.
        values: each metric on each item; 0 or 1 where the metric is right or wrong.
        binary: for each metric, whether it is right or wrong (then its mean is a rate).
        values_before: the same of the model before unlearning, None without one.
        values_reference: the same of the reference (retrain) model, None without one.
        text_nll: negative log-likelihood of each plain text, nats; empty without plain text.
        text_tokens: tokens scored in each.
        text_nll_before: of the model before.
        text_nll_reference: of the reference model.
        overall: metrics of the whole benchmark, by name.
        settings: how the answers were made.
    """

    figure: ClassVar[str | None] = "metrics:scores_table"

    benchmark: str
    metrics: tuple[str, ...]
    ids: tuple[str, ...]
    subjects: tuple[str, ...]
    kinds: tuple[str, ...]
    groups: tuple[str, ...]
    generated: tuple[str, ...]
    values: Float[Tensor, "metric item"]
    binary: tuple[bool, ...]
    values_before: Float[Tensor, "metric item"] | None = None
    values_reference: Float[Tensor, "metric item"] | None = None
    text_nll: Float[Tensor, " text"] = field(default_factory=lambda: torch.zeros(0))
    text_tokens: Int[Tensor, " text"] = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    text_nll_before: Float[Tensor, " text"] | None = None
    text_nll_reference: Float[Tensor, " text"] | None = None
    overall: dict[str, float] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    def beside(self, *, before: Scores | None = None, reference: Scores | None = None) -> Scores:
        """The same scores with those of the models that they are compared with.

        Args:
            before: scores of the model before unlearning.
            reference: scores of the retrain model.

        Raises:
            InputError: if those are of other items, or lack a metric or a text.
        """
        changes: dict[str, Any] = {}
        for name, other in (("before", before), ("reference", reference)):
            if other is not None:
                changes[f"values_{name}"] = self._values_of(other, name)
                changes[f"text_nll_{name}"] = other.text_nll if len(self.text_nll) else None
        return replace(self, **changes)

    @property
    def right(self) -> Bool[Tensor, " item"]:
        """Whether each fact was given: the fact span, in the generated answer."""
        return self.of(FACT) == 1

    @property
    def right_before(self) -> Bool[Tensor, " item"]:
        """Whether the model before gave each fact."""
        return self._of_before(FACT) == 1

    @property
    def forgetting(self) -> Rate:
        """F: among the forget facts right before, the fraction wrong after."""
        return self._lost("forget")

    @property
    def destruction_near(self) -> Rate:
        """D of near facts: among those right before, the fraction wrong after."""
        return self._lost("near")

    @property
    def destruction_far(self) -> Rate:
        """D of far facts: among those right before, the fraction wrong after."""
        return self._lost("far")

    @property
    def destruction(self) -> MeanRate:
        """D: the mean of near and far, or the one of them that the benchmark has; undefined where a part of it is."""
        return MeanRate(tuple(self._lost(group) for group in kept_groups(self.groups)))

    @property
    def destruction_general(self) -> Rate:
        """Among the general items right before, the fraction wrong after: reported apart from D."""
        return self._lost("general")

    @property
    def perplexity(self) -> float:
        """Perplexity of the plain texts: exp of the mean negative log-likelihood of a token; NaN without plain text."""
        return perplexity(self.text_nll, self.text_tokens)

    @property
    def perplexity_before(self) -> float:
        """The same of the model before; NaN without one."""
        return float("nan") if self.text_nll_before is None else perplexity(self.text_nll_before, self.text_tokens)

    @property
    def perplexity_reference(self) -> float:
        """The same of the reference model; NaN without one."""
        nll = self.text_nll_reference
        return float("nan") if nll is None else perplexity(nll, self.text_tokens)

    def of(self, metric: str) -> Float[Tensor, " item"]:
        """One metric on each item.

        Raises:
            InputError: if it was not evaluated.
        """
        return self.values[self._row(metric)]

    def mean(self, metric: str, group: str | None = None, *, kind: str | None = None) -> float:
        """Mean of a metric over a group of items, and a kind of knowledge; NaN where there are none."""
        chosen = self._chosen(group, kind)
        return float(self.of(metric)[chosen].mean()) if bool(chosen.any()) else float("nan")

    def rate(self, metric: str, group: str | None = None, *, kind: str | None = None) -> Rate:
        """A right-or-wrong metric as a rate with its interval.

        Raises:
            InputError: if the metric is not one of right or wrong.
        """
        if not self.binary[self._row(metric)]:
            raise InputError(f"metric {metric!r} is not right or wrong but a number; use .mean({metric!r})")
        chosen = self._chosen(group, kind)
        return Rate(int((self.of(metric)[chosen] == 1).sum()), int(chosen.sum()))

    def by_kind(self) -> dict[str, Scores]:
        """The same scores, for each kind of knowledge apart.

        What has no kind (perplexity, metrics of the whole benchmark) is left out.
        """
        return {kind: self._only(self._chosen(None, kind)) for kind in dict.fromkeys(self.kinds)}

    def to_frame(self) -> pd.DataFrame:
        """One row a metric and group: mean, its 95% interval, the number of items, and the models compared with.

        Then forgetting, destruction (near, far, their mean, general) where a model before is known, and perplexity.
        """
        rows = [self._metric_row(m, g) for m in self.metrics for g in GROUPS if g in self.groups]
        if self.values_before is not None:
            rates: dict[tuple[str, str], Estimate] = {
                ("forgetting", "forget"): self.forgetting,
                ("destruction", "near"): self.destruction_near,
                ("destruction", "far"): self.destruction_far,
                ("destruction", "near and far"): self.destruction,
                ("destruction", "general"): self.destruction_general,
            }
            rows += [
                {"metric": m, "group": g, "value": r.value, "low": r.low, "high": r.high, "n": r.n}
                for (m, g), r in rates.items()
            ]
        if len(self.text_nll):
            rows.append(
                {
                    "metric": "perplexity", "group": PLAIN_TEXT, "value": self.perplexity, "n": len(self.text_nll),
                    "before": self.perplexity_before, "reference": self.perplexity_reference,
                }
            )  # fmt: skip
        rows += [{"metric": name, "group": BENCHMARK, "value": value} for name, value in self.overall.items()]
        columns = ["metric", "group", "value", "low", "high", "n", "before", "reference"]
        frame = pd.DataFrame(rows, columns=columns)
        absent = {"before": self.values_before is None, "reference": self.values_reference is None}
        return frame.drop(columns=[name for name, gone in absent.items() if gone])

    def items_frame(self) -> pd.DataFrame:
        """One row an item: id, subject, kind, group, what was generated, and every metric."""
        frame = pd.DataFrame(
            {
                "id": self.ids, "subject": self.subjects, "kind": self.kinds, "group": self.groups,
                "generated": self.generated,
            }
        )  # fmt: skip
        return frame.assign(**{m: self.values[i].numpy() for i, m in enumerate(self.metrics)})

    def _metric_row(self, metric: str, group: str) -> dict[str, Any]:
        chosen = self._chosen(group, None)
        row = self._row(metric)
        if self.binary[row]:
            rate = self.rate(metric, group)
            low, high = rate.low, rate.high
        else:
            subjects = [s for s, kept in zip(self.subjects, chosen.tolist(), strict=True) if kept]
            low, high = mean_interval(self.of(metric)[chosen], subjects)
        entry = {"metric": metric, "group": group, "value": self.mean(metric, group), "low": low, "high": high}
        entry["n"] = int(chosen.sum())
        for name, values in (("before", self.values_before), ("reference", self.values_reference)):
            if values is not None:
                entry[name] = float(values[row][chosen].mean())
        return entry

    def _values_of(self, other: Scores, name: str) -> Tensor:
        """Another model's values of the same metrics on the same items."""
        if other.ids != self.ids:
            raise InputError(
                f"{name}: scores of benchmark {other.benchmark!r} with {len(other.ids)} items do not fit "
                f"{self.benchmark!r} with {len(self.ids)}; evaluate both on the same benchmark"
            )
        if len(self.text_nll) and not torch.equal(self.text_tokens, other.text_tokens):
            raise InputError(f"{name}: its scores are not of the same plain text; evaluate it with the same metrics")
        return torch.stack([other.of(metric) for metric in self.metrics])

    def _row(self, metric: str) -> int:
        if metric not in self.metrics:
            raise InputError(f"metric {metric!r} was not evaluated; {nearest(metric, self.metrics)}")
        return self.metrics.index(metric)

    def _of_before(self, metric: str) -> Tensor:
        if self.values_before is None:
            raise InputError("there is no model before to compare with; evaluate with before=…")
        return self.values_before[self._row(metric)]

    def _lost(self, group: str) -> Rate:
        chosen = self._chosen(group, None)
        return lost(self.right_before[chosen], self.right[chosen])

    def _chosen(self, group: str | None, kind: str | None) -> Bool[Tensor, " item"]:
        known = (*GROUPS, RETAIN)
        if group is not None and group not in known:
            raise InputError(f"unknown group {group!r}; {nearest(group, known)}")
        wanted = {None: GROUPS, RETAIN: ("near", "far")}.get(group, (group,))
        fits = [g in wanted and kind in (None, k) for g, k in zip(self.groups, self.kinds, strict=True)]
        return torch.tensor(fits, dtype=torch.bool)

    def _only(self, chosen: Bool[Tensor, " item"]) -> Scores:
        kept = chosen.nonzero()[:, 0].tolist()
        return replace(
            self,
            ids=tuple(self.ids[i] for i in kept),
            subjects=tuple(self.subjects[i] for i in kept),
            kinds=tuple(self.kinds[i] for i in kept),
            groups=tuple(self.groups[i] for i in kept),
            generated=tuple(self.generated[i] for i in kept),
            values=self.values[:, chosen],
            values_before=None if self.values_before is None else self.values_before[:, chosen],
            values_reference=None if self.values_reference is None else self.values_reference[:, chosen],
            text_nll=self.text_nll[:0],
            text_tokens=self.text_tokens[:0],
            text_nll_before=None,
            text_nll_reference=None,
            overall={},
        )
