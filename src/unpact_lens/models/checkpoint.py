"""Models copied, told apart, written and read.

On disk a model is a directory: `model.safetensors`, `config.json` (the TransformerLens configuration, or for a bridge
the Hugging Face one, with what is tied and what is frozen) and `tokenizer/`. It appears whole or not at all, and
nothing in it is ever unpickled.
"""

from __future__ import annotations

import copy
import dataclasses
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from unpact_lens.errors import InputError
from unpact_lens.models import hooked
from unpact_lens.models.convert import attach_tokenizer, fill, to_bridge
from unpact_lens.results import ModelStorage, digest, read_json, register_model_storage, write_json

FORMAT = 1
"""Version of the layout on disk."""
MARK = "unpact_lens_checkpoint"
"""The entry of `config.json` that tells our directories from Hugging Face's; its value is the format."""

M = TypeVar("M")


def clone(model: M) -> M:
    """An independent copy: the same weights, configuration and `requires_grad` flags; the tokenizer is shared.

    Gradients are not copied.
    """
    memo: dict[int, Any] = {id(tokenizer): tokenizer for tokenizer in [getattr(model, "tokenizer", None)] if tokenizer}
    # The bridge keeps its last attention pattern; with its graph attached, it could not be copied.
    for module in model.modules():  # type: ignore[attr-defined]
        memo |= {id(v): v.detach() for v in vars(module).values() if isinstance(v, Tensor) and not v.is_leaf}
    copied = copy.deepcopy(model, memo)
    for parameter in copied.parameters():  # type: ignore[attr-defined]
        parameter.grad = None
    return copied


def named_weights(model: Any) -> dict[str, Tensor]:
    """All weights of a model by name, each once, detached: what is saved, hashed and compared.

    A bridge of a model with a fused query-key-value matrix reads its three parts, and only these are given.
    """
    if hooked.is_bridge(model):
        return {name: tensor.detach() for name, tensor in model.state_dict().items()}
    return {name: tensor.detach() for name, tensor in model.named_parameters()}


def model_hash(model: Any) -> str:
    """SHA-256 over the named weights: names, types, shapes and values. Equal models have equal hashes."""
    return digest({name: tensor.cpu().contiguous() for name, tensor in named_weights(model).items()})


def save_model(model: Any, path: str | os.PathLike[str]) -> Path:
    """Write a hooked model to a directory, atomically and without loss.

    Args:
        model: a `HookedTransformer` or `TransformerBridge`.
        path: the directory; a model that stands there already is replaced.

    Returns:
        The directory.

    Raises:
        InputError: if `path` is a file, or a directory that holds something else than such a model.
    """
    target = Path(path)
    if target.exists() and not is_checkpoint(target) and (target.is_file() or any(target.iterdir())):
        raise InputError(f"{target} exists and is not a saved model; give another directory")
    bridge = hooked.is_bridge(model)
    with fresh_directory(target) as directory:
        tensors = {name: t.cpu().contiguous().clone() for name, t in named_weights(model).items()}
        save_file(tensors, directory / "model.safetensors")
        if bridge:
            model.original_model.config.save_pretrained(directory / "hf")
        if model.tokenizer is not None:
            model.tokenizer.save_pretrained(directory / "tokenizer")
        record = {
            MARK: FORMAT,
            "kind": "bridge" if bridge else "hooked",
            "config": None if bridge else _pack_config(model.cfg),
            "dtype": str(model.cfg.dtype).removeprefix("torch."),
            "attention": model.original_model.config._attn_implementation if bridge else None,
            "default_prepend_bos": bool(model.cfg.default_prepend_bos),
            "tied_embeddings": bool(getattr(model, "tied_embeddings", False)),
            "frozen": [name for name, parameter in model.named_parameters() if not parameter.requires_grad],
        }
        write_json(directory / "config.json", record)
    return target


def load_checkpoint(path: str | os.PathLike[str], *, device: torch.device | str | None = None) -> Any:
    """Read a model that `save_model` wrote.

    Args:
        path: its directory.
        device: where it is to stand; None for the CPU.

    Returns:
        The model in eval mode, with its tokenizer, frozen parameters and tied flag.

    Raises:
        InputError: if there is none, it is of a newer format, or a file of it is missing or broken.
    """
    directory = Path(path)
    if not is_checkpoint(directory):
        raise InputError(f"no saved model at {directory}; give a directory that save_model() wrote")
    record = read_json(directory / "config.json")
    if record[MARK] > FORMAT:
        raise InputError(
            f"{directory} has format {record[MARK]}, this version reads up to {FORMAT}; upgrade unpact-lens"
        )
    weights = directory / "model.safetensors"
    if not weights.is_file():
        raise InputError(f"{directory} has no {weights.name}; save the model again")
    tokenizer = None
    if (directory / "tokenizer").is_dir():
        tokenizer = AutoTokenizer.from_pretrained(directory / "tokenizer")
    target = str(device or "cpu")
    try:
        state = load_file(weights, device=target)
    except SafetensorError as error:
        raise InputError(f"{weights} cannot be read ({error}); save the model again") from None
    model: Any
    if record["kind"] == "bridge":
        model = _empty_bridge(directory / "hf", record, tokenizer, target)
        model.load_state_dict(state)
    else:
        model = _empty_hooked(record["config"], target)
        fill(model, state)
        attach_tokenizer(model, tokenizer)
    model.cfg.default_prepend_bos = record["default_prepend_bos"]
    model.tied_embeddings = record["tied_embeddings"]
    frozen = set(record["frozen"])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    return model.eval()


@contextmanager
def fresh_directory(target: Path) -> Iterator[Path]:
    """A directory beside `target` that takes its place when the block ends well, and vanishes when it does not."""
    target.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        made.chmod(target.parent.stat().st_mode & 0o777)
        yield made
        if target.exists():
            old = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.old."))
            os.replace(target, old)
            os.replace(made, target)
            shutil.rmtree(old)
        else:
            os.replace(made, target)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def is_checkpoint(path: Path) -> bool:
    """Whether `save_model` wrote this directory."""
    file = path / "config.json"
    if not file.is_file():
        return False
    record = read_json(file)
    return isinstance(record, dict) and MARK in record


def _empty_bridge(hf_config: Path, record: dict[str, Any], tokenizer: Any, device: str) -> Any:
    config = AutoConfig.from_pretrained(hf_config)
    # Its random weights are overwritten at once; the caller's random numbers stay as they are.
    with torch.random.fork_rng():
        hf = AutoModelForCausalLM.from_config(config, attn_implementation=record["attention"])
    return to_bridge(hf, tokenizer, device=device, dtype=getattr(torch, record["dtype"]))


def _pack_config(config: HookedTransformerConfig) -> dict[str, Any]:
    """The configuration as JSON; where the model stands is not part of it."""
    fields = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    return {k: str(v).removeprefix("torch.") if k == "dtype" else v for k, v in fields.items() if k != "device"}


def _empty_hooked(fields: dict[str, Any], device: str) -> HookedTransformer:
    # A configuration with a seed would seed all of the caller's random numbers, and weights be drawn for nothing.
    dtype = getattr(torch, fields["dtype"])
    quiet = {"seed": None, "init_weights": False, "dtype": dtype, "device": device}
    model = HookedTransformer(HookedTransformerConfig(**{**fields, **quiet}))
    model.cfg.seed, model.cfg.init_weights = fields["seed"], fields["init_weights"]
    return model


register_model_storage(ModelStorage(hash=model_hash, save=save_model, load=load_checkpoint))
