"""`decompose`: one forward pass, then the view that was asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, overload

import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.decomposition import components, linear_parts
from unpact_lens.decomposition.capture import Captured, capture
from unpact_lens.decomposition.heads import source_values
from unpact_lens.decomposition.lens import TunedLens, lens_curves
from unpact_lens.decomposition.logit_direction import LogitDirection, logit_direction, text_of
from unpact_lens.decomposition.neurons import neuron_values
from unpact_lens.decomposition.result import Decomposition, LensCurves
from unpact_lens.errors import InputError, nearest
from unpact_lens.models.tokens import Text, encode, token_strings

Rows = dict[str, Float[Tensor, " answer"]]
View = tuple[Float[Tensor, "*axes answer"], tuple[tuple[str, ...], ...], Rows]
"""Values, the labels of all axes but the last, and what the view does not resolve."""


@overload
def decompose(
    model: Any,
    prompt: Text,
    answer: Text,
    *,
    by: Literal["component", "head", "source", "neuron"] = ...,
    versus: Text | None = ...,
    chat: bool = ...,
    prefill: Text = ...,
) -> Decomposition: ...
@overload
def decompose(
    model: Any,
    prompt: Text,
    answer: Text,
    *,
    by: Literal["layer"],
    lens: TunedLens | None = ...,
    chat: bool = ...,
    prefill: Text = ...,
) -> LensCurves: ...
@overload
def decompose(
    model: Any,
    prompt: Text,
    answer: Text,
    *,
    by: str,
    versus: Text | None = ...,
    lens: TunedLens | None = ...,
    chat: bool = ...,
    prefill: Text = ...,
) -> Decomposition | LensCurves: ...
def decompose(
    model: Any,
    prompt: Text,
    answer: Text,
    *,
    by: str = "component",
    versus: Text | None = None,
    lens: TunedLens | None = None,
    chat: bool = False,
    prefill: Text = "",
) -> Decomposition | LensCurves:
    r"""Split the logit of each answer token into what each part of the model adds to it.

    The final residual stream is a sum of what embedding, heads and MLPs wrote; `ln_final` at its own scale and the
    unembedding are linear, so the logit is the same sum, read along one direction. Works on raw weights. A final
    soft-cap is not linear: the logit before it is split, and the result says so.

    Args:
        model: a hooked causal model; weights of half precision are decomposed in fp32.
        prompt: text or ids.
        answer: text, leading space included, or ids.
        by: `"component"`, `"head"`, `"source"` (head × source token) or `"neuron"`; or `"layer"`, which is not a sum
            but the answer's logit, probability and rank after each layer (`lens_curves`).
        versus: a foil whose logit is subtracted: as long as the answer, or scored at the first token that differs; or
            `VOCABULARY`, the vocabulary's mean logit.
        lens: by layer only: a tuned lens (`train_tuned_lens`) instead of the logit lens.
        chat: wrap the prompt in the tokenizer's chat template.
        prefill: the opening of the answer, given to the model and not scored.

    Returns:
        `values` and `remainder`, logits, which sum to `total`; by layer, `LensCurves`.

    Raises:
        InputError: if the view is unknown, the input is empty or too long, the foil does not differ, the model is of a
            kind that cannot be decomposed (the layer and the flag are named), or its weights give NaN.

    Source: Elhage et al. 2021, A Mathematical Framework for Transformer Circuits; the norms' algebra in `norm.py`.
    """
    if by == "layer":
        if versus is not None:
            raise InputError("by='layer' reads the answer alone; leave out versus")
        return lens_curves(model, prompt, answer, lens=lens, chat=chat, prefill=prefill)
    if lens is not None:
        raise InputError(f"a tuned lens reads layers; use by='layer', not by={by!r}, or leave out lens")
    return decompositions(model, prompt, answer, (by,), versus=versus, chat=chat, prefill=prefill)[0][0]


def decompositions(
    model: Any,
    prompt: Text,
    answer: Text,
    views: Sequence[str],
    *,
    versus: Text | None = None,
    vocabulary: bool = False,
    chat: bool = False,
    prefill: Text = "",
) -> tuple[list[Decomposition], Captured]:
    """Several views of one example from one forward pass, and what else that pass left; see `decompose`, `capture`."""
    for by in views:
        if by not in VIEWS:
            raise InputError(f"unknown view by={by!r}; {nearest(str(by), [*VIEWS, 'layer'])}")
    linear_parts.require_decomposable(model)
    wanted = logit_direction(model, encode(model, prompt, answer, chat=chat, prefill=prefill), versus)
    wide, notes = linear_parts.in_full_precision(model)
    if "neuron" in views:
        linear_parts.neurons_out(wide, 0)
    with torch.no_grad():
        run = capture(wide, wanted, views, vocabulary=vocabulary)
        heads = components.all_heads(wide, run)
        components.check_sums(wide, wanted, run, heads)
        split = {by: VIEWS[by](wide, wanted, run, heads) for by in views}
        total = run.total.cpu()
    notes = (*notes, *_caveats(wide))
    answer_tokens = token_strings(model, wanted.answer)
    results = [
        Decomposition(
            values=values.cpu(),
            labels=(*labels, answer_tokens),
            remainder=torch.stack(list(rest.values())).cpu() if rest else total.new_zeros(0, len(total)),
            remainder_labels=tuple(rest),
            total=total,
            by=by,
            tokens=token_strings(model, wanted.example.ids[:-1]),
            answer_tokens=answer_tokens,
            prompt=text_of(model, prompt),
            answer=text_of(model, answer),
            versus=wanted.versus,
            notes=notes,
            settings={
                "dtype": str(total.dtype).removeprefix("torch."),
                "chat": chat,
                "prefill": text_of(model, prefill),
            },
        )
        for by, (values, labels, rest) in split.items()
    ]
    return results, run


def _caveats(model: Any) -> tuple[str, ...]:
    """What a reader of any view of this model must know."""
    notes = []
    cap = linear_parts.soft_cap(model)
    if cap is not None:
        notes.append(f"the logit before the final soft-cap of {cap:g} is decomposed")
    if linear_parts.norm_behind(model, 0, "attn") is not None:
        notes.append("norms behind attention and MLP are linear at their own scale, which is held")
    return tuple(notes)


def by_component(model: Any, wanted: LogitDirection, run: Captured, heads: Float[Tensor, "layer head answer"]) -> View:
    """Embedding, positions, each head, each attention bias, each MLP, norm bias, unembedding bias: `[C, T]`."""
    rows = dict(components.embedding_rows(model, run))
    biases, mlps = components.attention_biases(model, run), components.mlps(model, run)
    for layer in range(model.cfg.n_layers):
        rows.update({f"L{layer}H{h}": heads[layer, h] for h in range(model.cfg.n_heads)})
        for name, row in [*biases.items(), *mlps.items()]:
            if name.startswith(f"L{layer}."):
                rows[name] = row
    rows.update(components.output_biases(model, wanted))
    return torch.stack(list(rows.values())), (tuple(rows),), {}


def by_head(model: Any, wanted: LogitDirection, run: Captured, heads: Float[Tensor, "layer head answer"]) -> View:
    """Each head: `[layer, head, T]`."""
    return heads, components.head_labels(model), _but_heads(model, wanted, run)


def by_source(model: Any, wanted: LogitDirection, run: Captured, heads: Float[Tensor, "layer head answer"]) -> View:
    """Each head and source token: `[layer, head, S, T]`."""
    layers = [
        source_values(run.at(layer, "attn.hook_pattern"), run.at(layer, "attn.hook_v"), run.reads[layer])
        for layer in range(model.cfg.n_layers)
    ]
    return (
        torch.stack(layers),
        (*components.head_labels(model), token_strings(model, wanted.example.ids[:-1])),
        _but_heads(model, wanted, run),
    )


def by_neuron(model: Any, wanted: LogitDirection, run: Captured, heads: Float[Tensor, "layer head answer"]) -> View:
    """Each MLP neuron: `[layer, d_mlp, T]`; heads, and each MLP's bias, stand in the remainder."""
    layers = range(model.cfg.n_layers)
    values = torch.stack(
        [
            neuron_values(run.at(layer, "mlp.hook_post"), linear_parts.neurons_out(model, layer), run.mlp[layer])
            for layer in layers
        ]
    )
    rest = dict(components.embedding_rows(model, run))
    rest.update({f"L{layer}H{h}": heads[layer, h] for layer in layers for h in range(model.cfg.n_heads)})
    rest.update(components.attention_biases(model, run))
    rest.update({f"L{l}.mlp_bias": components.sublayer_bias(model, run, l, "mlp") for l in layers})
    rest.update(components.output_biases(model, wanted))
    return values, (components.head_labels(model)[0], tuple(f"N{n}" for n in range(values.shape[1]))), rest


def _but_heads(model: Any, wanted: LogitDirection, run: Captured) -> Rows:
    """All rows that are not heads."""
    return {
        **components.embedding_rows(model, run),
        **components.attention_biases(model, run),
        **components.mlps(model, run),
        **components.output_biases(model, wanted),
    }


VIEWS: Mapping[str, Callable[[Any, LogitDirection, Captured, Tensor], View]] = {
    "component": by_component,
    "head": by_head,
    "source": by_source,
    "neuron": by_neuron,
}
"""The views that `decompose` knows."""
