"""The forget gradient is the sum over token classes, and equals a finite difference."""

import pytest
import torch

from experiments.forgetting.token_gradients import token_classes, token_gradients, weighted_gradient
from tests.evaluation.world import benchmark, trained
from unpact_lens.errors import InputError
from unpact_lens.models.checkpoint import clone
from unpact_lens.models.tokens import Encoded, encode
from unpact_lens.scoring import score_rows


def test_token_classes_by_hand():
    rows = [Encoded((), (1,), (), (5, 6, 7)), Encoded((), (1,), (), (6, 8))]
    assert token_classes(rows, [(1, 3), (0, 1)], frozenset({7})) == [
        ("template", "content", "shared"),
        ("content", "template"),
    ]


def test_classes_sum_to_all_tokens():
    bench = benchmark()
    frame = token_gradients(trained(), bench.forget, bench.retain).set_index("class")
    for column in ("tokens", "share_of_tokens", "damage", "forgetting"):
        parts = frame.loc[["content", "shared", "template"], column].sum()
        assert frame.loc["all", column] == pytest.approx(parts, rel=1e-9)
    assert frame.loc["all", "norm"] <= frame.loc[["content", "shared", "template"], "norm"].sum()
    assert frame.loc["all", "forgetting"] > 0


def test_gradient_equals_a_finite_difference():
    model, qa = clone(trained()).double(), benchmark().forget[0]
    row = encode(model, qa.prompt, qa.answer)
    gradient = weighted_gradient(model, [row], [torch.ones(len(row.answer))], 512)
    direction = gradient / gradient.norm()
    sums = []
    for step in (1e-4, -1e-4):
        moved, at = clone(model), 0
        with torch.no_grad():
            for p in (q for q in moved.parameters() if q.requires_grad):
                p += step * direction[at : at + p.numel()].reshape(p.shape)
                at += p.numel()
        sums.append(float(score_rows(moved, [row])[0].sum()))
    assert (sums[0] - sums[1]) / 2e-4 == pytest.approx(float(gradient.norm()), rel=1e-4)


def test_bad_input_is_named_in_the_error():
    with pytest.raises(InputError, match="0 forget and 16 retain facts"):
        token_gradients(trained(), (), benchmark().retain)
