"""Load a hooked model by name, from a directory or hub id, or from a model in memory."""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from huggingface_hub import HfApi, constants, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError
from transformer_lens.model_bridge import TransformerBridge
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from unpact_lens.errors import InputError, nearest
from unpact_lens.manifest import MANIFEST
from unpact_lens.models import hooked
from unpact_lens.models.check_files import check_files, check_no_code, check_not_quantised, dequantiser
from unpact_lens.models.checkpoint import is_checkpoint, load_checkpoint
from unpact_lens.models.convert import to_bridge, to_hooked
from unpact_lens.models.device_map import DeviceMap, check_device_map
from unpact_lens.models.exclusive import deep_copy
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.hooked_families import check_supported
from unpact_lens.models.lens_version import DEFAULT_WRAP, HAS_HOOKED, HookedTransformer, require_hooked
from unpact_lens.models.lora_checkpoint import CONFIG as ADAPTER_CONFIG
from unpact_lens.models.lora_checkpoint import (
    check_adapter,
    is_peft_model,
    merge_adapter,
    merged_peft_model,
    share_with_adapter,
)
from unpact_lens.models.pip_models import PACKAGED, forget_quantisation, packaged_directory, read_gguf
from unpact_lens.models.ready import check_sound
from unpact_lens.models.self_test import Source, require, self_test
from unpact_lens.progress import transformers_progress
from unpact_lens.registry import Registry
from unpact_lens.results import RESULT, read_json, saved_models
from unpact_lens.writing import steady

WRAPS = ("hooked", "bridge", "auto")
"""Values of `wrap`; see `load_model`."""

COMPUTED = (".rotary_emb.inv_freq", ".masked_bias", ".attn.bias", ".attention.bias")
"""Ends of the names of tensors that old checkpoints hold although every model computes them itself."""

HUB_TIMEOUT = 10.0
"""Timeout of the first request to the hub, in seconds."""


@dataclass(frozen=True)
class Wanted:
    """Hold the form in which a model is wanted.

    Attributes:
        wrap: One of `WRAPS`.
        device: Device of the result.
        dtype: Type of the weights. If None, fp32, or for a hooked model its own type.
        adapter: Directory of a low-rank adapter to merge, or None.
        check: Whether the result is tested.
        revision: Branch, tag or commit of a hub id, or None for its main branch.
        subfolder: Folder of the model in the directory or on the hub.
        device_map: How the model is spread over several devices, in place of `device`, or None.
    """

    wrap: str
    device: torch.device | str
    dtype: torch.dtype | None
    adapter: Path | None
    check: bool = True
    revision: str | None = None
    subfolder: str = ""
    device_map: DeviceMap | None = None

    def no_adapter(self, spec: object) -> None:
        """Raise an error if an adapter is given without a Hugging Face model to merge it into."""
        if self.adapter is not None:
            raise InputError(f"adapter= needs a Hugging Face model as its base; {spec} is a hooked one")


