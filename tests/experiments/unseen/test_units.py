"""Each split sees every fact once and leaves it unseen once; along the curve, the unseen subjects stay the same."""

import dataclasses
import itertools

import pytest

from experiments.shared.experiment import load_experiment
from experiments.unseen import units as module
from experiments.unseen.run import HERE, main, tiny
from experiments.unseen.units import CURVE, HALVES, NUMBERS, UNSEEN_SUBJECTS, Unit, run_unit, subject_order, units
from unpact_lens.data.load import load_benchmark
from unpact_lens.data.splits import Facts

WHOLE = load_benchmark("builtin", retain_split=None).retain
(CONFIG,) = load_experiment(HERE / "config.yaml").values()


def test_all_units_are_listed_once():
    planned = list(units(CONFIG))
    assert len(planned) == len({u.name for u in planned}) == 4 * (2 * module.SPLITS + len(NUMBERS) * 3)
    assert {u.method for u in planned} == {"npo_gdr", "ga_gdr", "ga_klr", "simnpo_gdr"}


@pytest.mark.parametrize("seed", range(4))
def test_each_half_is_trained_on_once_with_the_same_number_of_subjects(seed):
    first, second = (Unit(HALVES, "ga_gdr", 32, seed, half).parts(WHOLE) for half in (0, 1))
    assert first[0] == second[1]
    assert first[1] == second[0]
    assert [len(part.subjects) for part in first] == [32, 32]
    assert {q.id for part in first for q in part} == {q.id for q in WHOLE}
    for part in first:
        assert len(part.near) / len(WHOLE.near) == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("seed", range(4))
def test_the_curve_has_nested_trained_subjects_and_the_same_unseen_ones(seed):
    parts = [Unit(CURVE, "ga_gdr", n, seed).parts(WHOLE) for n in NUMBERS]
    assert [len(trained.subjects) for trained, _ in parts] == list(NUMBERS)
    assert all(unseen == parts[0][1] for _, unseen in parts)
    assert len(parts[0][1].subjects) == UNSEEN_SUBJECTS
    for (smaller, _), (larger, unseen) in itertools.pairwise(parts):
        assert set(smaller.subjects) < set(larger.subjects)
        assert not set(larger.subjects) & set(unseen.subjects)
    for part in (*(trained for trained, _ in parts[1:]), parts[0][1]):
        assert len(part.near) / len(part) == pytest.approx(len(WHOLE.near) / len(WHOLE), abs=0.12)
    assert all(trained.near and trained.far for trained, _ in parts)


def test_the_seed_draws_the_order_and_nothing_else_does():
    assert subject_order(WHOLE, 0) == subject_order(Facts(WHOLE), 0) != subject_order(WHOLE, 1)
    assert sorted(subject_order(WHOLE, 0)) == sorted(WHOLE.subjects)


def test_a_finished_unit_is_loaded_and_a_changed_one_is_run_again(tmp_path, monkeypatch):
    config = tiny(CONFIG)
    unit = Unit(CURVE, "ga_gdr", 5, 0)
    short = {**config.methods[1].settings, "steps": 1}
    config = config.model_copy(update={"methods": (config.methods[1].model_copy(update={"settings": short}),)})
    calls = []
    unlearn = module.ul.unlearn
    monkeypatch.setattr(module.ul, "unlearn", lambda *a, **k: (calls.append(k["lr"]), unlearn(*a, **k))[1])
    found = run_unit(unit, config, tmp_path)
    assert run_unit(unit, config, tmp_path) == found
    assert len(calls) == 1
    assert (found.settings["trained"], found.settings["steps"], found.parts.count("unseen")) == (5, 1, 72)
    other = config.methods[0].model_copy(update={"settings": {**short, "lr": 1e-4}})
    run_unit(unit, config.model_copy(update={"methods": (other,)}), tmp_path)
    assert calls == [3e-4, 1e-4]


def test_units_are_listed_and_an_unknown_one_is_refused(capsys):
    main(["--list"])
    assert capsys.readouterr().out.splitlines()[0] == "halves/npo_gdr-split0-half0"
    with pytest.raises(SystemExit, match="no unit 'curve/x'; --list names them all"):
        main(["--unit", "curve/x"])
    assert dataclasses.replace(Unit(CURVE, "ga", 5, 1), seed=2).name == "curve/ga-5-seed2"
