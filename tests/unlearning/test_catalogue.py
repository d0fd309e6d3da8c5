"""Each declared method does what its formula says when it runs in the loop."""

import dataclasses
import math

import pytest
import torch

from tests.unlearning.conftest import untrained, world
from unpact_lens.attribution import TopK, attribute
from unpact_lens.data.benchmark import QA, Corpus
from unpact_lens.errors import InputError
from unpact_lens.models.checkpoint import model_hash
from unpact_lens.models.tokens import encode
from unpact_lens.scoring import score_rows
from unpact_lens.unlearning import losses, unlearn
from unpact_lens.unlearning.selective import copied, recalled_weights, rest_of, token_weights
from unpact_lens.unlearning.sparsity_aware import redirected, survivors

ONE = {"steps": 1, "batch_size": 100, "progress": False}


def first(u, term="forget"):
    return u.history.rows[0][term]


def sums(model, pairs):
    return torch.tensor([float(s.sum()) for s in score_rows(model, [encode(model, p, a) for p, a in pairs])])


def moved(before, after):
    theirs = dict(after.named_parameters())
    return {n for n, p in before.named_parameters() if not torch.equal(p, theirs[n])}


def test_the_first_value_of_every_token_loss_is_its_formula(learned, facts):
    forget, _ = facts
    scores = torch.cat(score_rows(learned, [encode(learned, q.prompt, q.answer) for q in forget]))
    p = scores.exp()
    assert first(unlearn(learned, forget, method="ga", **ONE)) == pytest.approx(float(scores.mean()), abs=1e-6)
    assert first(unlearn(learned, forget, method="wga", beta=2.0, **ONE)) == pytest.approx(
        float((p**2 * scores).mean()), abs=1e-6
    )
    satimp = unlearn(learned, forget, method="satimp", beta1_weight=2.0, beta2_weight=0.5, **ONE)
    assert first(satimp) == pytest.approx(float((p**2 * (1 - p) ** 0.5 * scores).mean()), abs=1e-6)
    assert satimp.config["gamma"] == 0.1


def test_a_refusal_is_learned_in_place_of_the_answer(learned, facts):
    forget, retain = facts
    refusals = (" the town is the work .",)
    u = unlearn(learned, forget, retain, method="idk_ft", refusals=refusals, **{**ONE, "steps": 40}, lr=3e-3)
    assert first(u) == pytest.approx(
        -float((sums(learned, [(q.prompt, refusals[0]) for q in forget]) / 6).mean()), abs=1e-5
    )
    pairs = [(q.prompt, refusals[0]) for q in forget]
    assert (sums(u.model, pairs).exp() > 0.5).all()


def test_preference_starts_at_log_2_and_turns_towards_the_chosen_answer(learned, facts):
    forget, _ = facts
    items = [dataclasses.replace(q, perturbed=(" the job was oslo .",)) for q in forget]
    u = unlearn(learned, items, method="dpo", lr=1e-3, **{**ONE, "steps": 6})
    assert first(u) == pytest.approx(0.693147, abs=1e-6)
    gold, other = [(q.prompt, q.answer) for q in items], [(q.prompt, q.perturbed[0]) for q in items]
    before = sums(learned, other) - sums(learned, gold)
    after = sums(u.model, other) - sums(u.model, gold)
    assert (after > before + 1).all()
    scaled = unlearn(learned, items, method="dpo", scale=20.0, **ONE)
    assert first(scaled) == pytest.approx(20 * 0.693147, abs=1e-5)


def test_altpo_reads_every_alternative_and_dpo_one(learned, facts):
    items = [dataclasses.replace(q, perturbed=(" oslo", " rome", " lima")) for q in facts[0]]
    assert unlearn(learned, items, method="dpo", **ONE).history.forget_order.shape == (1, 6)
    assert unlearn(learned, items, method="altpo", **ONE).history.forget_order.shape == (1, 18)
    assert unlearn(learned, items, method="altpo", n_alternatives=2, **ONE).history.forget_order.shape == (1, 12)


def test_alternatives_come_from_others_of_the_same_kind(learned, facts):
    lonely = [*facts[0], QA("tell of ann", " nurse", kind="date", id="lonely")]
    with pytest.raises(InputError, match="forget item lonely has no perturbed answers, and no other item is of kind"):
        unlearn(learned, lonely, method="dpo", **ONE)
    with pytest.raises(InputError, match="2 alternatives for 6 forget items"):
        unlearn(learned, facts[0], method="dpo", alternatives=[" a", " b"], **ONE)


