r"""Why a head's part in the answer changed: a Shapley split of its Δ over four players that sums exactly.

What a head adds to the logit at answer position t is

$$\sum_s A_{ts}\,(n_s W_V + b_V)\,W_O \cdot d_t,$$

with A its pattern, n the normed residual stream, OV its `W_V`, `b_V`, `W_O`, and d the direction that `ln_final` (its
scale and weights) and `W_U` read. Each of the four is taken from the model before or after: 16 values, from which each
player's Shapley value follows. The pattern's share can be split again, between the weights that make queries and keys
and the input that they are made from (an Owen value: both sum to the pattern's share).

Source: Shapley 1953, A value for n-person games; Owen 1977, Values of games with a priori unions.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from math import factorial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.comparison.model_pair import floor_of, require_comparable
from unpact_lens.comparison.result import HeadSplit
from unpact_lens.decomposition import linear_parts
from unpact_lens.decomposition.capture import Run
from unpact_lens.decomposition.components import head_labels
from unpact_lens.decomposition.decompose import decompositions
from unpact_lens.decomposition.heads import read_out
from unpact_lens.decomposition.intervene import activations
from unpact_lens.decomposition.logit_direction import text_of
from unpact_lens.models import hooked
from unpact_lens.models.tokens import Encoded, Text, encode, token_strings

PLAYERS = ("pattern", "input", "ov", "readout")


def split_heads(
    before: Any,
    after: Any,
    prompt: Text,
    answer: Text,
    *,
    pattern_parts: bool = False,
    floor: Sequence[Any] | None = None,
    chat: bool = False,
    prefill: Text = "",
) -> HeadSplit:
    """Split each head's Δ between pattern, input, OV and readout.

    Args:
        before: a hooked causal model.
        after: one of the same shape, vocabulary and tokenizer.
        prompt: text or ids.
        answer: text, leading space included, or ids.
        pattern_parts: split the pattern's share again, into the weights of queries and keys and their input; four more
            forward passes.
        floor: two models that differ by noise only (two training seeds, or before and after fine-tuning on unrelated
            text), on which the same is measured.
        chat: wrap the prompt in the tokenizer's chat template.
        prefill: the opening of the answer, given to the model and not scored.

    Raises:
        InputError: if the models are not comparable, or values, queries or keys are not linear in the normed input
            (the layer is named).
    """
    require_comparable(before, after)
    example = encode(before, prompt, answer, chat=chat, prefill=prefill)
    with torch.no_grad():
        sides = [_side(model, prompt, answer, example, chat, prefill) for model in (before, after)]
        corners = product((0, 1), repeat=2) if pattern_parts else ()
        # All four by the same way, so that equal models give equal patterns to the last bit.
        grid = {(qk, n): _patterns_on(sides[qk].model, example, sides[n].inputs) for qk, n in corners}
        splits, parts, ends = [], [], []
        for layer in range(before.cfg.n_layers):
            patterns = [side.run.at(layer, "attn.hook_pattern") for side in sides]
            moved = _moved(sides, layer)
            worth = functools.partial(_worth, patterns, moved)
            splits.append(torch.stack(shapley(worth, len(PLAYERS))))
            ends.append(torch.stack([worth((0, 0, 0, 0)), worth((1, 1, 1, 1))]))
            if grid:
                parts.append(_split_pattern({corner: grid[corner][layer] for corner in grid}, moved))
    layers, heads = head_labels(before)
    return HeadSplit(
        values=torch.stack(splits, 1).cpu(),
        players=PLAYERS,
        before=torch.stack(ends, 1)[0].cpu(),
        after=torch.stack(ends, 1)[1].cpu(),
        pattern_parts=torch.stack(parts, 1).cpu() if parts else None,
        labels=(layers, heads, token_strings(before, example.answer)),
        prompt=text_of(before, prompt),
        answer=text_of(before, answer),
        floor=None
        if floor is None
        else split_heads(
            *floor_of(before, floor), prompt, answer, pattern_parts=pattern_parts, chat=chat, prefill=prefill
        ),
    )


def shapley(worth: Callable[[tuple[int, ...]], Tensor], players: int) -> list[Tensor]:
    """Shapley value of each player.

    Args:
        worth: what a coalition is worth, given a 1 for each player in it and a 0 for each that is not.
        players: how many there are.

    Returns:
        One value a player; they sum to `worth(all) − worth(none)`.
    """
    known = {c: worth(c) for c in product((0, 1), repeat=players)}
    return [
        torch.stack([_weight(c, players) * (known[_join(c, i)] - known[c]) for c in known if not c[i]]).sum(0)
        for i in range(players)
    ]


def _weight(others: tuple[int, ...], players: int) -> float:
    """Share of the orders of play in which exactly these others come first: s! (n − 1 − s)! / n!."""
    return factorial(sum(others)) * factorial(players - 1 - sum(others)) / factorial(players)


def _join(coalition: tuple[int, ...], player: int) -> tuple[int, ...]:
    return (*coalition[:player], 1, *coalition[player + 1 :])


def _split_pattern(
    grid: dict[tuple[int, int], Float[Tensor, "head answer source"]], moved: dict[tuple[int, ...], Tensor]
) -> Float[Tensor, "2 head answer"]:
    """Owen values of (weights of queries and keys, their input), which play as one against input, OV and readout.

    Args:
        grid: the pattern of (weights, input), each 0 for before and 1 for after.
        moved: what each source would move, for each coalition of the other three.
    """
    shares: list[list[Tensor]] = [[], []]
    for others, vectors in moved.items():
        worth = {key: _mix(pattern, vectors) for key, pattern in grid.items()}
        weight = _weight(others, len(PLAYERS))
        for part, (alone, other) in enumerate((((1, 0), (0, 1)), ((0, 1), (1, 0)))):
            first, last = worth[alone] - worth[0, 0], worth[1, 1] - worth[other]
            shares[part].append(weight * (first + last) / 2)
    return torch.stack([torch.stack(share).sum(0) for share in shares])


@dataclass(frozen=True)
class _Side:
    """One model: what its forward pass left, and the normed input of each attention."""

    model: Any
    run: Run
    inputs: tuple[Float[Tensor, "source d_model"], ...]


def _side(model: Any, prompt: Text, answer: Text, example: Encoded, chat: bool, prefill: Text) -> _Side:
    _, run = decompositions(model, prompt, answer, ("source",), chat=chat, prefill=prefill)
    wide, _ = linear_parts.in_full_precision(model)
    return _Side(wide, run, _normed_inputs(wide, example))


def _normed_inputs(model: Any, example: Encoded) -> tuple[Float[Tensor, "source d_model"], ...]:
    """What each attention makes values from: the residual stream after `ln1` with its weights and bias.

    Raises:
        InputError: if a layer's values, queries or keys are not its weights times that, plus their bias.
    """
    inputs = []
    for layer in range(model.cfg.n_layers):
        before = linear_parts.norm_before(model, layer, "attn")
        stream = f"blocks.{layer}.hook_resid_pre"
        if before is None or not before[1].scales:
            normed = activations(model, example, [stream])[stream]
        else:
            name = before[0].replace("hook_scale", "hook_normalized")
            normed = activations(model, example, [name])[name]
            weight, bias = before[1].weight, before[1].bias
            normed = normed if weight is None else normed * weight
            normed = normed if bias is None else normed + bias
        inputs.append(normed)
    _check_projections(model, example, inputs)
    return tuple(inputs)


def _check_projections(model: Any, example: Encoded, inputs: Sequence[Float[Tensor, "source d_model"]]) -> None:
    for kind in "qkv":
        names = [f"blocks.{layer}.attn.hook_{kind}" for layer in range(model.cfg.n_layers)]
        acts = activations(model, example, names)
        for layer, name in enumerate(names):
            ours = _project(model, layer, kind, inputs[layer], acts[name].shape[1])
            tolerance = 1e4 * torch.finfo(ours.dtype).eps * max(1.0, float(acts[name].abs().max()))
            if float((ours - acts[name]).abs().max()) > tolerance:
                raise linear_parts.unlike(model, f"layer {layer}: hook_{kind} is not linear in the normed input")


def _project(
    model: Any, layer: int, kind: str, inputs: Float[Tensor, "source d_model"], heads: int
) -> Float[Tensor, "source head d_head"]:
    """Queries, keys or values of a layer from a normed input, as many heads as asked for (grouped or repeated)."""
    attention = model.blocks[layer].attn
    weight = _as_heads(getattr(attention, f"W_{kind.upper()}"), heads)
    out = torch.einsum("sd,hde->she", inputs, weight)
    bias = getattr(attention, f"b_{kind.upper()}", None)
    return out if bias is None else out + _as_heads(bias.reshape(-1, weight.shape[-1]), heads)


def _as_heads(weight: Float[Tensor, "*given"], heads: int) -> Float[Tensor, "*heads"]:
    """The same weights for as many heads: groups repeated, or one of each group of equal ones."""
    given = weight.shape[0]
    return weight[:: given // heads] if given > heads else weight.repeat_interleave(heads // given, dim=0)


def _patterns_on(
    model: Any, example: Encoded, inputs: Sequence[Float[Tensor, "source d_model"]]
) -> list[Float[Tensor, "head answer source"]]:
    """The patterns that this model's queries and keys give on another model's normed inputs, at the answer's rows."""
    patterns: dict[int, Tensor] = {}

    def make(act: Tensor, hook: Any, *, layer: int, kind: str) -> Tensor:
        return _project(model, layer, kind, inputs[layer], act.shape[2])[None].expand_as(act)

    def take(pattern: Tensor, hook: Any, *, layer: int) -> None:
        patterns[layer] = pattern[0][:, len(example.context) - 1 :].clone()

    hooks: list[tuple[str, Callable[..., Tensor | None]]] = []
    for layer in range(model.cfg.n_layers):
        for kind in "qk":
            hooks.append((f"blocks.{layer}.attn.hook_{kind}", functools.partial(make, layer=layer, kind=kind)))
        hooks.append((f"blocks.{layer}.attn.hook_pattern", functools.partial(take, layer=layer)))
    tokens = torch.tensor([example.ids[:-1]], device=hooked.device_of(model))
    hooked.read_out_at(model, tokens, lambda resid: resid[:, :1], hooks)
    return [patterns[layer] for layer in range(model.cfg.n_layers)]


