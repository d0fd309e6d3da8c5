"""Register `unpact_select`: penalise only the answer tokens that depend on the KeyTokens; see `selective`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.errors import InputError
from unpact_lens.unlearning.job import Job
from unpact_lens.unlearning.methods.npo import NPO
from unpact_lens.unlearning.methods.simnpo import SIMNPO
from unpact_lens.unlearning.option import Flag, Number, OneOf, Option
from unpact_lens.unlearning.registry import Method
from unpact_lens.unlearning.retain_terms import add_with_retain_terms
from unpact_lens.unlearning.selective import (
    KEEP_REST,
    KEYS,
    contributions,
    largest_1,
    on_base_loss,
    selective_ascent,
    selective_npo,
    selective_simnpo,
)

PICKS = ("key", "chance")
"""Tokens that a share takes first: those that owe most to the KeyTokens, or random ones (the control)."""


def token_weights(
    per_answer_token: Float[Tensor, "prompt answer"], key: Float[Tensor, ...] | Sequence[int]
) -> Float[Tensor, " answer"]:
    r"""Compute $w_k = \max(0, \sum_{i \in \mathrm{Key}} C_{ik})$, scaled to a maximum of 1.

    A mean of 1 would multiply the gradient of the few tokens that carry a fact, so a retain term would weigh less.

    Args:
        per_answer_token: Contributions C, nats.
        key: Rows of C that are KeyTokens.

    Returns:
        Weights; all 0 where no token depends on the KeyTokens.
    """
    return largest_1(per_answer_token[list(key)].sum(0).clamp(min=0))


def chosen_tokens(order: Float[Tensor, " answer"], share: float) -> Float[Tensor, " answer"]:
    """Return 1 for a share of an answer's tokens, those with the largest numbers, and 0 for the rest.

    Args:
        order: One number for each token. Of equal tokens the earlier comes first.
        share: Share above 0 and at most 1; the number of tokens is rounded up.
    """
    top = order.argsort(descending=True, stable=True)[: math.ceil(share * len(order))]
    return torch.zeros(len(order)).index_fill(0, top, 1.0)


def weigh_tokens(job: Job) -> None:
    """Give every answer token of the forget set its weight, and every sequence one if `weigh_sequences`.

    Raises:
        InputError: If random tokens are to be picked without a share, or the forget set is raw text.
    """
    share, pick = job.options["share"], job.options["pick"]
    if pick == "chance" and share is None:
        raise InputError("pick='chance' needs a share of each answer's tokens; give share=, above 0 and at most 1")
    found = contributions(job)
    if share is None:
        weights = [token_weights(c, k) for c, k in found]
    elif pick == "key":
        weights = [chosen_tokens(c[k].sum(0), share) for c, k in found]
    else:
        drawn = torch.Generator().manual_seed(job.seed)
        weights = [chosen_tokens(torch.rand(c.shape[1], generator=drawn), share) for c, _ in found]
    if job.options["weigh_sequences"]:
        depends = torch.stack([c[k].sum(0).clamp(min=0).mean() for c, k in found])
        weights = [w * (d / depends.mean()) for w, d in zip(weights, depends, strict=True)]
    job.data.weights = [w.float() for w in weights]


SELECT = Method(
    "unpact_select",
    "ascent on the answer tokens that depend on the KeyTokens, likelihood of the rest",
    "base loss with token weights w_k ∝ max(0, Σ_{i∈Key} C_ik), at most 1, − keep_rest·mean [w_k = 0]·log p",
    "this toolkit, from the third finding of arXiv 2509.24675",
    forget=selective_ascent,
    options={
        **KEYS,
        "weigh_sequences": Option(False, Flag()),
        **KEEP_REST,
        "share": Option(None, Number(0, 1, above=True, optional=True)),
        "pick": Option("key", OneOf(PICKS)),
    },
    prepare=weigh_tokens,
    note="contributions are taken once, from the original model; key_tokens is the k of TopK. "
    "share= penalises that share of each answer's tokens alike, those that depend most first, or random ones with "
    "pick='chance'; at share=1 it is the base loss.",
)
for _method in (
    SELECT,
    on_base_loss(SELECT, "NPO", selective_npo, NPO),
    on_base_loss(SELECT, "SimNPO", selective_simnpo, SIMNPO),
):
    add_with_retain_terms(_method, lr={"gdr": 4e-4, "klr": 4e-4})
