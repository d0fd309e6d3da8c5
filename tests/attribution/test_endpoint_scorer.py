"""An endpoint gives the numbers of the model behind it, or is refused with the reason."""

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import unpact_lens as ul
from tests.attribution.server import Server
from tests.models.families import hf_model
from unpact_lens.attribution import attribute, attribute_many, interactions
from unpact_lens.errors import InputError
from unpact_lens.models import endpoint as module
from unpact_lens.models.convert import to_hooked
from unpact_lens.models.endpoint import Endpoint, align

PROMPT, ANSWER = "gold has what symbol", " Au it is"


def letters(prepends_bos):
    """One token a byte: deleting text and deleting ids come to the same."""
    alphabet = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if prepends_bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


@pytest.fixture(scope="module", params=[False, True], ids=["no BOS", "BOS"])
def model(request):
    torch.manual_seed(0)
    return to_hooked(hf_model("llama"), letters(request.param))


@pytest.fixture(scope="module")
def builtin():
    return ul.load_model("builtin")


def same(a, b):
    torch.testing.assert_close(a.float(), b.float(), atol=2e-5, rtol=0)


@pytest.mark.parametrize("dialect", ["echo", "prompt_logprobs"])
def test_contributions_equal_those_of_the_local_model(model, dialect):
    with Server(model, dialect) as server:
        remote, local = (attribute(m, PROMPT, ANSWER) for m in (Endpoint(server.url, "m"), model))
    same(remote.per_answer_token, local.per_answer_token)
    same(remote.scores, local.scores)
    assert remote.log_prob == pytest.approx(local.log_prob, abs=1e-5)
    assert (remote.tokens, remote.answer_tokens, remote.spans) == (local.tokens, local.answer_tokens, local.spans)
    assert (remote.deletion, local.deletion) == ("text", "ids")
    assert remote.settings == {
        "endpoint": server.url, "served_model": "m", "shift": 0, "answers_retokenised": 0
    }  # fmt: skip
    assert local.scores.abs().max() > 0.01


@pytest.mark.parametrize(
    ("method", "options"),
    [("shapley", {}), ("context_cite", {"samples": 16}), ("replace", {"token": "q"})],
)
def test_every_scores_only_method_works(model, method, options):
    with Server(model) as server:
        remote, local = (
            attribute(m, PROMPT, ANSWER, method=method, units="word", prefill=" well", **options)
            for m in (Endpoint(server.url, "m"), model)
        )
    torch.testing.assert_close(remote.scores.double(), local.scores.double(), atol=1e-4, rtol=0)
    assert remote.tokens == local.tokens
    assert remote.deletion == ("none" if method == "replace" else "text")


def test_sentences_spans_and_interactions_are_removed_from_the_text(model):
    prompt = "one is red. two is blue. say"
    with Server(model) as server:
        endpoint = Endpoint(server.url, "m")
        for units in ("sentence", ["red", "blue"]):
            remote, local = (attribute(m, prompt, " ok", units=units) for m in (endpoint, model))
            same(remote.scores, local.scores)
        pairs = [interactions(m, PROMPT, ANSWER, units="word") for m in (endpoint, model)]
    same(pairs[0].single, pairs[1].single)
    torch.testing.assert_close(pairs[0].matrix.float(), pairs[1].matrix.float(), atol=5e-5, rtol=0, equal_nan=True)


def test_without_an_answer_the_endpoints_greedy_answer_is_attributed(builtin):
    prompt = "What is the opposite of hot?"
    with Server(builtin) as server:
        remote = attribute(Endpoint(server.url, "m"), prompt, None, units="word")
    local = attribute(builtin, prompt, None, units="word")
    assert (remote.answer, remote.answer_source) == (local.answer, "greedy")
    assert remote.log_prob == pytest.approx(local.log_prob, abs=1e-4)


def test_a_retokenised_answer_is_counted_and_keeps_its_total(builtin):
    """Where text deletion joins two words, the endpoint's own tokens of the whole text are scored."""
    prompt, answer = "What is the opposite of hot? ", "The other end is cold."
    with Server(builtin) as server:
        endpoint = Endpoint(server.url, "m")
        found = attribute(endpoint, prompt, answer)
        whole, cut = endpoint.echo([prompt + answer, prompt.rstrip() + answer])
    parts = [
        [v for v, (_, end) in zip(e.log_probs, e.spans, strict=True) if end > n]
        for e, n in ((whole, len(prompt)), (cut, len(prompt.rstrip())))
    ]
    assert found.log_prob == pytest.approx(sum(parts[0]) / len(parts[0]), abs=1e-5)
    score = float(found.scores[found.spans.index((len(prompt) - 1, len(prompt)))])
    assert score == pytest.approx((sum(parts[0]) - sum(parts[1])) / len(parts[0]), abs=1e-5)
    assert found.settings["answers_retokenised"] == int(len(parts[0]) != len(parts[1]))


def test_questions_are_requested_concurrently(model):
    questions = [(PROMPT, ANSWER), ("who wrote", " that")]
    with Server(model, delay=0.02) as server:
        remote = attribute_many(Endpoint(server.url, "m", concurrency=4), questions, progress=False)
        assert server.most_at_once == 4
    for a, b in zip(remote, attribute_many(model, questions, progress=False), strict=True):
        same(a.scores, b.scores)


@pytest.mark.parametrize("shift", [-1, 1, 2])
def test_a_misaligned_endpoint_is_refused_without_its_shift(model, shift):
    how = f"{abs(shift)} tokens? too {'late' if shift > 0 else 'early'}: .*; give shift={shift} to correct this"
    with Server(model, shift=shift) as server:
        with pytest.raises(InputError, match=how):
            attribute(Endpoint(server.url, "m"), PROMPT, ANSWER)
        if shift <= 1:  # what stands later than the one generated token is cut off by the server
            found = attribute(Endpoint(server.url, "m", shift=shift), PROMPT, ANSWER)
            same(found.scores, attribute(model, PROMPT, ANSWER).scores)


