"""Control tokens in a user's text are text: `<|im_start|>` in a prompt, an answer or a fact opens no turn."""

import functools
import re

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from transformers import GPT2Config

import unpact_lens as ul
from tests.models.families import random_model
from tests.models.tokenizers_zoo import MAKERS, byte_level, stand_in
from unpact_lens.errors import InputError
from unpact_lens.models.control_tokens import control_tokens
from unpact_lens.models.convert import to_bridge
from unpact_lens.models.generate import generate_answers
from unpact_lens.models.tokens import (
    bos_ids,
    continuation_ids,
    document_ids,
    encode,
    encode_context,
    foil_ids,
    text_ids,
    with_answer,
)
from unpact_lens.unlearning.dataset import examples
from unpact_lens.unlearning.settings import Settings

OWN = ("<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONTROL = [*OWN, "<s>", "</s>", "<unk>", "<bos>", "<|im", "_end|>", "<<s>", "<S>"]
PIECES = st.one_of(st.sampled_from(CONTROL), st.sampled_from(["who", " wrote", " ", "Hamlet", "\n", "é", " is 35"]))
WRITTEN = st.lists(PIECES, min_size=1, max_size=5).map("".join)


@functools.cache
def model_of(name):
    """A stand-in for a model whose tokenizer has the control tokens of ChatML besides its own."""
    tokenizer = MAKERS[name]()
    fast = getattr(tokenizer, "inner", tokenizer)
    fast.add_special_tokens({"additional_special_tokens": list(OWN)})
    if fast is not tokenizer:
        tokenizer.added_tokens_decoder = fast.added_tokens_decoder
    tokenizer.chat_template = TEMPLATE
    return stand_in(tokenizer)


def without_parsing(model, text):
    """The ids that transformers gives for a text in which nothing is special, with one BOS."""
    own = tuple(model.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])
    return own if bos_ids(model) and own[:1] == bos_ids(model) else (*bos_ids(model), *own)


def control_ids(model, ids):
    """The ids of the control tokens among these, bytes and unknown characters left out."""
    control = control_tokens(model.tokenizer).ids
    written = {i: token for token, i in control.items() if not re.fullmatch("<unk>|<0x..>", token)}
    return [i for i in ids if i in written]


def reads_pieces(name):
    """Return whether a tokenizer has `<s>` as a piece of text too, which transformers then gives for text."""
    model = model_of(name)
    return bool(
        control_ids(model, model.tokenizer("who <s>", add_special_tokens=False, split_special_tokens=True)["input_ids"])
    )


def found(model, prompt, answer, **options):
    try:
        return encode(model, prompt, answer, **options)
    except InputError as error:
        if "0 tokens long" in str(error) or "no token before the answer" in str(error):
            return None  # white space that the tokenizer drops
        raise


def begins_with_bos(model, text):
    """Return whether the text brings the model's BOS, which then counts as one."""
    return bool(bos_ids(model)) and text.startswith(model.tokenizer.bos_token)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MAKERS)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(prompt=WRITTEN, prefill=st.one_of(st.just(""), WRITTEN), answer=WRITTEN)
@example("who<|im_end|>", "", " wrote")
@example("who <|im", "", "_end|> wrote")
@example("who", "</s>", "<s>Hamlet")
def test_ids_are_those_of_the_whole_without_special_parsing(name, prompt, prefill, answer):
    model = model_of(name)
    if begins_with_bos(model, prompt):
        prompt = f" {prompt}"
    if (row := found(model, prompt, answer, prefill=prefill)) is not None:
        assert row.ids == without_parsing(model, prompt + prefill + answer)
        assert row.n_bos == len(bos_ids(model))
    for text in (prompt, answer):
        own = model.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        assert text_ids(model, text, "text") == tuple(own)
        brings_bos = begins_with_bos(model, text) or tuple(own[:1]) == bos_ids(model)
        if not brings_bos:
            assert sum(document_ids(model, text, "text"), ()) == without_parsing(model, text)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name", [n for n in MAKERS if "GPT-2" in n or "embedded" in n or "Llama-3" in n or "Smol" in n]
)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(prompt=WRITTEN, prefill=st.one_of(st.just(""), WRITTEN), answer=WRITTEN)
def test_a_chat_template_keeps_its_control_tokens_and_the_users_are_text(name, prompt, prefill, answer):
    """A byte-level tokenizer reads what lies between two control tokens by itself."""
    model = model_of(name)
    row = found(model, prompt, answer, prefill=prefill, chat=True)
    start, end = (model.tokenizer.convert_tokens_to_ids(t) for t in OWN)

    def text(written):
        return model.tokenizer(written, add_special_tokens=False, split_special_tokens=True)["input_ids"]

    expected = [start, *text(f"user\n{prompt}"), end, *text("\n"), start, *text(f"assistant\n{prefill}{answer}")]
    assert row.ids == (*bos_ids(model), *expected)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [n for n in MAKERS if not n.startswith("slow")])
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(prompt=WRITTEN, answer=WRITTEN)
def test_no_control_token_is_added_to_those_of_the_template(name, prompt, answer):
    if reads_pieces(name):
        return
    model = model_of(name)
    row = found(model, prompt, answer, chat=True)
    assert row is None or control_ids(model, row.ids) == control_ids(model, encode(model, "a", " b", chat=True).ids)


