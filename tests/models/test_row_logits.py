"""Logits and gradients of padded rows equal those of transformers, and hooks are never passed over."""

import copy

import pytest
import torch

from tests.models.zoo import zoo_model
from unpact_lens.models import hooked
from unpact_lens.models.convert import to_bridge
from unpact_lens.models.row_logits import row_logits
from unpact_lens.models.shared_weights import share
from unpact_lens.models.source_model import source_model
from unpact_lens.models.weights import WRAPPED
from unpact_lens.unlearning.adapters import Adapters
from unpact_lens.unlearning.precision import economical
from unpact_lens.unlearning.settings import Settings

ON_SOURCE = ("llama", "gemma2", "gemma3_text", "granite", "olmo", "qwen3_moe")
"""Rotary positions, soft-caps, windows shorter than the rows, scaled logits, limited values, experts."""

HOOKED = ("gpt2", "gpt_neox", "phi3")
"""Architectures with fused matrices, which train on the hooked model."""

TOKENS = torch.randint(2, 300, (3, 12), generator=torch.Generator().manual_seed(0))
POSITIONS = torch.tensor([[5, 6, 7], [9, 10, 11], [2, 3, 4]])
WEIGHTS = torch.linspace(0.5, 1.5, 9).reshape(3, 3)
"""Unequal weights of the positions, so that a mixed-up position shows."""


def loss_of(logits):
    return -(logits.float().log_softmax(-1)[..., 7] * WEIGHTS).sum()


def truth(hf):
    """Loss and gradients of transformers alone, one row at a time and without what follows the last position."""
    hf.zero_grad()
    total = 0.0
    for row, at, weights in zip(TOKENS, POSITIONS, WEIGHTS, strict=True):
        ids = row[: int(at.max()) + 1]
        log_probs = hf(ids[None], use_cache=False).logits[0, at].float().log_softmax(-1)
        total = total - (log_probs[:, 7] * weights).sum()
    total.backward()
    return float(total), {n: p.grad.clone() for n, p in hf.named_parameters() if p.grad is not None}


def pair(name):
    hf = zoo_model(name).float().eval()
    return copy.deepcopy(hf), to_bridge(hf, None)


def gradients(model, compute=row_logits):
    for p in model.parameters():
        p.grad = None
    value = loss_of(compute(model, TOKENS, POSITIONS))
    value.backward()
    return float(value), {n.replace(WRAPPED, ""): p.grad for n, p in model.original_model.named_parameters()}


def close(found, want):
    scale = max(float(g.abs().max()) for g in want.values())
    assert scale > 0
    for name, gradient in want.items():
        torch.testing.assert_close(found[name], gradient, atol=2e-5 * scale, rtol=0, msg=name)


@pytest.mark.parametrize("name", ON_SOURCE)
def test_gradients_equal_those_of_transformers(name):
    hf, model = pair(name)
    assert source_model(model, with_gradients=True) is not None
    value, found = gradients(model)
    expected, want = truth(hf)
    assert value == pytest.approx(expected, abs=1e-4)
    close(found, want)


@pytest.mark.parametrize("name", HOOKED)
def test_parts_of_fused_matrices_get_their_gradients(name):
    hf, model = pair(name)
    assert source_model(model, with_gradients=True) is None
    value, found = gradients(model)
    expected, want = truth(hf)
    assert value == pytest.approx(expected, abs=1e-4)
    close(
        {n: g for n, g in found.items() if g is not None}, {n: g for n, g in want.items() if found.get(n) is not None}
    )
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", ["llama", "qwen3_moe", "gemma2"])
def test_gradients_of_adapters_follow_from_those_of_the_whole_weight(name):
    r"""With $W + s A B$, the gradients are $s\,G B^T$ and $s\,A^T G$, where G is that of the sum."""
    hf, before = pair(name)
    plain = row_logits(before, TOKENS, POSITIONS).detach()
    after = share(before)
    adapters = Adapters(after, None, 4, 8.0, seed=0)
    torch.manual_seed(1)
    sums = dict(hf.named_parameters())
    names = {p.data_ptr(): n.replace(WRAPPED, "") for n, p in before.original_model.named_parameters()}
    with torch.no_grad():
        for module, leaf, adapter in adapters.places:
            adapter.B.normal_(std=0.05)
            stored = names[module.parametrizations[leaf].original.data_ptr()]
            change = adapter.A @ adapter.B * adapter.scale
            turned = isinstance(module, torch.nn.Linear)  # stored [out, in]; the router of experts is a bare matrix
            sums[stored] += change.T if turned else change
            adapter.whole, adapter.turned = stored, turned
    assert source_model(after, with_gradients=True) is not None
    value, _ = gradients(after)
    expected, want = truth(hf)
    assert value == pytest.approx(expected, abs=1e-4)
    for _, _, adapter in adapters.places:
        whole = want[adapter.whole].T if adapter.turned else want[adapter.whole]  # [row, column]
        scale = float(whole.abs().max()) + 1e-6
        torch.testing.assert_close(adapter.A.grad, adapter.scale * whole @ adapter.B.T, atol=1e-4 * scale, rtol=1e-3)
        torch.testing.assert_close(adapter.B.grad, adapter.scale * adapter.A.T @ whole, atol=1e-4 * scale, rtol=1e-3)
    assert torch.equal(row_logits(before, TOKENS, POSITIONS), plain)  # adapters are on `after` only
    with torch.no_grad():
        assert source_model(after) is not source_model(before)


