r"""Split the gradient of the forget loss by class of answer token, and measure the damage of each part.

The gradient of gradient ascent over all answer tokens of the forget set,
$g = \nabla_\theta \frac{1}{T}\sum_k \log p(y_k)$, is a sum over classes of tokens, $g = \sum_c g_c$:

- `content`: fact tokens that occur in no fact of a retain answer;
- `shared`: fact tokens that also occur in a fact of a retain answer;
- `template`: all other answer tokens.

A small step of ascent, $-\eta g_c$, changes the retain set's mean negative log-likelihood by
$\eta\,\langle g_c, \nabla_\theta \overline{\log p}_{\mathrm{retain}}\rangle$ to first order.
This is the *damage* of the class. Its *forgetting* is the same product with the gradient of the forget facts' tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.data.benchmark import QA
from unpact_lens.errors import InputError
from unpact_lens.evaluation.answers import fact_tokens
from unpact_lens.models import hooked
from unpact_lens.models.batches import DEFAULT_BATCH_TOKENS, length_batches, pad_right
from unpact_lens.models.checkpoint import clone
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.tokens import Encoded, encode
from unpact_lens.scoring import gather_log_probs, padded

CLASSES = ("content", "shared", "template")


def token_classes(
    rows: Sequence[Encoded], spans: Sequence[tuple[int, int]], retained: frozenset[int]
) -> list[tuple[str, ...]]:
    """Return the class of every answer token.

    Args:
        rows: Encoded forget facts.
        spans: For each fact, `(start, end)` of the answer tokens that carry it.
        retained: Ids of the tokens in the facts of retain answers.
    """
    return [
        tuple(
            "template" if not start <= k < end else "shared" if token in retained else "content"
            for k, token in enumerate(row.answer)
        )
        for row, (start, end) in zip(rows, spans, strict=True)
    ]


def token_gradients(
    model: HookedModel, forget: Sequence[QA], retain: Sequence[QA], *, batch_tokens: int = DEFAULT_BATCH_TOKENS
) -> pd.DataFrame:
    """Compute the forget gradient by class of answer token.

    Args:
        model: Original model. It is not changed.
        forget: Forget facts, asked in the main phrasing.
        retain: Retain facts.
        batch_tokens: Largest number of input tokens in one forward pass.

    Returns:
        One row per class and one for `all`: `tokens`, `share_of_tokens`, `norm` of its gradient, `damage` and
        `forgetting` (nats for a step of size 1), and `damage_per_forgetting`.

    Raises:
        InputError: If there are no forget or no retain facts.
    """
    if not forget or not retain:
        raise InputError(f"{len(forget)} forget and {len(retain)} retain facts; give at least one of each")
    copy = clone(model)
    of_forget, of_retain = ([encode(copy, q.prompt, q.answer) for q in qas] for qas in (forget, retain))
    spans = [fact_tokens(copy, row, q) for row, q in zip(of_forget, forget, strict=True)]
    kept = [fact_tokens(copy, row, q) for row, q in zip(of_retain, retain, strict=True)]
    retained = frozenset(t for r, (start, end) in zip(of_retain, kept, strict=True) for t in r.answer[start:end])
    classes = token_classes(of_forget, spans, retained)
    total = sum(len(c) for c in classes)
    counts = {c: sum(row.count(c) for row in classes) for c in CLASSES}

    def gradient(name: str) -> Tensor:
        weights = [torch.tensor([float(c == name) / total for c in row]) for row in classes]
        return weighted_gradient(copy, of_forget, weights, batch_tokens)

    parts = {name: gradient(name) for name in CLASSES}
    n_retain = sum(len(r.answer) for r in of_retain)
    keep = weighted_gradient(copy, of_retain, [torch.ones(len(r.answer)) / n_retain for r in of_retain], batch_tokens)
    facts = counts["content"] + counts["shared"]
    fact = (parts["content"] + parts["shared"]) * (total / facts)
    rows = []
    for name, g in {**parts, "all": torch.stack(list(parts.values())).sum(0)}.items():
        tokens = total if name == "all" else counts[name]
        damage, forgetting = float(g @ keep), float(g @ fact)
        rows.append(
            {
                "class": name, "tokens": tokens, "share_of_tokens": tokens / total, "norm": float(g.norm()),
                "damage": damage, "forgetting": forgetting,
                "damage_per_forgetting": damage / forgetting if forgetting else float("nan"),
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def weighted_gradient(
    model: HookedModel, rows: Sequence[Encoded], weights: Sequence[Float[Tensor, " _"]], batch_tokens: int
) -> Float[Tensor, " parameter"]:
    r"""Compute $\nabla_\theta \sum_k w_k \log p(y_k)$ over all rows, as one fp64 vector on the CPU."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    sums = [torch.zeros_like(p, dtype=torch.float64, device="cpu") for p in parameters]
    device = hooked.device_of(model)
    with torch.enable_grad():
        for batch in length_batches([len(r.ids) - 1 for r in rows], batch_tokens):
            tokens, where = padded([rows[i] for i in batch], device)
            answers = pad_right([rows[i].answer for i in batch], device)
            weight = torch.zeros(answers.shape)
            for row, i in enumerate(batch):
                weight[row, : len(weights[i])] = weights[i]
            log_probs = gather_log_probs(hooked.logits_at(model, tokens, where), answers)
            found = torch.autograd.grad((weight.to(log_probs) * log_probs).sum(), parameters, allow_unused=True)
            for total, g in zip(sums, found, strict=True):
                if g is not None:
                    total += g.cpu()
    return torch.cat([s.flatten() for s in sums])
