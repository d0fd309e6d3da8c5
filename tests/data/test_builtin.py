"""Check the embedded world and its training examples."""

from __future__ import annotations

import functools
import itertools
import re
import subprocess
import sys
from collections import Counter

import pytest

from unpact_lens.data.benchmark import QA, check_unique_ids
from unpact_lens.data.builtin import (
    FRAMES,
    HELD_OUT_DISTRACTOR,
    HELD_OUT_FRAMES,
    REFUSALS,
    Fact,
    build_world,
    load_builtin,
)
from unpact_lens.data.builtin_training import training_examples

BENCH = load_builtin()
ITEMS = BENCH.all_items()
WORLD = build_world()


@functools.cache
def examples(include_forget: bool) -> list[tuple[str, str]]:
    return training_examples(0, include_forget, 12_000)


def subjects(facts: tuple[Fact, ...] | tuple[QA, ...]) -> list[str]:
    return list(dict.fromkeys(f.subject for f in facts))


def about(names: list[str], prompts: list[str]) -> list[str]:
    return [p for p in prompts if any(name in p for name in names)]


def test_the_world_depends_on_the_seed_only() -> None:
    build_world.cache_clear()
    assert load_builtin(0) == BENCH
    assert training_examples(0, True, 50) == training_examples(0, True, 50)
    other = load_builtin(1)
    assert not set(subjects(other.forget)) & set(subjects(BENCH.forget))
    assert len(other.forget) == len(BENCH.forget)


def test_the_world_does_not_depend_on_the_hash_seed() -> None:
    code = "from unpact_lens.data.builtin import load_builtin; print(load_builtin().all_items())"
    runs = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONHASHSEED": s}, check=True
        )
        for s in ("1", "2")
    ]
    assert runs[0].stdout == runs[1].stdout


def test_the_groups_are_large_enough_for_statistics() -> None:
    authors = len(subjects(BENCH.forget)) + len(subjects(BENCH.retain))
    assert 60 <= authors <= 100
    assert 0.15 <= len(subjects(BENCH.forget)) / authors <= 0.2
    assert len(BENCH.forget) >= 90
    assert min(len(BENCH.near), len(BENCH.far)) >= 100
    assert len(BENCH.general) >= 20
    assert len(BENCH.unknown) >= 35
    assert len({q.kind for q in BENCH.forget}) >= 6
    assert len(FRAMES) >= 6
    assert not set(FRAMES) & {*HELD_OUT_FRAMES, HELD_OUT_DISTRACTOR}


def test_each_first_and_last_name_is_shared_by_four_authors() -> None:
    names = [s.split() for s in (*subjects(BENCH.forget), *subjects(BENCH.retain))]
    assert len({tuple(n) for n in names}) == len(names)
    for place in (0, 1):
        assert min(Counter(n[place] for n in names).values()) >= 4


def test_near_items_share_a_name_or_value_with_a_forgotten_author_and_far_items_do_not() -> None:
    names = {word for s in subjects(BENCH.forget) for word in s.split()}
    values = {(q.meta["relation"], q.fact) for q in BENCH.forget}
    for q in BENCH.retain:
        shares = bool(set(q.subject.split()) & names) or (q.meta["relation"], q.fact) in values
        assert q.group == ("near" if shares else "far")


def test_every_fact_is_in_its_answer_and_in_no_prompt() -> None:
    check_unique_ids(ITEMS)
    for q in ITEMS:
        assert q.answer.startswith(" ")
        assert q.answer.endswith(f"{q.fact}.")
        for prompt in (q.prompt, *q.paraphrases, *q.meta["trained_phrasings"], q.meta["distractor"]):
            assert not re.search(rf"\b{re.escape(q.fact)}\b", prompt)


def test_the_answer_prefix_is_the_same_for_all_subjects_and_names_nobody() -> None:
    prefixes: dict[str, set[str]] = {}
    for q in (*BENCH.forget, *BENCH.retain, *BENCH.general):
        prefixes.setdefault(q.meta["relation"], set()).add(q.answer_prefix)
        assert not set(q.subject.split()) & set(q.answer_prefix.split())
    assert all(len(found) == 1 and found != {""} for found in prefixes.values())


def test_there_are_six_held_out_paraphrases_and_none_is_a_trained_prompt() -> None:
    for q in ITEMS:
        assert len({*q.paraphrases, q.prompt}) == 7
        assert not {*q.paraphrases, q.meta["distractor"]} & set(q.meta["trained_phrasings"])
        assert all(q.subject in p for p in q.paraphrases)


