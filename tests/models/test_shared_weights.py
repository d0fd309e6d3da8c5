"""Several models on one copy of the weights compute what several copies compute."""

import gc
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

import unpact_lens as ul
from tests.models.families import hf_model, tokenizer
from tests.unlearning.test_trainer import FORGET, RETAIN
from unpact_lens.data.benchmark import Benchmark
from unpact_lens.errors import InputError
from unpact_lens.models.checkpoint import clone, load_checkpoint, model_hash, save_model
from unpact_lens.models.convert import to_bridge
from unpact_lens.models.export import export_hf
from unpact_lens.models.hooked import run_with_hooks
from unpact_lens.models.low_rank import adapters_of, is_adapted
from unpact_lens.models.same_weights import same_weights
from unpact_lens.models.shared_weights import share, shares_weights
from unpact_lens.models.upcast import in_fp32
from unpact_lens.models.weights import named_weights
from unpact_lens.recovery.probes.relearn import relearned

LORA = {"method": "lora_npo_gdr", "rank": 2, "lr": 2e-2, "steps": 4, "batch_size": 4, "progress": False}
PROMPT, ANSWER = FORGET[0].prompt, FORGET[0].answer


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def pair(request):
    """An original model, an unlearned one on its weights, and full copies of both."""
    before = to_bridge(hf_model(request.param), tokenizer())
    after = ul.unlearn(before, FORGET, RETAIN, **LORA).model
    return before, after, clone(before), clone(after)


def assert_equal(ours, theirs):
    """Equal to 1e-5 of the largest number: the products are those of fp32, summed in another order."""
    torch.testing.assert_close(ours, theirs, atol=1e-5 * max(1.0, float(theirs.abs().max())), rtol=0)


def bytes_beyond(model, base):
    """Bytes of the parameters of a model that lie in no storage of another."""
    held = {p.untyped_storage().data_ptr() for p in base.parameters()}
    return sum(p.nbytes for p in model.parameters() if p.untyped_storage().data_ptr() not in held)


def test_result_with_a_rank_shares_the_weights_of_the_original(pair):
    before, after, _, full = pair
    adapters = sum(a.A.nbytes + a.B.nbytes for _, _, found in adapters_of(after) for a in found)
    assert shares_weights(before, after)
    assert (is_adapted(before), is_adapted(after)) == (False, True)
    assert bytes_beyond(after, before) == adapters > 0
    assert not shares_weights(after, full)
    assert not is_adapted(full)
    assert [p.requires_grad for p in full.parameters()] == [p.requires_grad for p in before.parameters()]


def test_both_models_compute_what_full_copies_compute(pair):
    tokens = torch.randint(5, 40, (2, 9), generator=torch.Generator().manual_seed(0))
    before, after, *full = pair
    with torch.no_grad():
        for ours, theirs in zip((before, after), full, strict=True):
            assert_equal(ours(tokens), theirs(tokens))
        assert float((before(tokens) - after(tokens)).abs().max()) > 1e-3


def test_named_weights_are_the_sums(pair):
    before, after, _, full = pair
    ours, theirs = named_weights(after), named_weights(full)
    assert list(ours) == list(theirs)
    for name, weight in theirs.items():
        torch.testing.assert_close(ours[name], weight, atol=1e-7, rtol=0)
    assert model_hash(after) != model_hash(before)
    assert same_weights(share(after), after)
    assert not same_weights(before, after)


def test_diff_on_shared_weights(pair):
    before, after, *full = pair
    options = {"sources": True, "split": True, "activations": True}
    ours, theirs = (ul.diff(b, a, PROMPT, ANSWER, **options) for b, a in ((before, after), full))
    assert float(theirs.delta_log_prob.abs().max()) > 1e-2
    for name in ("log_prob_after", "delta_components", "delta_heads", "delta_contributions"):
        assert_equal(getattr(ours, name), getattr(theirs, name))
    assert_equal(ours.sources_after.values, theirs.sources_after.values)
    assert_equal(ours.split.values, theirs.split.values)
    assert_equal(ours.activations.kl, theirs.activations.kl)
    assert ours.weights.names == theirs.weights.names
    for name in ("norm_delta", "spectral", "cosine", "relative"):
        assert_equal(getattr(ours.weights, name).nan_to_num(), getattr(theirs.weights, name).nan_to_num())


