"""Activation changes equal those of two plain forward passes; equal models have none."""

import importlib
import math

import pytest
import torch

from tests.comparison.models import pair
from tests.conftest import tiny
from unpact_lens.comparison import activation_changes, diff
from unpact_lens.comparison.activation_changes import cosines, linear_cka
from unpact_lens.errors import InputError
from unpact_lens.models.checkpoint import clone
from unpact_lens.results import load, save

PROMPT, ANSWER = [3, 1, 4, 1, 5], [9, 2]
TOKENS = torch.tensor([(PROMPT + ANSWER)[:-1]])


@pytest.mark.parametrize("overrides", [{}, {"output_logits_soft_cap": 3.0}])
def test_changes_equal_those_of_two_plain_runs(style, overrides, monkeypatch):
    module = importlib.import_module("unpact_lens.comparison.activation_changes")
    monkeypatch.setattr(module, "CHUNK", 4)
    before, after = pair(style, **overrides)
    found = activation_changes(before, after, PROMPT, ANSWER)
    caches = [model.run_with_cache(TOKENS) for model in (before, after)]
    i = found.hooks.index("blocks.1.hook_mlp_out")
    a, b = (cache["mlp_out", 1][0] for _, cache in caches)
    torch.testing.assert_close(found.norm_delta[i], (b - a).norm(dim=1), atol=1e-10, rtol=0)
    torch.testing.assert_close(found.relative[i], (b - a).norm(dim=1) / a.norm(dim=1), atol=1e-10, rtol=0)
    torch.testing.assert_close(found.cosine[i], torch.cosine_similarity(a, b), atol=1e-10, rtol=0)
    p, q = (logits[0].log_softmax(-1) for logits, _ in caches)
    expected = torch.nn.functional.kl_div(q, p, log_target=True, reduction="none").sum(-1)
    torch.testing.assert_close(found.kl, expected, atol=1e-10, rtol=0)
    assert found.hooks[-1] == "blocks.2.hook_resid_post"


def test_a_copy_has_no_changes(style):
    model = tiny(style, dtype=torch.float32)
    found = diff(model, clone(model), PROMPT, ANSWER, weights=False, activations=True).activations
    assert not found.norm_delta.any()
    assert not found.kl.any()
    assert (found.cosine == 1).all()
    assert (found.cka == 1).all()


def test_cka_is_invariant_to_rotation_and_scale_only():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(20, 6, dtype=torch.float64, generator=generator)
    rotation = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=generator))[0]
    assert linear_cka(a, 3 * a @ rotation + 5).item() == pytest.approx(1)
    x, y = a - a.mean(0), (a**2) - (a**2).mean(0)
    expected = (y.T @ x).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm())
    assert linear_cka(a, a**2).item() == pytest.approx(expected.item())
    assert math.isnan(linear_cka(torch.ones(4, 2), torch.ones(4, 2)).item())


def test_cosine_is_nan_if_one_activation_is_zero():
    a = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    assert cosines(a, a).isnan().tolist() == [False, True]


def test_changes_survive_saving_and_hooks_can_be_chosen(tmp_path):
    found = activation_changes(*pair(), PROMPT, ANSWER, hooks=["blocks.0.attn.hook_z"])
    assert load(save(found, tmp_path / "a")) == found
    assert found.to_frame()["hook"].to_list() == ["blocks.0.attn.hook_z"]
    with pytest.raises(InputError, match=r"no hook 'blocks\.9\.hook_z'"):
        activation_changes(*pair(), PROMPT, ANSWER, hooks=["blocks.9.hook_z"])
    with pytest.raises(InputError, match=r"cfg\.d_vocab is 50 before and 60 after"):
        activation_changes(tiny(), tiny(d_vocab=60), PROMPT, ANSWER)
