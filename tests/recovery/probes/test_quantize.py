"""Rounded weights lie on a grid of 2^b - 1 steps for each channel. Only matrices of blocks are rounded."""

import pytest
import torch

from tests.conftest import tiny
from unpact_lens.errors import InputError
from unpact_lens.recovery.probes.quantize import quantized, round_to_bits


def test_rounding_equals_a_computation_by_hand():
    weight = torch.tensor([[7.0, 0.0], [1.4, 0.0], [-3.6, 0.0]])
    assert round_to_bits(weight, 4, 0).tolist() == [[7.0, 0.0], [1.0, 0.0], [-4.0, 0.0]]


@pytest.mark.parametrize("bits", [8, 4])
def test_no_weight_moves_by_more_than_half_a_step(bits):
    weight = torch.randn(6, 5, dtype=torch.float64)
    step = weight.abs().amax(0) / (2 ** (bits - 1) - 1)
    assert bool(((round_to_bits(weight, bits, 0) - weight).abs() <= step / 2 + 1e-12).all())


def test_only_matrices_of_blocks_are_rounded(style):
    model = tiny(style)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    after = quantized(model, 4)
    moved = {k for k, v in after.named_parameters() if not torch.equal(v, before[k])}
    matrices = {k for k, v in model.named_parameters() if k.startswith("blocks.") and "W_" in k}
    assert moved == matrices
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())  # the original is untouched


@pytest.mark.parametrize("bits", [1, 17])
def test_a_number_of_bits_out_of_range_is_refused(bits):
    with pytest.raises(InputError, match=f"bits={bits}; give a whole number from 2 to 16"):
        quantized(tiny(), bits)
