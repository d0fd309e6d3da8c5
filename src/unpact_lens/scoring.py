"""LP(x, y), the mean log-probability of an answer: the one place that computes it.

Algorithm: sort the examples by length, cut them into batches of at most `batch_tokens` tokens, pad on the right (what
is scored never sees the padding), and unembed the answer's positions only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unpact_lens.errors import InputError
from unpact_lens.models import hooked
from unpact_lens.models.tokens import DEFAULT_BATCH_TOKENS, Encoded, Text, encode, length_batches, pad_right


def score_rows(
    model: Any, rows: Sequence[Encoded], *, batch_tokens: int = DEFAULT_BATCH_TOKENS
) -> list[Float[Tensor, " answer"]]:
    """Log-probability of each answer token, for many examples.

    Args:
        model: a hooked causal model.
        rows: what `encode` gives.
        batch_tokens: bound on the input tokens of one forward pass.

    Returns:
        For each row, log p(y_k | x, y_<k) in nats, in the order given, on the CPU, in fp32 or wider.
    """
    return [log_probs for log_probs, _ in forced_rows(model, rows, batch_tokens=batch_tokens)]


def forced_rows(
    model: Any, rows: Sequence[Encoded], *, batch_tokens: int = DEFAULT_BATCH_TOKENS
) -> list[tuple[Float[Tensor, " answer"], Bool[Tensor, " answer"]]]:
    """Like `score_rows`, with whether each answer token is the most likely one, given what stands before it.

    Args:
        model: a hooked causal model.
        rows: what `encode` gives.
        batch_tokens: bound on the input tokens of one forward pass.

    Returns:
        For each row, log-probabilities in nats, and where the answer token has the largest logit.
    """
    results: list[tuple[Tensor, Tensor]] = [(torch.empty(0), torch.empty(0, dtype=torch.bool))] * len(rows)
    device = hooked.device_of(model)
    with torch.inference_mode():
        for batch in length_batches([len(r.ids) - 1 for r in rows], batch_tokens):
            tokens, answers, positions = padded([rows[i] for i in batch], device)
            logits = hooked.logits_at(model, tokens, positions)
            log_probs = gather_log_probs(logits, answers).cpu()
            most_likely = (logits.argmax(-1) == answers).cpu()
            for row, i in enumerate(batch):
                length = len(rows[i].answer)
                results[i] = (log_probs[row, :length].clone(), most_likely[row, :length].clone())
    return results


def padded(
    rows: Sequence[Encoded], device: torch.device
) -> tuple[Int[Tensor, "row input"], Int[Tensor, "row answer"], Int[Tensor, "row answer"]]:
    """What the model reads of each row, the answers, and where in the input each answer token is predicted."""
    tokens = pad_right([r.ids[:-1] for r in rows], device)
    answers = pad_right([r.answer for r in rows], device)
    first = torch.tensor([len(r.context) - 1 for r in rows], device=device)
    positions = (first[:, None] + torch.arange(answers.shape[1], device=device)).clamp(max=tokens.shape[1] - 1)
    return tokens, answers, positions


def gather_log_probs(logits: Float[Tensor, "batch pos d_vocab"], labels: Tensor) -> Float[Tensor, "batch pos"]:
    """Log p of each label, nats, computed in fp32 at least: `logit[label] − logsumexp(logits)`."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return wide.gather(-1, labels[..., None])[..., 0] - wide.logsumexp(-1)


def log_prob(
    model: Any,
    prompt: Text,
    answer: Text,
    *,
    per_token: bool = False,
    chat: bool = False,
    prefill: Text = "",
) -> Float[Tensor, ""] | Float[Tensor, " answer"]:
    r"""LP(x, y): how likely the model holds this answer to this prompt.

    $\mathrm{LP}(x, y) = \frac1T \sum_k \log p(y_k \mid x, y_{<k})$.

    Args:
        model: a hooked causal model.
        prompt: text or ids.
        answer: text, leading space included, or ids.
        per_token: return the T terms instead of their mean.
        chat: wrap the prompt in the tokenizer's chat template.
        prefill: the opening of the answer, given to the model and not scored.

    Returns:
        Nats: a scalar, or one value for each answer token.

    Raises:
        InputError: if prompt or answer is empty, an id is outside the vocabulary, all is longer than the context, or
            the model's weights give NaN.

    Source: arXiv 2509.24675, Sec. 3 (unPact).
    """
    scores = score_rows(model, [encode(model, prompt, answer, chat=chat, prefill=prefill)])[0]
    check_finite(scores, f"log-probability of answer {answer!r}")
    return scores if per_token else scores.mean()


def check_finite(values: Tensor, what: str) -> None:
    """Refuse NaN, which only broken weights give.

    Raises:
        InputError: naming what is NaN.
    """
    if torch.isnan(values).any():
        raise InputError(f"{what} is NaN: the model's weights hold NaN or overflow; load a sound checkpoint")
