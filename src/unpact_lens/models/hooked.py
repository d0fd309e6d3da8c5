"""What the analysis asks of a model: the part of TransformerLens that all its kinds of model share.

Everything above `models/` is written against this file, so that a `HookedTransformer` and a `TransformerBridge` (and
what comes after them) are worked with alike, and a change in TransformerLens is a change in this package only.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge.generalized_components.base import alias_generation

from unpact_lens.errors import InputError, nearest

Hooks = Sequence[tuple[str, Callable[..., Any]]]
"""Interventions as TransformerLens takes them: hook name and function of the activation."""

HOOK_POINTS = "_unpact_hook_points"
"""Where a bridge keeps its hook points by name."""


@runtime_checkable
class HookedModel(Protocol):
    """A causal language model with TransformerLens hook points.

    Satisfied by `transformer_lens.HookedTransformer` and `transformer_lens.model_bridge.TransformerBridge`.
    """

    cfg: Any
    tokenizer: Any

    # ruff: noqa: D102
    def __call__(self, input: Tensor, /, **kwargs: Any) -> Any: ...

    def run_with_hooks(self, *args: Any, **kwargs: Any) -> Any: ...

    def run_with_cache(self, *args: Any, **kwargs: Any) -> Any: ...

    def parameters(self) -> Any: ...

    def named_parameters(self) -> Any: ...

    def state_dict(self) -> Any: ...


def is_bridge(model: object) -> bool:
    """Whether `model` is a `TransformerBridge`; a `HookedTransformer` is not."""
    return type(model).__name__ == "TransformerBridge"


def members_of(model: object) -> tuple[Any, ...]:
    """The models that predict together where `model` stands for several (an ensemble); else none."""
    return tuple(getattr(model, "members", ()))


def device_of(model: Any) -> torch.device:
    """The device that the model's weights stand on."""
    return next(iter(model.parameters())).device


def hook_points(model: Any) -> dict[str, Any]:
    """The model's hook points by every name that they go by, aliases included.

    A bridge resolves its thousands of aliases anew each time that it is asked; here that is done once for each state
    of its registry.
    """
    points: dict[str, Any]
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


def run_with_hooks(model: Any, tokens: Int[Tensor, "batch pos"], fwd_hooks: Hooks = (), **kwargs: Any) -> Any:
    """What `model.run_with_hooks` gives, with forward hooks only; on a bridge without resolving all its names again.

    Args:
        model: a hooked causal model.
        tokens: input ids.
        fwd_hooks: interventions, `(hook name, function)` as TransformerLens takes them.
        **kwargs: of the model's call, e.g. `return_type`.

    Raises:
        InputError: if a bridge has no hook of that name.
        ValueError: if a hook is one that a bridge's configuration turns off.
    """
    if not is_bridge(model) or model.compatibility_mode or kwargs.get("stop_at_layer") is not None:
        return model.run_with_hooks(tokens, fwd_hooks=list(fwd_hooks), **kwargs)
    points, level, hooked = hook_points(model), model.context_level + 1, []
    model.context_level = level
    try:
        for name, function in fwd_hooks:
            if name not in points:  # a bridge itself passes over it in silence
                raise InputError(f"the model has no hook {name!r}; {nearest(name, points)}")
            model.check_hooks_to_add(points[name].name or name)
            points[name].add_hook(function, level=level)
            hooked.append(points[name])
        return model(tokens, **kwargs)
    finally:
        for point in hooked:
            point.remove_hooks(level=level)
        model.context_level -= 1


def final_hook(model: Any) -> str:
    """Name of the hook on the residual stream after the last block, before `ln_final`."""
    return f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"


def readout_hook(model: Any) -> str:
    """Name of the last hook before the unembedding at which positions may be dropped.

    On a bridge that is the unembedding's own input: some architectures (GPT-2) put the residual stream back into the
    shape of the input ids after `ln_final`, and would fail if positions were missing there.
    """
    return "unembed.hook_in" if is_bridge(model) else final_hook(model)


def logits_at(
    model: Any,
    tokens: Int[Tensor, "batch pos"],
    positions: Int[Tensor, "batch keep"],
    hooks: Hooks = (),
) -> Float[Tensor, "batch keep d_vocab"]:
    """Next-token logits at chosen positions only; the unembedding of the others is never computed.

    Rows may be padded on the right: a causal model's answer does not see what follows it, so no mask is needed.

    Args:
        model: a hooked causal model.
        tokens: input ids.
        positions: for each row, the positions whose logits are wanted.
        hooks: interventions, `(hook name, function)` as TransformerLens takes them.

    Returns:
        Logits (after the model's final soft-cap, if it has one).
    """
    index = positions.to(tokens.device)
    return read_out_at(
        model, tokens, lambda resid: resid.gather(1, index[..., None].expand(-1, -1, resid.shape[-1])), hooks
    )


