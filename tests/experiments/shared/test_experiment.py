"""An experiment gives one study per variant, with the hyperparameters of the common search."""

import pytest
import yaml

from experiments.shared.experiment import load_experiment, tuned_settings
from unpact_lens.errors import InputError

TUNED = {"ga": {"lr": 1e-4, "search": {"trials": 6}}, "npo": {"lr": 2e-4}}
CONFIG = {
    "question": "?",
    "methods": ["ga", "npo"],
    "settings": "tuned.yaml",
    "variants": {"one": {"phrasings": "headline"}, "all": {"phrasings": "all"}},
    "study": {"name": "x", "model": "builtin", "benchmark": "builtin"},
}


def written(folder, **changes):
    (folder / "tuned.yaml").write_text(yaml.safe_dump(TUNED))
    (folder / "config.yaml").write_text(yaml.safe_dump({**CONFIG, **changes}, sort_keys=False))
    return folder / "config.yaml"


def test_each_variant_merges_tuned_hyperparameters_with_its_own(tmp_path):
    studies = load_experiment(written(tmp_path))
    assert list(studies) == ["one", "all"]
    assert [(m.name, m.settings) for m in studies["all"].methods] == [
        ("ga", {"lr": 1e-4, "phrasings": "all"}),
        ("npo", {"lr": 2e-4, "phrasings": "all"}),
    ]


def test_given_seeds_replace_those_of_the_file(tmp_path):
    path = written(tmp_path, study={**CONFIG["study"], "seeds": [0, 1, 2]})
    assert load_experiment(path)["one"].seeds == (0, 1, 2)
    assert load_experiment(path, [1])["one"].seeds == (1,)


def test_description_of_the_search_is_not_a_hyperparameter(tmp_path):
    written(tmp_path)
    assert tuned_settings(tmp_path / "tuned.yaml") == {"ga": {"lr": 1e-4}, "npo": {"lr": 2e-4}}


def test_bad_input_is_named_in_the_error(tmp_path):
    with pytest.raises(InputError, match="has no settings for 'rmu'"):
        load_experiment(written(tmp_path, methods=["rmu"]))
    with pytest.raises(InputError, match="unknown entry 'variant'; did you mean 'variants'"):
        load_experiment(written(tmp_path, variant={}))
    with pytest.raises(InputError, match="no such file"):
        load_experiment(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="no such file"):
        tuned_settings(tmp_path / "none.yaml")
