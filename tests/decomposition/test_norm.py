"""A norm at frozen scale is linear, and `pull_back` is its transpose."""

from types import SimpleNamespace

import pytest
import torch

from tests.conftest import tiny
from unpact_lens.decomposition.norm import Norm, bias_along, norm_of, normalise, pull_back
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


def bridged(kind, *, rms=False, offset=False, inner="LayerNorm", **weights):
    """A module of a bridge's class, with the weights of the module that it wraps."""
    original = type(inner, (), weights)()
    config = SimpleNamespace(rmsnorm_uses_offset=offset)
    return type(kind, (), {"uses_rms_norm": rms, "original_component": original, "config": config})()


GAMMA, BETA = torch.tensor([1.5, -0.5]), torch.tensor([0.25, 2.0])


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (bridged("NormalizationBridge", weight=GAMMA, bias=BETA), (True, True, GAMMA, BETA)),
        (bridged("NormalizationBridge", weight=GAMMA), (True, True, GAMMA, None)),
        (bridged("NormalizationBridge"), (True, True, None, None)),
        (bridged("NormalizationBridge", rms=True, weight=GAMMA, bias=BETA), (False, True, GAMMA, None)),
        (bridged("RMSNormalizationBridge", rms=True, weight=GAMMA), (False, True, GAMMA, None)),
        (bridged("RMSNormalizationBridge", rms=True, offset=True, weight=GAMMA), (False, True, 1 + GAMMA, None)),
        (bridged("RMSNormalizationBridge", rms=True, offset=True), (False, True, None, None)),
        (bridged("NormalizationBridge", inner="Identity", weight=GAMMA, bias=BETA), (False, False, None, None)),
        (bridged("LayerNormPreBridge"), (True, True, None, None)),
        (bridged("RMSNormPreBridge"), (False, True, None, None)),
        (bridged("LayerNormPre"), (True, True, None, None)),
        (bridged("RMSNormPre"), (False, True, None, None)),
        (lambda x: x, (False, False, None, None)),
    ],
)
def test_the_weights_of_each_kind_of_norm_are_read(module, expected):
    norm = norm_of(module, "ln_final")
    assert (norm.centres, norm.scales) == expected[:2]
    for found, wanted in zip((norm.weight, norm.bias), expected[2:], strict=True):
        assert (found is None) == (wanted is None)
        assert found is None or torch.equal(found, wanted)


def test_a_norm_without_a_setting_of_offsets_has_none():
    module = bridged("RMSNormalizationBridge", rms=True, weight=GAMMA)
    module.config = SimpleNamespace()
    assert torch.equal(norm_of(module, "ln_final").weight, GAMMA)


def test_batches_of_any_shape_are_normalised_along_the_last_axis():
    generator = torch.Generator().manual_seed(2)
    part, u = torch.randn(2, 3, 4, 2, dtype=torch.float64, generator=generator)
    norm = Norm(True, True, GAMMA.double(), BETA.double())
    scale = 0.5 + torch.rand(3, 4, 1, dtype=torch.float64, generator=generator)
    for i in range(3):
        for j in range(4):
            at = slice(j, j + 1)
            assert torch.equal(normalise(norm, part, scale)[i, at], normalise(norm, part[i, at], scale[i, at]))
            assert torch.equal(pull_back(norm, u, scale)[i, at], pull_back(norm, u[i, at], scale[i, at]))
    torch.testing.assert_close(bias_along(norm, u), u[..., 0] * 0.25 + u[..., 1] * 2.0)
    assert bias_along(Norm(True, True, None, None), u).shape == (3, 4)
