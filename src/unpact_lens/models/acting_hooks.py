"""Check that changing an activation at a hook point changes what a model computes.

On some architectures a hook fires and what it returns is ignored: TransformerLens bridges of GPT-Neo and GPT-J record
attention scores and patterns that the model itself computes elsewhere. With fused attention (OPT) the hook never fires.
An intervention there would do nothing and look like a result.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from unpact_lens.errors import InputError, nearest
from unpact_lens.models import decoding, hooked
from unpact_lens.models.hooked import HookedModel, Hooks

ACTING = "_unpact_acting_hooks"
"""Attribute in which a model keeps, for each hook name that was checked, whether it acts."""

PROBE_TOKENS = 4
"""Number of tokens that the check reads."""

ROWS = 32
"""Number of hooks that are changed in one forward pass."""


def require_acting_hooks(model: HookedModel, names: Sequence[str], *, feature: str, remedy: str) -> None:
    """Refuse an intervention at hooks that do nothing on this model.

    Args:
        model: Hooked model. Of an ensemble, each member is checked at those of the hooks that it has.
        names: Hook names, as TransformerLens spells them.
        feature: What needs the hooks, as the user calls it, e.g. `"probe 'attention'"`.
        remedy: What to do instead.

    Raises:
        InputError: If changing the activation at a named hook changes no output, or there is no such hook. The message
            names feature, hook, architecture and remedy.
    """
    members = hooked.members_of(model)
    for member in members or (model,):
        lacking = [name for name in names if name not in hooked.hook_points(member)]
        if lacking and not members:
            raise InputError(f"{feature} needs {lacking[0]!r}, which this {architecture(member)} lacks; {remedy}")
        inert = inert_hooks(member, [n for n in names if n in hooked.hook_points(member)] if members else names)
        if inert:
            more = f" and {len(inert) - 1} more" if len(inert) > 1 else ""
            raise InputError(
                f"{feature} would do nothing on this {architecture(member)}: changing {inert[0]!r}{more} changes no "
                f"output; {remedy}"
            )


def inert_hooks(model: HookedModel, names: Sequence[str]) -> tuple[str, ...]:
    """Return the hooks among `names` at which a changed activation changes no output.

    Each activation is multiplied by random factors, on a few tokens. The output is the logits of the last positions.
    Many hooks share one forward pass, each in a row of its own; a hook whose row changes by no more than rounding is
    asked again in a forward pass of its own, where nothing else is changed. What a hook point does follows from the
    architecture, so the answer is kept with the model object and its copies, and training does not invalidate it. A
    hook in an attention layer whose output is not read (its weights are 0) is not reported: there, doing nothing is
    right. A hook at which a changed activation makes the model fail is reported.

    Args:
        model: Hooked model that is not an ensemble.
        names: Hook names, as TransformerLens spells them.

    Raises:
        InputError: If the model has no hook of that name.
    """
    known = hooked.hook_points(model)
    kept: dict[str, bool] = vars(model).setdefault(ACTING, {})
    asked = list(dict.fromkeys(names))
    for name in asked:
        if name not in known:
            raise InputError(f"the model has no hook {name!r}; {nearest(name, known)}")
    unknown = [name for name in asked if name not in kept]
    if unknown:
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randint(model.cfg.d_vocab, (1, min(PROBE_TOKENS, model.cfg.n_ctx)), generator=generator)
        tokens = tokens.to(hooked.device_of(model))
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a bridge warns that a changed norm scale costs some precision
            plain = _final(model, tokens, ())
            kept.update(dict.fromkeys(_changing(model, unknown, tokens), True))
            for name in [name for name in unknown if name not in kept]:
                try:
                    changed = _final(model, tokens, [(name, _scaled)])
                except Exception:
                    # A bridge may fail on a changed activation, e.g. of a norm without weights, with its own errors.
                    kept[name] = False
                    continue
                kept[name] = not torch.equal(changed, plain) or not _is_read(model, name, tokens, plain)
    return tuple(name for name in asked if not kept[name])


def _changing(model: HookedModel, names: Sequence[str], tokens: Tensor) -> list[str]:
    """Return hooks at which a change in one row of a batch changes that row by more than rounding.

    Args:
        model: Hooked model.
        names: Hook names. Each has a row of a batch.
        tokens: The text of every row, `[1, pos]`.
    """
    rows = tokens.expand(min(ROWS, len(names)), -1)
    plain = _final(model, rows, ())

    def scaled_row(activation: Tensor, hook: HookPoint, *, row: int) -> Tensor:
        if activation.shape[0] != len(rows):
            raise InputError("rows are not apart at this hook")
        changed = activation.clone()
        changed[row] = _scaled(activation[row], hook)
        return changed

    found: list[str] = []
    for start in range(0, len(names), ROWS):
        some = names[start : start + ROWS]
        hooks: Hooks = [(name, functools.partial(scaled_row, row=row)) for row, name in enumerate(some)]
        try:
            moved = (_final(model, rows, hooks) - plain).abs().flatten(1).amax(dim=1)
        except Exception:  # The hook that fails is found in a pass of its own.
            continue
        found += [name for name, m in zip(some, moved.tolist(), strict=False) if m > decoding.tolerance(plain)]
    return found


def architecture(model: HookedModel) -> str:
    """Return the name of a model's class: the Hugging Face one of a bridge, else that of the model."""
    return type(model.original_model).__name__ if hooked.is_bridge(model) else type(model).__name__


def _is_read(model: HookedModel, name: str, tokens: Tensor, plain: Tensor) -> bool:
    """Return whether the output depends on the attention layer that a hook lies in. True for every other hook."""
    layer, inside, _ = name.partition(".attn.")
    output = f"{layer}.attn.hook_z"
    if not inside or name == output or output not in hooked.hook_points(model):
        return True
    return not torch.equal(_final(model, tokens, [(output, _scaled)]), plain)


def _final(model: HookedModel, tokens: Tensor, hooks: Hooks) -> Tensor:
    """Return the logits of the last positions under hooks."""
    return hooked.read_out_at(model, tokens, lambda resid: resid[:, -2:], hooks)


def _scaled(activation: Tensor, hook: HookPoint) -> Tensor:
    """Multiply each number of an activation by a random factor from 0.5 to 1.5, always the same ones."""
    factors = _factors(tuple(activation.shape)).to(activation.device)
    return (activation * factors).to(activation.dtype)


@functools.lru_cache(maxsize=32)
def _factors(shape: tuple[int, ...]) -> Tensor:
    return 0.5 + torch.rand(shape, generator=torch.Generator().manual_seed(1))
