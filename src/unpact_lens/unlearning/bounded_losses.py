r"""Compute losses that are bounded, or flat at their target: pure functions of gathered values, as in `losses`.

Every function returns a scalar to *minimise*, the mean over all tokens of the mask, in fp32 or wider.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unpact_lens.unlearning.losses import wide

LOG_2 = math.log(2.0)


def jensen_shannon(
    logits: Float[Tensor, "batch pos d_vocab"],
    ref_logits: Float[Tensor, "batch pos d_vocab"],
    mask: Bool[Tensor, "batch pos"],
) -> Float[Tensor, ""]:
    r"""Compute the Jensen-Shannon divergence of the next-token distributions from those of the reference model.

    $\tfrac12\mathrm{KL}(p \,\|\, m) + \tfrac12\mathrm{KL}(q \,\|\, m)$ with $m = (p + q)/2$.

    Args:
        logits: Logits of the model being trained, distribution p.
        ref_logits: Logits of the reference model, distribution q; no gradient flows here.
        mask: True on the tokens that count.

    Returns:
        Scalar to minimise, nats a token, from 0 to log 2.

    Source: Singh et al. 2025, arXiv 2509.02820, the retain loss of JensUn.
    """
    log_p = wide(logits[mask]).log_softmax(-1)
    log_q = wide(ref_logits[mask]).detach().log_softmax(-1)
    log_m = torch.logaddexp(log_p, log_q) - LOG_2  # [token, d_vocab]
    each = log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m)
    return each.sum(-1).mean() / 2


def jensen_shannon_to_label(
    log_probs: Float[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"]
) -> Float[Tensor, ""]:
    r"""Compute the Jensen-Shannon divergence of the next-token distributions from those that are certain of the label.

    With p the label's probability: $\tfrac12[2\log 2 + p\log p - (1+p)\log(1+p)]$.

    Args:
        log_probs: Log p of each label, nats.
        mask: True on the tokens that count.

    Returns:
        Scalar to minimise, nats a token, from 0 to log 2. Its gradient in log p goes to 0 with p.

    Source: Singh et al. 2025, arXiv 2509.02820, the forget loss of JensUn.
    """
    log_p = wide(log_probs[mask])
    p = log_p.exp()
    return (LOG_2 + (p * log_p - (1 + p) * torch.log1p(p)) / 2).mean()


def logit_margin(logits: Float[Tensor, "batch pos d_vocab"], mask: Bool[Tensor, "batch pos"]) -> Float[Tensor, ""]:
    r"""Compute logit-margin flattening: $\mathrm{mean}_t\,(\max_v z_v - \mathrm{mean}_v z_v)^2$.

    Args:
        logits: Logits of the model being trained.
        mask: True on answer tokens.

    Returns:
        Scalar to minimise, squared logits; 0 where all tokens are equally likely.

    Source: Entesari et al. 2025, arXiv 2506.05314.
    """
    z = wide(logits[mask])
    return (z.amax(-1) - z.mean(-1)).square().mean()
