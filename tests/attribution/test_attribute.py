"""Test the fields of attributions other than scores, and the refused inputs."""

import re

import pytest
import torch

from tests.attribution.test_leave_one_out import random_ids
from tests.conftest import tiny
from tests.models.families import hf_model, tokenizer
from unpact_lens import results
from unpact_lens.attribution import METHODS, TopK, attribute, attribute_many, attribution_methods
from unpact_lens.data.benchmark import QA
from unpact_lens.errors import InputError
from unpact_lens.models.lens_version import HAS_HOOKED
from unpact_lens.models.load import load_model


@pytest.fixture(scope="module")
def model():
    return load_model(hf_model("gpt2"), tokenizer=tokenizer())


def test_qas_keep_their_order_id_and_subject(model):
    qas = [
        QA(f"the capital of {s} is", " Tokyo", id=f"q{i}", subject=s)
        for i, s in enumerate(("Japan", "gold", "the sea", "Au"))
    ]
    found = attribute_many(model, qas)
    assert [(a.id, a.subject, a.prompt) for a in found] == [(q.id, q.subject, q.prompt) for q in qas]
    for a, q in zip(found, qas, strict=True):
        assert torch.allclose(a.scores, attribute(model, q.prompt, q.answer).scores, atol=1e-5)


def test_subject_placeholder_in_the_prefill_is_filled(model):
    qa = QA("who wrote it?", " Tokyo", subject="Hamlet")
    filled = attribute_many(model, [qa], prefill=" {subject} has")[0]
    assert torch.equal(filled.scores, attribute(model, qa.prompt, qa.answer, prefill=" Hamlet has").scores)
    listed = attribute_many(model, [qa], prefill=[" Hamlet has"])[0]
    assert torch.equal(filled.scores, listed.scores)


def test_without_an_answer_the_greedy_answer_is_attributed(model):
    prompt = random_ids(6, vocabulary=320)
    a = attribute(model, prompt, None, max_new_tokens=3)
    assert a.answer_source == a.key_tokens(TopK(1)).answer_source == "greedy"
    with torch.no_grad():
        first = model(torch.tensor([prompt]))[0, -1].argmax().item()
    assert a.answer_ids[0] == first
    assert len(a.answer_ids) <= 3
    assert torch.equal(a.scores, attribute(model, prompt, list(a.answer_ids)).scores)
    free = attribute_many(model, [("the sea", " Au")], answer_free=True)[0]
    assert free.answer_source == "greedy"


def test_settings_are_recorded(model):
    a = attribute(model, "the sea", " Au", batch_tokens=100)
    assert a.settings["batch_tokens"] == 100
    assert a.settings["threads"] == torch.get_num_threads()
    assert attribute(model, "the sea", " Au").settings["batch_tokens"] >= 256


def test_an_attribution_converts_to_a_table_and_survives_saving(model, tmp_path):
    a = attribute(model, "the capital of Japan is", " Tokyo")
    frame = a.to_frame()
    assert list(frame["token"]) == list(a.tokens)
    assert frame.shape == (len(a.tokens), 2 + len(a.answer_tokens))
    assert results.load(a.save(tmp_path / "a")) == a


def test_every_method_has_a_description_and_a_source():
    table = attribution_methods()
    assert set(table.index) == set(METHODS)
    assert table.index[0] == "leave_one_out"
    assert (table["about"].str.len() > 10).all()
    assert (table["source"].str.len() > 5).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "leave-one-out"}, "unknown attribution method 'leave-one-out'; did you mean 'leave_one_out'"),
        ({"prompt": []}, "prompt of 0 ids is 0 tokens long"),
        ({"answer": []}, "answer of 0 ids is 0 tokens long"),
        ({"prompt": [99]}, "prompt id 99 lies outside the vocabulary"),
        ({"answer": [1] * 400}, "the model's context is 400"),
        ({"prompt": "text"}, "the model has no tokenizer"),
        ({"steps": 3}, "method 'leave_one_out' takes no option 'steps'"),
    ],
)
def test_bad_input_is_named(arguments, message):
    given = {"prompt": [1, 2, 3], "answer": [4], **arguments}
    with pytest.raises(InputError, match=message):
        attribute(tiny(), **given)


def test_nan_weights_are_refused():
    broken = tiny()
    broken.unembed.W_U.data[0, 0] = float("nan")
    name = "unembed.W_U" if HAS_HOOKED else "lm_head._original_component.weight"
    with pytest.raises(InputError, match=f"weight {re.escape(name)} holds NaN or infinity"):
        attribute(broken, [1, 2], [3])


def test_a_list_of_prefills_needs_one_for_each_prompt():
    with pytest.raises(InputError, match="2 prefills for 1 prompts"):
        attribute_many(tiny(), [([1], [2])], prefill=["a", "b"])
