"""Attribution by how attention moves information from the prompt to where the answer is predicted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.attribution.base import Outcome, Run
from unpact_lens.attribution.perturbation import unit_masks
from unpact_lens.attribution.targets import wide
from unpact_lens.attribution.units import Example
from unpact_lens.decomposition import linear_parts
from unpact_lens.decomposition.capture import capture
from unpact_lens.decomposition.heads import read_out, source_values
from unpact_lens.decomposition.logit_direction import Target
from unpact_lens.decomposition.norm import normalise
from unpact_lens.models import hooked


def attention_rollout(run: Run, examples: Sequence[Example]) -> list[Outcome]:
    r"""Attention rollout: $C(x_i, y_k) = \big[\tilde A_L \cdots \tilde A_1\big]_{t_k i}$.

    $\tilde A = \frac12(\bar A + I)$ with $\bar A$ the mean of a layer's heads, $t_k$ the position that predicts $y_k$.
    A share: over all positions it sums to 1. It does not look at values or at the answer.

    Args:
        run: model.
        examples: prompts with their answers, cut into units.

    Returns:
        Units x answer tokens, shares of attention.

    Source: Abnar and Zuidema 2020, arXiv 2005.00928.
    """
    outcomes = []
    for example in examples:
        layers = range(run.model.cfg.n_layers)
        names = [f"blocks.{layer}.attn.hook_pattern" for layer in layers]
        with torch.inference_mode():
            taken = hooked.collect(run.model, _tokens(run.model, example), names)
        means = [wide(taken[name][0]).mean(0) for name in names]
        mixing = [(mean + torch.eye(len(mean)).to(mean)) / 2 for mean in means]
        outcomes.append(_at_answer(example, rollout(mixing)))
    return outcomes


def value_zeroing(run: Run, examples: Sequence[Example]) -> list[Outcome]:
    r"""Value zeroing, rolled out: layer by layer, how much each position's output turns when a value is zeroed.

    $M^l_{qi} \propto 1 - \cos(h^l_q, \tilde h^{l,\neg i}_q)$, with $\tilde h^{l,\neg i}$ the output of layer $l$ when
    the value vectors of position $i$ are zero in that layer only; rows sum to 1;
    $C(x_i, y_k) = [M^L \cdots M^1]_{t_k i}$.

    Args:
        run: model and scorer (for its batches).
        examples: prompts with their answers, cut into units.

    Returns:
        Units x answer tokens, shares.

    Source: Mohebbi et al. 2023, arXiv 2301.12971.
    """
    outcomes = []
    for example in examples:
        with torch.inference_mode():
            layers = [zeroing_matrix(run, example, layer) for layer in range(run.model.cfg.n_layers)]
        outcomes.append(_at_answer(example, rollout(layers)))
    return outcomes


def alti_logit(run: Run, examples: Sequence[Example]) -> list[Outcome]:
    r"""ALTI-Logit: what each layer's attention moves into the answer's logit, traced back to input tokens.

    $C(x_i, y_k) = \sum_l \sum_j T^l_{t_k}(x_j) \cdot u_k \; M^{l-1}_{ji} + [i = t_k]\, x^0_{t_k} \cdot u_k$, where
    $T^l_q(x_j)$ is what position $j$ adds to the residual stream at $q$ in layer $l$ (values with their bias, through
    $W_O$), $u_k$ the answer token's direction with the final norm's scale held, and $M^{l}$ the rolled-out ALTI
    mixing (`alti_matrix`). What MLPs and biases add is left out.

    Args:
        run: model.
        examples: prompts with their answers, cut into units.

    Returns:
        Units x answer tokens, logits.

    Raises:
        InputError: if the model is of a kind that cannot be decomposed.

    Source: Ferrando et al. 2023, arXiv 2305.12535 (Logit); Ferrando et al. 2022, arXiv 2203.04212 (mixing).
    """
    linear_parts.require_decomposable(run.model)
    model, _ = linear_parts.in_full_precision(run.model)
    outcomes = []
    for example in examples:
        with torch.inference_mode():
            found = capture(model, _target(example), ("source",))
            mixings = alti_matrices(model, _tokens(model, example))
            start = hooked.collect(model, _tokens(model, example), ["blocks.0.hook_resid_pre"])
            inside = torch.eye(mixings[0].shape[0]).to(mixings[0])
            total = torch.zeros(inside.shape[0], len(found.final)).to(inside)
            for layer, mixing in enumerate(mixings):
                total += inside.T @ moved(model, found, layer)
                inside = mixing @ inside
            own = (start["blocks.0.hook_resid_pre"][0, list(_target(example).positions)] * found.final).sum(-1)
            total[list(_target(example).positions), range(len(own))] += own
        outcomes.append(_pooled(example, total))
    return outcomes


def ov(run: Run, examples: Sequence[Example]) -> list[Outcome]:
    r"""Direct OV contribution: $C(x_i, y_k) = \sum_{l,h} A^{lh}_{t_k i}\, (v^{lh}_i W_O^{lh}) \cdot u_k$.

    What the heads move from the source token straight into the answer's logit, the final norm's scale held: the view
    `decompose(by="source")`, summed over heads. What later layers make of it is left out.

    Args:
        run: model.
        examples: prompts with their answers, cut into units.

    Returns:
        Units x answer tokens, logits.

    Raises:
        InputError: if the model is of a kind that cannot be decomposed.

    Source: Elhage et al. 2021, A Mathematical Framework for Transformer Circuits.
    """
    linear_parts.require_decomposable(run.model)
    model, _ = linear_parts.in_full_precision(run.model)
    outcomes = []
    for example in examples:
        with torch.inference_mode():
            found = capture(model, _target(example), ("source",))
            total = torch.stack([moved(model, found, layer) for layer in range(model.cfg.n_layers)]).sum(0)
        outcomes.append(_pooled(example, total))
    return outcomes


def rollout(layers: Sequence[Float[Tensor, "query key"]]) -> Float[Tensor, "query key"]:
    """The product of mixing matrices, the last layer first: how much of each input is in each output."""
    total = layers[0]
    for mixing in layers[1:]:
        total = mixing @ total
    return total


def rows_to_shares(mixing: Float[Tensor, "query key"]) -> Float[Tensor, "query key"]:
    """Rows divided by their sums; a row of zeros becomes the position's own."""
    sums = mixing.sum(-1, keepdim=True)
    return torch.where(sums > 0, mixing / sums.clamp(min=1e-300), torch.eye(len(mixing)).to(mixing))


