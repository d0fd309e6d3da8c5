"""Check that the sentences of a report follow from the verdicts."""

import math
from types import SimpleNamespace

import pytest

from unpact_lens.evaluation.verdict import Verdict
from unpact_lens.report import sentences


def study(*cells, **config):
    return SimpleNamespace(config={"epsilon": 0.1, **config}, cells=cells)


def cell(method, *labels, distance=math.nan, seed=0):
    made = Verdict(labels=labels, reasons={}, open={}, n_needed={}, distance=distance)
    return SimpleNamespace(method=method, seed=seed, verdict=made)


def test_the_headline_says_that_no_model_is_reliable_and_why():
    found = study(
        cell("ga", "destroyed", distance=0.9), cell("npo", "destroyed", "hid", distance=1.1),
        cell("rmu", "hid", distance=0.4), cell("x", "undecided"), cell("y", "insufficient", distance=0.7),
    )  # fmt: skip
    assert sentences.headline(found) == (
        "Of 5 unlearned models, none is shown to be reliable at tolerance 0.1: "
        "2 (ga, npo) destroyed facts that should be kept; 2 (npo, rmu) hid facts that a probe recovers; "
        "1 (y) forgot too little; 1 (x) needs more facts for a verdict. "
        "rmu is closest to reliable, at distance 0.40 (0 is reliable)."
    )


def test_erased_models_come_first():
    found = study(cell("ga", "destroyed"), cell("select", "erased"), epsilon=0.05)
    assert sentences.headline(found) == (
        "Of 2 unlearned models, 1 (select) erased the facts, as far as the probes show (tolerance 0.05): "
        "1 (ga) destroyed facts that should be kept."
    )


def test_the_headline_of_one_model_has_its_verdicts_only():
    assert sentences.headline(study(cell("ga", "destroyed", "hid", distance=0.5))) == (
        "The unlearned model destroyed facts that should be kept and hid facts that a probe recovers."
    )


def test_an_undefined_distance_is_never_the_closest():
    found = study(cell("a", "hid"), cell("b", "hid", distance=0.8), cell("c", "hid", distance=0.6))
    assert sentences.closest(found).startswith("c is closest to reliable, at distance 0.60")
    assert sentences.closest(study(cell("a", "hid"), cell("b", "hid", distance=0.8))) == ""


def test_seeds_are_named_only_if_a_method_has_several():
    assert sentences.labels_of([cell("ga"), cell("ga", seed=1), cell("npo", seed=2)]) == [
        "ga · seed 0",
        "ga · seed 1",
        "npo",
    ]


@pytest.mark.parametrize(
    ("name", "command"),
    [("demo", "unpact demo"), ("demo-smollm2", "unpact demo --model smollm2"), ("mine", "unpact study mine.yaml")],
)
def test_the_command_is_that_of_this_study(name, command):
    assert sentences.command(study(name=name)) == command


def test_every_verdict_has_a_phrase():
    from unpact_lens.evaluation.verdict import LABELS

    assert set(sentences.SAID) == set(LABELS)
