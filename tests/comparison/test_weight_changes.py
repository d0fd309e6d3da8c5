"""Weight changes equal their closed forms."""

import importlib
import math

import pytest
import torch

from tests.comparison.models import moved
from tests.conftest import tiny
from unpact_lens.comparison import weight_changes
from unpact_lens.comparison.weight_changes import as_matrix, effective_rank, singular_values
from unpact_lens.errors import InputError
from unpact_lens.models.checkpoint import clone


def row(changes, name):
    i = changes.names.index(name)
    return {k: v[i].item() for k, v in vars(changes).items() if k not in ("names", "floor")}


def test_a_rank_one_change_has_effective_rank_one():
    before = tiny("llama")
    after = clone(before)
    u, v = torch.randn(2, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        after.blocks[1].mlp.W_in.add_(torch.outer(u[:32], v))
    changes = weight_changes(before, after)
    changed = row(changes, "blocks.1.mlp.W_in")
    size = (u[:32].norm() * v.norm()).item()
    assert changed["norm_delta"] == pytest.approx(size)
    assert changed["spectral"] == pytest.approx(size)
    assert changed["effective_rank"] == pytest.approx(1, abs=1e-6)
    assert changed["relative"] == pytest.approx(size / before.blocks[1].mlp.W_in.norm().item())
    assert (changes.norm_delta > 0).sum() == 1


def test_unchanged_weights_have_cosine_one_and_zero_weights_no_relative_change():
    changes = weight_changes(tiny("llama"), tiny("llama"))
    same = row(changes, "blocks.0.mlp.W_in")
    assert (same["relative"], same["cosine"], same["spectral"]) == (0, 1, 0)
    assert math.isnan(same["effective_rank"])
    zero = row(changes, "blocks.0.attn.b_Q")
    assert math.isnan(zero["relative"])
    assert zero["cosine"] == 1


@pytest.mark.hooked
def test_cosine_with_the_task_vector():
    before = tiny()
    after = moved(before)
    delta = {n: (w - v).detach() for (n, w), v in zip(after.named_parameters(), before.parameters(), strict=True)}
    task = {"blocks.0.mlp.W_in": -2 * delta["blocks.0.mlp.W_in"], "blocks.0.mlp.W_out": delta["blocks.1.mlp.W_out"]}
    changes = weight_changes(before, after, task_vector=task)
    assert row(changes, "blocks.0.mlp.W_in")["task_vector_cosine"] == pytest.approx(-1)
    assert abs(row(changes, "blocks.0.mlp.W_out")["task_vector_cosine"]) < 0.1
    assert math.isnan(row(changes, "blocks.2.mlp.W_out")["task_vector_cosine"])
    with pytest.raises(InputError, match=r"task vector W_up \(2,\) fits no weight"):
        weight_changes(before, after, task_vector={"W_up": torch.zeros(2)})


def test_effective_rank_counts_equal_singular_values():
    assert effective_rank(torch.tensor([3.0, 3.0, 3.0, 0.0])).item() == pytest.approx(3)


@pytest.mark.parametrize("shape", [(40, 70), (70, 40)])
def test_singular_values_of_large_matrices_equal_those_of_the_svd(shape, monkeypatch):
    matrix = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    exact = singular_values(matrix)
    module = importlib.import_module("unpact_lens.comparison.weight_changes")
    monkeypatch.setattr(module, "EXACT_SIDE", 8)
    fast = singular_values(matrix).sort(descending=True).values
    torch.testing.assert_close(fast, exact, atol=1e-7, rtol=0)


def test_a_matrix_holds_all_heads_side_by_side():
    """`x @ W_Q` of all heads at once, and `z @ W_O` summed over heads, are products with these matrices."""
    model = tiny()
    x, z = torch.randn(5, 32, dtype=torch.float64), torch.randn(5, 4, 8, dtype=torch.float64)
    W_Q, W_O = model.W_Q[0].detach(), model.W_O[0].detach()
    queries = torch.einsum("pd,hde->phe", x, W_Q).flatten(1)
    torch.testing.assert_close(x @ as_matrix("blocks.0.attn.W_Q", W_Q), queries)
    out = torch.einsum("phe,hed->pd", z, W_O)
    torch.testing.assert_close(z.flatten(1) @ as_matrix("blocks.0.attn.W_O", W_O), out)
    assert as_matrix("blocks.0.attn.b_Q", model.b_Q[0]).shape == (1, 32)
