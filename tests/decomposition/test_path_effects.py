"""Total effects equal interventions and direct effects equal the decomposition, whatever is frozen."""

import pytest
import torch

from tests.conftest import tiny
from tests.decomposition.bridges import bridge
from unpact_lens.decomposition import decompose, path_effects
from unpact_lens.errors import InputError
from unpact_lens.results import load, save

PROMPT, ANSWER = [3, 1, 4, 1], [9, 2]
TOKENS = torch.tensor([(PROMPT + ANSWER)[:-1]])
SCALES = ("ln1.hook_scale", "ln2.hook_scale")
FREEZES = [(), ("patterns",), ("norms",), ("patterns", "norms")]


def logit(model, hooks):
    logits = model.run_with_hooks(TOKENS, fwd_hooks=hooks)[0, len(PROMPT) - 1 :]
    return logits[[0, 1], ANSWER]


def held(cache, names):
    return [(name, lambda act, hook, value=cache[name]: value) for name in names]


@pytest.mark.parametrize("freeze", FREEZES)
def test_total_effects_equal_zeroing_a_column_of_the_pattern(model64, freeze):
    """The same by another way: the column of the head's pattern is set to 0, without renormalising."""
    _, cache = model64.run_with_cache(TOKENS)
    effects = path_effects(model64, PROMPT, ANSWER, heads=[(0, 1), (1, 3)], freeze=freeze)
    whole = logit(model64, [])
    for row, (layer, head) in enumerate([(0, 1), (1, 3)]):
        names = [f"blocks.{layer}.ln2.hook_scale", "ln_final.hook_scale"] if "norms" in freeze else []
        for later in range(layer + 1, 3):
            names += [f"blocks.{later}.{part}" for part in SCALES] if "norms" in freeze else []
            names += [f"blocks.{later}.attn.hook_pattern"] if "patterns" in freeze else []
        for source in range(5):

            def zero(pattern, hook, head=head, source=source):
                pattern = pattern.clone()
                pattern[:, head, :, source] = 0
                return pattern

            without = logit(model64, [(f"blocks.{layer}.attn.hook_pattern", zero), *held(cache, names)])
            torch.testing.assert_close(effects.total[row, source], whole - without, atol=1e-10, rtol=0)


def test_freezing_changes_effects_and_is_recorded(model64):
    totals = [path_effects(model64, PROMPT, ANSWER, heads=[(0, 0)], freeze=f).total for f in FREEZES]
    for i, one in enumerate(totals):
        for other in totals[i + 1 :]:
            assert (one - other).abs().max() > 1e-6
    assert path_effects(model64, PROMPT, ANSWER, heads=[(0, 0)], freeze=("norms",)).frozen == ("norms",)


def test_direct_effects_equal_the_decomposition_and_the_last_layer_has_no_indirect_effect():
    """In a parallel block nothing stands behind the last layer's heads but the norm, which is held."""
    model = tiny("pythia")
    effects = path_effects(model, PROMPT, ANSWER)
    source = decompose(model, PROMPT, ANSWER, by="source")
    torch.testing.assert_close(effects.direct, source.values.flatten(0, 1), atol=1e-12, rtol=0)
    torch.testing.assert_close(effects.indirect[-4:], torch.zeros(4, 5, 2, dtype=torch.float64), atol=1e-10, rtol=0)
    assert effects.indirect[:4].abs().max() > 1e-3


def test_without_mlps_and_all_frozen_effects_equal_the_gradient():
    model = tiny("llama", attn_only=True)
    _, cache = model.run_with_cache(TOKENS)
    names = [f"blocks.{l}.{part}" for l in (1, 2) for part in ("ln1.hook_scale", "attn.hook_pattern")]
    leaf = cache["attn_out", 0].clone().requires_grad_()
    hooks = [("blocks.0.hook_attn_out", lambda act, hook: leaf), *held(cache, [*names, "ln_final.hook_scale"])]
    gradient = torch.autograd.grad(logit(model, hooks)[0], leaf)[0][0]
    effects = path_effects(model, PROMPT, ANSWER, heads=[(0, 2)])
    for source in range(5):
        moved = cache["pattern", 0][0, 2, :, source, None] * (cache["v", 0][0, source, 1] @ model.W_O[0, 2])
        assert effects.total[0, source, 0].item() == pytest.approx((moved * gradient).sum().item(), abs=1e-10)


