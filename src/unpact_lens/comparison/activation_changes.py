"""Compare the activations of two models, and their next-token distributions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

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
from unpact_lens.decomposition.intervene import activations
from unpact_lens.decomposition.logit_direction import text_of
from unpact_lens.display import joined, quoted
from unpact_lens.models import hooked
from unpact_lens.models.asking import Asking, AskingOptions
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.tokens import Text, token_strings
from unpact_lens.results import Result

CHUNK = 128
"""Positions unembedded at a time, so that the logits of a long prompt fit in memory."""


@dataclass(frozen=True, eq=False)
class ActivationChanges(Result):
    """Hold how far the activations of two models are apart, for each hook and position.

    Attributes:
        hooks: Names of the hooks.
        tokens: The S input tokens.
        norm_before: `[hook, S]`, length of the activation in the original model.
        norm_delta: `[hook, S]`, length of Δ.
        cosine: `[hook, S]`, cosine of before and after; 1 if they are equal, NaN if one is zero.
        cka: `[hook]`, linear CKA over the positions: 1 if the two agree up to rotation and scale; NaN if one is the
            same at every position.
        kl: `[S]`, KL(before ‖ after) of the next-token distributions, nats.
        prompt: Prompt, as text.
        answer: Answer, as text.
        floor: The same for the noise baseline, or None.
    """

    figure: ClassVar[str | None] = "changes:activation_changes"

    hooks: tuple[str, ...]
    tokens: tuple[str, ...]
    norm_before: Float[Tensor, "hook source"]
    norm_delta: Float[Tensor, "hook source"]
    cosine: Float[Tensor, "hook source"]
    cka: Float[Tensor, " hook"]
    kl: Float[Tensor, " source"]
    prompt: str
    answer: str
    floor: ActivationChanges | None = None

    def _brief(self) -> str:
        return joined(
            [
                f"{len(self.hooks)} hooks × {len(self.tokens)} tokens",
                f"largest KL {float(self.kl.max()):.2f} nats",
                quoted(self.answer),
            ]
        )

    @property
    def relative(self) -> Float[Tensor, "hook source"]:
        """Length of Δ over the length before; NaN if both are zero."""
        return self.norm_delta / self.norm_before

    def to_frame(self) -> pd.DataFrame:
        """Make a table with one row per hook: CKA, and means over the positions."""
        frame = pd.DataFrame(
            {
                "hook": self.hooks,
                "norm_before": self.norm_before.mean(1).tolist(),
                "norm_delta": self.norm_delta.mean(1).tolist(),
                "cosine": self.cosine.nanmean(1).tolist(),
                "cka": self.cka.tolist(),
            }
        )
        return beside_floor(frame, self.floor, ("norm_delta", "cosine", "cka"))

    def kl_frame(self) -> pd.DataFrame:
        """Make a table with one row per position: KL(before ‖ after) of the prediction there, nats."""
        frame = pd.DataFrame({"position": range(len(self.tokens)), "token": self.tokens, "kl": self.kl.tolist()})
        if self.floor is not None:
            frame["kl_floor"] = self.floor.kl.tolist()
        return frame


def activation_changes(
    before: HookedModel,
    after: HookedModel,
    prompt: Text | QA,
    answer: Text | None = None,
    *,
    hooks: Sequence[str] | None = None,
    floor: Sequence[HookedModel] | None = None,
    **asking: Unpack[AskingOptions],
) -> ActivationChanges:
    """Compare activations of two models on one example, at every position.

    Args:
        before: Original model.
        after: Unlearned model, of the same shape, vocabulary and tokenizer.
        prompt: Text or ids; or a `QA`, which holds its answer.
        answer: Text, leading space included, or ids.
        hooks: Names of hooks. If None: the input of each block, the outputs of its attention and MLP, and the final
            residual stream.
        floor: Noise baseline: two models that differ by noise only (two training seeds, or before and after
            fine-tuning on unrelated text), on which the same is measured.
        **asking: `chat` and `prefill`; see `AskingOptions`.

    Raises:
        InputError: If the models are not comparable, a hook does not exist, or for any input that `encode` refuses.
    """
    asked = Asking(**asking)
    pair = ModelPair.of(before, after, floor=floor)
    return activations_of_pair(pair, Question.of(prompt, answer), asked, hooks)


def activations_of_pair(
    pair: ModelPair, question: Question, asked: Asking, hooks: Sequence[str] | None = None
) -> ActivationChanges:
    """Compare activations of a pair of models on one question; see `activation_changes`."""
    before = pair.before
    example = asked.encode(before, question.prompt, question.answer)
    names = tuple(hooks) if hooks is not None else default_hooks(before)
    final = hooked.final_hook(before)
    ours, theirs = (activations(model, example, list(dict.fromkeys([*names, final]))) for model in pair.models)
    flat = [(ours[name].flatten(1), theirs[name].flatten(1)) for name in names]  # each [pos, width]
    with torch.no_grad():
        kl = torch.cat(
            [
                kl_divergence(_logits(before, a), _logits(pair.after, b))
                for a, b in zip(ours[final].split(CHUNK), theirs[final].split(CHUNK), strict=True)
            ]
        )
    found = ActivationChanges(
        hooks=names,
        tokens=token_strings(before, example.ids[:-1]),
        norm_before=torch.stack([a.norm(dim=1) for a, _ in flat]).cpu(),
        norm_delta=torch.stack([(b - a).norm(dim=1) for a, b in flat]).cpu(),
        cosine=torch.stack([cosines(a, b) for a, b in flat]).cpu(),
        cka=torch.stack([linear_cka(a, b) for a, b in flat]).cpu(),
        kl=kl.cpu(),
        prompt=text_of(before, question.prompt),
        answer=text_of(before, question.answer),
    )
    if pair.noise is None:
        return found
    return replace(found, floor=activations_of_pair(pair.noise, question, asked, hooks))


def default_hooks(model: HookedModel) -> tuple[str, ...]:
    """List the hooks on each block's input, on its attention's and MLP's outputs, and on the final residual stream."""
    parts = ("hook_resid_pre", "hook_attn_out", *(("hook_mlp_out",) if linear_parts.has_mlp(model) else ()))
    return (*(f"blocks.{l}.{part}" for l in range(model.cfg.n_layers) for part in parts), hooked.final_hook(model))


