"""A norm at frozen scale is linear, and `pull_back` is its transpose."""

import pytest
import torch

from tests.conftest import tiny
from unpact_lens.decomposition.norm import bias_along, norm_of, normalise, pull_back
from unpact_lens.errors import InputError

KINDS = [("gpt2", "LN"), ("gpt2", "LNPre"), ("llama", "RMS"), ("llama", "RMSPre")]


@pytest.fixture(params=KINDS, ids=[k for _, k in KINDS])
def module(request):
    style, kind = request.param
    return tiny(style, normalization_type=kind).ln_final


def run(module, x):
    """The module's output and the scale it used."""
    scales = []
    module.hook_scale.add_hook(lambda scale, hook: scales.append(scale))
    out = module(x[None])[0]
    return out, scales[0][0]


def test_normalised_parts_plus_bias_equal_the_module(module):
    parts = torch.randn(4, 6, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    out, scale = run(module, parts.sum(0))
    norm = norm_of(module, "ln_final")
    total = sum(normalise(norm, part, scale) for part in parts)
    if norm.bias is not None:
        total = total + norm.bias
    torch.testing.assert_close(total, out, atol=1e-12, rtol=0)


def test_pull_back_is_the_transpose(module):
    generator = torch.Generator().manual_seed(1)
    part, u = torch.randn(2, 6, 32, dtype=torch.float64, generator=generator)
    scale = 0.5 + torch.rand(6, 1, dtype=torch.float64, generator=generator)
    norm = norm_of(module, "ln_final")
    ours = (part * pull_back(norm, u, scale)).sum(-1)
    torch.testing.assert_close(ours, (normalise(norm, part, scale) * u).sum(-1), atol=1e-12, rtol=0)


def test_an_identity_changes_nothing_and_adds_nothing():
    norm = norm_of(torch.nn.Identity(), "ln_final")
    x = torch.randn(3, 8)
    assert torch.equal(normalise(norm, x, torch.full((3, 1), 7.0)), x)
    assert torch.equal(pull_back(norm, x, torch.full((3, 1), 7.0)), x)
    assert torch.equal(bias_along(norm, x), torch.zeros(3))


def test_a_norm_of_unknown_kind_is_named():
    with pytest.raises(InputError, match=r"blocks\.1\.ln1 is a BatchNorm1d, which is not known to be linear"):
        norm_of(torch.nn.BatchNorm1d(4), "blocks.1.ln1")
