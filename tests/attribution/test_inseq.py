"""Gradients equal inseq's, which runs in an environment of its own: its typeguard is too old for TransformerLens."""

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import platformdirs
import pytest
import torch

from tests.models.families import hf_model, tokenizer
from unpact_lens.attribution import attribute
from unpact_lens.models.load import load_model

pytestmark = pytest.mark.slow
STEPS = 20  # as in inseq_peer.py, which cannot be imported where inseq is not
PROMPT, ANSWER = "the capital of Japan is", " Tokyo and the sea"
PACKAGES = ("inseq==0.7.1", "captum==0.9.0", f"transformers=={version('transformers')}")


# The project's own way of installing torch without CUDA where CUDA has no use.
SETUP = Path(__file__).parents[2] / "scripts" / "setup_env.py"
SPEC = spec_from_file_location("setup_env", SETUP)
setup_env = module_from_spec(SPEC)
SPEC.loader.exec_module(setup_env)


@pytest.fixture(scope="module")
def inseq_python():
    """The Python of an environment with inseq, made once (minutes) and kept in the user's cache."""
    cache = Path(os.environ.get("UNPACT_LENS_CACHE") or platformdirs.user_cache_dir("unpact-lens"))
    home = cache / "inseq-0.7.1"
    python = home / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if not (home / "ready").exists():
        shutil.rmtree(home, ignore_errors=True)
        home.parent.mkdir(parents=True, exist_ok=True)
        made = setup_env.run(sys.executable, "-m", "venv", home)
        if made:
            setup_env.install_torch(python)
        if not made or not setup_env.run(python, "-m", "pip", "install", "-q", setup_env.TORCH, *PACKAGES):
            pytest.skip("no environment with inseq could be made; see pip's message above")
        (home / "ready").touch()
    return python


@pytest.fixture(scope="module")
def both(inseq_python, tmp_path_factory):
    """What inseq says, and the same model hooked."""
    directory = tmp_path_factory.mktemp("model")
    hf, pieces = hf_model("gpt2", bos_token_id=0, eos_token_id=1).double(), tokenizer()
    pieces.unk_token = "<s>"  # inseq's baseline is the unknown token: here id 0
    hf.save_pretrained(directory)
    pieces.save_pretrained(directory)
    done = subprocess.run(
        [str(inseq_python), str(Path(__file__).with_name("inseq_peer.py")), str(directory), PROMPT, ANSWER],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": "", "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    theirs = json.loads(done.stdout.strip().splitlines()[-1])
    assert theirs["dtype"] == "torch.float64"
    return theirs, load_model(hf, tokenizer=tokenizer(), dtype=torch.float64)


@pytest.mark.parametrize(("target", "called"), [("logit", "logit"), ("prob", "probability")])
@pytest.mark.parametrize(("method", "peer"), [("grad_norm", "saliency"), ("grad_x_input", "input_x_gradient")])
def test_gradients_equal_inseq_for_each_answer_token(both, method, peer, target, called):
    theirs, model = both
    ours = attribute(model, PROMPT, ANSWER, method=method, target=target)
    assert theirs["ids"] == [*ours.token_ids, *ours.answer_ids]
    expected = torch.tensor(theirs[f"{peer}/{called}"], dtype=torch.float64)
    assert expected.shape == (len(ours.token_ids), len(ours.answer_ids))
    assert_close(ours.per_answer_token, expected)


@pytest.mark.parametrize(("target", "called"), [("logit", "logit"), ("prob", "probability")])
def test_integrated_gradients_equal_inseq_for_the_first_answer_token(both, target, called):
    """For later answer tokens inseq moves the answer's own beginning to the baseline too, and we do not."""
    theirs, model = both
    ours = attribute(model, PROMPT, ANSWER, method="integrated_gradients", target=target, baseline=0, steps=STEPS)
    expected = torch.tensor(theirs[f"integrated_gradients/{called}"], dtype=torch.float64)
    assert_close(ours.per_answer_token[:, 0], expected[:, 0])


def assert_close(ours, theirs):
    """Equal to single precision: both models are in double, but inseq's numbers differ by up to 4e-8."""
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)
