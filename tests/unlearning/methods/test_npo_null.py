"""NPO in the null space changes nothing for inputs that other facts use."""

import pytest
import torch

from tests.models.families import hf_model, tokenizer
from tests.unlearning.runs import moved, row
from unpact_lens.errors import InputError
from unpact_lens.models import hooked
from unpact_lens.models.batches import pad_right
from unpact_lens.models.load import load_model
from unpact_lens.unlearning import unlearn
from unpact_lens.unlearning.input_moments import input_moments, mlp_matrices
from unpact_lens.unlearning.methods.npo_null import used_directions, without_directions
from unpact_lens.unlearning.self_rehearsal import self_rehearsal

WRITTEN = {"subjects": 4, "drawn": 32, "templates": 2}
SHORT = {"lr": 1e-2, "steps": 6, "batch_size": 6, "progress": False, **WRITTEN}


@pytest.mark.parametrize("wrap", ["hooked", "bridge"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_moments_are_of_what_the_matrices_multiply(wrap, family):
    """By the linear layers of the Hugging Face model itself."""
    hf = hf_model(family)
    model = load_model(hf_model(family), wrap=wrap, tokenizer=tokenizer())
    rows = [row(model, "the capital of Japan is", " Tokyo"), row(model, "gold is", " the symbol Au")]
    found = input_moments(model, rows, mlp_matrices(model))
    leaves = {"gpt2": ("c_fc", "c_proj"), "llama": ("up_proj", "down_proj")}[family]
    sums, count = {}, 0
    for r in rows:
        seen = {}
        handles = [
            m.register_forward_pre_hook(lambda m, given, n=n, seen=seen: seen.__setitem__(n, given[0][0].detach()))
            for n, m in hf.named_modules()
            if ".mlp." in n and n.endswith(leaves)
        ]
        hf(torch.tensor([r.ids[:-1]]))
        for handle in handles:
            handle.remove()
        count += len(r.ids) - 1
        for n, k in seen.items():
            sums[n] = sums.get(n, 0) + k.double().T @ k.double()
    names = sorted(n for n in sums if n.endswith(leaves[0])), sorted(n for n in sums if n.endswith(leaves[1]))
    ours = {
        which: [m for n, m in found.items() if mlp_matrices(model)[n][1] == which and "gate" not in n]
        for which in ("in", "out")
    }
    for which, theirs in zip(("in", "out"), names, strict=True):
        for a, n in zip(ours[which], theirs, strict=True):
            torch.testing.assert_close(a, sums[n] / count, atol=1e-5, rtol=1e-4)


def test_directions_left_free_hold_at_most_the_spare_share():
    g = torch.Generator().manual_seed(0)
    inputs = torch.randn(50, 6, generator=g, dtype=torch.float64) * torch.tensor([3.0, 2.0, 1.0, 0.3, 0.1, 0.0])
    moment = inputs.T @ inputs / 50
    for spare in (0.0, 0.01, 0.2):
        used = used_directions(moment, spare)
        torch.testing.assert_close(used.T @ used, torch.eye(used.shape[1], dtype=torch.float64))
        rest = inputs - inputs @ used @ used.T
        assert float(rest.square().sum() / inputs.square().sum()) <= spare + 1e-12
    assert used_directions(moment, 0.0).shape[1] == 5  # a direction of no input is free
    change = torch.randn(6, 4, generator=g, dtype=torch.float64)
    torch.testing.assert_close(without_directions(change, used, 0), without_directions(change.T, used, 1).T)


@pytest.mark.hooked
@pytest.mark.parametrize("method", ["npo_null", "npo_null_self"])
def test_outputs_on_used_inputs_do_not_change(learned, facts, method):
    """Only directions of no input at all are spared, so each trained matrix gives what it gave on the written text."""
    u = unlearn(learned, facts[0], method=method, modules="blocks.*.mlp.W_out", spare=1e-9, **SHORT)
    assert moved(learned, u.model) == {"blocks.0.mlp.W_out", "blocks.1.mlp.W_out"}
    written = self_rehearsal(learned, facts[0], **WRITTEN)
    rows = [row(learned, q.prompt, q.answer) for q in written]
    tokens = pad_right([r.ids[:-1] for r in rows], torch.device("cpu"))
    taken = []
    hooked.run_with_hooks(
        learned, tokens, [("blocks.0.mlp.hook_post", lambda value, hook: taken.append(value.detach()))]
    )
    real = torch.arange(tokens.shape[1]) < torch.tensor([len(r.ids) - 1 for r in rows])[:, None]
    change = (u.model.blocks[0].mlp.W_out - learned.blocks[0].mlp.W_out).detach()
    assert change.abs().max() > 1e-3
    assert (taken[0][real] @ change).abs().max() < 1e-3 * change.norm()
    free = unlearn(learned, facts[0], method="npo", modules="blocks.*.mlp.W_out", lr=1e-2, steps=6, batch_size=6,
                   progress=False)  # fmt: skip
    other = (free.model.blocks[0].mlp.W_out - learned.blocks[0].mlp.W_out).detach()
    assert (taken[0][real] @ other).abs().max() > 1e-2 * other.norm()


@pytest.mark.hooked
def test_weights_whose_inputs_are_not_known_are_refused(learned, facts):
    with pytest.raises(InputError, match=r"trains blocks.0.attn.W_Q, whose inputs are not known; choose among"):
        unlearn(learned, facts[0], method="npo_null", modules="blocks.0.attn.W_Q", **SHORT)
    with pytest.raises(InputError, match=r"spare=1; give a number from 0 to below 1"):
        unlearn(learned, facts[0], method="npo_null", spare=1, **SHORT)
