"""Prompt, prefill and answer have the ids of the text that they form together, for every type of tokenizer."""

import functools
import warnings

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, LlamaConfig

import unpact_lens as ul
from tests.models.families import random_model
from tests.models.tokenizers_zoo import MAKERS, TEXTS, NoOffsets, byte_level, mistral, stand_in, word_piece
from unpact_lens.attribution.units import character_spans
from unpact_lens.errors import InputError
from unpact_lens.models.chat_template import wrapped
from unpact_lens.models.convert import to_bridge
from unpact_lens.models.joint_tokens import cut_jointly, ids_after
from unpact_lens.models.tokens import (
    SharedTokenWarning,
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

LETTERS = "aeiknorstTKJ 019\n.,?'▁Ġéüﬁİ北🙂\u0301\t"
PIECES = st.one_of(
    st.text(LETTERS, max_size=8), st.sampled_from(" ".join(TEXTS).split(" ")), st.sampled_from([" ", "  ", "\n\n"])
)
WRITTEN = st.lists(PIECES, min_size=1, max_size=4).map("".join)


SPLIT = [name for name in MAKERS if name != "BPE across words"]
"""Tokenizers whose tokens never hold parts of two words."""


@functools.cache
def model_of(name):
    """A stand-in for a model with this tokenizer."""
    return stand_in(MAKERS[name]())


def whole_ids(model, text):
    """The ids that the model would read of a text, by its own tokenizer."""
    return tuple(model.tokenizer(text, add_special_tokens=model.cfg.default_prepend_bos)["input_ids"])


def encoded_or_none(model, prompt, answer, prefill=""):
    """None if a part has no token, e.g. white space that the tokenizer drops."""
    try:
        return encode(model, prompt, answer, prefill=prefill)
    except InputError as error:
        if "0 tokens long" in str(error) or "no token before the answer" in str(error):
            return None
        raise


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MAKERS)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(prompt=WRITTEN, prefill=st.one_of(st.just(""), WRITTEN), answer=WRITTEN)
@example("the capital of Japan is", "", " Tokyo")
@example("the capital of Japan is ", "", "Tokyo")
@example("the capital of Jap", "", "an")
@example("who is\n", "\n", "\nTokyo")
@example("cafe", "", "\u0301")
def test_ids_of_the_parts_are_those_of_the_whole(name, prompt, prefill, answer):
    model = model_of(name)
    found = encoded_or_none(model, prompt, answer, prefill)
    if found is None:
        return
    assert found.ids == whole_ids(model, prompt + prefill + answer)
    if text_ids(model, prompt, "prompt"):
        assert encode_context(model, prompt, prefill=prefill).ids == whole_ids(model, prompt + prefill)


EXACT = [n for n in MAKERS if "GPT-2" in n or "embedded" in n or "RoBERTa" in n or "Smol" in n or "ByT5" in n]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", EXACT)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(prompt=WRITTEN, answer=WRITTEN)
@example("who is ", "Tokyo")
@example("is \n", "Tokyo")
@example(" ", " ")
@example(" ", "\n")
def test_the_answer_begins_with_the_first_token_that_reaches_into_it(name, prompt, answer):
    """Checked against decoded text, where the tokenizer decodes to the text itself."""
    model = model_of(name)
    found = encoded_or_none(model, prompt, answer)
    if found is None:
        return

    def length(ids):
        return len(bytes_of(model, ids))

    bos = found.n_bos
    context, longer = found.context[bos:], found.ids[bos : len(found.context) + 1]
    border = len(prompt.encode())
    assert length(context) <= border < length(longer)
    assert bool(found.notes) == (length(context) < border)


def bytes_of(model, ids):
    if not hasattr(model.tokenizer, "backend_tokenizer"):
        return bytes(t - 3 for t in ids)  # ByT5
    table = {c: b for b, c in byte_characters().items()}
    return bytes(table[c] for t in model.tokenizer.convert_ids_to_tokens(list(ids)) for c in t)


