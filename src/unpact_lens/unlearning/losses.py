r"""Compute the losses of every unlearning method: pure functions of gathered values, without a model.

Notation: $\ell = \sum_k \log p(y_k \mid x, y_{<k})$ over an answer's T tokens. Every function returns a scalar to
*minimise*. Token losses are means over all tokens of the mask, sequence losses means over examples. Values outside the
mask, NaN included, have no effect. Everything is computed in fp32 or wider.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus


def wide(values: Tensor) -> Tensor:
    """Return the values in fp32 or wider. Half precision would lose the small differences that these losses measure."""
    return values if values.dtype == torch.float64 else values.float()


def sequence_sums(log_probs: Float[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"]) -> Float[Tensor, " batch"]:
    r"""Compute $\ell(x, y)$ of each example: the sum of log p over its answer tokens, nats."""
    return torch.where(mask, wide(log_probs), 0.0).sum(-1)


def nll(log_probs: Float[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"]) -> Float[Tensor, ""]:
    r"""Compute the negative log-likelihood $-\mathrm{mean}_{t \in \mathrm{mask}} \log p_t$, the retain term GDR.

    Args:
        log_probs: Log p of each label, nats.
        mask: True on answer tokens.

    Returns:
        Scalar to minimise, nats a token.
    """
    return -wide(log_probs[mask]).mean()


def gradient_ascent(log_probs: Float[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"]) -> Float[Tensor, ""]:
    r"""Compute $+\mathrm{mean}_{t \in \mathrm{mask}} \log p_t$: minimising it is gradient ascent on the cross-entropy.

    It is unbounded below and diverges unless stopped.

    Args:
        log_probs: Log p of each label, nats.
        mask: True on answer tokens.

    Returns:
        Scalar to minimise, nats a token.

    Source: Jang et al. 2022, arXiv 2210.01504.
    """
    return wide(log_probs[mask]).mean()


def npo(
    log_probs: Float[Tensor, "batch pos"],
    ref_log_probs: Float[Tensor, "batch pos"],
    mask: Bool[Tensor, "batch pos"],
    beta: float = 0.1,
) -> Float[Tensor, ""]:
    r"""Compute negative preference optimisation: make each answer less likely than under the reference model.

    $\frac{2}{\beta}\,\mathrm{mean}_b\,\mathrm{softplus}\big(\beta(\ell_\theta - \ell_{\mathrm{ref}})\big)$ with
    $\ell$ the *sum* over answer tokens. As $\beta \to 0$ its gradient becomes that of ascent on the sequence sum.

    Args:
        log_probs: Log p of each label under the model being trained, nats.
        ref_log_probs: Log p of each label under the reference model; no gradient flows here.
        mask: True on answer tokens. Other values have no effect.
        beta: Inverse temperature, > 0. A larger one forgets more gently once below the reference.

    Returns:
        Scalar to minimise, nats a sequence.

    Source: Zhang et al. 2024, arXiv 2404.05868, Eq. 3.
    """
    ratio = sequence_sums(log_probs, mask) - sequence_sums(ref_log_probs, mask).detach()
    return (2 / beta) * softplus(beta * ratio).mean()


def simnpo(
    log_probs: Float[Tensor, "batch pos"],
    mask: Bool[Tensor, "batch pos"],
    beta: float = 4.5,
    delta: float = 0.0,
) -> Float[Tensor, ""]:
    r"""Compute SimNPO, without a reference model: $-\frac2\beta \log\sigma(-\beta\,\ell/T - \delta\beta)$.

    With $\delta = 0$ and answers of one length T it is NPO with $\beta/T$ and a reference of zero, divided by T.

    Args:
        log_probs: Log p of each label, nats.
        mask: True on answer tokens; every row needs one.
        beta: Inverse temperature, > 0.
        delta: Margin, nats a token.

    Returns:
        Scalar to minimise, the mean over examples, nats a token.

    Source: Fan et al. 2024, arXiv 2410.07163.
    """
    per_token = sequence_sums(log_probs, mask) / mask.sum(-1)
    return (2 / beta) * softplus(beta * (per_token + delta)).mean()


def dpo(
    chosen: Float[Tensor, " batch"],
    ref_chosen: Float[Tensor, " batch"],
    rejected: Float[Tensor, " batch"],
    ref_rejected: Float[Tensor, " batch"],
    beta: float = 0.1,
    scale: float = 1.0,
) -> Float[Tensor, ""]:
    r"""Compute DPO: $-\log\sigma\big(\beta[(\ell_c - \ell_{c0}) - (\ell_r - \ell_{r0})]\big)$.

    It is log 2 where the model equals the reference model.

    Args:
        chosen: Sequence sums $\ell$ of the preferred answer (a refusal, an alternative), nats.
        ref_chosen: Sequence sums of the preferred answer under the reference model; no gradient flows here.
        rejected: Sequence sums of the answer to forget.
        ref_rejected: Sequence sums of the answer to forget under the reference model; no gradient flows here.
        beta: Inverse temperature, > 0.
        scale: Factor of the whole loss. Public unlearning toolkits use 2/beta, the source 1.

    Returns:
        Scalar to minimise, the mean over examples.

    Source: Rafailov et al. 2023, arXiv 2305.18290, Eq. 7; for refusals TOFU, arXiv 2401.06121.
    """
    margin = (wide(chosen) - wide(ref_chosen).detach()) - (wide(rejected) - wide(ref_rejected).detach())
    return -scale * logsigmoid(beta * margin).mean()


def wga(log_probs: Float[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"], beta: float = 1.0) -> Float[Tensor, ""]:
    r"""Compute weighted gradient ascent: $\mathrm{mean}\big(\mathrm{sg}[p^\beta] \log p\big)$.

    The weight carries no gradient. With one, the sign would flip below p = 1/e at beta 1.

    Args:
        log_probs: Log p of each label, nats.
        mask: True on answer tokens.
        beta: Strength with which unlikely tokens are spared.

    Returns:
        Scalar to minimise, nats a token.

    Source: Wang et al. 2025, arXiv 2502.19301.
    """
    kept = wide(log_probs[mask])
    return ((beta * kept.detach()).exp() * kept).mean()


def satimp(
    log_probs: Float[Tensor, "batch pos"],
    mask: Bool[Tensor, "batch pos"],
    beta1: float = 5.0,
    beta2: float = 1.0,
) -> Float[Tensor, ""]:
    r"""Compute gradient ascent weighted by saturation and importance.

    $\mathrm{mean}\big(\mathrm{sg}[p^{\beta_1}(1-p)^{\beta_2}]\log p\big)$; the weight carries no gradient.

    Args:
        log_probs: Log p of each label, nats.
        mask: True on answer tokens.
        beta1: Exponent of p. It spares tokens that are unlikely already (saturation).
        beta2: Exponent of 1 − p. It spares tokens that are certain (importance).

    Returns:
        Scalar to minimise, nats a token.

    Source: Yang et al. 2025, arXiv 2505.11953.
    """
    kept = wide(log_probs[mask])
    p = kept.detach().exp()
    return (p**beta1 * (1 - p).clamp(min=0) ** beta2 * kept).mean()


def weighted_ascent(
    log_probs: Float[Tensor, "batch pos"],
    weights: Float[Tensor, "batch pos"],
    mask: Bool[Tensor, "batch pos"],
) -> Float[Tensor, ""]:
    r"""Compute ascent on weighted tokens: $\mathrm{mean}_{t \in \mathrm{mask}}\big(w_t \log p_t\big)$.

    Args:
        log_probs: Log p of each label, nats.
        weights: Weight of each token; 1 everywhere is `gradient_ascent`. No gradient flows here.
        mask: True on answer tokens.

    Returns:
        Scalar to minimise, nats a token.
    """
    return (wide(weights[mask]).detach() * wide(log_probs[mask])).mean()


def kl_to_reference(
    logits: Float[Tensor, "batch pos d_vocab"],
    ref_logits: Float[Tensor, "batch pos d_vocab"],
    mask: Bool[Tensor, "batch pos"],
) -> Float[Tensor, ""]:
    r"""Compute $\mathrm{KL}(p_{\mathrm{ref}} \,\|\, p_\theta)$ of the next-token distributions, the retain term KLR.

    Args:
        logits: Logits of the model being trained.
        ref_logits: Logits of the reference model; no gradient flows here.
        mask: True on answer tokens.

    Returns:
        Scalar to minimise, nats a token; 0 with zero gradient where both agree.
    """
    log_p = wide(logits[mask]).log_softmax(-1)
    log_ref = wide(ref_logits[mask]).detach().log_softmax(-1)
    return (log_ref.exp() * (log_ref - log_p)).sum(-1).mean()


def soft_cross_entropy(
    logits: Float[Tensor, "batch pos d_vocab"],
    target_logits: Float[Tensor, "batch pos d_vocab"],
    mask: Bool[Tensor, "batch pos"],
) -> Float[Tensor, ""]:
    r"""Compute $-\mathrm{mean}_t \sum_v q_v \log p_v$, q the softmax of `target_logits`, without a gradient."""
    target = wide(target_logits[mask]).detach().softmax(-1)
    return -(target * wide(logits[mask]).log_softmax(-1)).sum(-1).mean()


def undial(
    logits: Float[Tensor, "batch pos d_vocab"],
    ref_logits: Float[Tensor, "batch pos d_vocab"],
    labels: Int[Tensor, "batch pos"],
    mask: Bool[Tensor, "batch pos"],
    beta: float = 10.0,
) -> Float[Tensor, ""]:
    """Compute UNDIAL: cross-entropy to the reference model's distribution with the label's logit lowered by beta.

    Args:
        logits: Logits of the model being trained.
        ref_logits: Logits of the reference model; no gradient flows here.
        labels: Memorised tokens.
        mask: True on answer tokens. Padding is left out; the public code of the source leaves it in.
        beta: Amount by which the memorised token's logit is lowered.

    Returns:
        Scalar to minimise, cross-entropy in nats a token.

    Source: Dong et al. 2024, arXiv 2402.10052.
    """
    return soft_cross_entropy(logits, _shift_label(ref_logits, labels, mask, -beta), mask)


def ce_u(
    logits: Float[Tensor, "batch pos d_vocab"],
    labels: Int[Tensor, "batch pos"],
    mask: Bool[Tensor, "batch pos"],
    ignore_first: int = 0,
) -> Float[Tensor, ""]:
    r"""Compute CE-U: cross-entropy to the model's own distribution with the answer token's logit at −∞.

    The target is computed anew at every step and carries no gradient.

    Args:
        logits: Logits of the model being trained.
        labels: Answer tokens.
        mask: True on answer tokens.
        ignore_first: Number of tokens at the start of each answer that are left out. Every row needs more.

    Returns:
        Scalar to minimise, nats a token.

    Source: Yang 2025, arXiv 2503.01224; the first token is left out in a footnote of its training settings.
    """
    mask = mask & (mask.cumsum(-1) > ignore_first)
    return soft_cross_entropy(logits, _shift_label(logits, labels, mask, -torch.inf), mask)


def _shift_label(logits: Tensor, labels: Tensor, mask: Tensor, by: float) -> Tensor:
    """Add `by` to each label's logit. Labels outside the mask are not read."""
    at = torch.where(mask, labels, 0)[..., None]  # [batch, pos, 1]
    shifts = torch.zeros_like(wide(logits)).scatter(-1, at, by)
    return wide(logits).detach() + shifts


