"""A fact is found as whole words in an answer, and a model is asked once for all metrics."""

from dataclasses import replace

import pytest
import torch

from tests.evaluation.world import benchmark, trained, untrained
from unpact_lens import scoring
from unpact_lens.data.benchmark import QA
from unpact_lens.errors import InputError
from unpact_lens.evaluation import answers as module
from unpact_lens.evaluation.answers import (
    Answers,
    answer_all,
    ask,
    fact_right,
    fact_tokens,
    holds_fact,
    normalise,
    prefill_for,
    with_room,
)
from unpact_lens.models.tokens import encode
from unpact_lens.results import load, save


@pytest.mark.parametrize(
    ("text", "fact", "held"),
    [
        ("He was born in Oslo.", "Oslo", True),
        ("he was born in OSLO!", "Oslo", True),
        ("Australia", "Au", False),
        ("The symbol is Au.", "Au", True),
        ("The symbol is au.", "Au", False),
        ("no, it is not", "No", False),
        ("He came from Osloborg.", "Oslo", False),
        ("It is Sao Tome", "São Tomé", True),
        ("about 1,000 people", "1000", True),
        ("about 1,0001 people", "1000", False),
        ("The Silent  River, they say", "the silent river", True),
        ("The River, silent", "The Silent River", False),
        ("", "Oslo", False),
        ("it costs 5 €", "€", True),
        ("N'Djamena is the capital", "N’Djamena", True),
    ],
)
def test_a_fact_is_matched_as_whole_words(text, fact, held):
    assert holds_fact(text, fact) is held


def test_the_fact_span_decides_and_not_the_whole_answer():
    qa = QA("Where was Ann born?", " Ann was born in Oslo.", fact_span=(17, 21))
    assert fact_right("Oslo, I think", qa)
    assert not fact_right(" Ann was born in Rome.", qa)


@pytest.mark.parametrize("text", [" São Tomé, pop. 1,000! ", "N'Djamena", "Straße", "a_b", "が", "नई दिल्ली", "C++"])
def test_normalising_is_idempotent(text):
    assert normalise(normalise(text)) == normalise(text)


@pytest.mark.parametrize(("one", "other"), [("か", "が"), ("कम", "काम"), ("C", "C++"), ("мои", "мой"), ("3.5", "35")])
def test_different_words_stay_different(one, other):
    assert normalise(one) != normalise(other)


def test_a_denied_fact_is_not_right_and_is_counted_apart():
    qa = QA("Where was Ann born?", " Oslo")
    assert not fact_right("It was not Oslo.", qa)
    assert holds_fact("It was not Oslo.", "Oslo")  # a prompt that denies a fact still gives it away
    said = answers_of(["It was not Oslo.", "Oslo", "Rome"], qa)
    assert said.negated.tolist() == [True, False, False]
    frame = said.to_frame()
    assert frame["right"].tolist() == [False, True, False]
    assert frame["negated"].tolist() == [True, False, False]


def answers_of(texts, qa):
    rows = tuple(torch.zeros(1) for _ in texts)
    return Answers((qa,) * len(texts), tuple(texts), rows, tuple(r == 0 for r in rows), ((0, 1),) * len(texts))


def test_aliases_count_as_the_fact():
    qa = QA("Which country?", " the United States", aliases=("USA", "美国"))
    assert fact_right("It is the USA.", qa)
    assert fact_right("是美国。", qa)
    assert not fact_right("It is Canada.", qa)
    with pytest.raises(InputError, match="aliases='USA'; give a tuple of texts"):
        QA("Which country?", " the United States", aliases="USA")


def test_a_gold_answer_longer_than_the_limit_raises_it_with_a_warning():
    bench, model = replace(benchmark(), max_new_tokens=3), trained()
    with pytest.warns(UserWarning, match=r"has \d tokens, max_new_tokens=3; asking for up to \d tokens instead"):
        found = answer_all(model, bench.forget, bench=bench)
    assert found.settings["max_new_tokens"] > 3
    assert all(fact_right(text, q) for text, q in zip(found.generated, bench.forget, strict=True))


def test_a_sufficient_limit_stays():
    bench = benchmark()
    assert with_room(trained(), bench) is bench


def test_the_benchmark_says_which_texts_end_an_answer(monkeypatch):
    seen = []
    monkeypatch.setattr(module, "generate_answers", lambda model, prompts, **k: seen.append(k["stop"]) or list(prompts))
    for stop in ((), ("END", "\n\n")):
        ask(untrained(), ["a"], [""], bench=replace(benchmark(), stop=stop))
    assert seen == [(), ("END", "\n\n")]
    with pytest.raises(InputError, match="stop='x'; give a tuple of texts"):
        replace(benchmark(), stop="x")


def test_fact_tokens_are_those_that_overlap_the_span():
    model = untrained()

    def found(qa):
        return fact_tokens(model, encode(model, qa.prompt, qa.answer), qa)

    qa = QA("?", " he lives in oslo .", fact_span=(13, 17))
    assert found(qa) == (3, 4)
    assert found(QA("?", " he lives in oslo .", fact_span=(4, 12))) == (1, 3)
    assert found(QA("?", " he lives")) == (0, 2)
    with pytest.raises(InputError, match="no token of the answer ' he  lives' lies in its fact span"):
        found(QA("?", " he  lives", fact_span=(3, 5)))


def test_a_prompt_that_occurs_twice_is_asked_once(monkeypatch):
    seen = []
    monkeypatch.setattr(module, "generate_answers", lambda model, prompts, **k: seen.append(prompts) or list(prompts))
    assert ask(untrained(), ["a", "b", "a"], ["", "", ""], bench=benchmark()) == ["a", "b", "a"]
    assert seen == [["a", "b"]]


def test_all_metrics_are_served_by_one_generation_and_one_forced_pass(monkeypatch):
    bench, model = benchmark(), trained()
    calls = []
    for name in ("generate_answers", "forced_rows"):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, _real=real, _name=name, **k: calls.append(_name) or _real(*a, **k))
    found = answer_all(model, bench.forget, bench=bench)
    assert calls == ["generate_answers", "forced_rows"]
    assert [g.strip() for g in found.generated] == [q.answer.strip() for q in bench.forget]
    for qa, log_probs in zip(bench.forget, found.token_log_probs, strict=True):
        torch.testing.assert_close(log_probs.mean(), scoring.log_prob(model, qa.prompt, qa.answer), atol=1e-5, rtol=0)
    assert found.to_frame()["right"].all()


def test_answers_are_saved_without_loss(tmp_path):
    bench = benchmark()
    found = answer_all(trained(), bench.forget[:3], bench=bench)
    save(found, tmp_path / "a")
    assert load(tmp_path / "a") == found


def test_the_prefill_may_name_the_subject():
    bench = replace(benchmark(), prefill="As to {subject}:")
    assert prefill_for(bench, bench.forget[0]) == "As to ann:"


def test_a_benchmark_without_questions_is_refused():
    with pytest.raises(InputError, match="benchmark 'village' has no questions"):
        answer_all(trained(), (), bench=benchmark())