def test_few_tokenizers_have_control_tokens_as_pieces_of_text():
    """Unigram and word-level vocabularies hold every token as a piece."""
    pieces = [name for name in MAKERS if not name.startswith("slow") and reads_pieces(name)]
    assert all("Unigram" in name or "WordLevel" in name for name in pieces)


@pytest.mark.parametrize("name", [n for n in MAKERS if not n.startswith("slow")])
def test_special_reads_them_as_transformers_does(name):
    model = model_of(name)
    prompt, answer = "who<|im_end|>", " wrote</s>"
    row = encode(model, prompt, answer, special=True)
    own = model.tokenizer(prompt + answer, add_special_tokens=False)["input_ids"]
    assert row.ids == (*bos_ids(model), *own)
    assert len(control_ids(model, row.ids[len(bos_ids(model)) :])) == 2
    assert with_answer(model, row, " Hamlet<|im_end|>").ids[-1] == model.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert encode_context(model, prompt, special=True).context == row.context


def test_a_slow_tokenizer_refuses_a_control_token_beside_a_template():
    tokenizer = MAKERS["slow bytes (ByT5)"]()
    tokenizer.add_special_tokens({"additional_special_tokens": list(OWN)})
    tokenizer.chat_template = TEMPLATE
    with pytest.raises(InputError, match="take it out, or pass special=True"):
        encode(stand_in(tokenizer), "who </s>", " Hamlet", chat=True)
    assert encode(stand_in(tokenizer), "who", " Hamlet", chat=True).answer


@pytest.fixture(scope="module")
def model():
    words = byte_level(bos=True)
    words.add_special_tokens({"additional_special_tokens": list(OWN)})
    words.chat_template = TEMPLATE
    config = GPT2Config(vocab_size=len(words), n_embd=32, n_layer=1, n_head=4, n_positions=96)
    return to_bridge(random_model(config), words)


PROMPT, ANSWER = "who</s> wrote<|im_start|>", " the<|im_end|> play"


def test_every_way_into_a_model_reads_them_as_text(model):
    for chat in (False, True):
        row = encode(model, PROMPT, ANSWER, chat=chat, prefill="<s>")
        assert control_ids(model, row.ids) == control_ids(model, encode(model, "who", " x", chat=chat).ids)
        scored = ul.log_prob(model, PROMPT, ANSWER, chat=chat, prefill="<s>", per_token=True)
        assert len(scored) == len(row.answer) > len(encode(model, "who", ANSWER, special=True).answer)
    attributed = ul.attribute(model, PROMPT, ANSWER)
    assert "</s>" not in attributed.tokens
    assert "<|im_end|>" not in attributed.answer_tokens
    assert "</s>" in ul.attribute(model, PROMPT, ANSWER, special=True).tokens
    assert attributed.scores.shape == ul.decompose(model, PROMPT, ANSWER).values.shape[:0] + attributed.scores.shape
    assert continuation_ids(model, ANSWER, "answer") == without_parsing(model, ANSWER)[1:]
    assert (
        foil_ids(model, encode(model, "who", " a"), ANSWER)
        == without_parsing(model, "who" + ANSWER)[-len(text_ids(model, ANSWER, "x")) :]
    )
    (taught,) = examples(model, [ul.QA(PROMPT, ANSWER)], Settings(end_token=False), "forget")
    assert taught.ids == without_parsing(model, PROMPT + ANSWER)
    assert len(generate_answers(model, [PROMPT], max_new_tokens=2)) == 1


def test_a_text_without_control_tokens_is_read_as_before(model):
    for chat in (False, True):
        assert encode(model, "who wrote", " it", chat=chat) == encode(
            model, "who wrote", " it", chat=chat, special=True
        )


def test_special_is_a_flag(model):
    with pytest.raises(InputError, match="special='yes'; give True or False"):
        ul.log_prob(model, "who", " it", special="yes")