def load_model(
    spec: object,
    *,
    wrap: str = DEFAULT_WRAP,
    tokenizer: PreTrainedTokenizerBase | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    device_map: DeviceMap | None = None,
    adapter: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    subfolder: str = "",
    check: bool = True,
) -> HookedModel:
    """Load a causal language model with TransformerLens hooks and raw weights, in eval mode.

    `cfg.default_prepend_bos` is set to what the model's own tokenizer does. `.tied_embeddings` is True if input and
    output embeddings share one weight. Weights that TransformerLens adds to an architecture do not require gradients.
    Code that a repository brings is never run, and nothing is unpickled.

    Args:
        spec: The model, as one of the following:
            - a name: `"builtin"` (embedded default model), `"builtin-retrain"` (its retrained model, trained without
              the forget set), `"smollm2"` (SmolLM2-135M-Instruct; needs the `[smollm2]` extra), or `"gemma3-270m"`
              (Gemma 3 270M, under Google's terms; needs the `[gemma3]` extra and `wrap="bridge"`);
            - a directory: a Hugging Face model of one of the architectures in `docs/architectures.md`, a directory of
              a low-rank adapter that PEFT saved (its base is found through `adapter_config.json`), or a directory that
              `save_model` or `save` (of an `Unlearned`) wrote;
            - a `.gguf` file, which is dequantised (needs the package `gguf`);
            - a hub id, e.g. `"openai-community/gpt2"`;
            - a live Hugging Face model or `PeftModel`, with its `tokenizer`; the model is copied and not changed;
            - a live `HookedTransformer` or `TransformerBridge`; it is checked, put in eval mode and returned.
        wrap: Kind of model. `"hooked"`: a `HookedTransformer`. `"bridge"`: a `TransformerBridge`, which runs the
            original Hugging Face code, is faster, and supports any architecture. `"auto"`: a `HookedTransformer` if its
            logits can equal the original's, else a bridge; the command line uses this. The default is `"hooked"`
            under TransformerLens 3.9 and `"bridge"` under 4, which removed `HookedTransformer`.
        tokenizer: Tokenizer of a live Hugging Face model. If None, the model takes ids only.
        device: Device of the model. If None, CUDA if available, else the CPU. A live model is not moved.
        dtype: Type of the weights. If None, fp32, which decompositions need. Live hooked models and saved models keep
            their type.
        device_map: How transformers and accelerate spread a bridge over several GPUs: `"auto"`, `"balanced"`,
            `"sequential"`, or a device for each module. In place of `device`. Needs the package accelerate.
        adapter: Directory of a low-rank adapter that PEFT saved (safetensors). The model must be its base. On a live
            `TransformerBridge` the result shares the weights of that bridge, so both need the memory of one. Otherwise
            the adapter is merged into a copy. Needs the `[lora]` extra.
        revision: Branch, tag or commit of a hub id. If None, its main branch.
        subfolder: Folder of the model inside the directory or the hub's repository.
        check: Run the self-test on models made from a Hugging Face one. It takes a second or two, and the result is
            kept in the cache directory. A model with other logits than its source is refused; see
            `unpact_lens.models.self_test`.

    Returns:
        A `HookedTransformer` or a `TransformerBridge`.

    Raises:
        InputError: If there is no such model, it cannot be wrapped in this way, its weights contain NaN, files are
            missing, or the adapter does not fit. The message says what to do.
    """
    if wrap not in WRAPS:
        raise InputError(f"wrap={wrap!r}; give {', '.join(map(repr, WRAPS))}")
    if wrap == "hooked":
        require_hooked('wrap="hooked"')
    merged = None if adapter is None else check_adapter(adapter)
    if device_map is not None:
        named = isinstance(spec, (str, os.PathLike)) and spec not in NAMES and not str(spec).lower().endswith(".gguf")
        wrap = check_device_map(device_map, wrap, device, named=named, merges=merged is not None)
    if isinstance(spec, TransformerBridge) and merged is not None:
        base: HookedModel = _live(spec, wrap)
        return share_with_adapter(base, merged)
    if isinstance(spec, (HookedTransformer, TransformerBridge)):
        Wanted(wrap, "", dtype, merged).no_adapter(f"a live {type(spec).__name__}")
        return _live(spec, wrap)
    if is_peft_model(spec):
        spec = merged_peft_model(spec)
    if isinstance(spec, PreTrainedModel):
        check_not_quantised(spec)
        return _wrap(spec, tokenizer, Wanted(wrap, device or spec.device, dtype, merged, check))
    if not isinstance(spec, (str, os.PathLike)):
        raise InputError(
            f"a {type(spec).__name__} is not a model; give a name ({', '.join(map(repr, NAMES))}), a directory, a hub "
            "id, a Hugging Face causal model, a HookedTransformer or a TransformerBridge"
        )
    if tokenizer is not None:
        raise InputError("tokenizer= is for a live Hugging Face model; a name or directory brings its own")
    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    wanted = Wanted(wrap, target, dtype, merged, check, revision, subfolder, device_map)
    if isinstance(spec, str) and spec in NAMES:
        _no_place(wanted, f"the model {spec!r}")
        return NAMES[spec](wanted)
    path = Path(spec).expanduser()
    if path.is_dir():
        if revision is not None:
            raise InputError(f"revision={revision!r} is for hub ids; {spec} is a directory")
        mark = path / (RESULT if (path / RESULT).is_file() else MANIFEST)
        return steady(mark, lambda: _from_directory(path, wanted), checked=False)
    if path.suffix.lower() == ".gguf" and path.is_file():
        _no_place(wanted, spec)
        return _from_gguf(path, wanted)
    if path.exists():
        raise InputError(f"{spec} is a file; give the directory that holds config.json, weights and tokenizer")
    _check_hub_id(str(spec))
    _find_on_hub(str(spec), wanted)
    return _from_pretrained(str(spec), wanted)


