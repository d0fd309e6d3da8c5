"""Answers end where transformers ends them: at the tokens of the tokenizer and of the generation configuration."""

import pytest
import torch

from tests.models.families import hf_model, tokenizer
from unpact_lens.models.answer_end import end_ids, end_of_answer, generation_config
from unpact_lens.models.checkpoint import clone, load_checkpoint, save_model
from unpact_lens.models.export import export_hf
from unpact_lens.models.generate import generate_answers
from unpact_lens.models.load import load_model

WRAPS = ("hooked", "bridge")
PROMPT = "seven small boats"


def model_ending_at(ends, wrap, hf=None):
    hf = hf_model("llama") if hf is None else hf
    hf.generation_config.eos_token_id = ends
    hf.generation_config.pad_token_id = 0
    return hf, load_model(hf, tokenizer=tokenizer(), wrap=wrap, device="cpu")


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize(("ends", "union"), [(None, (1,)), (7, (1, 7)), ([9, 1, 7], (1, 9, 7))])
def test_the_end_tokens_are_those_of_tokenizer_and_generation_configuration(wrap, ends, union):
    assert end_ids(model_ending_at(ends, wrap)[1]) == union


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("position", [0, 2, 5])
def test_generation_ends_where_transformers_ends_it(wrap, position):
    """The peer is `generate` of transformers with the same configuration."""
    hf, _ = model_ending_at(1, wrap)
    own = tokenizer()
    ids = torch.tensor([own(PROMPT)["input_ids"]])
    free = hf.generate(ids, max_new_tokens=9, do_sample=False)[0, ids.shape[1] :].tolist()
    _, model = model_ending_at([1, free[position]], wrap, hf)
    ended = hf.generate(ids, max_new_tokens=9, do_sample=False)[0, ids.shape[1] :]
    assert len(ended) <= position + 1
    assert generate_answers(model, [PROMPT], max_new_tokens=9, stop=()) == [own.decode(ended[:-1])]


@pytest.mark.parametrize("wrap", WRAPS)
def test_special_tokens_are_no_part_of_an_answer(wrap):
    hf, _ = model_ending_at(1, wrap)
    own = tokenizer()
    ids = torch.tensor([own(PROMPT)["input_ids"]])
    spoken = hf.generate(ids, max_new_tokens=6, do_sample=False)[0, ids.shape[1] :]
    own.add_special_tokens({"additional_special_tokens": [own.convert_ids_to_tokens(int(spoken[0]))]})
    model = load_model(hf, tokenizer=own, wrap=wrap, device="cpu")
    said = generate_answers(model, [PROMPT], max_new_tokens=6, stop=())
    assert said == [own.decode(spoken, skip_special_tokens=True)]
    assert said != [own.decode(spoken)]


@pytest.mark.parametrize("wrap", WRAPS)
def test_the_generation_configuration_survives_every_copy(wrap, tmp_path):
    _, model = model_ending_at([7, 11], wrap)
    model_config = generation_config(model).to_dict()
    copies = {
        "clone": clone(model),
        "saved": load_checkpoint(save_model(model, tmp_path / "saved")),
        "exported": load_model(export_hf(model, tmp_path / "exported"), wrap=wrap, device="cpu"),
    }
    for name, copied in copies.items():
        assert end_ids(copied) == (1, 7, 11), name
        kept = generation_config(copied).to_dict()
        assert {k: v for k, v in kept.items() if k in model_config and model_config[k] != v} == {}, name


CHAT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% if m.role == 'assistant' %} Au{% endif %}{% endfor %}"


def test_the_end_of_a_gold_answer_is_the_template_s_where_that_ends_answers():
    own = tokenizer()
    own.chat_template = CHAT
    turn = own(" Au", add_special_tokens=False)["input_ids"][0]
    for ends, chat, expected in (([turn], True, turn), ([turn], False, 1), ([7], True, 1)):
        hf = hf_model("llama")
        hf.generation_config.eos_token_id = ends
        assert end_of_answer(load_model(hf, tokenizer=own, device="cpu"), chat=chat) == expected
    assert end_of_answer(load_model(hf_model("gpt2"), device="cpu")) in (None, 50256)
