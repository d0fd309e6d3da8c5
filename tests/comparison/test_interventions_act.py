"""Every intervention of comparison and decomposition changes the answer, or is refused with its reason.

Equal models are the exception: there exactly 0 is right.
"""

import functools

import pytest
import torch

from tests.comparison.models import moved
from tests.models.families import UNCOMMON, hf_model, tokenizer, uncommon_hf_model
from unpact_lens.attribution import attribute
from unpact_lens.comparison.graft import graft, graft_map
from unpact_lens.comparison.key_path import key_path
from unpact_lens.comparison.patch import PLACES, patch
from unpact_lens.comparison.split_heads import split_heads
from unpact_lens.comparison.unlearning_depth import unlearning_depth
from unpact_lens.decomposition.ablate import HOOKS, ablate
from unpact_lens.decomposition.path_effects import path_effects
from unpact_lens.errors import InputError
from unpact_lens.models import hooked
from unpact_lens.models.checkpoint import clone
from unpact_lens.models.convert import to_bridge, to_hooked
from unpact_lens.scoring import log_prob

WRAPPED = [(family, wrap) for family in ("gpt2", "llama") for wrap in ("hooked", "bridge")]
QUESTION = ("the capital of Japan is", " Tokyo")

OF_PAIRS = {
    **{
        f"patch {what} {method}": functools.partial(patch, what=what, method=method)
        for what in PLACES
        for method in ("exact", "gradient")
    },
    **{f"graft_map {unit}": functools.partial(graft_map, unit=unit) for unit in ("matrix", "layer")},
    **{f"key_path {r}": functools.partial(key_path, restore=r, keys=[1, 2], draws=1) for r in ("moved", "pattern")},
}
"""Interventions of one model into another, by name."""


@functools.cache
def models(family, wrap):
    hf = hf_model(family)
    before = to_bridge(hf, tokenizer()) if wrap == "bridge" else to_hooked(hf, tokenizer())
    return before, moved(before, size=0.02)


def largest(result):
    return float(result.values.abs().max())


@pytest.mark.parametrize(("family", "wrap"), WRAPPED)
@pytest.mark.parametrize("name", OF_PAIRS)
def test_the_other_models_activations_or_weights_change_the_answer(name, family, wrap):
    found = OF_PAIRS[name](*models(family, wrap), *QUESTION)
    assert largest(found) > 1e-3


@pytest.mark.parametrize("wrap", ["hooked", "bridge"])
@pytest.mark.parametrize("name", OF_PAIRS)
def test_a_model_into_itself_changes_exactly_nothing_and_is_not_refused(name, wrap):
    before, _ = models("llama", wrap)
    assert largest(OF_PAIRS[name](before, clone(before), *QUESTION)) == 0


@pytest.mark.parametrize(("family", "wrap"), WRAPPED)
def test_grafting_every_weight_gives_the_other_model(family, wrap):
    before, after = models(family, wrap)
    both = graft(after, before, "*")
    assert float(log_prob(both, *QUESTION)) == pytest.approx(float(log_prob(before, *QUESTION)), abs=1e-6)
    assert abs(log_prob(before, *QUESTION) - log_prob(after, *QUESTION)) > 1e-3
    one = graft(after, before, "blocks.1.mlp.*")
    assert abs(log_prob(one, *QUESTION) - log_prob(after, *QUESTION)) > 1e-4


@pytest.mark.parametrize(("family", "wrap"), WRAPPED)
@pytest.mark.parametrize("how", ["zero", "mean", "resample"])
@pytest.mark.parametrize("what", sorted(HOOKS))
def test_an_ablation_changes_the_answer(what, how, family, wrap):
    before, _ = models(family, wrap)
    found = ablate(before, *QUESTION, what=what, how=how, reference=["gold has the symbol Au"], draws=2)
    assert largest(found) > 1e-4


@pytest.mark.parametrize(("family", "wrap"), WRAPPED)
def test_removing_a_reading_acts_and_so_does_each_freeze(family, wrap):
    before, _ = models(family, wrap)
    totals = {
        freeze: path_effects(before, *QUESTION, heads=[(0, 1)], freeze=freeze).total
        for freeze in ((), ("patterns",), ("norms",), ("patterns", "norms"))
    }
    assert float(totals[()].abs().max()) > 1e-3
    for freeze, total in totals.items():
        others = [t for f, t in totals.items() if f != freeze]
        assert all(float((total - t).abs().max()) > 1e-4 for t in others), freeze


