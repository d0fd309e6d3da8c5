"""Offer what a loss may ask for about a batch: computed on first use, references cached once for each data set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unpact_lens.models import hooked
from unpact_lens.models.batches import DEFAULT_BATCH_TOKENS, length_batches, pad_right
from unpact_lens.models.checkpoint import model_hash
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.row_logits import row_logits
from unpact_lens.models.self_test import require
from unpact_lens.models.tokens import Encoded
from unpact_lens.scoring import gather_log_probs, score_rows
from unpact_lens.unlearning.checkpointing import fingerprint
from unpact_lens.unlearning.reference_cache import Store


@dataclass(frozen=True)
class SubjectTargets:
    """Hold where and along what the residual stream of each forget row is moved.

    Attributes:
        positions: Position of the subject's last token in each row.
        directions: Unit vector of each row's subject.
        centre: Mean residual over other subjects.
        scale: Mean square along the directions at the start.
    """

    positions: list[int]
    directions: Float[Tensor, "row d_model"]
    centre: Float[Tensor, " d_model"]
    scale: float


class Examples:
    """Hold a data set as token ids, with what the original model computes for it.

    Args:
        rows: Prompt and answer ids.
        before: Original model, never changed.
        owners: Index of the source item that each row came from.
        store: Storage for references of `d_model` numbers a token. Log-probabilities always fit in memory.

    Attributes:
        alternatives: The same prompts with other answers (refusals, in-domain answers), where a method needs them.
        blinded: The prompts without their KeyTokens, with the same answers, where a method needs them.
        reinforced: Model trained further on these examples, where a method needs one.
        weights: For each row, the weight of each answer token, where a method weighs them.
        direction: Unit vector in the residual stream, where a method steers to one.
        subject_targets: Where and along what the residual stream at the subject is moved, where a method does so.
    """

    alternatives: Examples | None = None
    blinded: Examples | None = None
    reinforced: HookedModel | None = None
    weights: list[Float[Tensor, " answer"]] | None = None
    direction: Float[Tensor, " d_model"] | None = None
    subject_targets: SubjectTargets | None = None

    def __init__(
        self, rows: Sequence[Encoded], before: HookedModel, owners: Sequence[int] = (), store: Store | None = None
    ) -> None:
        self.rows = list(rows)
        self.before = before
        self.owners = list(owners)
        self.store = store or Store()
        self._acts: dict[tuple[int, str], Sequence[Tensor]] = {}

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def mean_answer_length(self) -> float:
        """Return the mean number of answer tokens of an example."""
        return sum(len(r.answer) for r in self.rows) / len(self.rows)

    @cached_property
    def log_probs(self) -> list[Float[Tensor, " answer"]]:
        """Return the log-probability of each answer token under the original model, nats."""
        return score_rows(self.before, self.rows)

    @cached_property
    def residuals(self) -> Sequence[Float[Tensor, "answer d_model"]]:
        """Return the original model's final residual at each position that predicts an answer token.

        These are d_model numbers a token instead of d_vocab; they are unembedded again when needed.
        """
        return self._kept(self.before, "final residual", final_residuals(self.before, self.rows))

    @cached_property
    def reinforced_residuals(self) -> Sequence[Float[Tensor, "answer d_model"]]:
        """Return the reinforced model's final residual at the same positions."""
        assert self.reinforced is not None
        return self._kept(self.reinforced, "final residual", final_residuals(self.reinforced, self.rows))

    def acts(self, layer: int, at: str = "predicting") -> Sequence[Float[Tensor, "answer d_model"]]:
        """Return the original model's residual stream after block `layer`, at the positions of `View.acts`."""
        if (layer, at) not in self._acts:
            what = f"residual after block {layer}" + f" at {at}" * (at != "predicting")
            self._acts[layer, at] = self._kept(self.before, what, self._each_act(layer, at))
        return self._acts[layer, at]

    def _each_act(self, layer: int, at: str) -> Iterator[tuple[int, Float[Tensor, "answer d_model"]]]:
        """Yield each row's number and its activations after block `layer`."""
        for start in range(0, len(self.rows), 32):
            view = View(self.before, self, range(start, min(start + 32, len(self.rows))))
            with torch.no_grad():
                acts = view.acts(layer, at)
            for i, row, values in zip(view.index, view.rows, acts, strict=True):
                yield i, values[: len(row.answer)].clone()

    def _kept(self, model: HookedModel, what: str, found: Iterable[tuple[int, Tensor]]) -> Sequence[Tensor]:
        """Keep references in the store, under a name that identifies model, rows and kind."""
        tokens = sum(len(r.answer) for r in self.rows)
        size = tokens * model.cfg.d_model * next(iter(model.parameters())).element_size()

        def key() -> str:
            rows = [(r.ids, len(r.answer)) for r in self.rows]
            return fingerprint({"what": what, "model": model_hash(model), "rows": rows})

        return self.store.keep(found, len(self.rows), size, key)


def final_residuals(
    model: HookedModel, rows: Sequence[Encoded]
) -> Iterator[tuple[int, Float[Tensor, "answer d_model"]]]:
    """Yield each row's number and the model's final residual where its answer is predicted, without gradient."""
    require(model, "lens", feature="a loss over the whole vocabulary of a reference model")
    for batch in length_batches([len(r.ids) - 1 for r in rows], DEFAULT_BATCH_TOKENS):
        tokens = pad_right([rows[i].ids[:-1] for i in batch], hooked.device_of(model))
        with torch.no_grad():
            resid = hooked.final_residual(model, tokens)  # [row, pos, d_model]
        for row, i in enumerate(batch):
            yield i, resid[row, len(rows[i].context) - 1 : len(rows[i].ids) - 1].clone()


