"""A study holds no more models than its present step needs."""

import gc
import weakref

import pytest

from tests.study.small_study import METHODS, small_config
from unpact_lens.models.shared_weights import shares_weights
from unpact_lens.study import cells
from unpact_lens.study.config import load_config
from unpact_lens.study.workspace import Workspace


@pytest.mark.slow
def test_a_cell_on_a_bridge_holds_one_copy_of_the_weights(tmp_path, monkeypatch):
    """The retrained model is in memory while the shared parts are made, and freed before the cells."""
    npo = {**METHODS[1], "settings": {**METHODS[1]["settings"], "rank": 2, "lr": 5e-3}}
    config = load_config(small_config(tmp_path, methods=[npo], wrap="bridge", checkpoint_every=0))
    loaded, alive, shared = [], {}, []

    def count(step):
        gc.collect()
        alive[step] = sum(model() is not None for model in loaded)

    load, unlearn = Workspace.load, cells.unlearning.unlearn

    def watched(self, spec):
        model = load(self, spec)
        loaded.append(weakref.ref(model))
        return model

    def made(model, *args, **options):
        found = unlearn(model, *args, **options)
        shared.append(shares_weights(model, found.model))
        return found

    monkeypatch.setattr(Workspace, "load", watched)
    monkeypatch.setattr(cells.unlearning, "unlearn", made)
    space = Workspace(config, tmp_path / "out", count)
    cells.study_cell(space, config.methods[0], 0)
    during = {step: n for step, n in alive.items() if step.startswith("npo: ")}
    assert alive["planning recovery"] == 2
    assert set(during.values()) == {1}, during
    assert shared == [True]
    assert len(loaded) == 2
