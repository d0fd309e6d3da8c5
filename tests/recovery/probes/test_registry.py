"""Added probes are rows of a recovery like any other, on the same common set."""

from dataclasses import replace

import pytest
import torch

from tests.evaluation.world import benchmark, retrained, trained, untrained
from unpact_lens.attribution import TopK
from unpact_lens.errors import InputError
from unpact_lens.evaluation.answers import fact_right
from unpact_lens.recovery import ADDED, add_probes, check_added, plan_added, recovery_plan, run_plan
from unpact_lens.recovery.probes.emphasis import key_words
from unpact_lens.recovery.probes.logit_lens import lens_ranks, read_out_early
from unpact_lens.recovery.probes.patching import WHERE, patched_answers, unrelated_fact

PLAIN_ENGLISH = tuple(name for name in ADDED if not name.startswith("translation_"))


@pytest.fixture(scope="module")
def run():
    plan = recovery_plan(benchmark(), before=trained(), control=retrained(), probes=(), progress=False, rule=TopK(2))
    return plan, run_plan(retrained(), plan, progress=False)


@pytest.fixture(scope="module")
def more(run):
    plan, recovery = run
    return add_probes(recovery, plan, retrained(), before=trained(), control=retrained(), probes=PLAIN_ENGLISH)


def row(recovery, name, of="right_after"):
    return getattr(recovery, of)[recovery.probes.index(name)]


def test_added_rows_have_rates_controls_and_excess(run, more):
    _, recovery = run
    assert more.probes == (
        *recovery.probes, "attention", "random_words:attention", "quantize_8", "quantize_4", "after_keys",
        "random_words:after_keys", "patch_subject", "unrelated_fact:patch_subject", "patch_prompt",
        "unrelated_fact:patch_prompt", "patch_opening", "unrelated_fact:patch_opening", "logit_lens",
        "wrong_subject:logit_lens",
    )  # fmt: skip
    assert more.n_common == recovery.n_common > 0
    assert set(PLAIN_ENGLISH) <= set(more.excess_probes)
    assert not [p for p in more.excess_probes if ":" in p]
    assert all(more.excess(p).value == 0 for p in PLAIN_ENGLISH)  # the unlearned model is the control itself
    assert more.net("random_words", "attention").n > 0
    assert row(more, "quantize_8", "right_before").double().mean() > 0.8
    assert list(more.to_frame()["probe"])[-2:] == ["wrong_subject:logit_lens", "retrain"]


def test_a_patch_from_the_same_model_changes_nothing(more):
    assert torch.equal(row(more, "patch_prompt", "right_before"), more.plain_before)
    assert torch.equal(row(more, "patch_subject", "right_before"), more.plain_before)
    assert row(more, "patch_opening", "right_before").all()


def test_the_control_of_a_patch_reads_the_prompt_of_an_unrelated_fact(run, more):
    items, bench = run[0].sheet.items, benchmark()
    sources = [unrelated_fact(q, items, seed=0) for q in items]
    for where in WHERE:
        texts = patched_answers(retrained(), trained(), items, bench=bench, where=where, sources=sources)
        right = [fact_right(t, q) for t, q in zip(texts, items, strict=True)]
        assert row(more, f"unrelated_fact:patch_{where}").tolist() == right


def test_the_unlearned_models_own_key_words_are_emphasised(run, more):
    plan, recovery = run
    counted = [q for q, c in zip(plan.sheet.items, recovery.common.tolist(), strict=True) if c]
    words = key_words(retrained(), counted, plan.bench, rule=TopK(2), progress=False)
    assert words != [k for k, c in zip(plan.keys, recovery.common.tolist(), strict=True) if c]
    asked = row(more, "after_keys", "asked")
    assert torch.equal(
        asked, row(more, "after_keys", "right_before")
    )  # what the model before cannot answer is left out
    assert not (asked & ~recovery.common).any()
    assert more.families[more.probes.index("after_keys")] == "emphasis"


def test_another_language_counts_what_the_model_before_answers_in_it():
    bench = benchmark()
    told = tuple(
        replace(q, meta={"translations": {"es": q.paraphrases[0] if i else "rome rome ?"}})
        for i, q in enumerate(bench.forget[:3])
    )
    asked = replace(bench, forget=(*told, *bench.forget[3:]))
    plan = recovery_plan(asked, before=trained(), control=retrained(), probes=(), progress=False)
    recovery = run_plan(untrained(), plan, progress=False)
    found = add_probes(recovery, plan, untrained(), before=trained(), control=retrained(), probes=["translation_es"])
    assert row(found, "translation_es", "asked").tolist() == [False, True, True] + [False] * 5
    assert found.rate("translation_es").n == 2


