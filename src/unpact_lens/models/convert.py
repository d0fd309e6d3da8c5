"""Convert a Hugging Face model to a hooked one with raw weights: no norm folded, no weight centred.

`to_hooked` copies the weights into a `HookedTransformer`; `hooked_families.py` says how. `to_bridge` wraps the model.
Both give the logits of the original.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from unittest import mock

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.utilities.activation_functions import SUPPORTED_ACTIVATIONS
from transformers import (
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoProcessor,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from unpact_lens.errors import InputError
from unpact_lens.models.exclusive import COPYING, deep_copy
from unpact_lens.models.hooked_families import FAMILIES, check_supported, refuse
from unpact_lens.models.lens_version import HookedTransformer, HookedTransformerConfig, accept_cache, require_hooked
from unpact_lens.models.random_state import random_state_kept
from unpact_lens.models.ready import check_sound
from unpact_lens.models.tied_embedding import shares_embedding
from unpact_lens.models.weight_layout import lay_out
from unpact_lens.models.weights import fused_weights


def to_hooked(
    hf: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> HookedTransformer:
    """Convert a Hugging Face model to a `HookedTransformer` with a copy of its raw weights.

    Args:
        hf: Causal model of one of `FAMILIES`; it is not changed.
        tokenizer: Tokenizer of the model, or None; a copy is attached.
        device: Device of the result. If None, the device of `hf`.
        dtype: Type of the result's weights.

    Returns:
        The model in eval mode, with the logits of `hf`. `.tied_embeddings` is True if `W_U` must stay the transpose of
        `W_E`. Parameters that the architecture lacks are zero and do not require gradients.

    Raises:
        InputError: If the architecture or its configuration is not supported, a weight is NaN, or TransformerLens has
            no HookedTransformer.
    """
    require_hooked('wrap="hooked"')
    architecture = type(hf).__name__
    check_supported(architecture)
    family = FAMILIES[architecture]
    source = copy.deepcopy(hf.config)
    source.architectures = [architecture]  # a model that was made in memory may name none
    fields = family.config(source)
    refuse(hf.config, f"the activation {fields['act_fn']!r}", fields["act_fn"] not in SUPPORTED_ACTIVATIONS)
    check_sound(hf.named_parameters())
    target = torch.device(device) if device is not None else next(hf.parameters()).device
    config = HookedTransformerConfig(
        **fields,
        d_vocab=hf.get_input_embeddings().weight.shape[0],
        model_name=hf.config.model_type,
        original_architecture=architecture,
        init_weights=False,
        default_prepend_bos=False,
        device=str(target),
        dtype=dtype,
    )
    model = HookedTransformer(config)
    parameters = dict(model.named_parameters())
    flags = {name: p.requires_grad for name, p in hf.named_parameters()}
    try:
        # With gradients, autograd records which weight each converted tensor is made from.
        hf.requires_grad_(True)
        with torch.enable_grad():
            converted = {n: t for n, t in family.weights(hf, config).items() if n in parameters}
        from_source = _derived(hf, converted)
    except (AttributeError, KeyError, IndexError, TypeError, RuntimeError, AssertionError) as error:
        raise InputError(
            f"this {architecture} cannot become a HookedTransformer ({str(error).splitlines()[0]}); "
            'load it with wrap="bridge"'
        ) from error
    finally:
        for name, source_parameter in hf.named_parameters():
            source_parameter.requires_grad_(flags[name])
    for name, parameter in parameters.items():  # what the architecture lacks: no norm and no bias
        if name not in converted:
            converted[name] = torch.ones_like(parameter) if name.endswith(".w") else torch.zeros_like(parameter)
        elif converted[name].numel() == parameter.numel():
            converted[name] = converted[name].reshape(parameter.shape)
    fill(model, converted)
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in from_source)
    share_equal_weights(model, converted)
    model.tied_embeddings = shares_embedding(hf)
    model.embedding_scale = family.embedding_scale(hf.config)
    model.generation_config = copy.deepcopy(getattr(hf, "generation_config", None))
    attach_tokenizer(model, tokenizer)
    return model.eval()


def _derived(hf: PreTrainedModel, converted: Mapping[str, torch.Tensor]) -> set[str]:
    """Return which converted weights are made from weights of the source model; the others are constants.

    Raises:
        InputError: If a weight of the source model is in none of them.
    """
    owned = {p.untyped_storage().data_ptr(): n for n, p in hf.named_parameters()}
    names = {id(p): n for n, p in hf.named_parameters()}
    derived, used = set(), set()
    for name, tensor in converted.items():
        sources = {owned[p] for p in (tensor.untyped_storage().data_ptr(),) if p in owned}
        sources |= {names[id(leaf)] for leaf in _leaves(tensor) if id(leaf) in names}
        if sources:
            derived.add(name)
        used |= sources
    if lost := [n for n in owned.values() if n not in used]:
        raise InputError(
            f"weight {lost[0]} has no place in a HookedTransformer of this {type(hf).__name__}; "
            'load it with wrap="bridge"'
        )
    return derived


def _leaves(tensor: torch.Tensor) -> list[torch.Tensor]:
    """Return the parameters that a tensor was computed from, as autograd recorded it."""
    found, waiting, seen = [], [tensor.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.append(node.variable)
        waiting += [before for before, _ in node.next_functions]
    return found


def share_equal_weights(model: HookedTransformer, converted: Mapping[str, torch.Tensor]) -> None:
    """Let the two norms of a block share one weight where the architecture has one norm (GPT-J, Phi).

    A `HookedTransformer` has two, and training would change one without the other.

    Args:
        model: Model whose parameters are filled.
        converted: The weights it was filled with; two that are the same memory are one weight of the source.
    """
    for layer, block in enumerate(model.blocks):
        for part in ("w", "b"):
            first, second = (converted.get(f"blocks.{layer}.{norm}.{part}") for norm in ("ln1", "ln2"))
            if first is not None and second is not None and first.data_ptr() == second.data_ptr():
                block.ln2.register_parameter(part, getattr(block.ln1, part))


def to_bridge(
    hf: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    own: bool = False,
) -> TransformerBridge:
    """Wrap a copy of a Hugging Face model in a `TransformerBridge`.

    Args:
        hf: Causal model of any architecture that TransformerLens can bridge; it is not changed.
        tokenizer: Tokenizer of the model; a copy is attached. If None, the bridge takes ids only.
        device: Device of the result. If None, the device of `hf`. A model with an `hf_device_map` stays where it is.
        dtype: Type of the result's weights.
        own: Whether the model is used up by this call and need not be copied.

    Returns:
        The bridge in eval mode. Only the model's own weights require gradients. The unembedding bias that
        TransformerLens adds and the fused query-key-value matrix that it does not use do not.

    Raises:
        InputError: If TransformerLens has no bridge for the architecture, or a weight is NaN.
    """
    check_sound(hf.named_parameters())
    model = hf if own else deep_copy(hf)
    model.config.architectures = [type(hf).__name__]  # a model that was made in memory may name none
    if getattr(model, "hf_device_map", None) is None:
        model.to(device=device, dtype=dtype)
    elif model.dtype != dtype:  # accelerate has placed it, and nothing may be moved
        raise InputError(f"a model with a device_map keeps its {model.dtype}; load it with dtype={dtype}")
    known = copy.deepcopy(_placeholder() if tokenizer is None else tokenizer)
    # With these entries TransformerLens uses the tokenizer as it is. Otherwise it would load another one by its name.
    known.init_kwargs = {**known.init_kwargs, "name_or_path": "", "add_bos_token": True}
    unembedding_bias = getattr(model.get_output_embeddings(), "bias", None) is not None
    tied = shares_embedding(model)
    target = next(model.parameters()).device
    try:
        with COPYING, random_state_kept(target), _no_processors():
            bridge = TransformerBridge.boot_transformers(
                hf.config.model_type,
                hf_model=model,
                tokenizer=known,
                device=str(target),
                dtype=dtype,
            )
    except (ValueError, KeyError, NotImplementedError, RuntimeError, AttributeError, TypeError) as error:
        reason = str(error).strip().splitlines()[0].split(" Available architectures:")[0]
        raise InputError(f"TransformerLens cannot bridge a {type(hf).__name__}: {reason}") from error
    if not unembedding_bias and getattr(bridge.original_model.get_output_embeddings(), "bias", None) is not None:
        bridge.original_model.get_output_embeddings().bias.requires_grad_(False)
    for fused in fused_weights(bridge):
        fused.weight.requires_grad_(False)
    accept_cache(bridge)
    bridge.tied_embeddings = tied
    bridge.cfg.d_vocab = model.get_input_embeddings().weight.shape[0]
    limit = _length_of_one_rule(model.config)
    if limit is not None:
        bridge.cfg.n_ctx = min(bridge.cfg.n_ctx, limit)
    bridge._tokenizer = None
    bridge.cfg.default_prepend_bos = False
    attach_tokenizer(bridge, tokenizer)
    return bridge.eval()


def _placeholder() -> PreTrainedTokenizerBase:
    """Return a tokenizer of one token, because TransformerLens makes no bridge without one."""
    words = Tokenizer(WordLevel({"</s>": 0}, unk_token="</s>"))
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>", unk_token="</s>", pad_token="</s>")


@contextmanager
def _no_processors() -> Iterator[None]:
    """Keep TransformerLens from loading the image or audio processor of a multimodal model, which no analysis uses.

    It would look for one on the hub by the model type. If that fails, it runs `pip install torchvision`, which replaces
    the installed torch.
    """
    with ExitStack() as patches:
        for processor in (AutoProcessor, AutoFeatureExtractor, AutoImageProcessor):
            if "from_pretrained" in vars(processor):  # without torchvision, one is a stand-in that loads nothing
                patches.enter_context(mock.patch.object(processor, "from_pretrained", return_value=None))
        yield


def _length_of_one_rule(config: PretrainedConfig) -> int | None:
    """Return the length up to which LongRoPE uses one set of frequencies, or None without LongRoPE.

    Beyond it, transformers chooses the frequencies by the longest text in a batch, so scores would depend on the batch.
    """
    rope = getattr(config.get_text_config(), "rope_parameters", None) or {}
    if rope.get("rope_type") != "longrope":
        return None
    return int(rope.get("original_max_position_embeddings") or config.original_max_position_embeddings)


def fill(model: HookedTransformer, state: Mapping[str, torch.Tensor]) -> None:
    """Copy named weights into a model, and lay them out in memory as they are read.

    Raises:
        InputError: If a weight is missing, unknown, or of another shape. No weight is copied then.
    """
    parameters = dict(model.named_parameters())
    for name in parameters.keys() | state.keys():
        if name not in state:
            raise InputError(f"weight {name} is missing")
        if name not in parameters:
            raise InputError(f"weight {name} is not part of this model")
        if parameters[name].shape != state[name].shape:
            raise InputError(
                f"weight {name} has shape {tuple(state[name].shape)}, expected {tuple(parameters[name].shape)}"
            )
    lay_out(model)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(state[name])


def attach_tokenizer(model: HookedTransformer | TransformerBridge, tokenizer: PreTrainedTokenizerBase | None) -> None:
    """Attach a copy of a tokenizer to a model, and set the model's BOS convention to the tokenizer's.

    `cfg.default_prepend_bos` becomes True if the tokenizer itself prepends BOS. Padding is set to the right, because
    with left padding TransformerLens masks leading tokens that look like padding.

    Args:
        model: A `HookedTransformer` or `TransformerBridge`.
        tokenizer: Hugging Face tokenizer, or None for a model that takes ids only.
    """
    if tokenizer is None:
        return
    own = copy.deepcopy(tokenizer)
    own.padding_side = "right"
    if own.pad_token_id is None:
        own.pad_token = own.eos_token or own.bos_token or own.convert_ids_to_tokens(0)
    prepends = prepends_bos(own)
    model.cfg.tokenizer_prepends_bos = prepends
    model.cfg.default_prepend_bos = prepends
    # The bridge's own setter would wrap the tokenizer again and resize the vocabulary.
    setattr(model, "_tokenizer" if isinstance(model, TransformerBridge) else "tokenizer", own)


def prepends_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether a tokenizer prepends its BOS token by default."""
    ids = tokenizer("a")["input_ids"]
    return tokenizer.bos_token_id is not None and ids[:1] == [tokenizer.bos_token_id]
