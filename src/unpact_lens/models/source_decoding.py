"""Decode a batch of texts on the source model of a bridge, with keys and values in one preallocated block a layer.

The contexts are read as a tree of tokens, so that nothing is padded and a common beginning is read once. Each further
step reads one token for each row and writes its keys and values into the next free column of its row.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from unpact_lens.models.decoding import cache_difference, full_precision
from unpact_lens.models.exclusive import exclusive
from unpact_lens.models.hooked import HookedModel, Hooks
from unpact_lens.models.source_model import SourceModel, run, source_model, unembedded
from unpact_lens.models.token_tree import TokenTree, TreeAttention, attend_in_groups, hiding_mask

EXACT = "_unpact_source_decoding_is_exact"
"""Attribute in which a bridge keeps whether decoding on its source model is exact, for itself and its copies."""


def decoding_source(model: HookedModel) -> SourceModel | None:
    """Return the source model of a bridge if decoding on it gives the logits of the whole text, or None.

    Args:
        model: Hooked model, within `torch.inference_mode`.
    """
    source = source_model(model)
    if source is None:
        return None
    if EXACT not in vars(model):
        with full_precision():
            found = cache_difference(model, lambda model, contexts, new: SourceBatch(model, source, contexts, new))
        vars(model)[EXACT] = found is not None
    return source if vars(model)[EXACT] else None


class SourceBatch:
    """Hold a batch of texts with their keys and values.

    Args:
        model: Bridge.
        source: Its source model.
        contexts: Ids of each context.
        new: Largest number of ids to generate.
    """

    def __init__(self, model: HookedModel, source: SourceModel, contexts: Sequence[Sequence[int]], new: int) -> None:
        self.model, self.source, self.contexts = model, source, contexts
        self.device = source.hf.get_input_embeddings().weight.device
        self.lengths = torch.tensor([len(c) for c in contexts], device=self.device)  # [row]
        self.longest = max(len(c) for c in contexts)  # columns in use
        self.room = self.longest + new
        self.blocks: dict[nn.Module, tuple[Tensor, Tensor]] = {}  # keys and values, [row, kv_head, room, d]
        self.masks: dict[int | None, Tensor] = {}

    def read(self, new: Int[Tensor, " batch"] | None, hooks: Hooks = ()) -> Float[Tensor, "batch d_vocab"]:
        """Read the contexts or one new token for each row, and return the logits of each row's next token.

        Args:
            new: Last token of each row; None for the contexts.
            hooks: None; a batch with hooks is decoded on the hooked model.
        """
        assert not hooks, "the source model runs without hooks"
        with exclusive(self.model):
            return self._contexts() if new is None else self._step(new)

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Drop all other rows."""
        self.lengths = self.lengths[rows]
        self.blocks = {layer: (keys[rows], values[rows]) for layer, (keys, values) in self.blocks.items()}

    def _contexts(self) -> Float[Tensor, "batch d_vocab"]:
        """Read the contexts, and keep their keys and values."""
        tree = TokenTree()
        paths = [tree.add(context) for context in self.contexts]
        # Columns beyond a shorter context hold copies of its last one. Masks hide them until a token overwrites them.
        padded = [[*p, *[p[-1]] * (self.longest - len(p))] for p in paths]
        columns = torch.tensor(padded, device=self.device)  # [row, pos]
        inside = TreeAttention(tree, self.source.hf.config.get_text_config().hidden_size, self.device)

        def attention(layer: nn.Module, query: Tensor, key: Tensor, value: Tensor, *how: object) -> Tensor:
            self.blocks[layer] = (self._block(key, columns), self._block(value, columns))
            return inside(query, key, value, *how)  # type: ignore[arg-type]

        ids = torch.tensor([tree.tokens], device=self.device)
        places = torch.tensor([tree.places], device=self.device)
        normed = run(self.source, attention, ids, places)[0]  # [column, d_model]
        return unembedded(self.source, normed[columns[:, -1]])

    def _block(self, values: Float[Tensor, "1 kv_head column d"], columns: Int[Tensor, "row pos"]) -> Tensor:
        """Copy the vectors of each row's columns into a block with room for new tokens."""
        _, heads, _, width = values.shape
        block = values.new_empty(len(columns), heads, self.room, width)
        found = values[0].index_select(1, columns.flatten()).unflatten(1, columns.shape)  # [kv_head, row, pos, d]
        block[:, :, : self.longest] = found.transpose(0, 1)
        block[:, :, self.longest :] = 0  # never seen, but 0 * NaN would be NaN
        return block

    def _step(self, new: Int[Tensor, " batch"]) -> Float[Tensor, "batch d_vocab"]:
        """Read one new token for each row."""
        self.masks = {}
        seen = min(self.room, self.longest + 1)
        rows = torch.arange(len(new), device=self.device)

        def attention(
            layer: nn.Module,
            query: Float[Tensor, "row head 1 d"],
            key: Float[Tensor, "row kv_head 1 d"],
            value: Float[Tensor, "row kv_head 1 d"],
            scaling: float | None,
            window: int | None,
            softcap: float | None,
        ) -> Float[Tensor, "row 1 head d"]:
            keys, values = self.blocks[layer]
            keys[rows, :, self.lengths] = key[:, :, 0]
            values[rows, :, self.lengths] = value[:, :, 0]
            mask = self._mask(seen, window, query.dtype)
            kept = keys[:, :, :seen], values[:, :, :seen]
            out = attend_in_groups(query, *kept, mask, causal=False, scaling=scaling, softcap=softcap)
            return out.transpose(1, 2)

        normed = run(self.source, attention, new[:, None], self.lengths[:, None])[:, 0]  # [row, d_model]
        self.lengths = self.lengths + 1
        self.longest = seen
        return unembedded(self.source, normed)

    def _mask(self, seen: int, window: int | None, dtype: torch.dtype) -> Float[Tensor, "row 1 1 column"]:
        """Return what is added to the scores of the columns of each row."""
        if window not in self.masks:
            distance = self.lengths[:, None] - torch.arange(seen, device=self.device)  # [row, column]
            self.masks[window] = hiding_mask(distance[:, None, None], window, dtype)
        return self.masks[window]
