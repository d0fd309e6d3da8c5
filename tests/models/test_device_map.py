"""A map of devices passes through to the bridge, or is refused before anything is loaded."""

import pytest
import torch

from tests.conftest import tiny
from tests.models.families import save
from unpact_lens.attribution import attribute
from unpact_lens.comparison import diff
from unpact_lens.errors import InputError
from unpact_lens.models import device_map as module
from unpact_lens.models.checkpoint import clone, model_hash
from unpact_lens.models.load import load_model
from unpact_lens.models.shared_weights import share

EACH = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "cpu", "model.norm": "cpu",
        "model.rotary_emb": "cpu", "lm_head": "cpu"}  # fmt: skip


@pytest.mark.parametrize("device_map", [{"": "cpu"}, EACH])
def test_a_spread_model_computes_what_one_on_one_device_computes(device_map, tmp_path):
    """A device for each module is the form for several GPUs; accelerate moves what passes between them."""
    path, _ = save(tmp_path / "llama", "llama")
    plain = load_model(path, wrap="bridge", device="cpu")
    spread = load_model(path, wrap="auto", device_map=device_map)
    assert model_hash(spread) == model_hash(plain)
    tokens = torch.arange(9)[None]
    with torch.no_grad():
        for model in (spread, share(spread), clone(spread)):
            assert torch.equal(model(tokens), plain(tokens))
    ours, theirs = (attribute(m, "who wrote", " Hamlet?").scores for m in (spread, plain))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    assert not diff(spread, plain, "who wrote", " Hamlet?").delta_components.any()


@pytest.mark.hooked
def test_maps_that_cannot_work_are_refused(tmp_path, monkeypatch):
    path, hf = save(tmp_path / "llama", "llama")
    with pytest.raises(InputError, match=r"device_map='auto' is for bridges; add wrap=\"bridge\""):
        load_model(path, wrap="hooked", device_map="auto")
    with pytest.raises(InputError, match="device='cpu' and device_map='auto'; give one of them"):
        load_model(path, wrap="bridge", device="cpu", device_map="auto")
    with pytest.raises(InputError, match="device_map='everywhere'; give one of 'auto', 'balanced'"):
        load_model(path, wrap="bridge", device_map="everywhere")
    with pytest.raises(InputError, match="device_map holds 'disk': weights must stay in memory"):
        load_model(path, wrap="bridge", device_map={"model": "cpu", "lm_head": "disk"})
    for live in (hf, tiny(), "builtin"):
        with pytest.raises(InputError, match="device_map= is for a directory or a hub id"):
            load_model(live, wrap="bridge", device_map="auto")
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="device_map= needs the package accelerate"):
        load_model(path, wrap="bridge", device_map="auto")
