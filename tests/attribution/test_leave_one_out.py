"""Leave-one-out equals the brute force: one unbatched forward pass for each prompt token."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, given, settings

from tests.conftest import tiny
from tests.decomposition.bridges import bridge
from tests.models.families import hf_model, tokenizer
from unpact_lens.attribution import attribute, attribute_many
from unpact_lens.errors import InputError
from unpact_lens.models import kv_cache
from unpact_lens.models.load import load_model

HEAD = 1


def by_hand(model, context, answer):
    """log p of each answer token, from all logits of one forward pass."""
    with torch.no_grad():
        log_probs = model(torch.tensor([[*context, *answer]])).log_softmax(-1)[0]
    return torch.stack([log_probs[len(context) - 1 + k, y] for k, y in enumerate(answer)])


def brute_force(model, prompt, answer, bos=()):
    whole = by_hand(model, [*bos, *prompt], answer)
    return torch.stack(
        [whole - by_hand(model, [*bos, *prompt[:i], *prompt[i + 1 :]], answer) for i in range(len(prompt))]
    )


def with_bos(model, bos=HEAD):
    """The model with a stand-in tokenizer that only knows its BOS."""
    model.tokenizer = type("Bos", (), {"bos_token_id": bos, "is_fast": False, "padding_side": "right"})()
    model.tokenizer.decode = lambda ids, **_: " ".join(map(str, ids))
    model.cfg.default_prepend_bos = True
    return model


def random_ids(n, seed=0, vocabulary=50):
    return torch.randint(vocabulary, (n,), generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.mark.parametrize("length", [2, 7, 60])
@pytest.mark.parametrize("answer_length", [1, 40])
def test_scores_equal_brute_force_in_double_precision(model64, length, answer_length):
    prompt, answer = random_ids(length), random_ids(answer_length, seed=1)
    a = attribute(model64, prompt, answer)
    expected = brute_force(model64, prompt, answer)
    torch.testing.assert_close(a.per_answer_token, expected, atol=1e-10, rtol=0)
    torch.testing.assert_close(a.scores, expected.mean(1), atol=1e-10, rtol=0)
    assert a.log_prob == pytest.approx(by_hand(model64, prompt, answer).mean().item(), abs=1e-10)


def test_scores_equal_brute_force_in_single_precision(model32):
    prompt, answer = random_ids(30), random_ids(8, seed=1)
    expected = brute_force(model32, prompt, answer)
    # Log-probabilities of a random model reach 20 nats, where fp32 resolves 2e-6.
    torch.testing.assert_close(attribute(model32, prompt, answer).per_answer_token, expected, atol=1e-5, rtol=1e-5)


def test_a_long_prompt_is_exact():
    model64, prompt, answer = tiny("llama", n_layers=1), random_ids(300), [3, 1]
    a = attribute(model64, prompt, answer)
    for i in (0, 1, 150, 298, 299):
        removed = prompt[:i] + prompt[i + 1 :]
        expected = by_hand(model64, prompt, answer) - by_hand(model64, removed, answer)
        torch.testing.assert_close(a.per_answer_token[i], expected, atol=1e-10, rtol=0)


def test_a_mixture_of_experts_is_exact():
    # TransformerLens routes in single precision.
    model = tiny("llama", dtype=torch.float32, num_experts=4, experts_per_token=2)
    prompt, answer = random_ids(40), [3, 1, 4]
    expected = brute_force(model, prompt, answer)
    torch.testing.assert_close(attribute(model, prompt, answer).per_answer_token, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_mixtral_through_the_bridge_is_exact_packed_or_not(dtype, packing, tmp_path, monkeypatch):
    model = bridge("mixtral", tmp_path)[0].to(dtype)
    # The grouped product of its experts, transformers' default, is for single and half precision.
    model.original_model.config._experts_implementation = "eager"
    softmax = torch.nn.functional.softmax
    # Its attention takes the softmax in fp32, whose last digits depend on how many hidden positions there are.
    monkeypatch.setattr(torch.nn.functional, "softmax", lambda x, dim=-1, dtype=None: softmax(x, dim=dim))
    monkeypatch.setattr(kv_cache, "can_pack", lambda _: packing)
    packed, rows = kv_cache.logits_packed, []

    def counting(*args):
        rows.extend(args[2])
        return packed(*args)

    monkeypatch.setattr(kv_cache, "logits_packed", counting)
    prompt, answer = random_ids(20), [3, 1, 4]
    expected = brute_force(model, prompt, answer)
    found = attribute(model, prompt, answer)
    assert bool(rows) == packing
    # Log-probabilities of a random model reach 20 nats, where fp32 resolves 2e-6.
    exact = {"atol": 1e-10, "rtol": 0} if dtype == torch.float64 else {"atol": 1e-5, "rtol": 1e-5}
    torch.testing.assert_close(found.per_answer_token, expected, **exact)
    torch.testing.assert_close(found.scores, expected.mean(1), **exact)


def test_repeated_tokens_have_equal_scores(model64):
    prompt, answer = [5, 9, 9, 9, 2, 2], [9, 9]
    a = attribute(model64, prompt, answer)
    torch.testing.assert_close(a.per_answer_token, brute_force(model64, prompt, answer), atol=1e-10, rtol=0)
    # Deleting either of two equal neighbours leaves the same ids.
    assert a.scores[1] == a.scores[2] == a.scores[3]
    assert a.scores[4] == a.scores[5]


def test_bos_is_in_the_input_and_has_a_row_only_on_request(style):
    model = with_bos(tiny(style))
    prompt, answer = random_ids(9), [4, 2]
    a = attribute(model, prompt, answer)
    torch.testing.assert_close(a.per_answer_token, brute_force(model, prompt, answer, [HEAD]), atol=1e-10, rtol=0)
    assert a.token_ids == tuple(prompt)
    b = attribute(model, prompt, answer, attribute_bos=True)
    assert b.token_ids == (HEAD, *prompt)
    assert b.members == tuple((i,) for i in range(10))
    torch.testing.assert_close(b.per_answer_token[1:], a.per_answer_token, atol=1e-12, rtol=0)
    without = by_hand(model, [HEAD, *prompt], answer) - by_hand(model, prompt, answer)
    torch.testing.assert_close(b.per_answer_token[0], without, atol=1e-10, rtol=0)


def test_the_only_token_can_be_removed_only_if_bos_remains():
    model = with_bos(tiny())
    a = attribute(model, [7], [4, 2])
    torch.testing.assert_close(a.per_answer_token, brute_force(model, [7], [4, 2], [HEAD]), atol=1e-10, rtol=0)
    with pytest.raises(InputError, match="removing '7' leaves no context before the answer"):
        attribute(tiny(), [7], [4, 2])


@pytest.mark.parametrize("wrap", ["hooked", "bridge"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "pythia", "mistral"])
def test_loaded_models_of_both_wraps_equal_brute_force(family, wrap):
    hf = hf_model(family).double()
    model = load_model(hf, tokenizer=tokenizer(), wrap=wrap, dtype=torch.float64)
    prompt, answer = random_ids(50, vocabulary=320), [3, 1, 4]
    expected = brute_force(model, prompt, answer)
    torch.testing.assert_close(attribute(model, prompt, answer).per_answer_token, expected, atol=1e-10, rtol=0)


def test_both_wraps_give_the_same_scores():
    hf = hf_model("llama")
    a, b = (
        attribute(load_model(hf, tokenizer=tokenizer(), wrap=w), "the capital of Japan is", " Tokyo")
        for w in ("hooked", "bridge")
    )
    assert a.tokens == b.tokens
    torch.testing.assert_close(a.per_answer_token, b.per_answer_token, atol=1e-4, rtol=0)


def test_ids_are_deleted_without_retokenising():
    model = load_model(hf_model("gpt2").double(), tokenizer=tokenizer(), dtype=torch.float64)
    prompt, answer = "the capxital of Japan is", " Tokyo"
    ids = model.tokenizer(prompt)["input_ids"]
    texts = [model.tokenizer.decode(ids[:i] + ids[i + 1 :]) for i in range(len(ids))]
    assert any(model.tokenizer(t)["input_ids"] != ids[:i] + ids[i + 1 :] for i, t in enumerate(texts)), (
        "this test needs a prompt whose deletions would merge anew"
    )
    a = attribute(model, prompt, answer)
    assert a.deletion == "ids"
    expected = brute_force(model, ids, model.tokenizer(answer)["input_ids"])
    torch.testing.assert_close(a.per_answer_token, expected, atol=1e-10, rtol=0)


ids = st.lists(st.integers(0, 49), min_size=2, max_size=24)
items = st.lists(st.tuples(ids, st.lists(st.integers(0, 49), min_size=1, max_size=6)), min_size=1, max_size=4)
quick = settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))


@quick
@given(items=items, batch_tokens=st.sampled_from([1, 30, 8192]), data=st.data())
def test_scores_do_not_depend_on_batch_size_order_or_batch_mates(items, batch_tokens, data):
    model = tiny("llama")
    order = data.draw(st.permutations(range(len(items))))
    together = attribute_many(model, [items[i] for i in order], batch_tokens=batch_tokens)
    for i, found in zip(order, together, strict=True):
        alone = attribute(model, *items[i], batch_tokens=64)
        torch.testing.assert_close(found.per_answer_token, alone.per_answer_token, atol=1e-10, rtol=0)


@quick
@given(prompt=ids)
def test_a_duplicate_model_gives_the_same_scores(prompt):
    a, b = (attribute(tiny("pythia"), prompt, [3, 4], batch_tokens=256) for _ in range(2))
    assert a == b
