"""Compute LP(x, y), the mean log-probability of an answer.

1. Sort the examples by length and cut them into batches of at most `batch_tokens` tokens.
2. Pad each batch on the right. A causal model does not see the padding at the positions that are scored.
3. Unembed the answer's positions only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from typing_extensions import Unpack

from unpact_lens.errors import InputError
from unpact_lens.models import hooked
from unpact_lens.models.asking import Asking, AskingOptions
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.tokens import DEFAULT_BATCH_TOKENS, Encoded, Text, length_batches, pad_right


def score_rows(
    model: HookedModel, rows: Sequence[Encoded], *, batch_tokens: int = DEFAULT_BATCH_TOKENS
) -> list[Float[Tensor, " answer"]]:
    """Compute the log-probability of each answer token, for many examples.

    Args:
        model: Hooked causal model.
        rows: Encoded prompts with their answers.
        batch_tokens: Largest number of input tokens in one forward pass, padding included.

    Returns:
        log p(y_k | x, y_<k) of each row in nats, in the given order, on the CPU, in fp32 or wider.
    """
    return [log_probs for log_probs, _ in forced_rows(model, rows, batch_tokens=batch_tokens)]


def forced_rows(
    model: HookedModel, rows: Sequence[Encoded], *, batch_tokens: int = DEFAULT_BATCH_TOKENS
) -> list[tuple[Float[Tensor, " answer"], Bool[Tensor, " answer"]]]:
    """Compute `score_rows`, and whether each answer token is the most likely one given the tokens before it.

    Args:
        model: Hooked causal model.
        rows: Encoded prompts with their answers.
        batch_tokens: Largest number of input tokens in one forward pass, padding included.

    Returns:
        Log-probabilities of each row in nats, and whether each answer token has the largest logit.
    """
    results: list[tuple[Tensor, Tensor]] = [(torch.empty(0), torch.empty(0, dtype=torch.bool))] * len(rows)
    device = hooked.device_of(model)
    with torch.inference_mode():
        for batch in length_batches([len(r.ids) - 1 for r in rows], batch_tokens):
            tokens, answers, positions = padded([rows[i] for i in batch], device)
            logits = hooked.logits_at(model, tokens, positions)  # [row, answer, d_vocab]
            log_probs = gather_log_probs(logits, answers).cpu()  # [row, answer]
            most_likely = (logits.argmax(-1) == answers).cpu()  # [row, answer]
            for row, i in enumerate(batch):
                length = len(rows[i].answer)
                results[i] = (log_probs[row, :length].clone(), most_likely[row, :length].clone())
    return results


def padded(
    rows: Sequence[Encoded], device: torch.device
) -> tuple[Int[Tensor, "row input"], Int[Tensor, "row answer"], Int[Tensor, "row answer"]]:
    """Return the model's input of each row, the answers, and the input positions that predict the answer tokens."""
    tokens = pad_right([r.ids[:-1] for r in rows], device)
    answers = pad_right([r.answer for r in rows], device)
    first = torch.tensor([len(r.context) - 1 for r in rows], device=device)  # [row]
    positions = first[:, None] + torch.arange(answers.shape[1], device=device)  # [row, answer]
    # Positions beyond a shorter answer are clamped and never read.
    return tokens, answers, positions.clamp(max=tokens.shape[1] - 1)


def gather_log_probs(
    logits: Float[Tensor, "batch pos d_vocab"], labels: Int[Tensor, "batch pos"]
) -> Float[Tensor, "batch pos"]:
    """Compute log p of each label, nats, in fp32 at least: `logit[label] − logsumexp(logits)`."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return wide.gather(-1, labels[..., None])[..., 0] - wide.logsumexp(-1)


def log_prob(
    model: HookedModel,
    prompt: Text,
    answer: Text,
    *,
    per_token: bool = False,
    **asking: Unpack[AskingOptions],
) -> Float[Tensor, ""] | Float[Tensor, " answer"]:
    r"""Compute LP(x, y), the mean log-probability of an answer given a prompt.

    $\mathrm{LP}(x, y) = \frac1T \sum_k \log p(y_k \mid x, y_{<k})$.

    Args:
        model: Hooked causal model.
        prompt: Text or ids.
        answer: Text, leading space included, or ids.
        per_token: Return the T terms instead of their mean.
        asking: Options of `AskingOptions`.

    Returns:
        Nats: a scalar, or one value for each answer token.

    Raises:
        InputError: If prompt or answer is empty, an id is outside the vocabulary, the text exceeds the context, or the
            model's weights give NaN.

    Source: arXiv 2509.24675, Sec. 3 (unPact).
    """
    scores = score_rows(model, [Asking(**asking).encode(model, prompt, answer)])[0]
    check_finite(scores, f"log-probability of answer {answer!r}")
    return scores if per_token else scores.mean()


def check_finite(values: Tensor, what: str) -> None:
    """Refuse NaN, which only broken weights give.

    Args:
        values: Computed values.
        what: Name of the values in the error.

    Raises:
        InputError: If a value is NaN.
    """
    if torch.isnan(values).any():
        raise InputError(f"{what} is NaN: the model's weights hold NaN or overflow; load an intact checkpoint")
