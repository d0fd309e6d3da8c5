"""Run one forward pass and keep only what a decomposition needs: a few rows of each activation."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.decomposition import linear_parts
from unpact_lens.decomposition.heads import read_out
from unpact_lens.decomposition.logit_direction import LogitDirection
from unpact_lens.decomposition.norm import pull_back
from unpact_lens.models import hooked
from unpact_lens.models.hooked import HookedModel
from unpact_lens.scoring import check_finite

EXTRA: Mapping[str, tuple[str, ...]] = {
    "component": (),
    "head": (),
    "source": ("attn.hook_pattern", "attn.hook_v"),
    "neuron": ("mlp.hook_post",),
}
"""Activations of each block that a view needs in addition to those of all views."""


@dataclass(frozen=True)
class Captured:
    """Hold what one forward pass gives at the T positions of a logit direction.

    Attributes:
        acts: Activations by hook name, `[T, ...]`, except patterns `[head, T, S]` and values `[S, head, d_head]`.
        total: `[T]`, the numbers that are decomposed, as the model computes them.
        logits: `[T, d_vocab]`, before a final soft-cap; or only the columns of `direction.ids`, see `capture`.
        capped: The same columns of the model's own output; equal to `logits` without a soft-cap.
        final: `[T, d_model]`, direction in the final residual stream that each of the T numbers reads.
        attn: `[T, d_model]` for each layer, the direction in the attention's output before a post-norm.
        mlp: `[T, d_model]` for each layer, the direction in the MLP's output; empty without MLPs.
        reads: `[head, d_head, T]` for each layer, what each dimension of a head's value adds to the T numbers.
    """

    acts: Mapping[str, Tensor]
    total: Float[Tensor, " answer"]
    logits: Float[Tensor, "answer column"]
    capped: Float[Tensor, "answer column"]
    final: Float[Tensor, "answer d_model"]
    attn: tuple[Float[Tensor, "answer d_model"], ...]
    mlp: tuple[Float[Tensor, "answer d_model"], ...]
    reads: tuple[Float[Tensor, "head d_head answer"], ...]

    def at(self, layer: int, name: str) -> Tensor:
        """Return an activation of a block, e.g. `run.at(0, "attn.hook_z")`."""
        return self.acts[f"blocks.{layer}.{name}"]


def capture(
    model: HookedModel, direction: LogitDirection, views: Sequence[str], *, vocabulary: bool = False
) -> Captured:
    """Run the example once and keep what these views need.

    Args:
        model: Hooked causal model in fp32 or fp64.
        direction: Prompt, answer, and the tokens that count.
        views: Names of views.
        vocabulary: Keep the logits of the whole vocabulary, even if the direction does not need them.

    Raises:
        InputError: If the logits are NaN.
    """
    tokens = torch.tensor([direction.example.ids[:-1]], device=hooked.device_of(model))  # [1, pos]
    positions = torch.tensor(direction.positions, device=tokens.device)
    ids = None if vocabulary or direction.ids is None else torch.tensor(direction.ids, device=tokens.device)
    acts, capped = run_and_keep(model, tokens, _wanted(model, views), positions, ids)
    check_finite(capped, "a logit of the answer")
    logits = capped
    if linear_parts.soft_cap(model) is not None:
        logits = linear_parts.uncapped_logits(model, acts[hooked.final_hook(model)])
        logits = logits if ids is None else logits[:, ids]
    total = direction.of_logits(logits) if ids is None else direction.of_own(logits)

    along, _ = direction.direction(*hooked.unembedding(model))  # [T, d_model]
    final = pull_back(
        linear_parts.final_norm(model), along, acts.get("ln_final.hook_scale", torch.ones_like(along[:, :1]))
    )
    attn = tuple(_through_norm(model, acts, layer, "attn", final) for layer in range(model.cfg.n_layers))
    mlp = tuple(_through_norm(model, acts, layer, "mlp", final) for layer in range(model.cfg.n_layers))
    reads = tuple(read_out(linear_parts.heads_out(model, layer), attn[layer]) for layer in range(model.cfg.n_layers))
    return Captured(acts, total, logits, capped, final, attn, mlp if linear_parts.has_mlp(model) else (), reads)


def run_and_keep(
    model: HookedModel, tokens: Tensor, names: list[str], positions: Tensor, ids: Tensor | None
) -> tuple[dict[str, Tensor], Float[Tensor, "answer column"]]:
    """Run one forward pass and return the named activations and the logits, all or those of `ids`, at `positions`.

    Patterns keep the rows of those queries and all keys. Values keep all positions. Only `positions` are unembedded.
    """
    acts: dict[str, Tensor] = {}

    def take(act: Tensor, hook: Any, *, name: str) -> None:
        part = _rows(name)(act, positions)
        acts[name] = hooked.values_read(model, part) if name.endswith("attn.hook_v") else part

    kept = dict.fromkeys([*names, hooked.final_hook(model)])
    hooks = [(name, functools.partial(take, name=name)) for name in kept]
    logits = hooked.read_out_at(model, tokens, lambda resid: resid[:, positions], hooks, ids)
    return acts, logits[0]


def _wanted(model: HookedModel, views: Sequence[str]) -> list[str]:
    """Return the hook names that the views need."""
    parts = ["hook_resid_pre", "hook_attn_out", "attn.hook_z", *(part for by in views for part in EXTRA[by])]
    if linear_parts.has_mlp(model):
        parts.append("hook_mlp_out")
    names = [f"blocks.{layer}.{part}" for layer in range(model.cfg.n_layers) for part in parts]
    for layer in range(model.cfg.n_layers):
        for sublayer in ("attn", "mlp") if linear_parts.has_mlp(model) else ("attn",):
            behind = linear_parts.norm_behind(model, layer, sublayer)
            if behind is not None and behind[1].scales:
                names.append(behind[0])
    if linear_parts.final_norm(model).scales:
        names.append("ln_final.hook_scale")
    if linear_parts.has_positions(model):
        names.append("hook_pos_embed")
    return names


def _rows(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the function that selects the rows to keep from the activation of that name (batch of one)."""
    if name.endswith("hook_pattern"):
        return lambda act, positions: act[0][:, positions].clone()
    if name.endswith("hook_v"):
        return lambda act, positions: act[0]
    if name == "ln_final.hook_scale":
        # On some models, positions are dropped before `ln_final`, and the scale has the T rows already.
        return lambda act, positions: act[0] if act.shape[1] == len(positions) else act[0][positions]
    return lambda act, positions: act[0][positions]


def _through_norm(
    model: HookedModel,
    acts: Mapping[str, Tensor],
    layer: int,
    sublayer: str,
    direction: Float[Tensor, "answer d_model"],
) -> Float[Tensor, "answer d_model"]:
    """Return the direction in a sublayer's own output, before the norm after it, if any."""
    behind = (
        linear_parts.norm_behind(model, layer, sublayer) if sublayer == "attn" or linear_parts.has_mlp(model) else None
    )
    if behind is None:
        return direction
    name, norm = behind
    return pull_back(norm, direction, acts.get(name, torch.ones_like(direction[:, :1])))
