"""Relearning teaches some subjects, tests others, and uses the trainer of unlearning."""

import pytest
import torch

from tests.conftest import endless
from tests.evaluation.world import benchmark, retrained, untrained
from unpact_lens.errors import InputError
from unpact_lens.evaluation.known_facts import right_facts
from unpact_lens.models.checkpoint import model_hash
from unpact_lens.models.tokens import encode
from unpact_lens.recovery.probes.relearn import check_relearn, relearned, taught_facts
from unpact_lens.recovery.recover import recovery_plan
from unpact_lens.scoring import score_rows


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6])
def test_no_subject_is_both_taught_and_tested(share):
    items = benchmark().forget
    for seed in range(5):
        taught = taught_facts(items, share=share, seed=seed)
        names = [{q.subject for q, t in zip(items, taught, strict=True) if t is side} for side in (True, False)]
        assert not names[0] & names[1]
        assert share * len(items) <= sum(taught) < len(items)
    assert len({taught_facts(items, seed=s) for s in range(12)}) > 1


def test_facts_about_one_subject_are_not_taught():
    assert taught_facts(benchmark().forget[:2]) == (False, False)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5])
def test_a_share_outside_0_to_1_is_refused(share):
    with pytest.raises(InputError, match=f"relearn share={share}"):
        taught_facts(benchmark().forget, share=share)


def test_hyperparameters_are_checked():
    model = untrained()
    share, settings = check_relearn({"share": 0.2, "lr": 0.5}, model)
    assert (share, settings["lr"], settings["steps"]) == (0.2, 0.5, 12)
    assert check_relearn({"epochs": 3}, model)[1].get("steps") is None
    assert check_relearn({}, model)[1]["lr"] == 0.25 / (model.cfg.d_model * model.cfg.n_layers)
    with pytest.raises(InputError, match="unknown setting 'step'; did you mean 'steps'"):
        check_relearn({"step": 3}, model)


def test_taught_facts_are_learned_and_the_model_is_not_changed():
    bench, model = benchmark(), retrained()
    before, taught = model_hash(model), [q for q in bench.forget if q.subject == "ann"]
    again = relearned(model, taught, bench, lr=5e-3, steps=12)
    assert right_facts(again, taught, bench=bench) == [True, True]
    assert model_hash(model) == before
    assert model_hash(again) == model_hash(relearned(model, taught, bench, lr=5e-3, steps=12))


def test_epochs_count_passes_over_the_taught_facts():
    bench, model = benchmark(), untrained(3)
    by_epochs = relearned(model, bench.forget[:3], bench, lr=1e-3, epochs=2, batch_size=2)
    assert model_hash(by_epochs) == model_hash(
        relearned(model, bench.forget[:3], bench, lr=1e-3, steps=4, batch_size=2)
    )


def test_one_step_is_adamw_on_the_mean_negative_log_likelihood():
    bench, model = benchmark(), untrained(3)
    taught = bench.forget[:3]
    after = relearned(model, taught, bench, lr=1e-3, steps=1)
    rows = [encode(model, q.prompt, f"{q.answer} <eos>", special=True) for q in taught]  # the end token is a label, too
    # Every bias is zero in this style and gets a gradient all the same: the reference trains what the loop trains.
    plain = untrained(3)
    log_probs = []
    for r in rows:
        logits = plain(torch.tensor([r.ids[:-1]]))[0, len(r.context) - 1 :]
        log_probs.append(logits.log_softmax(-1)[range(len(r.answer)), list(r.answer)])
    (-torch.cat(log_probs).mean()).backward()
    params = [p for p in plain.parameters() if p.requires_grad]
    torch.nn.utils.clip_grad_norm_(params, 1.0)
    torch.optim.AdamW(params, lr=1e-3, weight_decay=0.0).step()
    moved = torch.cat([(a - b).abs().flatten() for a, b in zip(after.parameters(), plain.parameters(), strict=True)])
    # The first step of AdamW is lr·sign(gradient): where a gradient is near 0, rounding decides.
    assert float((moved > 1e-5).double().mean()) < 2e-3


@pytest.mark.parametrize(
    ("given", "expected"), [({}, False), ({"end_token": True}, True), ({"end_token": False}, False)]
)
def test_a_plan_leaves_out_an_end_token_that_the_original_model_does_not_expect(given, expected):
    plan = recovery_plan(
        before=endless(retrained()), bench=benchmark(), probes=("relearn",), relearn=given, progress=False
    )
    assert plan.relearn["end_token"] is expected


def test_a_plan_trains_an_end_token_that_the_original_model_expects():
    plan = recovery_plan(before=retrained(), bench=benchmark(), probes=("relearn",), progress=False)
    assert plan.relearn["end_token"] is True


def test_an_unexpected_end_token_takes_what_relearning_should_teach():
    bench, model = benchmark(), endless(untrained(3))
    taught = bench.forget[:3]

    def loss(again):
        rows = [encode(again, q.prompt, q.answer) for q in taught]
        return -float(torch.cat(score_rows(again, rows)).mean())

    with_end, without = (relearned(model, taught, bench, lr=1e-3, steps=3, end_token=e) for e in (True, False))
    assert loss(without) < loss(with_end) < loss(model)
