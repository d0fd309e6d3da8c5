"""Check the files of a Hugging Face model before they are read: no foreign code, no pickles, no numbers misread.

Quantised weights are integers or small floats with scales beside them. Read as plain numbers they give a model that
runs and is wrong. They are dequantised where transformers can do that without special hardware, and refused otherwise.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path

from torch import nn
from transformers import FineGrainedFP8Config, Mxfp4Config

from unpact_lens.errors import InputError
from unpact_lens.manifest import check_manifest
from unpact_lens.results import read_json

INDEX = "model.safetensors.index.json"
"""File that says which shard holds which weight."""

PLAIN = frozenset({"F64", "F32", "F16", "BF16", "BOOL", "I64", "I32"})
"""Types of tensors in safetensors files that are numbers by themselves; buffers may be integers or booleans."""

DEQUANTISED = {"mxfp4": Mxfp4Config, "fp8": FineGrainedFP8Config}
"""Quantisations that transformers can undo while loading, on any device, with their configuration class."""


def check_files(folder: Path) -> None:
    """Check the configuration and the weights of a directory.

    Args:
        folder: Directory that `save_pretrained` wrote.

    Raises:
        InputError: If a file differs from the directory's manifest or asks for code of its own, weights are pickled or
            missing, a shard lies elsewhere, or weights are no plain numbers although the configuration does not say so.
    """
    check_manifest(folder, "copy it again, or delete manifest.json if you changed the file yourself")
    config = read_json(folder / "config.json")
    check_no_code(config, folder / "config.json")
    tokenizer = folder / "tokenizer_config.json"
    if tokenizer.is_file():
        check_no_code(read_json(tokenizer), tokenizer)
    _check_index(folder)
    if not any(folder.glob("*.safetensors")):
        pickled = sorted(p.name for p in folder.glob("*.bin"))
        raise InputError(
            f"{folder} has pickled weights only ({pickled[0]}), which can run code when read; convert them to "
            "safetensors"
            if pickled
            else f"{folder} has no *.safetensors weights; give the directory that save_pretrained() wrote"
        )
    if quantisation(config) is None:
        for file in sorted(folder.glob("*.safetensors")):
            _check_types(file)


def check_no_code(config: Mapping[str, object], file: object) -> None:
    """Refuse a configuration that names code of its own.

    Raises:
        InputError: If it has an `auto_map`.
    """
    named = config.get("auto_map")
    if isinstance(named, Mapping) and named:
        first = next(iter(named.values()))
        raise InputError(
            f"{file} names code of its own (auto_map: {first}), which is never run; if transformers has the "
            "architecture itself, remove auto_map from a copy of that file"
        )


def quantisation(config: Mapping[str, object]) -> str | None:
    """Return how the weights are quantised, as the configuration says, or None."""
    found = config.get("quantization_config")
    if not isinstance(found, Mapping) or not found:
        return None
    return str(found.get("quant_method") or "an unnamed method")


def dequantiser(config: Mapping[str, object], name: object) -> Mxfp4Config | FineGrainedFP8Config | None:
    """Return what makes transformers dequantise the weights while it loads them; None for plain weights.

    Raises:
        InputError: If the weights are quantised in another way. The message names it.
    """
    method = quantisation(config)
    if method is None:
        return None
    if method not in DEQUANTISED:
        raise InputError(
            f"{name} is quantised ({method}); its weights are no plain numbers. Load it in transformers, save "
            f"model.dequantize() and give that directory, or give the model it was made from (dequantised here: "
            f"{', '.join(DEQUANTISED)})"
        )
    return DEQUANTISED[method](dequantize=True)


def check_not_quantised(hf: nn.Module) -> None:
    """Refuse a model in memory whose weights are quantised.

    Raises:
        InputError: If it is marked as quantised, or a parameter is not a floating-point number of 16 bits or more.
    """
    method = getattr(hf, "quantization_method", None)
    if getattr(hf, "is_quantized", False) or method is not None:
        raise InputError(f"the model is quantised ({method or 'unnamed'}); give model.dequantize()")
    for name, parameter in hf.named_parameters():
        if not parameter.is_floating_point() or parameter.element_size() < 2:
            kind = str(parameter.dtype).removeprefix("torch.")
            raise InputError(f"weight {name} is {kind}, which is no plain number; give the model dequantised")


def _check_index(folder: Path) -> None:
    file = folder / INDEX
    if not file.is_file():
        return
    shards = read_json(file).get("weight_map") or {}
    for name, shard in shards.items():
        if not isinstance(shard, str) or not shard.endswith(".safetensors") or Path(shard).name != shard:
            raise InputError(f"{file} puts {name} into {shard!r}; shards must be *.safetensors files beside it")
        if not (folder / shard).is_file():
            raise InputError(f"{file} names {shard}, which is missing; copy all files of the model")


def _check_types(file: Path) -> None:
    """Refuse tensors that are no plain numbers; only the header of the file is read."""
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(min(length, 100_000_000)))
    except (struct.error, ValueError, OSError):
        return  # transformers names what is wrong with the file
    for name, entry in header.items():
        if name != "__metadata__" and isinstance(entry, dict) and entry.get("dtype") not in PLAIN:
            raise InputError(
                f"weight {name} in {file.name} is {entry.get('dtype')}, and config.json does not say how it is "
                "quantised; give the model dequantised"
            )
