"""Every view of every model family sums to the logit and equals its definition."""

import pytest
import torch

from tests.conftest import tiny
from unpact_lens.decomposition import VOCABULARY, decompose
from unpact_lens.errors import InputError
from unpact_lens.results import load, save

PROMPT, ANSWER = [3, 1, 4, 1, 5], [9, 2, 6]
VIEWS = ("component", "head", "source", "neuron")
KINDS = {
    "gpt2": ("gpt2", {}),
    "llama": ("llama", {}),
    "pythia": ("pythia", {}),
    "gemma2": ("llama", {"use_normalization_before_and_after": True, "output_logits_soft_cap": 5.0}),
    "folded layer norm": ("gpt2", {"normalization_type": "LNPre"}),
    "folded rms norm": ("llama", {"normalization_type": "RMSPre"}),
    "no norm": ("gpt2", {"normalization_type": None, "attn_only": True}),
    "positions outside the stream": ("gpt2", {"positional_embedding_type": "shortformer"}),
    "norm inside the mlp": ("gpt2", {"act_fn": "solu_ln"}),
}


def model_of(kind, dtype=torch.float64):
    style, overrides = KINDS[kind]
    return tiny(style, dtype=dtype, **overrides)


def qwen2(dtype=torch.float64):
    """Llama with biases on queries, keys and values, and an embedding that is the unembedding."""
    model = tiny("llama", dtype=dtype)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("b_Q", "_b_K", "_b_V")):
                weight.copy_(torch.randn(weight.shape, generator=generator, dtype=torch.float64))
        model.unembed.W_U.copy_(model.embed.W_E.T)
    return model


def logits_of(model, cap=None):
    """Logits of the answer tokens by a plain forward, before the soft-cap."""
    logits = model(torch.tensor([PROMPT + ANSWER]))[0, len(PROMPT) - 1 : -1]
    return torch.atanh(logits / cap) * cap if cap else logits


def assert_adds_up(d, tolerance):
    parts = d.values.reshape(-1, d.values.shape[-1]).sum(0) + d.remainder.sum(0)
    torch.testing.assert_close(parts, d.total, atol=tolerance, rtol=0)
    assert d.values.shape == tuple(len(axis) for axis in d.labels)
    assert d.remainder.shape == (len(d.remainder_labels), len(d.answer_tokens))