@pytest.mark.parametrize(("family", "wrap"), WRAPPED)
def test_states_of_another_model_change_the_depth_and_heads_split(family, wrap):
    before, after = models(family, wrap)
    found = unlearning_depth(before, after, after, [QUESTION], resamples=10)
    assert float(found.delta_unlearned.abs().max()) > 1e-3
    assert float(split_heads(before, after, *QUESTION).values.abs().max()) > 1e-4


@pytest.mark.parametrize(("family", "wrap"), WRAPPED)
def test_attention_knockout_changes_the_answer(family, wrap):
    before, _ = models(family, wrap)
    assert float(attribute(before, *QUESTION, method="knockout").scores.abs().max()) > 1e-3


# What would do nothing is refused.

NEEDS_PATTERN = {
    "path_effects(freeze='patterns')": lambda m: path_effects(m, *QUESTION, heads=[(0, 1)], freeze=("patterns",)),
    "attribution method 'knockout'": lambda m: attribute(m, *QUESTION, method="knockout"),
}


@functools.cache
def uncommon(family):
    return to_bridge(uncommon_hf_model(family), tokenizer())


@pytest.mark.parametrize("feature", NEEDS_PATTERN)
@pytest.mark.parametrize("family", UNCOMMON)
def test_what_needs_the_pattern_acts_or_is_refused_by_name(family, feature):
    model = uncommon(family)
    if family in ("gpt_neo", "gptj", "opt"):
        with pytest.raises(InputError) as caught:
            NEEDS_PATTERN[feature](model)
        assert str(caught.value).startswith(f"{feature} would do nothing on this {type(model.original_model).__name__}")
        assert "; use " in str(caught.value)
        return
    found = NEEDS_PATTERN[feature](model)
    values = found.scores if hasattr(found, "scores") else found.total
    assert float(values.abs().max()) > 1e-4


@pytest.mark.parametrize("family", ["gpt_neo", "gptj", "opt"])
def test_norms_can_still_be_frozen_and_activations_patched_there(family):
    model = uncommon(family)
    assert largest(patch(model, moved(model, size=0.05), *QUESTION, what="head")) > 1e-4
    assert largest(ablate(model, *QUESTION, what="head")) > 1e-4


def only_late(wrap):
    """A model, and a copy whose last MLP alone differs."""
    before, _ = models("llama", wrap)
    late = clone(before)
    with torch.no_grad():
        for weight in late.blocks[1].mlp.parameters():
            weight.mul_(1.5)
    return before, late


@pytest.mark.parametrize("wrap", ["hooked", "bridge"])
def test_what_is_equal_in_two_models_that_differ_elsewhere_is_refused(wrap):
    before, late = only_late(wrap)
    with pytest.raises(InputError, match=r"^what='resid_pre' changes nothing: these activations are equal.*graft_map"):
        patch(before, late, *QUESTION, what="resid_pre")
    with pytest.raises(InputError, match=r"^restore='moved' changes nothing: no head reads any token differently"):
        key_path(before, late, *QUESTION, keys=[1, 2])
    with pytest.raises(InputError, match=r"weights='blocks\.0\.\*' changes nothing.*others differ, e\.g\. 'blocks\.1"):
        graft(late, before, "blocks.0.*")
    assert largest(patch(before, late, *QUESTION, what="mlp")) > 1e-3
    assert largest(graft_map(before, late, *QUESTION, unit="layer")) > 1e-3


def test_a_graft_by_matrix_is_refused_if_blocks_are_equal():
    before, _ = models("llama", "hooked")
    other = clone(before)
    with torch.no_grad():
        other.unembed.W_U.mul_(1.1)
    with pytest.raises(InputError, match=r"unit='matrix' changes nothing.*others differ, e\.g\. 'unembed"):
        graft_map(before, other, *QUESTION)
    assert largest(graft_map(before, other, *QUESTION, unit="layer")) > 1e-3


def test_every_replaced_activation_goes_through_the_check(monkeypatch):
    """An intervention that forgets to check its hooks is caught where activations are replaced."""
    from unpact_lens.decomposition.intervene import Edit, answer_log_probs
    from unpact_lens.models.asking import Asking

    model = uncommon("gptj")
    example = Asking().encode(model, *QUESTION)
    assert "blocks.0.attn.hook_pattern" in hooked.hook_points(model)
    with pytest.raises(InputError, match="the intervention would do nothing on this GPTJForCausalLM"):
        answer_log_probs(model, example, [[Edit("blocks.0.attn.hook_pattern", (), 0.0)]])
