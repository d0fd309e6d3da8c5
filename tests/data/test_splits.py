"""Retain facts are split by subject, with near and far facts in proportion, and nothing is lost or silently unsplit."""

import dataclasses
import random
import warnings
from collections import Counter

import pandas as pd
import pytest

import unpact_lens as ul
from unpact_lens.data.benchmark import QA, Benchmark, Corpus
from unpact_lens.data.custom import from_pairs
from unpact_lens.data.load import load_benchmark
from unpact_lens.data.splits import PARTS, SHARES, Facts, RetainSplit, split_retain
from unpact_lens.errors import InputError
from unpact_lens.results import load, save


def invented(rng):
    """Draw subjects with one to six facts each, near, far or both."""
    items = []
    for s in range(rng.randint(10, 90)):
        kind = rng.choice(("near", "far", "both"))
        for k in range(rng.randint(1, 6)):
            group = rng.choice(("near", "far")) if kind == "both" else kind
            items.append(QA(f"{s} {k}?", " a", id=f"{s}/{k}", subject=f"subject {s}", group=group))
    return items


def parts_of(parts):
    return {q.subject: name for name, part in zip(PARTS, parts, strict=True) for q in part}


@pytest.mark.parametrize("trial", range(60))
def test_no_subject_is_in_two_parts_and_no_fact_is_lost(trial):
    rng = random.Random(trial)
    items = invented(rng)
    shares = rng.choice((SHARES, (0.6, 0.2, 0.2), (0.2, 0.2, 0.6), (0.7, 0.0, 0.3), (0.3, 0.3, 0.4)))
    parts = split_retain(items, shares, seed=trial)
    assert sorted(q.id for p in parts for q in p) == sorted(q.id for q in items)
    assert all(len({q.subject for q in p} & {q.subject for q in r}) == 0 for p in parts for r in parts if p is not r)
    subjects = [len({q.subject for q in p}) for p in parts]
    n = sum(subjects)
    for found, share in zip(subjects, shares, strict=True):  # each of three strata is rounded, and has one at least
        assert abs(found - share * n) <= 3
    order = [[q.id for q in items if q in p] for p in parts]
    assert order == [[q.id for q in p] for p in parts]
    shuffled = rng.sample(items, len(items))
    assert parts_of(split_retain(shuffled, shares, seed=trial)) == parts_of(parts)


def test_near_and_far_facts_are_split_in_proportion():
    whole = load_benchmark("builtin", retain_split=None).retain
    for seed in range(20):
        for part, share in zip(split_retain(whole, seed=seed), SHARES, strict=True):
            assert len(part.near) / len(whole.near) == pytest.approx(share, abs=0.05)
            assert len(part.far) / len(whole.far) == pytest.approx(share, abs=0.05)


def test_the_seed_decides_the_split_and_equal_seeds_repeat_it():
    whole = load_benchmark("builtin", retain_split=None).retain
    found = [parts_of(split_retain(whole, seed=seed)) for seed in (0, 0, 1, 2)]
    assert found[0] == found[1]
    assert len({tuple(sorted(f.items())) for f in found}) == 3
    unseen = Counter(
        s for seed in range(200) for s, p in parts_of(split_retain(whole, seed=seed)).items() if p == "unseen"
    )
    assert len(unseen) == 64  # every subject may become unseen, and none is much more likely to
    assert 35 <= min(unseen.values()) <= max(unseen.values()) <= 110


def test_facts_give_their_near_and_far_ones_and_stay_a_tuple():
    items = (QA("a?", " b", id="a", subject="s", group="near"), QA("c?", " d", id="c", group="far"))
    facts = Facts(items)
    assert facts == items
    assert (facts.near, facts.far) == (items[:1], items[1:])
    assert facts.subjects == ("s", "c")
    assert dataclasses.asdict(Benchmark("b", (), facts))["retain"][0]["id"] == "a"


@pytest.mark.parametrize(
    "shares",
    [
        (0.5, 0.5),
        (0.5, 0.2, 0.2),
        (1.2, -0.2, 0.0),
        "half",
        ("0.5", "0.15", "0.35"),
        (True, 0, 0),
        (float("nan"), 0, 1),
        0.5,
    ],
)
def test_shares_that_are_no_shares_are_refused(shares):
    with pytest.raises(
        InputError, match=r"retain_split=.*; give three shares \(trained, validation, unseen\) from 0 to 1"
    ):
        load_benchmark("builtin", retain_split=shares)


def few(near, far):
    groups = ["near"] * near + ["far"] * far
    rows = [{"prompt": f"{i}?", "answer": "a", "group": g} for i, g in enumerate(groups)]
    return pd.DataFrame([{"prompt": "Who?", "answer": "Bo"}, *rows])


