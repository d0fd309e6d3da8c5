"""Compute LP(x, y), the mean log-probability of an answer.

On a bridge without hooks, examples are packed without padding on the source model; see
`unpact_lens.models.packed_logits`. Elsewhere:

1. Sort the examples by length and cut them into batches of at most `batch_tokens` tokens.
2. Pad each batch on the right. A causal model does not see the padding at the positions that are scored.
3. Unembed the answer's positions only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from typing_extensions import Unpack

from unpact_lens.errors import InputError
from unpact_lens.models import hooked
from unpact_lens.models.asking import Asking, AskingOptions
from unpact_lens.models.batches import length_batches, pad_right
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.memory import batch_tokens_for_rows
from unpact_lens.models.packed_logits import packed_logits
from unpact_lens.models.source_model import source_model
from unpact_lens.models.tokens import Encoded, Text

CHUNK = {"cpu": 2**20, "cuda": 2**24}
"""Largest number of logits of which log-sum-exp is taken at a time, by device; on a CPU they fit into its cache."""


def score_rows(
    model: HookedModel, rows: Sequence[Encoded], *, batch_tokens: int | None = None
) -> list[Float[Tensor, " answer"]]:
    """Compute the log-probability of each answer token, for many examples.

    Args:
        model: Hooked causal model.
        rows: Encoded prompts with their answers.
        batch_tokens: Largest number of input tokens in one forward pass, padding included. If None, it is chosen from
            the free memory.

    Returns:
        log p(y_k | x, y_<k) of each row in nats, in the given order, on the CPU, in fp32 or wider.
    """
    return [log_probs for log_probs, _ in forced_rows(model, rows, batch_tokens=batch_tokens)]


def forced_rows(
    model: HookedModel, rows: Sequence[Encoded], *, batch_tokens: int | None = None
) -> list[tuple[Float[Tensor, " answer"], Bool[Tensor, " answer"]]]:
    """Compute `score_rows`, and whether each answer token is the most likely one given the tokens before it.

    Args:
        model: Hooked causal model.
        rows: Encoded prompts with their answers.
        batch_tokens: Largest number of input tokens in one forward pass, padding included. If None, it is chosen from
            the free memory.

    Returns:
        Log-probabilities of each row in nats, and whether each answer token has the largest logit.
    """
    if not rows:
        return []
    results: list[tuple[Tensor, Tensor]] = [(torch.empty(0), torch.empty(0, dtype=torch.bool))] * len(rows)
    with torch.inference_mode():
        source = source_model(model)
        limit = batch_tokens_for_rows(model, batch_tokens, rows, scores=source is None)
        for batch, logits in (
            _answer_logits(model, rows, limit) if source is None else packed_logits(model, source, rows, limit)
        ):
            answers = pad_right([rows[i].answer for i in batch], logits.device)  # [row, answer]
            log_probs = gather_log_probs(logits, answers).cpu()  # [row, answer]
            most_likely = (logits.argmax(-1) == answers).cpu()  # [row, answer]
            for row, i in enumerate(batch):
                length = len(rows[i].answer)
                results[i] = (log_probs[row, :length].clone(), most_likely[row, :length].clone())
    return results


def _answer_logits(
    model: HookedModel, rows: Sequence[Encoded], batch_tokens: int
) -> Iterator[tuple[list[int], Float[Tensor, "row answer d_vocab"]]]:
    """Yield the indices of the rows of each padded batch, and the logits that predict their answers."""
    device = hooked.device_of(model)
    for batch in length_batches([len(r.ids) - 1 for r in rows], batch_tokens):
        tokens, positions = padded([rows[i] for i in batch], device)
        yield batch, hooked.logits_at(model, tokens, positions)


def padded(rows: Sequence[Encoded], device: torch.device) -> tuple[Int[Tensor, "row input"], Int[Tensor, "row answer"]]:
    """Return the model's input of each row, and the input positions that predict the answer tokens."""
    tokens = pad_right([r.ids[:-1] for r in rows], device)
    first = torch.tensor([len(r.context) - 1 for r in rows], device=device)  # [row]
    positions = first[:, None] + torch.arange(max(len(r.answer) for r in rows), device=device)  # [row, answer]
    # Positions beyond a shorter answer are clamped and never read.
    return tokens, positions.clamp(max=tokens.shape[1] - 1)


def gather_log_probs(
    logits: Float[Tensor, "batch pos d_vocab"], labels: Int[Tensor, "batch pos"]
) -> Float[Tensor, "batch pos"]:
    """Compute log p of each label, nats, in fp32 at least: `logit[label] − logsumexp(logits)`.

    Without gradients, the sum is taken over a part of the vocabulary at a time, at most `CHUNK` logits, so that no copy
    of all logits is made, neither in fp32 nor of their exponentials.
    """
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    chosen = logits.gather(-1, labels[..., None])[..., 0].to(dtype)
    most = CHUNK.get(logits.device.type, CHUNK["cuda"])
    if logits.requires_grad or logits.numel() <= most:
        return chosen - logits.to(dtype).logsumexp(-1)
    columns = max(1, most // labels.numel())
    parts = [part.to(dtype).logsumexp(-1) for part in logits.split(columns, dim=-1)]
    return chosen - torch.stack(parts).logsumexp(0)


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
