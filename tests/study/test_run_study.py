"""A resumed study equals an uninterrupted one, and runs nothing again that is finished."""

import dataclasses
import importlib
import math
import shutil

import pytest
import torch

import unpact_lens as ul
from unpact_lens import recovery
from unpact_lens.data.load import load_benchmark
from unpact_lens.data.splits import RetainSplit
from unpact_lens.errors import InputError
from unpact_lens.models import generate
from unpact_lens.models.batches import length_batches
from unpact_lens.progress import step_bar
from unpact_lens.study import load_config, run_study

run_module = importlib.import_module("unpact_lens.study.run_study")
cells = importlib.import_module("unpact_lens.study.cells")
workspace = importlib.import_module("unpact_lens.study.workspace")

CONFIG = {
    "name": "small",
    "model": "builtin",
    "control": "builtin-retrain",
    "benchmark": "builtin",
    "contributions": {"forget": 2, "retain": 1},
    "diff_examples": 1,
    "forget_level": 0.1,
    "recovery": {"probes": ["prefill"]},
    "methods": [
        {"name": "ga", "settings": {"lr": 5e-4, "steps": 6, "batch_size": 8, "check_every": 2}},
        {"name": "task_vector", "settings": {"lr": 5e-4, "steps": 4, "batch_size": 8}},
    ],
}


PARTS = ("retain", "validation", "unseen")


@pytest.fixture(scope="module", autouse=True)
def small_benchmark():
    """The embedded world, cut to what a test can afford."""

    def small(name, **options):
        bench = load_benchmark(name, **options)
        kept = {name: (*part.near[:6], *part.far[:6]) for name in PARTS if (part := getattr(bench, name))}
        kept |= {"general": bench.general[:4], "unknown": bench.unknown[:4]}
        return dataclasses.replace(bench, forget=bench.forget[:12], **kept)

    patch = pytest.MonkeyPatch()
    patch.setattr(workspace, "load_benchmark", small)
    torch.set_num_threads(1)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    return folder, run_study(load_config(CONFIG), folder, progress=False)


def without_times(study):
    untimed = tuple(dataclasses.replace(c, seconds=0.0) for c in study.cells)
    return dataclasses.replace(study, cells=untimed, seconds=0.0)


def test_a_study_writes_results_table_and_report(finished):
    folder, study = finished
    assert ul.load(folder) == study
    table = study.to_frame()
    assert list(table["method"]) == ["ga", "task_vector"]
    assert len((folder / "table.csv").read_text().splitlines()) == 3
    assert "<html" in (folder / "report.html").read_text()
    for cell, (_, row) in zip(study.cells, table.iterrows(), strict=True):
        assert row["F"] == cell.scores.forgetting.value
        assert row["D"] == pytest.approx((row["D_near"] + row["D_far"]) / 2)
        assert row["memorised_retention"] == pytest.approx(row["D"] - row["D_trained"])
        assert cell.scores.parts.count("unseen") == cell.scores.parts.count("trained") == 12
        assert cell.scores.settings["retain_split"] == RetainSplit()
        assert row["F_low"] <= row["F"] <= row["F_high"]
        assert row["verdict"] == str(cell.verdict)


def test_a_study_without_control_and_stand_ins_ends_and_saves_everything(tmp_path, monkeypatch):
    small = workspace.load_benchmark

    def bare(name, **options):
        bench = small(name, **options)
        forget = tuple(dataclasses.replace(q, wrong_subject=None) for q in bench.forget[:6])
        return dataclasses.replace(bench, forget=forget, unknown=())

    monkeypatch.setattr(workspace, "load_benchmark", bare)
    config = load_config({**CONFIG, "control": None, "methods": CONFIG["methods"][:1], "split_seed": 5})
    study = run_study(config, tmp_path, progress=False)
    assert ul.load(tmp_path) == study
    assert "nothing, so the excess is undefined" in (tmp_path / "report.html").read_text()
    row = study.to_frame().iloc[0]
    assert math.isnan(row["excess"])
    assert math.isnan(row["distance"])
    assert row["F"] == study.cells[0].scores.forgetting.value
    assert not math.isnan(row["R"])
    assert not {"hid", "erased"} & set(study.cells[0].verdict.labels)
    assert any("seed 5" in note for note in study.notes)
    assert study.cells[0].scores.settings["retain_split"].seed == 5
    bench = bare("builtin")
    found = ul.recover(
        ul.load_model("builtin-retrain"), bench, before=ul.load_model("builtin"), probes=(), progress=False
    )
    assert found.n_common
    assert all(e.n == 0 for e in found.excesses.values())