def cosines(a: Float[Tensor, "pos width"], b: Float[Tensor, "pos width"]) -> Float[Tensor, " pos"]:
    """Compute the cosine at each position: exactly 1 if the two are equal, NaN if one is zero."""
    cosine = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
    return torch.where((a == b).all(1) & a.any(1), torch.ones_like(cosine), cosine)


def linear_cka(a: Float[Tensor, "pos width"], b: Float[Tensor, "pos other"]) -> Float[Tensor, ""]:
    r"""Compute linear centred kernel alignment over the positions.

    $\|B^\top A\|_F^2 / (\|A^\top A\|_F\,\|B^\top B\|_F)$ of the centred activations, computed from the `[pos, pos]`
    Gram matrices. 1 up to rotation and scale; exactly 1 for equal activations; NaN if one is the same everywhere.

    Source: Kornblith et al. 2019, arXiv 1905.00414.
    """
    if a.shape == b.shape and torch.equal(a, b) and bool((a != a[0]).any()):
        return torch.ones((), dtype=a.dtype, device=a.device)
    x, y = a - a.mean(0), b - b.mean(0)
    gram_x, gram_y = x @ x.T, y @ y.T  # [pos, pos]
    return (gram_x * gram_y).sum() / (gram_x.norm() * gram_y.norm())


def kl_divergence(logits: Float[Tensor, "pos d_vocab"], other: Float[Tensor, "pos d_vocab"]) -> Float[Tensor, " pos"]:
    r"""Compute $\mathrm{KL}(p \,\|\, q)$ of two next-token distributions at each position, nats."""
    p, q = logits.log_softmax(-1), other.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)


def _logits(model: HookedModel, resid: Float[Tensor, "pos d_model"]) -> Float[Tensor, "pos d_vocab"]:
    """Unembed a final residual stream in fp32 at least, with the model's soft-cap."""
    logits = linear_parts.uncapped_logits(model, resid)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    cap = linear_parts.soft_cap(model)
    return logits if cap is None else cap * torch.tanh(logits / cap)
