"""The words of a report follow from the verdicts."""

import math
from types import SimpleNamespace

import pytest

from unpact_lens.evaluation.verdict import Verdict
from unpact_lens.report import words


def study(*cells, **config):
    return SimpleNamespace(config={"epsilon": 0.1, **config}, cells=cells)


def cell(method, *labels, distance=math.nan, seed=0):
    made = Verdict(labels=labels, reasons={}, open={}, n_needed={}, distance=distance)
    return SimpleNamespace(method=method, seed=seed, verdict=made)


def test_where_nothing_is_reliable_the_headline_says_so_and_why():
    found = study(
        cell("ga", "destroyed", distance=0.9), cell("npo", "destroyed", "hid", distance=1.1),
        cell("rmu", "hid", distance=0.4), cell("x", "undecided"), cell("y", "insufficient", distance=0.7),
    )  # fmt: skip
    assert words.headline(found) == (
        "Of 5 unlearned models, none is shown to be reliable at tolerance 0.1: "
        "2 (ga, npo) destroyed facts that were to be kept; 2 (npo, rmu) hid facts that a probe brings back; "
        "1 (y) forgot too little; 1 (x) cannot be judged on this many facts. "
        "Closest to reliable is rmu, at distance 0.40 (0 is reliable)."
    )


def test_what_was_erased_comes_first():
    found = study(cell("ga", "destroyed"), cell("select", "erased"), epsilon=0.05)
    assert words.headline(found) == (
        "Of 2 unlearned models, 1 (select) erased the facts, as far as the probes can tell (tolerance 0.05): "
        "1 (ga) destroyed facts that were to be kept."
    )


def test_one_model_is_spoken_of_alone():
    assert words.headline(study(cell("ga", "destroyed", "hid", distance=0.5))) == (
        "The one unlearned model destroyed facts that were to be kept and hid facts that a probe brings back."
    )


def test_an_undefined_distance_is_never_the_closest():
    found = study(cell("a", "hid"), cell("b", "hid", distance=0.8), cell("c", "hid", distance=0.6))
    assert words.closest(found).startswith("Closest to reliable is c, at distance 0.60")
    assert words.closest(study(cell("a", "hid"), cell("b", "hid", distance=0.8))) == ""


def test_seeds_are_named_only_where_a_method_has_several():
    assert words.labels_of([cell("ga"), cell("ga", seed=1), cell("npo", seed=2)]) == [
        "ga · seed 0",
        "ga · seed 1",
        "npo",
    ]


@pytest.mark.parametrize(
    ("name", "command"),
    [("demo", "unpact demo"), ("demo-smollm2", "unpact demo --model smollm2"), ("mine", "unpact study mine.yaml")],
)
def test_the_command_runs_this_study_again(name, command):
    assert words.command(study(name=name)) == command


def test_every_verdict_can_be_said():
    from unpact_lens.evaluation.verdict import LABELS

    assert set(words.SAID) == set(LABELS)
