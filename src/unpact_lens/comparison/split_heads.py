r"""Split the change of each head's direct contribution over four players, by Shapley values that sum to it exactly.

A head adds to the logit at answer position t

$$\sum_s A_{ts}\,(n_s W_V + b_V)\,W_O \cdot d_t,$$

with A its pattern, n the normed residual stream, OV its `W_V`, `b_V`, `W_O`, and d the direction that `ln_final` (its
scale and weights) and `W_U` read. Each of the four is taken from the original or the unlearned model. The 16
combinations give each player's Shapley value. The pattern's share can be split again, between the weights that make
queries and keys and the input that they are made from (an Owen value: both sum to the pattern's share).

Source: Shapley 1953, A value for n-person games; Owen 1977, Values of games with a priori unions.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import factorial
from typing import Any, ClassVar

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import Unpack

from unpact_lens.comparison.model_pair import ModelPair
from unpact_lens.comparison.noise_columns import beside_floor
from unpact_lens.comparison.question import Question
from unpact_lens.data.benchmark import QA
from unpact_lens.decomposition import linear_parts
from unpact_lens.decomposition.capture import Captured
from unpact_lens.decomposition.components import head_labels
from unpact_lens.decomposition.decompose import decompositions
from unpact_lens.decomposition.heads import read_out
from unpact_lens.decomposition.intervene import activations
from unpact_lens.decomposition.logit_direction import text_of
from unpact_lens.display import joined, largest, quoted
from unpact_lens.models import hooked
from unpact_lens.models.acting_hooks import require_acting_hooks
from unpact_lens.models.asking import Asking, AskingOptions
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.tokens import Encoded, Text, token_strings
from unpact_lens.results import Result

PLAYERS = ("pattern", "input", "ov", "readout")
PATTERN_PARTS = ("qk_weights", "qk_input")


@dataclass(frozen=True, eq=False)
class HeadSplit(Result):
    """Hold why each head's direct contribution changed: four players' shares, which sum to its Δ exactly.

    Attributes:
        values: `[player, layer, head, T]`, logits: each player's Shapley value.
        players: `"pattern"` (where the head looks), `"input"` (the normed residual stream it reads its values from),
            `"ov"` (`W_V`, `b_V`, `W_O`), `"readout"` (final norm, unembedding, and a norm behind the attention).
        before: `[layer, head, T]`, direct contribution of each head in the original model, logits.
        after: `[layer, head, T]`, the same in the unlearned model.
        pattern_parts: `[2, layer, head, T]`, or None if not asked for: the pattern's share split into `"qk_weights"`
            and `"qk_input"` (what queries and keys are made from); they sum to it.
        labels: Names of layers, heads and answer tokens.
        prompt: Prompt, as text.
        answer: Answer, as text.
        floor: The same for the noise baseline, or None.
    """

    figure: ClassVar[str | None] = "changes:head_split"

    values: Float[Tensor, "player layer head answer"]
    players: tuple[str, ...]
    before: Float[Tensor, "layer head answer"]
    after: Float[Tensor, "layer head answer"]
    pattern_parts: Float[Tensor, "2 layer head answer"] | None
    labels: tuple[tuple[str, ...], ...]
    prompt: str
    answer: str
    floor: HeadSplit | None = None

    def _brief(self) -> str:
        return joined(
            [
                quoted(self.answer, 20),
                f"Δ {largest(self.delta.mean(-1), self.labels[:2])} logits",
                " + ".join(self.players),
            ]
        )

    @property
    def delta(self) -> Float[Tensor, "layer head answer"]:
        """Δ of each head, logits: the sum of `values` over the players."""
        return self.after - self.before

    def to_frame(self) -> pd.DataFrame:
        """Make a table with one row per head and one column per player: logits, mean over the answer tokens."""
        mean = self.values.mean(-1)  # [player, layer, head]
        rows = list(product(*self.labels[:2]))
        frame = pd.DataFrame({"layer": [l for l, _ in rows], "head": [h for _, h in rows]})
        for k, player in enumerate(self.players):
            frame[player] = mean[k].flatten().tolist()
        if self.pattern_parts is not None:
            for part, share in zip(PATTERN_PARTS, self.pattern_parts.mean(-1), strict=True):
                frame[part] = share.flatten().tolist()
        frame["delta"] = self.delta.mean(-1).flatten().tolist()
        return beside_floor(frame, self.floor, list(frame.columns[2:]))


def split_heads(
    before: HookedModel,
    after: HookedModel,
    prompt: Text | QA,
    answer: Text | None = None,
    *,
    pattern_parts: bool = False,
    floor: Sequence[HookedModel] | None = None,
    **asking: Unpack[AskingOptions],
) -> HeadSplit:
    """Split each head's Δ between pattern, input, OV and readout.

    Args:
        before: Original model.
        after: Unlearned model, of the same shape, vocabulary and tokenizer.
        prompt: Text or ids; or a `QA`, which holds its answer.
        answer: Text, leading space included, or ids.
        pattern_parts: Also split the pattern's share between the weights of queries and keys and their input, which
            takes four more forward passes.
        floor: Noise baseline: two models that differ by noise only (two training seeds, or before and after
            fine-tuning on unrelated text), on which the same is measured.
        **asking: `chat` and `prefill`; see `AskingOptions`.

    Raises:
        InputError: If the models are not comparable, or values, queries or keys are not linear in the normed input
            (the layer is named).
    """
    asked = Asking(**asking)
    return split_of_pair(ModelPair.of(before, after, floor=floor), Question.of(prompt, answer), asked, pattern_parts)


def split_of_pair(pair: ModelPair, question: Question, asked: Asking, pattern_parts: bool) -> HeadSplit:
    """Split each head's Δ on one question; see `split_heads`."""
    before = pair.before
    example = asked.encode(before, question.prompt, question.answer)
    with torch.no_grad():
        sides = [_side(model, question, example, asked) for model in pair.models]
        corners = product((0, 1), repeat=2) if pattern_parts else ()
        # All four patterns are computed in the same way, so that equal models give equal patterns to the last bit.
        grid = {(qk, n): _patterns_on(sides[qk].model, example, sides[n].inputs) for qk, n in corners}
        splits, parts, ends = [], [], []
        for layer in range(before.cfg.n_layers):
            patterns = [side.run.at(layer, "attn.hook_pattern") for side in sides]  # each [head, T, S]
            moved = _moved(sides, layer)
            worth = functools.partial(_worth, patterns, moved)
            splits.append(torch.stack(shapley(worth, len(PLAYERS))))  # [player, head, T]
            ends.append(torch.stack([worth((0, 0, 0, 0)), worth((1, 1, 1, 1))]))  # [2, head, T]
            if grid:
                parts.append(_split_pattern({corner: grid[corner][layer] for corner in grid}, moved))
    layers, heads = head_labels(before)
    found = HeadSplit(
        values=torch.stack(splits, 1).cpu(),
        players=PLAYERS,
        before=torch.stack(ends, 1)[0].cpu(),
        after=torch.stack(ends, 1)[1].cpu(),
        pattern_parts=torch.stack(parts, 1).cpu() if parts else None,
        labels=(layers, heads, token_strings(before, example.answer)),
        prompt=text_of(before, question.prompt),
        answer=text_of(before, question.answer),
    )
    if pair.noise is None:
        return found
    return replace(found, floor=split_of_pair(pair.noise, question, asked, pattern_parts))


