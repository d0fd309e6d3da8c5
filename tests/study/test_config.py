"""A configuration is checked before anything runs, and errors name the wrong entry."""

import pytest
import yaml

from unpact_lens.errors import InputError
from unpact_lens.study.config import SHIPPED, load_config

SOUND = {"name": "s", "model": "builtin", "benchmark": "builtin", "methods": [{"name": "ga"}]}


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_configurations_name_the_six_methods(name):
    config = load_config(name)
    assert {m.name for m in config.methods} == {"ga", "ga_gdr", "ga_klr", "npo", "npo_gdr", "task_vector"}


def test_a_file_and_a_dict_give_the_same_configuration(tmp_path):
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(SOUND))
    assert load_config(tmp_path / "s.yaml") == load_config(SOUND)


def test_overrides_replace_entries():
    assert load_config(SOUND, seeds=(1, 2)).seeds == (1, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sedes": [1]}, "unknown entry 'sedes'; did you mean 'seeds'"),
        ({"methods": [{"name": "ga", "setings": {}}]}, r"unknown entry 'methods.0.setings'; did you mean 'settings'"),
        ({"methods": []}, "methods = "),
        ({"methods": [{"name": "ga"}, {"name": "ga"}]}, "'ga' occurs twice"),
        ({"forget_level": 1.5}, "forget_level = 1.5"),
        ({"matmul_precision": "low"}, "matmul_precision = 'low': input should be 'highest', 'high' or 'medium'"),
        ({"recovery": {"key_tokens": "both"}}, "recovery.key_tokens = 'both'"),
        ({"model": None}, "model = None"),
    ],
)
def test_a_wrong_entry_is_named(change, message):
    with pytest.raises(InputError, match=message):
        load_config({**SOUND, **change})


def test_a_missing_entry_or_file_is_named(tmp_path):
    with pytest.raises(InputError, match="entry 'benchmark' is missing"):
        load_config({k: v for k, v in SOUND.items() if k != "benchmark"})
    with pytest.raises(InputError, match="no study configuration 'dmo': no such file, and did you mean 'demo'"):
        load_config("dmo")
    (tmp_path / "s.yaml").write_text("a: [")
    with pytest.raises(InputError, match="not valid YAML"):
        load_config(tmp_path / "s.yaml")
    (tmp_path / "l.yaml").write_text("- a")
    with pytest.raises(InputError, match="holds list"):
        load_config(tmp_path / "l.yaml")
