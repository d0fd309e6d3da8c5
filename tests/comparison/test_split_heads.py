"""The split of a head's Δ sums exactly and attributes it to what changed."""

from itertools import permutations

import pytest
import torch

from tests.comparison.models import FAMILIES, moved, pair
from tests.conftest import tiny
from tests.decomposition.bridges import bridge
from unpact_lens.comparison import diff, split_heads
from unpact_lens.comparison.split_heads import shapley
from unpact_lens.errors import InputError
from unpact_lens.models.checkpoint import clone
from unpact_lens.results import load, save

PROMPT, ANSWER = [3, 1, 4, 1, 5], [9, 2]
PATTERN, INPUT, OV, READOUT = range(4)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
@pytest.mark.parametrize("style", FAMILIES)
def test_the_four_shares_sum_to_the_heads_delta(style, dtype, tolerance):
    before, after = pair(style, dtype)
    split = split_heads(before, after, PROMPT, ANSWER, pattern_parts=True)
    d = diff(before, after, PROMPT, ANSWER, contributions=False, weights=False)
    close = {"atol": tolerance, "rtol": 0}
    torch.testing.assert_close(split.values.sum(0), d.delta_heads, **close)
    torch.testing.assert_close(split.delta, d.delta_heads, **close)
    torch.testing.assert_close(split.pattern_parts.sum(0), split.values[PATTERN], **close)
    assert (split.values.abs().amax((1, 2, 3)) > 1e-3).all()
    assert (split.pattern_parts.abs().amax((1, 2, 3)) > 1e-3).all()


def test_the_split_sums_with_norms_behind_sublayers():
    before, after = pair("llama", use_normalization_before_and_after=True)
    split = split_heads(before, after, PROMPT, ANSWER)
    d = diff(before, after, PROMPT, ANSWER, contributions=False, weights=False)
    torch.testing.assert_close(split.values.sum(0), d.delta_heads, atol=1e-10, rtol=0)


def test_the_split_sums_on_bridges(tmp_path):
    for family in ("llama", "gpt2", "neox", "qwen2", "gemma2", "olmo2"):
        before, _ = bridge(family, tmp_path / family)
        after = moved(before)
        split = split_heads(before, after, PROMPT, ANSWER, pattern_parts=True)
        d = diff(before, after, PROMPT, ANSWER, contributions=False, weights=False)
        torch.testing.assert_close(split.values.sum(0), d.delta_heads, atol=1e-4, rtol=0)
        torch.testing.assert_close(split.pattern_parts.sum(0), split.values[PATTERN], atol=1e-4, rtol=0)


def test_a_shapley_value_is_the_mean_gain_over_all_orders_of_play():
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(2, 2, 2, 2, 3, dtype=torch.float64, generator=generator)
    ours = torch.stack(shapley(lambda c: table[c], 4))
    expected = torch.zeros(4, 3, dtype=torch.float64)
    for order in permutations(range(4)):
        joined = [0, 0, 0, 0]
        for player in order:
            without = table[tuple(joined)]
            joined[player] = 1
            expected[player] += (table[tuple(joined)] - without) / 24
    torch.testing.assert_close(ours, expected, atol=1e-12, rtol=0)


def blamed(change, **overrides):
    """Shares and pattern parts when only `change` was done to a model without a final norm."""
    before = tiny("gpt2", normalization_type=None, n_layers=1, **overrides)
    with torch.no_grad():
        for weight in before.parameters():
            weight.mul_(0.5)
    after = clone(before)
    with torch.no_grad():
        change(after)
    return split_heads(before, after, PROMPT, ANSWER, pattern_parts=True)


@pytest.mark.parametrize(
    ("change", "player"),
    [
        (lambda m: m.blocks[0].attn.W_Q.mul_(1.5), PATTERN),
        (lambda m: m.blocks[0].attn.W_V.mul_(1.5), OV),
        (lambda m: m.blocks[0].attn.b_V.add_(0.5), OV),
        (lambda m: m.blocks[0].attn.W_O.mul_(1.5), OV),
        (lambda m: m.unembed.W_U.mul_(1.5), READOUT),
    ],
)
def test_a_single_changed_player_gets_the_whole_delta(change, player):
    split = blamed(change)
    assert split.delta.abs().max() > 1e-3
    torch.testing.assert_close(split.values[player], split.delta, atol=1e-12, rtol=0)
    others = [p for p in range(4) if p != player]
    assert torch.equal(split.values[others], torch.zeros_like(split.values[others]))


def test_pattern_parts_separate_weights_from_input():
    weights = blamed(lambda m: m.blocks[0].attn.W_K.mul_(1.5)).pattern_parts
    assert weights[0].abs().max() > 1e-3
    assert torch.equal(weights[1], torch.zeros_like(weights[1]))
    embedding = blamed(lambda m: m.embed.W_E.mul_(1.5))
    assert embedding.pattern_parts[1].abs().max() > 1e-4
    assert torch.equal(embedding.pattern_parts[0], torch.zeros_like(weights[0]))
    assert embedding.values[INPUT].abs().max() > 1e-3
    assert torch.equal(embedding.values[OV], torch.zeros_like(embedding.values[OV]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_model_against_its_copy_gives_exact_zeros(dtype, style):
    model = tiny(style, dtype=dtype)
    split = split_heads(model, clone(model), PROMPT, ANSWER, pattern_parts=True)
    assert not split.values.any()
    assert not split.pattern_parts.any()


def test_diff_includes_the_split_if_asked_for_and_saves_it(tmp_path):
    before, after = pair()
    d = diff(before, after, PROMPT, ANSWER, contributions=False, weights=False, split=True)
    assert d.split == split_heads(before, after, PROMPT, ANSWER)
    assert load(save(d, tmp_path / "d")) == d
    frame = d.split.to_frame()
    assert len(frame) == 12
    assert frame[["pattern", "input", "ov", "readout"]].sum(axis=1).to_list() == pytest.approx(frame["delta"].to_list())


def test_values_that_are_not_linear_in_the_input_raise_an_error():
    model = tiny()
    inner = model.blocks[1].attn.hook_v.forward
    model.blocks[1].attn.hook_v.forward = lambda v: inner(torch.tanh(v))
    with pytest.raises(InputError, match=r"layer 1: hook_v is not linear in the normed input"):
        split_heads(model, model, PROMPT, ANSWER)
    with pytest.raises(InputError, match=r"cfg\.n_layers is 3 before and 2 after"):
        split_heads(tiny(), tiny(n_layers=2), PROMPT, ANSWER)
