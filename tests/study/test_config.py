"""A configuration is checked before anything runs, and errors name the wrong entry."""

import pytest
import yaml

from unpact_lens.errors import InputError
from unpact_lens.study.config import SHIPPED, config_schema, load_config

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
        ({"batch_tokens": 0}, "batch_tokens = 0: input should be greater than or equal to 1"),
        ({"batch_tokens": True}, "batch_tokens = True: input should be a valid integer"),
        ({"batch_tokens": "64"}, "batch_tokens = '64': input should be a valid integer"),
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


MISTAKEN = """\
name: s
model: builtin
benchmark: bultin
benchmark_options: {seed: 0}
sedes: [1]
seeds: [0, 0]
forget_level: 1.5
name: twice
methods:
  - name: npo_grd
  - name: ga
    settings:
      larning_rate: 1e-5
      lr: 1e-5
recovery:
  headline: focus
  probes: [prefil]
"""


def test_all_mistakes_are_listed_at_once_with_their_lines(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(MISTAKEN)
    with pytest.raises(InputError) as caught:
        load_config(path)
    first, *lines = str(caught.value).splitlines()
    assert first == f"{path} has {len(lines)} mistakes:"
    expected = {
        3: "did you mean 'builtin'", 5: "unknown entry 'sedes'; did you mean 'seeds'", 6: "seed 0 occurs twice",
        7: "forget_level = 1.5", 8: "entry 'name' is written twice", 10: "did you mean 'npo_gdr'",
        13: "ga: unknown setting 'larning_rate'", 16: "focus", 17: "prefil",
    }  # fmt: skip
    found = {int(line.split(":")[0].split()[1]): line for line in lines}
    assert list(found) == sorted(found)
    assert found.keys() == expected.keys()
    for number, text in expected.items():
        assert text in found[number]


def test_one_mistake_is_one_line_with_its_number(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump({**SOUND, "seeds": [1, 2, 1]}))
    number = 1 + path.read_text().splitlines().index("seeds:")
    with pytest.raises(InputError) as caught:
        load_config(path)
    assert str(caught.value) == f"{path}, line {number}: seeds = [1, 2, 1]: seed 1 occurs twice"


@pytest.mark.parametrize("number", ["1e-5", "1.0e-5", "1E-5", "+1e-5", "10e-6"])
def test_a_number_with_an_exponent_is_a_number(tmp_path, number):
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump(SOUND).replace("- name: ga", f"- {{name: ga, settings: {{lr: {number}}}}}"))
    assert load_config(path).methods[0].settings["lr"] == pytest.approx(1e-5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x [1]\nb: *x\n", r"line 2: the alias \*x is not read"),
        ("a: " + "[" * 60 + "]" * 60, "nests entries too deep"),
        ("a: " + "[" * 100_000, "nests entries too deep|not valid YAML"),
        ("a: '" + "x" * 1_000_001 + "'", "a configuration has at most"),
        ("a: !!python/object/apply:os.system ['true']", "not valid YAML"),
        ("a: 2024-13-45", "not valid YAML"),
    ],
)
def test_hostile_yaml_is_refused(tmp_path, text, message):
    path = tmp_path / "s.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        load_config(path)


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "s.yaml").write_bytes(b"\xff\xfe\x00name: s")
    with pytest.raises(InputError, match="cannot be read as UTF-8"):
        load_config(tmp_path / "s.yaml")


def test_the_schema_describes_every_entry_and_agrees_with_the_check():
    schema = config_schema()
    places = [schema, *schema["$defs"].values()]
    assert all(entry["description"] for place in places for entry in place["properties"].values())
    assert all(place["additionalProperties"] is False for place in places)
    assert set(schema["required"]) == {"name", "model", "benchmark", "methods"}
    assert "npo_gdr" in schema["$defs"]["MethodConfig"]["properties"]["name"]["examples"]
    assert schema["properties"]["forget_level"]["exclusiveMaximum"] == 1
