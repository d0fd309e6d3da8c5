"""Check the emphasis templates and the unrelated prefix."""

from __future__ import annotations

import re

import pytest

from unpact_lens.data.emphasis import EMPHASIS, HEADLINE, unrelated_prefix
from unpact_lens.errors import InputError

QUESTION = "What is the birthplace of Ann Lee?"
COMPLETION = "The capital of Japan is"
OWN_WORDS = {"Focus", "on", "Remember", "that", "this", "matters", "here", "and"}


def words_of(text: str) -> set[str]:
    return set(re.findall(r"\w+", text))


@pytest.mark.parametrize(
    ("name", "prompt", "words", "expected"),
    [
        ("focus_list", QUESTION, ["Ann", "birthplace"], f"Focus on: Ann, birthplace. {QUESTION}"),
        ("focus_list", COMPLETION, ["Japan"], f"Focus on: Japan. {COMPLETION}"),
        ("quotes", QUESTION, ["Ann"], 'What is the birthplace of "Ann" Lee?'),
        ("quotes", QUESTION, ["Lee", "Ann"], 'What is the birthplace of "Ann Lee"?'),
        ("quotes", QUESTION, ["the", "Lee"], 'What is "the" birthplace of Ann "Lee"?'),
        ("quotes", COMPLETION, ["Japan"], 'The capital of "Japan" is'),
        ("doubled", QUESTION, ["Ann", "Lee"], "What is the birthplace of Ann Ann Lee Lee?"),
        ("doubled", QUESTION, ["Ann Lee"], "What is the birthplace of Ann Lee Ann Lee?"),
        ("reminder", QUESTION, ["Ann", "Lee"], f"Remember that this matters here: Ann and Lee. {QUESTION}"),
        ("repeat_question", QUESTION, [], f"{QUESTION}\n{QUESTION}"),
        ("repeat_question", COMPLETION, ["Osaka"], f"{COMPLETION}\n{COMPLETION}"),
    ],
)
def test_each_template_has_its_fixed_wording(name: str, prompt: str, words: list[str], expected: str) -> None:
    assert EMPHASIS[name].apply(prompt, words) == expected


def test_the_headline_template_is_first_and_entries_have_their_name() -> None:
    assert next(iter(EMPHASIS)) == HEADLINE == "focus_list"
    assert list(EMPHASIS) == ["focus_list", "quotes", "doubled", "reminder", "repeat_question"]
    assert all(template.name == name and template.description for name, template in EMPHASIS.items())


@pytest.mark.parametrize("name", EMPHASIS)
@pytest.mark.parametrize(("prompt", "words"), [(QUESTION, ["birthplace", "Ann"]), (COMPLETION, ["capital", "Japan"])])
def test_a_template_adds_only_its_fixed_words(name: str, prompt: str, words: list[str]) -> None:
    assert words_of(EMPHASIS[name].apply(prompt, words)) <= words_of(prompt) | OWN_WORDS


@pytest.mark.parametrize("name", EMPHASIS)
def test_the_emphasised_prompt_ends_as_the_prompt_ends(name: str) -> None:
    assert EMPHASIS[name].apply(COMPLETION, ["capital", "Japan"]).endswith(" is")


def test_repeated_words_and_blanks_are_dropped() -> None:
    assert EMPHASIS["focus_list"].apply(QUESTION, [" Ann", "Ann", "", " "]) == f"Focus on: Ann. {QUESTION}"


def test_all_whole_occurrences_are_emphasised_longest_word_first() -> None:
    assert EMPHASIS["doubled"].apply("Is this it? It is.", ["is"]) == "Is this it? It is is."
    assert EMPHASIS["doubled"].apply("Ann met Ann.", ["Ann"]) == "Ann Ann met Ann Ann."
    assert EMPHASIS["quotes"].apply("Ann Lee met Ann.", ["Ann", "Ann Lee"]) == '"Ann Lee" met "Ann".'


def test_special_characters_are_matched_literally() -> None:
    assert EMPHASIS["doubled"].apply("Is C++ {old}?", ["C++", "{old}"]) == "Is C++ C++ {old} {old}?"


@pytest.mark.parametrize("name", [n for n, t in EMPHASIS.items() if t.needs_words])
def test_a_word_that_is_not_in_the_prompt_is_an_error(name: str) -> None:
    with pytest.raises(InputError, match="the word 'Oslo' does not occur as a whole in the prompt 'What is"):
        EMPHASIS[name].apply(QUESTION, ["Ann", "Oslo"])
    with pytest.raises(InputError, match="the word 'birth' does not occur as a whole"):
        EMPHASIS[name].apply(QUESTION, ["birth"])


def test_bad_input_to_a_template_is_named() -> None:
    with pytest.raises(InputError, match="emphasis 'quotes' needs at least one word to emphasise; none was given"):
        EMPHASIS["quotes"].apply(QUESTION, [" "])
    with pytest.raises(InputError, match="words is the text 'Ann'; give a list of words"):
        EMPHASIS["quotes"].apply(QUESTION, "Ann")
    with pytest.raises(InputError, match="emphasis 'repeat_question': the prompt is empty"):
        EMPHASIS["repeat_question"].apply(" ")
    with pytest.raises(InputError, match=r"unknown emphasis template 'focus-list'; did you mean 'focus_list'\?"):
        EMPHASIS["focus-list"]


FILLER = "The sea is calm, and boats lie at anchor."


@pytest.mark.parametrize(
    ("n_words", "expected"),
    [
        (1, "The."),
        (4, "The sea is calm."),
        (9, FILLER),
        (11, f"{FILLER} The sea."),
        (None, "The sea is calm, and boats lie."),
    ],
)
def test_the_unrelated_prefix_has_n_words(n_words: int | None, expected: str) -> None:
    assert unrelated_prefix(QUESTION, FILLER, n_words) == f"{expected} {QUESTION}"


def test_bad_input_to_the_unrelated_prefix_is_named() -> None:
    with pytest.raises(InputError, match="unrelated prefix: the prompt is empty"):
        unrelated_prefix("", FILLER)
    with pytest.raises(InputError, match="unrelated prefix: the filler text is empty"):
        unrelated_prefix(QUESTION, "  ")
    with pytest.raises(InputError, match="n_words is 0; give at least 1"):
        unrelated_prefix(QUESTION, FILLER, 0)
