"""A chat template that loses the prompt, fails or is no template ends with status 2 and one line."""

import pytest

from tests.models.families import hf_model, tokenizer

TEMPLATES = [
    "", "hello", "{{ messages[0]['role'] }}", "{{ messages[0]['content'] | upper }}",
    "{{ messages[0]['content'][:1] }}", "{% for m in messages %}", "{{ 1 / 0 }}", "{{ raise_exception('no') }}",
    "{{ messages[9].content }}", "{{ undefined.x }}", "{{ messages[0]['content'] }}{{ messages[0]['content'] }}",
    "{{ [].__class__.__base__.__subclasses__() }}",
]  # fmt: skip


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    hf_model("llama").save_pretrained(folder)
    return folder


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_without_the_prompt_is_refused(unpact, directory, template):
    coder = tokenizer()
    coder.chat_template = template
    coder.save_pretrained(directory)
    status, _, err = unpact("attribute", "gold has what symbol", " Au", "--model", str(directory), "--chat")
    assert status == 2, err
    assert [line.startswith("error: ") for line in err.splitlines()] == [True]
    assert "template" in err
