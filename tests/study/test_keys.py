"""The key of a part holds every leaf of the configuration that the part can depend on."""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from pydantic import BaseModel

import unpact_lens as ul
from tests.study.small_study import small_config
from unpact_lens.models import memory
from unpact_lens.models.fingerprint import model_fingerprint
from unpact_lens.source_hash import PACKAGE, UNHASHED, source_hash
from unpact_lens.study import keys, load_config
from unpact_lens.study.cells import cell_place, study_cell
from unpact_lens.study.config import StudyConfig
from unpact_lens.study.keys import CELL, EXCLUDED, PARTS, excluded, leaves, part_key, text_of
from unpact_lens.study.run_study import run_study
from unpact_lens.study.workspace import Workspace

FULL = {
    "name": "full", "model": "builtin", "wrap": "hooked", "load": {"device": "cpu", "dtype": "float32"},
    "control": "builtin-retrain", "benchmark": "builtin", "benchmark_options": {"seed": 0}, "unlearn_from": "questions",
    "retain_split": "auto", "split_seed": 3,
    "hold_out_phrasings": 1, "known_only": True,
    "methods": [{"name": "npo_gdr", "settings": {"lr": 1e-4, "steps": 6, "modules": ["blocks.0.*"]}}], "seeds": [0],
    "forget_level": 0.1, "epsilon": 0.1, "contributions": {"forget": 2, "retain": 1, "key_tokens": 2},
    "diff_examples": 1, "batch_tokens": 512, "save_models": True, "checkpoint_every": 7,
    "resources": {"cpus": 1, "gpus": 0.5, "memory_gb": 1.5}, "threads": 1, "matmul_precision": "high",
    "recovery": {
        "templates": ["focus_list", "quotes"], "headline": "focus_list", "key_tokens": "oracle",
        "probes": ["prefill"], "relearn": {"steps": 3}, "added": ["quantize_8"], "gain": 2.0,
    },
}  # fmt: skip
"""A configuration in which every entry has a value of its own."""

OTHER = {
    "model": "other", "wrap": "auto", "load.device": "cuda", "load.dtype": "bfloat16", "control": "other",
    "benchmark": "tofu", "retain_split": None, "unlearn_from": "corpus", "methods.0.name": "npo_klr",
    "methods.0.settings.modules.0": "x",
    "recovery.templates.0": "quotes",
    "recovery.templates.1": "doubled", "recovery.headline": "quotes", "recovery.key_tokens": "answer_free",
    "recovery.probes.0": "relearn", "recovery.added.0": "quantize_4", "matmul_precision": "medium", "name": "other",
}  # fmt: skip
"""Another value of each leaf that is no number."""


def entries_of(model, at=""):
    """Every entry that a configuration can have, nested models included."""
    for name, field in model.model_fields.items():
        nested = field.annotation
        if isinstance(nested, type) and issubclass(nested, BaseModel):
            yield from entries_of(nested, f"{at}{name}.")
        else:
            yield f"{at}{name}"


def config_of(entries):
    return StudyConfig.model_validate(entries)


def changed(leaf):
    """The full configuration with one leaf changed."""
    entries = config_of(FULL).model_dump(mode="json")
    *above, last = leaf.split(".")
    place = entries
    for part in above:
        place = place[int(part)] if isinstance(place, list) else place[part]
    old = place[int(last)] if isinstance(place, list) else place[last]
    new = OTHER.get(leaf, not old if isinstance(old, bool) else old / 2 if isinstance(old, float) else old)
    if new == old:
        new = old + 1
    place[int(last) if isinstance(place, list) else last] = new
    return config_of(entries)


# A checkpoint has no settings, so it cannot be changed alone; test_given_checkpoint.py covers it.
LEAVES = tuple(leaf for leaf in leaves(config_of(FULL).model_dump(mode="json")) if leaf != "methods.0.checkpoint")