@pytest.mark.parametrize("method", ["leave_one_out", "grad_x_input", "value_zeroing", "ov"])
def test_attribution_on_shared_weights(pair, method):
    for ours, theirs in zip(pair[:2], pair[2:], strict=True):
        found = (ul.attribute(m, PROMPT, ANSWER, method=method).scores for m in (ours, theirs))
        assert_equal(*found)


def facts(model, count=5):
    """A benchmark whose answers are the model's own greedy ones, so that it knows them."""
    words = ["the capital", "who wrote", "the gold", "seven small", "at sea", "the symbol", "the boats", "is Tokyo"]

    def fact(i, group):
        ids = torch.tensor([tokenizer()(words[i])["input_ids"]])
        with torch.no_grad():
            for _ in range(3):
                ids = torch.cat([ids, model(ids)[:, -1].argmax(-1, keepdim=True)], dim=1)
        text = tokenizer().decode(ids[0])[len(words[i]) :]
        return ul.QA(words[i], text, subject=words[i], id=f"{group}{i}", group=group)

    forget, near = ([fact(i, g) for i in r] for g, r in (("forget", range(count)), ("near", range(count, 8))))
    return Benchmark(name="own", forget=tuple(forget), retain=tuple(near), max_new_tokens=4)


def test_evaluation_and_recovery_on_shared_weights(pair):
    before, after, *full = pair
    bench = facts(before)
    options = {
        "templates": ["focus_list", "quotes"], "probes": ["prefill", "relearn"], "relearn": {"rank": 2, "lr": 1e-3},
        "progress": False,
    }  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the retain facts are not split
        ours, theirs = (ul.evaluate(a, bench, before=b) for b, a in ((before, after), full))
    pd.testing.assert_frame_equal(ours.to_frame(), theirs.to_frame(), atol=1e-5)
    ours, theirs = (ul.recover(a, bench, before=b, **options) for b, a in ((before, after), full))
    pd.testing.assert_frame_equal(ours.to_frame(), theirs.to_frame(), atol=1e-5)


def test_relearning_with_a_rank_shares_the_weights(pair):
    """Adapters are added to adapters; the result is that of adapters on a full copy."""
    _, after, _, full = pair
    bench = facts(after)
    ours, theirs = (relearned(m, FORGET, bench, rank=2, lr=1e-3, steps=3) for m in (after, full))
    assert shares_weights(ours, after)
    assert not same_weights(ours, after)
    tokens = torch.arange(5, 14)[None]
    with torch.no_grad():
        assert_equal(ours(tokens), theirs(tokens))
        assert float((ours(tokens) - after(tokens)).abs().max()) > 1e-4


def test_training_on_shared_weights_leaves_the_original_alone():
    before = to_bridge(hf_model("llama"), tokenizer())
    start = model_hash(before)
    flags = [p.requires_grad for p in before.parameters()]
    once = ul.unlearn(before, FORGET, RETAIN, **LORA).model
    twice = ul.unlearn(once, FORGET, RETAIN, **LORA).model
    assert shares_weights(twice, before)
    assert [len(found) for _, _, found in adapters_of(twice)] == [2] * len(list(adapters_of(once)))
    assert all(len(found) == 1 for _, _, found in adapters_of(once))
    full = ul.unlearn(once, FORGET, RETAIN, method="npo", lr=1e-3, steps=2, batch_size=3, progress=False).model
    assert not shares_weights(full, before)
    assert not is_adapted(full)
    assert (model_hash(before), [p.requires_grad for p in before.parameters()]) == (start, flags)


def test_both_models_can_be_used_by_several_threads_and_after_an_error(pair):
    before, after, *_ = pair
    expected = [ul.attribute(m, PROMPT, ANSWER).scores for m in (before, after)]

    def fail(act, hook):
        raise KeyError("inside a hook")

    with pytest.raises(KeyError):
        run_with_hooks(after, torch.arange(5)[None], [("blocks.0.hook_resid_pre", fail)])
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: ul.attribute(pair[i % 2], PROMPT, ANSWER).scores, range(8)))
    assert all(torch.equal(scores, expected[i % 2]) for i, scores in enumerate(found))


