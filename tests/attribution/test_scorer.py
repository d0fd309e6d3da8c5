"""Test the scorer: shared prefixes, duplicates, packing, and running out of memory."""

import itertools

import pytest
import torch

from tests.attribution.test_leave_one_out import random_ids
from tests.conftest import tiny
from tests.decomposition.bridges import bridge
from unpact_lens.attribution import attribute
from unpact_lens.attribution import scorer as scorer_module
from unpact_lens.attribution.scorer import LAUNCH_TOKENS, Scorer, cut, shared_positions
from unpact_lens.errors import InputError
from unpact_lens.models import hooked, kv_cache
from unpact_lens.models.tokens import encode
from unpact_lens.scoring import score_rows


def family(model, n, answer=(1, 2), seed=0):
    whole = encode(model, random_ids(n, seed), list(answer))
    return [whole, *(whole.without([i]) for i in range(n))]


def computed_tokens(monkeypatch):
    """Counts the input tokens of every forward pass."""
    seen = []

    def counting(function, argument):
        def counted(*args):
            seen.append(args[argument].numel())
            return function(*args)

        return counted

    monkeypatch.setattr(kv_cache, "logits_after", counting(kv_cache.logits_after, 3))
    monkeypatch.setattr(kv_cache, "logits_and_past", counting(kv_cache.logits_and_past, 1))
    monkeypatch.setattr(hooked, "logits_at", counting(hooked.logits_at, 1))
    return seen


def test_the_cut_has_the_least_cost_of_all_cuts():
    shared, lengths = [0, 3, 40, 41, 90], [100, 99, 100, 100, 98]

    def cost(chunks):
        return sum(LAUNCH_TOKENS + len(c) * (max(lengths[i] for i in c) - min(shared[i] for i in c)) for c in chunks)

    def cuts():
        for marks in itertools.product([False, True], repeat=4):
            chunks = [[0]]
            for i, mark in enumerate(marks, start=1):
                if mark:
                    chunks.append([i])
                else:
                    chunks[-1].append(i)
            yield chunks

    chunks, found = cut(shared, lengths)
    assert found == min(cost(c) for c in cuts()) == cost([c for _, c in chunks])
    assert all(start == min(shared[i] for i in members) for start, members in chunks)


def test_shared_positions_end_at_the_first_difference_and_before_the_answer():
    model = tiny()
    whole = encode(model, [5, 6, 7, 7], [7, 7, 7])
    assert [shared_positions(whole, whole.without([i])) for i in range(4)] == [0, 1, 2, 2]


def test_sharing_computes_far_fewer_tokens(monkeypatch):
    model = tiny()
    rows = family(model, 100)
    seen = computed_tokens(monkeypatch)
    shared = Scorer(model, batch_tokens=8192)([rows])[0]
    with_sharing = sum(seen)
    seen.clear()
    flat = Scorer(model, batch_tokens=8192, share_prefix=False)([rows])[0]
    # The least possible is what follows each deletion, half of everything.
    least = sum(len(r.ids) - 1 - shared_positions(rows[0], r) for r in rows[1:])
    assert least < with_sharing < 1.25 * least + 101 < 0.7 * sum(seen)
    torch.testing.assert_close(torch.stack(shared), torch.stack(flat), atol=1e-10, rtol=0)


def test_an_unattributed_prefix_is_computed_once(monkeypatch):
    model = tiny()
    whole = encode(model, random_ids(150), [1, 2])
    rows = [whole, *(whole.without([i]) for i in range(130, 150))]
    seen = computed_tokens(monkeypatch)
    found = Scorer(model, batch_tokens=8192)([rows])[0]
    assert sum(seen) < 151 + 20 * 21
    torch.testing.assert_close(torch.stack(found), torch.stack(score_rows(model, rows)), atol=1e-10, rtol=0)


def test_equal_rows_are_computed_once(monkeypatch):
    model = tiny()
    whole = encode(model, [7] * 12, [1])
    seen = computed_tokens(monkeypatch)
    Scorer(model)([[whole, *(whole.without([i]) for i in range(12))]])
    assert sum(seen) <= 12 + 12


@pytest.mark.parametrize("share", [True, False])
def test_out_of_memory_halves_the_batch_size_and_keeps_finished_rows(monkeypatch, share):
    model = tiny()
    families = [family(model, 60), family(model, 9, answer=(3,), seed=2)]
    expected = Scorer(model, share_prefix=share)(families)
    runs = []

    def tight(function, argument):
        def limited(*args):
            if args[argument].numel() > 300:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
            runs.append(args[argument].shape[0])
            return function(*args)

        return limited

    monkeypatch.setattr(kv_cache, "logits_after", tight(kv_cache.logits_after, 3))
    monkeypatch.setattr(hooked, "logits_at", tight(hooked.logits_at, 1))
    scorer = Scorer(model, batch_tokens=4000, share_prefix=share)
    found = scorer(families)
    assert scorer.batch_tokens == 250
    assert sum(runs) + share <= 61 + 10, "no row is computed twice"
    for a, b in zip(found, expected, strict=True):
        for x, y in zip(a, b, strict=True):
            torch.testing.assert_close(x, y, atol=1e-10, rtol=0)


