"""Every public function that takes a hooked model says in one line what to do with one of transformers or PEFT."""

import functools
import inspect

import pytest

import unpact_lens as ul
from tests.faults.public_calls import functions
from tests.models.families import hf_model, tokenizer
from unpact_lens.boundary import TAKE_SOURCE_MODELS
from unpact_lens.errors import InputError

MODELS = sorted(
    (name, parameter)
    for name, function in functions().items()
    if name.rpartition(".")[2] not in TAKE_SOURCE_MODELS
    for parameter, about in inspect.signature(function).parameters.items()
    if "HookedModel" in str(about.annotation) and "Callable" not in str(about.annotation)
)
"""Every public function with each of its models, also those that run for minutes: it is refused before that."""


@functools.cache
def source_model():
    return hf_model("llama")


def peft_model():
    peft = pytest.importorskip("peft")
    return peft.get_peft_model(
        hf_model("llama"), peft.LoraConfig(r=1, target_modules=["q_proj"], task_type="CAUSAL_LM")
    )


def test_there_are_many():
    assert len(MODELS) > 60
    named = {name for name, _ in MODELS}
    assert {"unlearning.unlearn", "recovery.recover", "comparison.diff", "attribution.attribute"} <= named


@pytest.mark.parametrize(("name", "parameter"), MODELS)
def test_a_model_without_hooks_is_refused_with_the_call_that_hooks_it(name, parameter):
    function = functions()[name]
    message = rf"^{parameter} is a LlamaForCausalLM, which has no hooks; give ul\.load_model\(hf_model, tokenizer="
    with pytest.raises(InputError, match=message) as caught:
        function(**{parameter: source_model()})
    assert len(str(caught.value)) <= 120
    assert "\n" not in str(caught.value)


def test_a_peft_model_and_a_list_are_refused_alike():
    with pytest.raises(InputError, match="model is a PeftModelForCausalLM, which has no hooks"):
        ul.log_prob(peft_model(), "a", " b")
    with pytest.raises(InputError, match="qas is a LlamaForCausalLM, which has no hooks"):
        ul.attribute_many(ul.load_model(source_model(), tokenizer=tokenizer(), check=False), [source_model()])


def test_what_the_message_says_works():
    model = ul.load_model(source_model(), tokenizer=tokenizer(), check=False)
    assert ul.log_prob(model, "the town", " is").mean() < 0
