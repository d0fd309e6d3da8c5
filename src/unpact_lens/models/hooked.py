"""Define what the analysis needs from a model: the interface that both kinds of TransformerLens model share.

Everything above `models/` is written against this file. A `HookedTransformer` and a `TransformerBridge` are therefore
used alike, and a change in TransformerLens changes this package only.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge.generalized_components.base import alias_generation

from unpact_lens.errors import InputError, nearest
from unpact_lens.models.exclusive import exclusive
from unpact_lens.models.lens_version import accept_cache, check_hook_is_on
from unpact_lens.models.ready import require_ready


@runtime_checkable
class HookFunction(Protocol):
    """A function that TransformerLens calls at a hook point; what it returns replaces the activation, unless None."""

    def __call__(self, activation: Tensor, /, hook: HookPoint) -> Tensor | None:
        """Return the new activation, or None to leave it unchanged."""


Hooks = Sequence[tuple[str, HookFunction]]
"""Interventions as TransformerLens takes them: pairs of a hook name and a function."""

EMBED = "hook_embed"
"""Hook on the token embeddings, before positions are added."""

HOOK_POINTS = "_unpact_hook_points"
"""Attribute in which a bridge's hook points are kept by name."""


@runtime_checkable
class ModelConfig(Protocol):
    """The fields of a model's TransformerLens configuration that the analysis reads."""

    n_layers: int
    n_heads: int
    d_model: int
    d_head: int
    d_mlp: int
    d_vocab: int
    n_ctx: int
    dtype: torch.dtype
    default_prepend_bos: bool
    attention_dir: str
    positional_embedding_type: str
    normalization_type: str


@runtime_checkable
class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer that the analysis uses."""

    bos_token_id: int | None
    eos_token_id: int | None

    # ruff: noqa: D102
    def __call__(self, text: str | list[str], **options: object) -> dict[str, Any]: ...

    def decode(self, ids: list[int], **options: object) -> str: ...

    def apply_chat_template(self, conversation: list[dict[str, str]], **options: object) -> str: ...

    def get_vocab(self) -> dict[str, int]: ...

    def save_pretrained(self, directory: str | Path) -> object: ...


@runtime_checkable
class HookedModel(Protocol):
    """A causal language model with TransformerLens hook points.

    `transformer_lens.HookedTransformer` and `transformer_lens.model_bridge.TransformerBridge` satisfy it, and so does
    an ensemble (`unpact_lens.unlearning.ensembles`). Weights and submodules go by their TransformerLens names, e.g.
    `blocks`, `ln_final`, `unembed`, `W_U`.

    Attributes:
        cfg: Configuration.
        tokenizer: Tokenizer, or None for a model that takes token ids only.
        training: Whether the model is in training mode.
    """

    cfg: ModelConfig
    tokenizer: Tokenizer | None
    training: bool

    def __call__(self, input: Tensor, /, **kwargs: Any) -> Any: ...

    def run_with_hooks(self, *args: Any, **kwargs: Any) -> Any: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...

    def state_dict(self) -> dict[str, Tensor]: ...

    if TYPE_CHECKING:  # not checked at run time: a bridge's properties are slow, and an ensemble has no blocks

        def __getattr__(self, name: str) -> Any: ...


def is_bridge(model: object) -> bool:
    """Return whether `model` is a `TransformerBridge`."""
    return type(model).__name__ == "TransformerBridge"


def members_of(model: object) -> tuple[HookedModel, ...]:
    """Return the members of an ensemble, or `()` for a single model."""
    return tuple(getattr(model, "members", ()))


def device_of(model: HookedModel) -> torch.device:
    """Return the device of the model's weights."""
    return next(iter(model.parameters())).device


