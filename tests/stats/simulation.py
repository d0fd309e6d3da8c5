"""Simulate facts of subjects and seeds with known rates, and measure the coverage and errors of intervals and tests.

Write the full tables into the page: `python -m tests.stats.simulation`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.stats import beta, norm

from unpact_lens.comparison.sample import Sample
from unpact_lens.evaluation.verdict import side
from unpact_lens.stats.estimate import Rate
from unpact_lens.stats.joint import JointResamples
from unpact_lens.stats.paired import Outcomes, paired_difference, simultaneous_differences
from unpact_lens.stats.sign_flip import sign_flip_p
from unpact_lens.stats.tests import mcnemar

FACTS_A_SUBJECT = 6
ICCS, SEEDS, FACTS, PROBES = (0.0, 0.3, 0.6), (1, 3), (12, 96), (1, 12)
SAME = 0.7
"""Chance that a seed repeats the first seed's outcome of a fact."""

RATES = (0.02, 0.05, 0.1, 0.3, 0.5, 0.95)
PAIRS = ((0.2, 0.02), (0.1, 0.1), (0.3, 0.3), (0.6, 0.2))
NULLS = (0.1, 0.3, 0.5)
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "stats.md"


@dataclass(frozen=True)
class World:
    """Hold how facts are alike: ICC within a subject, number of seeds and facts, and how much seeds differ."""

    icc: float
    seeds: int
    facts: int
    seed_spread: float = 0.0

    @property
    def subjects(self) -> list[str]:
        return [str(i // FACTS_A_SUBJECT) for i in range(self.facts)]

    def draw(self, rng: np.random.Generator, rates: Iterable[float], link: float = 0.5) -> list[torch.Tensor]:
        """Draw outcomes `[seed, item]` for each rate; the subjects' rates are beta, linked by a normal copula."""
        clusters = self.facts // FACTS_A_SUBJECT
        shared = rng.normal(size=clusters)
        found = []
        for rate in rates:
            chance = np.full((self.seeds, clusters), rate)
            if self.icc:
                spread = (1 - self.icc) / self.icc
                ranks = norm.cdf(link * shared + np.sqrt(1 - link**2) * rng.normal(size=clusters))
                chance[:] = beta.ppf(ranks, rate * spread, (1 - rate) * spread)
            if self.seed_spread:
                shift = self.seed_spread * min(rate, 1 - rate) * rng.uniform(-1.7, 1.7, size=(self.seeds, 1))
                chance = np.clip(chance * (1 + shift / rate), 0, 1)
            of_facts = np.repeat(chance, FACTS_A_SUBJECT, axis=1)
            uniform = rng.random((self.seeds, self.facts))
            repeat = rng.random((self.seeds, self.facts)) < SAME
            uniform = np.where(repeat, uniform[:1], uniform)
            found.append(torch.from_numpy(uniform < of_facts))
        return found


def covers(low: float, value: float, high: float) -> bool:
    return low - 1e-9 <= value <= high + 1e-9


def rate_coverage(world: World, rate: float, runs: int, seed: int = 0) -> float:
    """Measure how often the interval of one rate contains it."""
    rng, hits = np.random.default_rng(seed), 0
    for _ in range(runs):
        found = Rate.of(world.draw(rng, [rate])[0], world.subjects)
        hits += covers(found.low, rate, found.high)
    return hits / runs


def joint_coverage(world: World, rate: float, runs: int, seed: int = 0) -> float:
    """Measure how often the quantiles of the joint resamples of one rate contain it."""
    rng, hits = np.random.default_rng(seed), 0
    for run in range(runs):
        outcome = world.draw(rng, [rate])[0]
        joint = JointResamples.draw(world.subjects, seeds=world.seeds, draws=400, seed=run)
        drawn = joint.rate(outcome, world.subjects, quantity="F").numpy()
        low, high = np.quantile(drawn, [0.025, 0.975])
        value = float(outcome.double().mean())
        # The interval of a distance contains its estimate, so that no event gives a lower end of 0.
        hits += covers(min(low, value), rate, max(high, value))
    return hits / runs


def compared(world: World, rng: np.random.Generator, rates: Iterable[float]) -> list[Outcomes]:
    """Draw pairs of an unlearned model of several seeds and one retrained model, as studies compare them."""
    drawn = world.draw(rng, rates)
    pairs = zip(drawn[::2], drawn[1::2], strict=True)
    return [Outcomes(first, second[:1].expand_as(first)) for first, second in pairs]


def difference_coverage(world: World, pair: tuple[float, float], runs: int, seed: int = 0) -> float:
    """Measure how often the interval of a paired difference contains it."""
    rng, hits = np.random.default_rng(seed), 0
    for _ in range(runs):
        (o,) = compared(world, rng, pair)
        found = paired_difference(o.first, o.second, world.subjects)
        hits += covers(found.low, pair[0] - pair[1], found.high)
    return hits / runs


def sign_flip_error(world: World, rate: float, runs: int, seed: int = 0) -> float:
    """Measure how often two equal rates get p ≤ .05 by the sign-flip test."""
    rng, errors = np.random.default_rng(seed), 0
    for _ in range(runs):
        (o,) = compared(world, rng, [rate, rate])
        shares = (o.first.double() - o.second.double()).mean(0).numpy()
        errors += sign_flip_p(shares.reshape(-1, FACTS_A_SUBJECT).sum(1)) <= 0.05
    return errors / runs


def pooled_mcnemar_error(world: World, rate: float, runs: int, seed: int = 0) -> float:
    """Measure the same for McNemar's test with every seed of every fact as a pair, which version 0.1 used."""
    rng, errors = np.random.default_rng(seed), 0
    for _ in range(runs):
        (o,) = compared(world, rng, [rate, rate])
        errors += mcnemar(int((o.first & ~o.second).sum()), int((~o.first & o.second).sum())) <= 0.05
    return errors / runs


def set_results(world: World, probes: int, rate: float, runs: int, seed: int = 0) -> tuple[float, float, float]:
    """Measure coverage of the whole set, false significance in it, and a false *hid* at ε = .1, for a retrained model.

    All probes ask the same facts of two models of the same rate, with linked subjects.
    """
    rng, whole, significant, hid = np.random.default_rng(seed), 0, 0, 0
    for run in range(runs):
        outcomes = dict(enumerate(compared(world, rng, [rate] * (2 * probes))))
        found = simultaneous_differences(outcomes, world.subjects, seed=run).values()
        whole += all(covers(d.low, 0.0, d.high) for d in found)
        significant += any(d.adjusted_p is not None and d.adjusted_p <= 0.05 for d in found)
        hid += any(side(d, 0.1) == "above" for d in found)
    return whole / runs, significant / runs, hid / runs


def map_error(subjects: int, heads: int, runs: int, seed: int = 0) -> tuple[float, float]:
    """Measure how often a map of effects of mean 0 has a dot, and how many 95% intervals exclude 0 in it."""
    rng, dots, clear = np.random.default_rng(seed), 0, 0.0
    names = tuple(str(i // 3) for i in range(3 * subjects))
    sample = Sample(names, names, 0.95, 300, 0)
    for _ in range(runs):
        of_subjects = np.repeat(rng.normal(size=(subjects, heads)), 3, axis=0)
        values = torch.from_numpy(of_subjects + rng.standard_t(4, size=of_subjects.shape))
        table = sample.means(values)
        dots += bool((sample.adjusted_p(values) <= 0.05).any())
        clear += float(((table[:, 1] > 0) | (table[:, 2] < 0)).sum())
    return dots / runs, clear / runs


@dataclass(frozen=True)
class Measured:
    """Hold one cell of the grid: what was measured at each truth."""

    what: str
    world: World
    probes: int
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return float(np.mean(self.values))

    def row(self) -> dict[str, object]:
        worst = max(self.values) if self.what.startswith("false") or "type I" in self.what else min(self.values)
        return {
            "measured": self.what, "probes": self.probes, "ICC": self.world.icc, "seeds": self.world.seeds,
            "facts": self.world.facts, "mean": f"{self.mean:.3f}", "worst": f"{worst:.3f}",
        }  # fmt: skip


def worlds() -> list[World]:
    """Return every combination of ICC, seeds and facts."""
    return [World(*combination) for combination in itertools.product(ICCS, SEEDS, FACTS)]


def measure_one(world: World, runs: int) -> list[Measured]:
    """Measure single rates, single differences and the test of one difference."""
    parts: list[tuple[str, tuple, Callable]] = [
        ("coverage of a rate", RATES, rate_coverage),
        ("coverage of a difference", PAIRS, difference_coverage),
        ("type I error of the sign-flip test", NULLS, sign_flip_error),
    ]
    return [Measured(name, world, 1, tuple(f(world, t, runs) for t in truths)) for name, truths, f in parts]


def measure_set(world: World, probes: int, runs: int) -> list[Measured]:
    """Measure a family of probes."""
    by_truth = [set_results(world, probes, rate, runs) for rate in NULLS[:2]]
    names = ("coverage of the whole set", "type I error of the whole set", "false *hid*")
    return [
        Measured(name, world, probes, values) for name, values in zip(names, zip(*by_truth, strict=True), strict=True)
    ]


def measure(runs: int, runs_of_sets: int) -> list[Measured]:
    """Measure the whole grid."""
    found = []
    for world in worlds():
        found += measure_one(world, runs)
        for probes in PROBES:
            found += measure_set(world, probes, runs_of_sets)
    return found


def write_page(found: list[Measured], page: Path = PAGE) -> None:
    """Write the tables between the markers of the page."""
    frame = pd.DataFrame([m.row() for m in found])
    tables = []
    for (what, probes), rows in frame.groupby(["measured", "probes"], sort=False):
        wide = rows.assign(cell=rows["mean"] + " (" + rows["worst"] + ")")
        wide = wide.pivot_table(index=["seeds", "facts"], columns="ICC", values="cell", aggfunc="first").reset_index()
        head = f"**{what[0].upper()}{what[1:]}, {probes} probe{'s' if probes > 1 else ''}**"
        lines = ["| seeds | facts | " + " | ".join(f"ICC {c:g}" for c in ICCS) + " |", "|---|---|" + "---|" * len(ICCS)]
        lines += ["| " + " | ".join(str(v) for v in row) + " |" for row in wide.to_numpy().tolist()]
        tables.append("\n".join([head, "", *lines]))
    text = page.read_text(encoding="utf-8")
    start, end = "<!-- coverage -->", "<!-- /coverage -->"
    before, after = text.split(start)[0], text.split(end)[1]
    page.write_text(before + start + "\n\n" + "\n\n".join(tables) + "\n\n" + end + after, encoding="utf-8")


if __name__ == "__main__":
    write_page(measure(runs=1000, runs_of_sets=400))
