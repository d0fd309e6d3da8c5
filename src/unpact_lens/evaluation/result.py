"""Hold the scores of a model: every metric on every item, and rates for each group of facts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unpact_lens.data.benchmark import GROUPS
from unpact_lens.data.splits import KEPT, TRAINED, UNSEEN
from unpact_lens.display import joined
from unpact_lens.errors import InputError, nearest
from unpact_lens.evaluation.memorised_retention import memorised_retention
from unpact_lens.evaluation.perplexity import perplexity
from unpact_lens.results import Result
from unpact_lens.stats.bootstrap import mean_interval
from unpact_lens.stats.estimate import Estimate, MeanRate, PlainEstimate, Rate, lost

FACT = "fact_span"
"""Metric that decides whether a fact is right."""

RETAIN = "retain"
"""Group name for near and far together."""

PLAIN_TEXT = "plain text"
"""Group name of perplexity in tables."""

BENCHMARK = "benchmark"
"""Group name of metrics of the whole benchmark in tables."""


def kept_groups(groups: Iterable[str]) -> tuple[str, ...]:
    """Return the groups whose losses D averages: near and far, or the one of them that a benchmark has.

    Args:
        groups: Group of each item of a benchmark.

    >>> kept_groups(["forget", "far", "near", "far"]), kept_groups(["forget", "far"])
    (('near', 'far'), ('far',))
    """
    found = set(groups)
    return tuple(group for group in KEPT if group in found)


@dataclass(frozen=True, eq=False)
class Scores(Result):
    """Hold metrics of one model on each item of a benchmark, beside those of the models to compare with.

    Attributes:
        benchmark: Name of the benchmark.
        metrics: Names of the rows of `values`.
        ids: Id of each item.
        subjects: Subject of each item; intervals resample subjects.
        kinds: Kind of knowledge of each item.
        groups: Group of each item, one of `GROUPS`. The groups `"near"` and `"far"` mean unseen facts in all means,
            rates and tables, or all of them if the benchmark is not split.
        generated: Greedy answer to the plain prompt of each item.
        values: Each metric on each item; 0 or 1 for binary metrics.
        binary: True for metrics that are right or wrong, so their mean is a rate.
        values_before: Values of the original model; None without one.
        values_reference: Values of the retrained model; None without one.
        text_nll: Negative log-likelihood of each plain text, nats; empty without plain text.
        text_tokens: Number of tokens scored in each plain text.
        text_nll_before: `text_nll` of the original model; None without one.
        text_nll_reference: `text_nll` of the retrained model; None without one.
        overall: Metrics of the whole benchmark, by name.
        settings: How the answers were made, and how the retain facts were split.
        parts: `"trained"` or `"unseen"` for each near and far item, `""` for the others. Empty for scores of version
            0.1, which did not split: D is then of all retain facts, and D_trained is undefined.
        negated: True where the generated answer mentions the fact only to deny it. Such facts are not right. Empty in
            scores of version 0.1.
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
    parts: tuple[str, ...] = ()
    negated: Bool[Tensor, " _"] = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))

    def _brief(self) -> str:
        return joined(
            [f"F {self.forgetting}", f"D {self.destruction}"]
            if self.values_before is not None
            else [self.benchmark, f"{len(self.ids)} items", f"{float(self.right.double().mean()):.2f} right"]
        )

    def beside(self, *, before: Scores | None = None, reference: Scores | None = None) -> Scores:
        """Return these scores together with those of the models to compare with.

        Args:
            before: Scores of the original model.
            reference: Scores of the retrained model.

        Raises:
            InputError: If those are of other items, or lack a metric or a text.
        """
        changes: dict[str, Any] = {}
        for name, other in (("before", before), ("reference", reference)):
            if other is not None:
                changes[f"values_{name}"] = self._values_of(other, name)
                changes[f"text_nll_{name}"] = other.text_nll if len(self.text_nll) else None
        return replace(self, **changes)

    @property
    def right(self) -> Bool[Tensor, " item"]:
        """Return whether each generated answer contains its fact."""
        return self.of(FACT) == 1

    @property
    def right_before(self) -> Bool[Tensor, " item"]:
        """Return whether each answer of the original model contains its fact."""
        return self._of_before(FACT) == 1

    @property
    def forgetting(self) -> Rate:
        """Return F: the share of forget facts right before unlearning that are wrong after it."""
        return self._lost("forget", None)

    @property
    def destruction_near(self) -> Rate:
        """Return D of unseen near facts: the share right before unlearning that is wrong after it."""
        return self._lost("near", UNSEEN)

    @property
    def destruction_far(self) -> Rate:
        """Return D of unseen far facts: the share right before unlearning that is wrong after it."""
        return self._lost("far", UNSEEN)

    @property
    def destruction(self) -> MeanRate:
        """Return D, on unseen retain facts: the mean of near and far, or the one that the benchmark has.

        Undefined if a part is, and if the benchmark's retain facts are not split.
        """
        return self._mean_lost(UNSEEN)

    @property
    def destruction_trained(self) -> MeanRate:
        """Return D_trained: the same on the retain facts that a retain term may train on."""
        return self._mean_lost(TRAINED)

    @property
    def memorised_retention(self) -> PlainEstimate:
        """Return D − D_trained: above 0 if the model keeps what it rehearses and loses the rest."""
        return memorised_retention(self.destruction, self.destruction_trained)

    @property
    def destruction_general(self) -> Rate:
        """Return the share of general items right before unlearning that are wrong after it; not a part of D."""
        return self._lost("general", None)

    @property
    def perplexity(self) -> float:
        """Return exp of the mean negative log-likelihood of a token of the plain texts; NaN without plain text."""
        return perplexity(self.text_nll, self.text_tokens)

    @property
    def perplexity_before(self) -> float:
        """Return the perplexity of the original model; NaN without one."""
        return float("nan") if self.text_nll_before is None else perplexity(self.text_nll_before, self.text_tokens)

    @property
    def perplexity_reference(self) -> float:
        """Return the perplexity of the retrained model; NaN without one."""
        nll = self.text_nll_reference
        return float("nan") if nll is None else perplexity(nll, self.text_tokens)

    def of(self, metric: str) -> Float[Tensor, " item"]:
        """Return one metric on each item.

        Raises:
            InputError: If it was not evaluated.
        """
        return self.values[self._row(metric)]

    def mean(self, metric: str, group: str | None = None, *, kind: str | None = None) -> float:
        """Compute the mean of a metric over the items of a group and a kind of knowledge; NaN if there are none."""
        chosen = self.among(group, kind=kind)
        return float(self.of(metric)[chosen].mean()) if bool(chosen.any()) else float("nan")

    def rate(self, metric: str, group: str | None = None, *, kind: str | None = None) -> Rate:
        """Return the mean of a binary metric as a rate with its interval.

        Raises:
            InputError: If the metric is not binary.
        """
        if not self.binary[self._row(metric)]:
            raise InputError(f"metric {metric!r} is a number and not right or wrong; use .mean({metric!r})")
        chosen = self.among(group, kind=kind)
        return Rate.of(self.of(metric) == 1, self.subjects, among=chosen)

    def estimate(self, metric: str, group: str | None = None, *, kind: str | None = None) -> Estimate:
        """Return the mean of a metric with its 95% CI: Wilson's for binary metrics, else a bootstrap over subjects."""
        chosen = self.among(group, kind=kind)
        if self.binary[self._row(metric)]:
            rate = self.rate(metric, group, kind=kind)
            low, high = rate.low, rate.high
        else:
            subjects = [s for s, kept in zip(self.subjects, chosen.tolist(), strict=True) if kept]
            low, high = mean_interval(self.of(metric)[chosen], subjects)
        return PlainEstimate(self.mean(metric, group, kind=kind), low, high, int(chosen.sum()))

    def denied(self, group: str | None = None, *, kind: str | None = None) -> Rate:
        """Return the share of answers that mention their fact only to deny it, as "It is not Oslo" does.

        Raises:
            InputError: If these are scores of version 0.1, which did not count them.
        """
        if len(self.negated) != len(self.ids):
            raise InputError("these scores do not say which facts were denied; evaluate the model again")
        chosen = self.among(group, kind=kind)
        return Rate.of(self.negated, self.subjects, among=chosen)

    def by_kind(self) -> dict[str, Scores]:
        """Split the scores by kind of knowledge.

        Perplexity and metrics of the whole benchmark have no kind and are excluded.
        """
        return {kind: self._only(self.among(kind=kind)) for kind in dict.fromkeys(self.kinds)}

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row for each metric and group, with 95% CIs and the models to compare with.

        Forgetting, destruction (near, far, their mean, general), destruction of trained facts and memorised retention
        follow if there is an original model, then perplexity and metrics of the whole benchmark.
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
            if self.parts:
                rates |= {("destruction_trained", g): self._lost(g, TRAINED) for g in KEPT}
                rates[("destruction_trained", "near and far")] = self.destruction_trained
                rates[("memorised_retention", "near and far")] = self.memorised_retention
            rows += [{"metric": m, "group": g, **rate.row()} for (m, g), rate in rates.items()]
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
        """Return a table with one row for each item: id, subject, kind, group, part, answer, and every metric."""
        frame = pd.DataFrame(
            {
                "id": self.ids, "subject": self.subjects, "kind": self.kinds, "group": self.groups,
                "generated": self.generated,
            }
        )  # fmt: skip
        if self.parts:
            frame.insert(4, "part", self.parts)
        return frame.assign(**{m: self.values[i].numpy() for i, m in enumerate(self.metrics)})

    def _metric_row(self, metric: str, group: str) -> dict[str, Any]:
        chosen = self.among(group)
        row = self._row(metric)
        entry: dict[str, Any] = {"metric": metric, "group": group, **self.estimate(metric, group).row()}
        for name, values in (("before", self.values_before), ("reference", self.values_reference)):
            if values is not None:
                entry[name] = float(values[row][chosen].mean())
        return entry

    def _values_of(self, other: Scores, name: str) -> Tensor:
        """Return another model's values of the same metrics on the same items."""
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
            raise InputError("there is no original model to compare with; evaluate with before=…")
        return self.values_before[self._row(metric)]

    def among(
        self, group: str | None = None, *, kind: str | None = None, part: str | None = None
    ) -> Bool[Tensor, " item"]:
        """Return which items are of a group, a kind of knowledge and a part of the retain facts.

        Args:
            group: One of `GROUPS`, or `"retain"` for near and far together. If None, all items of all parts.
            kind: Kind of knowledge. If None, all.
            part: `"trained"` or `"unseen"`. If None, unseen near and far facts, or all of them if the benchmark is not
                split.

        Raises:
            InputError: If there is no such group or part.
        """
        known = (*GROUPS, RETAIN)
        if group is not None and group not in known:
            raise InputError(f"unknown group {group!r}; {nearest(group, known)}")
        if part not in (None, TRAINED, UNSEEN):
            raise InputError(f"unknown part {part!r} of the retain facts; {nearest(str(part), (TRAINED, UNSEEN))}")
        if part is None and group is not None and self.settings.get("retain_split") is not None:
            part = UNSEEN
        wanted = {None: GROUPS, RETAIN: KEPT}.get(group, (group,))
        parts = self.parts or tuple(UNSEEN if g in KEPT else "" for g in self.groups)
        fits = [
            g in wanted and kind in (None, k) and (part in (None, p) or g not in KEPT)
            for g, k, p in zip(self.groups, self.kinds, parts, strict=True)
        ]
        return torch.tensor(fits, dtype=torch.bool)

    def _mean_lost(self, part: str) -> MeanRate:
        groups = kept_groups(self.groups)
        counted = [(self.right_before & self.among(group, part=part)).tolist() for group in groups]
        subjects = [[s for s, kept in zip(self.subjects, some, strict=True) if kept] for some in counted]
        return MeanRate.of([self._lost(group, part) for group in groups], subjects)

    def _lost(self, group: str, part: str | None) -> Rate:
        return lost(self.right_before & self.among(group, part=part), self.right, self.subjects)

    def _only(self, chosen: Bool[Tensor, " item"]) -> Scores:
        kept = chosen.nonzero()[:, 0].tolist()
        return replace(
            self,
            ids=tuple(self.ids[i] for i in kept),
            subjects=tuple(self.subjects[i] for i in kept),
            kinds=tuple(self.kinds[i] for i in kept),
            groups=tuple(self.groups[i] for i in kept),
            parts=tuple(self.parts[i] for i in kept) if self.parts else (),
            generated=tuple(self.generated[i] for i in kept),
            values=self.values[:, chosen],
            negated=self.negated[chosen] if len(self.negated) else self.negated,
            values_before=None if self.values_before is None else self.values_before[:, chosen],
            values_reference=None if self.values_reference is None else self.values_reference[:, chosen],
            text_nll=self.text_nll[:0],
            text_tokens=self.text_tokens[:0],
            text_nll_before=None,
            text_nll_reference=None,
            overall={},
        )
