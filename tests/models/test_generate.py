"""Greedy answers of a batch equal those of single prompts."""

import pytest
import torch

from tests.conftest import tiny
from tests.models.families import hf_model, tokenizer
from tests.models.zoo import zoo_model
from unpact_lens.errors import InputError
from unpact_lens.models.answer_end import end_ids
from unpact_lens.models.convert import to_bridge, to_hooked
from unpact_lens.models.decoding import decodes_with_cache
from unpact_lens.models.generate import generate_answers, greedy
from unpact_lens.models.kv_cache import can_share
from unpact_lens.models.lens_version import HAS_HOOKED

LENGTHS = (3, 9, 1, 5, 20, 5, 17, 2)


def contexts(d_vocab=50, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, d_vocab, (n,), generator=generator).tolist() for n in LENGTHS]


def one_by_one(model, context, n, stop_ids):
    ids = list(context)
    for _ in range(n):
        token = int(model(torch.tensor([ids]))[0, -1].argmax())
        if token in stop_ids:
            break
        ids.append(token)
    return tuple(ids[len(context) :])


def expected(model, given, n, stop_ids=()):
    with torch.inference_mode():
        return [one_by_one(model, c, n, stop_ids) for c in given]


@pytest.mark.parametrize("batch_tokens", [1, 60, 10_000])
def test_a_batch_equals_one_by_one(model32, batch_tokens):
    given = contexts()
    assert greedy(model32, given, max_new_tokens=9, batch_tokens=batch_tokens) == expected(model32, given, 9)


def test_answers_do_not_depend_on_rows_that_stopped(model32):
    given = contexts()
    free = expected(model32, given, 9)
    stops = {free[0][2], free[3][0], free[5][4]}
    answers = greedy(model32, given, max_new_tokens=9, stop_ids=tuple(stops))
    assert answers == expected(model32, given, 9, stops)
    assert len({len(a) for a in answers}) > 2


def test_until_is_called_after_each_new_token(model32):
    given = contexts()
    seen = {i: [] for i in range(len(given))}

    def until(i, new):
        seen[i].append(tuple(new))
        return len(new) == i + 1

    answers = greedy(model32, given, max_new_tokens=9, until=until)
    assert answers == [a[: i + 1] for i, a in enumerate(expected(model32, given, 9))]
    assert seen[2] == [answers[2][:1], answers[2][:2], answers[2][:3]]


@pytest.mark.parametrize("family", ["gpt2", "mistral", "pythia"])
@pytest.mark.parametrize("wrap", [to_bridge, to_hooked])
def test_both_kinds_of_model_generate_what_their_forward_pass_gives(family, wrap):
    model = wrap(hf_model(family), tokenizer())
    given = contexts(320)
    answers = greedy(model, given, max_new_tokens=9)
    assert answers == expected(model, given, 9)
    stops = {answers[0][1], answers[4][3]}
    assert greedy(model, given, max_new_tokens=9, stop_ids=tuple(stops)) == expected(model, given, 9, stops)


@pytest.mark.parametrize("wrap", [to_bridge, to_hooked])
def test_prompt_hooks_change_the_prompt_and_not_what_is_generated(wrap):
    model, given = wrap(hf_model("gpt2"), tokenizer()), contexts(320)
    name = "blocks.1.hook_resid_pre"
    push = 20 * torch.randn(model.cfg.d_model, generator=torch.Generator().manual_seed(0))

    def at(columns):
        def edit(resid, hook):
            resid = resid.clone()
            resid[range(len(columns)), columns] += push
            return resid

        return [(name, edit)]

    def alone(context):
        ids = list(context)
        for _ in range(5):  # without a cache the same position is changed at every step
            logits = model.run_with_hooks(torch.tensor([ids]), fwd_hooks=at([len(context) - 1]))
            ids.append(int(logits[0, -1].argmax()))
        return tuple(ids[len(context) :])

    found = greedy(
        model, given, max_new_tokens=5, prompt_hooks=lambda rows, width: at([width - 1] * len(rows)), batch_tokens=40
    )
    with torch.inference_mode():
        assert found == [alone(c) for c in given]
    assert found != greedy(model, given, max_new_tokens=5)


def test_generating_leaves_no_hook_and_no_gradient(model32):
    greedy(model32, contexts(), max_new_tokens=2)
    assert not any(point.fwd_hooks for point in model32.hook_dict.values())
    assert all(p.grad is None for p in model32.parameters())


