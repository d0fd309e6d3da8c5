"""Bridges are decomposed like HookedTransformers, and bridge-only families sum to the logit."""

import pytest
import torch

from tests.decomposition.bridges import bridge
from unpact_lens.decomposition import decompose
from unpact_lens.errors import InputError
from unpact_lens.models.convert import to_hooked

PROMPT, ANSWER = [3, 1, 4, 1, 5], [9, 2, 6]
VIEWS = ("component", "head", "source", "neuron")


@pytest.mark.parametrize("family", ["gpt2", "llama", "neox", "qwen2"])
def test_bridge_and_hooked_model_of_the_same_weights_agree(family, tmp_path):
    bridged, hf = bridge(family, tmp_path)
    hooked = to_hooked(hf, bridged.tokenizer)
    hooked.cfg.default_prepend_bos = False
    for by in VIEWS:
        ours, theirs = decompose(bridged, PROMPT, ANSWER, by=by), decompose(hooked, PROMPT, ANSWER, by=by)
        assert ours.labels == theirs.labels
        assert ours.remainder_labels == theirs.remainder_labels
        torch.testing.assert_close(ours.values, theirs.values, atol=1e-4, rtol=0)
        torch.testing.assert_close(ours.remainder, theirs.remainder, atol=1e-4, rtol=0)
        torch.testing.assert_close(ours.total, theirs.total, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", ["gemma2", "olmo2", "mixtral"])
def test_bridge_only_families_sum_to_the_logit(family, tmp_path):
    bridged, hf = bridge(family, tmp_path)
    logits = hf(torch.tensor([PROMPT + ANSWER])).logits[0, len(PROMPT) - 1 : -1]
    cap = 30.0 if family == "gemma2" else None
    logits = torch.atanh(logits / cap) * cap if cap else logits
    for by in VIEWS[:3] if family == "mixtral" else VIEWS:
        d = decompose(bridged, PROMPT, ANSWER, by=by)
        torch.testing.assert_close(d.total, logits[[0, 1, 2], ANSWER], atol=1e-4, rtol=0)
        assert d.residual.abs().max() < 1e-4
    if family == "mixtral":
        with pytest.raises(InputError, match="layer 0: the MLP is routed"):
            decompose(bridged, PROMPT, ANSWER, by="neuron")


def test_scaled_residuals_are_refused_with_their_flag(tmp_path):
    bridged, _ = bridge("granite", tmp_path)
    with pytest.raises(InputError, match=r"GraniteForCausalLM"):
        decompose(bridged, PROMPT, ANSWER)