def test_memory_too_small_for_one_row_is_an_error(monkeypatch):
    def full(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(hooked, "logits_at", full)
    with pytest.raises(RuntimeError, match="can't allocate"):
        Scorer(tiny(), batch_tokens=4000, share_prefix=False)([family(tiny(), 5)])


def test_train_mode_is_refused():
    with pytest.raises(InputError, match=r"train mode.*model.eval\(\)"):
        Scorer(tiny().train())


def test_a_batch_size_of_zero_is_refused():
    with pytest.raises(InputError, match="batch_tokens=0"):
        Scorer(tiny(), batch_tokens=0)


def test_a_device_without_half_precision_is_refused_with_a_fix(monkeypatch):
    def missing(*_):
        raise RuntimeError("\"addmm_impl_cpu_\" not implemented for 'Half'")

    model = tiny(dtype=torch.float16)
    monkeypatch.setattr(hooked, "logits_at", missing)
    with pytest.raises(InputError, match=r"float16, which cpu cannot compute with .*dtype=torch\.float32"):
        Scorer(model, share_prefix=False)([family(model, 5)])


@pytest.mark.parametrize("method", ["leave_one_out", "grad_norm", "attention_rollout", "value_zeroing", "ov"])
def test_scores_of_a_half_precision_model_are_in_single_precision(method):
    a = attribute(tiny(dtype=torch.bfloat16), [3, 1, 4], [1, 5], method=method)
    assert a.scores.dtype == torch.float32


def wrapped(name, folder):
    return bridge(name, folder)[0]


@pytest.mark.parametrize("name", ["gpt2", "llama", "neox", "olmo2", "mixtral"])
def test_packing_computes_only_differences_and_keeps_the_scores(name, tmp_path, monkeypatch):
    model = wrapped(name, tmp_path)
    rows = family(model, 40, answer=(1, 2, 3))
    seen = []
    packed = kv_cache.logits_packed

    def counting(*args):
        seen.extend(len(new) for row in args[2] for _, new in row)
        return packed(*args)

    monkeypatch.setattr(kv_cache, "logits_packed", counting)
    monkeypatch.setattr(scorer_module, "source_model", lambda _: None)
    found = Scorer(model)([rows])[0]
    least = sum(len(r.ids) - 1 - shared_positions(rows[0], r) for r in set(rows[1:]))
    assert sum(seen) == least
    # fp32: another order of summation.
    torch.testing.assert_close(torch.stack(found), torch.stack(score_rows(model, rows)), atol=1e-5, rtol=0)


def test_unknown_architectures_and_answers_of_different_length_are_not_packed(tmp_path, monkeypatch):
    monkeypatch.setattr(kv_cache, "logits_packed", lambda *_: pytest.fail("packed"))
    model = wrapped("gpt2", tmp_path)
    whole, *variants = family(model, 40)
    Scorer(model)([[whole, *variants, encode(model, random_ids(40), [1])]])
    monkeypatch.setattr(kv_cache, "PACKABLE", frozenset())
    Scorer(model)([[whole, *variants]])


def test_out_of_memory_keeps_finished_packed_rows(tmp_path, monkeypatch):
    model = wrapped("gpt2", tmp_path)
    rows = family(model, 40)
    expected = Scorer(model)([rows])[0]
    packed, done = kv_cache.logits_packed, []

    def tight(model, past, chosen, keep):
        if sum(len(new) for row in chosen for _, new in row) > 300:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        done.append(sum(len(row) for row in chosen))
        return packed(model, past, chosen, keep)

    monkeypatch.setattr(kv_cache, "logits_packed", tight)
    scorer = Scorer(model, batch_tokens=4000)
    found = scorer([rows])[0]
    assert scorer.batch_tokens == 250
    assert sum(done) == len(set(rows[1:])), "no row is computed twice"
    torch.testing.assert_close(torch.stack(found), torch.stack(expected), atol=1e-5, rtol=0)


def test_packing_fills_rows_and_splits_no_item():
    rows = kv_cache.pack([5, 1, 4, 2, 9], capacity=6)
    assert sorted(i for row in rows for i in row) == [0, 1, 2, 3, 4]
    assert [sum([5, 1, 4, 2, 9][i] for i in row) for row in rows] == [9, 6, 6]


@pytest.mark.parametrize("name", ["gpt2", "llama", "neox"])
def test_packing_is_exact_in_double_precision_with_an_exact_softmax(name, tmp_path, monkeypatch):
    model = wrapped(name, tmp_path).double()
    softmax = torch.nn.functional.softmax
    monkeypatch.setattr(torch.nn.functional, "softmax", lambda x, dim=-1, dtype=None: softmax(x, dim=dim))
    rows = family(model, 40, answer=(1, 2, 3))
    assert not kv_cache.can_pack(model)
    monkeypatch.setattr(kv_cache, "can_pack", lambda _: True)
    found = Scorer(model)([rows])[0]
    torch.testing.assert_close(torch.stack(found), torch.stack(score_rows(model, rows)), atol=1e-10, rtol=0)
