"""Each target is its formula on the logits at the answer's positions."""

import pytest
import torch

from tests.attribution.test_leave_one_out import random_ids
from tests.conftest import tiny
from unpact_lens.attribution import attribute, attribute_many
from unpact_lens.errors import InputError

PROMPT, ANSWER = random_ids(8), [4, 9, 1]


def answer_logits(model, prompt, answer=ANSWER):
    with torch.no_grad():
        return model(torch.tensor([[*prompt, *answer]]))[0, len(prompt) - 1 : -1]


def differences(model, function):
    whole = function(answer_logits(model, PROMPT))
    return torch.stack(
        [whole - function(answer_logits(model, PROMPT[:i] + PROMPT[i + 1 :])) for i in range(len(PROMPT))]
    )


def at(ids):
    return lambda logits: logits[torch.arange(len(ids)), ids]


@pytest.mark.parametrize(
    ("options", "function"),
    [
        ({"target": "log_prob"}, lambda l: at(ANSWER)(l.log_softmax(-1))),
        ({"target": "prob"}, lambda l: at(ANSWER)(l.softmax(-1))),
        ({"target": "logit"}, at(ANSWER)),
        ({"target": "logit_diff", "foil": [3, 2, 1]}, lambda l: at(ANSWER)(l) - at([3, 2, 1])(l)),
        ({"target": "logit_diff", "foil": [4, 8]}, lambda l: (l[1, 9] - l[1, 8])[None]),
        ({"target": lambda logits, ids: logits.max(-1).values}, lambda l: l.max(-1).values),
        ({"target": lambda logits, ids: logits[0, 3]}, lambda l: l[0, 3][None]),
    ],
)
def test_a_target_equals_its_formula(options, function):
    model = tiny("pythia")
    a = attribute(model, PROMPT, ANSWER, **options)
    expected = differences(model, function)
    torch.testing.assert_close(a.per_answer_token, expected, atol=1e-10, rtol=0)
    torch.testing.assert_close(a.scores, expected.mean(1), atol=1e-10, rtol=0)
    # LP(x, y) is reported whatever the target.
    lp = at(ANSWER)(answer_logits(model, PROMPT).log_softmax(-1)).mean().item()
    assert a.log_prob == pytest.approx(lp, abs=1e-10)


def test_answers_of_different_length_keep_their_own_targets():
    model, items = tiny(), [(PROMPT, ANSWER), (PROMPT[:3], [5])]
    for found, item in zip(attribute_many(model, items, target="prob"), items, strict=True):
        assert torch.allclose(found.scores, attribute(model, *item, target="prob").scores, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "log_probs"}, "unknown target 'log_probs'; did you mean 'log_prob'"),
        ({"target": "logit_diff"}, "needs a foil"),
        ({"target": "logit_diff", "foil": ANSWER}, "the foil equals the answer"),
        ({"target": "logit_diff", "foil": ANSWER[:2]}, "is the beginning of the other"),
        ({"foil": [1]}, r"foil=\[1\] is used by target='logit_diff' only"),
        ({"target": lambda l, y: l}, r"returned shape \(3, 50\).*one of shape \[3\]"),
        ({"target": lambda l, y: 1.0}, "returned a float"),
    ],
)
def test_bad_targets_are_named(options, message):
    with pytest.raises(InputError, match=message):
        attribute(tiny(), PROMPT, ANSWER, **options)
