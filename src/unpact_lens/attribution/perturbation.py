"""Other ways of taking a unit away: replace its tokens, hide them from attention, or blank their embeddings.

All keep every other token at its position, which deletion does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unpact_lens.attribution.base import Outcome, Run
from unpact_lens.attribution.scorer import Family
from unpact_lens.attribution.units import BOS, Example
from unpact_lens.errors import InputError
from unpact_lens.models import hooked
from unpact_lens.models.endpoint import Endpoint
from unpact_lens.models.hooked import Hooks
from unpact_lens.models.tokens import Encoded, Text, text_ids

EMBED = "hook_embed"
"""The token embeddings, before positions are added."""


def replace(
    run: Run, examples: Sequence[Example], *, token: Text | int | None = None, samples: int = 8
) -> list[Outcome]:
    r"""Replacement: $C(x_i, y_k) = v_k(x) - \frac1S \sum_s v_k(x[x_i \to t_s])$.

    Every token of the unit becomes $t_s$: the token given (then $S = 1$), or one drawn uniformly from the vocabulary
    without special tokens; the same draws serve all units of an example.

    Args:
        run: model, scorer and seed.
        examples: prompts with their answers, cut into units.
        token: what to put in the unit's place: text of one token, or an id. None samples.
        samples: how many tokens to draw, S.

    Returns:
        Units x answer tokens, in the target's unit; with the standard error over the draws, if there are several.

    Raises:
        InputError: if the token is not exactly one, or `samples` is below 1.

    Source: Fong and Vedaldi 2017, arXiv 1704.03296 (occlusion by replacement); captum's `FeatureAblation`.
    """
    if samples < 1:
        raise InputError(f"samples={samples}; replace needs at least 1 token to put in a unit's place")
    if token is None:
        tokens = sample_tokens(run.model, samples, run.seed)
    else:
        tokens = [one_token(run.model, token)]
    families: list[Family] = [
        [e.encoded, *(replaced(e, [u], t) for u in range(len(e.members)) for t in tokens)] for e in examples
    ]
    outcomes = []
    for example, values in zip(examples, run.scorer(families), strict=True):
        loss = values[0] - torch.stack(values[1:]).unflatten(0, (len(example.members), len(tokens)))
        error = loss.mean(-1).std(1) / len(tokens) ** 0.5 if len(tokens) > 1 else None
        outcomes.append(Outcome(loss.mean(1), error=error))
    return outcomes


def knockout(run: Run, examples: Sequence[Example]) -> list[Outcome]:
    r"""Attention knockout: $C(x_i, y_k) = v_k(x) - v_k(x \text{ with } x_i \text{ hidden from attention})$.

    In every layer and head the score from each later position to the unit's tokens is $-\infty$ before the softmax.
    The tokens keep their places, and still see themselves and each other. The prompt's last token is also where the
    answer's first token is predicted: there its own residual stream stays.

    Args:
        run: model and scorer.
        examples: prompts with their answers, cut into units.

    Returns:
        Units x answer tokens, in the target's unit.

    Source: Geva et al. 2023, arXiv 2304.14767, Sec. 5 (attention knockout).
    """

    def hooks(members: Bool[Tensor, "batch pos"]) -> Hooks:
        # A query outside the unit does not see the unit's keys.
        hidden = members[:, None, None, :] & ~members[:, None, :, None]

        def hide(scores: Float[Tensor, "batch head query key"], hook: Any) -> Float[Tensor, "batch head query key"]:
            return scores.masked_fill(hidden, float("-inf"))

        return [(f"blocks.{layer}.attn.hook_attn_scores", hide) for layer in range(run.model.cfg.n_layers)]

    return _under(run, examples, hooks)


def zero_embed(run: Run, examples: Sequence[Example]) -> list[Outcome]:
    r"""Zeroed embedding: $C(x_i, y_k) = v_k(x) - v_k(x \text{ with } e_i = 0)$.

    The token embedding is zero; the position's stays.

    Args:
        run: model and scorer.
        examples: prompts with their answers, cut into units.

    Returns:
        Units x answer tokens, in the target's unit.

    Source: Li, Monroe and Jurafsky 2016, arXiv 1612.08220 (representation erasure).
    """
    return _with_embedding(run, examples, torch.zeros(()))


def mean_embed(run: Run, examples: Sequence[Example]) -> list[Outcome]:
    r"""Mean embedding: $C(x_i, y_k) = v_k(x) - v_k(x \text{ with } e_i = \bar e)$, $\bar e$ the vocabulary's mean.

    Args:
        run: model and scorer.
        examples: prompts with their answers, cut into units.

    Returns:
        Units x answer tokens, in the target's unit.

    Source: mean ablation as in Wang et al. 2022, arXiv 2211.00593, on token embeddings.
    """
    return _with_embedding(run, examples, mean_embedding(run.model))


def mean_embedding(model: Any) -> Float[Tensor, " d_model"]:
    """The mean token embedding over the vocabulary, as it stands at `hook_embed`."""
    every = torch.arange(model.cfg.d_vocab, device=hooked.device_of(model))[None]
    with torch.no_grad():
        return model.embed(every)[0].mean(0)


def sample_tokens(model: Any, count: int, seed: int) -> list[int]:
    """Token ids drawn uniformly without replacement, special tokens left out."""
    special = set(getattr(model.tokenizer, "all_special_ids", ()) or ())
    order = torch.randperm(model.cfg.d_vocab, generator=torch.Generator().manual_seed(seed)).tolist()
    return [t for t in order if t not in special][:count]


def one_token(model: Any, token: Text | int) -> int:
    """The id of a text that is one token, or the id itself.

    Raises:
        InputError: if it is not one token of the vocabulary.
    """
    if isinstance(model, Endpoint):
        return model.piece(str(token))
    ids = text_ids(model, [token] if isinstance(token, int) else token, "replacement")
    if len(ids) != 1:
        raise InputError(f"the replacement {token!r} is {len(ids)} tokens long; give exactly one")
    return ids[0]


def replaced(example: Example, units: Sequence[int], token: int) -> Encoded:
    """The ids with every token of some units replaced."""
    gone = {m for u in units for m in example.members[u]}
    encoded = example.encoded
    prompt = tuple(token if i in gone else t for i, t in enumerate(encoded.prompt))
    head = (token, *encoded.head[1:]) if BOS in gone else encoded.head
    return Encoded(head, prompt, encoded.tail, encoded.answer, encoded.n_bos)


def unit_masks(example: Example, device: torch.device) -> Bool[Tensor, "unit pos"]:
    """For each unit, which positions of the model's input it holds."""
    mask = torch.zeros(len(example.members), len(example.encoded.ids) - 1, dtype=torch.bool, device=device)
    for u in range(len(example.members)):
        mask[u, list(example.positions(u))] = True
    return mask


def _with_embedding(run: Run, examples: Sequence[Example], value: Tensor) -> list[Outcome]:
    def hooks(members: Bool[Tensor, "batch pos"]) -> Hooks:
        def blank(embed: Float[Tensor, "batch pos d_model"], hook: Any) -> Float[Tensor, "batch pos d_model"]:
            return torch.where(members[..., None], value.to(embed), embed)

        return [(EMBED, blank)]

    return _under(run, examples, hooks)


def _under(run: Run, examples: Sequence[Example], hooks: Callable[[Tensor], Hooks]) -> list[Outcome]:
    """What each example loses when hooks made from a unit's positions intervene; row 0 intervenes nowhere."""
    outcomes = []
    for example in examples:
        masks = unit_masks(example, hooked.device_of(run.model))
        masks = torch.cat([torch.zeros_like(masks[:1]), masks])

        def chosen(rows: Int[Tensor, " batch"], masks: Bool[Tensor, "row pos"] = masks) -> Hooks:
            return hooks(masks[rows])

        values = run.scorer.intervened(example.encoded, len(masks), chosen)
        outcomes.append(Outcome(values[0] - torch.stack(values[1:])))
    return outcomes