def read_out_at(
    model: Any,
    tokens: Int[Tensor, "batch pos"],
    keep: Callable[[Tensor], Tensor],
    hooks: Hooks = (),
    ids: Int[Tensor, " column"] | None = None,
) -> Float[Tensor, "batch keep column"]:
    """Next-token logits of what `keep` leaves of the final residual stream `[batch, pos, d_model]`.

    A `HookedTransformer` is run up to its last block, and unembedded here: its own unembedding copies `W_U` at each
    call, which on a short prompt takes longer than all its blocks.

    Args:
        model: a hooked causal model.
        tokens: input ids.
        keep: the positions whose logits are wanted, e.g. `lambda resid: resid[:, -1:]`.
        hooks: interventions, `(hook name, function)` as TransformerLens takes them.
        ids: tokens whose logits are wanted, one column each; the whole vocabulary by default.
    """
    if not _copies_unembedding(model):

        def drop(resid: Tensor, hook: Any) -> Tensor:
            return keep(resid)

        logits = run_with_hooks(model, tokens, [*hooks, (readout_hook(model), drop)], return_type="logits")
        return logits if ids is None else logits[..., ids]
    with model.hooks(fwd_hooks=list(hooks)):
        resid = keep(model(tokens, stop_at_layer=model.cfg.n_layers))
        return _soft_capped(model, project(model, model.ln_final(resid), ids))


def _copies_unembedding(model: Any) -> bool:
    """Whether `model` is a `HookedTransformer` whose unembedding can be done without its copy of `W_U`.

    In half precision the copy is what makes its sums those of transformers, so there it stays; and an unembedding
    whose `forward` someone has replaced is left to do what they want.
    """
    return (
        type(model).__name__ == "HookedTransformer"
        and type(model.unembed).__name__ == "Unembed"
        and "forward" not in vars(model.unembed)
        and getattr(model, "ln_final", None) is not None
        and model.unembed.W_U.dtype in (torch.float32, torch.float64)
    )


def project(
    model: Any, normed: Float[Tensor, "batch pos d_model"], ids: Int[Tensor, " column"] | None = None
) -> Float[Tensor, "batch pos column"]:
    """Logits before a final soft-cap, from the output of `ln_final`; equal to `model.unembed`, without its copy.

    With `ids`, only theirs are computed, where that can be done.
    """
    if not _copies_unembedding(model):
        logits = model.unembed(normed)
        return logits if ids is None else logits[..., ids]
    part = model.unembed
    weight, bias = (part.W_U, part.b_U) if ids is None else (part.W_U[:, ids], part.b_U[ids])
    return part.hook_out(torch.nn.functional.linear(part.hook_in(normed), weight.T, bias))


def _soft_capped(model: Any, logits: Float[Tensor, "*batch d_vocab"]) -> Float[Tensor, "*batch d_vocab"]:
    """The model's final soft-cap, where it has one."""
    cap = getattr(model.cfg, "output_logits_soft_cap", -1.0) or -1.0
    return cap * torch.tanh(logits / cap) if cap > 0 else logits


def final_residual(model: Any, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
    """The residual stream after the last block, before `ln_final`; nothing is unembedded but one position."""
    kept: list[Tensor] = []

    def take(resid: Tensor, hook: Any) -> None:
        kept.append(resid)

    read_out_at(model, tokens, lambda resid: resid[:, :1], [(final_hook(model), take)])
    return kept[0]


def unembed(model: Any, resid: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_vocab"]:
    """Logits from a final residual: `ln_final`, unembedding, and the model's final soft-cap if it has one."""
    flat = resid.reshape(1, -1, resid.shape[-1])
    logits = _soft_capped(model, project(model, model.ln_final(flat)))
    return logits.reshape(*resid.shape[:-1], logits.shape[-1])


def collect(
    model: Any,
    tokens: Int[Tensor, "batch pos"],
    names: list[str],
    then: Callable[[Tensor], Tensor] | None = None,
) -> dict[str, Tensor]:
    """Activations at the named hooks, and nothing else, from one forward pass.

    The unembedding, of a large vocabulary the longest step of all, is spared as far as it can be.

    Args:
        model: a hooked causal model.
        tokens: input ids.
        names: hook names, as TransformerLens spells them.
        then: applied to each activation as it is taken, e.g. to keep some positions.

    Returns:
        One tensor a name; gradients are kept if they are on.
    """
    taken: dict[str, Tensor] = {}

    def take(act: Tensor, hook: Any, *, name: str) -> None:
        taken[name] = act if then is None else then(act)

    hooks: list[tuple[str, Callable[..., Any]]] = [(name, functools.partial(take, name=name)) for name in names]
    spared = not any(name.startswith("unembed.") for name in names)
    if spared and _copies_unembedding(model):
        model.run_with_hooks(tokens, return_type=None, fwd_hooks=hooks)  # up to `ln_final`: nothing is unembedded
    elif spared and is_bridge(model):
        read_out_at(model, tokens, lambda resid: resid[:, :1], hooks)  # a bridge cannot stop before it
    else:
        run_with_hooks(model, tokens, hooks, return_type="logits")
    return taken
