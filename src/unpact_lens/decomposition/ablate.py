"""Ablate a head, an MLP or a neuron and measure the change of the answer, as a check on its attribution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, ClassVar

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import Unpack

from unpact_lens.decomposition import linear_parts
from unpact_lens.decomposition.decompose import decompositions
from unpact_lens.decomposition.intervene import Edit, activations, answer_log_probs
from unpact_lens.decomposition.logit_direction import text_of
from unpact_lens.display import joined, largest, quoted
from unpact_lens.errors import InputError, nearest
from unpact_lens.models.acting_hooks import require_acting_hooks
from unpact_lens.models.asking import Asking, AskingOptions
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.tokens import Encoded, Text, encode_context, token_strings
from unpact_lens.results import Result

HOOKS = {"head": "attn.hook_z", "mlp": "hook_mlp_out", "neuron": "mlp.hook_post"}
"""Parts that can be ablated, and the activation of a block that holds each."""

HOW = ("zero", "mean", "resample")
"""Values that can replace a part's activation."""


@dataclass(frozen=True, eq=False)
class Ablation(Result):
    """Hold the answer's log-probability without each part, with everything after the part recomputed.

    Attributes:
        log_prob: `[row, column]`, mean log-probability of the answer without the part, nats.
        spread: `[row, column]`, standard deviation of `log_prob` over the draws; 0 for a single draw.
        baseline: Mean log-probability of the answer with all parts, nats.
        labels: Names of rows and columns: layers and heads; layers and `("mlp",)`; neurons and `("neuron",)`.
        what: `"head"`, `"mlp"` or `"neuron"`.
        how: `"zero"`, `"mean"` (over all positions of the reference texts) or `"resample"` (each position takes the
            part's activation at a random position of the reference texts).
        tokens: The S input tokens.
        answer_tokens: The T answer tokens.
        prompt: Text of the prompt.
        answer: Text of the answer.
        settings: Draws, seed, number of reference texts, `batch_tokens`.
    """

    log_prob: Float[Tensor, "row column"]
    spread: Float[Tensor, "row column"]
    baseline: float
    labels: tuple[tuple[str, ...], tuple[str, ...]]
    what: str
    how: str
    tokens: tuple[str, ...]
    answer_tokens: tuple[str, ...]
    prompt: str
    answer: str
    settings: dict[str, Any] = field(default_factory=dict)

    figure: ClassVar[str | None] = "mechanisms:ablation_map"

    def _brief(self) -> str:
        return joined(
            [
                f"{self.how} ablation by {self.what}",
                quoted(self.answer, 20),
                f"{largest(self.values, self.labels)} nats",
            ]
        )

    @property
    def values(self) -> Float[Tensor, "row column"]:
        """Effect of each part: mean log-probability with it minus without it, nats. Positive parts help the answer."""
        return self.baseline - self.log_prob

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row for each part."""
        rows = list(product(*self.labels))
        return pd.DataFrame(
            {
                "row": [r for r, _ in rows],
                "column": [c for _, c in rows],
                "log_prob": self.log_prob.flatten().tolist(),
                "effect": self.values.flatten().tolist(),
                "spread": self.spread.flatten().tolist(),
            }
        )


def ablate(
    model: HookedModel,
    prompt: Text,
    answer: Text,
    *,
    what: str = "head",
    how: str = "zero",
    reference: Sequence[Text] = (),
    neurons: Sequence[tuple[int, int]] | None = None,
    draws: int = 8,
    seed: int = 0,
    **asking: Unpack[AskingOptions],
) -> Ablation:
    """Measure the answer's log-probability without each head, MLP or neuron, ablated at every position.

    A head is its output before `W_O`, its own `b_V` included; `b_O` remains. An MLP is all that it writes.

    Args:
        model: Hooked causal model; it is not changed.
        prompt: Text or ids.
        answer: Text, leading space included, or ids.
        what: `"head"`, `"mlp"` or `"neuron"`.
        how: Value that replaces the activation: `"zero"`, `"mean"` or `"resample"`.
        reference: Texts whose activations give the mean and the resamples.
        neurons: `(layer, neuron)` pairs. By default, the 64 with the largest direct effects on the answer.
        draws: Number of resamples that are averaged.
        seed: Random seed of the resamples.
        asking: Options of `AskingOptions`.

    Raises:
        InputError: If `what` or `how` is unknown, mean or resample have no reference texts, a neuron does not exist,
            changing such an activation changes no output of this model, or `encode` refuses the input.
    """
    asked = Asking(**asking)
    if what not in HOOKS:
        raise InputError(f"what={what!r}; {nearest(str(what), HOOKS)}")
    if how not in HOW:
        raise InputError(f"how={how!r}; {nearest(str(how), HOW)}")
    if how != "zero" and not reference:
        raise InputError(f"how={how!r} needs reference texts to take activations from; give reference=, e.g. prompts")
    if draws < 1:
        raise InputError(f"draws={draws}; give a positive number of resamples")
    example = asked.encode(model, prompt, answer)
    if what == "neuron" and neurons is None:
        neurons = _strongest_neurons(model, prompt, answer, asked)
    places, labels = _places(model, what, neurons or ())
    require_acting_hooks(
        model, [f"blocks.{layer}.{HOOKS[what]}" for layer, _ in places], feature=f"ablate(what={what!r})",
        remedy=f"ablate another part: {', '.join(repr(w) for w in HOOKS if w != what)}",
    )  # fmt: skip
    pools = _pools(model, what, sorted({layer for layer, _ in places}), reference)
    repeats = draws if how == "resample" else 1
    generator = torch.Generator().manual_seed(seed)
    length = len(example.ids) - 1
    rows: list[list[Edit]] = [[]]  # the first row is unedited
    for _ in range(repeats):
        for layer, index in places:
            value = _replacement(pools.get(layer), index, how, length, generator)
            rows.append([Edit(f"blocks.{layer}.{HOOKS[what]}", _slot(index), value)])
    log_probs = answer_log_probs(model, example, rows, batch_tokens=asked.batch_tokens).mean(-1)  # [1 + draw * part]
    found = log_probs[1:].reshape(repeats, len(labels[0]), len(labels[1]))  # [draw, row, column]
    return Ablation(
        log_prob=found.mean(0),
        spread=found.std(0, correction=0),
        baseline=float(log_probs[0]),
        labels=labels,
        what=what,
        how=how,
        tokens=token_strings(model, example.ids[:-1]),
        answer_tokens=token_strings(model, example.answer),
        prompt=text_of(model, prompt),
        answer=text_of(model, answer),
        settings={"draws": repeats, "seed": seed, "reference": len(reference), "batch_tokens": asked.batch_tokens},
    )


def _strongest_neurons(model: HookedModel, prompt: Text, answer: Text, asked: Asking) -> list[tuple[int, int]]:
    """Return the 64 neurons with the largest direct effects on the answer, as `(layer, neuron)` pairs."""
    _require_mlps(model, "neuron")
    (found,), _ = decompositions(model, prompt, answer, ("neuron",), asked)
    strength = found.values.mean(-1).abs()  # [layer, d_mlp]
    width = strength.shape[1]
    top = strength.flatten().topk(min(64, strength.numel())).indices.tolist()
    return [(i // width, i % width) for i in top]


def _require_mlps(model: HookedModel, what: str) -> None:
    """Refuse a model without MLPs.

    Raises:
        InputError: If the model has none.
    """
    if not linear_parts.has_mlp(model):
        raise InputError(f"what={what!r}, but the model has no MLPs (cfg.attn_only=True); use what='head'")


def _places(
    model: HookedModel, what: str, neurons: Sequence[tuple[int, int]]
) -> tuple[list[tuple[int, int | None]], tuple[tuple[str, ...], tuple[str, ...]]]:
    """Return `(layer, index)` of each part, in the order of the result's rows and columns, and their labels."""
    layers = range(model.cfg.n_layers)
    layer_labels = tuple(f"L{layer}" for layer in layers)
    if what == "head":
        heads = range(model.cfg.n_heads)
        return list(product(layers, heads)), (layer_labels, tuple(f"H{h}" for h in heads))
    _require_mlps(model, what)
    if what == "mlp":
        return [(layer, None) for layer in layers], (layer_labels, ("mlp",))
    width = linear_parts.neurons_out(model, 0).shape[0]
    for layer, n in neurons:
        if not (0 <= layer < model.cfg.n_layers and 0 <= n < width):
            raise InputError(
                f"neuron {(layer, n)} is not in the model: layers 0 to {model.cfg.n_layers - 1}, "
                f"neurons 0 to {width - 1}"
            )
    return [(int(layer), int(n)) for layer, n in neurons], (tuple(f"L{l}N{n}" for l, n in neurons), ("neuron",))


def _pools(model: HookedModel, what: str, layers: Sequence[int], reference: Sequence[Text]) -> dict[int, Tensor]:
    """Collect each layer's activations at all positions of the reference texts, `[position, ...]`."""
    names = [f"blocks.{layer}.{HOOKS[what]}" for layer in layers]
    runs = []
    for text in reference:
        context = encode_context(model, text)
        # `activations` runs all ids but the last, which an example's answer would be.
        runs.append(activations(model, Encoded(context.head, context.prompt, context.tail, (0,)), names))
    return {l: torch.cat([run[name] for run in runs]) for l, name in zip(layers, names, strict=True)} if runs else {}


def _slot(index: int | None) -> tuple[Any, ...]:
    """Return the index of the part in the activation `[pos, ...]`."""
    return () if index is None else (slice(None), index)


def _replacement(
    pool: Tensor | None, index: int | None, how: str, length: int, generator: torch.Generator
) -> Tensor | float:
    """Return the value that replaces the part at each of `length` positions."""
    if pool is None or how == "zero":
        return 0.0
    own = pool if index is None else pool[:, index]  # [position, ...]
    if how == "mean":
        return own.mean(0)
    return own[torch.randint(len(own), (length,), generator=generator)]
