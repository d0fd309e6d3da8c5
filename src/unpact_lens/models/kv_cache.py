"""Keys and values of a text's beginning, computed once and shared by many continuations.

A causal model's keys and values at a position depend on what stands up to there only. So one pass over a text gives
the past of every text that begins as it does, at every length.

Where the model takes a mask for each pair of positions, continuations that share unlike lengths are *packed*: they
stand end to end in one row, each of their positions sees the past up to where its own text leaves it and what precedes
it in its own continuation, and nothing is computed but what differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache
from transformer_lens.cache.key_value_cache_entry import TransformerLensKeyValueCacheEntry

from unpact_lens.models import hooked

PACKABLE = frozenset({"gpt2", "gpt_neox", "granite", "llama", "mistral", "mixtral", "olmo2", "qwen2"})
"""Architectures that place each position by the id it is given and see no more than a mask of pairs allows."""

Piece = tuple[int, Sequence[int]]
"""How many positions of the past a continuation shares, and its tokens."""


@dataclass(frozen=True)
class Past:
    """Keys and values of one text, a pair for each layer, in the layout of the model's kind.

    Attributes:
        layers: `[1, pos, head, d_head]` for a `HookedTransformer`, `[1, head, pos, d_head]` for a bridge.
        axis: which of the axes is `pos`.
    """

    layers: tuple[tuple[Tensor, Tensor], ...]
    axis: int

    def __len__(self) -> int:
        return self.layers[0][0].shape[self.axis]

    def first(self, length: int, rows: int) -> list[tuple[Tensor, Tensor]]:
        """The first `length` positions, seen by that many rows; nothing is copied."""
        return [
            (
                keys.narrow(self.axis, 0, length).expand(rows, -1, -1, -1),
                values.narrow(self.axis, 0, length).expand(rows, -1, -1, -1),
            )
            for keys, values in self.layers
        ]


def can_share(model: Any) -> bool:
    """Whether a prefix of this model can be shared: its memory of the past is keys and values at every position.

    False for bidirectional attention, for position schemes that a cached past does not carry, for state-space or
    sliding-window layers, whose memory cannot be cut at any length, and for models that predict together.
    """
    if hooked.members_of(model):
        return False
    if hooked.is_bridge(model):
        config = model.original_model.config
        kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
        return kinds == {"full_attention"} and getattr(config, "sliding_window", None) is None
    cfg = model.cfg
    return cfg.attention_dir == "causal" and cfg.positional_embedding_type in ("standard", "rotary", "alibi")


def can_pack(model: Any) -> bool:
    """Whether continuations that share unlike lengths can stand in one row: a bridge of an architecture known to.

    False in double precision, which is for proofs: most architectures take the softmax in fp32 all the same, and its
    last digits depend on how many positions, hidden ones included, it is taken over.
    """
    if not hooked.is_bridge(model) or not can_share(model):
        return False
    known = getattr(model.original_model.config, "model_type", None) in PACKABLE
    return known and next(iter(model.parameters())).dtype != torch.float64


def pack(sizes: Sequence[int], capacity: int) -> list[list[int]]:
    """Put items into as few rows as come easily, none longer than the capacity unless by a single item.

    The longest first, each into the fullest row that has room (best fit decreasing).

    >>> pack([5, 1, 4, 2], capacity=6)
    [[0, 1], [2, 3]]
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        fitting = [r for r in range(len(rows)) if room[r] >= sizes[i]]
        if fitting:
            r = min(fitting, key=lambda r: room[r])
        else:
            r = len(rows)
            rows.append([])
            room.append(capacity)
        rows[r].append(i)
        room[r] -= sizes[i]
    return rows


