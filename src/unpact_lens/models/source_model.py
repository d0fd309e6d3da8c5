"""Run the source model of a bridge as transformers wrote it, without hooks.

A bridge replaces the modules of its Hugging Face model by ones that call hooks. This file builds the Hugging Face model
again, without memory of its own: its parameters, buffers and adapters *are* those of the bridge. Attention is computed
by PyTorch's fused kernel: over a `TokenTree`, so that nothing is padded and no beginning is computed twice, or over
padded rows, where gradients are needed.

Whether this is exact is decided by what the model computes: `is_exact` compares the logits of a small tree
with those of the hooked model, once for each architecture. Where they differ (state-space layers, convolutions, ALiBi,
attention that transformers does not let be replaced), everything runs through the hooked model.
"""

from __future__ import annotations

import contextvars
import copy
import weakref
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from unpact_lens.models import hooked
from unpact_lens.models.decoding import full_precision, tolerance
from unpact_lens.models.exclusive import exclusive
from unpact_lens.models.fused_rows import FusedRows, fused_rows
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.independence import probe_tokens
from unpact_lens.models.lens_version import renamed_cache
from unpact_lens.models.low_rank import HELD, LowRank, attach, parametrisations
from unpact_lens.models.ready import require_ready
from unpact_lens.models.token_tree import TokenTree, TreeAttention, attend_in_groups, hiding_mask
from unpact_lens.models.weights import WRAPPED

ATTENTION = "unpact_source"
"""Name under which transformers finds `source_attention`."""


@runtime_checkable
class Attention(Protocol):
    """Attention of all layers over the tokens of one forward pass."""

    def __call__(
        self,
        layer: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scaling: float | None,
        window: int | None,
        softcap: float | None,
        /,
    ) -> Tensor:
        """Return the outputs of all heads, `[batch, pos, head, d_v]`."""


def row_attention(
    layer: nn.Module,
    query: Float[Tensor, "row head pos d"],
    key: Float[Tensor, "row kv_head pos d"],
    value: Float[Tensor, "row kv_head pos d_v"],
    scaling: float | None,
    window: int | None,
    softcap: float | None,
    /,
) -> Float[Tensor, "row pos head d_v"]:
    """Compute causal attention within each row; rows may be padded on the right."""
    length = query.shape[2]
    mask: Tensor | None = None
    if softcap or (window is not None and length > window):
        at = torch.arange(length, device=query.device)
        mask = hiding_mask(at[:, None] - at, window, query.dtype)[None, None]  # [1, 1, query, key]
    out = attend_in_groups(query, key, value, mask, causal=mask is None, scaling=scaling, softcap=softcap)
    return out.transpose(1, 2)


# The default serves layers that are run again in the backward pass, in which nothing is set.
_CURRENT: contextvars.ContextVar[Attention] = contextvars.ContextVar("unpact_attention", default=row_attention)


def source_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **options: object,
) -> tuple[Tensor, None]:
    """Compute attention for transformers as the current forward pass lays its tokens out.

    Raises:
        NotImplementedError: If a layer asks for more than windows and soft-caps: a mask of its own, sinks, biases.
    """
    odd = sorted(name for name in ("s_aux", "position_bias", "head_mask") if options.get(name) is not None)
    if attention_mask is not None or odd or dropout:
        raise NotImplementedError(f"attention with {', '.join(odd) or 'a mask or dropout'} is not computed here")
    return _CURRENT.get()(module, query, key, value, scaling, sliding_window, softcap), None


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, source_attention)


Table = dict[str, Tensor | None]
"""Parameters or buffers of a module, by name."""

Link = tuple[Table, str, Table, str]
"""Table that holds a tensor in the source model, its name there, the bridge's table, and its name there."""


@dataclass
class SourceModel:
    """Hold the source model of a bridge, which shares the bridge's weights.

    Attributes:
        hf: Hugging Face model in eval mode.
        links: Where each parameter and buffer of `hf` comes from.
        fused: Matrices whose parts the bridge uses in their place; see `FusedRows`.
        extra: Parameters that the bridge added; the source model has none, so they must be 0.
        modules: Number of modules of the bridge, without adapters, when this was built.
    """

    hf: PreTrainedModel
    links: list[Link]
    fused: list[FusedRows]
    extra: list[nn.Parameter]
    modules: int

    def refresh(self) -> bool:
        """Take over what changed in the bridge; return False if the bridge now computes something else."""
        for mine, name, theirs, own in self.links:
            if mine[name] is not theirs[own]:
                mine[name] = theirs[own]
        # Weights may be changed through `.data`, which leaves no trace, so parts are copied at each use.
        for fused in self.fused:
            fused.join()
        return not any(bool(p.detach().any()) for p in self.extra)


_BUILT: weakref.WeakKeyDictionary[object, tuple[list[nn.Module], SourceModel | None]] = weakref.WeakKeyDictionary()
"""Adapters of each bridge that was asked for its source model, and the source model built with them, or None."""

