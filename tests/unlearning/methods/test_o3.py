"""O3: adapters of different requests are orthogonal, and a gate applies them only to their request."""

import pytest
import torch

from tests.models.families import hf_model, tokenizer
from tests.unlearning.test_trainer import FORGET, RETAIN
from unpact_lens.errors import InputError
from unpact_lens.models.checkpoint import clone, model_hash
from unpact_lens.models.convert import to_bridge
from unpact_lens.models.hooked import final_residual
from unpact_lens.models.tokens import encode
from unpact_lens.results import load
from unpact_lens.scoring import score_rows
from unpact_lens.unlearning import unlearn
from unpact_lens.unlearning.adapters import Adapters
from unpact_lens.unlearning.batch import Examples
from unpact_lens.unlearning.methods.o3 import Gated, Orthogonal, Request, closeness, gate, joined

QUICK = {"method": "o3", "rank": 3, "lr": 5e-3, "steps": 12, "batch_size": 4, "progress": False}


def scores(model, items):
    return torch.cat(score_rows(model, [encode(model, q.prompt, q.answer) for q in items]))


def change(base, adapted, name):
    return (adapted.get_parameter(name) - base.get_parameter(name)).detach().flatten(0, -2).double()


@pytest.mark.hooked
def test_adapters_of_two_requests_are_orthogonal(learned, facts):
    forget, retain = facts
    first = unlearn(learned, forget[:2], retain, **QUICK).model
    both = unlearn(first, forget[2:4], retain, **QUICK).model
    base, one, two = both.members
    assert (model_hash(base), model_hash(one)) == (model_hash(learned), model_hash(first.members[1]))
    for name in ("blocks.0.mlp.W_in", "blocks.1.mlp.W_out", "blocks.1.attn.W_O"):
        basis = both.bases[name].double()
        assert basis.shape[1] == 6
        assert (basis.T @ basis - torch.eye(6)).abs().max() < 1e-6
        for before, mine, others in ((base, one, basis[:, 3:]), (base, two, basis[:, :3])):
            added = change(before, mine, name)
            assert added.norm() > 0.01
            # weights of order 1 store the added change to within 1e-7 each
            assert (others.T @ added).abs().max() < 1e-5


def test_settling_makes_adapters_orthogonal_after_any_step(learned):
    model = clone(learned)
    earlier = joined({}, Adapters(clone(learned), None, 3, 16.0, seed=1))
    adapters = Adapters(model, None, 3, 16.0, seed=1)  # same seed: all of A lies in the earlier space
    rule = Orthogonal(adapters, earlier)
    with torch.no_grad():
        for name, adapter in adapters.by_name().items():
            adapter.A.add_(torch.randn(adapter.A.shape) + 5 * earlier[name])
    rule.settle()
    for name, adapter in adapters.by_name().items():
        assert (earlier[name].T @ adapter.A).abs().max() < 1e-6
        assert adapter.A.norm() > 1
    assert {b.shape[1] for b in joined(earlier, adapters).values()} == {6}


def test_each_position_is_predicted_by_the_model_that_its_residual_selects(learned, facts):
    u = unlearn(learned, facts[0][:2], facts[1], **QUICK)
    gated = u.model
    tokens = torch.randint(3, 30, (40, 8), generator=torch.Generator().manual_seed(0))
    asked = encode(learned, facts[0][0].prompt, facts[0][0].answer).ids[:8]
    tokens[0, : len(asked)] = torch.tensor(asked)
    keys = torch.cat([*Examples([encode(learned, q.prompt, q.answer) for q in facts[0][:2]], learned).residuals])
    far = torch.cat([*Examples([encode(learned, q.prompt, q.answer) for q in facts[1]], learned).residuals])
    centre = torch.cat([keys, far]).mean(0)

    def cosine(resid):
        return torch.cosine_similarity((resid - centre)[..., None, :], keys - centre, dim=-1).amax(-1)

    on = cosine(final_residual(learned, tokens)) > cosine(far).quantile(0.99)
    out, base, adapted = gated(tokens), learned(tokens), gated.members[1](tokens)
    assert torch.equal(out[~on], base[~on])
    assert torch.equal(out[on], adapted[on])
    assert on[0].any()
    assert (~on).float().mean() > 0.5
    assert (adapted - base)[~on].abs().max() > 0.1  # without the gate the logits would differ


@pytest.mark.hooked
def test_request_is_forgotten_and_the_rest_is_kept(learned, facts):
    forget, retain = facts
    u = unlearn(learned, forget[:2], retain, stop_at=0.0, check_every=4, **{**QUICK, "steps": 60})
    was, now = scores(learned, forget[:2]), scores(u.model, forget[:2])
    assert now.mean() < was.mean() - 0.5
    changed = scores(u.model, retain) != scores(learned, retain)
    assert changed.float().mean() <= 0.02  # the threshold lets 1% of the retain positions through
    assert u.forget_score == u.history.rows[-1]["forget_score"]


