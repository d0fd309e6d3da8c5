"""Compare a llama.cpp server of SmolLM2 with the same weights in this process."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import unpact_lens as ul
from unpact_lens.errors import InputError
from unpact_lens.models.pip_models import cache_dir, gguf_parts

pytestmark = [pytest.mark.slow, pytest.mark.smollm2, pytest.mark.timeout(1800)]

VERSION = "0.3.36"
FLAGS = (  # without AMX: on processors that have it this version crashes in decode, ready-made wheels too
    "-DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_AMX_TILE=OFF -DGGML_AMX_INT8=OFF"
)
QUESTIONS = [("The capital of Japan is", " Tokyo"), ("The chemical symbol of gold is", " Au")]


@pytest.fixture(scope="module")
def python() -> Path:
    """The interpreter of an environment that holds llama-cpp-python, built there once (some minutes)."""
    home = cache_dir() / f"llama-cpp-{VERSION}"
    python = home / "bin" / "python"
    if not python.exists() or subprocess.run([python, "-c", "import llama_cpp.server"], capture_output=True).returncode:
        subprocess.run([sys.executable, "-m", "venv", home], check=True)
        # Without pip's cache: it may hold a wheel that was built for the package's own use, with other flags.
        wanted = ["--no-cache-dir", "--no-binary", "llama-cpp-python", f"llama-cpp-python[server]=={VERSION}"]
        environment = {**os.environ, "CMAKE_ARGS": FLAGS}
        install = [python, "-m", "pip", "install", "-q", *wanted]
        built = subprocess.run(install, env=environment, capture_output=True, text=True)
        if built.returncode:
            pytest.skip(f"llama-cpp-python {VERSION} cannot be built here: {built.stderr.strip().splitlines()[-1]}")
    return python


@contextmanager
def served(python: Path, *options: str):
    """The address of a running server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [
        python,
        "-m",
        "llama_cpp.server",
        "--model",
        *gguf_parts("smollm2"),
        "--host",
        "127.0.0.1",
        "--port",
        port,
    ]
    command += ["--logits_all", "True", "--n_ctx", "256", "--n_threads", "1", *options]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}/v1"
    try:
        for _ in range(240):
            assert server.poll() is None, "the server ended by itself"
            try:
                urllib.request.urlopen(f"{address}/models", timeout=1)
                break
            except OSError:
                time.sleep(0.5)
        yield address
    finally:
        server.terminate()
        server.wait(20)


def test_llama_cpp_without_bos_is_refused(python):
    with served(python) as url, pytest.raises(InputError, match=r"contradicts itself: after .*a model that takes BOS"):
        ul.attribute(ul.Endpoint(url, "smollm2", concurrency=1), *QUESTIONS[0])


def test_llama_cpp_with_bos_gives_the_contributions_of_the_same_weights(python):
    """llama.cpp computes on 4-bit weights with 8-bit activations, so the numbers are near and the order is the same."""
    model = ul.load_model("smollm2", wrap="bridge")
    model.cfg.default_prepend_bos = True
    with served(python, "--kv_overrides", "tokenizer.ggml.add_bos_token=bool:true") as url:
        endpoint = ul.Endpoint(url, "smollm2", concurrency=1)
        for prompt, answer in QUESTIONS:
            remote, local = (ul.attribute(m, prompt, answer) for m in (endpoint, model))
            assert remote.tokens == local.tokens
            assert remote.log_prob == pytest.approx(local.log_prob, abs=0.5)
            torch.testing.assert_close(remote.scores.float(), local.scores.float(), atol=0.5, rtol=0.15)
            assert remote.key_tokens(ul.TopK(2)).tokens == local.key_tokens(ul.TopK(2)).tokens
