"""Lay texts out as a tree of tokens, so that one forward pass computes every distinct beginning once.

Texts are inserted one after the other. Each adds a *segment*: the tokens after the longest beginning that an earlier
text has. All segments are laid end to end in one row without padding. A token sees its own segment up to itself and
the path before the segment. For a causal model, the vectors at a token are those of each text that contains it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

LAUNCH_FLOPS = {"cpu": 2e6, "cuda": 2e9}
"""Cost of one attention call, in floating-point operations that the device does in the same time."""


@dataclass(frozen=True)
class Segment:
    """Hold consecutive tokens of a tree.

    Attributes:
        path: Columns of the tokens before the segment, from the first token of the text on.
        start: Column of the segment's first token.
        end: Column after its last token.
    """

    path: tuple[int, ...]
    start: int
    end: int

    @property
    def queries(self) -> int:
        """Number of tokens of the segment."""
        return self.end - self.start

    @property
    def keys(self) -> int:
        """Number of tokens that the last token of the segment sees."""
        return len(self.path) + self.queries


@dataclass
class TokenTree:
    """Hold texts that share their beginnings.

    Attributes:
        tokens: Id of each column.
        places: Position of each column in its text.
        segments: Segments in the order of their columns.

    >>> tree = TokenTree()
    >>> tree.add([5, 6, 7]), tree.add([5, 6, 8]), tree.tokens
    ((0, 1, 2), (0, 1, 3), [5, 6, 7, 8])
    """

    tokens: list[int] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    _next: list[dict[int, int]] = field(default_factory=lambda: [{}])

    def known(self, ids: Sequence[int]) -> list[int]:
        """Return the columns of the longest beginning of a text that is in the tree."""
        path: list[int] = []
        for token in ids:
            column = self._next[path[-1] + 1 if path else 0].get(token)
            if column is None:
                break
            path.append(column)
        return path

    def add(self, ids: Sequence[int]) -> tuple[int, ...]:
        """Insert a text and return the column of each of its tokens."""
        path = self.known(ids)
        if len(path) == len(ids):
            return tuple(path)
        start, shared = len(self.tokens), tuple(path)
        for place in range(len(shared), len(ids)):
            column = len(self.tokens)
            self._next[path[-1] + 1 if path else 0][ids[place]] = column
            self._next.append({})
            self.tokens.append(ids[place])
            self.places.append(place)
            path.append(column)
        self.segments.append(Segment(shared, start, len(self.tokens)))
        return tuple(path)


@dataclass(frozen=True)
class Group:
    """Hold segments whose attention is computed in one call, padded to the longest.

    Attributes:
        queries: Column of each query; padding repeats the segment's first column.
        keys: Column of each key, path first; padding repeats the segment's first column.
        outputs: For each query, whether it is none of the padding.
        seen: For each key, whether it is none of the padding.
        whole: Whether every segment is a whole text, so that attention is plainly causal.
    """

    queries: Int[Tensor, "segment query"]
    keys: Int[Tensor, "segment key"]
    outputs: Bool[Tensor, "segment query"]
    seen: Bool[Tensor, "segment key"]
    whole: bool


def grouped(segments: Sequence[Segment], d_model: int, device: torch.device) -> list[list[Segment]]:
    """Collect segments in groups with little padding, at the least estimated cost.

    A group costs its padded products of queries and keys, and `LAUNCH_FLOPS` for its call.

    Args:
        segments: Segments of a tree.
        d_model: Width of the model.
        device: Device of the computation.
    """
    launch = LAUNCH_FLOPS.get(device.type, LAUNCH_FLOPS["cuda"]) / (4 * d_model)  # in products of a query and a key
    groups: list[list[Segment]] = []
    for whole in (True, False):
        own = sorted((s for s in segments if (not s.path) == whole), key=lambda s: (-s.queries, -s.keys))
        queries = keys = 0
        for segment in own:
            size = 0 if not groups or (not groups[-1][0].path) != whole else len(groups[-1])
            wider = max(keys, segment.keys)
            if size and (size + 1) * queries * wider - size * queries * keys <= segment.queries * segment.keys + launch:
                groups[-1].append(segment)
                keys = wider
            else:
                groups.append([segment])
                queries, keys = segment.queries, segment.keys
    return groups


def laid_out(segments: Sequence[Segment]) -> Group:
    """Return the index tensors of one group, on the CPU."""
    width, depth = max(s.queries for s in segments), max(s.keys for s in segments)
    queries = torch.zeros(len(segments), width, dtype=torch.long)
    keys = torch.zeros(len(segments), depth, dtype=torch.long)
    real = torch.zeros(len(segments), width, dtype=torch.bool)
    seen = torch.zeros(len(segments), depth, dtype=torch.bool)
    for i, s in enumerate(segments):
        queries[i] = s.start
        queries[i, : s.queries] = torch.arange(s.start, s.end)
        keys[i] = s.start
        keys[i, : s.keys] = torch.tensor([*s.path, *range(s.start, s.end)])
        real[i, : s.queries] = True
        seen[i, : s.keys] = True
    return Group(queries, keys, real, seen, whole=not any(s.path for s in segments))


class TreeAttention:
    """Compute attention over a tree of tokens; one object serves all layers of one forward pass.

    Args:
        tree: Texts of the forward pass.
        d_model: Width of the model.
        device: Device of the computation.
    """

    def __init__(self, tree: TokenTree, d_model: int, device: torch.device) -> None:
        groups = [laid_out(g) for g in grouped(tree.segments, d_model, device)]
        columns = torch.cat([g.queries.flatten()[g.outputs.flatten()] for g in groups])
        kept = torch.cat([g.outputs.flatten() for g in groups]).nonzero()[:, 0]
        order = torch.empty(len(columns), dtype=torch.long)
        order[columns] = kept  # where the output of each column is among the outputs of all groups
        self.order = order.to(device)
        self.places = torch.tensor(tree.places, device=device)
        self.groups = [
            Group(g.queries.to(device), g.keys.to(device), g.outputs, g.seen.to(device), g.whole) for g in groups
        ]
        self.masks: dict[tuple[int, int | None, torch.dtype], Tensor] = {}
        self.windows: list[int | None] = []

    def __call__(
        self,
        query: Float[Tensor, "1 head pos d"],
        key: Float[Tensor, "1 kv_head pos d"],
        value: Float[Tensor, "1 kv_head pos d_v"],
        scaling: float | None,
        window: int | None,
        softcap: float | None,
    ) -> Float[Tensor, "1 pos head d_v"]:
        """Return the outputs of all heads at all columns."""
        self.windows.append(window)
        # Laid out by position once, because each selection would copy all positions otherwise.
        query, key, value = (values[0].transpose(0, 1).contiguous() for values in (query, key, value))
        outputs = []
        for i, group in enumerate(self.groups):
            q = _gathered(query, group.queries)  # [segment, head, query, d]
            k, v = _gathered(key, group.keys), _gathered(value, group.keys)  # [segment, kv_head, key, d]
            longest = group.keys.shape[1]
            causal = group.whole and not softcap and (window is None or longest <= window)
            mask = None if causal else self._mask(i, window, q.dtype)
            out = attend_in_groups(q, k, v, mask, causal=causal, scaling=scaling, softcap=softcap)
            outputs.append(out.transpose(1, 2).flatten(0, 1))  # [segment, head, query, d] -> [segment * query, head, d]
        return torch.cat(outputs).index_select(0, self.order)[None]

    def _mask(self, group: int, window: int | None, dtype: torch.dtype) -> Float[Tensor, "segment 1 query key"]:
        """Return what is added to the scores of a group: 0, or the smallest number where a key is hidden."""
        found = self.masks.get((group, window, dtype))
        if found is None:
            part = self.groups[group]
            distance = self.places[part.queries][:, :, None] - self.places[part.keys][:, None, :]
            # Hidden is what comes after the query in the text, padding, and what is beyond the window. A padded query
            # sees the segment's first token.
            found = hiding_mask(distance, window, dtype, ~part.seen[:, None, :])[:, None]
            self.masks[group, window, dtype] = found
        return found


def hiding_mask(
    distance: Int[Tensor, "*batch query key"],
    window: int | None,
    dtype: torch.dtype,
    padding: Bool[Tensor, "*batch #query key"] | None = None,
) -> Float[Tensor, "*batch query key"]:
    """Return what is added to the scores of attention: 0, or the smallest number where a key is hidden.

    Args:
        distance: Position of each query minus that of each key; keys after the query are hidden.
        window: Sliding window; keys at this distance or more are hidden.
        dtype: Type of the scores.
        padding: Further keys to hide.
    """
    hidden = distance < 0
    if window is not None:
        hidden |= distance >= window
    if padding is not None:
        hidden = hidden | padding
    mask = torch.zeros(hidden.shape, dtype=dtype, device=distance.device)
    return mask.masked_fill_(hidden, torch.finfo(dtype).min)


def attend_in_groups(
    q: Float[Tensor, "batch head query d"],
    k: Float[Tensor, "batch kv_head key d"],
    v: Float[Tensor, "batch kv_head key d_v"],
    mask: Float[Tensor, "batch 1 query key"] | None,
    *,
    causal: bool,
    scaling: float | None,
    softcap: float | None,
) -> Float[Tensor, "batch head query d_v"]:
    """Compute softmax attention where several heads read the same keys and values.

    With a mask, the queries of these heads count as queries of one head, and nothing is repeated. After a long shared
    prefix, repeated keys and values would be most of the memory that attention reads.
    """
    heads, kv_heads, length = q.shape[1], k.shape[1], q.shape[2]
    if heads == kv_heads:
        return attend(q, k, v, mask, causal=causal, scaling=scaling, softcap=softcap)
    repeats = heads // kv_heads
    if mask is None:
        k, v = k.repeat_interleave(repeats, dim=1), v.repeat_interleave(repeats, dim=1)
        return attend(q, k, v, mask, causal=causal, scaling=scaling, softcap=softcap)
    grouped = q.reshape(len(q), kv_heads, repeats * length, q.shape[-1])  # head h reads kv_head h // repeats
    mask = mask if length == 1 else mask.repeat(1, 1, repeats, 1)
    out = attend(grouped, k, v, mask, causal=causal, scaling=scaling, softcap=softcap)
    return out.reshape(len(q), heads, length, -1)


def attend(
    q: Float[Tensor, "batch head query d"],
    k: Float[Tensor, "batch head key d"],
    v: Float[Tensor, "batch head key d_v"],
    mask: Float[Tensor, "batch 1 query key"] | None,
    *,
    causal: bool,
    scaling: float | None,
    softcap: float | None,
) -> Float[Tensor, "batch head query d_v"]:
    """Compute softmax attention, by PyTorch's fused kernel where there is no soft-cap."""
    if not softcap:
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, scale=scaling)
    scale = q.shape[-1] ** -0.5 if scaling is None else scaling
    scores = softcap * torch.tanh(q @ k.transpose(-1, -2) * scale / softcap)
    if mask is not None:
        scores = scores + mask
    return scores.softmax(-1, dtype=torch.float32).to(q.dtype) @ v


def _gathered(values: Float[Tensor, "pos head d"], columns: Int[Tensor, "segment part"]) -> Tensor:
    """Return the vectors at the columns of each segment: `[segment, head, part, d]`."""
    return values.index_select(0, columns.flatten()).unflatten(0, columns.shape).transpose(1, 2)
