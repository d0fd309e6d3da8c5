"""Half-precision weights move as fp32 weights do, within rounding."""

import pytest
import torch

from tests.models.families import hf_model, tokenizer
from tests.unlearning.conftest import untrained, world
from unpact_lens.data.benchmark import QA
from unpact_lens.models.checkpoint import clone
from unpact_lens.models.load import load_model
from unpact_lens.unlearning import unlearn
from unpact_lens.unlearning.master_weights import MasterWeights

HALF = [torch.bfloat16, torch.float16]
RUN = {"method": "npo_gdr", "lr": 1e-4, "steps": 30, "batch_size": 6, "progress": False}


def half_and_full(dtype, style="gpt2"):
    """A half-precision model, and an fp32 model with the same values."""
    half = untrained(style, dtype=torch.float32, n_ctx=32).to(dtype)
    half.cfg.dtype = dtype
    full = clone(half).float()
    full.cfg.dtype = torch.float32
    return half, full


def moves(before, after):
    """How far each weight moved, in fp32."""
    start = dict(before.named_parameters())
    return {n: (p.detach().float() - start[n].detach().float()) for n, p in after.named_parameters()}


def agreement(half, full, dtype):
    """Return the share of weights that move as in fp32 (within half a spacing and a tenth of the path), the cosine of
    both moves, and the largest move relative to fp32's."""
    ours, theirs = (unlearn(m, *world(), **RUN).model for m in (half, full))
    assert {p.dtype for p in ours.parameters()} == {dtype}
    start = torch.cat([p.detach().abs().flatten() for p in full.parameters()])
    found, wanted = (torch.cat([m.flatten() for m in moves(b, a).values()]) for b, a in ((half, ours), (full, theirs)))
    path = RUN["lr"] * RUN["steps"]
    allowed = torch.finfo(dtype).eps / 2 * (start + path) + 0.1 * path
    cosine = float(torch.nn.functional.cosine_similarity(found, wanted, dim=0))
    return float(((found - wanted).abs() <= allowed).float().mean()), cosine, float(found.abs().max() / path)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("style", ["gpt2", "llama"])
def test_half_precision_weights_move_as_fp32_weights_within_rounding(dtype, style, monkeypatch):
    half, full = half_and_full(dtype, style)
    share, cosine, largest = agreement(half, full, dtype)
    assert share > 0.9945  # 0.99497 with torch 2.15, bf16, Llama; above 0.995 with the locked one
    assert cosine > 0.93
    assert largest < 1.5
    # The proof that the masters do it: an update of 1e-4 is below the spacing of bf16, and eps is 0 in fp16.
    monkeypatch.setattr("unpact_lens.unlearning.master_weights.HALF", ())
    share, cosine, largest = agreement(half, full, dtype)
    assert share < 0.6
    assert cosine < 0.5
    assert largest > 100 or dtype == torch.bfloat16


@pytest.mark.hooked
def test_tied_half_precision_embeddings_stay_tied():
    model = untrained("gpt2", dtype=torch.float32, n_ctx=32)
    model.unembed.W_U.data.copy_(model.embed.W_E.data.T)
    model.tied_embeddings = True
    half = model.to(torch.bfloat16)
    u = unlearn(half, *world(), **RUN)
    assert torch.equal(u.model.unembed.W_U, u.model.embed.W_E.T)
    assert not torch.equal(u.model.embed.W_E, half.embed.W_E)


@pytest.mark.hooked
@pytest.mark.parametrize("dtype", HALF)
def test_adapters_on_half_precision_weights_are_trained_in_fp32(dtype):
    half, full = half_and_full(dtype)
    given = {**RUN, "method": "lora_ga_gdr", "lr": 1e-3}
    ours, theirs = (unlearn(m, *world(), **given) for m in (half, full))
    assert {p.dtype for p in ours.model.parameters()} == {dtype}
    assert ours.history.rows[-1]["forget"] == pytest.approx(theirs.history.rows[-1]["forget"], rel=0.05)


def test_half_precision_bridge_moves_as_the_fp32_bridge():
    hf = hf_model("llama").to(torch.bfloat16)
    half = load_model(hf, wrap="bridge", tokenizer=tokenizer(), dtype=torch.bfloat16)
    full = load_model(hf_model("llama").to(torch.bfloat16).float(), wrap="bridge", tokenizer=tokenizer(),
                      dtype=torch.float32)  # fmt: skip
    items = [QA("the capital of Japan is", " Tokyo"), QA("gold has the symbol", " Au")]
    losses = [unlearn(m, items[:1], items[1:], **RUN).history.rows[-1]["forget"] for m in (half, full)]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def test_full_precision_weights_are_their_own_masters():
    model = untrained()
    params = dict(model.named_parameters())
    weights = MasterWeights(model, params)
    assert all(weights.params[n] is p for n, p in params.items())
    assert (weights.pairs, weights.scales) == ([], (1.0,))


def test_an_overflowing_fp16_gradient_is_tried_again_at_a_smaller_loss_scale():
    half, full = half_and_full(torch.float16)
    given = {**RUN, "method": "ga", "gamma": 2e4, "steps": 2, "clip": 1.0}  # 256 times this overflows
    ours, theirs = (unlearn(m, *world(), **given).history.rows for m in (half, full))
    assert not any("not finite" in str(row) for row in ours)
    assert ours[0]["grad_norm"] == pytest.approx(theirs[0]["grad_norm"], rel=0.05)
