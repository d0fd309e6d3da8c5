"""Prompts and answers are tokenised under one convention."""

import pytest
import torch

from tests.conftest import tiny
from tests.models.families import hf_model, tokenizer
from unpact_lens.errors import InputError
from unpact_lens.models.batches import length_batches, pad_right
from unpact_lens.models.convert import to_hooked
from unpact_lens.models.tokens import bos_ids, encode, encode_context, text_ids, token_strings

TEMPLATE = (
    "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}{% endfor %}{% if add_generation_prompt %} |{% endif %}"
)


@pytest.fixture(scope="module")
def hf():
    return hf_model("gpt2")


@pytest.fixture
def model(hf):
    return to_hooked(hf, tokenizer(prepends_bos=True))


@pytest.fixture
def plain(hf):
    return to_hooked(hf, tokenizer())


def ids(model, text):
    return tuple(model.tokenizer(text, add_special_tokens=False)["input_ids"])


def test_prompt_and_answer_are_cut_out_of_one_tokenisation(model):
    encoded = encode(model, "the capital of Japan is", " Tokyo")
    assert encoded.head == (0,)
    assert encoded.n_bos == 1
    assert encoded.prompt == ids(model, "the capital of Japan is")
    assert encoded.tail == ()
    assert encoded.answer == ids(model, " Tokyo")
    assert encoded.ids == (0, *encoded.prompt, *encoded.answer)
    assert encoded.context == (0, *encoded.prompt)


@pytest.mark.filterwarnings("ignore")
def test_a_word_across_prompt_and_answer_keeps_its_token(model):
    encoded = encode(model, "the capital of Japan is Tok", "yo")
    assert encoded.ids[1:] == ids(model, "the capital of Japan is Tokyo")
    assert encoded.answer == ids(model, " Tokyo")


def test_bos_follows_the_models_convention(plain, model):
    assert bos_ids(plain) == ()
    assert bos_ids(model) == (0,)
    assert encode(plain, "who", " wrote").n_bos == 0
    model.tokenizer.bos_token = None
    with pytest.raises(InputError, match=r"default_prepend_bos is True but the tokenizer has no BOS"):
        bos_ids(model)


def test_ids_pass_through(plain):
    encoded = encode(plain, [5, 6], torch.tensor([7]))
    assert (encoded.prompt, encoded.answer) == ((5, 6), (7,))
    assert encode(tiny(), [1, 2], [3]).ids == (1, 2, 3)


def test_removal_deletes_ids_without_tokenising_again(model):
    encoded = encode(model, [5, 6, 7, 8], [9], prefill=[4])
    left = encoded.without([0, 2])
    assert left.ids == (0, 6, 8, 4, 9)
    assert encoded.ids == (0, 5, 6, 7, 8, 4, 9)


def test_the_chat_template_surrounds_the_prompt(plain):
    plain.tokenizer.chat_template = TEMPLATE
    encoded = encode(plain, "who wrote", " Hamlet", chat=True, prefill=" it is")
    assert encoded.prompt == ids(plain, " who wrote")
    assert encoded.head == ids(plain, "<s>user:")
    assert encoded.tail == ids(plain, " | it is")
    assert encoded.notes[0].startswith("the token ' w' holds the end of the chat template before the prompt")


def test_a_template_with_bos_gets_no_second_bos(model):
    model.tokenizer.chat_template = TEMPLATE
    encoded = encode_context(model, "who", chat=True)
    assert encoded.head == ids(model, "<s>user:")
    assert encoded.n_bos == 1
    model.tokenizer.chat_template = TEMPLATE.replace("<s>", "")
    encoded = encode_context(model, "who", chat=True)
    assert encoded.head == (0, *ids(model, "user:"))
    assert encoded.answer == ()


def test_errors_name_the_invalid_input(plain):
    for call, message in (
        (lambda: encode(plain, "who", ""), "answer '' is 0 tokens long"),
        (lambda: encode(plain, "", " x"), "prompt '' is 0 tokens long"),
        (lambda: encode_context(plain, []), "prompt of 0 ids is 0 tokens long"),
        (lambda: encode(plain, "who", " x", chat=True), "the model's tokenizer has no chat template; use chat=False"),
        (lambda: text_ids(plain, [320], "prefill"), r"prefill id 320 lies outside the vocabulary \(0 to 319\)"),
        (lambda: text_ids(tiny(), "a", "answer"), "answer 'a' is text, but the model has no tokenizer"),
        (lambda: text_ids(plain, torch.zeros(1, 2), "prompt"), r"prompt ids have shape \(1, 2\)"),
        (
            lambda: encode(plain, [1] * 90, [1] * 7),
            r"90 \+ 7 = 97 tokens, the model's context is 96; shorten the prompt",
        ),
        (lambda: list(length_batches([1], 0)), "batch_tokens=0; give a positive whole number of tokens"),
    ):
        with pytest.raises(InputError, match=message):
            call()


def test_each_token_is_decoded_alone(model):
    shown = token_strings(model, ids(model, "capital of Japan"))
    assert "".join(shown) == "capital of Japan"
    assert len(shown) == len(ids(model, "capital of Japan"))
    assert token_strings(model, ids(model, "\u00e9")) == ("\ufffd", "\ufffd")
    assert token_strings(tiny(), [3, 1]) == ("3", "1")


def test_rows_are_padded_on_the_right():
    assert pad_right([[1, 2, 3], [4]]).tolist() == [[1, 2, 3], [4, 0, 0]]
