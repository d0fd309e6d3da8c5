"""Find the fact of a sentence: each clause of the rule decides at least one case."""

import pytest

from unpact_lens.data.fact_spans import fact_span_of


@pytest.mark.parametrize(
    ("question", "answer", "fact"),
    [
        ("What gender is author Ann Lee?", "Author Ann Lee is male.", "male"),
        # stems of the question are not new, so the first words are not either
        ("Where was Ann Lee born?", "Ann Lee was born in Cape Town, South Africa.", "Cape Town"),
        # joining words stay inside a run, other function words end it
        ("What did Ann write?", "Ann wrote the Promise by the Seine and Rain.", "Promise by the Seine"),
        ("What were Ann's parents?", "Ann's father was a cook and her mother was a game developer.", "game developer"),
        # a comma, a quotation mark or a full stop ends a run
        ("Which books are hers?", "They are Red, Blue Sky, Green.", "Blue Sky"),
        # names before length, length before place
        ("What is she known for?", "For rich and very long lyrical prose from Oslo.", "Oslo"),
        ("What is she known for?", "For calm and lyrical prose and wit.", "lyrical prose"),
        ("What does she like?", "She likes tea or milk.", "tea"),
        # a capital at the start of a sentence does not make a name, a digit does
        ("When was it?", "Yes. Perhaps in winter of 1956.", "1956"),
        # the span is from the first name of its run to the last
        ("What did she win?", "She was honored with the Prix Goncourt of 1987 lately.", "Prix Goncourt of 1987"),
        # letters outside ASCII, hyphens and apostrophes stay inside a word
        ("Who is it?", "It is Zoë Al-Grünbaum.", "Zoë Al-Grünbaum"),
    ],
)  # fmt: skip
def test_the_fact_is_the_part_that_the_question_does_not_have(question, answer, fact):
    start, end = fact_span_of(question, answer)
    assert answer[start:end] == fact


def test_an_answer_without_new_words_has_no_span():
    assert fact_span_of("Is Ann Lee an author?", "Ann Lee is an author.") is None