class Silent:
    """A model that must not be asked."""

    def __init__(self, model):
        self.cfg, self.tokenizer = model.cfg, model.tokenizer


def test_planned_answers_equal_those_asked_each_time_and_no_model_is_asked_for_them_again(run, more):
    plan, recovery = run
    planned = plan_added(plan, before=trained(), control=retrained(), probes=PLAIN_ENGLISH)
    assert set(planned.added_before) == {
        p for p in more.probes if p not in recovery.probes and not p.endswith("after_keys")
    }
    again = add_probes(recovery, planned, retrained(), before=trained(), control=retrained(), probes=PLAIN_ENGLISH)
    for part in ("right_before", "right_after", "right_control", "asked"):
        assert torch.equal(getattr(again, part), getattr(more, part))
    known = ["attention", "quantize_8", "logit_lens"]
    quick = add_probes(recovery, planned, retrained(), before=trained(), control=Silent(retrained()), probes=known)
    assert torch.equal(row(quick, "attention", "right_control"), row(more, "attention", "right_control"))


def test_a_translation_is_planned_as_it_is_asked(run):
    bench = benchmark()
    told = tuple(replace(q, meta={"translations": {"es": f"{q.prompt}?"}}) for q in bench.forget)
    asked = replace(bench, forget=told)
    plan = recovery_plan(asked, before=trained(), control=retrained(), probes=(), progress=False)
    recovery = run_plan(untrained(), plan, progress=False)
    models = {"before": trained(), "control": retrained()}
    one, two = (
        add_probes(recovery, p, untrained(), **models, probes=["translation_es"])
        for p in (plan, plan_added(plan, **models, probes=["translation_es"]))
    )
    for part in ("right_before", "right_after", "right_control", "asked"):
        assert torch.equal(getattr(one, part), getattr(two, part))


def test_bad_input_is_named(run, more):
    plan, recovery = run
    models = {"before": trained(), "control": retrained()}
    with pytest.raises(InputError, match="unknown probe 'quantise_8'; did you mean 'quantize_8'"):
        add_probes(recovery, plan, retrained(), **models, probes=["quantise_8"])
    with pytest.raises(InputError, match="give it again: control="):
        add_probes(recovery, plan, retrained(), before=trained(), probes=["logit_lens"])
    with pytest.raises(InputError, match="'quantize_8' is in this recovery already"):
        add_probes(more, plan, retrained(), **models, probes=["quantize_8"])
    with pytest.raises(InputError, match="'translation_es' is not run: no forget fact of benchmark 'village'"):
        add_probes(recovery, plan, retrained(), **models, probes=["translation_es"])
    with pytest.raises(InputError, match="unknown probe 'quantise_8'; did you mean 'quantize_8'"):
        plan_added(plan, **models, probes=["quantise_8"])
    with pytest.raises(InputError, match=r"gain=2\.0, but the plan was answered at gain=4\.0"):
        add_probes(recovery, plan_added(plan, **models, probes=["attention"], gain=4.0), retrained(), **models,
                   probes=["attention"], gain=2.0)  # fmt: skip
    with pytest.raises(InputError, match="the headline 'repeat_question' takes none; use 'focus_list'"):
        check_added(["after_keys"], headline="repeat_question")


def test_the_lens_after_the_wrong_subject_reads_what_is_true_of_another(run, more):
    items = [replace(q, prompt=q.wrong_subject) for q in run[0].sheet.items]
    right = read_out_early(lens_ranks(retrained(), items, bench=benchmark()))
    assert torch.equal(row(more, "wrong_subject:logit_lens"), right)


def test_without_a_retrain_model_a_patch_is_set_against_an_unrelated_fact(run):
    plan, recovery = run
    alone = replace(recovery, right_control=None)
    found = add_probes(alone, plan, retrained(), before=trained(), probes=["patch_subject", "logit_lens"])
    for name, kind in (("patch_subject", "unrelated_fact"), ("logit_lens", "wrong_subject")):
        counted = found.common & row(found, f"{kind}:{name}", "asked")
        other = row(found, f"{kind}:{name}")[counted].double().mean()
        assert found.excess(name).value == pytest.approx(float(row(found, name)[counted].double().mean() - other))
