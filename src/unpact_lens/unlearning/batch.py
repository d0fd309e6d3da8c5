"""What a loss may ask for about a batch: computed on first use, references from a cache made once per data set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unpact_lens.models import hooked
from unpact_lens.models.checkpoint import model_hash
from unpact_lens.models.tokens import Encoded, length_batches, pad_right
from unpact_lens.scoring import DEFAULT_BATCH_TOKENS, gather_log_probs, score_rows
from unpact_lens.unlearning.checkpointing import fingerprint
from unpact_lens.unlearning.reference_cache import Store


class Examples:
    """A data set as token ids, with what the model before says about it.

    Args:
        rows: prompt and answer ids.
        before: the model before unlearning, never changed.
        owners: which item of its source each row came from.
        store: where references of `d_model` numbers a token are kept; log-probabilities always fit in memory.

    Attributes:
        alternatives: the same prompts with other answers (refusals, in-domain ones), where a method needs them.
        blinded: the prompts without their KeyTokens, same answers, where a method needs them.
        reinforced: a model trained further on these examples, where a method needs one.
        weights: for each row, how much each answer token counts, where a method weighs them.
        direction: of unit norm, in the residual stream, where a method steers to one.
    """

    alternatives: Examples | None = None
    blinded: Examples | None = None
    reinforced: Any = None
    weights: list[Float[Tensor, " answer"]] | None = None
    direction: Float[Tensor, " d_model"] | None = None

    def __init__(
        self, rows: Sequence[Encoded], before: Any, owners: Sequence[int] = (), store: Store | None = None
    ) -> None:
        self.rows = list(rows)
        self.before = before
        self.owners = list(owners)
        self.store = store or Store()
        self._acts: dict[int, Sequence[Tensor]] = {}

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
    def residuals(self) -> Sequence[Float[Tensor, "answer d_model"]]:
        """Final residual of the model before at each position that predicts an answer token.

        d_model numbers a token instead of d_vocab: they are unembedded again when needed.
        """
        return self._kept(self.before, "final residual", final_residuals(self.before, self.rows))

    @cached_property
    def reinforced_residuals(self) -> Sequence[Float[Tensor, "answer d_model"]]:
        """The same of the reinforced model."""
        return self._kept(self.reinforced, "final residual", final_residuals(self.reinforced, self.rows))

    def acts(self, layer: int) -> Sequence[Float[Tensor, "answer d_model"]]:
        """Residual stream of the model before after block `layer`, at each position that predicts an answer token."""
        if layer not in self._acts:
            self._acts[layer] = self._kept(self.before, f"residual after block {layer}", self._each_act(layer))
        return self._acts[layer]

    def _each_act(self, layer: int) -> Iterator[tuple[int, Float[Tensor, "answer d_model"]]]:
        for start in range(0, len(self.rows), 32):
            view = View(self.before, self, range(start, min(start + 32, len(self.rows))))
            with torch.no_grad():
                acts = view.acts(layer)
            for i, row, values in zip(view.index, view.rows, acts, strict=True):
                yield i, values[: len(row.answer)].clone()

    def _kept(self, model: Any, what: str, found: Iterable[tuple[int, Tensor]]) -> Sequence[Tensor]:
        """References in the store; what they are of decides under which name they are found again."""
        tokens = sum(len(r.answer) for r in self.rows)
        size = tokens * model.cfg.d_model * next(iter(model.parameters())).element_size()

        def key() -> str:
            rows = [(r.ids, len(r.answer)) for r in self.rows]
            return fingerprint({"what": what, "model": model_hash(model), "rows": rows})

        return self.store.keep(found, len(self.rows), size, key)


def final_residuals(model: Any, rows: Sequence[Encoded]) -> Iterator[tuple[int, Float[Tensor, "answer d_model"]]]:
    """Each row's number and the final residual stream of `model` where its answer is predicted, without gradient."""
    for batch in length_batches([len(r.ids) - 1 for r in rows], DEFAULT_BATCH_TOKENS):
        tokens = pad_right([rows[i].ids[:-1] for i in batch], hooked.device_of(model))
        with torch.no_grad():
            resid = hooked.final_residual(model, tokens)
        for row, i in enumerate(batch):
            yield i, resid[row, len(rows[i].context) - 1 : len(rows[i].ids) - 1].clone()


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
        self.device = hooked.device_of(model)

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
        return hooked.logits_at(self.model, self.tokens, self.positions)

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
            return hooked.unembed(self.data.before, self._padded(self.data.residuals))

    @cached_property
    def blinded_logits(self) -> Float[Tensor, "batch pos d_vocab"]:
        """Next-token logits of the model before where the prompt lacks its KeyTokens."""
        assert self.data.blinded is not None
        with torch.no_grad():
            return hooked.unembed(self.data.before, self._padded(self.data.blinded.residuals))

    @cached_property
    def reinforced_logits(self) -> Float[Tensor, "batch pos d_vocab"]:
        """Next-token logits of the reinforced model."""
        with torch.no_grad():
            return hooked.unembed(self.data.reinforced, self._padded(self.data.reinforced_residuals))

    @cached_property
    def alternative(self) -> View:
        """The same prompts with the other answers."""
        assert self.data.alternatives is not None
        return View(self.model, self.data.alternatives, self.index)

    @cached_property
    def weights(self) -> Float[Tensor, "batch pos"]:
        """How much each answer token counts."""
        assert self.data.weights is not None
        return self._padded(self.data.weights)

    def acts(self, layer: int) -> Float[Tensor, "batch pos d_model"]:
        """Residual stream after block `layer`, with gradient; the blocks above are not run."""
        taken: list[Tensor] = []

        def take(resid: Tensor, hook: Any) -> None:
            taken.append(resid)

        hooks = [(f"blocks.{layer}.hook_resid_post", take)]
        self.model.run_with_hooks(self.tokens, fwd_hooks=hooks, stop_at_layer=layer + 1)
        return taken[0].gather(1, self.positions[..., None].expand(-1, -1, taken[0].shape[-1]))

    def ref_acts(self, layer: int) -> Float[Tensor, "batch pos d_model"]:
        """The same of the model before."""
        return self._padded(self.data.acts(layer))

    def _padded(self, rows: Sequence[Tensor]) -> Tensor:
        picked = [rows[i] for i in self.index]
        out = torch.zeros(*self.mask.shape, *picked[0].shape[1:], dtype=picked[0].dtype, device=self.device)
        for b, values in enumerate(picked):
            out[b, : len(values)] = values.to(self.device)
        return out