EXACT = "_unpact_source_model_is_exact"
"""Attribute in which a bridge keeps the answer of `is_exact`, for itself and its copies; with adapters, it is asked
again."""

PROBE_TOKENS = 12
"""Length of the texts on which logits are compared."""


def source_model(model: HookedModel, *, with_gradients: bool = False) -> SourceModel | None:
    """Return the source model of a bridge, up to date, or None where the hooked model must run.

    None is returned

    - for models that are no bridge, and bridges whose modules were changed, but for adapters;
    - while there are hooks on the model;
    - within a computation with gradients, unless they are asked for and no matrix of the source model is fused, whose
      parts would get none;
    - in double precision, which is for exact tests: transformers computes some softmaxes in fp32 there;
    - where the check of `is_exact` fails.

    Args:
        model: Hooked model.
        with_gradients: Whether gradients are to reach the bridge's weights.

    Raises:
        InputError: If a weight is not finite, or the model is in training mode and drops activations.
    """
    if not hooked.is_bridge(model) or model.compatibility_mode:
        return None
    if torch.is_grad_enabled() and not with_gradients:
        return None
    if next(iter(model.parameters())).dtype == torch.float64 or not vars(model).get(EXACT, True):
        return None
    require_ready(model)
    with exclusive(model):
        seen = _seen(model.original_model)
        if seen.hooks:
            return None
        if model not in _BUILT or not _same(_BUILT[model][0], seen.adapters):
            _BUILT[model] = seen.adapters, _built(model, seen)
            if seen.adapters:
                vars(model).pop(EXACT, None)
        found = _BUILT[model][1]
        if found is None or found.modules != seen.modules or (with_gradients and found.fused) or not found.refresh():
            return None
        if EXACT not in vars(model):
            vars(model)[EXACT] = is_exact(model, found)
        return found if vars(model)[EXACT] else None


def _same(ours: list[nn.Module], theirs: list[nn.Module]) -> bool:
    """Return whether two lists hold the same objects."""
    return len(ours) == len(theirs) and all(a is b for a, b in zip(ours, theirs, strict=True))


def _built(model: HookedModel, seen: Seen) -> SourceModel | None:
    """Build the Hugging Face model of a bridge around the bridge's own parameters, buffers and adapters."""
    original = model.original_model
    try:
        with torch.device("meta"):
            hf = type(original)._from_config(copy.deepcopy(original.config), attn_implementation=ATTENTION)
        fused = fused_rows(model)
    except Exception:
        # Architectures raise errors of all kinds when they are built with another attention or without memory.
        return None
    if seen.adapters and (fused or not _adapted(hf, original)):
        return None
    tables = _tables(original)
    links: list[Link] = []
    for prefix, module in hf.named_modules(remove_duplicate=False):
        for mine in (module._parameters, module._buffers):
            for name, tensor in mine.items():
                if tensor is None:
                    continue
                theirs, own = tables.get(f"{prefix}.{name}".lstrip("."), ({}, ""))
                held = theirs.get(own)
                if held is None or held.shape != tensor.shape:
                    return None
                links.append((mine, name, theirs, own))
    used = {id(theirs[own]) for _, _, theirs, own in links} | {id(part) for f in fused for part in f.parts}
    extra = [p for p in original.parameters() if id(p) not in used]
    if any(p.requires_grad for p in extra):
        return None
    return SourceModel(hf.eval(), links, fused, extra, seen.modules)


def _adapted(hf: PreTrainedModel, original: nn.Module) -> bool:
    """Attach a bridge's adapters to its source model; return False if a weight is computed by anything else."""
    modules = dict(hf.named_modules(remove_duplicate=False))
    done: set[int] = set()
    for prefix, module in original.named_modules(remove_duplicate=False):
        target = modules.get(prefix.replace(WRAPPED, ""))
        if HELD not in module._modules or target is None or id(module) in done:
            continue
        done.add(id(module))
        for leaf, each in parametrisations(module).items():
            for adapter in each.children():
                if not isinstance(adapter, LowRank) or leaf not in target._parameters | parametrisations(target):
                    return False
                attach(target, leaf, adapter)
    return True


def _tables(original: nn.Module) -> dict[str, tuple[Table, str]]:
    """Return where each parameter and buffer lives, by the source model's names."""
    found: dict[str, tuple[Table, str]] = {}
    for prefix, module in original.named_modules(remove_duplicate=False):
        for table in (module._parameters, module._buffers):
            for name, tensor in table.items():
                if tensor is not None:
                    found.setdefault(f"{prefix}.{name}".replace(WRAPPED, "").lstrip("."), (table, name))
    return found


@dataclass
class Seen:
    """Hold what decides whether a source model is still that of its bridge.

    Attributes:
        modules: Number of modules in the bridge's Hugging Face model, without those that hold adapters.
        hooks: Number of hooks on them that act now.
        adapters: Parametrisations of its weights.
    """

    modules: int = 0
    hooks: int = 0
    adapters: list[nn.Module] = field(default_factory=list)


