"""Extraction strength and exact memorisation equal their definitions."""

import pytest
import torch

from unpact_lens.evaluation.memorisation import exact_memorisation, extraction_strength


@pytest.mark.parametrize(
    ("right", "strength", "exact"),
    [
        ([1, 1, 1, 1], 1.0, 1.0),
        ([0, 1, 1, 1], 0.75, 0.75),
        ([1, 0, 1, 1], 0.5, 0.75),
        ([1, 1, 1, 0], 0.25, 0.75),  # the minimum 1/T, though no prefix is enough
        ([0, 0, 0, 0], 0.25, 0.0),
        ([0], 1.0, 0.0),
    ],
)
def test_closed_forms(right, strength, exact):
    tensor = torch.tensor(right, dtype=torch.bool)
    assert extraction_strength(tensor) == strength
    assert exact_memorisation(tensor) == exact


def test_extraction_strength_is_the_shortest_sufficient_prefix():
    """Brute force over every prefix, as in the definition."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        right = torch.rand(6, generator=generator) < 0.7
        prefixes = [k for k in range(6) if right[k:].all()] or [5]
        assert extraction_strength(right) == pytest.approx(1 - min(prefixes) / 6)
