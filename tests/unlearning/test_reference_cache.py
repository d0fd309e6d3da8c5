"""References kept in memory or on disk give the same numbers, and are computed once."""

import pytest
import torch

from unpact_lens.errors import InputError
from unpact_lens.models.checkpoint import model_hash
from unpact_lens.unlearning import batch, reference_cache, unlearn
from unpact_lens.unlearning.reference_cache import INDEX, OnDisk, Store

ROWS = [torch.randn(n, 4, generator=torch.Generator().manual_seed(n)) for n in (3, 1, 5, 2)]
SIZE = sum(r.numel() * 4 for r in ROWS)


def found(order=(2, 0, 3, 1)):
    return ((i, ROWS[i]) for i in order)


def test_rows_that_fit_stay_in_memory_and_others_go_to_disk(tmp_path):
    inside = Store(SIZE, tmp_path).keep(found(), 4, SIZE, lambda: pytest.fail("no key is needed"))
    outside = Store(SIZE - 1, tmp_path).keep(found(), 4, SIZE, lambda: "key")
    assert isinstance(inside, list)
    assert isinstance(outside, OnDisk)
    assert len(outside) == 4
    for kept in (inside, outside, list(outside), outside[0:4]):
        assert all(torch.equal(a, b) for a, b in zip(kept, ROWS, strict=True))
    assert torch.equal(outside[-1], ROWS[-1])
    with pytest.raises(IndexError):
        outside[4]


def test_a_quarter_of_the_free_memory_is_the_limit_unless_one_is_given(monkeypatch):
    for free, kind in ((4 * SIZE, list), (4 * SIZE - 1, OnDisk)):
        monkeypatch.setattr(reference_cache, "free_memory", lambda device, free=free: free)
        assert isinstance(Store().keep(found(), 4, SIZE, lambda: "key"), kind)


def test_rows_are_spread_over_shards_of_bounded_size(tmp_path, monkeypatch):
    monkeypatch.setattr(reference_cache, "SHARD_BYTES", 60)
    kept = OnDisk.write(tmp_path, found())
    assert len(list(tmp_path.glob("*.safetensors"))) == 3  # 80 | 48 + 32 | 16 bytes
    assert not list(tmp_path.glob(".*.partial"))
    assert all(torch.equal(a, b) for a, b in zip(kept, ROWS, strict=True))


def test_rows_on_disk_are_computed_again_only_if_incomplete(tmp_path):
    store = Store(0, tmp_path)
    store.keep(found(), 4, SIZE, lambda: "key")
    assert torch.equal(store.keep(iter(()), 4, SIZE, lambda: "key")[2], ROWS[2])
    (tmp_path / "key" / INDEX).unlink()
    assert torch.equal(store.keep(found(), 4, SIZE, lambda: "key")[2], ROWS[2])


def test_temporary_rows_are_deleted_with_their_last_reader():
    kept = Store(0).keep(found(), 4, SIZE, lambda: "key")
    folder = kept.directory
    assert torch.equal(kept[1], ROWS[1])
    del kept
    assert not folder.exists()


@pytest.mark.parametrize("method", ["ga_klr", "undial", "rmu", "whp"])
def test_training_from_disk_is_bitwise_the_same(method, learned, facts, tmp_path, monkeypatch):
    own = {"whp": {"reinforce_lr": 1e-3, "reinforce_steps": 2}}.get(method, {})
    settings = {"method": method, "steps": 3, "lr": 1e-3, "batch_size": 4, "progress": False, **own}
    plain = unlearn(learned, *facts, **settings)
    spilled = unlearn(learned, *facts, reference_mb=0, checkpoint=tmp_path, **settings)
    assert model_hash(spilled.model) == model_hash(plain.model)
    assert list((tmp_path / "references").glob(f"*/{INDEX}"))

    def never(*args):
        raise AssertionError("references are on disk already")
        yield

    (tmp_path / "state.json").unlink()
    monkeypatch.setattr(batch, "final_residuals", never)
    monkeypatch.setattr(batch.Examples, "_each_act", never)
    again = unlearn(learned, *facts, reference_mb=0, checkpoint=tmp_path, **settings)
    assert model_hash(again.model) == model_hash(plain.model)


def test_bad_input_is_refused_with_its_value(learned, facts):
    with pytest.raises(InputError, match=r"reference_mb=-1; give a finite number of at least 0, or None"):
        unlearn(learned, *facts, reference_mb=-1, progress=False)
