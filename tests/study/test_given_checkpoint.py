"""A study measures checkpoints that someone else unlearned beside the methods that it trains."""

import pytest

import unpact_lens as ul
from tests.study.small_study import METHODS, small_config
from unpact_lens.models.checkpoint import save_model
from unpact_lens.study.given_checkpoint import checkpoint_identity


@pytest.fixture(scope="module")
def vendor(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vendor") / "v2"
    save_model(ul.load_model("builtin-retrain"), folder)
    return folder


def test_a_checkpoint_is_one_cell_beside_the_methods(vendor, tmp_path):
    methods = [{"checkpoint": str(vendor), "name": "vendor_v2"}, METHODS[0]]
    config = ul.load_config(small_config(tmp_path, methods=methods, seeds=[3, 4]))
    study = ul.run_study(config, tmp_path / "study", progress=False)
    assert [(c.method, c.seed) for c in study.cells] == [("vendor_v2", 3), ("ga", 3), ("ga", 4)]
    cell = study.cells[0]
    retrained = ul.evaluate(ul.load_model("builtin-retrain"), load_bench(tmp_path), before=ul.load_model("builtin"))
    assert cell.scores.forgetting.value == retrained.forgetting.value
    assert cell.history.rows == ()
    assert cell.stopped == "the model was given"
    assert "its training is not known" in (tmp_path / "study" / "report.html").read_text()


def load_bench(folder):
    return ul.load_benchmark("pairs", path=folder / "facts.json", max_new_tokens=16)


def test_other_weights_at_the_same_path_are_another_cell(vendor, tmp_path):
    before = checkpoint_identity(str(vendor))
    other = tmp_path / "v2"
    save_model(ul.load_model("builtin"), other)
    assert checkpoint_identity(str(other)) != before


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ([{"checkpoint": "/nowhere/at/all", "name": "x"}], "no directory '/nowhere/at/all'"),
        ([{"checkpoint": "/tmp", "name": "x"}], "'/tmp' holds no model"),
        ([{"checkpoint": "builtin", "settings": {"lr": 1}}], "is given and not trained, so it has no settings"),
        ([{"checkpoint": "builtin", "name": "a/b"}], "may hold letters, digits"),
        (["npo_grd"], "did you mean 'npo_gdr'"),
    ],
)
def test_a_wrong_checkpoint_is_named_before_any_work(methods, message, tmp_path):
    with pytest.raises(ul.InputError, match=message):
        ul.load_config(small_config(tmp_path, methods=methods))


def test_a_text_is_a_method_with_its_defaults(tmp_path):
    assert ul.load_config(small_config(tmp_path, methods=["npo_gdr"])).methods[0].name == "npo_gdr"
