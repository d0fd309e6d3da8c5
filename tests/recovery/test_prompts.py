"""Emphasised prompts and controls: what they say, and what they must never say."""

from dataclasses import replace

import pytest

from tests.evaluation.world import benchmark, trained
from unpact_lens.attribution import TopK, attribute
from unpact_lens.data.benchmark import QA, Corpus
from unpact_lens.data.emphasis import EMPHASIS
from unpact_lens.errors import InputError
from unpact_lens.recovery import controls
from unpact_lens.recovery.plan import ask_sheet, leaks, plain_sheet
from unpact_lens.recovery.probes.emphasis import emphasised, key_words
from unpact_lens.recovery.probes.registry import Scene
from unpact_lens.recovery.probing import Probing, check_templates
from unpact_lens.recovery.prompts import write_sheet
from unpact_lens.recovery.result import family_of

ANN = QA(
    "What is the birthplace of Ann Lee?", " She was born in Oslo.", paraphrases=("Ann Lee was born where?", "Ann Lee?"),
    subject="Ann Lee", id="birthplace/ann", fact_span=(17, 21), wrong_subject="What is the birthplace of Bob Hill?",
)  # fmt: skip
KEY = ("birthplace", "Ann", "Lee")


def test_templates_are_checked_before_anything_runs():
    assert check_templates(None) == tuple(EMPHASIS)
    assert check_templates(["quotes", "focus_list", "quotes"]) == ("quotes", "focus_list")
    with pytest.raises(InputError, match="unknown emphasis template 'quote'; did you mean 'quotes'"):
        check_templates(["quote"])
    with pytest.raises(InputError, match="headline 'focus_list' is not one of the templates of this run"):
        check_templates(["quotes"])
    with pytest.raises(InputError, match="templates='quotes' is one text"):
        check_templates("quotes")


def test_a_template_that_needs_words_is_skipped_without_words():
    assert emphasised("focus_list", ANN.prompt, ()) is None
    assert emphasised("repeat_question", ANN.prompt, ()) == f"{ANN.prompt}\n{ANN.prompt}"
    assert emphasised("focus_list", ANN.prompt, KEY) == f"Focus on: birthplace, Ann, Lee. {ANN.prompt}"


def test_key_words_are_the_words_of_the_key_tokens():
    bench, model = benchmark(), trained()
    found = key_words(model, bench.forget, bench, rule=TopK(2), progress=False)
    for qa, words in zip(bench.forget, found, strict=True):
        tokens = attribute(model, qa.prompt, qa.answer).key_tokens(TopK(2))
        assert words == tokens.words
        assert set(words) <= set(qa.prompt.split())
    free = key_words(model, bench.forget, bench, rule=TopK(2), key_tokens="answer_free", progress=False)
    assert len(free) == len(found)


def test_random_words_are_neither_key_words_nor_names_and_differ_between_facts():
    draws = {controls.random_words(ANN, ("birthplace",), seed=s) for s in range(40)}
    assert {w for d in draws for w in d} == {"What", "is", "the", "of"}
    assert all(len(d) == 1 for d in draws)
    other = replace(ANN, id="another")
    assert any(controls.random_words(ANN, KEY, s) != controls.random_words(other, KEY, s) for s in range(10))
    assert controls.random_words(ANN, KEY, 3) == controls.random_words(ANN, KEY, 3)


def test_random_words_exclude_names_of_other_people():
    qa = QA("Not Carl Moor but Ann Lee: where?", " Oslo", subject="Ann Lee", id="1")
    drawn = {w for s in range(30) for w in controls.random_words(qa, ("where",), s)}
    assert drawn == {"Not", "but"}


def test_fewer_random_words_are_drawn_from_a_short_prompt():
    qa = QA("The capital of Japan is", " Tokyo", subject="Japan")
    assert controls.random_words(qa, ("capital", "Japan", "of")) == ("The", "is")
    assert controls.random_words(QA("Japan capital", " Tokyo", subject="Japan"), ("capital",)) == ()


def test_unrelated_text_is_as_long_as_the_emphasis_and_omits_the_fact_and_subject():
    fillers = ("Oslo lies by the sea in the north.", "Ann went home.", "The old boats lie still all day long.")
    added = controls.words_added("focus_list", ANN.prompt, KEY)
    assert added == 5
    for seed in range(10):
        prompt = controls.unrelated(ANN, added, fillers, seed)
        assert prompt == f"The old boats lie still. {ANN.prompt}"
    assert controls.unrelated(ANN, added, fillers[:2]) is None
    assert controls.words_added("quotes", ANN.prompt, KEY) == 3
    assert controls.words_added("quotes", ANN.prompt, ()) == 0


def test_fillers_are_plain_text_or_else_other_questions():
    bench = benchmark()
    assert controls.fillers_of(bench) == bench.plain_text.texts
    assert controls.fillers_of(replace(bench, plain_text=None)) == tuple(q.prompt for q in bench.far)