def test_an_unsplit_study_has_no_destruction_and_says_so(tmp_path):
    space = workspace.Workspace(load_config({**CONFIG, "retain_split": None}), tmp_path, lambda text: None)
    assert space.loaded.unseen == ()
    assert any("Destruction D is therefore undefined" in note for note in space.notes)


@pytest.mark.parametrize("shares", [[0.5, 0.5, 0.5], "half", [1, 0]])
def test_shares_of_a_configuration_are_checked(shares):
    with pytest.raises(InputError, match="retain_split"):
        load_config({**CONFIG, "retain_split": shares})


def test_the_components_of_each_diff_sum_to_the_logit_change(finished):
    for cell in finished[1].cells:
        for diff in cell.diffs:
            torch.testing.assert_close(diff.delta_components.sum(0), diff.delta_logit, atol=1e-4, rtol=0)


def test_batch_tokens_bounds_every_forward_pass_that_answers(tmp_path, monkeypatch):
    budgets = set()

    def batches(lengths, batch_tokens):
        budgets.add(batch_tokens)
        return length_batches(lengths, batch_tokens)

    monkeypatch.setattr(generate, "length_batches", batches)
    space = workspace.Workspace(load_config(CONFIG, batch_tokens=700, known_only=True), tmp_path, lambda text: None)
    assert space.before
    assert space.control_scores
    assert recovery.run_plan(space.model, space.plan, progress=False)
    assert budgets == {700}


def test_a_finished_study_is_loaded_and_not_run_again(finished, monkeypatch):
    folder, study = finished
    monkeypatch.setattr(cells.unlearning, "unlearn", lambda *a, **k: pytest.fail("a finished cell was run again"))
    assert run_study(load_config(CONFIG), folder, progress=False) == study


def test_a_cell_is_finished_for_its_own_hyperparameters_and_seed_only(finished):
    config = load_config(CONFIG)
    space = workspace.Workspace(config, finished[0], lambda text: None)
    ga = config.methods[0]
    assert cells.finished_cell(space, ga, config.seeds[0])
    assert not cells.finished_cell(space, ga, config.seeds[-1] + 1)
    assert not cells.finished_cell(
        space, ga.model_copy(update={"settings": {**ga.settings, "steps": 7}}), config.seeds[0]
    )