def byte_characters():
    """The characters that byte-level tokenizers write for bytes (Radford et al. 2019)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = (b for b in range(256) if b not in printable)
    return {**{b: chr(b) for b in printable}, **{b: chr(256 + n) for n, b in enumerate(others)}}


def test_the_types_differ_in_what_parts_tokenised_apart_give():
    """Otherwise the test above would say little."""
    wrong = [
        name
        for name in MAKERS
        if (model := model_of(name))
        and (*text_ids(model, "who is", "prompt"), *text_ids(model, " Tokyo", "answer"))
        != tuple(model.tokenizer("who is Tokyo", add_special_tokens=False)["input_ids"])
    ]
    assert {"prepending normaliser, byte fallback (Mistral, Phi-3)", "slow, prepends"} <= set(wrong)


@pytest.mark.parametrize("name", ["Metaspace BPE, always", "prepending normaliser, byte fallback (Mistral, Phi-3)"])
def test_no_answer_token_is_an_extra_space(name):
    model = model_of(name)
    answer = encode(model, "the capital of Japan is", " Tokyo").answer
    assert model.tokenizer.convert_ids_to_tokens(list(answer))[0] != "▁"
    assert continuation_ids(model, " Tokyo", "answer") == answer


def test_a_token_across_the_border_belongs_to_the_answer_and_the_result_says_so():
    model = model_of("byte-level BPE (GPT-2)")
    with pytest.warns(SharedTokenWarning, match="holds the end of the prompt and the beginning of the answer"):
        found = encode(model, "the capital of Japan is ", "Tokyo")
    assert found.answer == text_ids(model, " Tokyo", "answer")
    assert found.answer_spans[0] == (0, 5)
    assert found.notes == (
        "the token ' Tokyo' holds the end of the prompt and the beginning of the answer; it counts as answer",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert encode(model, "the capital of Japan is", " Tokyo").notes == ()


def test_a_public_result_says_that_a_border_moved(tiny_mistral):
    with pytest.warns(SharedTokenWarning):
        found = ul.attribute(tiny_mistral, "the capital of Japan is ", "Tokyo")
    assert "holds the end of the prompt" in found.notes[0]
    with pytest.warns(SharedTokenWarning):
        assert found.notes[0] in ul.decompose(tiny_mistral, "the capital of Japan is ", "Tokyo").notes


@pytest.fixture(scope="module")
def tiny_mistral():
    words = mistral()
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=96,
    )  # fmt: skip
    return to_bridge(random_model(config), words)


@pytest.mark.parametrize("end_token", [True, False])
def test_trained_labels_are_the_answer_for_a_tokenizer_that_prepends(tiny_mistral, end_token):
    qa = ul.QA("who wrote Hamlet? The answer is", " the symbol Au")
    (row,) = examples(tiny_mistral, [qa], Settings(end_token=end_token), "forget")
    words = tiny_mistral.tokenizer
    shown = words.convert_ids_to_tokens(list(row.answer))
    assert "".join(shown).replace("▁", " ") == qa.answer + "</s>" * end_token
    assert shown[0] != "▁"
    hf = tiny_mistral.original_model
    text = words(qa.prompt + qa.answer + "</s>" * end_token, return_tensors="pt")["input_ids"]
    labels = text.clone()
    labels[:, : len(row.context)] = -100
    loss = hf(input_ids=text, labels=labels).loss  # transformers shifts the labels itself
    ours = ul.log_prob(tiny_mistral, row.context, row.answer)
    torch.testing.assert_close(-ours, loss.detach(), rtol=0, atol=1e-5)


def test_a_foil_and_another_answer_are_tokenised_with_the_prompt(tiny_mistral):
    found = encode(tiny_mistral, "the capital of Japan is", " Tokyo")
    assert foil_ids(tiny_mistral, found, " gold") == encode(tiny_mistral, "the capital of Japan is", " gold").answer
    changed = with_answer(tiny_mistral, found, " the symbol")
    assert changed.ids == whole_ids(tiny_mistral, "the capital of Japan is the symbol")
    assert with_answer(tiny_mistral, found.without([0]), " gold").answer == foil_ids(tiny_mistral, found, " gold")
    with pytest.raises(InputError, match="shares a token with the text before it"):
        foil_ids(tiny_mistral, encode(tiny_mistral, "the capital of Jap", ", Au"), "an")


@pytest.mark.parametrize("name", SPLIT)
def test_bos_comes_once_whether_or_not_the_text_or_ids_bring_it(name):
    model = model_of(name)
    plain = encode(model, "who wrote", " Hamlet")
    if not model.cfg.default_prepend_bos:
        assert plain.n_bos == 0
        return
    bos = (model.tokenizer.bos_token_id,)
    assert plain.ids.count(bos[0]) == 1
    for prompt in ("<s>who wrote", plain.context, torch.tensor(plain.context), plain.prompt):
        assert encode(model, prompt, " Hamlet") == plain
    assert document_ids(model, "<s>who wrote Hamlet", "text") == document_ids(model, "who wrote Hamlet", "text")
    assert document_ids(model, plain.ids, "text") == (bos, plain.ids[1:])


@pytest.mark.parametrize("name", SPLIT)
def test_text_after_ids_continues_them(name):
    model = model_of(name)
    whole = encode(model, "who wrote", " Hamlet")
    assert encode(model, whole.prompt, " Hamlet") == whole
    assert encode(model, "who wrote", whole.answer) == whole
    assert (
        encode(model, "who wrote", whole.answer, prefill=continuation_ids(model, " the", "prefill")).answer
        == whole.answer
    )


def test_ids_that_are_not_the_tokenizers_own_are_kept():
    model = model_of("prepending normaliser, byte fallback (Mistral, Phi-3)")
    letters = [model.tokenizer.convert_tokens_to_ids(c) for c in "who"]
    found = encode(model, letters, " Tokyo")
    assert found.prompt == tuple(letters)
    assert found.answer == encode(model, "who is", " Tokyo").answer


def test_spans_are_characters_of_the_text_as_given():
    model = model_of("byte-level BPE with BOS (embedded model)")
    prompt = "<s>  the capital of Japan is"
    found = encode(model, prompt, " Tokyo, Au")
    spans = character_spans(model, found.prompt, prompt, found.prompt_spans)
    assert "".join(prompt[a:b] for a, b in spans) == prompt.removeprefix("<s>")
    assert found.answer_spans[-1][1] == len(" Tokyo, Au")


def test_without_offsets_the_border_is_where_the_ids_part():
    words = word_piece()
    model, joined = stand_in(NoOffsets(words)), stand_in(words)
    for prompt, answer in (("the capital of Japan is", " Tokyo"), ("the capital of Jap", "an is")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert encode(model, prompt, answer) == encode(joined, prompt, answer)
    with pytest.warns(SharedTokenWarning):
        assert encode(model, "the capital of Jap", "an is").notes


def test_a_token_without_a_row_in_the_embedding_is_refused():
    words = byte_level()
    d_vocab = len(words)
    words.add_tokens(["<new>"])
    model = stand_in(words, d_vocab)
    message = rf"prompt id {d_vocab} lies outside the vocabulary \(0 to {d_vocab - 1}\); a token that was added"
    with pytest.raises(InputError, match=message):
        encode(model, "who is <new>", " Tokyo")
    with pytest.raises(InputError, match="answer id -1 lies outside"):
        encode(model, "who", [-1])
    with pytest.raises(InputError, match="plain text id"):
        document_ids(model, "a <new>", "plain text")


CHAT = (
    "{% for m in messages %}<s>[{{ m.role }}] {{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}[answer]{% endif %}"
)
TRIMS = CHAT.replace("m.content", "m.content | trim")
SYSTEM = "{% if messages[0].role != 'system' %}{{ raise_exception('a system message is needed') }}{% endif %}" + CHAT
OPTIONS = CHAT + "{% if enable_thinking is defined and enable_thinking is false %}<none>{% endif %}"
DATED = (
    "{% if date_string is not defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "Today is {{ date_string }}." + CHAT
)


def chatting(template, name="byte-level BPE with BOS (embedded model)"):
    words = MAKERS[name]()
    words.chat_template = template
    return stand_in(words)


def official(model, prompt, **options):
    turns = [{"role": "user", "content": prompt}]
    if "system" in options:
        turns.insert(0, {"role": "system", "content": options.pop("system")})
    made = model.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=True, **options)
    return tuple(made["input_ids"])


FAST = [n for n in MAKERS if "slow" not in n]


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("template", [CHAT, TRIMS], ids=["plain", "trims"])
def test_chat_ids_are_those_of_the_rendered_whole(name, template):
    model = chatting(template, name)
    for prompt in ("who wrote Hamlet?", " who wrote\nHamlet? "):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = encode(model, prompt, " Tokyo", chat=True)
            context = encode_context(model, prompt, chat=True)
        bos = () if found.n_bos == 0 or official(model, prompt)[0] == model.tokenizer.bos_token_id else found.head[:1]
        assert context.ids == (*bos, *official(model, prompt))
        text = model.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False
        )
        assert found.ids == (*bos, *model.tokenizer(text + " Tokyo", add_special_tokens=False)["input_ids"])


def test_a_template_that_trims_is_noted_and_spans_stay_those_of_the_prompt():
    model = chatting(TRIMS)
    prompt = "  who wrote Hamlet? "
    found = encode(model, prompt, " Tokyo", chat=True)
    assert "the chat template leaves out white space around the prompt" in found.notes
    shown = [prompt[a:b] for a, b in found.prompt_spans]
    assert "".join(shown).strip() == "who wrote Hamlet?"
    assert encode(model, "who", " is", chat=True).prompt_spans[0][1] == 3


def test_a_system_message_and_options_are_arguments():
    model = chatting(SYSTEM)
    with pytest.raises(InputError, match=r"a system message is needed.*give the system message, chat=\{'system'"):
        encode(model, "who", " Au", chat=True)
    chat = {"system": "the capital"}
    assert encode(model, "who", " Au", chat=chat).context == official(model, "who", **chat)
    model = chatting(OPTIONS)
    chat = {"enable_thinking": False}
    assert encode(model, "who", " Au", chat=chat).context == official(model, "who", **chat)
    assert encode(model, "who", " Au", chat=chat) != encode(model, "who", " Au", chat=True)
    with pytest.raises(InputError, match=r"uses no option 'enable_thinkin'.*'enable_thinking'"):
        encode(model, "who", " Au", chat={"enable_thinkin": False})


def test_options_are_recorded_in_the_results(tiny_mistral):
    words = tiny_mistral.tokenizer
    words.chat_template = OPTIONS
    chat = {"enable_thinking": False}
    try:
        assert ul.attribute(tiny_mistral, "who wrote", " Hamlet", chat=chat).settings["chat"] == chat
        assert ul.decompose(tiny_mistral, "who wrote", " Hamlet", chat=chat).settings["chat"] == chat
        assert Settings(chat=chat).chat == chat
        bench = ul.Benchmark("mine", forget=(ul.QA("who wrote", " Hamlet"),), retain=(), chat=chat)
        assert bench.chat == chat
        (row,) = examples(tiny_mistral, bench.forget, Settings(chat=chat), "forget")
        assert row.context == encode(tiny_mistral, "who wrote", " Hamlet", chat=chat).context
    finally:
        words.chat_template = None


def test_todays_date_is_noted_unless_it_is_given():
    model = chatting(DATED)
    with pytest.warns(UserWarning, match=r"writes the date of the run, 20\d\d-\d\d-\d\d; chat=\{'date_string': ...\}"):
        found = encode(model, "who", " Au", chat=True)
    assert "writes the date of the run" in found.notes[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not any("date" in n for n in encode(model, "who", " Au", chat={"date_string": "1 Jan 2026"}).notes)


@pytest.mark.parametrize(
    ("chat", "message"),
    [
        ("yes", "chat='yes'; give True, False, or the template's options by name"),
        ({"tokenize": True}, "chat option 'tokenize' is set by the library; drop it"),
        ({"tools": object()}, "chat option tools=<object object.*; give a text, a number"),
        ({"system": 3}, "chat option system=3; give the system message as text"),
    ],
)
def test_wrong_options_are_refused(chat, message):
    for call in (
        lambda: encode(chatting(CHAT), "who", " Au", chat=chat),
        lambda: ul.Benchmark("mine", forget=(), retain=(), chat=chat),
    ):
        with pytest.raises(InputError, match=message):
            call()
    assert encode(chatting(CHAT), "who", " Au", chat={}) == encode(chatting(CHAT), "who", " Au", chat=True)


def test_a_template_that_changes_or_repeats_the_prompt_is_refused():
    for template, message in (
        (CHAT.replace("m.content", "m.content | replace('Hamlet', 'it')"), "the chat template changes the prompt"),
        (CHAT.replace("m.content", "m.content | upper"), "contains the user's message 0 times unchanged"),
        (CHAT + CHAT, "contains the user's message 2 times unchanged"),
        ("{{ messages[0].missing.field }}", "the chat template of the tokenizer fails"),
    ):
        with pytest.raises(InputError, match=message):
            wrapped(chatting(template).tokenizer, "who wrote Hamlet?")


def test_parts_are_cut_at_their_borders():
    words = byte_level()
    cut = cut_jointly(words, ["who", "", " is\n", " Tokyo"])
    assert cut.ids[1] == ()
    assert [words.decode(list(part)) for part in cut.ids] == ["who", "", " is\n", " Tokyo"]
    assert cut_jointly(words, ["", ""]).ids == ((), ())
    assert ids_after(words, cut.ids[0], [" is"]).ids[0] == tuple(words(" is")["input_ids"])


def test_a_saved_tokenizer_behaves_as_the_one_in_memory(tmp_path):
    mistral().save_pretrained(tmp_path)
    read = stand_in(AutoTokenizer.from_pretrained(tmp_path))
    assert encode(read, "who is", " Tokyo") == encode(stand_in(mistral()), "who is", " Tokyo")
