"""Split the logit of each answer token into what each part of the model adds to it.

1. One forward pass keeps a few rows of each activation (`capture`).
2. `components.check_sums` checks that embedding, heads, MLPs and biases add up to the logit.
3. The requested view arranges them: by component, head, source token or neuron.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, overload

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import Unpack

from unpact_lens.decomposition import components, linear_parts
from unpact_lens.decomposition.capture import Captured, capture
from unpact_lens.decomposition.heads import source_values
from unpact_lens.decomposition.lens import TunedLens, lens_curves
from unpact_lens.decomposition.logit_direction import LogitDirection, logit_direction, text_of
from unpact_lens.decomposition.neurons import neuron_values
from unpact_lens.decomposition.result import Decomposition, LensCurves
from unpact_lens.errors import InputError, nearest
from unpact_lens.models.asking import Asking, AskingOptions
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.tokens import Text, token_strings

Rows = dict[str, Float[Tensor, " answer"]]
View = tuple[Float[Tensor, "*axes answer"], tuple[tuple[str, ...], ...], Rows]
"""Values, labels of all axes but the last, and the remainder that the view does not resolve."""


@overload
def decompose(
    model: HookedModel,
    prompt: Text,
    answer: Text,
    *,
    by: Literal["component", "head", "source", "neuron"] = ...,
    versus: Text | None = ...,
    **asking: Unpack[AskingOptions],
) -> Decomposition: ...
@overload
def decompose(
    model: HookedModel,
    prompt: Text,
    answer: Text,
    *,
    by: Literal["layer"],
    lens: TunedLens | None = ...,
    **asking: Unpack[AskingOptions],
) -> LensCurves: ...
@overload
def decompose(
    model: HookedModel,
    prompt: Text,
    answer: Text,
    *,
    by: str,
    versus: Text | None = ...,
    lens: TunedLens | None = ...,
    **asking: Unpack[AskingOptions],
) -> Decomposition | LensCurves: ...
def decompose(
    model: HookedModel,
    prompt: Text,
    answer: Text,
    *,
    by: str = "component",
    versus: Text | None = None,
    lens: TunedLens | None = None,
    **asking: Unpack[AskingOptions],
) -> Decomposition | LensCurves:
    r"""Split the logit of each answer token into what each part of the model adds to it.

    The final residual stream is the sum of what embedding, heads and MLPs wrote. `ln_final` at its own scale and the
    unembedding are linear. The logit is therefore the same sum, read along one direction. This works on raw weights. A
    final soft-cap is not linear: the logit before it is split, and the result says so.

    Args:
        model: Hooked causal model. Half-precision weights are decomposed in fp32.
        prompt: Text or ids.
        answer: Text, leading space included, or ids.
        by: `"component"`, `"head"`, `"source"` (head × source token) or `"neuron"`; or `"layer"`, which is not a sum
            but the answer's logit, probability and rank after each layer (`lens_curves`).
        versus: Foil whose logit is subtracted, or `VOCABULARY` for the vocabulary's mean logit. A foil as long as the
            answer is subtracted token by token; another one at the first token that differs.
        lens: Tuned lens (`train_tuned_lens`) in place of the logit lens, by layer only.
        asking: Options of `AskingOptions`.

    Returns:
        `values` and `remainder`, logits, which sum to `total`; by layer, `LensCurves`.

    Raises:
        InputError: If the view is unknown, the input is empty or too long, the foil does not differ, the model cannot
            be decomposed (the message names the layer and the flag), or its weights give NaN.

    Source: Elhage et al. 2021, A Mathematical Framework for Transformer Circuits; the algebra of norms is in `norm.py`.
    """
    if by == "layer":
        if versus is not None:
            raise InputError("by='layer' reads the answer alone; omit versus")
        return lens_curves(model, prompt, answer, lens=lens, **asking)
    if lens is not None:
        raise InputError(f"a tuned lens reads layers; use by='layer' instead of by={by!r}, or omit lens")
    return decompositions(model, prompt, answer, (by,), Asking(**asking), versus=versus)[0][0]


def decompositions(
    model: HookedModel,
    prompt: Text,
    answer: Text,
    views: Sequence[str],
    asked: Asking,
    *,
    versus: Text | None = None,
    vocabulary: bool = False,
) -> tuple[list[Decomposition], Captured]:
    """Compute several views of one example from one forward pass.

    Args:
        model: Hooked causal model.
        prompt: Text or ids.
        answer: Text, leading space included, or ids.
        views: Names of the views.
        asked: Chat template and answer prefix.
        versus: Foil, as for `decompose`.
        vocabulary: Keep the logits of the whole vocabulary.

    Returns:
        The views, and the captured forward pass.

    Raises:
        InputError: As `decompose`.
    """
    for by in views:
        if by not in VIEWS:
            raise InputError(f"unknown view by={by!r}; {nearest(str(by), [*VIEWS, 'layer'])}")
    linear_parts.require_decomposable(model)
    direction = logit_direction(model, asked.encode(model, prompt, answer), versus)
    wide, notes = linear_parts.in_full_precision(model)
    if "neuron" in views:
        linear_parts.neurons_out(wide, 0)  # refuses a model without neurons before the forward pass
    with torch.no_grad():
        run = capture(wide, direction, views, vocabulary=vocabulary)
        heads = components.all_heads(wide, run)
        components.check_sums(wide, direction, run, heads)
        split = {by: VIEWS[by](wide, direction, run, heads) for by in views}
        total = run.total.cpu()
    notes = (*direction.example.notes, *notes, *_caveats(wide))
    answer_tokens = token_strings(model, direction.answer)
    results = [
        Decomposition(
            values=values.cpu(),
            labels=(*labels, answer_tokens),
            remainder=torch.stack(list(rest.values())).cpu() if rest else total.new_zeros(0, len(total)),
            remainder_labels=tuple(rest),
            total=total,
            by=by,
            tokens=token_strings(model, direction.example.ids[:-1]),
            answer_tokens=answer_tokens,
            prompt=text_of(model, prompt),
            answer=text_of(model, answer),
            versus=direction.versus,
            notes=notes,
            settings={
                "dtype": str(total.dtype).removeprefix("torch."),
                "chat": asked.chat,
                "prefill": text_of(model, asked.prefill),
                **({"special": True} if asked.special else {}),
            },
        )
        for by, (values, labels, rest) in split.items()
    ]
    return results, run


def _caveats(model: HookedModel) -> tuple[str, ...]:
    """Collect the notes that hold for every view of this model."""
    notes = []
    cap = linear_parts.soft_cap(model)
    if cap is not None:
        notes.append(f"the logit before the final soft-cap of {cap:g} is decomposed")
    if linear_parts.norm_behind(model, 0, "attn") is not None:
        notes.append("norms after attention and MLP are linear at their own scale, which is frozen")
    return tuple(notes)


def by_component(
    model: HookedModel, direction: LogitDirection, run: Captured, heads: Float[Tensor, "layer head answer"]
) -> View:
    """Split by embedding, positions, heads, attention biases, MLPs, norm bias and unembedding bias: `[C, T]`."""
    rows = dict(components.embedding_rows(model, run))
    biases, mlps = components.attention_biases(model, run), components.mlps(model, run)
    for layer in range(model.cfg.n_layers):
        rows.update({f"L{layer}H{h}": heads[layer, h] for h in range(model.cfg.n_heads)})
        for name, row in [*biases.items(), *mlps.items()]:
            if name.startswith(f"L{layer}."):
                rows[name] = row
    rows.update(components.output_biases(model, direction))
    return torch.stack(list(rows.values())), (tuple(rows),), {}  # [component, answer]


def by_head(
    model: HookedModel, direction: LogitDirection, run: Captured, heads: Float[Tensor, "layer head answer"]
) -> View:
    """Split by head: `[layer, head, T]`."""
    return heads, components.head_labels(model), _but_heads(model, direction, run)


def by_source(
    model: HookedModel, direction: LogitDirection, run: Captured, heads: Float[Tensor, "layer head answer"]
) -> View:
    """Split by head and source token: `[layer, head, S, T]`."""
    layers = [
        source_values(run.at(layer, "attn.hook_pattern"), run.at(layer, "attn.hook_v"), run.reads[layer])
        for layer in range(model.cfg.n_layers)
    ]
    return (
        torch.stack(layers),
        (*components.head_labels(model), token_strings(model, direction.example.ids[:-1])),
        _but_heads(model, direction, run),
    )


def by_neuron(
    model: HookedModel, direction: LogitDirection, run: Captured, heads: Float[Tensor, "layer head answer"]
) -> View:
    """Split by MLP neuron: `[layer, d_mlp, T]`. Heads and MLP biases are in the remainder."""
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
    rest.update(components.output_biases(model, direction))
    return values, (components.head_labels(model)[0], tuple(f"N{n}" for n in range(values.shape[1]))), rest


def _but_heads(model: HookedModel, direction: LogitDirection, run: Captured) -> Rows:
    """Collect all rows that are not heads."""
    return {
        **components.embedding_rows(model, run),
        **components.attention_biases(model, run),
        **components.mlps(model, run),
        **components.output_biases(model, direction),
    }


VIEWS: Mapping[str, Callable[[HookedModel, LogitDirection, Captured, Tensor], View]] = {
    "component": by_component,
    "head": by_head,
    "source": by_source,
    "neuron": by_neuron,
}
"""Views of `decompose`, by name."""
