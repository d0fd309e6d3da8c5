"""Run the source model of a bridge as transformers wrote it, without hooks, on a tree of texts.

A bridge replaces the modules of its Hugging Face model by ones that call hooks. This file builds the Hugging Face model
again, without memory of its own: its parameters and buffers *are* those of the bridge. Attention is computed by
PyTorch's fused kernel over a `TokenTree`, so that nothing is padded and no beginning is computed twice.

Whether this is exact is decided by what the model computes: `is_exact` compares the logits of a small tree
with those of the hooked model, once for each architecture. Where they differ (state-space layers, convolutions, ALiBi,
attention that transformers does not let be replaced), everything runs through the hooked model.
"""

from __future__ import annotations

import contextvars
import copy
import weakref
from dataclasses import dataclass
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
from unpact_lens.models.ready import require_ready
from unpact_lens.models.token_tree import TokenTree, TreeAttention
from unpact_lens.models.weights import WRAPPED

ATTENTION = "unpact_tree"
"""Name under which transformers finds `tree_attention`."""


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


_CURRENT: contextvars.ContextVar[Attention] = contextvars.ContextVar("unpact_attention")


def tree_attention(
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
        raise NotImplementedError(f"attention with {', '.join(odd) or 'a mask or dropout'} is not laid out as a tree")
    return _CURRENT.get()(module, query, key, value, scaling, sliding_window, softcap), None


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, tree_attention)


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
        modules: Number of modules of the bridge when this was built.
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


_BUILT: weakref.WeakKeyDictionary[object, SourceModel | None] = weakref.WeakKeyDictionary()
"""Source model of each bridge that was asked for one, or None."""

EXACT = "_unpact_source_model_is_exact"
"""Attribute in which a bridge keeps the answer of `is_exact`, for itself and its copies."""

PROBE_TOKENS = 12
"""Length of the texts on which logits are compared."""


def source_model(model: HookedModel) -> SourceModel | None:
    """Return the source model of a bridge, up to date, or None where the hooked model must run.

    None is returned

    - for models that are no bridge, and bridges whose modules were changed, e.g. by an adapter;
    - while there are hooks on the model;
    - within a computation with gradients;
    - in double precision, which is for exact tests: transformers computes some softmaxes in fp32 there;
    - where the check of `is_exact` fails.

    Args:
        model: Hooked model.

    Raises:
        InputError: If a weight is not finite, or the model is in training mode and drops activations.
    """
    if not hooked.is_bridge(model) or torch.is_grad_enabled() or model.compatibility_mode:
        return None
    if next(iter(model.parameters())).dtype == torch.float64 or not vars(model).get(EXACT, True):
        return None
    require_ready(model)
    with exclusive(model):
        modules, hooks = _modules_and_hooks(model.original_model)
        if hooks:
            return None
        if model not in _BUILT:
            _BUILT[model] = _built(model, modules)
        found = _BUILT[model]
        if found is None or found.modules != modules or not found.refresh():
            return None
        if EXACT not in vars(model):
            vars(model)[EXACT] = is_exact(model, found)
        return found if vars(model)[EXACT] else None


def _built(model: HookedModel, modules: int) -> SourceModel | None:
    """Build the Hugging Face model of a bridge around the bridge's own parameters and buffers."""
    original = model.original_model
    try:
        with torch.device("meta"):
            hf = type(original)._from_config(copy.deepcopy(original.config), attn_implementation=ATTENTION)
        fused = fused_rows(model)
    except Exception:
        # Architectures raise errors of all kinds when they are built with another attention or without memory.
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
    return SourceModel(hf.eval(), links, fused, extra, modules)


def _tables(original: nn.Module) -> dict[str, tuple[Table, str]]:
    """Return where each parameter and buffer lives, by the source model's names."""
    found: dict[str, tuple[Table, str]] = {}
    for prefix, module in original.named_modules(remove_duplicate=False):
        for table in (module._parameters, module._buffers):
            for name, tensor in table.items():
                if tensor is not None:
                    found.setdefault(f"{prefix}.{name}".replace(WRAPPED, "").lstrip("."), (table, name))
    return found


def _modules_and_hooks(original: nn.Module) -> tuple[int, int]:
    """Count the modules in a bridge's Hugging Face model, and the hooks on them that act now.

    TransformerLens itself puts hooks on some modules, by which it fills its hook points, and `accept_cache` renames an
    argument. They change no activation.
    """
    modules = hooks = 0
    for module in original.modules():
        modules += 1
        for held in (module._forward_hooks, module._forward_pre_hooks):
            for function in held.values():
                own = function is renamed_cache or getattr(function, "__module__", "").startswith("transformer_lens.")
                hooks += isinstance(module, HookPoint) or not own
    return modules, hooks


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
    with torch.inference_mode(), full_precision():
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