def _no_place(wanted: Wanted, spec: object) -> None:
    """Refuse a revision or a folder of something that has none."""
    if wanted.revision is not None or wanted.subfolder:
        raise InputError(f"revision= and subfolder= are for hub ids and directories; {spec} has none")


def _builtin(name: str) -> Callable[[Wanted], HookedModel]:
    def load(wanted: Wanted) -> HookedModel:
        from unpact_lens.models.builtin import ASSETS, RECIPE, builtin_directory

        return steady(ASSETS / RECIPE, lambda: _from_directory(builtin_directory(name), wanted), checked=False)

    return load


def _moved(model: HookedModel, wanted: Wanted) -> HookedModel:
    """Move the model to a device and a dtype, without the lines that TransformerLens prints to stdout."""
    for target in (wanted.device, wanted.dtype):
        if target is not None:
            model = model.to(target, print_details=False)
    return model


def _packaged(name: str) -> Callable[[Wanted], HookedModel]:
    return lambda wanted: _from_directory(packaged_directory(name), wanted)


NAMES: Registry[Callable[[Wanted], HookedModel]] = Registry("model")
"""Functions that load a model, by the model's name."""
NAMES.add("builtin", _builtin("builtin"))
NAMES.add("builtin-retrain", _builtin("builtin-retrain"))
for _name in PACKAGED:
    NAMES.add(_name, _packaged(_name))


def _live(model: HookedTransformer | TransformerBridge, wrap: str) -> HookedModel:
    if wrap == "bridge" and isinstance(model, HookedTransformer):
        raise InputError("a HookedTransformer cannot be turned into a bridge; pass the Hugging Face model it came from")
    if isinstance(model, HookedTransformer):
        if model.cfg.attention_dir != "causal":
            raise InputError(f"attention_dir={model.cfg.attention_dir!r}: only causal language models can be analysed")
        if model.cfg.normalization_type in ("LNPre", "RMSPre"):
            warnings.warn(
                "this HookedTransformer has its norms folded into the weights; two models folded separately have "
                "different bases, so compare it only with models trained from it (or load with fold_ln=False)",
                stacklevel=3,
            )
    check_sound(model.named_parameters())
    return model.eval()


def _wrap(
    hf: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, wanted: Wanted, *, own: bool = False
) -> HookedModel:
    """Hook a Hugging Face model and test the result.

    Args:
        hf: Source model.
        tokenizer: Its tokenizer, or None.
        wanted: Form of the result.
        own: Whether the model may be changed, so that it need not be copied.
    """
    if wanted.adapter is not None:
        hf = merge_adapter(hf, wanted.adapter)
    check_sound(hf.named_parameters())
    dtype = wanted.dtype or torch.float32
    kinds = (*(("hooked",) if HAS_HOOKED else ()), "bridge") if wanted.wrap == "auto" else (wanted.wrap,)
    for kind in kinds:
        try:
            if kind == "hooked":
                source = _source(hf, dtype, wanted)
                return _tested(to_hooked(hf, tokenizer, device=wanted.device, dtype=dtype), source)
            source = _source(hf, dtype, wanted)
            return _tested(to_bridge(hf, tokenizer, device=wanted.device, dtype=dtype, own=own), source)
        except InputError:
            if kind == kinds[-1]:
                raise
    raise AssertionError(kinds)


def _source(hf: PreTrainedModel, dtype: torch.dtype, wanted: Wanted) -> Source | None:
    """Take from the source model what the self-test compares, or None if there will be no test."""
    if not wanted.check:
        return None
    if next(hf.parameters()).dtype == dtype:
        return Source.of(hf)
    return Source.of(deep_copy(hf).to(dtype))