def zeroing_matrix(run: Run, example: Example, layer: int) -> Float[Tensor, "query key"]:
    """One layer's mixing by value zeroing: one row of the batch for each position whose values are zero."""
    tokens, name = _tokens(run.model, example), f"blocks.{layer}.hook_resid_post"
    length = tokens.shape[1]
    whole = hooked.collect(run.model, tokens, [name])[name][0]

    def turned(positions: list[int]) -> list[Tensor]:
        kept: list[Tensor] = []
        rows = torch.arange(len(positions))

        def zero(v: Tensor, hook: Any) -> Tensor:
            v = v.clone()
            v[rows, positions] = 0
            return v

        def keep(resid: Float[Tensor, "batch pos d_model"], hook: Any) -> None:
            kept.append(1 - torch.cosine_similarity(wide(resid), wide(whole)[None], dim=-1))

        run.model.run_with_hooks(
            tokens.expand(len(positions), -1),
            return_type="logits",
            stop_at_layer=layer + 1,
            fwd_hooks=[(f"blocks.{layer}.attn.hook_v", zero), (name, keep)],
        )
        return list(kept[0])

    run.scorer.settle([example.encoded])
    distance = torch.stack(run.scorer.in_batches([length] * length, turned), dim=1)
    # Rounding leaves differences where causality allows none, and below zero.
    return rows_to_shares(distance.clamp(min=0).tril())


def alti_matrices(model: Any, tokens: Tensor) -> list[Float[Tensor, "query key"]]:
    r"""Each layer's mixing by ALTI: $C_{qj} \propto \max(0, \|y_q\|_1 - \|y_q - T_q(x_j)\|_1)$, rows summing to 1.

    $y_q = \sum_j T_q(x_j)$ is the attention's output with the residual stream, which counts to $j = q$; the output bias
    is left out.
    """
    layers, parts = range(model.cfg.n_layers), ("attn.hook_pattern", "attn.hook_v", "hook_resid_pre")
    names = [f"blocks.{layer}.{part}" for layer in layers for part in parts]
    behind = [linear_parts.norm_behind(model, layer, "attn") for layer in layers]
    taken = hooked.collect(model, tokens, [*names, *(b[0] for b in behind if b is not None and b[1].scales)])
    matrices = []
    for layer in layers:
        pattern, v, resid = (taken[f"blocks.{layer}.{part}"][0] for part in parts)
        out = linear_parts.heads_out(model, layer)
        values = torch.einsum("she,hed->hsd", v.repeat_interleave(len(out) // v.shape[1], dim=1), out)
        rows = []
        for q in range(len(resid)):
            vectors = torch.einsum("hs,hsd->sd", pattern[:, q, : q + 1], values[:, : q + 1])
            norm = behind[layer]
            if norm is not None:
                scale = taken[norm[0]][0, q] if norm[1].scales else resid.new_ones(1)
                vectors = normalise(norm[1], vectors, scale)
            vectors[q] += resid[q]
            whole = vectors.sum(0)
            near = (whole.abs().sum() - (whole - vectors).abs().sum(-1)).clamp(min=0)
            rows.append(torch.nn.functional.pad(near, (0, len(resid) - q - 1)))
        matrices.append(rows_to_shares(torch.stack(rows)))
    return matrices


def moved(model: Any, found: Any, layer: int) -> Float[Tensor, "source answer"]:
    """What a layer's heads move from each source position into each answer token's logit."""
    read = read_out(linear_parts.heads_out(model, layer), found.attn[layer])
    pattern, v = found.at(layer, "attn.hook_pattern"), found.at(layer, "attn.hook_v")
    return source_values(pattern, v, read).sum(0)


def _target(example: Example) -> Target:
    return Target(example.encoded, tuple(range(len(example.encoded.answer))), None, None)


def _tokens(model: Any, example: Example) -> Tensor:
    return torch.tensor([example.encoded.ids[:-1]], device=hooked.device_of(model))


def _at_answer(example: Example, mixing: Float[Tensor, "query key"]) -> Outcome:
    """The rows of the positions that predict the answer, summed over each unit."""
    return _pooled(example, mixing[list(_target(example).positions)].T)


def _pooled(example: Example, values: Float[Tensor, "pos answer"]) -> Outcome:
    return Outcome((unit_masks(example, values.device).to(values) @ values).cpu())
