"""Use a low-rank adapter of PEFT, saved or in memory: merge it into a copy of its base, or share a base with it."""

from __future__ import annotations

import importlib.util
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from unpact_lens.errors import InputError
from unpact_lens.models import hooked
from unpact_lens.models.exclusive import deep_copy
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.low_rank import LowRank, attach
from unpact_lens.models.shared_weights import share
from unpact_lens.models.weights import WRAPPED, fused_weights, holders
from unpact_lens.results import read_json

if TYPE_CHECKING:
    from peft import PeftModel

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

PREFIX = "base_model.model."
"""Beginning of the names of an adapter's weights."""

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
            adapted = PeftModel.from_pretrained(deep_copy(hf), str(directory))
    except (ValueError, RuntimeError, KeyError, TypeError, NotImplementedError) as error:
        raise InputError(f"{what}: {str(error).strip().splitlines()[0]}") from error
    if lacking := [str(w.message) for w in said if "missing adapter keys" in str(w.message)]:
        raise InputError(f"{what}: {lacking[0].splitlines()[0]}")
    return _merged(adapted, what)


UNSHARED = ("use_dora", "use_rslora", "modules_to_save", "alpha_pattern", "rank_pattern", "trainable_token_indices",
            "layer_replication", "lora_bias")  # fmt: skip
"""Entries of `adapter_config.json` that must be empty for an adapter to be added to a bridge without a copy."""


def share_with_adapter(base: HookedModel, directory: Path) -> HookedModel:
    """Return a second model on the weights of a bridge, with an adapter that PEFT saved.

    Args:
        base: Bridge of the adapter's base model; it is not changed.
        directory: Directory of the adapter, checked by `check_adapter`.

    Returns:
        A model that shares its weights with `base`.

    Raises:
        InputError: If the adapter is more than low-rank matrices, or does not fit the base.

    Source: Hu et al. 2021, arXiv 2106.09685; file format of the PEFT library.
    """
    config = read_json(directory / CONFIG)
    remedy = f"load its base from the base's directory with adapter={str(directory)!r}, which merges it into a copy"
    if config.get("peft_type") != "LORA" or config.get("bias", "none") != "none":
        raise InputError(f"adapter {directory} is more than low-rank matrices; {remedy}")
    if extra := [name for name in UNSHARED if config.get(name)]:
        raise InputError(f"adapter {directory} has {extra[0]}={config[extra[0]]!r}; {remedy}")
    tensors = load_file(directory / WEIGHTS, device=str(hooked.device_of(base)))
    shared = share(base)
    places = _places(shared)
    scale = float(config["lora_alpha"]) / int(config["r"])
    factors: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        path, mark, which = name.removeprefix(PREFIX).removesuffix(".weight").rpartition(".lora_")
        if not mark or which not in ("A", "B") or path not in places:
            raise InputError(f"adapter {directory} does not fit this model: it has no place for {name}")
        factors.setdefault(path, {})[which] = tensor
    for path, both in factors.items():
        for place in places[path]:
            rows = both["B"] if place.columns is None else both["B"][place.columns]
            a, b = both["A"].T.contiguous(), rows.T.contiguous()  # [input, rank], [rank, output]
            adapter = LowRank(a, b, scale, transposed=isinstance(place.module, nn.Linear))
            like = getattr(place.module, "weight")  # noqa: B009
            if (a.shape[0], b.shape[1]) != adapter.matrix(like).shape:
                raise InputError(
                    f"adapter {directory} does not fit this model: {path} is {tuple(adapter.matrix(like).shape)}, "
                    f"and the adapter {(a.shape[0], b.shape[1])}"
                )
            attach(place.module, "weight", adapter.requires_grad_(False))
    return shared


@dataclass(frozen=True)
class _Place:
    """Hold a module of a bridge that computes a module of the source model, or a part of it.

    Attributes:
        module: Module of the bridge.
        columns: Its outputs among those of the source model's module. None if they are all of them.
    """

    module: nn.Module
    columns: Tensor | None


def _places(model: HookedModel) -> dict[str, list[_Place]]:
    """Return where each module of the source model is computed in a bridge, by its path in the source model."""
    owners = {id(getattr(module, leaf)): module for module, leaf in holders(model)}
    split = {id(fused.weight): fused for fused in fused_weights(model)}
    found: dict[str, list[_Place]] = {}
    for name, weight in model.original_model.named_parameters(remove_duplicate=False):
        path = name.replace(WRAPPED, "").removesuffix(".weight")
        if weight.ndim != 2 or path in found or not name.endswith(".weight"):
            continue
        fused = split.get(id(weight))
        if fused is None:
            found[path] = [_Place(owners[id(weight)], None)]
            continue
        found[path] = []
        for part, place in zip(fused.parts, fused.places, strict=True):
            first = place.reshape(part.shape)[:, 0]  # [part's output], places in the flattened fused weight
            across = isinstance(owners[id(weight)], Conv1D)  # stored [input, output], else [output, input]
            columns = first % weight.shape[1] if across else first // weight.shape[1]
            found[path].append(_Place(owners[id(part)], columns))
    return found


def is_peft_model(spec: object) -> TypeGuard[PeftModel]:
    """Return whether something is a PEFT model in memory."""
    return any(cls.__name__ == "PeftModel" for cls in type(spec).__mro__)


def merged_peft_model(spec: PeftModel) -> PreTrainedModel:
    """Return a plain copy of a PEFT model in memory, with its active adapter added to the weights.

    Raises:
        InputError: If the adapter cannot be merged, or merging it changes the logits.
    """
    return _merged(deep_copy(spec), "the PeftModel cannot become a plain model")


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
