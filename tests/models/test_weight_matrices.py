"""Weight matrices are those of the source model's linear, Conv1D and expert modules, with the axis of their inputs."""

import pytest
import torch
from transformers.pytorch_utils import Conv1D

from tests.conftest import tiny
from tests.models.families import FAMILIES, UNCOMMON, hf_model, tokenizer, uncommon_hf_model
from unpact_lens.errors import InputError
from unpact_lens.models.convert import to_bridge, to_hooked
from unpact_lens.models.weight_matrices import weight_matrices

FUSED = {"gpt2", "pythia", "bloom"}
"""Families with a fused query-key-value matrix, which a bridge replaces by three parts."""


def source(family):
    return uncommon_hf_model(family) if family in UNCOMMON else hf_model(family)


def outputs_of_source(hf):
    """Multiply each matrix of the plain Hugging Face model by ones, through its own module: one sum for each output."""
    found = []
    for name, module in hf.named_modules():
        if name.endswith(("lm_head", "embed_out")):
            continue
        if isinstance(module, (torch.nn.Linear, Conv1D)):
            width = module.in_features if isinstance(module, torch.nn.Linear) else module.nx
            found.append(module(torch.ones(width)) - (0 if module.bias is None else module.bias))
        elif type(module).__name__ == "MixtralExperts":
            for stack in (module.gate_up_proj, module.down_proj):
                found += [torch.nn.functional.linear(torch.ones(w.shape[1]), w) for w in stack]
    return torch.cat(found)


WRAPS = [*((f, "bridge") for f in (*FAMILIES, *UNCOMMON)), *((f, "hooked") for f in FAMILIES)]


@pytest.mark.parametrize(("family", "wrap"), WRAPS)
def test_sums_over_the_inputs_are_those_of_the_source_models_modules(family, wrap):
    hf = source(family)
    model = to_bridge(hf, tokenizer()) if wrap == "bridge" else to_hooked(hf, tokenizer())
    found = torch.cat([m.weight.sum(m.inputs).flatten() for m in weight_matrices(model)])
    expected = outputs_of_source(hf)
    if wrap == "bridge" and family in FUSED:  # both the parts and what they replace are listed
        assert set(found.round(decimals=3).tolist()) == set(expected.round(decimals=3).tolist())
    else:
        torch.testing.assert_close(found.sort().values, expected.sort().values, atol=1e-4, rtol=0)


@pytest.mark.hooked
def test_embeddings_norms_biases_and_the_unembedding_are_left_out(style):
    model = tiny(style)
    names = {m.name for m in weight_matrices(model)}
    assert names == {k for k, v in model.named_parameters() if k.startswith("blocks.") and v.ndim > 1 and "b_" not in k}


def test_a_model_without_matrices_is_refused():
    class Bare(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.unembed = torch.nn.Linear(3, 4)

    with pytest.raises(InputError, match="no weight matrix found in this Bare"):
        weight_matrices(Bare())


def test_a_stack_of_unknown_layout_is_named():
    class Experts(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.num_experts, self.up = 2, torch.nn.Parameter(torch.zeros(2, 3, 5))

    model = torch.nn.ModuleDict({"unembed": torch.nn.Linear(3, 4), "experts": Experts()})
    model.unembed = model["unembed"]
    with pytest.raises(InputError, match=r"Experts\.up is a stack of matrices of shape \(2, 3, 5\), and which axis"):
        weight_matrices(model)
