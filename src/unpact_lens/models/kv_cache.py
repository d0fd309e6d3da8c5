"""Share the keys and values of a common prefix among many continuations.

In a causal model, keys and values at a position depend only on the tokens up to that position. One forward pass over a
text therefore gives the past of every text with the same beginning, at every length.

If the model takes a mask for each pair of positions, continuations that share prefixes of different lengths are
*packed* end to end in one row. A position sees the past up to the end of its own prefix, and the earlier tokens of its
own continuation. Only tokens that differ are computed.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache
from transformer_lens.cache.key_value_cache_entry import TransformerLensKeyValueCacheEntry
from transformers.cache_utils import Cache, DynamicLayer

from unpact_lens.models import hooked
from unpact_lens.models.decoding import decodes_with_cache
from unpact_lens.models.hooked import HookedModel, HookFunction

PACKABLE = frozenset({"gpt2", "gpt_neox", "granite", "llama", "mistral", "mixtral", "olmo2", "qwen2"})
"""Architectures that use the given position ids and a mask for each pair of positions."""

Piece = tuple[int, Sequence[int]]
"""Number of past positions that a continuation shares, and its tokens."""


@dataclass(frozen=True)
class Past:
    """Hold the keys and values of one text.

    Attributes:
        layers: Keys and values of each layer: `[1, pos, head, d_head]` for a `HookedTransformer`,
            `[1, head, pos, d_head]` for a bridge.
        axis: Index of the axis `pos`.
    """

    layers: tuple[tuple[Tensor, Tensor], ...]
    axis: int

    def __len__(self) -> int:
        return self.layers[0][0].shape[self.axis]

    def first(self, length: int, rows: int) -> list[tuple[Tensor, Tensor]]:
        """Return a view of the first `length` positions for a batch of `rows` rows; nothing is copied."""
        return [
            (
                keys.narrow(self.axis, 0, length).expand(rows, -1, -1, -1),
                values.narrow(self.axis, 0, length).expand(rows, -1, -1, -1),
            )
            for keys, values in self.layers
        ]


def can_share(model: HookedModel) -> bool:
    """Return whether continuations can share the keys and values of a prefix in this model.

    False for ensembles, bidirectional attention, position schemes that a cached past does not support, state-space
    or sliding-window layers, whose cache cannot be cut at any length, and models whose cache does not work.
    """
    if hooked.members_of(model):
        return False
    if hooked.is_bridge(model):
        if not decodes_with_cache(model):
            return False
        config = model.original_model.config.get_text_config()
        kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
        return kinds == {"full_attention"} and getattr(config, "sliding_window", None) is None
    cfg = model.cfg
    return cfg.attention_dir == "causal" and cfg.positional_embedding_type in ("standard", "rotary", "alibi")


def can_pack(model: HookedModel) -> bool:
    """Return whether continuations that share prefixes of different lengths can be packed in one row.

    True for bridges of the architectures in `PACKABLE`. False in double precision, which is for exact tests: most
    architectures compute the softmax in fp32, and its last digits depend on the number of masked positions.
    """
    if not hooked.is_bridge(model) or not can_share(model):
        return False
    known = getattr(model.original_model.config, "model_type", None) in PACKABLE
    return known and next(iter(model.parameters())).dtype != torch.float64


def pack(sizes: Sequence[int], capacity: int) -> list[list[int]]:
    """Distribute items over few rows by best fit decreasing.

    The longest item comes first. Each goes into the fullest row that has room. Only a row with a single item may exceed
    the capacity.

    Args:
        sizes: Number of positions of each item.
        capacity: Number of positions in a row.

    Returns:
        The indices of the items in each row.

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
    """Distribute items over rows as `pack` does, at the capacity with the lowest estimated cost.

    Rows are padded to the longest. The unit of cost is one position without attention:

    - a position costs 1, plus `(past + row) / (6 d_model)` for its attention to the past and its row, masked positions
      included (two products of that length, compared with twelve `d_model`² weights);
    - a row costs `past / 8` for its copy of the past.

    Args:
        sizes: Number of positions of each item.
        past: Number of past positions that a row can see.
        d_model: Width of the model.

    Returns:
        The indices of the items in each row.

    >>> fewest_tokens([5, 4, 4, 4], past=10, d_model=768)
    [[0, 1, 2, 3]]
    """
    least = max(*sizes, past // 4)

    def cost(rows: list[list[int]]) -> float:
        width = max(sum(sizes[i] for i in row) for row in rows)
        return len(rows) * (width * (1 + (past + width) / (6 * d_model)) + past / 8)

    return min((pack(sizes, least * quarters // 4) for quarters in range(4, 17)), key=cost)


def logits_and_past(
    model: HookedModel, tokens: Int[Tensor, "1 pos"], positions: Int[Tensor, "1 keep"]
) -> tuple[Float[Tensor, "1 keep d_vocab"], Past]:
    """Compute next-token logits at chosen positions of one text, and its keys and values."""
    positions = positions.to(tokens.device)
    if hooked.is_bridge(model):
        hooks = [(hooked.readout_hook(model), _keeper(positions))]
        logits, cache = hooked.run_with_hooks(
            model, tokens, return_type="logits_and_cache", fwd_hooks=hooks, past_key_values=None, use_cache=True
        )
        return logits, Past(tuple((layer.keys, layer.values) for layer in cache.layers), axis=2)
    past = TransformerLensKeyValueCache.init_cache(model.cfg, tokens.device, 1)
    keep = functools.partial(hooked.take_positions, index=positions)
    logits = hooked.read_out_at(model, tokens, keep, attention_mask=torch.ones_like(tokens), past_kv_cache=past)
    return logits, Past(tuple((e.past_keys, e.past_values) for e in past.entries), axis=1)


def logits_after(
    model: HookedModel,
    past: Past,
    length: int,
    tokens: Int[Tensor, "batch pos"],
    positions: Int[Tensor, "batch keep"],
) -> Float[Tensor, "batch keep d_vocab"]:
    """Compute next-token logits of texts that share the first `length` positions of a past.

    Args:
        model: Model that computed the past.
        past: Keys and values from `logits_and_past`.
        length: Number of shared positions, at least 1.
        tokens: Remaining tokens of each text; rows may be padded on the right.
        positions: Columns of `tokens` whose next-token logits are wanted.
    """
    rows = len(tokens)
    positions = positions.to(tokens.device)
    shared = past.first(length, rows)  # pairs of [row, shared, head, d_head], or [row, head, shared, d_head]
    if hooked.is_bridge(model):
        mask = torch.ones(rows, length + tokens.shape[1], dtype=torch.long, device=tokens.device)  # [row, shared + pos]
        logits, _ = hooked.run_with_hooks(
            model,
            tokens,
            return_type="logits_and_cache",
            fwd_hooks=[(hooked.readout_hook(model), _keeper(positions))],
            attention_mask=mask,
            past_key_values=_frozen_cache(shared),
            use_cache=True,
        )
        return logits
    entries = [TransformerLensKeyValueCacheEntry(keys, values, frozen=True) for keys, values in shared]
    seen = torch.ones(rows, length, dtype=torch.long, device=tokens.device)
    return hooked.read_out_at(
        model,
        tokens,
        functools.partial(hooked.take_positions, index=positions),
        attention_mask=torch.ones_like(tokens),
        past_kv_cache=TransformerLensKeyValueCache(entries, seen, frozen=True),
    )


def logits_packed(
    model: HookedModel, past: Past, rows: Sequence[Sequence[Piece]], keep: int
) -> Float[Tensor, "piece keep d_vocab"]:
    """Compute next-token logits at the last positions of packed continuations.

    Args:
        model: Model that computed the past; `can_pack(model)` is True.
        past: Keys and values from `logits_and_past`.
        rows: Continuations of each row.
        keep: Number of positions at the end of each continuation whose logits are wanted.

    Returns:
        The logits of all continuations, row by row.
    """
    device = hooked.device_of(model)
    length = max(shared for row in rows for shared, _ in row)
    width = max(sum(len(new) for _, new in row) for row in rows)
    tokens = torch.zeros(len(rows), width, dtype=torch.long)  # [row, pos]
    places = torch.zeros(len(rows), width, dtype=torch.long)  # [row, pos]: position ids in the continuation's own text
    seen = torch.zeros(len(rows), 1, width, length + width, dtype=torch.bool)  # [row, 1, query, past + key]
    # Every position sees itself, padding included: a mask row that hides everything would give NaN.
    seen[:, 0, :, length:] = torch.eye(width, dtype=torch.bool)
    wanted: list[tuple[int, int]] = []  # row and column of each wanted position
    for r, row in enumerate(rows):
        start = 0
        for shared, new in row:
            end = start + len(new)
            tokens[r, start:end] = torch.tensor(new)
            places[r, start:end] = torch.arange(shared, shared + len(new))
            seen[r, 0, start:end, :shared] = True  # the past, up to the end of the shared prefix
            seen[r, 0, start:end, length + start : length + end] = (
                torch.ones(len(new), len(new)).tril().bool()
            )  # causal
            wanted += [(r, column) for column in range(end - keep, end)]
            start = end
    dtype = past.layers[0][0].dtype
    mask = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)
    which, columns = torch.tensor(wanted, device=device).T  # [piece * keep] each

    def read(resid: Float[Tensor, "batch pos d_model"], hook: object) -> Float[Tensor, "1 kept d_model"]:
        return resid[which, columns][None]  # [row, pos, d_model] -> [1, piece * keep, d_model]

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
    return logits.reshape(-1, keep, logits.shape[-1])  # [1, piece * keep, d_vocab] -> [piece, keep, d_vocab]


class FrozenLayer(DynamicLayer):
    """Hand the past to a layer and store nothing new, so that no layer's copy outlives its use."""

    def __init__(self, keys: Float[Tensor, "row head pos d"], values: Float[Tensor, "row head pos d"]) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Return past and new keys and values; `[row, head, past + pos, d_head]` each."""
        return torch.cat([self.keys, key_states], dim=-2), torch.cat([self.values, value_states], dim=-2)


def _frozen_cache(layers: list[tuple[Tensor, Tensor]]) -> Cache:
    return Cache(layers=[FrozenLayer(keys, values) for keys, values in layers])


def _keeper(index: Int[Tensor, "batch keep"]) -> HookFunction:
    """Return a hook that keeps each row's own positions of the residual stream."""

    def keep(resid: Float[Tensor, "batch pos d_model"], hook: object) -> Float[Tensor, "batch keep d_model"]:
        return hooked.take_positions(resid, index)

    return keep