def test_an_endpoint_with_the_wrong_distribution_is_refused(model):
    """Causality alone does not tell: the value at a token depends on that token."""
    how = r"contradicts itself: after '.*' it generates '.*' with log-probability -\d+\.\d\d, but reports"
    with Server(model, after_itself=True) as server, pytest.raises(InputError, match=how):
        attribute(Endpoint(server.url, "m"), PROMPT, ANSWER)


def test_a_busy_endpoint_is_retried(model):
    with Server(model, failing=2) as server:
        found = Endpoint(server.url, "m", concurrency=1, retries=2).echo(["some text"])[0]
    assert "".join(found.tokens).endswith("some text")


def test_a_saved_result_holds_no_key(model, tmp_path, monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-secret")
    with Server(model) as server:
        found = attribute(Endpoint(server.url, "m", key_variable="MY_KEY"), PROMPT, ANSWER)
    found.save(tmp_path / "a")
    assert ul.load(tmp_path / "a") == found
    assert not any("sk-secret" in file.read_text(errors="ignore") for file in (tmp_path / "a").iterdir())


@pytest.mark.parametrize(
    ("server", "endpoint", "message"),
    [
        (
            {"dialect": None},
            {},
            "returns no log-probabilities of the prompt, neither with echo=True nor",
        ),
        ({"status": 404}, {}, "has no completions for model 'm' .*; chat-only endpoints cannot be attributed"),
        ({"status": 401}, {}, r"refused the request \(401\)"),
        ({"failing": 99}, {"retries": 0}, r"refused the request \(503\)"),
        ({"delay": 0.5}, {"retries": 0, "timeout": 0.05}, r"did not answer within 0\.05 s, 1 times; raise timeout="),
    ],
)
def test_missing_abilities_of_an_endpoint_are_named(model, server, endpoint, message):
    with Server(model, **server) as running, pytest.raises(InputError, match=message):
        attribute(Endpoint(running.url, "m", **endpoint), PROMPT, ANSWER)


def test_an_unreachable_endpoint_is_named():
    with pytest.raises(InputError, match="cannot be asked: Connection refused"):
        attribute(Endpoint("http://127.0.0.1:9/v1", "m", retries=0), PROMPT, ANSWER)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            {"method": "grad_norm"},
            "method 'grad_norm' needs the model's weights, .* use one of: leave_one_out, context_cite, replace",
        ),
        ({"method": "replace"}, "draws from the vocabulary, which an endpoint does not show; give token="),
        ({"foil": " no", "target": "logit_diff"}, "foil=' no' needs logits"),
        ({"target": "logit"}, "an endpoint gives log-probabilities only, not target 'logit'"),
        ({"attribute_bos": True}, "an endpoint adds its BOS by itself"),
        ({"chat": True}, "chat=True needs the model's tokenizer; write the template into the prompt"),
        ({"batch_tokens": 99}, "batch_tokens=99 has no meaning for an endpoint; set its concurrency="),
        ({"prompt": [1, 2]}, "an endpoint takes text, not ids; give the prompt as text"),
        ({"answer": ""}, "the answer is empty; give the text that the endpoint reads"),
        ({"units": [(0, 99)]}, "lies outside the prompt"),
    ],
)
def test_unsupported_options_of_an_endpoint_are_refused(model, call, message):
    with Server(model) as server, pytest.raises(InputError, match=message):
        attribute(Endpoint(server.url, "m"), **{"prompt": PROMPT, "answer": ANSWER, **call})


def test_bad_settings_are_named():
    with pytest.raises(InputError, match="url 'localhost'; give the base URL of an endpoint"):
        Endpoint("localhost", "m")
    with pytest.raises(InputError, match="concurrency=0; give a whole number of at least 1"):
        Endpoint("http://127.0.0.1:9", "m", concurrency=0)


def test_tokens_are_aligned_with_the_text():
    assert align("the cat", ["<s>", "the", " cat", " sat"]) == [(0, 0), (0, 3), (3, 7)]
    assert align(" the cat", ["the", " cat"]) == [(0, 4), (4, 8)]  # a dropped blank belongs to the token after it
    assert align("a é", ["a", " ", "\ufffd", "\ufffd"]) == [(0, 1), (1, 2), (2, 2), (2, 3)]
    with pytest.raises(InputError, match="the endpoint's tokens end before the text does: 'cat' is in none of"):
        align("the cat", ["the", " "])


def test_an_inconclusive_self_test_is_refused(model):
    endpoint = Endpoint("http://127.0.0.1:9/v1", "m")
    echo = module.Echo(("a", "b", "c"), ((0, 1), (1, 2), (2, 3)), (None, -1.0, -2.0))
    with pytest.raises(InputError, match="cannot tell its texts apart: they have the same tokens"):
        endpoint._check_alignment([(echo, echo)])
    other = module.Echo(("a", "b", "d"), echo.spans, echo.log_probs)
    with pytest.raises(InputError, match="they have the same log-probabilities"):
        endpoint._check_alignment([(echo, other)])
    # Two tokens that happen to be equally likely in one pair do not make an endpoint late.
    late = module.Echo(("a", "b", "d", "e"), (*echo.spans, (3, 4)), (None, -1.0, -2.0, -9.0))
    early = module.Echo(("a", "b", "c", "e"), late.spans, (None, -1.0, -2.0, -3.0))
    apart = module.Echo(("a", "b", "d"), echo.spans, (None, -1.0, -5.0))
    endpoint._check_alignment([(early, late), (echo, apart)])
