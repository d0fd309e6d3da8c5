"""Tokens are drawn with the model's probabilities, whatever the size of the vocabulary."""

import pytest
import torch
from scipy.stats import chisquare

from unpact_lens.models.draw import LARGE, drawn

DRAWS = 20_000


def counts(size, at, temperature=1.0):
    """Number of draws of each of four tokens, of probabilities 1:2:3:4 at temperature 1; all others have 0."""
    logits = torch.full((size,), -torch.inf)
    logits[list(at)] = torch.tensor([1.0, 2.0, 3.0, 4.0]).log()
    found = drawn(torch.Generator().manual_seed(0), temperature)(logits.expand(DRAWS // 20, -1))
    rounds = [found, *(drawn(torch.Generator().manual_seed(s), temperature)(logits.expand(DRAWS // 20, -1))
                       for s in range(1, 20))]  # fmt: skip
    return torch.bincount(torch.cat(rounds), minlength=size)


@pytest.mark.parametrize("size", [LARGE, LARGE + 1])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("at", [(0, 1, 2, 3), (5, 700, 701, LARGE - 1)])
def test_frequencies_are_the_probabilities(size, temperature, at):
    found = counts(size, at, temperature)
    assert int(found.sum()) == int(found[list(at)].sum()) == DRAWS  # what has probability 0 is never drawn
    expected = torch.tensor([1.0, 2.0, 3.0, 4.0]).double() ** (1 / temperature)
    assert chisquare(found[list(at)].numpy(), (expected / expected.sum() * DRAWS).numpy()).pvalue > 1e-3


@pytest.mark.parametrize("size", [LARGE, LARGE + 1])
def test_a_seed_decides_the_draws_and_rows_are_independent(size):
    logits = torch.randn(64, size, generator=torch.Generator().manual_seed(0))
    one, two, other = (drawn(torch.Generator().manual_seed(s))(logits) for s in (3, 3, 4))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert len(drawn(torch.Generator().manual_seed(3))(logits[:1].expand(64, -1)).unique()) > 32