def test_too_few_subjects_for_the_shares_given_are_refused():
    with pytest.raises(
        InputError, match=r"benchmark 'pairs': 2 subjects with near retain facts cannot be split 0\.5/0\.15/"
    ):
        from_pairs(few(2, 9), retain_split=SHARES)
    assert len(from_pairs(few(2, 9), retain_split=(0.5, 0.0, 0.5)).unseen.near) == 1


def test_too_few_subjects_for_the_default_shares_are_reported():
    with pytest.warns(UserWarning, match="'pairs' lacks a part: 2 subjects with near .* no validation near fact would"):
        bench = from_pairs(few(2, 9))
    assert (len(bench.retain.near), len(bench.validation.near), len(bench.unseen.near)) == (1, 0, 1)
    with pytest.warns(UserWarning, match="'pairs' is not split, so its destruction is undefined: 1 subject with near"):
        bench = from_pairs(few(1, 1))
    assert (len(bench.retain), bench.unseen, bench.retain_split) == (2, (), None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(from_pairs(few(3, 3)).unseen) == 2
        assert from_pairs(few(1, 1), retain_split=None).retain_split is None


@pytest.mark.parametrize("name", ["builtin", "facts"])
def test_benchmarks_are_split_and_can_be_split_otherwise(name):
    bench = load_benchmark(name)
    assert bench.retain_split == RetainSplit(SHARES, 0)
    assert all(p.near and p.far for p in (bench.retain, bench.validation, bench.unseen))
    whole = load_benchmark(name, retain_split=None)
    assert {q.id for q in whole.retain} == {q.id for q in bench.kept}
    assert (whole.validation, whole.unseen) == ((), ())
    assert len(bench.near) == len(whole.near)
    other = load_benchmark(name, retain_split=(0.25, 0.25, 0.5), split_seed=7)
    assert other.retain_split == RetainSplit((0.25, 0.25, 0.5), 7)
    assert parts_of((other.retain, other.validation, other.unseen)) == parts_of(
        (again := bench.split((0.25, 0.25, 0.5), 7)).retain and (again.retain, again.validation, again.unseen)
    )
    assert {q.id for q in bench.split(None).retain} == {q.id for q in whole.retain}


def test_number_of_facts_of_the_embedded_world():
    bench = load_benchmark("builtin")
    assert [len(p.subjects) for p in (bench.retain, bench.validation, bench.unseen)] == [31, 10, 23]
    assert [len(p) for p in (bench.retain, bench.validation, bench.unseen)] == [186, 60, 138]
    assert (len(bench.unseen.near), len(bench.unseen.far)) == (60, 78)


@pytest.mark.parametrize("name", ["builtin", "facts"])
def test_the_retain_corpus_says_nothing_about_subjects_that_are_not_trained_on(name):
    bench = load_benchmark(name)
    held = {*bench.validation.subjects, *bench.unseen.subjects}
    assert held & {*bench.unseen_corpus.subjects}
    assert not held & {*bench.retain_corpus.subjects}
    for subject in held & {*bench.unseen_corpus.subjects, *bench.validation_corpus.subjects}:
        assert not any(f"{subject} " in text or f"{subject}'" in text for text in bench.retain_corpus.texts)
    whole = load_benchmark(name, retain_split=None).retain_corpus
    assert sorted(bench.split(None).retain_corpus.texts) == sorted(whole.texts)


def test_documents_without_questions_are_split_as_well():
    corpus = Corpus(tuple(f"text {i}" for i in range(20)), "texts", tuple(f"d{i}" for i in range(20)))
    bench = Benchmark("documents", forget=(QA("p", " a"),), retain=(), retain_corpus=corpus).split()
    assert [len(c.texts) for c in (bench.retain_corpus, bench.validation_corpus, bench.unseen_corpus)] == [10, 3, 7]
    with pytest.raises(InputError, match="corpus 'c' has 1 subjects for 2 documents"):
        Corpus(("a", "b"), "c", ("x",))


def test_a_split_benchmark_is_saved_with_its_split(tmp_path):
    bench = load_benchmark("builtin", split_seed=3)
    save(bench, tmp_path / "bench")
    loaded = load(tmp_path / "bench")
    assert loaded == bench
    assert (loaded.retain_split, len(loaded.unseen.far)) == (bench.retain_split, len(bench.unseen.far))


def test_the_retrained_model_is_of_all_facts_to_keep():
    """The split decides what unlearning rehearses, not what the control knows."""
    bench, control = load_benchmark("builtin"), ul.load_model("builtin-retrain")
    scores = ul.evaluate(control, bench, before=ul.load_model("builtin"))
    assert scores.destruction.value < 0.06
    assert scores.destruction_trained.value < 0.06
