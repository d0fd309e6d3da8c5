"""UDS is 0 if nothing was unlearned, 1 for the retrained model's states, and equals its formula in between."""

import math

import pytest
import torch

from tests.comparison.models import moved
from tests.conftest import tiny
from unpact_lens.comparison import unlearning_depth
from unpact_lens.comparison.unlearning_depth import depth_score
from unpact_lens.data.benchmark import QA
from unpact_lens.errors import InputError
from unpact_lens.models.checkpoint import clone
from unpact_lens.results import load, save

ITEMS = [([3, 1, 4], [9, 2]), ([5, 6, 7, 8], [1])]


@pytest.fixture
def full():
    return tiny("llama")


def test_depth_is_0_if_nothing_was_unlearned_and_1_for_the_retrained_model(full):
    retrain = moved(full, size=0.3)
    nothing = unlearning_depth(full, retrain, clone(full), ITEMS, threshold=0.0)
    everything = unlearning_depth(full, retrain, clone(retrain), ITEMS, threshold=0.0)
    assert nothing.scores.tolist() == pytest.approx([0, 0], abs=1e-9)
    assert everything.scores.tolist() == pytest.approx([1, 1], abs=1e-9)
    assert nothing.score == pytest.approx(0, abs=1e-9)


def test_each_delta_is_the_loss_with_the_donors_state_at_every_position(full):
    retrain = moved(full, size=0.3)
    found = unlearning_depth(full, retrain, full, ITEMS)
    prompt, answer = ITEMS[0]
    tokens = torch.tensor([(prompt + answer)[:-1]])
    _, cache = retrain.run_with_cache(tokens)
    scores = []
    for hooks in ([], [("blocks.1.hook_resid_post", lambda act, hook: cache["resid_post", 1])]):
        logits = full.run_with_hooks(tokens, fwd_hooks=hooks)[0, len(prompt) - 1 :].log_softmax(-1)
        scores.append(logits[[0, 1], answer].mean())
    assert found.delta_retrain[0, 1].item() == pytest.approx((scores[0] - scores[1]).item(), abs=1e-10)
    assert found.labels == ("L0", "L1", "L2")


def test_layers_are_weighted_by_the_loss_of_the_retrained_state():
    retrain = torch.tensor([[1.0, 3.0, 0.04, 0.0], [0.01, 0.0, -2.0, 0.0]], dtype=torch.float64)
    unlearned = torch.tensor([[0.5, 6.0, 9.0, 1.0], [1.0, 1.0, 1.0, 1.0]], dtype=torch.float64)
    scores = depth_score(retrain, unlearned, 0.05)
    assert scores[0].item() == pytest.approx((1 * 0.5 + 3 * 1) / 4)
    assert math.isnan(scores[1].item())
    assert depth_score(retrain[:1], -unlearned[:1], 0.05).item() == 0


def test_depth_survives_saving_and_bad_input_raises_an_error(full, tmp_path):
    found = unlearning_depth(full, moved(full), moved(full, seed=8), ITEMS)
    assert load(save(found, tmp_path / "u")) == found
    assert found.ids == ("0", "1")
    with pytest.raises(InputError, match="no items"):
        unlearning_depth(full, full, full, [])
    with pytest.raises(InputError, match=r"threshold=-1\.0"):
        unlearning_depth(full, full, full, ITEMS, threshold=-1.0)
    with pytest.raises(InputError, match=r"cfg\.n_layers"):
        unlearning_depth(full, full, tiny("llama", n_layers=2), ITEMS)
    with pytest.raises(InputError, match="has no tokenizer"):
        unlearning_depth(full, full, full, [QA("Where?", " Here.", id="q")])