def test_adapted_model_of_the_closest_request_predicts(learned):
    """Two requests, keys along two axes; a residual between them belongs to the nearer one."""
    keys = (torch.eye(32)[:1], torch.eye(32)[1:2])
    one, two = clone(learned), clone(learned)
    with torch.no_grad():
        one.unembed.b_U.add_(10)
        two.unembed.b_U.add_(20)
    gated = Gated((learned, one, two), keys, (0.3, 0.5), torch.zeros(32), {})
    resid = torch.zeros(1, 4, 32)
    resid[0, 0, 5] = 1  # near neither key
    resid[0, 1, :2] = torch.tensor([1.0, 0.0])
    resid[0, 2, :2] = torch.tensor([0.5, 0.9])  # cosines .49 and .87: margins .19 and .37
    resid[0, 3, :2] = torch.tensor([0.8, 0.6])  # .80 and .60: margins .50 and .10
    shift = gated.combine((resid, resid, resid)) - learned.unembed(learned.ln_final(resid))
    assert shift[0].mean(-1).tolist() == pytest.approx([0, 10, 20, 10], abs=1e-4)


def test_closeness_is_the_cosine_to_the_nearest_key_around_the_centre():
    keys = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [1.0, 1.0]]), dim=-1)
    near = closeness(torch.tensor([[1.0, 4.0], [3.0, 1.0]]), keys, torch.tensor([1.0, 1.0]))
    torch.testing.assert_close(near, torch.tensor([0.5**0.5, 1.0]))


def test_at_most_1_percent_of_retain_positions_pass_the_gate(learned, facts):
    rows = [Examples([encode(learned, q.prompt, q.answer) for q in part], learned) for part in facts]
    gated = gate(learned, Request(clone(learned), rows[0], rows[1]), {}, None)
    far = closeness(torch.cat([*rows[1].residuals]), gated.keys[0], gated.centre)
    assert (far > gated.thresholds[0]).float().mean() <= 0.02
    assert gated.thresholds[0] > far.median()


@pytest.mark.hooked
def test_loaded_gated_model_accepts_a_further_request(learned, facts, tmp_path):
    forget, retain = facts
    u = unlearn(learned, forget[:2], retain, **QUICK)
    again = load(u.save(tmp_path / "run"))
    assert again == u
    tokens = torch.arange(3, 15)[None]
    assert torch.equal(again.model(tokens), u.model(tokens))
    a, b = (unlearn(m, forget[2:4], retain, **QUICK).model for m in (u.model, again.model))
    assert model_hash(a) == model_hash(b)


def test_bad_input_is_refused_with_its_value(learned, facts):
    forget, retain = facts
    with pytest.raises(InputError, match="method 'o3' needs a retain set; give retain="):
        unlearn(learned, forget, **QUICK)
    gated = unlearn(learned, forget[:2], retain, **{**QUICK, "rank": 20, "steps": 1}).model
    with pytest.raises(InputError, match="rank=20: earlier requests take 20 of the 32 dimensions of blocks"):
        unlearn(gated, forget[2:4], retain, **{**QUICK, "rank": 20})
    with pytest.raises(InputError, match=r"'npo' cannot start from Gated, .*give one of its members, or method='o3'"):
        unlearn(gated, forget, retain, method="npo", progress=False)


def test_requests_on_a_bridge_are_orthogonal_in_the_input_space():
    bridge = to_bridge(hf_model("llama"), tokenizer())
    given = {"method": "o3", "rank": 2, "lr": 1e-2, "steps": 3, "progress": False}
    first = unlearn(bridge, FORGET[:1], RETAIN, **given)
    second = unlearn(first.model, FORGET[1:], RETAIN, **given)
    base, one, two = (dict(m.named_parameters()) for m in second.model.members)
    checked = 0
    for name, p in base.items():
        if "layers" in name and p.ndim == 2:
            d1, d2 = (one[name] - p).detach().double(), (two[name] - p).detach().double()
            assert d1.norm() > 1e-4
            # Linear weights are [out, in]: the rows of both changes are orthogonal.
            assert float((d1 @ d2.T).abs().max() / (d1.norm() * d2.norm())) < 1e-4  # merged in fp32
            checked += 1
    assert checked == 14
    names = list(second.model.bases)
    assert all(second.model.bases[n].shape[1] == 4 for n in names)
    for n in names:
        q = second.model.bases[n]
        torch.testing.assert_close(q.T @ q, torch.eye(4), atol=1e-6, rtol=0)
