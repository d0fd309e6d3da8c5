"""What the model would answer if it stopped after each layer: logit lens, and the lens tuned to read each layer."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from unpact_lens.decomposition import linear_parts
from unpact_lens.decomposition.intervene import activations
from unpact_lens.decomposition.logit_direction import text_of
from unpact_lens.decomposition.result import LensCurves
from unpact_lens.errors import InputError
from unpact_lens.models import hooked
from unpact_lens.models.checkpoint import model_hash
from unpact_lens.models.tokens import Text, encode, encode_context, token_strings
from unpact_lens.results import Result, load
from unpact_lens.scoring import check_finite

ROWS = 128
"""Rows of the residual stream unembedded at a time: their logits over the vocabulary stay within tens of MB."""


@dataclass(frozen=True, eq=False)
class TunedLens(Result):
    """One affine map a layer, trained so that its residual stream, read out, predicts what the model will answer.

    Attributes:
        weight: `[layer, d_model, d_model]`: h becomes h + h @ weight + bias before `ln_final`. Layers as in
            `LensCurves`, the last (the model's output) excepted.
        bias: `[layer, d_model]`.
        loss: `[step, layer]`, KL from the model's own distribution, nats a token, as training went.
        model: hash of the model that it was trained for.
        settings: lr, steps, seed, number of tokens.
    """

    weight: Float[Tensor, "layer d_model d_model"]
    bias: Float[Tensor, "layer d_model"]
    loss: Float[Tensor, "step layer"]
    model: str
    settings: dict[str, Any] = field(default_factory=dict)

    def __call__(self, resid: Float[Tensor, "pos d_model"], layer: int) -> Float[Tensor, "pos d_model"]:
        """The residual stream of a layer, translated to the last layer's basis."""
        weight, bias = (t[layer].to(resid.device, resid.dtype) for t in (self.weight, self.bias))
        return resid + resid @ weight + bias

    def to_frame(self) -> pd.DataFrame:
        """One row a layer: the loss untrained (that of the logit lens) and trained."""
        return pd.DataFrame({"logit_lens_kl": self.loss[0].tolist(), "tuned_kl": self.loss[-1].tolist()})


def lens_curves(
    model: Any,
    prompt: Text,
    answer: Text,
    *,
    lens: TunedLens | None = None,
    chat: bool = False,
    prefill: Text = "",
) -> LensCurves:
    """Logit, probability and rank of each answer token after each layer.

    Args:
        model: a hooked causal model.
        prompt: text or ids.
        answer: text, leading space included, or ids.
        lens: a lens trained for this model; None reads each layer as it is (the logit lens).
        chat: wrap the prompt in the tokenizer's chat template.
        prefill: the opening of the answer, given to the model and not scored.

    Raises:
        InputError: if the input is empty or too long, or the lens was trained for another model.

    Source: nostalgebraist 2020, Interpreting GPT: the logit lens; Belrose et al. 2023, arXiv 2303.08112 (tuned).
    """
    example = encode(model, prompt, answer, chat=chat, prefill=prefill)
    if lens is not None and lens.model != model_hash(model):
        raise InputError("the tuned lens was trained for another model (their hashes differ); train one for this model")
    wide, notes = linear_parts.in_full_precision(model)
    names = stream_hooks(wide)
    acts = activations(wide, example, names)
    answer_ids = torch.tensor(example.answer, device=hooked.device_of(wide))
    cap = linear_parts.soft_cap(wide)
    streams = [acts[name][len(example.context) - 1 :] for name in names]
    with torch.no_grad():
        if lens is not None:
            streams = [*(lens(resid, layer) for layer, resid in enumerate(streams[:-1])), streams[-1]]
        # Rows of several layers at a time: `W_U` is read once for all of them.
        resid, ids = torch.cat(streams), answer_ids.repeat(len(names))
        read = [
            _read(linear_parts.uncapped_logits(wide, part), y, cap)
            for part, y in zip(resid.split(ROWS), ids.split(ROWS), strict=True)
        ]
    logit, log_prob, rank = (
        torch.cat([row[k] for row in read]).reshape(len(names), len(example.answer)).cpu() for k in range(3)
    )
    check_finite(logit, "a logit of the answer")
    answer_tokens = token_strings(model, example.answer)
    return LensCurves(
        logit=logit,
        log_prob=log_prob,
        rank=rank,
        labels=(("embed", *(f"L{l}" for l in range(model.cfg.n_layers))), answer_tokens),
        tokens=token_strings(model, example.ids[:-1]),
        answer_tokens=answer_tokens,
        prompt=text_of(model, prompt),
        answer=text_of(model, answer),
        lens="logit" if lens is None else "tuned",
        notes=notes if cap is None else (*notes, f"logits stand before the final soft-cap of {cap:g}"),
    )


def _read(
    logits: Float[Tensor, "answer d_vocab"], answer: Int[Tensor, " answer"], cap: float | None
) -> tuple[Float[Tensor, " answer"], Float[Tensor, " answer"], Int[Tensor, " answer"]]:
    """Logit before the cap, log-probability after it, and how many tokens are more likely."""
    own = logits.gather(-1, answer[:, None])
    capped = logits if cap is None else cap * torch.tanh(logits / cap)
    log_prob = capped.gather(-1, answer[:, None])[:, 0] - capped.logsumexp(-1)
    return own[:, 0], log_prob, (logits > own).sum(-1)


def stream_hooks(model: Any) -> list[str]:
    """Hooks on the residual stream: what enters each block, and what leaves the last."""
    return [*(f"blocks.{l}.hook_resid_pre" for l in range(model.cfg.n_layers)), hooked.final_hook(model)]


def train_tuned_lens(
    model: Any,
    texts: Sequence[Text],
    *,
    lr: float = 0.01,
    steps: int = 100,
    weight_decay: float = 1e-3,
    seed: int = 0,
    cache: str | os.PathLike[str] | None = None,
) -> TunedLens:
    r"""Train a tuned lens: for each layer, the affine map that minimises KL(model ‖ read-out of the layer).

    The maps start at the identity, so step 0 is the logit lens. Each step takes one text.

    Args:
        model: a hooked causal model; it is not changed.
        texts: what to train on, not the texts to be read.
        lr: of AdamW.
        steps: how many texts are shown.
        weight_decay: pulls towards the identity.
        seed: of the order of the texts.
        cache: a directory in which lenses are kept. One trained there before, for this model on these texts with these
            settings, is read back instead of trained again.

    Returns:
        The lens. `ul.save` keeps one by itself, and `ul.load` gives it back.

    Raises:
        InputError: if there are no texts, or one is too long for the model.

    Source: Belrose et al. 2023, arXiv 2303.08112.
    """
    if not texts:
        raise InputError("no texts to train the tuned lens on; give a list of texts, e.g. the retain corpus")
    if steps < 1:
        raise InputError(f"steps={steps}; the tuned lens needs at least one step of training")
    wide, _ = linear_parts.in_full_precision(model)
    examples = [encode_context(wide, text).context for text in texts]
    for ids in examples:
        if len(ids) > wide.cfg.n_ctx:
            raise InputError(f"a text of {len(ids)} tokens is longer than the model's context of {wide.cfg.n_ctx}")
    settings = {"lr": lr, "steps": steps, "weight_decay": weight_decay, "seed": seed, "texts": len(texts)}
    key = hashlib.sha256(json.dumps([model_hash(model), settings, examples]).encode()).hexdigest()[:16]
    kept = None if cache is None else Path(cache) / f"tuned-lens-{key}"
    if kept is not None and (kept / "result.json").is_file():
        found: TunedLens = load(kept)
        return found
    generator = torch.Generator().manual_seed(seed)
    order = [
        i for _ in range(-(-steps // len(texts))) for i in torch.randperm(len(texts), generator=generator).tolist()
    ]
    device, dtype = hooked.device_of(wide), next(iter(wide.parameters())).dtype
    layers, d_model = wide.cfg.n_layers, wide.cfg.d_model
    weight = torch.zeros(layers, d_model, d_model, device=device, dtype=dtype, requires_grad=True)
    bias = torch.zeros(layers, d_model, device=device, dtype=dtype, requires_grad=True)
    optimizer = torch.optim.AdamW([weight, bias], lr=lr, weight_decay=weight_decay)
    losses = []
    for i in order[:steps]:
        streams = _streams(wide, examples[i])
        target = linear_parts.uncapped_logits(wide, streams[-1]).detach().log_softmax(-1)
        translated = [h + h @ weight[l] + bias[l] for l, h in enumerate(streams[:-1])]
        loss = torch.stack([_kl(target, linear_parts.uncapped_logits(wide, h).log_softmax(-1)) for h in translated])
        weight.grad, bias.grad = torch.autograd.grad(loss.sum(), [weight, bias])
        optimizer.step()
        losses.append(loss.detach().cpu())
    lens = TunedLens(weight.detach().cpu(), bias.detach().cpu(), torch.stack(losses), model_hash(model), settings)
    if kept is not None:
        lens.save(kept)
    return lens


def _streams(model: Any, ids: tuple[int, ...]) -> list[Float[Tensor, "pos d_model"]]:
    with torch.no_grad():
        tokens = torch.tensor([ids], device=hooked.device_of(model))
        taken = hooked.collect(model, tokens, stream_hooks(model))
    return [taken[name][0] for name in stream_hooks(model)]


def _kl(p: Float[Tensor, "pos d_vocab"], q: Float[Tensor, "pos d_vocab"]) -> Float[Tensor, ""]:
    """KL(p ‖ q) of log-probabilities, nats, mean over positions."""
    return (p.exp() * (p - q)).sum(-1).mean()
