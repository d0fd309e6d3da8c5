"""How far two models' activations are apart, and their next-token distributions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.comparison.model_pair import floor_of, require_comparable
from unpact_lens.comparison.result import ActivationChanges
from unpact_lens.decomposition import linear_parts
from unpact_lens.decomposition.intervene import activations
from unpact_lens.decomposition.logit_direction import text_of
from unpact_lens.models import hooked
from unpact_lens.models.tokens import Text, encode, token_strings

CHUNK = 128
"""Positions unembedded at a time: a long prompt's logits would not fit in memory."""


def activation_changes(
    before: Any,
    after: Any,
    prompt: Text,
    answer: Text,
    *,
    hooks: Sequence[str] | None = None,
    floor: Sequence[Any] | None = None,
    chat: bool = False,
    prefill: Text = "",
) -> ActivationChanges:
    """Compare activations of two models on one example, at every position.

    Args:
        before: a hooked causal model.
        after: one of the same shape, vocabulary and tokenizer.
        prompt: text or ids.
        answer: text, leading space included, or ids.
        hooks: hook names; by default what enters each block, what its attention and MLP write, and the final residual.
        floor: two models that differ by noise only (two training seeds, or before and after fine-tuning on unrelated
            text), on which the same is measured.
        chat: wrap the prompt in the tokenizer's chat template.
        prefill: the opening of the answer, given to the model and not scored.

    Raises:
        InputError: if the models are not comparable, a hook does not exist, or for any input that `encode` refuses.
    """
    require_comparable(before, after)
    example = encode(before, prompt, answer, chat=chat, prefill=prefill)
    names = tuple(hooks) if hooks is not None else default_hooks(before)
    final = hooked.final_hook(before)
    ours, theirs = (activations(model, example, list(dict.fromkeys([*names, final]))) for model in (before, after))
    flat = [(ours[name].flatten(1), theirs[name].flatten(1)) for name in names]
    with torch.no_grad():
        kl = torch.cat(
            [
                kl_divergence(_logits(before, a), _logits(after, b))
                for a, b in zip(ours[final].split(CHUNK), theirs[final].split(CHUNK), strict=True)
            ]
        )
    return ActivationChanges(
        hooks=names,
        tokens=token_strings(before, example.ids[:-1]),
        norm_before=torch.stack([a.norm(dim=1) for a, _ in flat]).cpu(),
        norm_delta=torch.stack([(b - a).norm(dim=1) for a, b in flat]).cpu(),
        cosine=torch.stack([cosines(a, b) for a, b in flat]).cpu(),
        cka=torch.stack([linear_cka(a, b) for a, b in flat]).cpu(),
        kl=kl.cpu(),
        prompt=text_of(before, prompt),
        answer=text_of(before, answer),
        floor=None
        if floor is None
        else activation_changes(*floor_of(before, floor), prompt, answer, hooks=hooks, chat=chat, prefill=prefill),
    )


def default_hooks(model: Any) -> tuple[str, ...]:
    """What enters each block, what its attention and MLP write, and the final residual stream."""
    parts = ("hook_resid_pre", "hook_attn_out", *(("hook_mlp_out",) if linear_parts.has_mlp(model) else ()))
    return (*(f"blocks.{l}.{part}" for l in range(model.cfg.n_layers) for part in parts), hooked.final_hook(model))


def cosines(a: Float[Tensor, "pos width"], b: Float[Tensor, "pos width"]) -> Float[Tensor, " pos"]:
    """Cosine at each position: exactly 1 where the two are equal, NaN where one is zero."""
    cosine = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
    return torch.where((a == b).all(1) & a.any(1), torch.ones_like(cosine), cosine)


def linear_cka(a: Float[Tensor, "pos width"], b: Float[Tensor, "pos other"]) -> Float[Tensor, ""]:
    r"""Linear centred kernel alignment over the positions.

    $\|B^\top A\|_F^2 / (\|A^\top A\|_F\,\|B^\top B\|_F)$ of the centred activations, computed from the `[pos, pos]`
    Gram matrices. 1 up to rotation and scale; exactly 1 for equal activations; NaN where one is the same everywhere.

    Source: Kornblith et al. 2019, arXiv 1905.00414.
    """
    if a.shape == b.shape and torch.equal(a, b) and bool((a != a[0]).any()):
        return torch.ones((), dtype=a.dtype, device=a.device)
    x, y = a - a.mean(0), b - b.mean(0)
    gram_x, gram_y = x @ x.T, y @ y.T
    return (gram_x * gram_y).sum() / (gram_x.norm() * gram_y.norm())


def kl_divergence(logits: Float[Tensor, "pos d_vocab"], other: Float[Tensor, "pos d_vocab"]) -> Float[Tensor, " pos"]:
    r"""$\mathrm{KL}(p \,\|\, q)$ of the two next-token distributions at each position, nats."""
    p, q = logits.log_softmax(-1), other.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)


def _logits(model: Any, resid: Float[Tensor, "pos d_model"]) -> Float[Tensor, "pos d_vocab"]:
    logits = linear_parts.uncapped_logits(model, resid)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    cap = linear_parts.soft_cap(model)
    return logits if cap is None else cap * torch.tanh(logits / cap)
