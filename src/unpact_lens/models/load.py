"""Where a hooked model comes from: a name, a directory, a hub id, or a model in memory."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, constants, try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError
from safetensors import SafetensorError
from transformer_lens import HookedTransformer
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from unpact_lens.errors import InputError, nearest
from unpact_lens.models.checkpoint import is_checkpoint, load_checkpoint
from unpact_lens.models.convert import check_sound, check_supported, to_bridge, to_hooked
from unpact_lens.models.lora_checkpoint import check_adapter, merge_adapter
from unpact_lens.models.pip_models import PACKAGED, packaged_directory
from unpact_lens.progress import transformers_progress
from unpact_lens.registry import Registry
from unpact_lens.results import read_json

WRAPS = ("hooked", "bridge", "auto")
"""What a model is made into; see `load_model`."""

HUB_TIMEOUT = 10.0
"""Seconds to wait for the hub's first answer."""


@dataclass(frozen=True)
class Wanted:
    """What a model is to be made into.

    Attributes:
        wrap: one of `WRAPS`.
        device: where it is to stand.
        dtype: of its weights; None for fp32, or what a hooked model has.
        adapter: directory of a low-rank adapter to merge into it, or None.
    """

    wrap: str
    device: torch.device | str
    dtype: torch.dtype | None
    adapter: Path | None

    def no_adapter(self, spec: object) -> None:
        """Refuse an adapter where there is no Hugging Face model to merge it into."""
        if self.adapter is not None:
            raise InputError(f"adapter= needs a Hugging Face model as its base; {spec} is a hooked one")