def key_of(part, config):
    own = {"method": config.methods[0].model_dump(mode="json"), "seed": config.seeds[0]} if part == CELL else {}
    return part_key(part, config, model="m", control="c", data="d", **own)


def test_the_full_configuration_has_every_entry():
    given = {".".join(p for p in leaf.split(".") if not p.isdigit()) for leaf in LEAVES}
    for entry in entries_of(StudyConfig):
        assert any(g == entry or g.startswith(f"{entry}.") for g in given), entry


@pytest.mark.parametrize("leaf", LEAVES)
def test_a_changed_leaf_changes_the_key_of_each_part_or_is_on_its_list(leaf):
    before, after = config_of(FULL), changed(leaf)
    own_of_a_cell = leaf.startswith(("methods.", "seeds."))
    for part in PARTS:
        same = key_of(part, before) == key_of(part, after)
        assert same == (excluded(leaf, part) is not None and not (part == CELL and own_of_a_cell)), (part, leaf)


@pytest.mark.parametrize("fact", ["model", "data", "control"])
def test_another_model_or_other_data_change_the_key(fact):
    config = config_of(FULL)
    for part in PARTS:
        base = {"model": "m", "control": "c", "data": "d"}
        same = part_key(part, config, **base) == part_key(part, config, **{**base, fact: "x"})
        assert same == (fact == "control" and part not in keys.SEES_CONTROL)


def test_a_key_does_not_depend_on_the_free_memory_and_a_given_batch_size_counts(monkeypatch):
    def keys_of(batch_tokens):
        return [text_of(key_of(part, config_of({**FULL, "batch_tokens": batch_tokens}))) for part in PARTS]

    plenty = keys_of(None)
    assert all('"batch_tokens": null' in key for key in plenty)
    monkeypatch.setattr(memory, "free_memory", lambda device: 0)
    assert keys_of(None) == plenty
    assert all(a != b for a, b in zip(keys_of(4096), plenty, strict=True))


def test_another_source_or_library_changes_the_key(monkeypatch):
    before = key_of(CELL, config_of(FULL))
    monkeypatch.setattr(keys, "source_hash", lambda: "other")
    assert key_of(CELL, config_of(FULL)) != before
    monkeypatch.undo()
    monkeypatch.setattr(keys, "versions", lambda: {"torch": "0"})
    assert key_of(CELL, config_of(FULL)) != before


def test_every_exclusion_names_an_entry_and_has_a_reason():
    known = {e for entry in entries_of(StudyConfig) for e in (entry, entry.split(".")[0])}
    for exclusion in EXCLUDED:
        assert exclusion.entry in known
        assert len(exclusion.reason.split()) >= 4
        assert set(exclusion.parts) <= set(PARTS)


class Reads:
    """A configuration that notes which of its leaves are read."""

    def __init__(self, config, noted, at=""):
        self.__dict__.update(_config=config, _noted=noted, _at=at)

    def __getattr__(self, name):
        value = getattr(self._config, name)
        if name.startswith(("model_", "__")):
            return value
        if isinstance(value, BaseModel):
            return Reads(value, self._noted, f"{self._at}{name}.")
        self._noted.add(f"{self._at}{name}")
        return value


def test_no_part_reads_an_entry_that_its_key_leaves_out(tmp_path):
    """Make every part for real, and compare what it read of the configuration with its list of exclusions."""
    config = load_config(small_config(tmp_path, known_only=True))
    noted = set()
    space = Workspace(config, tmp_path / "out", lambda text: None)
    kept, read = space.kept, {}

    def recording(name, key, compute):
        part = "cell" if name.startswith("cells/") else name

        def watched():
            noted.clear()  # All parts that a part needs are made before it.
            result = compute()
            read[part] = set(noted)
            return result

        return kept(name, key, watched)

    space.kept = recording
    space.config = Reads(config, noted)
    _ = space.model, space.control, space.bench, space.to_unlearn
    _ = space.identity, space.control_identity, space.data
    space.make_shared()
    study_cell(space, config.methods[0], 0)
    assert set(read) == set(PARTS)
    assert "recovery.gain" in read["plan"]
    assert "epsilon" in read[CELL]
    for part, entries in read.items():
        left_out = {entry for entry in entries if excluded(entry, part)}
        assert left_out == ({"checkpoint_every", "save_models"} if part == CELL else set()), part


