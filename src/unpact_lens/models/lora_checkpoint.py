"""Merge a low-rank adapter that PEFT saved into its base model."""

from __future__ import annotations

import copy
import importlib.util
import os
import warnings
from pathlib import Path

from transformers import PreTrainedModel

from unpact_lens.errors import InputError
from unpact_lens.results import read_json

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def check_adapter(directory: str | os.PathLike[str]) -> Path:
    """Check the files of an adapter and return its directory.

    Raises:
        InputError: If there is no adapter, its weights are pickled, or PEFT is not installed.
    """
    path = Path(directory).expanduser()
    if not (path / CONFIG).is_file():
        raise InputError(f"adapter {path} has no {CONFIG}; give the directory that PEFT's save_pretrained() wrote")
    if not (path / WEIGHTS).is_file():
        pickled = sorted(p.name for p in path.glob("*.bin"))
        raise InputError(
            f"adapter {path} has pickled weights only ({pickled[0]}), which can run code when read; save it with "
            "safe_serialization=True"
            if pickled
            else f"adapter {path} has no {WEIGHTS}; give the directory that PEFT's save_pretrained() wrote"
        )
    if importlib.util.find_spec("peft") is None:
        raise InputError('adapter= needs the package peft: pip install "unpact-lens[lora]"')
    return path


def merge_adapter(hf: PreTrainedModel, directory: Path) -> PreTrainedModel:
    r"""Return a copy of a Hugging Face model with the adapter added to its weights: $W + \frac{\alpha}{r} B A$.

    Args:
        hf: Base model of the adapter; it is not changed.
        directory: Directory of the adapter, checked by `check_adapter`.

    Returns:
        A plain model of the base's type.

    Raises:
        InputError: If the adapter does not fit the base: a module or shape differs, or a weight is missing.

    Source: Hu et al. 2021, arXiv 2106.09685, through the PEFT library.
    """
    from peft import PeftModel

    base = read_json(directory / CONFIG).get("base_model_name_or_path") or "unknown"
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            merged = PeftModel.from_pretrained(copy.deepcopy(hf), str(directory)).merge_and_unload(safe_merge=True)
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"adapter {directory} does not fit this model (its base: {base}): {reason}") from error
    if lacking := [str(w.message) for w in said if "missing adapter keys" in str(w.message)]:
        raise InputError(
            f"adapter {directory} does not fit this model (its base: {base}): {lacking[0].splitlines()[0]}"
        )
    return merged