@pytest.mark.parametrize("by", VIEWS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_values_and_remainder_sum_to_the_logit(kind, by, dtype, tolerance):
    model = model_of(kind, dtype)
    if by == "neuron" and model.cfg.attn_only:
        pytest.skip("no neurons")
    d = decompose(model, PROMPT, ANSWER, by=by)
    cap = KINDS[kind][1].get("output_logits_soft_cap")
    expected = logits_of(model, cap).gather(1, torch.tensor(ANSWER)[:, None])[:, 0]
    torch.testing.assert_close(d.total, expected, atol=max(tolerance, 1e-9), rtol=0)
    assert_adds_up(d, tolerance)
    assert any("before the final soft-cap of 5 " in note for note in d.notes) == bool(cap)


@pytest.mark.parametrize("by", VIEWS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_biases_on_queries_keys_and_values_and_tied_embeddings(by, dtype, tolerance):
    assert_adds_up(decompose(qwen2(dtype), PROMPT, ANSWER, by=by), tolerance)


def test_shapes_are_as_documented():
    model = tiny("gpt2")
    shapes = {by: tuple(decompose(model, PROMPT, ANSWER, by=by).values.shape) for by in VIEWS}
    heads, positions = 3 * 4, len(PROMPT) + len(ANSWER) - 1
    assert shapes == {
        "component": (2 + heads + 3 + 3 + 2, 3),
        "head": (3, 4, 3),
        "source": (3, 4, positions, 3),
        "neuron": (3, 48, 3),
    }


def test_finer_views_sum_to_coarser_views():
    model = tiny("llama")
    views = {by: decompose(model, PROMPT, ANSWER, by=by) for by in VIEWS}
    close = {"atol": 1e-10, "rtol": 0}
    torch.testing.assert_close(views["source"].values.sum(2), views["head"].values, **close)
    for layer in range(3):
        mlp = views["neuron"].values[layer].sum(0) + views["neuron"][f"L{layer}.mlp_bias"]
        torch.testing.assert_close(mlp, views["component"][f"L{layer}.mlp"], **close)
        torch.testing.assert_close(views["head"].values[layer, 2], views["component"][f"L{layer}H2"], **close)


def test_a_source_value_equals_pattern_times_value_times_output_weights(model64):
    """Against the full `[head, query, key, d_model]` tensor, which the library never builds."""
    d = decompose(model64, PROMPT, ANSWER, by="source")
    _, cache = model64.run_with_cache(torch.tensor([(PROMPT + ANSWER)[:-1]]))
    first = len(PROMPT) - 1
    norm, W_U = model64.ln_final, model64.W_U[:, ANSWER]
    for layer in range(3):
        v = cache["v", layer][0].repeat_interleave(4 // cache["v", layer].shape[2], dim=1)
        moved = torch.einsum("hts,she,hed->htsd", cache["pattern", layer][0], v, model64.W_O[layer])[:, first:]
        if model64.cfg.normalization_type == "LN":
            moved = moved - moved.mean(-1, keepdim=True)
        normed = moved / cache["ln_final.hook_scale"][0, first:][None, :, None] * norm.w
        expected = torch.einsum("htsd,dt->hst", normed, W_U)
        torch.testing.assert_close(d.values[layer], expected, atol=1e-10, rtol=0)


def test_a_parts_value_equals_the_change_when_it_is_removed_at_frozen_scale(model64):
    """Predict, perturb, compare: one head, then one MLP, leaves the final residual stream."""
    d = decompose(model64, PROMPT, ANSWER, by="component")
    tokens, first = torch.tensor([(PROMPT + ANSWER)[:-1]]), len(PROMPT) - 1
    _, cache = model64.run_with_cache(tokens)
    head = torch.einsum("pe,ed->pd", cache["z", 1][0, :, 2], model64.W_O[1, 2])
    for name, part in {"L1H2": head, "L2.mlp": cache["mlp_out", 2][0], "L0.attn_bias": model64.b_O[0]}.items():
        logits = model64.run_with_hooks(
            tokens,
            fwd_hooks=[
                ("blocks.2.hook_resid_post", lambda resid, hook, part=part: resid - part),
                ("ln_final.hook_scale", lambda scale, hook: cache["ln_final.hook_scale"]),
            ],
        )[0, first:]
        after = logits.gather(1, torch.tensor(ANSWER)[:, None])[:, 0]
        torch.testing.assert_close(d.total - after, d[name], atol=1e-10, rtol=0)


@pytest.mark.parametrize("by", VIEWS)
def test_a_foil_is_subtracted_token_by_token_or_at_the_first_that_differs(model64, by):
    logits = logits_of(model64)
    same_length = decompose(model64, PROMPT, ANSWER, by=by, versus=[7, 2, 8])
    expected = logits[[0, 1, 2], ANSWER] - logits[[0, 1, 2], [7, 2, 8]]
    torch.testing.assert_close(same_length.total, expected, atol=1e-10, rtol=0)
    assert_adds_up(same_length, 1e-10)

    shorter = decompose(model64, PROMPT, ANSWER, by=by, versus=[9, 8])
    torch.testing.assert_close(shorter.total, logits[1, [2]] - logits[1, [8]], atol=1e-10, rtol=0)
    assert shorter.answer_tokens == ("2",)
    assert len(shorter.tokens) == 7
    assert_adds_up(shorter, 1e-10)


@pytest.mark.parametrize("by", VIEWS)
def test_the_vocabularys_mean_logit_is_subtracted(model64, by):
    d = decompose(model64, PROMPT, ANSWER, by=by, versus=VOCABULARY)
    logits = logits_of(model64)
    torch.testing.assert_close(d.total, logits[[0, 1, 2], ANSWER] - logits.mean(-1), atol=1e-10, rtol=0)
    assert_adds_up(d, 1e-10)


def test_the_mean_over_answer_tokens_sums_to_the_logit(model64):
    d = decompose(model64, PROMPT, ANSWER, by="source").mean()
    assert_adds_up(d, 1e-10)
    torch.testing.assert_close(d.total[0], logits_of(model64)[[0, 1, 2], ANSWER].mean(), atol=1e-10, rtol=0)


def test_half_precision_is_decomposed_in_single_precision_without_changing_the_model():
    model = tiny("gpt2", dtype=torch.float32).to(torch.bfloat16)
    model.cfg.dtype = torch.bfloat16
    d = decompose(model, PROMPT, ANSWER, by="head")
    assert d.values.dtype == torch.float32
    assert model.W_U.dtype == torch.bfloat16
    assert d.notes == ("weights of bfloat16 were decomposed in float32",)
    assert_adds_up(d, 1e-4)


def test_a_routed_mlp_is_one_component_and_has_no_neurons():
    model = tiny("llama", dtype=torch.float32, num_experts=3, experts_per_token=2)
    assert_adds_up(decompose(model, PROMPT, ANSWER), 1e-4)
    with pytest.raises(InputError, match=r"layer 0: the MLP is routed \(cfg.num_experts=3\)"):
        decompose(model, PROMPT, ANSWER, by="neuron")


@pytest.mark.hooked
def test_nonlinear_parts_are_refused_with_their_layer_and_flag(monkeypatch):
    model = tiny("gpt2")
    inner = model.blocks[1].attn.forward
    model.blocks[1].attn.forward = lambda *args, **kwargs: torch.tanh(inner(*args, **kwargs))
    with pytest.raises(InputError, match=r"layer 1: the attention's output is not the sum .*normalization_type='LN'"):
        decompose(model, PROMPT, ANSWER)

    model = tiny("gpt2")
    stream = model.blocks[2].hook_resid_post.forward
    model.blocks[2].hook_resid_post.forward = lambda resid: stream(resid * 1.1)
    with pytest.raises(InputError, match="layer 2 adds more to the residual stream"):
        decompose(model, PROMPT, ANSWER)

    model = tiny("gpt2")
    forward = model.unembed.forward
    model.unembed.forward = lambda resid: 2 * forward(resid)
    with pytest.raises(InputError, match="the logits are not the unembedding of ln_final's output"):
        decompose(model, PROMPT, ANSWER)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"by": "heads"}, r"unknown view by='heads'; did you mean 'head'\?"),
        ({"versus": []}, "the foil .* is 0 tokens long"),
        ({"versus": ANSWER}, "the foil '926' is the answer itself"),
        ({"versus": ANSWER[:2]}, "agree in all of the shorter one's 2 tokens"),
        ({"versus": [99]}, "foil id 99 lies outside the vocabulary"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(InputError, match=message):
        decompose(tiny(), PROMPT, ANSWER, **arguments)


def test_noncausal_models_and_models_without_neurons_are_refused():
    with pytest.raises(InputError, match="attention_dir is 'bidirectional'"):
        decompose(tiny(attention_dir="bidirectional"), PROMPT, ANSWER)
    with pytest.raises(InputError, match="no MLPs"):
        decompose(tiny(attn_only=True), PROMPT, ANSWER, by="neuron")
    model = tiny()
    model.W_U.data[0, ANSWER[0]] = float("nan")
    with pytest.raises(InputError, match=r"unembed\.W_U holds NaN or infinity"):
        decompose(model, PROMPT, ANSWER)


@pytest.mark.hooked
def test_only_the_answers_logits_are_computed_by_default(monkeypatch):
    """The unembedding of the rest of the vocabulary would take longer than all that the decomposition adds."""
    model = tiny()
    shapes = []
    linear = torch.nn.functional.linear
    monkeypatch.setattr(torch.nn.functional, "linear", lambda x, w, b=None: shapes.append(w.shape) or linear(x, w, b))
    decompose(model, PROMPT, ANSWER, versus=[7, 2, 8])
    assert (50, 32) not in shapes
    decompose(model, PROMPT, ANSWER, versus=VOCABULARY)
    assert (50, 32) in shapes


@pytest.mark.parametrize("by", VIEWS)
def test_results_survive_saving(tmp_path, by):
    d = decompose(tiny(), PROMPT, ANSWER, by=by, versus=[7, 2, 8])
    assert load(save(d, tmp_path / by)) == d


def test_a_table_has_one_row_for_each_part():
    d = decompose(tiny(), PROMPT, ANSWER, by="head")
    frame = d.to_frame()
    assert len(frame) == 12 + len(d.remainder_labels)
    assert list(frame.columns[:2]) == ["layer", "head"]
    assert frame["mean"].sum() == pytest.approx(d.total.mean().item())
    with pytest.raises(KeyError, match="no part 'L9H9' by head"):
        d["L9H9"]