def test_a_file_of_the_package_changes_the_source_hash_unless_it_is_listed(tmp_path):
    copy = tmp_path / "unpact_lens"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    before = source_hash(copy)
    for change in ("stats/bootstrap.py", "models/assets/words.txt", "evaluation/verdict.py", "new_file.py"):
        path = copy / change
        old = path.read_text() if path.exists() else None
        path.write_text((old or "") + "\n# changed\n")
        source_hash.cache_clear()
        assert source_hash(copy) != before, change
        path.unlink() if old is None else path.write_text(old)
    for name in UNHASHED:
        path = copy / name
        assert path.exists(), name
        some = next(p for p in ([path] if path.is_file() else sorted(path.rglob("*"))) if p.is_file())
        some.write_text(some.read_text() + "\n# changed\n")
    (copy / "__pycache__").mkdir()
    (copy / "__pycache__" / "x.pyc").write_bytes(b"x")
    source_hash.cache_clear()
    assert source_hash(copy) == before
    source_hash.cache_clear()


@pytest.mark.hooked
def test_weights_configuration_and_tokenizer_each_change_the_fingerprint_of_a_model():
    fingerprint = model_fingerprint(ul.load_model("builtin"))
    assert model_fingerprint(ul.load_model("builtin")) == fingerprint
    used = ul.load_model("builtin")
    used.tokenizer(["a", "b c"], padding=True)
    assert model_fingerprint(used) == fingerprint
    assert model_fingerprint(ul.load_model("builtin-retrain")) != fingerprint
    for change in (
        lambda m: setattr(m.cfg, "eps", 1e-3),
        lambda m: setattr(m.cfg, "default_prepend_bos", False),
        lambda m: setattr(m.tokenizer, "chat_template", "{{ messages }}"),
        lambda m: m.tokenizer.add_tokens(["zzz"]),
        lambda m: m.unembed.b_U.data.add_(1e-3),
    ):
        model = ul.load_model("builtin")
        change(model)
        assert model_fingerprint(model) != fingerprint


CHANGES = {
    "control": {"control": None},
    "contributions.key_tokens": {"contributions": {"forget": 2, "retain": 1, "key_tokens": 2}},
    "batch_tokens": {"batch_tokens": 300},
    "epsilon": {"epsilon": 0.2},
    "diff_examples": {"diff_examples": 0},
    "hold_out_phrasings": {"hold_out_phrasings": 1},
}
"""Changes of a study after which version 0.1 mixed old parts with new ones."""


@pytest.mark.slow
@pytest.mark.parametrize("leaf", CHANGES)
def test_a_changed_study_in_an_old_directory_equals_the_same_study_in_a_new_one(leaf, tmp_path):
    def untimed(study):
        cells = tuple(dataclasses.replace(c, seconds=0.0) for c in study.cells)
        return dataclasses.replace(study, cells=cells, seconds=0.0)

    first = load_config(small_config(tmp_path, methods=small_config(tmp_path)["methods"][:1]))
    run_study(first, tmp_path / "old", progress=False)
    second = load_config({**first.model_dump(mode="json"), **CHANGES[leaf]})
    mixed, fresh = (untimed(run_study(second, tmp_path / name, progress=False)) for name in ("old", "new"))
    assert mixed == fresh


def test_a_cell_has_the_key_of_its_own_method_and_seed(tmp_path):
    config = load_config(small_config(tmp_path))
    space = Workspace(config, Path(tmp_path), lambda text: None)
    found = {str(cell_place(space, m, seed)[1]) for m in config.methods for seed in (0, 1)}
    assert len(found) == 4