def test_interrupted_and_resumed_equals_uninterrupted(finished, tmp_path, monkeypatch):
    unlearn, calls = cells.unlearning.unlearn, []

    def killed_at_the_second(*args, **kwargs):
        calls.append(kwargs["method"])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return unlearn(*args, **kwargs)

    monkeypatch.setattr(cells.unlearning, "unlearn", killed_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        run_study(load_config(CONFIG), tmp_path, progress=False)
    assert not (tmp_path / "result.json").exists()
    resumed = run_study(load_config(CONFIG), tmp_path, progress=False)
    assert calls == ["ga", "task_vector", "task_vector"]
    assert without_times(resumed) == without_times(finished[1])


def test_a_changed_configuration_never_reads_old_cells(finished, tmp_path, monkeypatch):
    shutil.copytree(finished[0], tmp_path / "copy")
    calls = []
    unlearn = cells.unlearning.unlearn
    monkeypatch.setattr(cells.unlearning, "unlearn", lambda *a, **k: (calls.append(k["method"]), unlearn(*a, **k))[1])
    changed = {**CONFIG, "methods": [{**CONFIG["methods"][0], "settings": {"lr": 1e-4, "steps": 2, "batch_size": 8}}]}
    run_study(load_config(changed), tmp_path / "copy", progress=False)
    assert calls == ["ga"]


@pytest.mark.slow
def test_key_tokens_of_the_unlearned_model_give_each_cell_its_own_plan(tmp_path):
    asked = {"key_tokens": "after", "templates": ["focus_list"], "probes": [], "added": ["after_keys"]}
    study = run_study(
        load_config({**CONFIG, "methods": CONFIG["methods"][:1], "recovery": asked}), tmp_path, progress=False
    )
    recovery = study.cells[0].recovery
    assert recovery.settings["key_tokens"] == "after"
    assert not (tmp_path / "plan").exists()
    assert "Key tokens are the unlearned model's, taken towards the gold answer" in study.notes[-1]
    # Both rows emphasise the same words, those of the unlearned model, and so have the same answers.
    asked_of = recovery.asked[recovery.probes.index("after_keys")] & recovery.common
    rows = [recovery.right_after[recovery.probes.index(p)][asked_of] for p in ("focus_list", "after_keys")]
    assert torch.equal(*rows)


@pytest.mark.hooked
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": [{"name": "npo_grd"}]}, "did you mean 'npo_gdr'"),
        ({"methods": [{"name": "ga", "settings": {"larning_rate": 1}}]}, "unknown setting 'larning_rate'"),
        ({"recovery": {"headline": "focus"}}, "focus"),
        ({"recovery": {"templates": ["bold"]}}, "bold"),
        ({"recovery": {"probes": ["prefil"]}}, "prefil"),
        ({"recovery": {"added": ["logit_len"]}}, "unknown probe 'logit_len'; did you mean 'logit_lens'"),
        ({"recovery": {"added": ["after_keys"], "headline": "repeat_question"}}, "emphasises words, but the headline"),
        ({"benchmark": "bultin"}, "did you mean 'builtin'"),
        ({"control": "builtin-retran"}, "did you mean 'builtin-retrain'"),
    ],
)
def test_bad_names_are_refused_before_any_training(tmp_path, change, message, monkeypatch):
    monkeypatch.setattr(cells.unlearning, "unlearn", lambda *a, **k: pytest.fail("training had started"))
    with pytest.raises(InputError, match=message):
        run_study(load_config({**CONFIG, **change}), tmp_path, progress=False)


def test_threads_and_precision_are_set_while_a_study_runs_and_restored():
    config = load_config({**CONFIG, "threads": 2, "matmul_precision": "medium"})
    before = torch.get_num_threads(), torch.get_float32_matmul_precision()
    with run_module.arithmetic(config):
        assert (torch.get_num_threads(), torch.get_float32_matmul_precision()) == (2, "medium")
    assert (torch.get_num_threads(), torch.get_float32_matmul_precision()) == before


def test_probes_of_any_kind_are_asked_by_one_list_or_by_the_older_entry(tmp_path):
    asked = {"templates": ["focus_list"], "headline": "focus_list"}
    entries = ({"probes": ["prefill", "quantize_4"]}, {"probes": ["prefill"], "added": ["quantize_4"]})
    spaces = [
        workspace.Workspace(load_config({**CONFIG, "recovery": {**asked, **entry}}), tmp_path / str(i), print)
        for i, entry in enumerate(entries)
    ]
    one, two = (space.plan for space in spaces)
    assert one == two
    assert one.added == ("quantize_4",)
    everything = load_config({**CONFIG, "recovery": {"probes": "all"}}).recovery
    assert everything.probes == "all"


def test_steps_are_printed_one_a_line_where_stderr_is_no_terminal(capsys):
    for progress in (True, False):
        with step_bar("ga", 1, shown=progress) as step:
            step("ga: unlearning")
    assert capsys.readouterr().err == "ga: unlearning\n"
