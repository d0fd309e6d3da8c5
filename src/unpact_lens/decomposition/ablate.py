"""Take a head, an MLP or a neuron away and see what the answer loses: the check on what was attributed to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, ClassVar

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.decomposition import linear_parts
from unpact_lens.decomposition.decompose import decompose
from unpact_lens.decomposition.intervene import Edit, activations, answer_log_probs
from unpact_lens.decomposition.logit_direction import text_of
from unpact_lens.errors import InputError, nearest
from unpact_lens.models.tokens import Encoded, Text, encode, encode_context, token_strings
from unpact_lens.results import Result
from unpact_lens.scoring import DEFAULT_BATCH_TOKENS

HOOKS = {"head": "attn.hook_z", "mlp": "hook_mlp_out", "neuron": "mlp.hook_post"}
"""What can be ablated, and the activation of a block that holds it."""
HOW = ("zero", "mean", "resample")


@dataclass(frozen=True, eq=False)
class Ablation(Result):
    """What the answer loses when each part is taken away, everything behind it computed again.

    Attributes:
        log_prob: `[row, column]`, mean log-probability of the answer without the part, nats.
        spread: the same, standard deviation over the draws; 0 where there is only one.
        baseline: mean log-probability of the answer with all parts, nats.
        labels: names of rows and columns: layers and heads; layers and `("mlp",)`; neurons and `("neuron",)`.
        what: `"head"`, `"mlp"` or `"neuron"`.
        how: `"zero"`, `"mean"` (over all positions of the reference texts) or `"resample"` (each position takes the
            part's activation at a random position of them).
        tokens: the S input tokens.
        answer_tokens: the T answer tokens.
        prompt: the prompt, as text.
        answer: the answer, as text.
        settings: draws, seed, number of reference texts.
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

    @property
    def values(self) -> Float[Tensor, "row column"]:
        """What the part is worth: mean log-probability with it minus without it, nats. Positive helps the answer."""
        return self.baseline - self.log_prob

    def to_frame(self) -> pd.DataFrame:
        """One row a part."""
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
    model: Any,
    prompt: Text,
    answer: Text,
    *,
    what: str = "head",
    how: str = "zero",
    reference: Sequence[Text] = (),
    neurons: Sequence[tuple[int, int]] | None = None,
    draws: int = 8,
    seed: int = 0,
    chat: bool = False,
    prefill: Text = "",
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
) -> Ablation:
    """What the answer loses without each head, MLP or neuron, at every position.

    A head is its output before `W_O`, its own `b_V` included; `b_O` stays. An MLP is all that it writes.

    Args:
        model: a hooked causal model; it is not changed.
        prompt: text or ids.
        answer: text, leading space included, or ids.
        what: `"head"`, `"mlp"` or `"neuron"`.
        how: what stands in its place: `"zero"`, `"mean"` or `"resample"`.
        reference: texts whose activations give mean and resamples.
        neurons: `(layer, neuron)` pairs; by default the 64 whose direct effects on the answer are largest.
        draws: how many resamples are averaged.
        seed: of the resamples.
        chat: wrap the prompt in the tokenizer's chat template.
        prefill: the opening of the answer, given to the model and not scored.
        batch_tokens: bound on the input tokens of one forward pass.

    Raises:
        InputError: if `what` or `how` is unknown, mean or resample have no reference texts, a neuron does not exist,
            or for any input that `encode` refuses.
    """
    if what not in HOOKS:
        raise InputError(f"what={what!r}; {nearest(str(what), HOOKS)}")
    if how not in HOW:
        raise InputError(f"how={how!r}; {nearest(str(how), HOW)}")
    if how != "zero" and not reference:
        raise InputError(f"how={how!r} needs reference texts to take activations from; give reference=, e.g. prompts")
    if draws < 1:
        raise InputError(f"draws={draws}; give a positive number of resamples")
    example = encode(model, prompt, answer, chat=chat, prefill=prefill)
    places, labels = _places(model, what, neurons, prompt, answer, chat, prefill)
    pools = _pools(model, what, sorted({layer for layer, _ in places}), reference)
    repeats = draws if how == "resample" else 1
    generator = torch.Generator().manual_seed(seed)
    length = len(example.ids) - 1
    rows: list[list[Edit]] = [[]]
    for _ in range(repeats):
        for layer, index in places:
            value = _stand_in(pools.get(layer), index, how, length, generator)
            rows.append([Edit(f"blocks.{layer}.{HOOKS[what]}", _slot(index), value)])
    log_probs = answer_log_probs(model, example, rows, batch_tokens=batch_tokens).mean(-1)
    found = log_probs[1:].reshape(repeats, len(labels[0]), len(labels[1]))
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
        settings={"draws": repeats, "seed": seed, "reference": len(reference), "batch_tokens": batch_tokens},
    )


def _places(
    model: Any,
    what: str,
    neurons: Sequence[tuple[int, int]] | None,
    prompt: Text,
    answer: Text,
    chat: bool,
    prefill: Text,
) -> tuple[list[tuple[int, int | None]], tuple[tuple[str, ...], tuple[str, ...]]]:
    """`(layer, index)` of each part, in the order of the result's rows and columns, and their labels."""
    layers = range(model.cfg.n_layers)
    layer_labels = tuple(f"L{layer}" for layer in layers)
    if what == "head":
        heads = range(model.cfg.n_heads)
        return list(product(layers, heads)), (layer_labels, tuple(f"H{h}" for h in heads))
    if not linear_parts.has_mlp(model):
        raise InputError(f"what={what!r}, but the model has no MLPs (cfg.attn_only=True); use what='head'")
    if what == "mlp":
        return [(layer, None) for layer in layers], (layer_labels, ("mlp",))
    width = linear_parts.neurons_out(model, 0).shape[0]
    if neurons is None:
        strength = decompose(model, prompt, answer, by="neuron", chat=chat, prefill=prefill).values.mean(-1).abs()
        top = strength.flatten().topk(min(64, strength.numel())).indices.tolist()
        neurons = [(i // width, i % width) for i in top]
    for layer, n in neurons:
        if not (0 <= layer < model.cfg.n_layers and 0 <= n < width):
            raise InputError(
                f"neuron {(layer, n)} is not in the model: layers 0 to {model.cfg.n_layers - 1}, "
                f"neurons 0 to {width - 1}"
            )
    return [(int(layer), int(n)) for layer, n in neurons], (tuple(f"L{l}N{n}" for l, n in neurons), ("neuron",))


def _pools(model: Any, what: str, layers: Sequence[int], reference: Sequence[Text]) -> dict[int, Tensor]:
    """For each layer the activations at all positions of the reference texts, `[position, ...]`."""
    names = [f"blocks.{layer}.{HOOKS[what]}" for layer in layers]
    runs = []
    for text in reference:
        context = encode_context(model, text)
        # `activations` runs all ids but the last, which an example's answer would be.
        runs.append(activations(model, Encoded(context.head, context.prompt, context.tail, (0,)), names))
    return {l: torch.cat([run[name] for run in runs]) for l, name in zip(layers, names, strict=True)} if runs else {}


def _slot(index: int | None) -> tuple[Any, ...]:
    """Where in the activation `[pos, ...]` the part is."""
    return () if index is None else (slice(None), index)


def _stand_in(
    pool: Tensor | None, index: int | None, how: str, length: int, generator: torch.Generator
) -> Tensor | float:
    """What stands in the part's place at each of `length` positions."""
    if pool is None or how == "zero":
        return 0.0
    own = pool if index is None else pool[:, index]
    if how == "mean":
        return own.mean(0)
    return own[torch.randint(len(own), (length,), generator=generator)]
