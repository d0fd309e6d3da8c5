"""`evaluate` computes metrics of the whole benchmark if they are named, equal to their own functions."""

import math
from dataclasses import replace

import pytest

from tests.models.families import hf_model, tokenizer
from unpact_lens.data.benchmark import QA, Benchmark, Corpus
from unpact_lens.errors import InputError
from unpact_lens.evaluation import METRICS, evaluate
from unpact_lens.evaluation.membership_inference import ATTACKS, membership, privacy_leakage
from unpact_lens.evaluation.multiple_choice import choose
from unpact_lens.evaluation.muse import knowmem, verbmem
from unpact_lens.evaluation.tofu import tofu_scores, truth_ratio_forget
from unpact_lens.models.load import load_model

WHOLE = [name for name, metric in METRICS.items() if metric.of == "benchmark"]


@pytest.fixture(scope="module")
def models():
    return [load_model(hf_model("llama", seed=s, max_position_embeddings=200), tokenizer=tokenizer()) for s in (0, 5)]


@pytest.fixture
def bench():
    def item(i, group, **meta):
        return QA(
            f"who is {i}?", " Japan", id=f"{group}{i}{meta}", group=group, perturbed=(" gold", " sea"), meta=meta
        )  # fmt: skip

    return Benchmark(
        name="w",
        forget=tuple(item(i, "forget") for i in range(4)),
        retain=(item(1, "near"), replace(item(2, "far"), choices=(" Japan", " gold"))),
        general=(item(1, "general", set="real_authors"), item(1, "general", set="world_facts")),
        verbatim=(QA("seven small", " boats at sea"),),
        members=Corpus(("the capital of Japan", "who wrote Hamlet?")),
        holdout=Corpus(("seven small boats", "gold has the symbol Au")),
        max_new_tokens=3,
    )


def test_each_equals_its_own_function(models, bench):
    model, retrained = models
    scores = evaluate(model, bench, WHOLE, reference=retrained)
    tofu = tofu_scores(model, bench, reference=retrained)
    attacks = membership(model, bench.members.texts, bench.holdout.texts, reference=retrained)
    know = knowmem(model, bench)
    expected = {
        "truth_ratio_forget": truth_ratio_forget(tofu.log_ratio[:4]),
        "forget_quality_log10": tofu.forget_quality.log10_p,
        "model_utility": tofu.model_utility,
        "verbmem": verbmem(model, bench).value(),
        "knowmem_forget": know.value("forget"),
        "knowmem_retain": (know.value("near") + know.value("far")) / 2,
        "privleak": privacy_leakage(model, bench, retrained),
        "accuracy": choose(model, [bench.retain[1]]).accuracy.value,
        **{f"mia_{name}": attacks.auc(name) for name in ATTACKS},
    }
    assert scores.overall == pytest.approx(expected, nan_ok=True)
    frame = scores.to_frame().set_index(["metric", "group"])
    assert frame.loc[("privleak", "benchmark"), "value"] == scores.overall["privleak"]
    for name, value in scores.overall.items():
        low, high = METRICS[name].bounds
        assert math.isnan(value) or low <= value <= high, name


def test_none_is_computed_unless_named(models, bench):
    assert evaluate(models[0], bench).overall == {}


def test_extraction_and_memorisation_are_computed_for_every_item(models, bench):
    scores = evaluate(models[0], bench, ["exact_memorisation", "extraction_strength"])
    assert len(scores.of("extraction_strength")) == len(bench.all_items())
    assert 0 <= float(scores.of("extraction_strength").min()) <= float(scores.of("extraction_strength").max()) <= 1


@pytest.mark.parametrize(
    ("metric", "change", "message"),
    [
        ("verbmem", {"verbatim": ()}, "benchmark 'w' has no `verbatim` passages"),
        ("mia_loss", {"holdout": None}, "benchmark 'w' has no `members` and `holdout` texts"),
        ("accuracy", {"retain": ()}, "benchmark 'w' has no question with `choices`"),
        ("privleak", {}, "metric 'privleak' compares with a retrained model"),
        ("forget_quality_log10", {}, "metric 'forget_quality_log10' compares with a retrained model"),
        ("mia_reference", {}, "metric 'mia_reference' compares with a retrained model"),
    ],
)
def test_an_error_names_what_a_metric_lacks(models, bench, metric, change, message):
    with pytest.raises(InputError, match=message):
        evaluate(models[0], replace(bench, **change), [metric])


def test_scores_are_refused_where_the_retrained_model_is_needed(models, bench):
    with pytest.raises(InputError, match="metric 'privleak' asks the retrained model itself"):
        evaluate(models[0], bench, ["privleak"], reference=evaluate(models[1], bench, ["fact_span"]))
