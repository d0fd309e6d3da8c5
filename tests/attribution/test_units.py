"""Units hold the tokens that they name, and are removed whole."""

import pytest
import torch

from tests.attribution.test_leave_one_out import by_hand, random_ids, with_bos
from tests.conftest import tiny
from tests.models.families import hf_model, tokenizer
from unpact_lens.attribution import attribute
from unpact_lens.errors import InputError
from unpact_lens.models.load import load_model

PROMPT = "who wrote Hamlet? seven small boats, at sea."


@pytest.fixture(scope="module")
def model():
    return load_model(hf_model("gpt2").double(), tokenizer=tokenizer(), dtype=torch.float64)


def text_of(a, row):
    return a.prompt[slice(*a.spans[row])].strip()


def test_tokens_tile_the_prompt(model):
    a = attribute(model, PROMPT, " Au")
    assert "".join(a.tokens) == PROMPT
    assert all(text_of(a, i) == t.strip() for i, t in enumerate(a.tokens))


def test_words_join_their_pieces_and_punctuation_is_separate(model):
    a = attribute(model, PROMPT, " Au", units="word")
    words = ["who", "wrote", "Hamlet", "?", "seven", "small", "boats", ",", "at", "sea", "."]
    assert [t.strip() for t in a.tokens] == words
    assert sorted(i for m in a.members for i in m) == list(range(len(a.token_ids)))


def test_sentences_end_at_their_marks(model):
    a = attribute(model, PROMPT, " Au", units="sentence")
    assert [text_of(a, i) for i in range(2)] == ["who wrote Hamlet?", "seven small boats, at sea."]


def test_a_unit_is_removed_whole(style):
    model, prompt, answer = tiny(style), random_ids(12), [7, 7]
    a = attribute(model, prompt, answer, units=[(2, 5), (7, 8)])
    assert a.units == "spans"
    assert a.members == ((2, 3, 4), (7,))
    whole = by_hand(model, prompt, answer)
    for row, (start, end) in enumerate([(2, 5), (7, 8)]):
        expected = whole - by_hand(model, prompt[:start] + prompt[end:], answer)
        torch.testing.assert_close(a.per_answer_token[row], expected, atol=1e-10, rtol=0)


def test_units_may_be_pieces_of_the_text_or_a_function_of_the_tokens(model):
    pieces = attribute(model, PROMPT, " Au", units=["wrote Hamlet", "sea"])
    assert [t.strip() for t in pieces.tokens] == ["wrote Hamlet", "sea"]
    ranges = [(min(m), max(m) + 1) for m in pieces.members]
    by_function = attribute(model, PROMPT, " Au", units=lambda tokens: ranges)
    assert torch.equal(by_function.scores, pieces.scores)


def test_template_tokens_stay_and_only_the_content_is_attributed(model):
    model.tokenizer.chat_template = "{% for m in messages %}<s>user: {{ m['content'] }} answer:{% endfor %}"
    a = attribute(model, "who wrote Hamlet?", " Au", chat=True, prefill=" the")
    assert "".join(a.tokens) == " who wrote Hamlet?"  # the template's blank and "who" are one token
    assert "holds the end of the chat template before the prompt" in a.notes[0]
    head, tail = (model.tokenizer(t, add_special_tokens=False)["input_ids"] for t in ("<s>user:", " answer:"))
    tail += model.tokenizer(" the", add_special_tokens=False)["input_ids"]
    ids, answer = list(a.token_ids), list(a.answer_ids)
    whole = by_hand(model, [*head, *ids, *tail], answer)
    expected = [whole - by_hand(model, [*head, *ids[:i], *ids[i + 1 :], *tail], answer) for i in range(len(ids))]
    torch.testing.assert_close(a.per_answer_token, torch.stack(expected), atol=1e-10, rtol=0)


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ([(0, 3), (2, 4)], r"units \(0, 3\) and \(2, 4\) overlap at prompt token 2"),
        ([(0, 13)], r"unit \(0, 13\) lies outside the prompt of 12 tokens"),
        ([(3, 3)], r"unit \(3, 3\) lies outside"),
        ([(-1, 2)], r"unit \(-1, 2\) lies outside"),
        ([], "no units are given"),
        ("words", "unknown units 'words'; did you mean 'word'"),
        (["99 99"], "unit '99 99' occurs 0 times in the prompt"),
        ([(0, 12)], "leaves no context before the answer"),
    ],
)
def test_bad_units_are_named(units, message):
    with pytest.raises(InputError, match=message):
        attribute(tiny(), random_ids(12), [1], units=units)


def test_attributing_a_missing_bos_is_refused():
    with pytest.raises(InputError, match="attribute_bos=True, but this model's input has no BOS"):
        attribute(tiny(), [1, 2], [1], attribute_bos=True)
    assert attribute(with_bos(tiny()), [1, 2], [1], attribute_bos=True).spans[0] == (0, 0)