@pytest.fixture(scope="module")
def talker():
    return to_hooked(hf_model("llama"), tokenizer(prepends_bos=True))


def test_answers_start_after_the_prefill_and_end_at_a_stop(talker):
    prompts, prefill = ["who wrote", "the capital of Japan is"], " Ham"
    ids = [[0, *talker.tokenizer(p)["input_ids"][1:], *talker.tokenizer(prefill)["input_ids"][1:]] for p in prompts]
    raw = [talker.tokenizer.decode(new, skip_special_tokens=True) for new in expected(talker, ids, 8, {1, 2})]
    free = generate_answers(talker, prompts, prefills=prefill, max_new_tokens=8, stop=())
    assert free == raw
    stop = raw[0][len(raw[0]) // 2]
    cut = generate_answers(talker, prompts, prefills=[prefill, prefill], max_new_tokens=8, stop=(stop,))
    assert cut == [r.split(stop)[0] for r in raw]


def test_the_end_of_sequence_always_stops(talker):
    prompts = ["who wrote", "seven small boats"]
    ids = [talker.tokenizer(p)["input_ids"] for p in prompts]
    end = expected(talker, ids, 6)[0][-1]
    own = talker.tokenizer
    talker.tokenizer = tokenizer(prepends_bos=True)
    talker.tokenizer.eos_token = own.convert_ids_to_tokens(end)
    answers = generate_answers(talker, prompts, max_new_tokens=6, stop=())
    talker.tokenizer = own
    stopped = expected(talker, ids, 6, {end, *end_ids(talker)})
    assert len(stopped[0]) < 6
    assert answers == [own.decode(new, skip_special_tokens=True) for new in stopped]


@pytest.mark.parametrize(
    ("given", "n", "message"),
    [
        ([[1, 2]], 0, "max_new_tokens=0; give at least 1"),
        ([[1], []], 3, "a context has 0 tokens"),
        ([[1, 50]], 3, r"context id 50 lies outside the vocabulary \(0 to 49\)"),
        ([[1] * 399], 3, "a context of 399 tokens and 3 new ones need room for 401, the model's context is 400"),
    ],
)
def test_errors_name_the_invalid_input(given, n, message):
    with pytest.raises(InputError, match=message):
        greedy(tiny(), given, max_new_tokens=n)


def test_the_last_token_may_fill_the_context():
    assert len(greedy(tiny(), [[1] * 398], max_new_tokens=3)[0]) == 3


def test_no_prompts_no_answers():
    assert greedy(tiny(), [], max_new_tokens=3) == []


def test_text_needs_a_tokenizer_and_a_prefill_for_each_prompt(talker):
    with pytest.raises(InputError, match="no tokenizer, so it cannot answer in text"):
        generate_answers(tiny(), ["a"])
    with pytest.raises(InputError, match="1 prefills for 2 prompts"):
        generate_answers(talker, ["a", "b"], prefills=["x"])


@pytest.mark.hooked
def test_nan_weights_are_refused():
    model = tiny()
    model.unembed.W_U.data[0, 0] = float("nan")
    with pytest.raises(InputError, match=r"weight unembed\.W_U holds NaN or infinity"):
        greedy(model, [[1, 2]], max_new_tokens=1)


WITHOUT_CACHE = ("mpt", "falcon, ALiBi", "mamba") if HAS_HOOKED else ("mamba",)
"""Architectures whose bridge returns no usable KV cache."""


@pytest.mark.parametrize("name", [*WITHOUT_CACHE, "falcon", "gemma2", "mixtral", "phi3", "jamba", "lfm2"])
def test_generation_equals_that_of_the_source_model_one_by_one(name):
    source = zoo_model(name)
    model = to_bridge(source, tokenizer())
    assert decodes_with_cache(model) is (name not in WITHOUT_CACHE)
    given = contexts(320, seed=4)
    assert greedy(model, given, max_new_tokens=7) == expected(lambda ids: source(ids).logits, given, 7)
    assert greedy(model, given, max_new_tokens=7, batch_tokens=1) == greedy(model, given, max_new_tokens=7)
    if name in WITHOUT_CACHE:
        assert not can_share(model)


def test_what_needs_a_cache_is_refused_without_one():
    model = to_bridge(zoo_model("mamba"), tokenizer())
    with pytest.raises(InputError, match="an intervention on the prompt needs a KV cache, and that of this MambaFor"):
        greedy(model, [[3, 4]], max_new_tokens=2, prompt_hooks=lambda rows, width: ())