def hook_points(model: HookedModel) -> dict[str, HookPoint]:
    """Return the model's hook points by all their names, aliases included.

    A bridge resolves thousands of aliases at each access. This function resolves them once for each state of the
    bridge's registry.
    """
    points: dict[str, HookPoint]
    if not is_bridge(model):
        points = model.hook_dict
        return points
    registry, stamp = model._hook_registry, (len(model._hook_registry), alias_generation())
    kept = vars(model).get(HOOK_POINTS)
    if kept is None or kept[0] is not registry or kept[1] != stamp:
        kept = (registry, stamp, model.hook_dict)
        vars(model)[HOOK_POINTS] = kept
    points = kept[2]
    return points


def run_with_hooks(model: HookedModel, tokens: Int[Tensor, "batch pos"], fwd_hooks: Hooks = (), **kwargs: Any) -> Any:
    """Run the model with forward hooks, as `model.run_with_hooks` does.

    On a bridge, hook names are looked up in `hook_points` and not resolved again.

    Args:
        model: Hooked causal model.
        tokens: Input ids.
        fwd_hooks: Interventions, pairs of a hook name and a function.
        **kwargs: Further arguments of the model's call, e.g. `return_type`.

    Returns:
        The output of the model's call; its type depends on `return_type`.

    Raises:
        InputError: If a bridge has no hook of that name.
        ValueError: If a bridge's configuration turns the hook off.
    """
    require_ready(model)
    with exclusive(model):
        if not is_bridge(model) or model.compatibility_mode or kwargs.get("stop_at_layer") is not None:
            return model.run_with_hooks(tokens, fwd_hooks=list(fwd_hooks), **kwargs)
        return _run_bridge(model, tokens, fwd_hooks, kwargs)


def _run_bridge(bridge: Any, tokens: Int[Tensor, "batch pos"], fwd_hooks: Hooks, options: dict[str, Any]) -> Any:
    """Run a bridge with forward hooks whose names are looked up in `hook_points`."""
    accept_cache(bridge)  # it may have been made without this library
    points, level = hook_points(bridge), bridge.context_level + 1
    hooked: list[HookPoint] = []
    bridge.context_level = level
    try:
        for name, function in fwd_hooks:
            if name not in points:  # a bridge would ignore it without a message
                raise InputError(f"the model has no hook {name!r}; {nearest(name, points)}")
            check_hook_is_on(bridge, name, points[name], function)
            points[name].add_hook(function, level=level)
            hooked.append(points[name])
        return bridge(tokens, **options)
    finally:
        for point in hooked:
            point.remove_hooks(level=level)
        bridge.context_level -= 1


def final_hook(model: HookedModel) -> str:
    """Return the name of the hook on the residual stream between the last block and `ln_final`."""
    return f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"


def readout_hook(model: HookedModel) -> str:
    """Return the name of the last hook before the unembedding at which positions may be dropped.

    On a bridge this is the input of the unembedding. Some architectures (GPT-2) reshape the residual stream after
    `ln_final` to the shape of the input ids, which fails if positions were dropped earlier.
    """
    return "unembed.hook_in" if is_bridge(model) else final_hook(model)


def logits_at(
    model: HookedModel,
    tokens: Int[Tensor, "batch pos"],
    positions: Int[Tensor, "batch keep"],
    hooks: Hooks = (),
) -> Float[Tensor, "batch keep d_vocab"]:
    """Compute next-token logits at chosen positions; the other positions are not unembedded.

    Rows may be padded on the right. A causal model does not see what follows a position, so no mask is needed.

    Args:
        model: Hooked causal model.
        tokens: Input ids.
        positions: For each row, the positions whose logits are wanted.
        hooks: Interventions, pairs of a hook name and a function.

    Returns:
        Logits, after the model's final soft-cap if it has one.
    """
    return read_out_at(model, tokens, functools.partial(take_positions, index=positions.to(tokens.device)), hooks)


def take_positions(
    resid: Float[Tensor, "batch pos d"], index: Int[Tensor, "batch keep"]
) -> Float[Tensor, "batch keep d"]:
    """Return the vectors at each row's own positions."""
    index = index.to(resid.device)  # with a device_map, the last layer may be on another GPU than the tokens
    return resid.gather(1, index[..., None].expand(-1, -1, resid.shape[-1]))  # index: [batch, keep] -> [batch, keep, d]


