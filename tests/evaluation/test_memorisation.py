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
        ([1, 1, 1, 0], 0.0, 0.75),  # no prefix is enough
        ([0, 0, 0, 0], 0.0, 0.0),
        ([0], 0.0, 0.0),
        ([1], 1.0, 1.0),
    ],
)
def test_closed_forms(right, strength, exact):
    tensor = torch.tensor(right, dtype=torch.bool)
    assert extraction_strength(tensor) == strength
    assert exact_memorisation(tensor) == exact


def test_extraction_strength_is_the_shortest_sufficient_prefix():
    """Brute force over every prefix, as in the definition; answers of every length, one token included."""
    generator = torch.Generator().manual_seed(0)
    for i in range(300):
        length = 1 + i % 6
        right = torch.rand(length, generator=generator) < 0.7
        prefixes = [k for k in range(length + 1) if right[k:].all()]
        assert extraction_strength(right) == pytest.approx(1 - min(prefixes) / length)


def test_open_unlearning_s_form_never_falls_below_one_token():
    """The loop of `evals/metrics/memorization.py`: k stops at T − 1."""
    generator = torch.Generator().manual_seed(1)
    for i in range(300):
        right = torch.rand(1 + i % 6, generator=generator) < 0.6
        for k in range(len(right)):
            if right[k:].all():
                break
        assert extraction_strength(right, as_open_unlearning=True) == pytest.approx(1 - k / len(right))