def test_adapters_added_and_removed_later_are_seen():
    _, model = pair("llama")
    plain = row_logits(model, TOKENS, POSITIONS).detach()
    adapters = Adapters(model, None, 2, 8.0, seed=0)
    with torch.no_grad():
        for _, _, adapter in adapters.places:
            adapter.B.fill_(0.05)
        adapted = hooked.logits_at(model, TOKENS, POSITIONS)
    torch.testing.assert_close(row_logits(model, TOKENS, POSITIONS), adapted, atol=1e-5, rtol=0)
    assert not torch.allclose(adapted, plain, atol=1e-3)
    adapters.merge()
    torch.testing.assert_close(row_logits(model, TOKENS, POSITIONS), adapted, atol=1e-5, rtol=0)
    assert source_model(model, with_gradients=True) is not None


@pytest.mark.parametrize("name", [*ON_SOURCE, *HOOKED])
def test_recomputing_layers_changes_no_gradient(name):
    _, model = pair(name)
    value, plain = gradients(model)
    plain = {n: g.clone() for n, g in plain.items() if g is not None}
    calls = []
    source = source_model(model, with_gradients=True)
    if source is not None:
        source.hf.base_model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    with economical(model, Settings(recompute=True)):
        again, found = gradients(model)
    assert len(calls) == (2 if source else 0)  # once forward, once in the backward pass
    assert again == pytest.approx(value, abs=1e-5)
    close({n: g for n, g in found.items() if g is not None}, plain)


@pytest.mark.parametrize("adapted", [False, True])
def test_the_check_is_not_made_in_the_precision_of_training(adapted):
    _, model = pair("llama")
    if adapted:
        for _, _, adapter in Adapters(model, None, 2, 8.0, seed=0).places:
            torch.nn.init.normal_(adapter.B, std=0.05)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert source_model(model, with_gradients=True) is not None
        half = row_logits(model, TOKENS, POSITIONS)
    assert half.dtype == torch.bfloat16
    whole = row_logits(model, TOKENS, POSITIONS)
    assert not torch.equal(half.float(), whole)
    torch.testing.assert_close(half.float(), whole, atol=0.1, rtol=0.1)


def test_adapters_on_fused_matrices_leave_the_source_model_of_the_plain_bridge():
    _, model = pair("gpt2")
    with torch.no_grad():
        assert source_model(model) is not None
        adapters = Adapters(model, None, 2, 8.0, seed=0)
        assert source_model(model) is None
        adapters.merge()
        assert source_model(model) is not None


def test_hooks_of_the_user_act_on_training():
    _, model = pair("llama")
    plain = row_logits(model, TOKENS, POSITIONS)
    with model.hooks(fwd_hooks=[("blocks.0.hook_mlp_out", lambda act, hook: act * 0)]):
        changed = row_logits(model, TOKENS, POSITIONS)
    assert not torch.allclose(plain, changed, atol=1e-3)
    assert torch.equal(plain, row_logits(model, TOKENS, POSITIONS))


def test_in_double_precision_the_hooked_model_trains():
    model = to_bridge(zoo_model("llama").double(), None, dtype=torch.float64)
    assert source_model(model, with_gradients=True) is None
    assert torch.equal(row_logits(model, TOKENS, POSITIONS), hooked.logits_at(model, TOKENS, POSITIONS))
