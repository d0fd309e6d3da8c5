"""Every probe is registered once, asked by name, and gives rows of a recovery on the same common set."""

import pytest
import torch

import unpact_lens as ul
from tests.evaluation.world import benchmark, retrained, trained
from unpact_lens.attribution import TopK
from unpact_lens.errors import InputError
from unpact_lens.recovery import recover, recovery_plan, run_plan
from unpact_lens.recovery.probes.registry import FAMILIES, PROBES, checked, probe
from unpact_lens.recovery.probing import Probing

COMPUTED = ("attention", "quantize_8", "quantize_4", "patch_subject", "patch_prompt", "patch_opening", "logit_lens")
EVERY = (*COMPUTED, "after_keys")


@pytest.fixture(scope="module")
def models():
    return {"before": trained(), "control": retrained()}


@pytest.fixture(scope="module")
def plain(models):
    plan = recovery_plan(benchmark(), **models, probes=(), progress=False, rule=TopK(2))
    return run_plan(retrained(), plan, progress=False)


@pytest.fixture(scope="module")
def plan(models):
    return recovery_plan(benchmark(), **models, probes=EVERY, progress=False, rule=TopK(2))


@pytest.fixture(scope="module")
def recovery(plan, models):
    return run_plan(retrained(), plan, **models, progress=False)


def row(recovery, name, of="right_after"):
    return getattr(recovery, of)[recovery.probes.index(name)]


def test_the_table_names_every_probe_with_its_family_and_one_line():
    table = ul.probes()
    assert list(table.columns) == ["name", "family", "line", "source"]
    assert set(table["name"]) == set(PROBES) >= {"prefill", "relearn", "paraphrase", "translation_es", *EVERY}
    assert set(table["family"]) == set(FAMILIES)
    assert table["line"].str.len().min() > 0
    assert table.equals(ul.probes())


def test_a_name_is_registered_once():
    with pytest.raises(ValueError, match="probe 'attention' is registered already"):
        probe("attention", "computation", "", "")(lambda scene: [])


def test_rows_of_probes_follow_the_rows_of_the_plan_in_the_order_asked(plain, recovery):
    assert recovery.probes == (
        *plain.probes, "attention", "random_words:attention", "quantize_8", "quantize_4", "patch_subject",
        "unrelated_fact:patch_subject", "patch_prompt", "unrelated_fact:patch_prompt", "patch_opening",
        "unrelated_fact:patch_opening", "logit_lens", "wrong_subject:logit_lens", "after_keys",
        "random_words:after_keys",
    )  # fmt: skip


def test_probes_have_rates_controls_and_excess_on_the_same_common_set(plain, recovery):
    assert recovery.n_common == plain.n_common > 0
    assert set(EVERY) <= set(recovery.excess_probes)
    assert not [p for p in recovery.excess_probes if ":" in p]
    assert all(recovery.excess(p).value == 0 for p in EVERY)  # the unlearned model is the retrained model itself
    assert recovery.net("random_words", "attention").n > 0
    assert row(recovery, "quantize_8", "right_before").double().mean() > 0.8
    assert list(recovery.to_frame()["probe"])[-2:] == ["random_words:after_keys", "retrain"]


def test_probes_do_not_change_the_other_rows(plain, recovery):
    n = len(plain.probes)
    for part in ("right_before", "right_after", "right_control", "asked", "never_asked", "never_right"):
        assert torch.equal(getattr(recovery, part)[:n], getattr(plain, part))


def test_the_plan_holds_the_answers_of_the_original_and_the_retrained_model(plan, recovery):
    planned = {p for p in recovery.probes if p not in plan.sheet.rows and not p.endswith("after_keys")}
    assert set(plan.added_before) == set(plan.added_control) == planned
    for name in planned:
        assert torch.equal(row(recovery, name, "right_before"), plan.added_before[name])
        assert torch.equal(row(recovery, name, "right_control"), plan.added_control[name])


def test_a_planned_probe_asks_neither_the_original_nor_the_retrained_model_again(models, recovery):
    names = ("attention", "quantize_8", "logit_lens")
    plan = recovery_plan(benchmark(), **models, probes=names, progress=False, rule=TopK(2))
    found = run_plan(retrained(), plan, progress=False)  # neither model is given
    for name in names:
        assert torch.equal(row(found, name, "right_control"), row(recovery, name, "right_control"))


def test_recover_asks_all_probes_that_apply(models, recovery):
    everything = recover(retrained(), benchmark(), **models, probes="all", relearn={"lr": 5e-3, "steps": 2},
                         progress=False, rule=TopK(2))  # fmt: skip
    assert {*EVERY, "prefill", "relearn", "paraphrase"} <= set(everything.probes)
    assert "translation_es" not in everything.probes  # this benchmark has no questions in Spanish
    assert torch.equal(row(everything, "quantize_4", "right_control"), row(recovery, "quantize_4", "right_control"))
    assert "after_keys" not in checked(Probing(headline="repeat_question", probes="all")).probes


@pytest.mark.parametrize(
    ("probes", "message"),
    [
        (["quantise_8"], "unknown probe 'quantise_8'; did you mean 'quantize_8'"),
        ("attention", "probes='attention' is one text"),
    ],
)
def test_unknown_probes_are_refused(probes, message, models):
    with pytest.raises(InputError, match=message):
        recovery_plan(benchmark(), **models, probes=probes, progress=False)


def test_an_unknown_option_is_a_type_error(models):
    with pytest.raises(TypeError, match="probe_names"):
        recover(retrained(), benchmark(), **models, probe_names=())


def test_a_missing_model_is_named(plan, models):
    with pytest.raises(InputError, match="probe 'patch_subject' needs the original model"):
        run_plan(retrained(), plan, control=models["control"], progress=False)
    with pytest.raises(InputError, match="probe 'after_keys' needs the retrained model of the plan; give it again"):
        run_plan(retrained(), plan, before=models["before"], progress=False)
