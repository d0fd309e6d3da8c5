"""Exact match compares whole answers, normalised."""

from unpact_lens.data.benchmark import QA
from unpact_lens.evaluation.exact_match import exact_match


def test_the_whole_answer_must_be_the_gold_answer():
    qa = QA("Where was Ann born?", " Ann was born in Oslo.", fact_span=(17, 21))
    assert not exact_match("Oslo, I think", qa)
    assert exact_match("ann was born in oslo", qa)


def test_answers_in_other_scripts_are_compared_with_their_marks():
    assert exact_match("столица — ОСЛО", QA("?", " Столица Осло."))
    assert not exact_match("が", QA("?", " か"))
    assert exact_match("ﾉﾙｳｪｰ", QA("?", "ノルウェー"))
