"""An experiment is one study a variant, with the settings that the common search left."""

import pytest
import yaml

from unpact_lens.errors import InputError
from unpact_lens.study import load_experiment

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


def test_each_variant_gives_every_method_its_tuned_settings_and_the_variants_own(tmp_path):
    studies = load_experiment(written(tmp_path))
    assert list(studies) == ["one", "all"]
    assert [(m.name, m.settings) for m in studies["all"].methods] == [
        ("ga", {"lr": 1e-4, "phrasings": "all"}),
        ("npo", {"lr": 2e-4, "phrasings": "all"}),
    ]


def test_bad_input_is_named(tmp_path):
    with pytest.raises(InputError, match="has no settings for 'rmu'"):
        load_experiment(written(tmp_path, methods=["rmu"]))
    with pytest.raises(InputError, match="unknown entry 'variant'; did you mean 'variants'"):
        load_experiment(written(tmp_path, variant={}))
    with pytest.raises(InputError, match="no such file"):
        load_experiment(tmp_path / "none.yaml")