def shapley(worth: Callable[[tuple[int, ...]], Tensor], players: int) -> list[Tensor]:
    """Compute the Shapley value of each player.

    Args:
        worth: Function from a coalition, a 1 for each player in it and a 0 for each other, to its worth.
        players: Number of players.

    Returns:
        One value per player; they sum to `worth(all) − worth(none)`.
    """
    known = {c: worth(c) for c in product((0, 1), repeat=players)}
    return [
        torch.stack([_weight(c, players) * (known[_join(c, i)] - known[c]) for c in known if not c[i]]).sum(0)
        for i in range(players)
    ]


def _weight(others: tuple[int, ...], players: int) -> float:
    """Compute the share of orders of play in which exactly these others come first: s! (n − 1 − s)! / n!."""
    return factorial(sum(others)) * factorial(players - 1 - sum(others)) / factorial(players)


def _join(coalition: tuple[int, ...], player: int) -> tuple[int, ...]:
    """Add a player to a coalition."""
    return (*coalition[:player], 1, *coalition[player + 1 :])


def _split_pattern(
    grid: dict[tuple[int, int], Float[Tensor, "head answer source"]], moved: dict[tuple[int, ...], Tensor]
) -> Float[Tensor, "2 head answer"]:
    """Compute Owen values of the weights of queries and keys and of their input.

    The two play as one against input, OV and readout.

    Args:
        grid: Pattern of (weights, input), each 0 for the original and 1 for the unlearned model.
        moved: Contribution of each source token if wholly attended to, for each coalition of the other three.
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
    """Hold one model, what its forward pass left, and the normed input of each attention."""

    model: HookedModel
    run: Captured
    inputs: tuple[Float[Tensor, "source d_model"], ...]


def _side(model: HookedModel, question: Question, example: Encoded, asked: Asking) -> _Side:
    """Run one model, in fp32 at least."""
    _, run = decompositions(model, question.prompt, question.answer, ("source",), asked)
    wide, _ = linear_parts.in_full_precision(model)
    return _Side(wide, run, _normed_inputs(wide, example))


def _normed_inputs(model: HookedModel, example: Encoded) -> tuple[Float[Tensor, "source d_model"], ...]:
    """Compute the input of each attention: the residual stream after `ln1` with its weights and bias.

    Raises:
        InputError: If a layer's values, queries or keys are not its weights times that input, plus their bias.
    """
    norms = [linear_parts.norm_before(model, layer, "attn") for layer in range(model.cfg.n_layers)]
    names = [
        f"blocks.{layer}.hook_resid_pre"
        if norm is None or not norm[1].scales
        else norm[0].replace("hook_scale", "hook_normalized")
        for layer, norm in enumerate(norms)
    ]
    taken = activations(model, example, names)  # of all layers in one forward pass
    inputs = []
    for name, norm in zip(names, norms, strict=True):
        normed = taken[name]
        if norm is not None and norm[1].scales:
            weight, bias = norm[1].weight, norm[1].bias
            normed = normed if weight is None else normed * weight
            normed = normed if bias is None else normed + bias
        inputs.append(normed)
    _check_projections(model, example, inputs)
    return tuple(inputs)


def _check_projections(model: HookedModel, example: Encoded, inputs: Sequence[Float[Tensor, "source d_model"]]) -> None:
    """Refuse a layer whose queries, keys or values are not linear in its normed input."""
    for kind in "qkv":
        names = [f"blocks.{layer}.attn.hook_{kind}" for layer in range(model.cfg.n_layers)]
        acts = activations(model, example, names)
        for layer, name in enumerate(names):
            ours = _project(model, layer, kind, inputs[layer], acts[name].shape[1])
            tolerance = 1e4 * torch.finfo(ours.dtype).eps * max(1.0, float(acts[name].abs().max()))
            if float((ours - acts[name]).abs().max()) > tolerance:
                raise linear_parts.not_linear(model, f"layer {layer}: hook_{kind} is not linear in the normed input")


def _project(
    model: HookedModel, layer: int, kind: str, inputs: Float[Tensor, "source d_model"], heads: int
) -> Float[Tensor, "source head d_head"]:
    """Compute queries, keys or values of a layer from a normed input, for `heads` heads (grouped or repeated)."""
    attention = model.blocks[layer].attn
    weight = _as_heads(getattr(attention, f"W_{kind.upper()}"), heads)
    out = torch.einsum("sd,hde->she", inputs, weight)  # [source, head, d_head]
    bias = getattr(attention, f"b_{kind.upper()}", None)
    return out if bias is None else out + _as_heads(bias.reshape(-1, weight.shape[-1]), heads)


def _as_heads(weight: Float[Tensor, "*given"], heads: int) -> Float[Tensor, "*heads"]:
    """Give the weights one entry per head: repeat each group's, or keep one of each group of equal ones."""
    given = weight.shape[0]
    return weight[:: given // heads] if given > heads else weight.repeat_interleave(heads // given, dim=0)


def _patterns_on(
    model: HookedModel, example: Encoded, inputs: Sequence[Float[Tensor, "source d_model"]]
) -> list[Float[Tensor, "head answer source"]]:
    """Compute the patterns of this model's queries and keys on another model's normed inputs, at the answer's rows."""
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
    require_acting_hooks(
        model, [name for name, _ in hooks if not name.endswith("hook_pattern")], feature="split_heads",
        remedy="load both models with wrap='hooked'",
    )  # fmt: skip
    tokens = torch.tensor([example.ids[:-1]], device=hooked.device_of(model))
    hooked.read_out_at(model, tokens, lambda resid: resid[:, :1], hooks)
    return [patterns[layer] for layer in range(model.cfg.n_layers)]


def _moved(sides: Sequence[_Side], layer: int) -> dict[tuple[int, ...], Float[Tensor, "head source answer"]]:
    """Compute what each source token would add to the logit if wholly attended to, for each (input, OV, readout)."""
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
    """Compute each head's contribution, logits, its four players taken from before (0) or after (1)."""
    return _mix(patterns[coalition[0]], moved[coalition[1:]])


def _mix(
    pattern: Float[Tensor, "head answer source"], moved: Float[Tensor, "head source answer"]
) -> Float[Tensor, "head answer"]:
    """Sum over the source tokens, weighted by the pattern."""
    return (pattern.transpose(1, 2) * moved).sum(1)  # [head, source, answer] summed over source
