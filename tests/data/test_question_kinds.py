"""Check the rule for kinds of knowledge on questions with an obvious kind."""

import pytest

from unpact_lens.data.question_kinds import KINDS, kind_of


@pytest.mark.parametrize(
    ("question", "answer", "kind"),
    [
        ("When was the museum opened?", "It was opened in 1923.", "date"),
        ("In which year did the war end?", "1945", "date"),
        ("The war ended in", "1945.", "date"),
        ("How many books has she written?", "Seven", "number"),
        ("The bridge is so many metres long:", "2,737", "number"),
        ("Where was he born?", "He was born in Oslo.", "place"),
        ("What is the capital of Norway?", "Oslo", "place"),
        ("What do his parents do?", "His father is a florist.", "relation"),
        ("Who wrote Hamlet?", "William Shakespeare", "entity"),
        ("What genre does she write?", "She writes crime fiction.", "entity"),
        ("How can one purify it?", "By distillation.", "procedural"),
        ("How has she changed crime fiction?", "She brought slow, patient detectives to it.", "description"),
        ("Which books shaped the genre?", "Books of that kind " + "and others like them " * 10, "description"),
    ],
)
def test_a_question_gets_its_obvious_kind(question, answer, kind):
    assert kind in KINDS
    assert kind_of(question, answer) == kind
