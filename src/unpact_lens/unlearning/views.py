"""What a loss may ask for about a batch: computed on first use, references from a cache made once per data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unpact_lens.models import surface
from unpact_lens.models.tokens import Encoded, length_batches, pad_right
from unpact_lens.scoring import DEFAULT_BATCH_TOKENS, gather_log_probs, score_rows


class Examples:
    """A data set as token ids, with what the model before says about it.

    Args:
        rows: prompt and answer ids.
        before: the model before unlearning, never changed.
        extra: one row of values for each example, as long as its answer, by name (e.g. token weights).
    """

    def __init__(
        self, rows: Sequence[Encoded], before: Any, extra: Mapping[str, Sequence[Tensor]] | None = None
    ) -> None:
        self.rows = list(rows)
        self.before = before
        self.extra = dict(extra or {})

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def mean_answer_length(self) -> float:
        """Answer tokens an example, on average."""
        return sum(len(r.answer) for r in self.rows) / len(self.rows)

    @cached_property
    def log_probs(self) -> list[Float[Tensor, " answer"]]:
        """Of each answer token, under the model before; nats."""
        return score_rows(self.before, self.rows)

    @cached_property
    def residuals(self) -> list[Float[Tensor, "answer d_model"]]:
        """Final residual of the model before at each position that predicts an answer token.

        d_model numbers a token instead of d_vocab: they are unembedded again when needed.
        """
        return final_residuals(self.before, self.rows)


def final_residuals(model: Any, rows: Sequence[Encoded]) -> list[Float[Tensor, "answer d_model"]]:
    """Final residual stream of `model` at the positions that predict each row's answer, without gradient."""
    kept: list[Tensor] = [torch.empty(0)] * len(rows)
    with torch.no_grad():
        for batch in length_batches([len(r.ids) - 1 for r in rows], DEFAULT_BATCH_TOKENS):
            tokens = pad_right([rows[i].ids[:-1] for i in batch], surface.device_of(model))
            resid = surface.final_residual(model, tokens)
            for row, i in enumerate(batch):
                kept[i] = resid[row, len(rows[i].context) - 1 : len(rows[i].ids) - 1].clone()
    return kept


class View:
    """One batch under the model being trained, at the positions that predict answer tokens.

    Args:
        model: being trained.
        data: where the batch comes from.
        index: which of its examples.
    """

    def __init__(self, model: Any, data: Examples, index: Sequence[int]) -> None:
        self.model, self.data, self.index = model, data, list(index)
        self.rows = [data.rows[i] for i in index]
        self.device = surface.device_of(model)

    @cached_property
    def labels(self) -> Int[Tensor, "batch pos"]:
        """Answer ids, padded on the right."""
        return pad_right([r.answer for r in self.rows], self.device)

    @cached_property
    def mask(self) -> Bool[Tensor, "batch pos"]:
        """True on answer tokens."""
        lengths = torch.tensor([len(r.answer) for r in self.rows], device=self.device)
        return torch.arange(self.labels.shape[1], device=self.device) < lengths[:, None]

    @cached_property
    def tokens(self) -> Int[Tensor, "batch input"]:
        """What the model reads: all but each row's last token, padded on the right (a causal model needs no mask)."""
        return pad_right([r.ids[:-1] for r in self.rows], self.device)

    @cached_property
    def positions(self) -> Int[Tensor, "batch pos"]:
        """Where in `tokens` each answer token is predicted."""
        first = torch.tensor([len(r.context) - 1 for r in self.rows], device=self.device)
        steps = torch.arange(self.labels.shape[1], device=self.device)
        return (first[:, None] + steps).clamp(max=self.tokens.shape[1] - 1)

    @cached_property
    def logits(self) -> Float[Tensor, "batch pos d_vocab"]:
        """Next-token logits, with gradient."""
        return surface.logits_at(self.model, self.tokens, self.positions)

    @cached_property
    def log_probs(self) -> Float[Tensor, "batch pos"]:
        """Log p of each label, nats, with gradient."""
        return gather_log_probs(self.logits, self.labels)

    @cached_property
    def ref_log_probs(self) -> Float[Tensor, "batch pos"]:
        """Log p of each label under the model before, nats."""
        return self._padded(self.data.log_probs)

    @cached_property
    def ref_logits(self) -> Float[Tensor, "batch pos d_vocab"]:
        """Next-token logits of the model before: its cached final residual, unembedded again."""
        with torch.no_grad():
            return surface.unembed(self.data.before, self._padded(self.data.residuals))

    def extra(self, name: str) -> Float[Tensor, "batch pos"]:
        """Values that came with the examples, e.g. token weights."""
        return self._padded(self.data.extra[name])

    def _padded(self, rows: Sequence[Tensor]) -> Tensor:
        picked = [rows[i] for i in self.index]
        out = torch.zeros(*self.mask.shape, *picked[0].shape[1:], dtype=picked[0].dtype, device=self.device)
        for b, values in enumerate(picked):
            out[b, : len(values)] = values.to(self.device)
        return out
