"""Several models predict together: exact identities, generation with a cache, training of the small model only."""

import pytest
import torch

from tests.conftest import tiny
from tests.models.families import hf_model, tokenizer
from tests.unlearning.conftest import untrained
from tests.unlearning.runs import row
from tests.unlearning.test_trainer import FORGET, RETAIN
from unpact_lens.attribution import attribute
from unpact_lens.data.benchmark import QA
from unpact_lens.errors import InputError
from unpact_lens.models.checkpoint import model_hash
from unpact_lens.models.convert import to_bridge, to_hooked
from unpact_lens.models.generate import greedy
from unpact_lens.models.tokens import encode
from unpact_lens.results import load
from unpact_lens.scoring import log_prob, score_rows
from unpact_lens.unlearning import offset, unlearn, whp

TOKENS = torch.tensor([[3, 14, 15, 9, 26, 5], [35, 8, 9, 7, 9, 3]])


def small(seed=0, **overrides):
    return untrained(seed=seed, n_layers=1, d_model=16, n_heads=2, dtype=torch.float32, n_ctx=32, **overrides)


@pytest.mark.parametrize("weight", [0.0, 0.7, 1.0, -3.0])
def test_equal_small_models_give_exactly_the_big_models_logits(learned, weight):
    assert torch.equal(offset(learned, small(), small(), weight)(TOKENS), learned(TOKENS))


def test_offset_is_added_to_the_logits():
    big, after, before = tiny("llama"), tiny("gpt2", seed=1, n_layers=1), tiny("pythia", seed=2, n_layers=2)
    together = offset(big, after, before, 0.6)
    expected = big(TOKENS) + 0.6 * (after(TOKENS) - before(TOKENS))
    torch.testing.assert_close(together(TOKENS), expected, atol=1e-12, rtol=0)
    assert (expected - big(TOKENS)).abs().max() > 0.1


def test_whp_with_strength_0_equals_the_base_model(learned):
    assert torch.equal(whp(learned, small(), 0.0)(TOKENS), learned(TOKENS))


def test_whp_lowers_only_logits_that_the_reinforced_model_raises():
    base, reinforced = tiny(seed=0), tiny(seed=1)
    b, r = base(TOKENS), reinforced(TOKENS)
    z = whp(base, reinforced, 2.0)(TOKENS)
    torch.testing.assert_close(z[r > b], (b - 2 * (r - b))[r > b], atol=1e-12, rtol=0)
    # Equal up to the rounding of an unembedding that does not copy W_U.
    torch.testing.assert_close(z[r <= b], b[r <= b], atol=1e-12, rtol=0)
    assert 0.1 < (r > b).float().mean() < 0.9


def test_generation_with_a_cache_follows_the_combined_logits():
    together = offset(tiny("llama", seed=3), tiny("gpt2", seed=1, n_layers=1), tiny("gpt2", seed=2, n_layers=2), 1.5)
    contexts = [[3, 14, 15], [35, 8, 9, 7, 9], [2]]
    for context, made in zip(contexts, greedy(together, contexts, max_new_tokens=6), strict=True):
        ids = list(context)
        for _ in range(6):
            ids.append(int(together(torch.tensor([ids]))[0, -1].argmax()))
        assert tuple(ids[len(context) :]) == made


def test_scores_and_contributions_are_those_of_the_combined_logits(learned, facts):
    q = facts[0][0]
    together = whp(learned, small(), 1.0)
    row = encode(learned, q.prompt, q.answer)
    logits = together(torch.tensor([row.ids[:-1]]))[0].log_softmax(-1).detach()
    at = range(len(row.context) - 1, len(row.ids) - 1)
    expected = sum(float(logits[p, t]) for p, t in zip(at, row.answer, strict=True)) / len(row.answer)
    a = attribute(together, q.prompt, q.answer)
    assert a.log_prob == pytest.approx(expected, abs=1e-5)
    without = [i for k, i in enumerate(row.context) if k != 2]
    assert float(a.scores[2]) == pytest.approx(expected - log_prob(together, without, row.answer).item(), abs=1e-5)