def test_whp_with_no_strength_is_the_model_before(learned, facts):
    u = unlearn(learned, facts[0], method="whp", strength=0.0, reinforce_steps=2, lr=1e-3, **{**ONE, "steps": 3})
    gap = max(float((p - q).detach().abs().max())
              for p, q in zip(learned.parameters(), u.model.parameters(), strict=True))  # fmt: skip
    assert u.history.rows[0]["grad_norm"] < 1e-5  # already at the target: what is left is rounding
    strong = unlearn(learned, facts[0], method="whp", reinforce_lr=1e-3, lr=1e-3, reinforce_steps=5, **ONE)
    assert strong.history.rows[0]["grad_norm"] > 100 * u.history.rows[0]["grad_norm"]
    assert gap < 0.01


def test_undial_lowers_the_answer_and_pulls_nowhere_at_beta_zero(learned, facts):
    still = unlearn(learned, facts[0], method="undial", beta=0.0, **ONE)
    assert still.history.rows[0]["grad_norm"] < 1e-5
    pairs = [(q.prompt, q.answer) for q in facts[0]]
    u = unlearn(learned, facts[0], method="undial", lr=1e-3, **{**ONE, "steps": 10})
    assert (sums(u.model, pairs) < sums(learned, pairs) - 1).all()


@pytest.mark.parametrize("style", ["gpt2", "llama"])
def test_rmu_trains_the_output_weights_of_three_mlps_towards_a_unit_direction(style):
    model = untrained(style, n_layers=5)
    forget, retain = world()
    u = unlearn(model, forget, retain, method="rmu", layer=3, steps=3, batch_size=4, progress=False)
    assert moved(model, u.model) == {f"blocks.{i}.mlp.W_out" for i in (1, 2, 3)}
    assert first(u, "retain") == 0  # at the start the activations are the reference
    assert u.history.rows[1]["retain"] > 0
    row = u.history.rows[0]
    assert row["loss"] == pytest.approx(row["forget"])
    assert u.config["alpha"] == 1200


def test_rmu_starts_from_the_distance_to_its_direction():
    model = untrained()
    forget, retain = world()
    u = unlearn(model, forget, retain, method="rmu", layer=1, c=3.0, seed=4, **ONE)
    draw = torch.rand(32, generator=torch.Generator().manual_seed(4)).double()
    target = 3.0 * draw / draw.norm()
    squares = []
    for q in forget:
        row = encode(model, q.prompt, q.answer)
        _, cache = model.run_with_cache(torch.tensor([row.ids]))
        acts = cache["blocks.1.hook_resid_post"][0, len(row.context) - 1 : -1]
        squares.append((acts - target).square())
    assert first(u) == pytest.approx(float(torch.cat(squares).mean()), rel=1e-6)
    with pytest.raises(InputError, match="layer=7; the model has layers 0 to 2"):
        unlearn(model, forget, retain, method="rmu", layer=7, **ONE)


def test_sparsity_keeps_pruned_weights_at_zero(learned, facts):
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
    with pytest.raises(InputError, match=r"sparsity=1\.0; give a share"):
        unlearn(untrained(), *world(), method="sparsity_aware", sparsity=1.0, **ONE)


def test_selective_weights_come_from_the_contributions_of_the_key_tokens(learned, facts):
    q = facts[0][0]
    a = attribute(learned, q.prompt, q.answer)
    key = list(a.key_tokens(TopK(2)).indices)
    c = a.per_answer_token
    raw = [max(0.0, sum(float(c[i, k]) for i in key)) for k in range(c.shape[1])]
    w = token_weights(c, key)
    torch.testing.assert_close(w, torch.tensor(raw) / max(raw), check_dtype=False, atol=1e-6, rtol=0)
    assert w.max() == pytest.approx(1)
    u = unlearn(learned, [q], method="unpact_select", key_tokens=2, keep_rest=0.0, **ONE)
    lp = score_rows(learned, [encode(learned, q.prompt, q.answer)])[0]
    assert first(u) == pytest.approx(float((w * lp).mean()), abs=1e-5)
    rest = unlearn(learned, [q], method="unpact_select", key_tokens=2, keep_rest=2.0, **ONE)
    r = rest_of(w[None])[0]
    assert first(rest) == pytest.approx(float((w * lp).mean() - 2 * (r * lp).mean()), abs=1e-5)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.6, 1.0])