def whp_target(
    base_logits: Float[Tensor, "*batch d_vocab"],
    reinforced_logits: Float[Tensor, "*batch d_vocab"],
    alpha: float = 5.0,
) -> Float[Tensor, "*batch d_vocab"]:
    r"""Compute the generic predictions of "Who's Harry Potter": $z_b - \alpha\,\mathrm{ReLU}(z_r - z_b)$.

    Args:
        base_logits: Logits $z_b$ of the original model.
        reinforced_logits: Logits $z_r$ of the model trained further on the forget set.
        alpha: Strength. With 0, the result is `base_logits`.

    Returns:
        Logits to train towards, or to predict with.

    Source: Eldan and Russinovich 2023, arXiv 2310.02238, Eq. 1.
    """
    return base_logits - alpha * (reinforced_logits - base_logits).relu()


def rmu_forget(
    acts: Float[Tensor, "batch pos d_model"],
    direction: Float[Tensor, " d_model"],
    c: float,
    mask: Bool[Tensor, "batch pos"],
    mean: Literal["token", "example"] = "token",
) -> Float[Tensor, ""]:
    r"""Compute the distance of the residual stream on forget text from $c \cdot u$: representation misdirection.

    It is a mean of squares over d_model and over the mask's tokens, as in the public code of the source.

    Args:
        acts: Residual stream at the chosen layer.
        direction: Unit vector u, drawn once.
        c: Norm of the target.
        mask: True on the tokens that count.
        mean: `"token"` averages over all tokens, `"example"` over each example's tokens and then over examples.

    Returns:
        Scalar to minimise.

    Source: Li et al. 2024, arXiv 2403.03218.
    """
    return _mean_square(wide(acts) - c * wide(direction).detach(), mask, mean)


