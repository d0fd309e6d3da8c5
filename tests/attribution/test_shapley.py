"""Shapley values satisfy their axioms, equal the average over all orders, and sampled ones are within their error."""

from itertools import permutations

import pytest
import torch

from tests.attribution.test_leave_one_out import by_hand, random_ids, with_bos
from tests.conftest import tiny
from unpact_lens.attribution import attribute
from unpact_lens.attribution.shapley import ESTIMATORS, kernel_second_moment
from unpact_lens.errors import InputError


def game(n, seed=0):
    """A random game of n players with two values, and its table."""
    table = torch.randn(2**n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    places = 2 ** torch.arange(n)
    return lambda coalitions: table[(coalitions * places).sum(1)]


def over_all_orders(value, n):
    total, count = torch.zeros(n, 2, dtype=torch.float64), 0
    for order in permutations(range(n)):
        present = torch.zeros(1, n, dtype=torch.bool)
        before = value(present)[0]
        for unit in order:
            present[0, unit] = True
            now = value(present)[0]
            total[unit] += now - before
            before = now
        count += 1
    return total / count


def estimate(name, value, n, samples, seed=0):
    return ESTIMATORS[name](value, n, samples, torch.Generator().manual_seed(seed))


def test_exact_values_equal_the_mean_over_all_orders():
    value = game(5)
    torch.testing.assert_close(estimate("exact", value, 5, 0)[0], over_all_orders(value, 5), atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", ["permutation", "kernel"])
def test_sampled_values_are_within_their_error(name):
    value = game(6)
    truth = over_all_orders(value, 6).mean(-1)
    runs = [estimate(name, value, 6, 200, seed) for seed in range(40)]
    found = torch.stack([v.mean(-1) for v, _ in runs])
    error = torch.stack([e for _, e in runs])
    # Unbiased: the mean of 40 runs is within 4 of its own errors; honest: the errors say how far runs scatter.
    assert ((found.mean(0) - truth).abs() < 4 * found.std(0) / 40**0.5).all()
    assert ((found.std(0) / error.mean(0)).log2().abs() < 0.6).all()


@pytest.mark.parametrize("name", list(ESTIMATORS))
def test_values_sum_to_the_effect_of_all_units(name):
    value = game(6, seed=1)
    ends = value(torch.tensor([[False] * 6, [True] * 6]))
    torch.testing.assert_close(estimate(name, value, 6, 20)[0].sum(0), ends[1] - ends[0], atol=1e-10, rtol=0)


@pytest.mark.parametrize("name", list(ESTIMATORS))
def test_an_additive_game_is_recovered(name):
    weights = torch.tensor([[1.0, 0.0], [-2.0, 1.0], [0.5, 3.0], [0.0, 0.0]], dtype=torch.float64)
    found, error = estimate(name, lambda c: c.double() @ weights + 7, 4, 4000)
    if name == "kernel":
        # Its moment matrix is exact and its draws are not, so that only the error tells how close it is.
        assert ((found - weights).mean(-1).abs() < 4 * error).all()
    else:
        torch.testing.assert_close(found, weights, atol=1e-12, rtol=0)


def test_the_second_moment_equals_that_of_the_kernel():
    n = 5
    coalitions = torch.tensor([[bool(c >> i & 1) for i in range(n)] for c in range(1, 2**n - 1)]).double()
    sizes = coalitions.sum(1)
    choose = torch.tensor([1.0, 5, 10, 10, 5, 1])[sizes.long()]
    p = 1 / (sizes * (n - sizes)) / choose
    expected = (p[:, None, None] * coalitions[:, :, None] * coalitions[:, None]).sum(0) / p.sum()
    torch.testing.assert_close(kernel_second_moment(n), expected, atol=1e-12, rtol=0)


def test_units_of_a_prompt_are_deleted(style):
    model = with_bos(tiny(style))
    prompt, answer = random_ids(4), [5, 6]
    a = attribute(model, prompt, answer, method="shapley")

    def value(coalitions):
        rows = [[1, *(t for t, here in zip(prompt, c, strict=True) if here)] for c in coalitions.tolist()]
        return torch.stack([by_hand(model, row, answer) for row in rows])

    torch.testing.assert_close(a.per_answer_token, over_all_orders(value, 4), atol=1e-10, rtol=0)
    assert a.settings["estimator"] == "exact"
    assert a.error is None
    gained = by_hand(model, [1, *prompt], answer) - by_hand(model, [1], answer)
    torch.testing.assert_close(a.scores.sum(), gained.mean(), atol=1e-10, rtol=0)


def test_units_are_replaced_if_a_token_is_given():
    model, prompt, answer = tiny(), random_ids(3), [5]
    with pytest.raises(InputError, match="leaves no context before the answer"):
        attribute(model, prompt, answer, method="shapley")
    a = attribute(model, prompt, answer, method="shapley", token=9)
    gained = by_hand(model, prompt, answer) - by_hand(model, [9, 9, 9], answer)
    torch.testing.assert_close(a.scores.sum(), gained.mean(), atol=1e-10, rtol=0)


def test_long_prompts_are_sampled_by_seed():
    model, prompt = tiny(), random_ids(14)
    a, b, c = (
        attribute(model, prompt, [5], method="shapley", token=9, samples=6, seed=s, batch_tokens=512) for s in (0, 0, 1)
    )
    assert a == b
    assert a != c
    assert a.settings["estimator"] == "permutation"
    assert a.error.shape == (14,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"estimator": "kernal"}, "unknown estimator 'kernal'; did you mean 'kernel'"),
        ({"estimator": "exact"}, r"12 units have 2\^12 coalitions; exact values take up to 10"),
        ({"samples": 1}, "samples=1; sampled Shapley values need at least 2"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(InputError, match=message):
        attribute(tiny(), random_ids(12), [1], method="shapley", token=3, **options)