def test_a_share_takes_the_tokens_that_depend_most(learned, facts, share):
    q = facts[0][0]
    a = attribute(learned, q.prompt, q.answer)
    depends = a.per_answer_token[list(a.key_tokens(TopK(2)).indices)].sum(0).tolist()
    wanted = sorted(range(len(depends)), key=lambda k: -depends[k])[: math.ceil(share * len(depends))]
    w = torch.tensor([float(k in wanted) for k in range(len(depends))])
    u = unlearn(learned, [q], method="unpact_select", key_tokens=2, keep_rest=0.0, share=share, **ONE)
    lp = score_rows(learned, [encode(learned, q.prompt, q.answer)])[0]
    assert first(u) == pytest.approx(float((w * lp).mean()), abs=1e-5)


@pytest.mark.parametrize(("method", "base"), [("unpact_select", "ga"), ("unpact_select_npo_gdr", "npo_gdr")])
def test_a_share_of_all_tokens_is_the_base_loss(learned, facts, method, base):
    whole = unlearn(learned, *facts, method=method, share=1.0, keep_rest=0.0, lr=1e-3, steps=3, progress=False)
    plain = unlearn(learned, *facts, method=base, lr=1e-3, steps=3, progress=False)
    assert [r["forget"] for r in whole.history.rows] == pytest.approx([r["forget"] for r in plain.history.rows])


def test_a_share_by_chance_takes_as_many_tokens_and_hangs_on_the_seed(learned, facts):
    chance = {"method": "unpact_select", "share": 0.3, "pick": "chance", "keep_rest": 0.0, **ONE}
    lp = score_rows(learned, [encode(learned, facts[0][0].prompt, facts[0][0].answer)])[0]
    of_one = [float(lp[k] / len(lp)) for k in range(len(lp))]
    two = [one + other for i, one in enumerate(of_one) for other in of_one[i + 1 :]]
    assert math.ceil(0.3 * len(lp)) == 2
    losses = [first(unlearn(learned, facts[0][:1], **{**chance, "seed": s})) for s in range(4)]
    assert all(min(abs(loss - other) for other in two) < 1e-5 for loss in losses)
    assert len({round(loss, 6) for loss in losses}) > 1


def test_a_bad_share_is_refused(learned, facts):
    with pytest.raises(InputError, match=r"share=1\.5; give a share of each answer's tokens above 0 and at most 1"):
        unlearn(learned, facts[0], method="unpact_select", share=1.5, **ONE)
    with pytest.raises(InputError, match="pick='chanse'; did you mean 'chance'"):
        unlearn(learned, facts[0], method="unpact_select", share=0.5, pick="chanse", **ONE)
    with pytest.raises(InputError, match="pick='chance' needs a share"):
        unlearn(learned, facts[0], method="unpact_select", pick="chance", **ONE)


def test_the_penalty_lies_on_the_fact_and_not_on_the_opening(learned, facts):
    """The opening of an answer follows from the question's form; who it is about decides the fact."""
    forget, retain = facts
    u = unlearn(learned, forget, retain, method="unpact_select_gdr", lr=1e-3, stop_at=0.0, steps=60, progress=False)
    rows = [encode(learned, q.prompt, q.answer) for q in forget]
    lost = torch.stack(score_rows(learned, rows)) - torch.stack(score_rows(u.model, rows))
    opening, fact = lost[:, :3].mean(), lost[:, 3].mean()
    assert fact > 1
    assert fact > 5 * opening


def sentences(items):
    """The same facts in answers that name again whom they are about."""
    said = []
    for q in items:
        value = q.answer[slice(*q.fact_span)]
        answer = f" {q.subject} is of the town {value} ."
        start = answer.index(value)
        said.append(dataclasses.replace(q, answer=answer, fact_span=(start, start + len(value)), paraphrases=()))
    return said


