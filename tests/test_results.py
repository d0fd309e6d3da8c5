"""Saved results are loaded without loss, and writing is atomic."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from unpact_lens.data.benchmark import QA
from unpact_lens.errors import InputError
from unpact_lens.results import Result, digest, load, save


@dataclass(frozen=True, eq=False)
class Everything(Result):
    tensor: torch.Tensor
    nested: dict
    inner: Result | None = None


def sample() -> Everything:
    inner = Everything(torch.tensor([True, False]), {"empty": torch.zeros(0, 3)})
    nested = {
        "tuple": (1, 2.5, None, "text", [True, float("inf")]),
        "bf16": torch.randn(3, dtype=torch.bfloat16),
        "scalar": torch.tensor(2.0, dtype=torch.float64),
        "array": np.arange(4),
        "qa": QA("Where?", " Here.", fact_span=(1, 5)),
        "path": Path("a/b"),
    }
    return Everything(torch.randn(2, 3), nested, inner)


def test_save_and_load_are_lossless(tmp_path):
    result = sample()
    again = load(save(result, tmp_path / "r"))
    assert again == result
    assert torch.equal(again.nested["bf16"], result.nested["bf16"])
    assert again.nested["tuple"] == result.nested["tuple"]
    assert again.nested["qa"] == result.nested["qa"]


def test_results_with_one_different_number_are_not_equal(tmp_path):
    torch.manual_seed(0)
    one = sample()
    torch.manual_seed(0)
    other = sample()
    assert one == other
    other.tensor[0, 0] += 1
    assert one != other


def test_saving_again_replaces_the_result_and_deletes_its_files(tmp_path):
    save(sample(), tmp_path)
    second = sample()
    save(second, tmp_path)
    assert load(tmp_path) == second
    assert len(list(tmp_path.glob("tensors-*"))) == 1
    assert not list(tmp_path.glob(".*"))


def test_an_interrupted_save_keeps_the_old_result(tmp_path, monkeypatch):
    first = sample()
    save(first, tmp_path)

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    second = sample()
    with monkeypatch.context() as patch:
        patch.setattr("unpact_lens.results.json.dumps", killed)
        with pytest.raises(KeyboardInterrupt):
            save(second, tmp_path)
    assert load(tmp_path) == first


def test_versions_are_recorded(tmp_path):
    save(sample(), tmp_path)
    assert {"torch", "transformer-lens", "unpact-lens"} <= json.loads((tmp_path / "result.json").read_text())[
        "versions"
    ].keys()


def test_errors_name_the_invalid_input(tmp_path):
    with pytest.raises(InputError, match=r"result.json is missing; give the directory"):
        load(tmp_path)
    (tmp_path / "result.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        load(tmp_path)
    (tmp_path / "result.json").write_text('{"format": 99, "result": {}}')
    with pytest.raises(InputError, match="format 99"):
        load(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        save(sample(), tmp_path / "file")
    with pytest.raises(InputError, match=r"result.nested.x: a object cannot be saved"):
        save(Everything(torch.zeros(1), {"x": object()}), tmp_path / "o")
    with pytest.raises(InputError, match="has no figure"):
        sample().plot()


def test_a_single_value_cut_out_of_a_table_is_hashed(tmp_path):
    column = torch.zeros(1, 2)[:, 0]  # one element with stride 2
    assert digest({"x": column}) == digest({"x": torch.zeros(1)})
    assert digest({"x": torch.arange(6.0).view(3, 2)[:, 1]}) == digest({"x": torch.tensor([1.0, 3.0, 5.0])})
    assert digest({"x": torch.zeros(0)}) != digest({"x": torch.tensor(0.0)})
