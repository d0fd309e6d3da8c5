"""Copy, hash, save and load hooked models.

On disk a model is a directory with these parts:

- `model.safetensors`: the weights, and `adapters.safetensors` for adapters that are not merged into them;
- `config.json`: the TransformerLens configuration (for a bridge, the Hugging Face one is in `hf/`), and which weights
  are tied or frozen;
- `tokenizer/`, and `generation_config.json` where the model came with one;
- `manifest.json`: the SHA-256 of every file.

The directory appears only when it is complete, and nothing in it is unpickled.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from unpact_lens.errors import InputError
from unpact_lens.manifest import MANIFEST, check_manifest, foreign_files, read_manifest, write_manifest
from unpact_lens.models import hooked
from unpact_lens.models.acting_hooks import architecture
from unpact_lens.models.answer_end import generation_config
from unpact_lens.models.convert import attach_tokenizer, fill, to_bridge
from unpact_lens.models.exclusive import deep_copy, exclusive
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.independence import reads_memory_of, rebind
from unpact_lens.models.lens_version import HookedTransformer, HookedTransformerConfig, require_hooked
from unpact_lens.models.low_rank import LowRank, merge_adapters, own_classes
from unpact_lens.models.random_state import random_state_kept
from unpact_lens.models.shared_weights import copy_memo
from unpact_lens.models.tied_embedding import embedding_scale, is_tied
from unpact_lens.models.weights import (
    attach_named,
    fill_weights,
    named_adapters,
    named_weights,
    stored_weights,
    uncovered_weight,
)
from unpact_lens.results import MODEL_FILES, ModelStorage, digest, read_json, register_model_storage, write_json
from unpact_lens.writing import check_replaceable, replaced_directory, steady

FORMAT = 2
"""Version of the layout on disk. Version 2 has a manifest."""
MARK = "unpact_lens_checkpoint"
"""Entry of `config.json` that marks a directory as a checkpoint of this library; its value is the format."""

ADAPTERS = "adapters.safetensors"
"""File with the adapters of a model; absent without any."""

GENERATION = "generation_config.json"
"""File with the generation configuration, which names the tokens that end an answer; absent without one."""

REMEDY = "save the model again, or skip this check with verify=False"
"""What to do about a damaged model."""

M = TypeVar("M")

INDEPENDENT: dict[str, bool] = {}
"""Whether copies of a kind of model were found to be independent, by the name of its class and of what it wraps."""


def clone(model: M) -> M:
    """Return an independent copy with the same weights, configuration and `requires_grad` flags.

    Adapters are merged into the copy's weights, in the dtype of the weights; `share` keeps them apart. The tokenizer is
    shared. Gradients are not copied. The first copy of each kind of model runs on a few tokens, to check that it reads
    no memory of its original.

    Raises:
        InputError: If the copy would read, and so train, the original's weights.
    """
    source = cast(torch.nn.Module, model)
    with exclusive(model):  # A copy made during another thread's forward pass would keep its hooks.
        memo = copy_memo(source)
        copied = deep_copy(source, memo)
    rebind(copied, memo)
    own_classes(copied)
    merge_adapters(copied)
    for parameter in copied.parameters():
        parameter.grad = None
    if isinstance(model, (HookedTransformer, TransformerBridge)):
        kind = f"{type(model).__name__}/{architecture(model)}"
        if kind not in INDEPENDENT:
            INDEPENDENT[kind] = not reads_memory_of(cast(HookedModel, copied), model)
        if not INDEPENDENT[kind]:
            raise InputError(
                f"a copy of this {architecture(model)} would read and train the original's weights; "
                "load the model again from its directory in place of the copy"
            )
    return cast(M, copied)


def model_hash(model: HookedModel) -> str:
    """Compute the SHA-256 of the named weights: names, dtypes, shapes and values."""
    return digest(named_weights(model))


def save_model(model: HookedModel, path: str | os.PathLike[str]) -> Path:
    """Write a hooked model to a directory, atomically and without loss.

    Args:
        model: A `HookedTransformer` or `TransformerBridge`.
        path: Directory. A saved model that is there already is replaced.

    Returns:
        The directory.

    Raises:
        InputError: If `path` is a file, a symbolic link, or a directory that contains something other than a saved
            model, or a weight of the source model would not be saved.
    """
    target = Path(path)
    check_place_of_model(target)
    if (lacking := uncovered_weight(model)) is not None:
        raise InputError(f"this {architecture(model)} cannot be saved: {lacking}; export it with export_hf")
    bridge = hooked.is_bridge(model)
    with fresh_directory(target, MODEL_FILES) as directory:
        stored = stored_weights(model)
        save_file({name: t.cpu().contiguous().clone() for name, t in stored.items()}, directory / "model.safetensors")
        scales = save_adapters(named_adapters(model, stored), directory / ADAPTERS)
        if bridge:
            model.original_model.config.save_pretrained(directory / "hf")
        if model.tokenizer is not None:
            model.tokenizer.save_pretrained(directory / "tokenizer")
        generation = generation_config(model)
        if generation is not None:
            write_json(directory / GENERATION, generation.to_dict())
        record = {
            MARK: FORMAT,
            "kind": "bridge" if bridge else "hooked",
            "config": None if bridge else _pack_config(model.cfg),
            "dtype": str(model.cfg.dtype).removeprefix("torch."),
            "attention": model.original_model.config._attn_implementation if bridge else None,
            "default_prepend_bos": bool(model.cfg.default_prepend_bos),
            "tied_embeddings": is_tied(model),
            "embedding_scale": embedding_scale(model),
            **({"adapters": scales} if scales else {}),
            "shared": {} if bridge else shared_weights(model),
            "frozen": [name for name, parameter in model.named_parameters() if not parameter.requires_grad],
        }
        write_json(directory / "config.json", record)
    return target


def check_place_of_model(target: Path) -> None:
    """Refuse a directory to which `save_model` would not write, before a model is trained for it.

    Raises:
        InputError: If `target` is a file, a symbolic link, or a directory that contains something other than a saved
            model.
    """
    if target.exists() and not _is_ours(target) and (target.is_file() or any(target.iterdir())):
        raise InputError(f"{target} exists and is not a saved model; give another directory")
    check_replaceable(Path(os.path.abspath(target)), lambda old: foreign_files(old, MODEL_FILES))


def load_checkpoint(
    path: str | os.PathLike[str], *, device: torch.device | str | None = None, verify: bool = True
) -> HookedModel:
    """Read a model that `save_model` wrote.

    Args:
        path: Directory of the model.
        device: Device of the result. If None, the CPU.
        verify: If True, check the SHA-256 of every file. If False, skip this check, which reads each file once more.

    Returns:
        The model in eval mode, with its tokenizer, frozen parameters and `tied_embeddings`.

    Raises:
        InputError: If there is no saved model, its format is newer, or one of its files is missing or damaged.
    """
    directory = Path(path)

    def read() -> HookedModel:
        if not is_checkpoint(directory):
            raise InputError(f"no saved model at {directory}; give a directory that save_model() wrote")
        record = read_json(directory / "config.json")
        if isinstance(number := record[MARK], bool) or not isinstance(number, int) or number < 1:
            raise InputError(f"{directory / 'config.json'} is damaged: its format is {number!r}; {REMEDY}")
        if number > FORMAT:
            raise InputError(f"{directory} has format {number}, this version reads up to {FORMAT}; upgrade unpact-lens")
        if verify:
            check_manifest(directory, REMEDY, required=number >= 2)
        try:
            return _read(directory, record, str(device or "cpu"))
        except InputError:
            raise
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, AssertionError) as error:
            raise InputError(f"{directory} is damaged ({' '.join(str(error).split())}); {REMEDY}") from error

    return steady(directory / MANIFEST, read, checked=verify)


def _read(directory: Path, record: dict[str, Any], device: str) -> HookedModel:
    """Build the model of a checkpoint from its files."""
    weights = directory / "model.safetensors"
    if not weights.is_file():
        raise InputError(f"{directory} has no {weights.name}; {REMEDY}")
    tokenizer = None
    if (directory / "tokenizer").is_dir():
        tokenizer = AutoTokenizer.from_pretrained(directory / "tokenizer", trust_remote_code=False)
    try:
        with safe_open(weights, framework="pt", device=device) as opened:
            model = _filled(directory, record, tokenizer, device, TensorFile(opened))
    except SafetensorError as error:
        raise InputError(f"{weights} cannot be read ({error}); {REMEDY}") from None
    if (directory / GENERATION).is_file():
        holder = model.original_model if hooked.is_bridge(model) else model
        holder.generation_config = GenerationConfig.from_dict(read_json(directory / GENERATION))
    model.cfg.default_prepend_bos = record["default_prepend_bos"]
    model.tied_embeddings = record["tied_embeddings"]
    model.embedding_scale = record.get("embedding_scale", 1.0)
    frozen = set(record["frozen"])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    attach_named(model, load_adapters(record.get("adapters", {}), directory / ADAPTERS, device))
    return model.eval()


class TensorFile(Mapping[str, Tensor]):
    """Read the tensors of a safetensors file one by one, so that the file is never held in memory as a whole.

    Args:
        opened: File opened by `safetensors.safe_open`.
    """

    def __init__(self, opened: Any) -> None:
        self.opened, self.names = opened, list(opened.keys())

    def __getitem__(self, name: str) -> Tensor:
        """Read a tensor."""
        if name not in self.names:
            raise KeyError(name)
        tensor: Tensor = self.opened.get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self.names)

    def __len__(self) -> int:
        """Return the number of tensors."""
        return len(self.names)


def _filled(
    directory: Path, record: dict[str, Any], tokenizer: PreTrainedTokenizerBase | None, device: str, state: TensorFile
) -> HookedTransformer | TransformerBridge:
    """Build the model of a checkpoint and fill in its weights."""
    model: HookedTransformer | TransformerBridge
    if record["kind"] == "bridge":
        model = _empty_bridge(directory / "hf", record, tokenizer, device)
        fill_weights(model, state)
    else:
        require_hooked(f"{directory} holds a HookedTransformer; it")
        _check_sizes(record["config"], state, directory / "config.json")
        model = _empty_hooked(record["config"], device)
        for name, first in record.get("shared", {}).items():
            module, _, kind = name.rpartition(".")
            model.get_submodule(module).register_parameter(kind, model.get_parameter(first))
        fill(model, state)
        attach_tokenizer(model, tokenizer)
    return model


def save_adapters(adapters: Mapping[str, Sequence[LowRank]], file: Path) -> dict[str, list[float]]:
    """Write the adapters of a model, if it has any, and return the scale of each by the name of the weight."""
    tensors = {
        f"{name}|{i}|{part}": tensor.detach().cpu().contiguous()
        for name, several in adapters.items()
        for i, adapter in enumerate(several)
        for part, tensor in (("A", adapter.A), ("B", adapter.B))
    }
    if tensors:
        save_file(tensors, file)
    return {name: [adapter.scale for adapter in several] for name, several in adapters.items()}


def load_adapters(scales: Mapping[str, Sequence[float]], file: Path, device: str) -> dict[str, list[LowRank]]:
    """Read the adapters that `save_adapters` wrote."""
    tensors = load_file(file, device=device) if scales else {}
    return {
        name: [LowRank(tensors[f"{name}|{i}|A"], tensors[f"{name}|{i}|B"], scale) for i, scale in enumerate(several)]
        for name, several in scales.items()
    }


def _check_sizes(config: dict[str, Any], state: Mapping[str, Tensor], file: Path) -> None:
    """Refuse a configuration of other sizes than the weights, before a model of these sizes is built.

    Raises:
        InputError: If the number of blocks, the width or the vocabulary differs.
    """
    embed = state.get("embed.W_E")
    found = {
        "n_layers": len({name.split(".")[1] for name in state if name.startswith("blocks.")}),
        "d_vocab": None if embed is None else embed.shape[0],
        "d_model": None if embed is None else embed.shape[1],
    }
    for name, size in found.items():
        if size is not None and config.get(name) != size:
            raise InputError(f"{file} says {name}={config.get(name)!r}, and the weights have {size}; {REMEDY}")


def shared_weights(model: HookedModel) -> dict[str, str]:
    """Return the names of parameters that are another one of the model, with the name of that one."""
    named = cast(torch.nn.Module, model).named_parameters
    first = {id(parameter): name for name, parameter in named()}
    return {name: first[id(p)] for name, p in named(remove_duplicate=False) if first[id(p)] != name}


@contextmanager
def fresh_directory(target: Path, known: Iterable[str] = ()) -> Iterator[Path]:
    """Provide a directory that replaces `target` when the block succeeds, with a manifest of its files.

    Args:
        target: Directory. It need not exist.
        known: Patterns of the files in an existing directory without a manifest that may be removed.

    Raises:
        InputError: If `target` is a symbolic link, the current directory or a mount, or holds files that this library
            did not write.
    """
    with replaced_directory(target, lambda old: foreign_files(old, known)) as directory:
        yield directory
        write_manifest(directory)


def is_checkpoint(path: Path) -> bool:
    """Return whether `save_model` wrote this directory.

    Raises:
        InputError: If its `config.json` is not valid JSON.
    """
    file = path / "config.json"
    if not file.is_file():
        return False
    record = read_json(file)
    return isinstance(record, dict) and MARK in record


def has_mark(path: Path, mark: str) -> bool:
    """Return whether the `config.json` of a directory has an entry of ours, although it may be damaged."""
    file = path / "config.json"
    return file.is_file() and f'"{mark}"' in file.read_text("utf-8", "replace")


def _is_ours(directory: Path) -> bool:
    """Return whether a directory holds a saved model, although its `config.json` or its manifest may be damaged."""
    if has_mark(directory, MARK):
        return True
    try:
        return "model.safetensors" in (read_manifest(directory) or {})
    except InputError:
        return False


def saved_model_is_whole(directory: Path) -> bool:
    """Return whether a directory holds a saved model, and every file has the SHA-256 of its manifest."""
    try:
        check_manifest(directory, REMEDY, required=True)
        return is_checkpoint(directory)
    except InputError:
        return False


def written_model_files(directory: Path) -> list[str]:
    """Return the relative paths of the files of a saved model in a directory; none if it holds no saved model."""
    if directory.is_symlink() or not directory.is_dir() or not _is_ours(directory):
        return []
    foreign = set(foreign_files(directory, MODEL_FILES))
    found = (p.relative_to(directory) for p in sorted(directory.rglob("*")) if p.is_file())
    return [p.as_posix() for p in found if p not in foreign]


def _empty_bridge(
    hf_config: Path, record: dict[str, object], tokenizer: PreTrainedTokenizerBase | None, device: str
) -> TransformerBridge:
    config = AutoConfig.from_pretrained(hf_config, trust_remote_code=False)
    # The random weights are overwritten; the caller's random state is not changed.
    with random_state_kept():
        dtype = getattr(torch, str(record["dtype"]))
        hf = AutoModelForCausalLM.from_config(
            config, attn_implementation=record["attention"], trust_remote_code=False, dtype=dtype
        )
    return to_bridge(hf, tokenizer, device=device, dtype=dtype, own=True)


def _pack_config(config: HookedTransformerConfig) -> dict[str, object]:
    """Return the configuration as JSON, without the device."""
    fields = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    return {k: str(v).removeprefix("torch.") if k == "dtype" else v for k, v in fields.items() if k != "device"}


def _empty_hooked(fields: dict[str, object], device: str) -> HookedTransformer:
    # A configuration with a seed would reset the caller's random state; the weights are set afterwards.
    dtype = getattr(torch, str(fields["dtype"]))
    quiet = {"seed": None, "init_weights": False, "dtype": dtype, "device": device}
    model = HookedTransformer(HookedTransformerConfig(**{**fields, **quiet}))
    model.cfg.seed, model.cfg.init_weights = fields["seed"], fields["init_weights"]
    return model


register_model_storage(ModelStorage(hash=model_hash, save=save_model, load=load_checkpoint))