def load_model(
    spec: Any,
    *,
    wrap: str = "hooked",
    tokenizer: Any = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    adapter: str | os.PathLike[str] | None = None,
) -> Any:
    """A causal language model with TransformerLens hooks and raw weights, in eval mode.

    `cfg.default_prepend_bos` is what the model's own tokenizer does. `.tied_embeddings` tells whether input and output
    embeddings are one weight. Weights that TransformerLens adds to an architecture do not require gradients.

    Args:
        spec: one of
            - a name: `"builtin"` (the embedded default), `"builtin-retrain"` (its control, which never learned the
              forget set), `"smollm2"` (SmolLM2-135M-Instruct; needs the `[smollm2]` extra), `"gemma3-270m"` (Gemma 3
              270M, under Google's terms; needs the `[gemma3]` extra and `wrap="bridge"`);
            - a directory: a Hugging Face one of the GPT-2, Llama, Mistral, Qwen2 or GPT-NeoX (Pythia) architecture
              (with `wrap="bridge"`: of any that TransformerLens bridges), or one that `save_model` or
              `save` (of an `Unlearned`) wrote;
            - a hub id, e.g. `"openai-community/gpt2"`;
            - a live Hugging Face model, with its `tokenizer`; it is copied, never changed;
            - a live `HookedTransformer` or `TransformerBridge`: returned itself, after checks, put in eval mode.
        wrap: `"hooked"` for a `HookedTransformer`, `"bridge"` for a `TransformerBridge`, which runs the original
            Hugging Face code: faster, and for any architecture; `"auto"` for the first where it can have equal logits,
            else the second (the command line's choice).
        tokenizer: for a live Hugging Face model; None if it will be given ids only (`wrap="hooked"`).
        device: None for CUDA where there is one, else the CPU; a live model stays where it is.
        dtype: None for fp32 (decompositions need it); a live hooked model and a saved one keep theirs.
        adapter: directory of a low-rank adapter that PEFT wrote (safetensors), merged into the model, which is its
            base; needs the `[lora]` extra.

    Returns:
        A `HookedTransformer` or a `TransformerBridge`.

    Raises:
        InputError: if there is no such model, it cannot be wrapped so, its weights hold NaN, files are missing, or the
            adapter does not fit; the message says what to do.
    """
    if wrap not in WRAPS:
        raise InputError(f"wrap={wrap!r}; give {', '.join(map(repr, WRAPS))}")
    merged = None if adapter is None else check_adapter(adapter)
    if isinstance(spec, (HookedTransformer, TransformerBridge)):
        Wanted(wrap, "", dtype, merged).no_adapter(f"a live {type(spec).__name__}")
        return _live(spec, wrap)
    if isinstance(spec, PreTrainedModel):
        return _wrap(spec, tokenizer, Wanted(wrap, device or spec.device, dtype, merged))
    if not isinstance(spec, (str, os.PathLike)):
        raise InputError(
            f"a {type(spec).__name__} is not a model; give a name ({', '.join(map(repr, NAMES))}), a directory, a hub "
            "id, a Hugging Face causal model, a HookedTransformer or a TransformerBridge"
        )
    if tokenizer is not None:
        raise InputError("tokenizer= is for a live Hugging Face model; a name or directory brings its own")
    wanted = Wanted(wrap, torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu")), dtype, merged)
    if isinstance(spec, str) and spec in NAMES:
        return NAMES[spec](wanted)
    path = Path(spec).expanduser()
    if path.is_dir():
        return _from_directory(path, wanted)
    if path.exists():
        raise InputError(f"{spec} is a file; give the directory that holds config.json, weights and tokenizer")
    _refuse_what_is_no_hub_id(str(spec))
    _find_on_hub(str(spec))
    return _from_pretrained(str(spec), wanted)


def _builtin(name: str) -> Callable[[Wanted], Any]:
    def load(wanted: Wanted) -> Any:
        from unpact_lens.models.builtin import load_builtin_model

        if wanted.wrap == "bridge":
            raise InputError(f'{name!r} exists only as a HookedTransformer; drop wrap="bridge"')
        wanted.no_adapter(repr(name))
        return _moved(load_builtin_model(name), wanted)

    return load


def _moved(model: Any, wanted: Wanted) -> Any:
    """The model on a device and in a dtype, without the lines that TransformerLens prints to stdout on the way."""
    quietly = {} if isinstance(model, TransformerBridge) else {"print_details": False}
    for target in (wanted.device, wanted.dtype):
        if target is not None:
            model = model.to(target, **quietly)
    return model


def _packaged(name: str) -> Callable[[Wanted], Any]:
    return lambda wanted: _from_directory(packaged_directory(name), wanted)


NAMES: Registry[Callable[[Wanted], Any]] = Registry("model")
"""Models that are known by name."""
NAMES.add("builtin", _builtin("builtin"))
NAMES.add("builtin-retrain", _builtin("builtin-retrain"))
for _name in PACKAGED:
    NAMES.add(_name, _packaged(_name))


def _live(model: HookedTransformer | TransformerBridge, wrap: str) -> Any:
    if wrap == "bridge" and isinstance(model, HookedTransformer):
        raise InputError("a HookedTransformer cannot be turned into a bridge; pass the Hugging Face model it came from")
    if isinstance(model, HookedTransformer):
        if model.cfg.attention_dir != "causal":
            raise InputError(f"attention_dir={model.cfg.attention_dir!r}: only causal language models can be analysed")
        if model.cfg.normalization_type in ("LNPre", "RMSPre"):
            warnings.warn(
                "this HookedTransformer has its norms folded into the weights; folding two models apart gives two "
                "bases, so compare it only with models trained from it (or load with fold_ln=False)",
                stacklevel=3,
            )
    check_sound(model.named_parameters())
    return model.eval()


def _wrap(hf: Any, tokenizer: Any, wanted: Wanted) -> HookedTransformer | TransformerBridge:
    if wanted.adapter is not None:
        hf = merge_adapter(hf, wanted.adapter)
    dtype = wanted.dtype or torch.float32
    if wanted.wrap != "bridge":
        try:
            return to_hooked(hf, tokenizer, device=wanted.device, dtype=dtype)
        except InputError:
            if wanted.wrap == "hooked":
                raise
    return to_bridge(hf, tokenizer, device=wanted.device, dtype=dtype)


def _from_directory(path: Path, wanted: Wanted) -> Any:
    saved = sorted(path.glob("model-*")) if (path / "result.json").is_file() else []
    if len(saved) == 1:
        path = saved[0]
    config = path / "config.json"
    if not config.is_file():
        raise InputError(f"{path} has no config.json; give the directory that save_pretrained() wrote")
    if is_checkpoint(path):
        wanted.no_adapter(path)
        model = load_checkpoint(path, device=torch.device(wanted.device))
        found = "bridge" if isinstance(model, TransformerBridge) else "hooked"
        if found == "hooked" and wanted.wrap == "bridge":
            raise InputError(f'{path} holds a HookedTransformer; drop wrap="bridge"')
        return _moved(model, wanted)
    if not any(path.glob("*.safetensors")):
        pickled = sorted(p.name for p in path.glob("*.bin"))
        raise InputError(
            f"{path} has pickled weights only ({pickled[0]}), which can run code when read; convert them to safetensors"
            if pickled
            else f"{path} has no *.safetensors weights; give the directory that save_pretrained() wrote"
        )
    if not any((path / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")):
        raise InputError(
            f"{path} has no tokenizer (tokenizer.json or tokenizer_config.json); save the model's tokenizer there, or "
            "pass the loaded model and its tokenizer="
        )
    if wanted.wrap == "hooked":
        for architecture in read_json(config).get("architectures") or ():
            check_supported(architecture)
    return _from_pretrained(str(path), wanted)


def _from_pretrained(name: str, wanted: Wanted) -> Any:
    """Read with transformers: safetensors only, no code from the repository."""
    try:
        config = AutoConfig.from_pretrained(name)
        if wanted.wrap == "hooked":
            for architecture in config.architectures or ():
                check_supported(architecture)
        tokenizer = AutoTokenizer.from_pretrained(name)
        # Eager attention, so that hooks on the bridge see scores and patterns.
        with transformers_progress():
            hf, report = AutoModelForCausalLM.from_pretrained(
                name,
                config=config,
                dtype=wanted.dtype or torch.float32,
                use_safetensors=True,
                attn_implementation="eager",
                output_loading_info=True,
            )
    except InputError:
        raise
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise InputError(f"cannot load {name}: {_one_line(error)}") from error
    if report["missing_keys"]:
        raise InputError(f"cannot load {name}: its files lack the weight {min(report['missing_keys'])}")
    return _wrap(hf, tokenizer, wanted)


def _refuse_what_is_no_hub_id(spec: str) -> None:
    if spec.startswith((".", "/", "~")) or spec.count("/") > 1 or "\\" in spec:
        raise InputError(f"no directory {spec!r}; give one that exists, or a name: {', '.join(map(repr, NAMES))}")
    hint = nearest(spec, NAMES)
    if "/" not in spec and hint.startswith("did you mean"):
        raise InputError(f"unknown model {spec!r}; {hint}")


def _find_on_hub(spec: str) -> None:
    """Return if a hub id is in the local cache, or the hub knows it.

    Raises:
        InputError: if it does not, or cannot be asked.
    """
    known = f"known names are {', '.join(map(repr, NAMES))}"
    try:
        if isinstance(try_to_load_from_cache(spec, "config.json"), str):
            return
        if constants.HF_HUB_OFFLINE:
            reason = "HF_HUB_OFFLINE is set"
        else:
            HfApi().model_info(spec, timeout=HUB_TIMEOUT)
            return
    except HFValidationError:
        raise InputError(f"unknown model {spec!r}: no directory and no hub id; {known}") from None
    except GatedRepoError:
        raise InputError(f"{spec!r} is gated: accept its terms on the hub and run `hf auth login`") from None
    except RepositoryNotFoundError:
        raise InputError(f"unknown model {spec!r}: the hub has none of that name, or it is private; {known}") from None
    except Exception as error:
        # The hub's client lets through the errors of its transport library, which differs between its versions.
        reason = _one_line(error)
    raise InputError(
        f"{spec!r} is no directory and not in the local hub cache, and the hub cannot be asked ({reason}); put its "
        f"config.json, *.safetensors and tokenizer files into a directory and give that; {known}"
    )


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