SHORT = {"name": "short", "model": "builtin", "benchmark": "builtin", "methods": ["ga"]}


def test_a_key_holds_these_entries_under_these_names():
    config = load_config(SHORT)
    key = keys.part_key(keys.CELL, config, model="m", control="c", data="d", method="ga", seed=3)
    assert set(key) == {"part", "config", "model", "control", "data", "code", "versions", "method", "seed"}
    assert (key["part"], key["model"], key["control"], key["data"], key["seed"]) == ("cell", "m", "c", "d", 3)
    assert {part: keys.part_key(part, config, model="m", control="c", data="d")["control"] for part in keys.PARTS} == {
        "known": None, "before": None, "control": "c", "contributions": None, "plan": "c", "cell": "c",
    }  # fmt: skip
    assert keys.part_key("given", config, model="m", control="c", data="d")["control"] == "c"


def test_the_device_and_the_threads_in_force_are_part_of_a_key():
    config = load_config({**SHORT, "threads": 3, "load": {"device": "cpu"}})
    assert (keys.resolved(config)["threads"], keys.resolved(config)["load"]["device"]) == (3, "cpu")
    found = keys.resolved(load_config(SHORT))
    assert found["threads"] == torch.get_num_threads()
    assert found["load"]["device"] == ("cuda" if torch.cuda.is_available() else "cpu")


def test_resolved_entries_are_json_values_and_a_gpu_is_taken_if_there_is_one(monkeypatch):
    found = keys.resolved(load_config(FULL))
    assert json.loads(json.dumps(found)) == found
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert keys.resolved(load_config(SHORT))["load"]["device"] == "cuda"


def test_changes_are_named_in_one_line_with_short_values():
    assert keys.changes("no key", {"a": 1}) == "it was written by another version"
    assert keys.changes({"a": 1}, {"a": 1}) == ""
    assert keys.changes({"a": 1, "b": 2}, {"b": 3}) == "a (1, now None), b (2, now 3)"
    assert keys.changes({"z": 0}, {"z": 0, **dict.fromkeys("abc", 1)}).endswith("b (None, now 1), c (None, now 1)")
    assert keys.changes({"z": 0}, {"z": 0, **dict.fromkeys("abcde", 1)}).endswith("c (None, now 1) and 2 more")
    assert keys.changes({"z": 0}, {"z": 0, **dict.fromkeys("abcd", 1)}).endswith("c (None, now 1) and 1 more")
    whole, cut = "x" * 22, "x" * 23
    assert keys.changes({"a": whole}, {"a": cut}) == f"a ({whole!r}, now '{'x' * 10}…)"


def test_leaves_keep_the_places_of_lists_and_empty_containers():
    assert keys.leaves({"a": [], "b": {}, "c": ({"d": 1}, 2)}) == {"a": [], "b": {}, "c.0.d": 1, "c.1": 2}
    assert keys.leaves(3) == {"": 3}
    assert keys.excluded("recovery.gain", keys.KNOWN)
    assert not keys.excluded("recovery.gain", keys.CELL)
    assert not keys.excluded("recovery_other", keys.KNOWN)


def test_the_text_of_a_key_tells_numbers_from_their_spelling_and_not_the_order_of_entries():
    assert keys.text_of({"b": 1, "a": "é"}) == '{\n "a": "é",\n "b": 1\n}'
    assert keys.text_of({"a": 1}) != keys.text_of({"a": "1"})
    assert keys.hash_of({"a": 1, "b": 2}) == keys.hash_of({"b": 2, "a": 1})
    assert keys.hash_of({"a": 1}) == hashlib.sha256(b'{\n "a": 1\n}').hexdigest()
    assert keys.text_of({"p": Path("x")}) == '{\n "p": "x"\n}'
