"""Faithfulness numbers are their formulas, by brute force."""

import math
from dataclasses import replace

import pytest
import torch

from tests.attribution.test_leave_one_out import by_hand, random_ids, with_bos
from tests.conftest import tiny
from unpact_lens import results
from unpact_lens.attribution import attribute, faithfulness
from unpact_lens.attribution.faithfulness import on_grid
from unpact_lens.errors import InputError

PROMPT, ANSWER = random_ids(10), [4, 2]


def value(model, kept, bos=()):
    return by_hand(model, [*bos, *(PROMPT[i] for i in sorted(kept))], ANSWER).mean().item()


def test_curves_and_numbers_equal_their_formulas(style):
    model = with_bos(tiny(style))
    a = attribute(model, PROMPT, ANSWER)
    order = a.scores.argsort(descending=True).tolist()
    down = [value(model, set(range(10)) - set(order[:k]), [1]) for k in range(11)]
    up = [value(model, order[:k], [1]) for k in range(11)]
    found = faithfulness(model, [a], bins=(0.01, 0.2, 0.5))
    assert found.deletion[0, ::2].tolist() == pytest.approx(down, abs=1e-10)
    assert found.insertion[0, ::2].tolist() == pytest.approx(up, abs=1e-10)
    # Between two numbers of units, the curve is straight.
    assert found.deletion[0, 1].item() == pytest.approx((down[0] + down[1]) / 2, abs=1e-10)
    assert found.aopc[0].item() == pytest.approx(sum(down[0] - d for d in down[1:]) / 10, abs=1e-10)
    assert found.insertion_gain[0].item() == pytest.approx(sum(u - up[0] for u in up[1:]) / 10, abs=1e-10)
    # A bin of 1% is one unit: at least one counts.
    assert found.comprehensiveness[0].item() == pytest.approx(sum(down[0] - down[k] for k in (1, 2, 5)) / 3, abs=1e-10)
    assert found.sufficiency[0].item() == pytest.approx(sum(down[0] - up[k] for k in (1, 2, 5)) / 3, abs=1e-10)


def test_without_bos_the_empty_prompt_is_excluded():
    model = tiny()
    found = faithfulness(model, [attribute(model, PROMPT, ANSWER)])
    assert found.deletion[0, -1].isnan()
    assert found.insertion[0, 0].isnan()
    assert found.deletion[0, :-2].isfinite().all()
    assert found.aopc.isfinite().all()
    assert found.insertion_gain.isfinite().all()


def test_a_better_ranking_is_more_faithful():
    model = with_bos(tiny("llama"))
    a = attribute(model, PROMPT, ANSWER)
    backwards = replace(a, scores=-a.scores)
    good, bad = (faithfulness(model, [x]) for x in (a, backwards))
    assert good.aopc > bad.aopc
    assert good.comprehensiveness > bad.comprehensiveness


def test_probability_can_be_measured_and_results_saved(tmp_path):
    model = with_bos(tiny())
    found = faithfulness(model, [attribute(model, PROMPT, ANSWER)], target="prob")
    whole = by_hand(model, [1, *PROMPT], ANSWER).exp().mean().item()
    assert found.deletion[0, 0].item() == pytest.approx(whole, abs=1e-10)
    assert results.load(found.save(tmp_path / "f")) == found


def test_interpolation_is_exact_at_its_points_and_does_not_spread_nan():
    curve = torch.tensor([1.0, 3.0, math.nan])
    read = on_grid(curve, torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0]))
    assert read[:3].tolist() == [1.0, 2.0, 3.0]
    assert read[3:].isnan().all()


def test_bad_input_is_named():
    model = tiny()
    a = attribute(model, PROMPT, ANSWER)
    with pytest.raises(InputError, match="no attributions are given"):
        faithfulness(model, [])
    with pytest.raises(InputError, match="attributions are by grad_norm and leave_one_out"):
        faithfulness(model, [a, attribute(model, PROMPT, ANSWER, method="grad_norm")])
    with pytest.raises(InputError, match="unknown target 'probability'"):
        faithfulness(model, [a], target="probability")
    with pytest.raises(InputError, match=r"bin 2\.0 is not a fraction"):
        faithfulness(model, [a], bins=(2.0,))