def read_out_at(
    model: HookedModel,
    tokens: Int[Tensor, "batch pos"],
    keep: Callable[[Tensor], Tensor],
    hooks: Hooks = (),
    ids: Int[Tensor, " column"] | None = None,
    **options: Any,
) -> Float[Tensor, "batch keep column"]:
    """Compute next-token logits of the part of the final residual stream that `keep` returns.

    A `HookedTransformer` runs up to its last block and is unembedded here. Its own unembedding copies `W_U` at each
    call, which takes longer than all blocks when the prompt is short.

    Args:
        model: Hooked causal model.
        tokens: Input ids.
        keep: Selection from the final residual stream `[batch, pos, d_model]`, e.g. `lambda resid: resid[:, -1:]`.
        hooks: Interventions, pairs of a hook name and a function.
        ids: Tokens whose logits are wanted, one column each. If None, the whole vocabulary.
        **options: Further arguments of the model's call, e.g. `attention_mask`.

    Returns:
        Logits, after the model's final soft-cap if it has one.
    """
    if not _copies_unembedding(model):

        def drop(resid: Tensor, hook: object) -> Tensor:
            return keep(resid)

        logits = run_with_hooks(model, tokens, [*hooks, (readout_hook(model), drop)], return_type="logits", **options)
        return logits if ids is None else logits[..., ids]
    require_ready(model)
    with exclusive(model), model.hooks(fwd_hooks=list(hooks)):
        resid = keep(model(tokens, stop_at_layer=model.cfg.n_layers, **options))  # [batch, keep, d_model]
        return _soft_capped(model, project(model, model.ln_final(resid), ids))


def _copies_unembedding(model: HookedModel) -> bool:
    """Return whether `model` is a `HookedTransformer` whose unembedding works without its copy of `W_U`.

    In half precision the copy is kept, because the sums then equal those of transformers. An unembedding whose
    `forward` was replaced is called as it is.
    """
    return (
        type(model).__name__ == "HookedTransformer"
        and type(model.unembed).__name__ == "Unembed"
        and "forward" not in vars(model.unembed)
        and getattr(model, "ln_final", None) is not None
        and model.unembed.W_U.dtype in (torch.float32, torch.float64)
    )


def project(
    model: HookedModel, normed: Float[Tensor, "batch pos d_model"], ids: Int[Tensor, " column"] | None = None
) -> Float[Tensor, "batch pos column"]:
    """Compute logits before a final soft-cap from the output of `ln_final`.

    The result equals `model.unembed(normed)`, without the copy of `W_U` where possible.

    Args:
        model: Hooked causal model.
        normed: Output of `ln_final`.
        ids: Tokens whose logits are wanted, one column each. If None, the whole vocabulary.
    """
    with exclusive(model):
        if not _copies_unembedding(model):
            logits, scale = model.unembed(normed), logit_scale(model)
            logits = logits if scale == 1.0 else logits * scale
            return logits if ids is None else logits[..., ids]
        part = model.unembed
        weight, bias = (part.W_U, part.b_U) if ids is None else (part.W_U[:, ids], part.b_U[ids])  # [d_model, column]
        return part.hook_out(nn.functional.linear(part.hook_in(normed), weight.T, bias))


LOGIT_SCALES = (("logits_scaling", -1), ("logit_scale", 1), ("lm_head_multiplier", 1))
"""Entries of a Hugging Face configuration by which logits are multiplied (1) or divided (-1) after the unembedding."""


def logit_scale(model: HookedModel) -> float:
    """Return the factor between the unembedding and the logits: not 1 for Granite, Cohere and Falcon-H1."""
    if not is_bridge(model):
        return 1.0
    return scale_of_logits(model.original_model.config.get_text_config())


def scale_of_logits(config: object) -> float:
    """Return the factor between the unembedding and the logits that a Hugging Face configuration names."""
    scale = 1.0
    for name, power in LOGIT_SCALES:
        value = getattr(config, name, None)
        if isinstance(value, (int, float)):
            scale *= float(value) ** power
    return scale