def _seen(original: nn.Module) -> Seen:
    """Look through a bridge's Hugging Face model.

    TransformerLens itself puts hooks on some modules, by which it fills its hook points, and `accept_cache` renames an
    argument. They change no activation.
    """
    seen, known = Seen(), set[int]()
    left: list[nn.Module] = [original]
    while left:  # `modules()` takes several times as long, and this runs at each step of a training
        module = left.pop()
        if id(module) in known:
            continue
        known.add(id(module))
        seen.modules += 1
        for name, inner in module._modules.items():
            if name == HELD:
                for each in parametrisations(module).values():
                    seen.adapters.extend(each.children())
            elif inner is not None:
                left.append(inner)
        if module._forward_hooks or module._forward_pre_hooks:
            for function in (*module._forward_hooks.values(), *module._forward_pre_hooks.values()):
                own = function is renamed_cache or getattr(function, "__module__", "").startswith("transformer_lens.")
                seen.hooks += isinstance(module, HookPoint) or not own
    return seen


def run_tree(source: SourceModel, tree: TokenTree) -> tuple[Float[Tensor, "pos d_model"], TreeAttention]:
    """Compute the normed final residual stream at each column of a tree.

    Args:
        source: Source model, from `source_model`.
        tree: Texts.

    Returns:
        The input of the unembedding, and the attention with the windows that the layers asked for.
    """
    device = source.hf.get_input_embeddings().weight.device
    attention = TreeAttention(tree, source.hf.config.get_text_config().hidden_size, device)
    final = run(
        source,
        lambda _, query, key, value, scaling, window, softcap: attention(query, key, value, scaling, window, softcap),
        torch.tensor([tree.tokens], device=device),
        torch.tensor([tree.places], device=device),
    )
    return final[0], attention


def run(
    source: SourceModel, attention: Attention, tokens: Int[Tensor, "batch pos"], places: Int[Tensor, "batch pos"]
) -> Float[Tensor, "batch pos d_model"]:
    """Run the source model up to its unembedding.

    Args:
        source: Source model, from `source_model`.
        attention: Attention of all layers.
        tokens: Input ids.
        places: Position of each token in its text.
    """
    token = _CURRENT.set(attention)
    try:
        return source.hf.base_model(input_ids=tokens, position_ids=places, use_cache=False).last_hidden_state
    finally:
        _CURRENT.reset(token)


def unembedded(source: SourceModel, normed: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_vocab"]:
    """Compute logits from the input of the unembedding, scaled and soft-capped as the architecture does."""
    config = source.hf.config.get_text_config()
    logits = source.hf.get_output_embeddings()(normed)
    scale, cap = hooked.scale_of_logits(config), getattr(config, "final_logit_softcapping", None)
    logits = logits if scale == 1.0 else logits * scale
    return cap * torch.tanh(logits / cap) if cap else logits


def is_exact(model: HookedModel, source: SourceModel) -> bool:
    """Return whether the source model on a tree gives the logits of the hooked model on each text.

    Layers with sliding windows must say so in their call, because the texts are shorter than most windows.

    Args:
        model: Bridge.
        source: Its source model.
    """
    length = min(PROBE_TOKENS, model.cfg.n_ctx)
    first, second, other = (probe_tokens(model, 1, length, seed)[0].tolist() for seed in range(3))
    shared = length // 2
    texts = [first, first[:shared] + second[: length - shared - 1], other, first[: shared // 2] + other[:shared]]
    tree = TokenTree()
    columns = [torch.tensor(tree.add(text)) for text in texts]
    # Training may run under autocast, in whose precision the two differ by more than the tolerance.
    exact = torch.autocast(hooked.device_of(model).type, enabled=False)
    with torch.inference_mode(), full_precision(), exact:
        expected = [
            model(torch.tensor([text], device=hooked.device_of(model)), return_type="logits")[0] for text in texts
        ]
        try:
            normed, attention = run_tree(source, tree)
            logits = unembedded(source, normed)
        except Exception:
            # An architecture without replaceable attention, or without positions as an argument, fails in its own way.
            return False
        pairs = [(logits[c.to(logits.device)], e) for c, e in zip(columns, expected, strict=True)]
        close = all(float((ours - e).abs().max()) <= tolerance(e) for ours, e in pairs)
    return close and attention.windows == windows_of(source.hf.config.get_text_config())


def windows_of(config: PretrainedConfig) -> list[int | None] | None:
    """Return the sliding window of each layer, or None if the configuration has layers of other kinds."""
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        kinds = ["full_attention" if window is None else "sliding_attention"] * config.num_hidden_layers
    if getattr(config, "attention_chunk_size", None) or not {*kinds} <= {"full_attention", "sliding_attention"}:
        return None
    if (getattr(config, "rope_parameters", None) or {}).get("rope_type") == "dynamic":
        return None  # its frequencies depend on the longest text of a batch
    return [window if kind == "sliding_attention" else None for kind in kinds]
