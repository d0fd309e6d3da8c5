"""ReLearn teaches several answers without the fact."""

import pytest
import torch

from tests.unlearning.runs import ONE, first, row
from unpact_lens.data.benchmark import QA
from unpact_lens.errors import InputError
from unpact_lens.scoring import score_rows
from unpact_lens.unlearning import unlearn
from unpact_lens.unlearning.methods.relearn import written_answers

WRITTEN = {"subjects": 4, "drawn": 32, "templates": 2}
OTHERS = [" the town of tell .", " the work of tell .", " tell the town ."]


def test_first_value_is_the_likelihood_of_the_given_answers(learned, facts):
    u = unlearn(learned, facts[0], method="relearn", answers=OTHERS, n_answers=3, **ONE, **WRITTEN)
    rows = [row(learned, q.prompt, a) for q in facts[0] for a in OTHERS]
    assert u.history.forget_order.shape == (1, len(rows))
    assert first(u) == pytest.approx(-float(torch.cat(score_rows(learned, rows)).mean()), abs=1e-6)


@pytest.mark.hooked
def test_answers_that_hold_the_fact_are_left_out(learned, facts):
    fact = facts[0][0].fact.strip()
    u = unlearn(learned, facts[0][:1], method="relearn", answers=[f" {fact} .", OTHERS[0]], **ONE, **WRITTEN)
    expected = torch.cat(score_rows(learned, [row(learned, facts[0][0].prompt, OTHERS[0])]))
    assert first(u) == pytest.approx(-float(expected.mean()), abs=1e-6)
    with pytest.raises(InputError, match=f"every other answer holds its fact '{fact}'; give answers="):
        unlearn(learned, facts[0][:1], method="relearn", answers=[f" {fact} ."], **ONE, **WRITTEN)


def test_written_answers_are_of_the_same_question_with_the_name_replaced():
    class Job:
        rehearsal = (
            QA("where was Bob born", " Bob was born in Rome", subject="Bob"),
            QA("where was Eve born", " Eve was born in Lima", subject="Eve"),
            QA("where was Gus born", " Gus was born in Oslo", subject="Gus"),
            QA("what is the job of Eve", " a pilot", subject="Eve"),
        )

        def questions(self):
            return (QA("where was Ann born", " Oslo", subject="Ann"), QA("who knew Ann?", " Eve did", subject="Ann"))

    born, unknown = written_answers(Job())
    assert born == [" Ann was born in Rome", " Ann was born in Lima"]
    assert unknown == [*born, " Ann was born in Oslo", " a pilot"]
