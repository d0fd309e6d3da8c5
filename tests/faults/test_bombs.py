"""Files that are small and would take all time or memory are refused soon."""

import json
import time

import pytest

from tests.faults.artefacts import hooked, result
from tests.models.families import tokenizer
from unpact_lens.errors import InputError
from unpact_lens.json_files import MAX_DEPTH, read_json
from unpact_lens.models import chat_template
from unpact_lens.models.chat_template import rendered
from unpact_lens.models.checkpoint import load_checkpoint, save_model
from unpact_lens.results import load, save

TURNS = [{"role": "user", "content": "Where?"}]
LOOPS = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "nested loops that write": "{% for a in range(9999) %}{% for b in range(99999) %}{{ b }}{% endfor %}{% endfor %}",
    "a long range": "{% for a in range(10 ** 12) %}x{% endfor %}",
    "a macro that calls itself": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "long text": "{% for a in range(99999) %}0123456789{% endfor %}{{ messages[0].content }}",
}


@pytest.mark.parametrize("name", LOOPS)
def test_a_looping_chat_template_is_refused_soon(name, monkeypatch):
    monkeypatch.setattr(chat_template, "LONGEST", 0.5)
    asked = tokenizer()
    asked.chat_template = LOOPS[name]
    start = time.monotonic()
    with pytest.raises(InputError, match=r"the chat template of the tokenizer (fails|writes \d+ characters)"):
        rendered(asked, TURNS)
    assert time.monotonic() - start < 20


def test_deep_json_is_refused(tmp_path):
    file = tmp_path / "deep.json"
    for depth in (MAX_DEPTH + 1, 5000, 10**6):
        file.write_text("[" * depth + "]" * depth)
        with pytest.raises(InputError, match=r"has more than 100 lists and objects inside each other"):
            read_json(file)
    file.write_text("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    assert read_json(file)
    file.write_text("9" * 10**6)
    with pytest.raises(InputError, match="is not valid JSON"):
        read_json(file)


def test_a_result_that_is_too_deep_cannot_be_saved(tmp_path):
    deep = value = {}
    for _ in range(50):
        value["a"] = value = {}
    with pytest.raises(InputError, match="values lie too deep inside each other to be saved"):
        save(type(result(0))(**{**vars(result(0)), "nested": deep}), tmp_path / "r")
    assert not (tmp_path / "r" / "result.json").exists()


@pytest.mark.hooked
@pytest.mark.parametrize(("name", "size"), [("n_layers", 10**9), ("d_vocab", 10**12), ("d_model", 10**9)])
def test_a_configuration_of_other_sizes_than_the_weights_is_refused_before_it_is_built(tmp_path, name, size):
    place = save_model(hooked(0), tmp_path / "m")
    record = json.loads((place / "config.json").read_text())
    record["config"][name] = size
    (place / "config.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=rf"config.json says {name}={size}, and the weights have"):
        load_checkpoint(place, verify=False)


def test_paths_of_a_result_cannot_leave_its_directory(tmp_path):
    place = save(result(0), tmp_path / "r")
    record = json.loads((place / "result.json").read_text())
    record["tensors"] = "../secret.safetensors"
    (place / "result.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="is no file of tensors"):
        load(place, verify=False)
