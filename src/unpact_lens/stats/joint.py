"""Draw every quantity of one distance from the same resamples: subjects, seeds and one unseen subject.

1. Each draw weights the subjects by independent exponential numbers (Bayesian bootstrap, Rubin 1981) and the seeds by
   Dirichlet numbers, whose spread is that of a mean of as many seeds.
2. Every quantity adds one subject that was not seen, of average size: its outcomes are drawn by Jeffreys' prior. For
   facts of one subject each, a rate is then drawn from Beta(events + ½, non-events + ½). A bootstrap of the observed
   subjects alone has zero width if no event was observed, however few the facts.
3. Forgetting, destruction and excess are computed in every draw with the same weights, so a distance, a maximum or a
   difference of them keeps how they depend on each other.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from unpact_lens.errors import InputError
from unpact_lens.stats.bootstrap import DRAWS
from unpact_lens.stats.clusters import as_rows

CELLS = 4
"""Outcomes of an unseen subject under two conditions: both, only the first, only the second, neither."""


@dataclass(frozen=True)
class JointResamples:
    """Hold the draws that all quantities share.

    Attributes:
        subjects: Names of the subjects.
        weights: Weight of each subject in each draw, `[draw, subject]`.
        seeds: Weight of each seed in each draw, `[draw, seed]`.
        seed: Random seed.
    """

    subjects: tuple[str, ...]
    weights: NDArray[np.float64]
    seeds: NDArray[np.float64]
    seed: int

    @classmethod
    def draw(cls, subjects: Sequence[str], *, seeds: int = 1, draws: int = DRAWS, seed: int = 0) -> JointResamples:
        """Draw the weights of subjects and seeds.

        Args:
            subjects: Subject of each fact of any quantity; repeated names count once.
            seeds: Number of seeds.
            draws: Number of draws.
            seed: Random seed.

        Raises:
            InputError: If there are no seeds or draws.
        """
        if seeds < 1 or draws < 1:
            raise InputError(f"seeds={seeds}, draws={draws}; give at least one of each")
        generator = np.random.default_rng(seed)
        names = tuple(dict.fromkeys(subjects))
        weights = generator.exponential(size=(draws, len(names)))
        # Dirichlet weights of concentration (S - 2)/S give a mean of S seeds the variance s²/S. For two seeds the limit
        # is one of them, drawn at random.
        if seeds > 2:
            of_seeds = generator.dirichlet(np.full(seeds, (seeds - 2) / seeds), size=draws)
        else:
            of_seeds = np.eye(seeds)[generator.integers(seeds, size=draws)]
        return cls(names, weights, of_seeds, seed)

    def rate(
        self,
        happened: Bool[Tensor, "*seeds item"],
        clusters: Sequence[str],
        *,
        among: Bool[Tensor, "*seeds item"] | None = None,
        quantity: str,
    ) -> Float[Tensor, " draw"]:
        """Compute the rate of an event in every draw.

        Args:
            happened: True for facts where the event occurred, in rows if there are several seeds.
            clusters: Subject of each fact.
            among: True for outcomes that count; if None, all.
            quantity: Name of the quantity. Quantities of one name share the unseen subject.

        Returns:
            One rate for each draw; NaN if no fact counts.

        Raises:
            InputError: If the shapes or subjects do not fit, or the number of seeds is another.
        """
        unseen = self._unseen(quantity)
        return self._mean(happened, clusters, among, unseen[:, :2].sum(1), unseen.sum(1))

    def difference(
        self,
        first: Bool[Tensor, "*seeds item"],
        second: Bool[Tensor, "*seeds item"],
        clusters: Sequence[str],
        *,
        among: Bool[Tensor, "*seeds item"] | None = None,
        quantity: str,
    ) -> Float[Tensor, " draw"]:
        """Compute the difference of two rates on the same facts in every draw; see `rate`."""
        unseen = self._unseen(quantity)
        return self._mean(first.double() - second.double(), clusters, among, unseen[:, 1] - unseen[:, 2], unseen.sum(1))

    def _unseen(self, quantity: str) -> NDArray[np.float64]:
        """Draw the weight of each outcome of the unseen subject of a quantity, `[draw, cell]`; they sum to Gamma(1)."""
        generator = np.random.default_rng([self.seed, zlib.crc32(quantity.encode())])
        return generator.gamma(1 / CELLS, size=(len(self.weights), CELLS))

    def _mean(
        self,
        values: Tensor,
        clusters: Sequence[str],
        among: Tensor | None,
        unseen: NDArray[np.float64],
        unseen_weight: NDArray[np.float64],
    ) -> Float[Tensor, " draw"]:
        rows, mask = as_rows(values, clusters, among)  # [seed, item]
        if len(rows) not in (1, self.seeds.shape[1]):
            raise InputError(f"outcomes of {len(rows)} seeds, resamples of {self.seeds.shape[1]}; give as many")
        place = {name: i for i, name in enumerate(self.subjects)}
        missing = next((c for c in clusters if c not in place), None)
        if missing is not None:
            raise InputError(f"subject {missing!r} is not among those that were drawn; draw the subjects of all facts")
        if not mask.any():
            return torch.full((len(self.weights),), float("nan"), dtype=torch.float64)
        seeds = self.seeds if len(rows) > 1 else np.ones((len(self.weights), 1))
        total, counted = seeds @ rows, seeds @ mask  # [draw, item]
        groups = np.array([place[c] for c in clusters])
        weights = self.weights[:, groups] * (counted > 0)  # [draw, item]
        of_items = np.divide(total, counted, out=np.zeros_like(total), where=counted > 0)  # [draw, item]
        present = mask.any(0)
        size = present.sum() / len(set(groups[present].tolist()))  # facts of an average subject
        sums = (weights * of_items).sum(1) + size * unseen
        return torch.from_numpy(sums / (weights.sum(1) + size * unseen_weight))