@pytest.mark.hooked
def test_offset_trains_the_small_model_only_and_lowers_the_answers(learned, facts):
    start = small()
    hashes = model_hash(learned), model_hash(start)
    settings = {"small": start, "steps": 12, "lr": 1e-2, "batch_size": 6, "progress": False}
    u = unlearn(learned, *facts, method="offset_gdr", **settings)
    big, after, before = u.model.members
    assert (model_hash(learned), model_hash(start)) == hashes == (model_hash(big), model_hash(before))
    assert model_hash(after) != model_hash(start)
    rows = [row(learned, q.prompt, q.answer) for q in facts[0]]
    was, now = (torch.cat(score_rows(m, rows)).mean() for m in (learned, u.model))
    assert u.history.rows[0]["forget"] == pytest.approx(float(was), abs=1e-5)  # at the start it is the big model
    assert now < was - 1
    assert u.config["small"] == hashes[1]
    assert u.hash_before == hashes[0]


@pytest.mark.hooked
def test_tied_small_model_stays_tied(learned, facts):
    start = small()
    with torch.no_grad():
        start.unembed.W_U.copy_(start.embed.W_E.T)
    start.tied_embeddings = True
    u = unlearn(learned, facts[0], method="offset", small=start, steps=3, lr=1e-2, progress=False)
    after = u.model.members[1]
    assert torch.equal(after.unembed.W_U, after.embed.W_E.T)
    assert not torch.equal(after.embed.W_E, start.embed.W_E)


def test_whp_at_inference_forgets_without_changing_the_model(learned, facts):
    settings = {"reinforce_lr": 1e-3, "reinforce_steps": 10, "progress": False}
    assert torch.equal(whp(learned, untrained(n_layers=2, dtype=torch.float32, n_ctx=32), 0.0)(TOKENS), learned(TOKENS))
    none = unlearn(learned, facts[0], method="whp_inference", strength=1.0, **settings)
    u = unlearn(learned, facts[0], method="whp_inference", strength=20.0, stop_at=0.5, **settings)
    assert model_hash(u.model.members[0]) == model_hash(learned)
    assert (u.stopped, none.forget_score) == ("nothing to train", None)
    rows = [encode(learned, q.prompt, q.answer) for q in facts[0]]
    assert torch.cat(score_rows(u.model, rows)).mean() < torch.cat(score_rows(learned, rows)).mean()
    assert u.forget_score is not None


def test_saved_result_is_loaded_unchanged(learned, facts, tmp_path):
    u = unlearn(learned, facts[0], method="offset", small=small(), weight=0.5, steps=2, lr=1e-2, progress=False)
    again = load(u.save(tmp_path / "run"))
    assert again == u
    assert torch.equal(again.model(TOKENS), u.model(TOKENS))
    assert (again.model.kind, again.model.weight) == ("offset", 0.5)


def test_bad_input_is_refused_with_its_value(learned, facts):
    with pytest.raises(InputError, match=r"vocabularies have \[50, 40, 40\] entries; use one tokenizer"):
        offset(learned, tiny(d_vocab=40), tiny(d_vocab=40))
    with pytest.raises(InputError, match="method 'offset' needs a small model; give small="):
        unlearn(learned, facts[0], method="offset", progress=False)
    together = whp(learned, small())
    with pytest.raises(InputError, match="Ensemble is itself a combined model; give its"):
        offset(together, small(), small())
    with pytest.raises(InputError, match="'ga' cannot start from Ensemble, a combined model"):
        unlearn(together, facts[0], method="ga", progress=False)
    with pytest.raises(InputError, match=r"hook 'blocks\.0\.hook_resid_post': a combined model has only"):
        together(TOKENS, fwd_hooks=[("blocks.0.hook_resid_post", lambda t, hook: None)])


def test_bridges_predict_together_like_hooked_transformers():
    """Also mixed, and with a cache; the two kinds agree to fp32 rounding."""
    big, after, before = (hf_model(family) for family in ("llama", "gpt2", "gpt2"))
    hooked = offset(*(to_hooked(m, tokenizer()) for m in (big, after, before)), 0.7)
    bridges = offset(to_bridge(big, tokenizer()), hooked.members[1], to_bridge(before, tokenizer()), 0.7)
    torch.testing.assert_close(bridges(TOKENS), hooked(TOKENS), atol=1e-4, rtol=0)
    contexts = [[3, 14, 15], [35, 8, 9, 7, 9], [2]]
    made = greedy(bridges, contexts, max_new_tokens=5)
    assert made == greedy(hooked, contexts, max_new_tokens=5)
    for context, new in zip(contexts, made, strict=True):
        ids = [*context, *new]
        expected = bridges(torch.tensor([ids[:-1]]))[0, len(context) - 1 :].argmax(-1)
        assert tuple(expected.tolist()) == new
    a, b = (attribute(m, [3, 14, 15, 9], [26, 5]).scores for m in (hooked, bridges))
    torch.testing.assert_close(a, b, atol=1e-4, rtol=0)


