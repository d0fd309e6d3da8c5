"""Read the answer from the residual stream after each layer, by the logit lens or a tuned lens."""

from __future__ import annotations

import contextlib
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
from torch.nn.utils import parametrize
from typing_extensions import Unpack

from unpact_lens.decomposition import linear_parts
from unpact_lens.decomposition.intervene import activations
from unpact_lens.decomposition.logit_direction import text_of
from unpact_lens.decomposition.result import LensCurves
from unpact_lens.display import joined
from unpact_lens.errors import InputError
from unpact_lens.models import hooked
from unpact_lens.models.asking import Asking, AskingOptions
from unpact_lens.models.checkpoint import model_hash
from unpact_lens.models.fingerprint import model_fingerprint
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.self_test import require
from unpact_lens.models.tokens import Text, encode_context, token_strings
from unpact_lens.results import Result, load, versions
from unpact_lens.scoring import check_finite
from unpact_lens.source_hash import source_hash

ROWS = 128
"""Number of rows of the residual stream unembedded at a time; their logits take tens of MB."""


@dataclass(frozen=True, eq=False)
class TunedLens(Result):
    """Hold one affine map for each layer, trained so that the layer's residual stream predicts the model's output.

    Attributes:
        weight: `[layer, d_model, d_model]`: h becomes h + h @ weight + bias before `ln_final`. The layers are those of
            `LensCurves` without the last (the model's output).
        bias: `[layer, d_model]`.
        loss: `[step, layer]`, KL from the model's own distribution during training, nats per token.
        model: Hash of the model for which the lens was trained.
        settings: Learning rate, steps, weight decay, seed, number of texts.
    """

    weight: Float[Tensor, "layer d_model d_model"]
    bias: Float[Tensor, "layer d_model"]
    loss: Float[Tensor, "step layer"]
    model: str
    settings: dict[str, Any] = field(default_factory=dict)

    def _brief(self) -> str:
        return joined(
            [
                f"{len(self.weight)} layers",
                f"d_model {self.weight.shape[-1]}",
                f"{len(self.loss)} steps",
                f"loss {float(self.loss[-1].mean()):.3f}" if len(self.loss) else "",
            ]
        )

    def __call__(self, resid: Float[Tensor, "pos d_model"], layer: int) -> Float[Tensor, "pos d_model"]:
        """Translate the residual stream of a layer to the last layer's basis."""
        weight, bias = (t[layer].to(resid.device, resid.dtype) for t in (self.weight, self.bias))
        return resid + resid @ weight + bias

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row for each layer: the loss before training (the logit lens) and after."""
        return pd.DataFrame({"logit_lens_kl": self.loss[0].tolist(), "tuned_kl": self.loss[-1].tolist()})


def lens_curves(
    model: HookedModel,
    prompt: Text,
    answer: Text,
    *,
    lens: TunedLens | None = None,
    **asking: Unpack[AskingOptions],
) -> LensCurves:
    """Compute logit, probability and rank of each answer token after each layer.

    Args:
        model: Hooked causal model.
        prompt: Text or ids.
        answer: Text, leading space included, or ids.
        lens: Lens trained for this model. If None, each layer is read as it is (the logit lens).
        asking: Options of `AskingOptions`.

    Raises:
        InputError: If the input is empty or too long, or the lens was trained for another model.

    Source: nostalgebraist 2020, Interpreting GPT: the logit lens; Belrose et al. 2023, arXiv 2303.08112 (tuned).
    """
    require(model, "lens", feature="lens_curves")
    example = Asking(**asking).encode(model, prompt, answer)
    if lens is not None and lens.model != model_hash(model):
        raise InputError("the tuned lens was trained for another model (their hashes differ); train one for this model")
    wide, precision = linear_parts.in_full_precision(model)
    notes = (*example.notes, *precision)
    names = stream_hooks(wide)
    acts = activations(wide, example, names)
    answer_ids = torch.tensor(example.answer, device=hooked.device_of(wide))
    cap = linear_parts.soft_cap(wide)
    streams = [acts[name][len(example.context) - 1 :] for name in names]  # [answer, d_model] each
    with torch.no_grad():
        if lens is not None:
            streams = [*(lens(resid, layer) for layer, resid in enumerate(streams[:-1])), streams[-1]]
        # Rows of several layers are unembedded together, so that `W_U` is read once for all of them.
        resid, ids = torch.cat(streams), answer_ids.repeat(len(names))  # [layer * answer, d_model], [layer * answer]
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
        notes=(*example.notes, *notes)
        if cap is None
        else (*example.notes, *notes, f"logits are those before the final soft-cap of {cap:g}"),
    )


def _read(
    logits: Float[Tensor, "answer d_vocab"], answer: Int[Tensor, " answer"], cap: float | None
) -> tuple[Float[Tensor, " answer"], Float[Tensor, " answer"], Int[Tensor, " answer"]]:
    """Return the logit before the cap, the log-probability after it, and the number of more likely tokens."""
    own = logits.gather(-1, answer[:, None])  # [answer, 1]
    capped = logits if cap is None else cap * torch.tanh(logits / cap)
    log_prob = capped.gather(-1, answer[:, None])[:, 0] - capped.logsumexp(-1)
    return own[:, 0], log_prob, (logits > own).sum(-1)


def stream_hooks(model: HookedModel) -> list[str]:
    """Return the hooks on the residual stream: the input of each block, and the output of the last."""
    return [*(f"blocks.{l}.hook_resid_pre" for l in range(model.cfg.n_layers)), hooked.final_hook(model)]


def train_tuned_lens(
    model: HookedModel,
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
        model: Hooked causal model; it is not changed.
        texts: Training texts, different from the texts to be read.
        lr: Learning rate of AdamW.
        steps: Number of steps, one text each.
        weight_decay: Weight decay of AdamW, towards the identity.
        seed: Random seed of the order of the texts.
        cache: Directory of trained lenses. A lens trained there before for this model, with the same texts and
            hyperparameters, is loaded instead of trained again. If None, nothing is cached.

    Returns:
        The lens. `ul.save` and `ul.load` save and load a lens by itself.

    Raises:
        InputError: If there are no texts, or one is too long for the model.

    Source: Belrose et al. 2023, arXiv 2303.08112.
    """
    if not texts:
        raise InputError("no texts to train the tuned lens on; give a list of texts, e.g. the retain corpus")
    if steps < 1:
        raise InputError(f"steps={steps}; the tuned lens needs at least one step of training")
    require(model, "lens", feature="train_tuned_lens")
    wide, _ = linear_parts.in_full_precision(model)
    examples = [encode_context(wide, text).context for text in texts]
    for ids in examples:
        if len(ids) > wide.cfg.n_ctx:
            raise InputError(f"a text of {len(ids)} tokens is longer than the model's context of {wide.cfg.n_ctx}")
    settings = {"lr": lr, "steps": steps, "weight_decay": weight_decay, "seed": seed, "texts": len(texts)}
    facts = [model_fingerprint(model), settings, examples, versions(), source_hash()]
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    kept = None if cache is None else Path(cache) / f"tuned-lens-{key}"
    if kept is not None and (kept / "result.json").is_file():
        with contextlib.suppress(InputError):  # One that is damaged is trained again.
            found: TunedLens = load(kept)
            return found
    generator = torch.Generator().manual_seed(seed)
    order = [
        i for _ in range(-(-steps // len(texts))) for i in torch.randperm(len(texts), generator=generator).tolist()
    ]
    device = hooked.device_of(wide)
    dtype = torch.promote_types(next(iter(wide.parameters())).dtype, torch.float32)
    layers, d_model = wide.cfg.n_layers, wide.cfg.d_model
    weight = torch.zeros(layers, d_model, d_model, device=device, dtype=dtype, requires_grad=True)
    bias = torch.zeros(layers, d_model, device=device, dtype=dtype, requires_grad=True)
    optimizer = torch.optim.AdamW([weight, bias], lr=lr, weight_decay=weight_decay)
    losses = []
    for i in order[:steps]:
        streams = _streams(wide, examples[i])
        translated = [h + h @ weight[l] + bias[l] for l, h in enumerate(streams[:-1])]
        with parametrize.cached():  # the graph keeps one fp32 unembedding, not one for each layer
            target = linear_parts.uncapped_logits(wide, streams[-1]).detach().log_softmax(-1)
            loss = torch.stack([_kl(target, linear_parts.uncapped_logits(wide, h).log_softmax(-1)) for h in translated])
            weight.grad, bias.grad = torch.autograd.grad(loss.sum(), [weight, bias])
        optimizer.step()
        losses.append(loss.detach().cpu())
    lens = TunedLens(weight.detach().cpu(), bias.detach().cpu(), torch.stack(losses), model_hash(model), settings)
    if kept is not None:
        lens.save(kept)
    return lens


def _streams(model: HookedModel, ids: tuple[int, ...]) -> list[Float[Tensor, "pos d_model"]]:
    """Run a text and return the residual stream at each hook of `stream_hooks`."""
    with torch.no_grad():
        tokens = torch.tensor([ids], device=hooked.device_of(model))
        taken = hooked.collect(model, tokens, stream_hooks(model))
    return [taken[name][0] for name in stream_hooks(model)]


def _kl(p: Float[Tensor, "pos d_vocab"], q: Float[Tensor, "pos d_vocab"]) -> Float[Tensor, ""]:
    """Compute KL(p ‖ q) from log-probabilities, nats, mean over positions."""
    return (p.exp() * (p - q)).sum(-1).mean()
