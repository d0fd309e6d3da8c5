"""ROUGE equals that of the rouge-score package."""

import pytest
from rouge_score.rouge_scorer import RougeScorer

from unpact_lens.data.benchmark import QA
from unpact_lens.evaluation.rouge import rouge


def test_rouge_equals_the_rouge_score_package():
    qa = QA("?", " the river runs through old towns")
    score = RougeScorer(["rouge1", "rougeL"], use_stemmer=True).score(qa.answer, "towns the old river is running")
    assert rouge("towns the old river is running", qa) == (score["rougeL"].recall, score["rougeL"].fmeasure)
    # By hand: the longest common subsequence of stems is "the river run", 3 of 6 words in both texts.
    assert rouge("towns the old river is running", qa) == (0.5, 0.5)
    assert rouge("towns the old river is running", qa, "rouge1")[0] == pytest.approx(5 / 6)
    assert rouge("", qa) == (0, 0)


ASCII = (
    "The River Runs, through old-towns: 1,000 boats!",
    "don't stop_here; RUNNING at 3.5 km",
    "",
    "a I ?!",
    "C++ is it",
)


@pytest.mark.parametrize("gold", ASCII)
@pytest.mark.parametrize("generated", ASCII)
def test_ascii_texts_give_the_numbers_of_rouge_score(gold, generated):
    if gold:
        score = RougeScorer(["rouge1", "rougeL"], use_stemmer=True).score(gold, generated)
        for which in ("rouge1", "rougeL"):
            assert rouge(generated, QA("?", gold), which) == (score[which].recall, score[which].fmeasure)


@pytest.mark.parametrize(
    ("gold", "generated", "recall"),
    [
        ("Столица Норвегии — Осло.", "Столица Норвегии — Осло.", 1.0),
        ("Столица Норвегии — Осло.", "столица, осло", 2 / 3),
        ("挪威的首都是奥斯陆", "挪威的首都是卑尔根", 6 / 9),
        ("नई दिल्ली", "दिल्ली", 1 / 2),
        ("か", "が", 0.0),
        ("São Paulo", "sao paulo", 1.0),
        ("เมืองหลวง", "เมืองหลวง", 1.0),
    ],
)
def test_words_of_every_script_count(gold, generated, recall):
    assert rouge(generated, QA("?", gold))[0] == pytest.approx(recall)


def test_published_metrics_keep_the_ascii_tokenizer_for_latin_text():
    gold, generated = "Nació en Bogotá", "Nacio en Bogota"
    score = RougeScorer(["rougeL"], use_stemmer=True).score(gold, generated)["rougeL"]
    assert rouge(generated, QA("?", gold), as_published=True) == (score.recall, score.fmeasure)
    assert rouge(generated, QA("?", gold))[0] == 1
    assert rouge("Осло", QA("?", "Осло"), as_published=True)[0] == 1