def fewest_tokens(sizes: Sequence[int], past: int, d_model: int) -> list[list[int]]:
    """`pack` at the capacity that costs least.

    Rows are padded to the longest. A position costs one; its attention to the past and to its row, wanted or not,
    `(past + row) / (6 d_model)` more (two products of that length beside twelve `d_model`² weights); and a row the copy
    of the past, an eighth of a position for each of it.

    Args:
        sizes: positions of each item.
        past: positions of the past that a row can see.
        d_model: width of the model.

    >>> fewest_tokens([5, 4, 4, 4], past=10, d_model=768)
    [[0, 1, 2, 3]]
    """
    least = max(*sizes, past // 4)

    def cost(rows: list[list[int]]) -> float:
        width = max(sum(sizes[i] for i in row) for row in rows)
        return len(rows) * (width * (1 + (past + width) / (6 * d_model)) + past / 8)

    return min((pack(sizes, least * quarters // 4) for quarters in range(4, 17)), key=cost)


def logits_and_past(
    model: Any, tokens: Int[Tensor, "1 pos"], positions: Int[Tensor, "1 keep"]
) -> tuple[Float[Tensor, "1 keep d_vocab"], Past]:
    """Logits at chosen positions of one text, and its keys and values."""
    hooks = [(hooked.readout_hook(model), _keeper(positions.to(tokens.device)))]
    if hooked.is_bridge(model):
        logits, cache = hooked.run_with_hooks(
            model, tokens, return_type="logits_and_cache", fwd_hooks=hooks, past_key_values=None, use_cache=True
        )
        return logits, Past(tuple((layer.keys, layer.values) for layer in cache.layers), axis=2)
    past = TransformerLensKeyValueCache.init_cache(model.cfg, tokens.device, 1)
    logits = hooked.run_with_hooks(
        model,
        tokens,
        return_type="logits",
        fwd_hooks=hooks,
        attention_mask=torch.ones_like(tokens),
        past_kv_cache=past,
    )
    return logits, Past(tuple((e.past_keys, e.past_values) for e in past.entries), axis=1)


def logits_after(
    model: Any,
    past: Past,
    length: int,
    tokens: Int[Tensor, "batch pos"],
    positions: Int[Tensor, "batch keep"],
) -> Float[Tensor, "batch keep d_vocab"]:
    """Logits at chosen positions of texts that share the first `length` positions of a past.

    Args:
        model: the model that the past is of.
        past: what `logits_and_past` gave.
        length: how many of its positions the texts share, at least 1.
        tokens: what follows in each text; rows may be padded on the right.
        positions: columns of `tokens` whose next-token logits are wanted.
    """
    rows = len(tokens)
    hooks = [(hooked.readout_hook(model), _keeper(positions.to(tokens.device)))]
    shared = past.first(length, rows)
    if hooked.is_bridge(model):
        mask = torch.ones(rows, length + tokens.shape[1], dtype=torch.long, device=tokens.device)
        logits, _ = hooked.run_with_hooks(
            model,
            tokens,
            return_type="logits_and_cache",
            fwd_hooks=hooks,
            attention_mask=mask,
            past_key_values=_frozen_cache(shared),
            use_cache=True,
        )
        return logits
    entries = [TransformerLensKeyValueCacheEntry(keys, values, frozen=True) for keys, values in shared]
    seen = torch.ones(rows, length, dtype=torch.long, device=tokens.device)
    return hooked.run_with_hooks(
        model,
        tokens,
        return_type="logits",
        fwd_hooks=hooks,
        attention_mask=torch.ones_like(tokens),
        past_kv_cache=TransformerLensKeyValueCache(entries, seen, frozen=True),
    )


def logits_packed(
    model: Any, past: Past, rows: Sequence[Sequence[Piece]], keep: int
) -> Float[Tensor, "piece keep d_vocab"]:
    """Logits at the last positions of continuations that stand end to end in rows.

    Args:
        model: the model that the past is of, one that `can_pack`.
        past: what `logits_and_past` gave.
        rows: the continuations of each row.
        keep: of each continuation, how many positions at its end are wanted.

    Returns:
        The continuations in the order of the rows.
    """
    device = hooked.device_of(model)
    length = max(shared for row in rows for shared, _ in row)
    width = max(sum(len(new) for _, new in row) for row in rows)
    tokens = torch.zeros(len(rows), width, dtype=torch.long)
    places = torch.zeros(len(rows), width, dtype=torch.long)
    seen = torch.zeros(len(rows), 1, width, length + width, dtype=torch.bool)
    # Each position sees itself, the padding too: a row of the mask that hides everything would give NaN.
    seen[:, 0, :, length:] = torch.eye(width, dtype=torch.bool)
    wanted: list[tuple[int, int]] = []
    for r, row in enumerate(rows):
        start = 0
        for shared, new in row:
            end = start + len(new)
            tokens[r, start:end] = torch.tensor(new)
            places[r, start:end] = torch.arange(shared, shared + len(new))
            seen[r, 0, start:end, :shared] = True
            seen[r, 0, start:end, length + start : length + end] = torch.ones(len(new), len(new)).tril().bool()
            wanted += [(r, column) for column in range(end - keep, end)]
            start = end
    dtype = past.layers[0][0].dtype
    mask = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)
    which, columns = torch.tensor(wanted, device=device).T

    def read(resid: Float[Tensor, "batch pos d_model"], hook: Any) -> Float[Tensor, "1 kept d_model"]:
        return resid[which, columns][None]

    logits, _ = hooked.run_with_hooks(
        model,
        tokens.to(device),
        return_type="logits_and_cache",
        fwd_hooks=[(hooked.readout_hook(model), read)],
        attention_mask=mask.to(device),
        position_ids=places.to(device),
        past_key_values=_frozen_cache(past.first(length, len(rows))),
        use_cache=True,
    )
    return logits.reshape(-1, keep, logits.shape[-1])


def _frozen_cache(layers: list[tuple[Tensor, Tensor]]) -> Any:
    """A cache that hands the past to each layer and keeps nothing new, so that no layer's copy outlives its use."""
    from transformers.cache_utils import Cache, DynamicLayer

    class Frozen(DynamicLayer):
        def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
            return torch.cat([self.keys, key_states], dim=-2), torch.cat([self.values, value_states], dim=-2)

    def layer(keys: Tensor, values: Tensor) -> Frozen:
        frozen = Frozen()
        frozen.lazy_initialization(keys, values)
        frozen.keys, frozen.values = keys, values
        return frozen

    return Cache(layers=[layer(*pair) for pair in layers])


def _keeper(index: Int[Tensor, "batch keep"]) -> Any:
    def keep(resid: Float[Tensor, "batch pos d_model"], hook: Any) -> Float[Tensor, "batch keep d_model"]:
        return resid.gather(1, index[..., None].expand(-1, -1, resid.shape[-1]))

    return keep
