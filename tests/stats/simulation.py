"""Simulate facts of subjects and seeds with known rates, and measure the coverage and errors of intervals and tests.

Write the full tables into the page: `python -m tests.stats.simulation`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.stats import beta, norm

from unpact_lens.stats.estimate import Rate
from unpact_lens.stats.joint import JointResamples
from unpact_lens.stats.paired import Outcomes, paired_difference, simultaneous_differences

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


def difference_coverage(world: World, pair: tuple[float, float], runs: int, seed: int = 0) -> float:
    """Measure how often the interval of a paired difference contains it."""
    rng, hits = np.random.default_rng(seed), 0
    for _ in range(runs):
        found = paired_difference(*world.draw(rng, pair), world.subjects)
        hits += covers(found.low, pair[0] - pair[1], found.high)
    return hits / runs


def sign_flip_error(world: World, rate: float, runs: int, seed: int = 0) -> float:
    """Measure how often two equal rates get p ≤ .05."""
    rng, hits = np.random.default_rng(seed), 0
    for _ in range(runs):
        p = paired_difference(*world.draw(rng, [rate, rate]), world.subjects).p
        hits += p is not None and p <= 0.05
    return hits / runs


def set_results(world: World, probes: int, rate: float, runs: int, seed: int = 0) -> tuple[float, float, float]:
    """Measure coverage of the whole set, false significance in it, and a false *hid* at ε = .1, for a retrained model.

    All probes ask the same facts of two models of the same rate.
    """
    rng, whole, significant, hid = np.random.default_rng(seed), 0, 0, 0
    for run in range(runs):
        drawn = world.draw(rng, [rate] * (2 * probes))
        outcomes = {i: Outcomes(drawn[2 * i], drawn[2 * i + 1]) for i in range(probes)}
        found = simultaneous_differences(outcomes, world.subjects, seed=run).values()
        whole += all(covers(d.low, 0.0, d.high) for d in found)
        significant += any((d.adjusted_p or 1.0) <= 0.05 for d in found)
        hid += any(d.low > 0.1 for d in found)
    return whole / runs, significant / runs, hid / runs