def values_read(model: HookedModel, values: Float[Tensor, "*batch d_head"]) -> Float[Tensor, "*batch d_head"]:
    """Return the value vectors that attention reads, from those at `attn.hook_v`: OLMo limits them (`clip_qkv`)."""
    config = model.original_model.config.get_text_config() if is_bridge(model) else model.cfg
    limit = getattr(config, "clip_qkv", None)
    return values if limit is None else values.clamp(min=-limit, max=limit)


def unembedding(model: HookedModel) -> tuple[Float[Tensor, "d_model d_vocab"], Float[Tensor, " d_vocab"] | None]:
    """Return the matrix and the bias that turn the output of `ln_final` into logits before a final soft-cap."""
    weight, bias, scale = model.unembed.W_U, model.unembed.b_U, logit_scale(model)
    if scale == 1.0:
        return weight, bias
    return weight * scale, None if bias is None else bias * scale


def _soft_capped(model: HookedModel, logits: Float[Tensor, "*batch d_vocab"]) -> Float[Tensor, "*batch d_vocab"]:
    """Apply the model's final soft-cap, if it has one."""
    cap = getattr(model.cfg, "output_logits_soft_cap", -1.0) or -1.0
    return cap * torch.tanh(logits / cap) if cap > 0 else logits


def final_residual(
    model: HookedModel, tokens: Int[Tensor, "batch pos"], hooks: Hooks = ()
) -> Float[Tensor, "batch pos d_model"]:
    """Return the residual stream between the last block and `ln_final`; only one position is unembedded.

    Args:
        model: Hooked causal model.
        tokens: Input ids.
        hooks: Interventions, pairs of a hook name and a function.
    """
    kept: list[Tensor] = []

    def take(resid: Tensor, hook: object) -> None:
        kept.append(resid)

    read_out_at(model, tokens, lambda resid: resid[:, :1], [*hooks, (final_hook(model), take)])
    return kept[0]


def unembed(model: HookedModel, resid: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_vocab"]:
    """Compute logits from a final residual: `ln_final`, unembedding, and the final soft-cap if there is one."""
    flat = resid.reshape(1, -1, resid.shape[-1])  # [*batch, d_model] -> [1, n, d_model]
    with exclusive(model):
        logits = _soft_capped(model, project(model, model.ln_final(flat)))
    return logits.reshape(*resid.shape[:-1], logits.shape[-1])  # [1, n, d_vocab] -> [*batch, d_vocab]


def collect(
    model: HookedModel,
    tokens: Int[Tensor, "batch pos"],
    names: list[str],
    then: Callable[[Tensor], Tensor] | None = None,
) -> dict[str, Tensor]:
    """Return the activations at the named hooks from one forward pass, and store no others.

    The unembedding is skipped or reduced to one position where possible. With a large vocabulary it is the slowest
    step.

    Args:
        model: Hooked causal model.
        tokens: Input ids.
        names: Hook names, as TransformerLens spells them.
        then: Function applied to each activation when it is taken, e.g. to keep some positions.

    Returns:
        One tensor for each name. Gradients are kept if they are enabled.
    """
    taken: dict[str, Tensor] = {}

    def take(act: Tensor, hook: object, *, name: str) -> None:
        taken[name] = act if then is None else then(act)

    hooks: list[tuple[str, HookFunction]] = [(n, functools.partial(take, name=n)) for n in names]
    require_ready(model)
    spared = not any(name.startswith("unembed.") for name in names)
    if spared and _copies_unembedding(model):
        with exclusive(model):
            model.run_with_hooks(tokens, return_type=None, fwd_hooks=hooks)  # stops after `ln_final`
    elif spared and is_bridge(model):
        read_out_at(model, tokens, lambda resid: resid[:, :1], hooks)  # a bridge cannot stop before the unembedding
    else:
        run_with_hooks(model, tokens, hooks, return_type="logits")
    return taken