def by_hand(model, q, k):
    """Weights of unpact_recall where every word is one token."""
    keys = set(attribute(model, q.prompt, q.answer).key_tokens(TopK(k, words=True)).words)
    words = q.answer.split()
    shown = [w for w in words if w not in keys]
    read = score_rows(model, [encode(model, q.prompt, q.answer)])[0]
    prompt = " ".join(w for w in q.prompt.split() if w not in keys)
    hidden = score_rows(model, [encode(model, prompt, " " + " ".join(shown))])[0]
    raw, at = [], iter(hidden)
    for word, lp in zip(words, read, strict=True):
        fall = 0.0 if word in keys else float(lp - next(at))
        raw.append(0.0 if word in q.prompt.split() else max(0.0, fall))
    return torch.tensor(raw) / max(raw), read


def test_recalled_weights_are_what_hiding_the_key_words_everywhere_costs(learned, facts):
    q = sentences(facts[0])[0]
    w, lp = by_hand(learned, q, 2)
    assert 0 < (w > 0).sum() < len(w)
    u = unlearn(learned, [q], method="unpact_recall", key_tokens=2, keep_rest=0.0, **ONE)
    assert first(u) == pytest.approx(float((w * lp).mean()), abs=1e-5)
    rest = unlearn(learned, [q], method="unpact_recall", key_tokens=2, keep_rest=2.0, **ONE)
    r = rest_of(w[None])[0]
    assert first(rest) == pytest.approx(float((w * lp).mean() - 2 * (r * lp).mean()), abs=1e-5)
    npo = {"method": "unpact_recall_npo", "key_tokens": 2, "keep_rest": 0.0, "beta": 0.5, "lr": 1e-3, **ONE}
    now = score_rows(unlearn(learned, [q], **npo).model, [encode(learned, q.prompt, q.answer)])[0]
    second = unlearn(learned, [q], **{**npo, "steps": 2}).history.rows[1]["forget"]
    assert second == pytest.approx(4 * math.log1p(math.exp(0.5 * float((w * (now - lp)).sum()))), abs=1e-5)
    assert second < 4 * math.log(2) - 0.01


def test_in_a_sentence_recall_weighs_the_fact_and_not_the_name_that_is_copied(facts):
    items = sentences(facts[0] + facts[1])
    model = untrained("gpt2", n_layers=2, dtype=torch.float32, n_ctx=32)
    teach = {"method": "ga_gdr", "gamma": 0.0, "lr": 5e-3, "steps": 120, "batch_size": 20, "progress": False}
    model = unlearn(model, facts[0][:1], items, **teach).model
    shares = {}
    for q in items[:6]:
        a, place = attribute(model, q.prompt, q.answer), q.answer.split().index(q.answer[slice(*q.fact_span)])
        select = token_weights(a.per_answer_token, list(a.key_tokens(TopK(3)).indices))
        recall, lp = by_hand(model, q, 3)
        assert float(lp.sum()) > -1
        assert recall[0] == 0
        for name, w in (("select", select), ("recall", recall)):
            shares.setdefault(name, []).append(float(w[place] / w.sum()))
    assert sum(shares["recall"]) > 2 * sum(shares["select"])


def test_what_is_copied_is_found_in_pieces_of_words_and_in_any_case():
    answer = " Being in Astana, Nikolai's 8th"
    spans = [(0, 6), (6, 9), (9, 13), (13, 16), (16, 17), (17, 20), (20, 25), (25, 27), (27, 29), (29, 31)]
    found = copied(spans, answer, ["IN", "astana", "8"])
    assert found.tolist() == [False, True, True, True, False, False, False, False, False, False]
    assert copied(spans, answer, []).tolist() == [False] * 10


def test_nothing_is_recalled_where_all_is_copied_or_nothing_falls():
    lp, every = torch.tensor([-1.0, -2.0]), torch.tensor([True, True])
    none = torch.tensor([False, False])
    assert recalled_weights(lp, lp - 3, every, every).tolist() == [0, 0]
    assert recalled_weights(lp, lp + 1, every, none).tolist() == [0, 0]
    assert recalled_weights(lp, torch.empty(0), none, none).tolist() == [0, 0]
    assert recalled_weights(lp, torch.tensor([-3.0]), torch.tensor([False, True]), none).tolist() == [0, 1]


