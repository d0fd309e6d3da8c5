"""A method of the user's own: a loss that sums over an answer says so, with or without a `length_scale` option."""

import pytest

from unpact_lens.unlearning import METHODS, Method, unlearn
from unpact_lens.unlearning.option import Flag, Option

LENGTH = 6
"""Tokens of every answer of the small world: five words, and the end of the text."""


def summed(view, options):
    return (view.log_probs * view.mask).sum(-1).mean()


def averaged(view, options):
    return view.log_probs[view.mask].mean()


def first_row(model, facts, loss, **declared):
    given = {k: declared.pop(k) for k in ("length_scale", "micro_batch") if k in declared}
    METHODS.add("mine", Method("mine", "", "", "", forget=loss, per="example", **declared), replace=True)
    u = unlearn(model, facts[0], method="mine", steps=1, batch_size=6, progress=False, **given)
    return next(row for row in u.history.rows if row["step"] == 1)


def test_a_summed_loss_weighs_as_much_as_a_mean_over_tokens(learned, facts):
    mean = first_row(learned, facts, averaged)
    plain = first_row(learned, facts, summed)
    scaled = first_row(learned, facts, summed, sums=True)
    assert plain["loss"] == plain["forget"] == pytest.approx(LENGTH * mean["loss"], rel=1e-4)
    assert scaled["forget"] == pytest.approx(plain["forget"], rel=1e-6)
    assert scaled["loss"] == pytest.approx(mean["loss"], rel=1e-4)
    assert scaled["grad_norm"] == pytest.approx(mean["grad_norm"], rel=1e-3)


def test_the_option_length_scale_leaves_it_as_it_is(learned, facts):
    options = {"length_scale": Option(True, Flag())}
    found = first_row(learned, facts, summed, sums=True, options=options, length_scale=False)
    assert found["loss"] == found["forget"]


def test_micro_batches_are_weighed_by_examples(learned, facts):
    whole = first_row(learned, facts, summed, sums=True)
    parts = first_row(learned, facts, summed, sums=True, micro_batch=4)
    for name in ("loss", "forget", "grad_norm"):
        assert parts[name] == pytest.approx(whole[name], rel=1e-4)