def _moved(sides: Sequence[_Side], layer: int) -> dict[tuple[int, ...], Float[Tensor, "head source answer"]]:
    """What each source token would move into the logit if wholly attended to, for each (input, OV, readout)."""
    moved: dict[tuple[int, ...], Tensor] = {}
    for n, ov, r in product((0, 1), repeat=3):
        model = sides[ov].model
        v = _project(model, layer, "v", sides[n].inputs[layer], model.cfg.n_heads)
        moved[n, ov, r] = torch.einsum(
            "she,het->hst", v, read_out(linear_parts.heads_out(model, layer), sides[r].run.attn[layer])
        )
    return moved


def _worth(
    patterns: Sequence[Float[Tensor, "head answer source"]],
    moved: dict[tuple[int, ...], Float[Tensor, "head source answer"]],
    coalition: tuple[int, ...],
) -> Float[Tensor, "head answer"]:
    """What each head adds, its pattern, input, OV and readout taken from before (0) or after (1). Logits."""
    return _mix(patterns[coalition[0]], moved[coalition[1:]])


def _mix(
    pattern: Float[Tensor, "head answer source"], moved: Float[Tensor, "head source answer"]
) -> Float[Tensor, "head answer"]:
    return (pattern.transpose(1, 2) * moved).sum(1)
