"""Interactions are their formula, by brute force."""

import pytest
import torch

from tests.attribution.test_leave_one_out import by_hand, random_ids
from tests.conftest import tiny
from unpact_lens import results
from unpact_lens.attribution import interactions
from unpact_lens.attribution.interactions import contributions
from unpact_lens.attribution.units import make_example
from unpact_lens.errors import InputError
from unpact_lens.models.tokens import encode

PROMPT, ANSWER = random_ids(6), [4, 2]


def lost(model, gone):
    kept = [t for i, t in enumerate(PROMPT) if i not in gone]
    return (by_hand(model, PROMPT, ANSWER) - by_hand(model, kept, ANSWER)).mean()


def test_each_pair_equals_its_formula_by_brute_force(model64):
    found = interactions(model64, PROMPT, ANSWER)
    for i in range(6):
        torch.testing.assert_close(found.single[i], lost(model64, {i}), atol=1e-10, rtol=0)
        for j in range(i):
            expected = lost(model64, {i, j}) - lost(model64, {i}) - lost(model64, {j})
            torch.testing.assert_close(found.matrix[i, j], expected, atol=1e-10, rtol=0)
            assert found.matrix[i, j] == found.matrix[j, i]
    assert found.matrix.diagonal().isnan().all()


def test_chosen_units_give_a_submatrix():
    model = tiny("llama")
    whole = interactions(model, PROMPT, ANSWER, units=[(0, 2), (2, 3), (5, 6)])
    part = interactions(model, PROMPT, ANSWER, units=[(0, 2), (2, 3), (5, 6)], chosen=[2, 0])
    torch.testing.assert_close(part.matrix[0, 1], whole.matrix[0, 2], atol=1e-10, rtol=0)
    torch.testing.assert_close(whole.matrix[0, 1], lost(model, {0, 1, 2}) - lost(model, {0, 1}) - lost(model, {2}))
    assert part.indices == (2, 0)


@pytest.mark.parametrize(("needed", "expected"), [(1, 1.0), (2, -1.0), (0, 0.0)])
def test_redundant_units_are_positive_and_complementary_units_negative(needed, expected):
    """A game on the ids alone: the answer has value 1 where at least so many of the tokens 7 and 8 stand."""
    example = make_example(tiny(), encode(tiny(), [7, 3, 8], [1]), [7, 3, 8], [1])

    def score(families):
        return [[torch.tensor([float(len({7, 8} & set(r.prompt)) >= needed)]) for r in f] for f in families]

    single, pair = contributions(score, example, (0, 2))
    assert pair[0, 1] - single[0] - single[1] == expected


def test_interactions_convert_to_a_table_and_survive_saving(tmp_path):
    found = interactions(tiny(), PROMPT, ANSWER)
    frame = found.to_frame()
    assert len(frame) == 15
    assert frame["interaction"].abs().is_monotonic_decreasing
    assert results.load(found.save(tmp_path / "i")) == found


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chosen": [0, 6]}, "unit 6 is out of range; the prompt has 6 units, 0 to 5"),
        ({"chosen": [1, 1]}, r"chosen=\[1, 1\] names a unit twice"),
        ({"chosen": [1]}, "1 unit cannot interact"),
        ({"units": [(0, 3), (3, 6)]}, "leaves no context before the answer"),
    ],
)
def test_bad_choices_are_named(options, message):
    with pytest.raises(InputError, match=message):
        interactions(tiny(), PROMPT, ANSWER, **options)
