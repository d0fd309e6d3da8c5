"""`diff`: one question, two models, and exactly what changed between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.attribution import attribute
from unpact_lens.comparison.activation_changes import activation_changes
from unpact_lens.comparison.model_pair import floor_of, require_comparable
from unpact_lens.comparison.result import ModelDiff
from unpact_lens.comparison.split_heads import split_heads
from unpact_lens.comparison.weight_changes import weight_changes
from unpact_lens.decomposition.capture import Run
from unpact_lens.decomposition.decompose import decompositions
from unpact_lens.models.tokens import Text, encode
from unpact_lens.scoring import gather_log_probs


def diff(
    before: Any,
    after: Any,
    prompt: Text,
    answer: Text,
    *,
    contributions: bool = True,
    sources: bool = False,
    weights: bool = True,
    split: bool = False,
    activations: bool = False,
    floor: Sequence[Any] | None = None,
    chat: bool = False,
    prefill: Text = "",
) -> ModelDiff:
    r"""What changed between two models in how they answer one question; Δ is after − before.

    $\Delta\log p = \Delta z_y - \Delta\log\sum_v e^{z_v}$ and $\Delta z_y = \sum_c \Delta z_c$ over the components c of
    the residual stream, both exactly. A model against itself gives exact zeros.

    Args:
        before: a hooked causal model.
        after: one of the same shape, vocabulary and tokenizer.
        prompt: text or ids.
        answer: text, leading space included, or ids.
        contributions: also attribute the answer to the prompt's tokens under each model, by leave-one-out.
        sources: also decompose the logit under each model by head × source token.
        weights: also compare all weights, matrix by matrix.
        split: also split each head's Δ between pattern, input, OV and readout.
        activations: also compare all activations of the residual stream and its parts, and next-token distributions.
        floor: two models that differ by noise only (two training seeds, or before and after fine-tuning on unrelated
            text), on which the same is measured: it stands beside each table and figure.
        chat: wrap the prompt in the tokenizer's chat template.
        prefill: the opening of the answer, given to the model and not scored.

    Raises:
        InputError: if the models differ in shape, vocabulary or tokenizer (the first mismatch is named), or for any
            input that `decompose` refuses.
    """
    require_comparable(before, after)
    noise = None if floor is None else floor_of(before, floor)
    asked: dict[str, Any] = {"chat": chat, "prefill": prefill}
    example = encode(before, prompt, answer, chat=chat, prefill=prefill)
    views = ("component", "head", *(("source",) if sources else ()))
    sides = [decompositions(model, prompt, answer, views, vocabulary=True, **asked) for model in (before, after)]
    (found_before, run_before), (found_after, run_after) = sides
    (components_before, heads_before), (components_after, heads_after) = found_before[:2], found_after[:2]
    log_probs = [_log_probs(run, example.answer) for run in (run_before, run_after)]
    attributions = [attribute(m, prompt, answer, **asked) if contributions else None for m in (before, after)]
    return ModelDiff(
        prompt=components_before.prompt,
        answer=components_before.answer,
        tokens=components_before.tokens,
        answer_tokens=components_before.answer_tokens,
        log_prob_before=log_probs[0],
        log_prob_after=log_probs[1],
        logit_before=components_before.total,
        logit_after=components_after.total,
        logsumexp_before=components_before.total - log_probs[0],
        logsumexp_after=components_after.total - log_probs[1],
        components_before=components_before,
        components_after=components_after,
        heads_before=heads_before,
        heads_after=heads_after,
        contributions_before=attributions[0],
        contributions_after=attributions[1],
        sources_before=found_before[2] if sources else None,
        sources_after=found_after[2] if sources else None,
        weights=weight_changes(before, after, floor=floor) if weights else None,
        split=split_heads(before, after, prompt, answer, floor=floor, **asked) if split else None,
        activations=activation_changes(before, after, prompt, answer, floor=floor, **asked) if activations else None,
        floor=None
        if noise is None
        else diff(*noise, prompt, answer, contributions=contributions, sources=sources, weights=False, **asked),
        notes=components_before.notes,
        settings=components_before.settings,
    )


def _log_probs(run: Run, answer: tuple[int, ...]) -> Float[Tensor, " answer"]:
    """Log p of the answer tokens from what one forward pass left, nats."""
    labels = torch.tensor([answer], device=run.capped.device)
    return gather_log_probs(run.capped[None], labels)[0].cpu()