def rmu_retain(
    acts: Float[Tensor, "batch pos d_model"],
    ref_acts: Float[Tensor, "batch pos d_model"],
    mask: Bool[Tensor, "batch pos"],
    mean: Literal["token", "example"] = "token",
) -> Float[Tensor, ""]:
    """Compute the distance of the residual stream on retain text from the reference model's, as a mean of squares.

    Args:
        acts: Residual stream at the chosen layer.
        ref_acts: Residual stream of the reference model; no gradient flows here.
        mask: True on the tokens that count.
        mean: `"token"` averages over all tokens, `"example"` over each example's tokens and then over examples.

    Returns:
        Scalar to minimise.

    Source: Li et al. 2024, arXiv 2403.03218.
    """
    return _mean_square(wide(acts) - wide(ref_acts).detach(), mask, mean)


def _mean_square(
    gap: Float[Tensor, "batch pos d_model"], mask: Bool[Tensor, "batch pos"], mean: Literal["token", "example"]
) -> Float[Tensor, ""]:
    """Average squares over d_model and over the mask's tokens, or over each example's tokens and then over examples."""
    if mean == "token":
        return gap[mask].square().mean()
    squares = torch.where(mask[..., None], gap, 0.0).square().mean(-1)  # [batch, pos]
    return (squares.sum(-1) / mask.sum(-1)).mean()
