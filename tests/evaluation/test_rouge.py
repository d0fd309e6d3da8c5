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
