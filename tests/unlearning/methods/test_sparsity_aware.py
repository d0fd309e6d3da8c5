"""Sparsity-aware unlearning updates surviving weights only."""

import pytest
import torch

from tests.unlearning.conftest import untrained, world
from tests.unlearning.runs import ONE
from unpact_lens.errors import InputError
from unpact_lens.unlearning import unlearn
from unpact_lens.unlearning.methods.sparsity_aware import redirected, survivors


def test_pruned_weights_stay_at_zero(learned, facts):
    u = unlearn(learned, *facts, method="sparsity_aware", sparsity=0.5, lr=1e-3, steps=5, weight_decay=0.1,
                progress=False)  # fmt: skip
    w0, w1 = learned.blocks[0].mlp.W_in, u.model.blocks[0].mlp.W_in
    mask = survivors(w0, 0.5)
    assert mask.sum() == w0.numel() - w0.numel() // 2
    assert (w1[~mask] == 0).all()
    assert (w1[mask] != w0[mask]).float().mean() > 0.9
    assert w0[~mask].abs().max() <= w0[mask].abs().min()
    assert not torch.equal(u.model.embed.W_E, learned.embed.W_E)


def test_redirected_gradients_keep_their_norm_and_favour_importance():
    g = torch.Generator().manual_seed(0)
    grad, weight = torch.randn(6, 5, generator=g), torch.randn(6, 5, generator=g)
    mask = survivors(weight, 0.4)
    out = redirected(grad, weight, mask, 2.0)
    assert (out[~mask] == 0).all()
    torch.testing.assert_close(out.norm(), grad.norm())
    factor = (out / grad)[mask]
    importance = (weight * grad).abs()[mask]
    expected = 1 + 2.0 * importance / importance.mean()
    torch.testing.assert_close(factor / factor[0], expected / expected[0])
    with pytest.raises(InputError, match=r"sparsity=1\.0; give a number from 0 to below 1"):
        unlearn(untrained(), *world(), method="sparsity_aware", sparsity=1.0, **ONE)