def test_an_answer_of_copied_words_only_has_nothing_to_penalise(learned, facts):
    q = dataclasses.replace(facts[0][0], prompt="where was ann born", answer=" ann", fact_span=(1, 4), paraphrases=())
    u = unlearn(learned, [q], method="unpact_recall", key_tokens=9, keep_rest=0.0, **ONE)
    assert first(u) == 0


def test_the_blind_aim_is_the_answer_of_the_model_before_to_the_prompt_without_its_key_tokens(learned, facts):
    q = facts[0][0]
    key = attribute(learned, q.prompt, q.answer).key_tokens(TopK(2)).indices
    row = encode(learned, q.prompt, q.answer)

    def log_probs(r):
        logits = learned(torch.tensor([r.ids]))[0]
        return logits[len(r.context) - 1 : -1].log_softmax(-1)

    with torch.no_grad():
        aim, now = log_probs(row.without(key)), log_probs(row)
    u = unlearn(learned, [q], method="unpact_blind", key_tokens=2, **ONE)
    assert first(u) == pytest.approx(float((aim.exp() * (aim - now)).sum(-1).mean()), abs=1e-5)
    assert first(u) > 0.1


def test_blind_unlearning_reaches_its_aim(learned, facts):
    u = unlearn(learned, *facts, method="unpact_blind_gdr", lr=1e-3, steps=60, progress=False)
    assert u.history.rows[-1]["forget"] < 0.2 * u.history.rows[0]["forget"]
    pairs = [(q.prompt, q.answer) for q in facts[0]]
    assert (sums(u.model, pairs) < sums(learned, pairs) - 3).all()


def test_a_prompt_of_key_tokens_only_keeps_the_least(learned, facts):
    u = unlearn(learned, facts[0], method="unpact_blind", key_tokens=99, **ONE)
    assert first(u) > 0


def test_nothing_depends_on_no_key_token():
    assert torch.equal(token_weights(-torch.ones(3, 4), [0, 1]), torch.zeros(4))
    assert torch.equal(rest_of(torch.zeros(1, 4)), torch.ones(1, 4))


@pytest.mark.parametrize("method", ["unpact_select", "unpact_recall", "unpact_blind", "idk_ft", "dpo"])
def test_methods_that_need_questions_say_so(learned, method):
    with pytest.raises(InputError, match="the forget set is raw text; give QA items"):
        unlearn(learned, Corpus(("ann was born in rome",)), method=method, **ONE)


@pytest.mark.parametrize(
    "method",
    ["idk_dpo_klr", "altpo_gdr", "whp", "rmu", "undial_klr", "simnpo_gdr", "unpact_select_npo", "unpact_blind"],
)
def test_accumulation_equals_one_big_batch_for_every_kind_of_loss(learned, facts, method):
    forget, retain = facts
    forget = [*forget, QA("where was ann born", " the town was the town of the town .", kind="place", id="long")]
    settings = {"lr": 1e-3, "steps": 3, "batch_size": 6, "clip": None, "progress": False}
    whole = unlearn(learned, forget, retain, method=method, **settings)
    parts = unlearn(learned, forget, retain, method=method, micro_batch=2, **settings)
    for a, b in zip(whole.history.rows[:1], parts.history.rows[:1], strict=True):
        assert a == pytest.approx(b, rel=1e-4, abs=1e-5)


def test_variants_share_everything_but_the_retain_term(learned, facts):
    for base in ("wga", "simnpo", "ce_u", "undial"):
        plain, held = (unlearn(learned, *facts, method=m, **ONE) for m in (base, f"{base}_gdr"))
        assert first(plain) == first(held)
        assert "retain" not in plain.history.rows[0]
        assert first(held, "retain") > 0


def test_ce_u_lowers_what_it_is_shown(learned, facts):
    pairs = [(q.prompt, q.answer) for q in facts[0]]
    u = unlearn(learned, facts[0], method="ce_u", lr=1e-3, **{**ONE, "steps": 5})
    assert (sums(u.model, pairs) < sums(learned, pairs) - 0.5).all()


def test_losses_of_pairs_have_no_gradient_into_the_reference(learned, facts):
    before = model_hash(learned)
    unlearn(learned, *facts, method="idk_dpo_klr", **ONE)
    assert model_hash(learned) == before
    assert losses.dpo(*(torch.zeros(2) for _ in range(4))) == pytest.approx(0.693147, abs=1e-6)
