"""A model in vLLM gives the scores and answers of the same model in transformers; vLLM is played by a stand-in."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from tests.models.families import hf_model, tokenizer
from unpact_lens.attribution import attribute
from unpact_lens.errors import InputError
from unpact_lens.models.convert import to_bridge
from unpact_lens.models.generate import generate_answers
from unpact_lens.models.vllm_model import vllm_model

PROMPT, ANSWER = "the capital of Japan is", " Tokyo"


class SamplingParams:
    """The arguments that vLLM takes, with its defaults."""

    def __init__(self, temperature=1.0, max_tokens=16, stop=None, logprobs=None, prompt_logprobs=None):
        self.temperature, self.max_tokens, self.stop = temperature, max_tokens, stop or []
        self.logprobs, self.prompt_logprobs = logprobs, prompt_logprobs


class LLM:
    """A stand-in for `vllm.LLM` that computes with transformers and answers in vLLM's classes' shape."""

    def __init__(self, model, **options):
        if model == "missing":
            raise ValueError("no such model")
        self.hf, self.words, self.options = hf_model("llama"), tokenizer(), options

    def get_tokenizer(self):
        return self.words

    def entries(self, log_probs, token, count):
        ids = dict.fromkeys([token, *log_probs.topk(count).indices.tolist()] if count else [token])
        return {
            t: SimpleNamespace(logprob=float(log_probs[t]), rank=1, decoded_token=self.words.decode([t])) for t in ids
        }

    @torch.no_grad()
    def generate(self, prompts, params, use_tqdm=True):
        assert not use_tqdm
        assert all(how.temperature == 0 for how in params)
        return [self.one(prompt, how) for prompt, how in zip(prompts, params, strict=True)]

    def one(self, prompt, how):
        ids = self.words(prompt)["input_ids"]
        log_probs = self.hf(torch.tensor([ids])).logits[0].log_softmax(-1)
        told = None
        if how.prompt_logprobs is not None:
            told = [None, *(self.entries(log_probs[k], t, how.prompt_logprobs) for k, t in enumerate(ids[1:]))]
        new, made = list(ids), []
        while len(made) < how.max_tokens and not any(s in self.words.decode(new[len(ids) :]) for s in how.stop):
            at = self.hf(torch.tensor([new])).logits[0, -1].log_softmax(-1)
            token = int(at.argmax())
            made.append((token, self.entries(at, token, how.logprobs or 0)))
            new.append(token)
        text = self.words.decode(new[len(ids) :])
        text = text[: min([text.find(s) for s in how.stop if s in text], default=len(text))]
        out = SimpleNamespace(
            text=text, token_ids=[t for t, _ in made], logprobs=None if how.logprobs is None else [e for _, e in made]
        )
        return SimpleNamespace(prompt_token_ids=ids, prompt_logprobs=told, outputs=[out])


@pytest.fixture
def vllm(monkeypatch):
    module = ModuleType("vllm")
    module.LLM, module.SamplingParams = LLM, SamplingParams
    monkeypatch.setitem(sys.modules, "vllm", module)
    return vllm_model("somewhere/tiny-llama", dtype="float32")


def test_leave_one_out_equals_the_hooked_model(vllm):
    found = attribute(vllm, PROMPT, ANSWER)
    hooked = attribute(to_bridge(hf_model("llama"), tokenizer()), PROMPT, ANSWER)
    assert found.log_prob == pytest.approx(hooked.log_prob, abs=1e-5)
    assert found.settings["endpoint"] == "vllm:tiny-llama"
    assert found.settings["served_model"] == "tiny-llama"


def test_answers_equal_those_of_the_hooked_model(vllm):
    prompts = [PROMPT, "who wrote"]
    hooked = generate_answers(to_bridge(hf_model("llama"), tokenizer()), prompts, max_new_tokens=6)
    assert [text.rstrip("\ufffd") for text in vllm.complete_all(prompts, 6)] == [t.rstrip("\ufffd") for t in hooked]


def test_options_reach_the_engine(vllm):
    assert vllm._engine.options == {"dtype": "float32"}


def test_a_model_that_vllm_cannot_load_is_named(vllm):
    with pytest.raises(InputError, match="vLLM cannot load 'missing': no such model"):
        vllm_model("missing")


def test_without_vllm_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(InputError, match=r"unpact-lens\[vllm\]"):
        vllm_model("anything")