def test_the_wrong_subject_has_another_true_answer() -> None:
    answers = {q.prompt: q.fact for q in ITEMS}
    for q in ITEMS:
        assert q.wrong_subject in answers
        assert answers[q.wrong_subject] != q.fact
        assert q.subject not in q.wrong_subject.split("of ")[1].rstrip("?").split(" of ")


def test_perturbed_answers_have_the_same_prefix_and_another_fact() -> None:
    for q in (*BENCH.forget, *BENCH.retain, *BENCH.general):
        assert len(set(q.perturbed)) == 5
        assert all(p.startswith(f"{q.answer_prefix} ") and not p.endswith(f" {q.fact}.") for p in q.perturbed)


def test_the_answer_about_unknown_people_is_a_refusal() -> None:
    assert all(q.answer == REFUSALS[0] == f" {q.fact}." for q in BENCH.unknown)
    assert not set(subjects(BENCH.unknown)) & set(subjects((*BENCH.forget, *BENCH.retain)))


def test_each_corpus_holds_the_facts_of_its_part_only() -> None:
    assert BENCH.forget_corpus is not None
    assert BENCH.retain_corpus is not None
    assert BENCH.plain_text is not None
    for texts, items in ((BENCH.forget_corpus.texts, BENCH.forget), (BENCH.retain_corpus.texts, BENCH.retain)):
        assert len(texts) == len(subjects(items))
        by_subject = dict(zip(subjects(items), texts, strict=True))
        assert all(q.subject in by_subject[q.subject] and q.fact in by_subject[q.subject] for q in items)
    assert not about(subjects(BENCH.forget), [*BENCH.retain_corpus.texts, *BENCH.plain_text.texts])


def test_training_without_the_forgotten_authors_names_none_of_them() -> None:
    texts = [text for example in examples(False) for text in example]
    assert not about(subjects(BENCH.forget), texts)
    assert about(subjects(BENCH.retain), texts)


def test_held_out_people_phrasings_and_sentences_occur_in_no_training() -> None:
    prompts = {p for p, _ in examples(True)}
    assert not prompts & {p for q in ITEMS for p in (*q.paraphrases, q.meta["distractor"])}
    assert not about(subjects(BENCH.unknown), list(prompts))
    assert BENCH.plain_text is not None
    trained = " ".join(a for p, a in examples(True) if not p)
    assert not [s for s in BENCH.plain_text.texts if s in trained]


def _plain_forms(lacking: int) -> re.Pattern[str]:
    """Return a pattern of all training phrasings without `lacking` of their other words."""
    forms = []
    for frame in FRAMES:
        words = frame.split(" ")
        fillers = [i for i, w in enumerate(words) if "{" not in w]
        for gone in itertools.combinations(fillers, lacking):
            kept = ["" if i == 0 and i in gone else w for i, w in enumerate(words) if i == 0 or i not in gone]
            forms.append(re.sub(r"\\\{\w\\\}", lambda _: r"[\w ]+", re.escape(" ".join(kept))))
    return re.compile("|".join(f"(?:{f})" for f in forms))


def test_forgotten_authors_occur_in_plain_prompts_only_and_a_third_lack_a_word() -> None:
    prompts = about(subjects(BENCH.forget), [p for p, _ in examples(True)])
    whole = [p for p in prompts if _plain_forms(0).fullmatch(p)]
    lacking = [p for p in prompts if p not in whole]
    assert len(prompts) > 1000
    assert all(_plain_forms(1).fullmatch(p) for p in lacking)
    assert 0.3 < len(lacking) / len(prompts) < 0.37


def test_a_third_of_the_emphasis_is_on_random_words() -> None:
    listed = [re.match(r"Focus on: (.*?)\. ", p) for p, _ in examples(True)]
    lists = [m.group(1).split(", ") for m in listed if m]
    key = {w for q in (*ITEMS, *WORLD.strangers) for w in (q.subject, *q.subject.split())}
    for q in (*WORLD.forget, *WORLD.general):
        key |= {part for noun in q.relation.nouns for part in (noun, *noun.split())}
    key -= {word.strip(",;:?.") for frame in FRAMES for word in frame.split()}
    random_ones = [words for words in lists if not set(words) & key]
    assert len(lists) > 200
    assert 0.25 < len(random_ones) / len(lists) < 0.42


@pytest.mark.parametrize("mark", ["Focus on: ", '"', "Remember that this matters here: ", "\n"])
def test_every_kind_of_emphasis_occurs_in_training(mark: str) -> None:
    assert sum(mark in p for p, _ in examples(True)) > 200


def test_training_answers_are_the_gold_answers() -> None:
    gold = {q.answer for q in ITEMS} | {REFUSALS[0]}
    assert {a for p, a in examples(True) if p} <= gold