@pytest.mark.parametrize("method", ["offset", "whp_inference", "o3", "eco", "in_context"])
def test_ensemble_methods_unlearn_on_a_bridge(method, tmp_path):
    forget = [QA("the capital of", " Tokyo", subject="capital"), QA("gold has", " Au", subject="gold")]
    retain = [QA("seven small", " boats")]
    bridge = to_bridge(hf_model("llama"), tokenizer())
    start = model_hash(bridge)
    own = {
        "offset": {"small": to_bridge(hf_model("gpt2"), tokenizer()), "steps": 3, "lr": 1e-2},
        "whp_inference": {"reinforce_lr": 1e-3, "reinforce_steps": 3, "strength": 2.0},
        "o3": {"rank": 2, "lr": 1e-2, "steps": 3},
        "eco": {"strength": 4.0},
        "in_context": {"max_new_tokens": 8},
    }[method]
    u = unlearn(bridge, forget, retain, method=method, progress=False, **own)
    assert (model_hash(bridge), model_hash(u.model.members[0])) == (start, start)
    rows = [row(bridge, q.prompt, q.answer) for q in forget]
    was, now = (torch.cat(score_rows(m, rows)).mean() for m in (bridge, u.model))
    assert now < was or (method in ("eco", "in_context") and now != was)
    again = load(u.save(tmp_path / "run"))
    assert torch.equal(again.model(TOKENS), u.model(TOKENS))


def both_wraps(family, seed=0):
    hf = hf_model(family, seed)
    return to_bridge(hf, tokenizer()), to_hooked(hf, tokenizer())


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_equal_small_bridges_give_exactly_the_big_models_logits(family):
    bridges, hooked = zip(*(both_wraps(family, seed) for seed in (0, 1, 2)), strict=True)
    expected = bridges[0](TOKENS) + 0.7 * (bridges[1](TOKENS) - bridges[2](TOKENS))
    for together in (offset(*bridges, 0.7), offset(*hooked, 0.7), offset(bridges[0], hooked[1], bridges[2], 0.7)):
        torch.testing.assert_close(together(TOKENS), expected, atol=1e-4, rtol=0)
    assert torch.equal(offset(bridges[0], bridges[1], bridges[1], 2.0)(TOKENS), offset(*bridges, 0.0)(TOKENS))
    torch.testing.assert_close(whp(*bridges[:2], 0.0)(TOKENS), bridges[0](TOKENS), atol=1e-6, rtol=0)


@pytest.mark.parametrize("method", ["offset_gdr", "whp_inference"])
def test_methods_of_several_models_unlearn_a_bridge_as_a_hooked_transformer(method):
    bridge, hooked = both_wraps("llama")
    start = model_hash(bridge)
    settings = {"lr": 3e-3, "steps": 3, "batch_size": 2, "progress": False, "method": method}
    if method == "whp_inference":
        settings |= {"reinforce_lr": 1e-3, "reinforce_steps": 3}
    one, two = (
        unlearn(m, FORGET, RETAIN, **settings, **({"small": small} if method == "offset_gdr" else {}))
        for m, small in zip((bridge, hooked), both_wraps("llama", 1), strict=True)
    )
    assert model_hash(bridge) == start == model_hash(one.model.members[0])
    rows = [encode(bridge, q.prompt, q.answer) for q in FORGET]
    before, ours, theirs = (torch.cat(score_rows(m, rows)) for m in (bridge, one.model, two.model))
    assert (ours - before).abs().max() > 0.05  # otherwise the agreement below would be trivial
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=0)


def test_chosen_modules_of_a_small_bridge_are_trained():
    bridge, small_bridge = both_wraps("llama")[0], both_wraps("llama", 1)[0]
    u = unlearn(bridge, FORGET, method="offset", small=small_bridge, modules="parts.1.blocks.0.mlp", lr=1e-3, steps=2,
                progress=False)  # fmt: skip
    theirs = dict(small_bridge.named_parameters())
    changed = {n for n, p in u.model.members[1].named_parameters() if not torch.equal(p, theirs[n])}
    assert model_hash(u.model.members[0]) == model_hash(bridge)
    assert len(changed) == 3
    assert all(".layers.0." in n and "mlp" in n for n in changed)