def test_a_paraphrase_is_drawn_from_the_facts_own_paraphrases():
    assert {controls.paraphrase(ANN, s) for s in range(20)} == set(ANN.paraphrases)
    assert controls.paraphrase(replace(ANN, paraphrases=())) is None


def test_the_wrong_subject_prompt_emphasises_the_wrong_subject():
    assert controls.wrong_subject(ANN, KEY, "focus_list") == f"Focus on: birthplace, Bob, Hill. {ANN.wrong_subject}"
    assert controls.wrong_subject(ANN, ("of",), "focus_list") == f"Focus on: of. {ANN.wrong_subject}"
    assert controls.wrong_subject(replace(ANN, wrong_subject=None), KEY, "focus_list") is None


def test_the_wrong_name_is_found_at_the_position_of_the_right_name():
    assert controls.wrong_name(ANN) == "Bob Hill"
    assert controls.wrong_name(replace(ANN, wrong_subject="Where was Bob Hill born?")) is None
    assert controls.wrong_name(replace(ANN, subject="")) is None


def test_leaks_are_found_in_prompt_and_prefill():
    assert leaks(ANN, "Focus on: Oslo. Where?", "")
    assert leaks(ANN, "Where?", "She was born in oslo")
    assert not leaks(ANN, "Focus on: Osloborg.", "She was born in")


def sheet_of(items, bench, fillers=("The old boats lie still all day.",)):
    texts = Corpus(fillers) if fillers else None
    bench = replace(bench, plain_text=texts, retain=(), general=())
    return write_sheet(Scene(Probing(probes=("prefill",)), bench, tuple(items), (KEY,) * len(items)))


def test_the_sheet_has_a_row_for_every_template_control_and_prompt_probe():
    sheet = sheet_of([ANN], benchmark())
    assert sheet.rows == (
        "focus_list", "quotes", "doubled", "reminder", "repeat_question",
        "random_words:focus_list", "random_words:quotes", "random_words:doubled", "random_words:reminder",
        "unrelated", "paraphrase", "wrong_subject", "prefill",
    )  # fmt: skip
    assert [family_of(r) for r in sheet.rows] == ["emphasis"] * 5 + ["control"] * 7 + ["probe"]
    at = dict(zip(sheet.rows, sheet.prompts, strict=True))
    assert at["random_words:quotes"][0].replace('"', "") == ANN.prompt
    assert sheet.prefills[-1] == (" She was born in",)
    assert bool(sheet.asked.all())


def test_rows_without_any_prompt_are_dropped():
    bare = replace(ANN, paraphrases=(), wrong_subject=None, fact_span=None, answer=" Oslo")
    rows = sheet_of([bare], benchmark()).rows
    assert not {"paraphrase", "wrong_subject", "prefill"} & set(rows)
    both = sheet_of([ANN, replace(bare, id="2")], benchmark())
    assert both.asked[both.rows.index("paraphrase")].tolist() == [True, False]
    assert "unrelated" not in sheet_of([ANN], benchmark(), fillers=()).rows


def test_the_prefill_of_the_wrong_subject_prompt_names_the_wrong_subject():
    bench = replace(benchmark(), prefill="The birthplace of {subject} is")
    sheet = sheet_of([ANN], bench)
    prefill = dict(zip(sheet.rows, sheet.prefills, strict=True))
    assert prefill["wrong_subject"] == ("The birthplace of Bob Hill is",)
    assert prefill["focus_list"] == ("The birthplace of Ann Lee is",)
    assert prefill["prefill"] == ("The birthplace of Ann Lee is She was born in",)
    unclear = replace(ANN, wrong_subject="Where was Bob Hill born?")
    assert "wrong_subject" not in sheet_of([unclear], bench).rows


def test_leaking_prompts_are_reported_by_fact():
    given = replace(ANN, id="given", paraphrases=("Was Ann Lee born in Oslo?",))
    assert sheet_of([ANN, given], benchmark()).leaking() == {"given": "the paraphrase prompt holds the fact"}
    assert plain_sheet([replace(ANN, prompt="Was Ann Lee of Oslo?")], benchmark()).leaking() == {
        ANN.id: "the plain prompt holds the fact"
    }


def test_only_the_wanted_cells_of_a_sheet_are_asked():
    bench, model = replace(benchmark(), plain_text=Corpus(("boats",))), trained()
    sheet = plain_sheet(bench.forget, bench)
    wanted = sheet.asked.clone()
    wanted[0, 3:] = False
    right, answers = ask_sheet(model, sheet, wanted, bench, 4096)
    assert right[0].tolist() == [True] * 3 + [False] * 5
    assert sorted(answers) == [(0, 0), (0, 1), (0, 2)]
    assert answers[0, 0].strip() == bench.forget[0].answer.strip()
    assert sheet.only(["plain"]) == sheet