def _tested(model: HookedModel, source: Source | None) -> HookedModel:
    """Run the self-test on a model and return it.

    Raises:
        InputError: If its logits differ from those of its source model, or depend on the batch.
    """
    if source is not None:
        self_test(model, source)
        kind = "bridge" if hooked.is_bridge(model) else "HookedTransformer"
        for check in ("logits", "padding"):
            require(model, check, feature=f"every analysis of the {kind}")
    return model


def _from_directory(path: Path, wanted: Wanted) -> HookedModel:
    if wanted.subfolder:
        path = path / wanted.subfolder
        wanted = replace(wanted, subfolder="")
        if not path.is_dir():
            raise InputError(f"no directory {path}; give a subfolder= that exists")
    saved = saved_models(path)
    if len(saved) == 1:
        path = saved[0]
    config = path / "config.json"
    if not config.is_file() and (path / ADAPTER_CONFIG).is_file():
        return _from_adapter(path, wanted)
    if not config.is_file():
        raise InputError(f"{path} has no config.json; give the directory that save_pretrained() wrote")
    if is_checkpoint(path):
        wanted.no_adapter(path)
        if wanted.device_map is not None:
            raise InputError(f"device_map= is for Hugging Face models; {path} holds a saved hooked model")
        model = load_checkpoint(path, device=torch.device(wanted.device))
        found = "bridge" if isinstance(model, TransformerBridge) else "hooked"
        if found == "hooked" and wanted.wrap == "bridge":
            raise InputError(f'{path} holds a HookedTransformer; drop wrap="bridge"')
        return _moved(model, wanted)
    check_files(path)
    if not any((path / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")):
        raise InputError(
            f"{path} has no tokenizer (tokenizer.json or tokenizer_config.json); save the model's tokenizer there, or "
            "pass the loaded model and its tokenizer="
        )
    if wanted.wrap == "hooked":
        for architecture in read_json(config).get("architectures") or ():
            check_supported(architecture)
    return _from_pretrained(str(path), wanted)


def _from_adapter(path: Path, wanted: Wanted) -> HookedModel:
    """Load the base that an adapter names and merge the adapter into it."""
    wanted.no_adapter(f"the adapter {path}, which is one itself,")
    if wanted.device_map is not None:
        raise InputError(f"{path} is an adapter; load its base with device_map=, then load_model(base, adapter=)")
    adapter = check_adapter(path)
    base = read_json(path / ADAPTER_CONFIG).get("base_model_name_or_path")
    if not base:
        raise InputError(f"{path / ADAPTER_CONFIG} names no base model; load the base with adapter={str(path)!r}")
    beside = path / str(base)
    place = str(base) if Path(str(base)).expanduser().is_dir() or not beside.is_dir() else str(beside)
    try:
        return load_model(
            place, wrap=wanted.wrap, device=wanted.device, dtype=wanted.dtype, adapter=adapter, check=wanted.check
        )
    except InputError as error:
        raise InputError(f"adapter {path}, base {base}: {error}") from error


def _from_gguf(path: Path, wanted: Wanted) -> HookedModel:
    if importlib.util.find_spec("gguf") is None:
        raise InputError(f'{path} needs the package gguf: pip install "unpact-lens[smollm2]"')
    try:
        with transformers_progress():
            hf, tokenizer = read_gguf(path)
    except (OSError, ValueError, KeyError, NotImplementedError, RuntimeError) as error:
        raise InputError(f"cannot load {path}: {_one_line(error)}") from error
    return _wrap(hf, tokenizer, wanted, own=True)


def _from_pretrained(name: str, wanted: Wanted) -> HookedModel:
    """Load a model with transformers, from safetensors only and without code from its repository."""
    place = {"revision": wanted.revision or "main", "subfolder": wanted.subfolder, "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(name, **place)
        check_no_code(vars(config), f"config.json of {name}")
        if wanted.wrap == "hooked":
            for architecture in config.architectures or ():
                check_supported(architecture)
        plain = dequantiser(config.to_dict(), name)
        tokenizer = AutoTokenizer.from_pretrained(name, **place)
        # With eager attention, hooks on a bridge see attention scores and patterns.
        with transformers_progress():
            hf, report = AutoModelForCausalLM.from_pretrained(
                name,
                config=config,
                dtype=wanted.dtype or torch.float32,
                use_safetensors=True,
                attn_implementation="eager",
                output_loading_info=True,
                **({} if wanted.device_map is None else {"device_map": wanted.device_map}),
                **place,
                **({} if plain is None else {"quantization_config": plain}),
            )
    except InputError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise InputError(f"cannot load {name}: {_one_line(error)}") from error
    _check_report(name, report)
    if plain is not None:
        forget_quantisation(hf)
    check_not_quantised(hf)
    return _wrap(hf, tokenizer, wanted, own=True)


def _check_report(name: str, report: Mapping[str, Collection[object]]) -> None:
    """Refuse a model whose files do not hold exactly the weights that its configuration asks for."""
    missing, unexpected = (sorted(map(str, report.get(k) or ())) for k in ("missing_keys", "unexpected_keys"))
    if missing:
        raise InputError(f"cannot load {name}: its files lack the weight {missing[0]}")
    if mismatched := sorted(report.get("mismatched_keys") or (), key=str):
        raise InputError(f"cannot load {name}: a weight is not of the size that config.json says: {mismatched[0]}")
    if left := [key for key in unexpected if not key.endswith(COMPUTED)]:
        raise InputError(
            f"cannot load {name}: its files hold the weight {left[0]}, for which the architecture has no place; "
            "correct config.json"
        )


def require_reachable(spec: str, revision: str | None = None) -> None:
    """Refuse a hub id that is neither in the local cache nor on the hub, before anything is loaded.

    Args:
        spec: Hub id.
        revision: Branch, tag or commit. If None, the main branch.

    Raises:
        InputError: If it is in neither, or the hub cannot be asked.
    """
    _check_hub_id(spec)
    _find_on_hub(spec, Wanted("auto", "cpu", None, None, revision=revision))


def _check_hub_id(spec: str) -> None:
    if spec.startswith((".", "/", "~")) or spec.count("/") > 1 or "\\" in spec:
        raise InputError(f"no directory {spec!r}; give one that exists, or a name: {', '.join(map(repr, NAMES))}")
    hint = nearest(spec, NAMES)
    if "/" not in spec and hint.startswith("did you mean"):
        raise InputError(f"unknown model {spec!r}; {hint}")


def _find_on_hub(spec: str, wanted: Wanted) -> None:
    """Check that a hub id is in the local cache or on the hub.

    Raises:
        InputError: If it is in neither, or the hub cannot be reached.
    """
    known = f"known names are {', '.join(map(repr, NAMES))}"
    try:
        file = "/".join(part for part in (wanted.subfolder, "config.json") if part)
        if isinstance(try_to_load_from_cache(spec, file, revision=wanted.revision), str):
            return
        if constants.HF_HUB_OFFLINE:
            reason = "HF_HUB_OFFLINE is set"
        else:
            HfApi().model_info(spec, timeout=HUB_TIMEOUT, revision=wanted.revision)
            return
    except HFValidationError:
        raise InputError(f"unknown model {spec!r}: no directory and no hub id; {known}") from None
    except GatedRepoError:
        raise InputError(f"{spec!r} is gated: accept its terms on the hub and run `hf auth login`") from None
    except RevisionNotFoundError:
        raise InputError(f"{spec!r} has no revision {wanted.revision!r}; give a branch, tag or commit of it") from None
    except RepositoryNotFoundError:
        raise InputError(f"unknown model {spec!r}: the hub has none of that name, or it is private; {known}") from None
    except Exception as error:
        # The hub's client raises errors of its transport library, which differs between versions of the client.
        reason = _one_line(error)
    raise InputError(
        f"{spec!r} is no directory and not in the local hub cache, and the hub cannot be asked ({reason}); put its "
        f"config.json, *.safetensors and tokenizer files into a directory and give that; {known}"
    )


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
