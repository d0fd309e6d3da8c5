"""Weights that are laid out as TransformerLens reads them give the same numbers, and are not copied at each pass."""

import einops
import pytest
import torch

from tests.conftest import tiny
from unpact_lens.models.checkpoint import clone
from unpact_lens.models.weight_layout import lay_out

pytestmark = pytest.mark.hooked

TOKENS = torch.tensor([[3, 14, 15, 9, 26], [5, 35, 8, 9, 7]])


def gradients(model):
    logits = model(TOKENS)
    logits.log_softmax(-1)[..., 4].sum().backward()
    return logits.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_logits_and_gradients_are_the_same_to_the_last_bit(style, dtype):
    plain, laid = tiny(style, dtype=dtype), tiny(style, dtype=dtype)
    lay_out(laid)
    assert any(not p.is_contiguous() for p in laid.parameters())
    logits, grads = gradients(plain)
    ours, our_grads = gradients(laid)
    assert torch.equal(ours, logits)
    assert grads.keys() == our_grads.keys()
    assert all(torch.equal(our_grads[name], grads[name]) for name in grads)
    assert all(torch.equal(a, b) for a, b in zip(laid.parameters(), plain.parameters(), strict=True))


@pytest.mark.parametrize("fused", [False, True])
def test_an_optimiser_moves_both_alike(style, fused):
    models = [tiny(style, dtype=torch.float32) for _ in range(2)]
    lay_out(models[1])
    for model in models:
        optimiser = torch.optim.AdamW(model.parameters(), lr=0.01, fused=fused)
        for _ in range(3):
            optimiser.zero_grad()
            model(TOKENS).log_softmax(-1)[..., 4].sum().backward()
            optimiser.step()
    for (name, a), b in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7, msg=name)


def test_what_transformer_lens_asks_for_is_a_view_also_in_copies(style):
    model = tiny(style)
    lay_out(model)
    for made in (model, clone(model)):
        attention, mlp = made.blocks[1].attn, made.blocks[1].mlp
        own = dict(attention.named_parameters())
        read = [einops.rearrange(own[n], "n d h -> (n h) d") for n in ("W_Q", "W_K", "_W_K", "W_V", "_W_V") if n in own]
        read.append(einops.rearrange(own["W_O"], "n h d -> d (n h)").contiguous())
        if style == "llama":
            read += [weight.T.contiguous() for weight in (mlp.W_gate, mlp.W_in, mlp.W_out)]
        else:
            assert mlp.W_in.is_contiguous()
        kept = {p.data_ptr() for p in made.parameters()}
        assert all(part.data_ptr() in kept for part in read)