@pytest.mark.parametrize("freeze", FREEZES)
def test_norms_after_sublayers_and_a_soft_cap(freeze):
    model = tiny("llama", use_normalization_before_and_after=True, output_logits_soft_cap=5.0)
    effects = path_effects(model, PROMPT, ANSWER, heads=[(2, 0)], freeze=freeze)
    _, cache = model.run_with_cache(TOKENS)
    logits = 5 * torch.atanh(model(TOKENS)[0, len(PROMPT) - 1 :] / 5)

    def zero(pattern, hook):
        pattern = pattern.clone()
        pattern[:, 0, :, 1] = 0
        return pattern

    parts = ("ln1_post.hook_scale", "ln2.hook_scale", "ln2_post.hook_scale")
    names = [*(f"blocks.2.{p}" for p in parts), "ln_final.hook_scale"] if "norms" in freeze else []
    hooks = [("blocks.2.attn.hook_pattern", zero), *held(cache, names)]
    without = 5 * torch.atanh(model.run_with_hooks(TOKENS, fwd_hooks=hooks)[0, len(PROMPT) - 1 :] / 5)
    torch.testing.assert_close(effects.total[0, 1], (logits - without)[[0, 1], ANSWER], atol=1e-9, rtol=0)


@pytest.mark.parametrize("family", ["gpt2", "llama", "neox"])
def test_on_a_bridge_the_last_layers_total_is_direct_plus_its_mlp(family, tmp_path):
    """Against the pattern's zeroed column on the bridge itself."""
    bridged, _ = bridge(family, tmp_path)
    for freeze in FREEZES:
        effects = path_effects(bridged, PROMPT, ANSWER, heads=[(0, 1)], freeze=freeze)
        _, cache = bridged.run_with_cache(TOKENS)
        names = ["blocks.0.ln2.hook_scale", "blocks.1.ln1.hook_scale", "blocks.1.ln2.hook_scale"]
        names = [*names, "ln_final.hook_scale"] if "norms" in freeze else []
        names += ["blocks.1.attn.hook_pattern"] if "patterns" in freeze else []

        def zero(pattern, hook):
            pattern = pattern.clone()
            pattern[:, 1, :, 2] = 0
            return pattern

        without = logit(bridged, [("blocks.0.attn.hook_pattern", zero), *held(cache, names)])
        torch.testing.assert_close(effects.total[0, 2], logit(bridged, []) - without, atol=1e-4, rtol=0)
        assert effects.total[0, 2].abs().max() > 1e-3


def test_foil_batch_size_and_saving(model64, tmp_path):
    effects = path_effects(model64, PROMPT, ANSWER, heads=[(0, 0)], versus=[7], batch_tokens=1)
    assert effects.total.shape == (1, 5, 1)
    whole = path_effects(model64, PROMPT, ANSWER, heads=[(0, 0)])
    foil = path_effects(model64, PROMPT, [7, 2], heads=[(0, 0)])
    expected = whole.total[:, :4, :1] - foil.total[:, :4, :1]
    torch.testing.assert_close(effects.total[:, :4], expected, atol=1e-10, rtol=0)
    assert load(save(effects, tmp_path / "paths")) == effects
    assert len(effects.to_frame()) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"heads": [(3, 0)]}, r"head \(3, 0\) is not in the model: layers 0 to 2, heads 0 to 3"),
        ({"freeze": ("mlps",)}, "freeze='mlps'; what can be frozen is 'patterns' and 'norms'"),
        ({"batch_tokens": 0}, "batch_tokens=0"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(InputError, match=message):
        path_effects(tiny(), PROMPT, ANSWER, **arguments)


def test_no_head_at_all_is_refused(model64):
    with pytest.raises(InputError, match=r"heads=\[\]; give at least one \(layer, head\) pair, or leave heads out"):
        path_effects(model64, PROMPT, ANSWER, heads=[])
