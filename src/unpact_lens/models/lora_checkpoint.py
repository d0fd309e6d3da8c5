"""Merge a low-rank adapter of PEFT, saved or in memory, into its base model."""

from __future__ import annotations

import copy
import importlib.util
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import nn
from transformers import PreTrainedModel

from unpact_lens.errors import InputError
from unpact_lens.results import read_json

if TYPE_CHECKING:
    from peft import PeftModel

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

PROBE_TOKENS = 16
"""Length of the text on which the logits before and after merging are compared."""


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
        A plain model of the base's type. It computes what the base with the adapter computes; a tied embedding of which
        the adapter changes one use is untied.

    Raises:
        InputError: If the adapter does not fit the base: a module or shape differs, a weight is missing, or merging it
            would change the logits.

    Source: Hu et al. 2021, arXiv 2106.09685, through the PEFT library.
    """
    from peft import PeftModel

    base = read_json(directory / CONFIG).get("base_model_name_or_path") or "unknown"
    what = f"adapter {directory} does not fit this model (its base: {base})"
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            adapted = PeftModel.from_pretrained(copy.deepcopy(hf), str(directory))
    except (ValueError, RuntimeError, KeyError, TypeError, NotImplementedError) as error:
        raise InputError(f"{what}: {str(error).strip().splitlines()[0]}") from error
    if lacking := [str(w.message) for w in said if "missing adapter keys" in str(w.message)]:
        raise InputError(f"{what}: {lacking[0].splitlines()[0]}")
    return _merged(adapted, what)


def is_peft_model(spec: object) -> TypeGuard[PeftModel]:
    """Return whether something is a PEFT model in memory."""
    return any(cls.__name__ == "PeftModel" for cls in type(spec).__mro__)


def merged_peft_model(spec: PeftModel) -> PreTrainedModel:
    """Return a plain copy of a PEFT model in memory, with its active adapter added to the weights.

    Raises:
        InputError: If the adapter cannot be merged, or merging it changes the logits.
    """
    return _merged(copy.deepcopy(spec), "the PeftModel cannot become a plain model")


def _merged(adapted: PeftModel, what: str) -> PreTrainedModel:
    """Merge the adapter of a PEFT model, which is used up, and check that the logits stay the same."""
    adapted.eval()
    inside: PreTrainedModel = adapted.get_base_model()
    ids = (torch.arange(PROBE_TOKENS) * 7919 + 1)[None] % inside.get_input_embeddings().weight.shape[0]
    with torch.inference_mode():
        expected = adapted(input_ids=ids.to(inside.device)).logits
    tied = _own_weight(inside.get_output_embeddings()) is _own_weight(inside.get_input_embeddings())
    if tied:
        output = _inner(inside.get_output_embeddings())
        output.weight = nn.Parameter(output.weight.detach().clone())  # type: ignore[operator]
        inside.config.tie_word_embeddings = False
    try:
        merged = adapted.merge_and_unload(safe_merge=True)
    except (ValueError, RuntimeError, KeyError, TypeError, AttributeError, NotImplementedError) as error:
        raise InputError(f"{what}: {str(error).strip().splitlines()[0]}") from error
    if not isinstance(merged, PreTrainedModel):
        raise InputError(f"{what}: merged, it is a {type(merged).__name__}; give a causal language model")
    embedding, output = merged.get_input_embeddings(), merged.get_output_embeddings()
    if tied and torch.equal(embedding.weight, output.weight):
        merged.config.tie_word_embeddings = True
        output.weight = embedding.weight
    with torch.inference_mode():
        found = merged(input_ids=ids.to(merged.device)).logits
    difference, size = float((found - expected).abs().max()), max(1.0, float(expected.abs().max()))
    if not difference <= size * (1e-3 if expected.dtype in (torch.float32, torch.float64) else 0.05):
        raise InputError(f"{what}: merging it into the weights changes the logits by {difference:.2g}")
    return merged


def _inner(module: nn.Module) -> nn.Module:
    """Return the module inside an adapter's layer, or the module itself."""
    inner = getattr(module, "base_layer", module)
    assert isinstance(inner, nn.Module)
    return inner


def _own_weight(module: nn.Module) -> object:
    return _inner(module).weight