def test_adapters_are_saved_apart_and_exported_merged(pair, tmp_path):
    _, after, _, full = pair
    loaded = load_checkpoint(save_model(after, tmp_path / "saved"))
    assert is_adapted(loaded)
    assert model_hash(loaded) == model_hash(after)
    tokens = torch.arange(5, 14)[None]
    with torch.no_grad():
        assert torch.equal(loaded(tokens), after(tokens))
        exported = AutoModelForCausalLM.from_pretrained(export_hf(after, tmp_path / "hf")).eval()
        assert_equal(exported(tokens).logits, full(tokens))


@pytest.mark.parametrize("family", ["llama", "gpt2", "pythia"])
def test_adapter_of_peft_on_a_live_bridge_gives_the_logits_of_peft(family, tmp_path):
    """Also on a fused query-key-value matrix, whose parts the bridge holds apart."""
    targets = {"llama": ["q_proj", "down_proj"], "gpt2": ["c_attn", "c_fc"], "pythia": ["query_key_value", "dense"]}
    base = to_bridge(hf_model(family), tokenizer())
    peft = get_peft_model(
        hf_model(family), LoraConfig(r=3, lora_alpha=7, target_modules=targets[family], init_lora_weights=False)
    ).eval()
    peft.save_pretrained(tmp_path)
    after = ul.load_model(base, adapter=tmp_path)
    assert shares_weights(after, base)
    tokens = torch.arange(5, 14)[None]
    with torch.no_grad():
        assert_equal(after(tokens), peft(tokens).logits)
        assert float((after(tokens) - base(tokens)).abs().max()) > 1e-2
    assert_equal(clone(after)(tokens).detach(), after(tokens).detach())


def test_adapter_that_needs_a_copy_is_refused_on_a_live_bridge(tmp_path):
    base = to_bridge(hf_model("llama"), tokenizer())
    config = LoraConfig(r=3, use_dora=True, target_modules=["q_proj"], init_lora_weights=False)
    get_peft_model(hf_model("llama"), config).save_pretrained(tmp_path / "dora")
    with pytest.raises(InputError, match=r"has use_dora=True; load its base from the base's directory with adapter="):
        ul.load_model(base, adapter=tmp_path / "dora")
    get_peft_model(hf_model("gpt2"), LoraConfig(target_modules=["c_fc"])).save_pretrained(tmp_path / "other")
    with pytest.raises(InputError, match="does not fit this model: it has no place for base_model"):
        ul.load_model(base, adapter=tmp_path / "other")


@pytest.mark.parametrize("family", ["llama", "gpt2", "pythia", "qwen2"])
def test_half_precision_is_decomposed_without_an_fp32_copy(family, monkeypatch):
    """The numbers are bitwise those of a whole fp32 copy; no weight matrix is held twice, and no model is copied."""
    half = to_bridge(hf_model(family), tokenizer(), dtype=torch.bfloat16)
    full = clone(half).to(torch.float32)
    full.cfg.dtype = torch.float32
    wide = in_fp32(half)
    assert in_fp32(half) is wide
    assert bytes_beyond(wide, half) <= 4 * sum(p.numel() for p in half.parameters() if p.ndim < 2)
    monkeypatch.setattr("copy.deepcopy", lambda *args: pytest.fail("a model was copied"))
    for by in ("head", "source"):
        ours, theirs = (ul.decompose(m, PROMPT, ANSWER, by=by).values for m in (half, full))
        assert ours.dtype == torch.float32
        assert torch.equal(ours, theirs)


def test_fp32_view_follows_its_weights_and_ends_with_its_model():
    half = to_bridge(hf_model("llama"), tokenizer(), dtype=torch.bfloat16)
    first = ul.decompose(half, PROMPT, ANSWER).total
    with torch.no_grad():
        half.original_model.model.norm.weight.mul_(2)
    assert not torch.allclose(ul.decompose(half, PROMPT, ANSWER).total, first)
    views = [weakref.ref(m) for m in (half, in_fp32(half))]
    del half
    gc.collect()
    assert [view() for view in views] == [None, None]
