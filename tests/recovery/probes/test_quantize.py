"""Rounded weights equal an independent round-to-nearest of the plain Hugging Face model, on every wrap and family."""

import pytest
import torch
from transformers.pytorch_utils import Conv1D

from tests.conftest import tiny
from tests.models.families import FAMILIES, UNCOMMON, hf_model, tokenizer, uncommon_hf_model
from unpact_lens.errors import InputError
from unpact_lens.models.checkpoint import model_hash
from unpact_lens.models.convert import to_bridge, to_hooked
from unpact_lens.recovery.probes.quantize import quantized, round_to_bits

WRAPS = [*((f, "bridge") for f in (*FAMILIES, *UNCOMMON)), *((f, "hooked") for f in FAMILIES)]


def test_rounding_equals_a_computation_by_hand():
    weight = torch.tensor([[7.0, 0.0], [1.4, 0.0], [-3.6, 0.0]])
    assert round_to_bits(weight, 4, 0).tolist() == [[7.0, 0.0], [1.0, 0.0], [-4.0, 0.0]]


@pytest.mark.parametrize("bits", [8, 4])
def test_no_weight_moves_by_more_than_half_a_step(bits):
    weight = torch.randn(6, 5, dtype=torch.float64)
    step = weight.abs().amax(0) / (2 ** (bits - 1) - 1)
    assert bool(((round_to_bits(weight, bits, 0) - weight).abs() <= step / 2 + 1e-12).all())


def round_rows(rows, levels):
    """Round each row to multiples of its own step; written anew, one output at a time."""
    for row in rows:
        step = row.abs().max().item() / levels
        row.copy_(torch.tensor([round(x / step) * step for x in row.tolist()]))


def rounded_source(hf, bits):
    """Round a Hugging Face model in place: linear layers by row, Conv1D by column, experts by row of each matrix."""
    levels = 2 ** (bits - 1) - 1
    with torch.no_grad():
        for name, module in hf.named_modules():
            if name in ("lm_head", "embed_out"):
                continue
            if isinstance(module, torch.nn.Linear):
                round_rows(module.weight, levels)
            elif isinstance(module, Conv1D):
                round_rows(module.weight.T, levels)
            elif type(module).__name__ == "MixtralExperts":
                for matrix in (*module.gate_up_proj, *module.down_proj):
                    round_rows(matrix, levels)
    return hf


@pytest.mark.parametrize(("family", "wrap"), WRAPS)
def test_logits_equal_those_of_the_source_model_rounded_independently(family, wrap):
    hf = uncommon_hf_model(family) if family in UNCOMMON else hf_model(family)
    model = to_bridge(hf, tokenizer()) if wrap == "bridge" else to_hooked(hf, tokenizer())
    tokens = torch.randint(320, (2, 12), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        plain = model(tokens, return_type="logits")
        found = quantized(model, 4)(tokens, return_type="logits")
        assert torch.equal(model(tokens, return_type="logits"), plain)  # the original is untouched
        expected = rounded_source(hf, 4)(tokens).logits
    assert (found - plain).abs().max() > 0.1
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=1e-3)  # sums in another order


@pytest.mark.hooked
def test_only_matrices_of_blocks_are_rounded(style):
    model = tiny(style)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    after = quantized(model, 4)
    moved = {k for k, v in after.named_parameters() if not torch.equal(v, before[k])}
    matrices = {k for k, v in model.named_parameters() if k.startswith("blocks.") and "W_" in k}
    assert moved == matrices
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())  # the original is untouched


@pytest.mark.hooked
def test_rounding_that_changes_no_weight_is_refused():
    model = tiny()
    hashed = model_hash(model)
    # Powers of two times integers up to 7 lie on a grid of 4 bits, whatever the largest of a channel is.
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "W_" in name:
                weight.copy_(torch.where(torch.arange(weight.numel()).reshape(weight.shape) % 2 == 0, 7.0, -3.0))
    assert model_hash(model) != hashed
    with pytest.raises(InputError, match="rounding to 4 bits changes no weight of this model; the weights are rounded"):
        quantized(model, 4)


@pytest.mark.parametrize("bits", [1, 17])
def test_a_number_of_bits_out_of_range_is_refused(bits):
    with pytest.raises(InputError, match=f"bits={bits}; give a whole number from 2 to 16"):
        quantized(tiny(), bits)