class View:
    """Compute one batch under the model being trained, at the positions that predict answer tokens.

    Args:
        model: Model being trained.
        data: Data set that the batch comes from.
        index: Indices of the batch's examples.
    """

    def __init__(self, model: HookedModel, data: Examples, index: Sequence[int]) -> None:
        self.model, self.data, self.index = model, data, list(index)
        self.rows = [data.rows[i] for i in index]
        self.device = hooked.device_of(model)

    @cached_property
    def labels(self) -> Int[Tensor, "batch pos"]:
        """Return answer ids, padded on the right."""
        return pad_right([r.answer for r in self.rows], self.device)

    @cached_property
    def mask(self) -> Bool[Tensor, "batch pos"]:
        """Return a mask that is True on answer tokens."""
        lengths = torch.tensor([len(r.answer) for r in self.rows], device=self.device)
        return torch.arange(self.labels.shape[1], device=self.device) < lengths[:, None]

    @cached_property
    def tokens(self) -> Int[Tensor, "batch input"]:
        """Return the input ids: all but each row's last token, padded on the right (a causal model needs no mask)."""
        return pad_right([r.ids[:-1] for r in self.rows], self.device)

    @cached_property
    def positions(self) -> Int[Tensor, "batch pos"]:
        """Return the position in `tokens` at which each answer token is predicted."""
        first = torch.tensor([len(r.context) - 1 for r in self.rows], device=self.device)
        steps = torch.arange(self.labels.shape[1], device=self.device)
        return (first[:, None] + steps).clamp(max=self.tokens.shape[1] - 1)  # [batch, pos]

    @cached_property
    def logits(self) -> Float[Tensor, "batch pos d_vocab"]:
        """Compute next-token logits, with gradient."""
        return row_logits(self.model, self.tokens, self.positions)

    @cached_property
    def log_probs(self) -> Float[Tensor, "batch pos"]:
        """Compute log p of each label, nats, with gradient."""
        return gather_log_probs(self.logits, self.labels)

    @cached_property
    def ref_log_probs(self) -> Float[Tensor, "batch pos"]:
        """Return log p of each label under the original model, nats."""
        return self._padded(self.data.log_probs)

    @cached_property
    def ref_logits(self) -> Float[Tensor, "batch pos d_vocab"]:
        """Compute the original model's next-token logits: its cached final residual, unembedded again."""
        with torch.no_grad():
            return hooked.unembed(self.data.before, self._padded(self.data.residuals))

    @cached_property
    def blinded_logits(self) -> Float[Tensor, "batch pos d_vocab"]:
        """Compute the original model's next-token logits for the prompt without its KeyTokens."""
        assert self.data.blinded is not None
        with torch.no_grad():
            return hooked.unembed(self.data.before, self._padded(self.data.blinded.residuals))

    @cached_property
    def reinforced_logits(self) -> Float[Tensor, "batch pos d_vocab"]:
        """Compute the reinforced model's next-token logits."""
        assert self.data.reinforced is not None
        with torch.no_grad():
            return hooked.unembed(self.data.reinforced, self._padded(self.data.reinforced_residuals))

    @cached_property
    def alternative(self) -> View:
        """Return the batch of the same prompts with the other answers."""
        assert self.data.alternatives is not None
        return View(self.model, self.data.alternatives, self.index)

    @cached_property
    def weights(self) -> Float[Tensor, "batch pos"]:
        """Return the weight of each answer token."""
        assert self.data.weights is not None
        return self._padded(self.data.weights)

    def acts(self, layer: int, at: str = "predicting") -> Float[Tensor, "batch pos d_model"]:
        """Compute the residual stream after block `layer`, with gradient. The blocks above are not run.

        Args:
            layer: Index of the block.
            at: `"predicting"` takes the positions that predict answer tokens, `"answer"` the answer tokens' own.
        """
        taken: list[Tensor] = []

        def take(resid: Tensor, hook: object) -> None:
            taken.append(resid)

        hooks = [(f"blocks.{layer}.hook_resid_post", take)]
        if at == "predicting":
            tokens, positions = self.tokens, self.positions
        else:
            tokens = pad_right([r.ids for r in self.rows], self.device)
            positions = (self.positions + 1).clamp(max=tokens.shape[1] - 1)  # [batch, pos]
        hooked.run_with_hooks(self.model, tokens, hooks, stop_at_layer=layer + 1)
        index = positions[..., None].expand(-1, -1, taken[0].shape[-1])  # [batch, pos, d_model]
        return taken[0].gather(1, index)

    def ref_acts(self, layer: int, at: str = "predicting") -> Float[Tensor, "batch pos d_model"]:
        """Return the original model's residual stream at the same positions."""
        return self._padded(self.data.acts(layer, at))

    def _padded(self, rows: Sequence[Tensor]) -> Tensor:
        """Stack the batch's rows to `[batch, pos, ...]`, with 0 after each answer."""
        picked = [rows[i] for i in self.index]
        out = torch.zeros(*self.mask.shape, *picked[0].shape[1:], dtype=picked[0].dtype, device=self.device)
        for b, values in enumerate(picked):
            out[b, : len(values)] = values.to(self.device)
        return out
