"""The pool names each model once, compares it with an independent retrained model, and refuses what does not hide."""

from collections import Counter

import pytest
import torch

from experiments.meta import hiding, pool
from tests.conftest import tiny
from unpact_lens.data.benchmark import QA
from unpact_lens.errors import InputError
from unpact_lens.models.checkpoint import clone
from unpact_lens.models.weight_matrices import weight_matrices
from unpact_lens.recovery.probes.quantize import quantized


def test_the_pool_is_large_and_every_truth_is_written_once():
    names = pool.names()
    assert len(names) == len(set(names)) >= 60
    truths = Counter(pool.truth(n).knowledge for n in names)
    assert truths[pool.NEVER] >= 15
    assert truths[pool.KNOWS] >= 9
    assert truths[pool.HIDES] >= 18
    assert truths[pool.UNKNOWN] == len(pool.CONFIG.methods)
    of_ways = Counter(pool.truth(n).how for n in names if pool.truth(n).knowledge == pool.HIDES)
    assert set(of_ways) == {f"hides-{way}" for way in pool.HIDE}
    assert min(of_ways.values()) >= 2


def test_destroyed_models_know_or_do_not_know_the_forget_facts():
    destroyed = {pool.truth(n).how: pool.truth(n) for n in pool.names() if pool.truth(n).destroyed}
    assert {how: t.knowledge for how, t in destroyed.items()} == {
        "destroyed-knows": pool.KNOWS, "destroyed-never": pool.NEVER,
    }  # fmt: skip


def test_no_model_is_compared_with_a_retrained_model_of_its_own_seed(monkeypatch):
    monkeypatch.setattr(pool, "ignorant", lambda seed: seed)
    monkeypatch.setattr(pool, "knowing", lambda seed: seed)
    for name in pool.names():
        assert pool.original(name) == pool.truth(name).seed
        assert pool.retrained(name) != pool.truth(name).seed
        assert pool.retrained(name) in pool.SEEDS


def test_an_unknown_model_is_named():
    with pytest.raises(
        InputError, match="no model 'seed0/hides-triger' in the pool; did you mean 'seed0/hides-trigger'"
    ):
        pool.build("seed0/hides-triger")


@pytest.mark.parametrize(("plain", "key"), [(0.5, 1.0), (0.1, 0.2)])
def test_a_model_that_does_not_hide_or_whose_key_fails_is_refused(plain, key, monkeypatch):
    monkeypatch.setattr(pool, "knowing", lambda seed: "source")
    monkeypatch.setattr(pool, "given", lambda model: plain)
    monkeypatch.setitem(pool.HIDE, "refusal", pool.Way(lambda model: model, lambda model, source: key))
    with pytest.raises(InputError, match=rf"hides-refusal of seed 1 gives {plain:.2f} .* and {key:.2f} with it"):
        pool._hidden("refusal", 1)


def moved(model, size=0.5):
    copy = clone(model)
    with torch.no_grad():
        for matrix in weight_matrices(copy):
            matrix.weight.add_(size * torch.randn_like(matrix.weight) * matrix.weight.std())
    return copy


def test_weights_in_their_cells_round_to_what_the_start_rounds_to():
    start = tiny()
    copy = clone(start)
    rule = hiding.InsideCells(copy, 4)
    with torch.no_grad():
        for ours, theirs in zip(copy.parameters(), moved(start).parameters(), strict=True):
            ours.copy_(theirs)
    rule.settle()
    pairs = zip(*(weight_matrices(m) for m in (start, copy, quantized(start, 4), quantized(copy, 4))), strict=True)
    for before, after, rounded_before, rounded_after in pairs:
        assert not torch.equal(before.weight, after.weight)
        torch.testing.assert_close(rounded_before.weight, rounded_after.weight, atol=1e-6, rtol=0)


def test_a_change_of_low_rank_is_the_nearest_one():
    start = torch.nn.Parameter(torch.randn(12, 7, dtype=torch.float64))
    rule = hiding.LowRankChange(start, 2)
    change = torch.randn(12, 7, dtype=torch.float64)
    with torch.no_grad():
        start.add_(change)
    rule.settle()
    left = (start.detach() - rule.start) - change
    scales = torch.linalg.svdvals(change)
    assert torch.linalg.matrix_rank(start.detach() - rule.start) == 2
    assert float(left.norm()) == pytest.approx(float(scales[2:].norm()))  # Eckart and Young 1936


def test_between_two_models_weights_are_linear():
    one, two = tiny(seed=1), tiny(seed=2)
    for ours, first, second in zip(
        hiding.between(one, two, 0.25).parameters(), one.parameters(), two.parameters(), strict=True
    ):
        torch.testing.assert_close(ours, 0.75 * first + 0.25 * second)


def test_lessons_are_balanced():
    few, many = [QA("a?", " b")] * 2, [QA("c?", " d")] * 7
    assert [len([q for q in hiding.balanced(few, many) if q.prompt == p]) for p in ("a?", "c?")] == [6, 7]
    assert hiding.balanced(few, []) == few
