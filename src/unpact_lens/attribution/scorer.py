"""The fastest exact way to score a prompt and many variants of it.

Algorithm, for one *family* (a prompt with its answer, and texts that differ from it in some place):

1. Run the whole prompt once, keeping keys and values at every position.
2. A variant shares the positions before its first difference. Where the model takes a mask of pairs (bridges), what
   remains of the variants stands end to end in rows, so that exactly what differs is computed. Else sort the variants
   by how many positions they share and cut them into chunks; each chunk starts from the keys and values that all its
   members share, and computes the rest only.
3. Unembed at the answer's positions only.

The cut is the one of least cost: every computed token costs one, every forward pass `LAUNCH_TOKENS` more. Families too
small to gain are scored without sharing, in batches that mix examples. Nothing is approximated: the numbers are those
of one unbatched forward pass each, to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
import torch
from torch import Tensor

from unpact_lens.attribution.targets import PLAIN, Target
from unpact_lens.errors import InputError
from unpact_lens.models import hooked, kv_cache
from unpact_lens.models.hooked import Hooks
from unpact_lens.models.tokens import Encoded, length_batches, pad_right

LAUNCH_TOKENS = 24
"""What starting a forward pass costs, in computed tokens."""

MAX_BATCH_TOKENS = 8192
"""Larger batches gain nothing."""

Family = Sequence[Encoded]
"""A prompt with its answer, first, and its variants."""

Score = Callable[[Sequence[Family]], list[list[Tensor]]]
"""What removal methods need of a model: the target's values for each answer token, for each row of each family."""


@dataclass
class Scorer:
    """Scores families of rows with a hooked model.

    Attributes:
        model: a hooked causal model in eval mode.
        target: what is measured; log-probability unless said otherwise.
        batch_tokens: bound on the input tokens of one forward pass; None takes it from free memory. Halved when memory
            runs out, in which case the new value stands here afterwards.
        share_prefix: False computes every row in full.
    """

    model: Any
    target: Target = field(default_factory=lambda: PLAIN["log_prob"])
    batch_tokens: int | None = None
    share_prefix: bool = True
    whole: dict[Encoded, Tensor] = field(default_factory=dict)
    """Values of the whole prompts scored so far."""

    def __post_init__(self) -> None:
        check_runnable(self.model)
        if self.batch_tokens is not None and self.batch_tokens < 1:
            raise InputError(f"batch_tokens={self.batch_tokens}; give a positive number of tokens")

    @property
    def settings(self) -> dict[str, Any]:
        """What was in force."""
        return {"batch_tokens": self.batch_tokens, "threads": torch.get_num_threads()}

    def __call__(self, families: Sequence[Family]) -> list[list[Tensor]]:
        """Values of the target, on the CPU, `[answer]` (or `[1]`) for each row of each family.

        Equal rows of a family are computed once.
        """
        self.settle([r for f in families for r in f])
        with explained(self.model):
            return self._score(families)

    def _score(self, families: Sequence[Family]) -> list[list[Tensor]]:
        unique = [list(dict.fromkeys(f)) for f in families]
        found: list[dict[Encoded, Tensor]] = [{} for _ in families]
        with torch.inference_mode():
            alone: list[tuple[int, Encoded]] = []
            for f, rows in enumerate(unique):
                if self._packs(rows):
                    found[f] = self._packed(rows[0], rows[1:])
                    continue
                chunks = self._plan(rows)
                if chunks is None:
                    alone += [(f, row) for row in rows]
                else:
                    found[f] = self._shared(rows[0], chunks)
            for (f, row), values in zip(alone, self._flat([row for _, row in alone]), strict=True):
                found[f][row] = values
        self.whole.update((family[0], found[f][family[0]]) for f, family in enumerate(families))
        return [[found[f][row] for row in family] for f, family in enumerate(families)]

    def settle(self, rows: Sequence[Encoded], passes: int = 1) -> None:
        """Pick `batch_tokens` from free memory, if it was left open.

        Args:
            rows: what will be scored.
            passes: how many times the memory of a plain forward pass each token takes.
        """
        if self.batch_tokens is None:
            self.batch_tokens = max(256, budget(self.model, rows) // passes)

    def _plan(self, rows: list[Encoded]) -> list[tuple[int, list[Encoded]]] | None:
        """Chunks of variants with the number of positions they share, or None where sharing gains nothing."""
        if not self.share_prefix or len(rows) < 3 or not kv_cache.can_share(self.model):
            return None
        whole, variants = rows[0], rows[1:]
        chunks, cost = cut([shared_positions(whole, v) for v in variants], [len(v.ids) - 1 for v in variants])
        flat = sum(len(r.ids) - 1 for r in rows)
        if cost + len(whole.ids) + LAUNCH_TOKENS >= flat:
            return None
        return [(length, [variants[i] for i in members]) for length, members in chunks]

    def _packs(self, rows: list[Encoded]) -> bool:
        """Whether to score a family from one past, with what remains of its variants end to end in rows."""
        if not self.share_prefix or len(rows) < 3 or not kv_cache.can_pack(self.model):
            return False
        whole, variants = rows[0], rows[1:]
        # One readout for all: answers of unlike lengths go by chunks.
        if len({len(r.answer) for r in rows}) > 1:
            return False
        saved = sum(shared_positions(whole, v) for v in variants)
        return saved > LAUNCH_TOKENS

    def _packed(self, whole: Encoded, variants: list[Encoded]) -> dict[Encoded, Tensor]:
        tokens, positions = _inputs([whole], 0, hooked.device_of(self.model))
        logits, past = kv_cache.logits_and_past(self.model, tokens, positions)
        found = {whole: self._values(logits, [whole])[0]}
        pieces = [(shared := shared_positions(whole, v), v.ids[shared:-1]) for v in variants]
        sizes = [len(new) for _, new in pieces]
        rows = kv_cache.fewest_tokens(sizes, len(past), self.model.cfg.d_model)

        def run(part: list[int]) -> list[dict[Encoded, Tensor]]:
            chosen = [[pieces[i] for i in rows[r]] for r in part]
            members = [variants[i] for r in part for i in rows[r]]
            values = self._values(kv_cache.logits_packed(self.model, past, chosen, len(whole.answer)), members)
            values.reverse()
            return [{variants[i]: values.pop() for i in rows[r]} for r in part]

        # As in `_shared`, the copy of the past takes some memory.
        taken = [sum(sizes[i] for i in row) + len(past) // 4 for row in rows]
        for values_of_row in self.in_batches(taken, run):
            found.update(values_of_row)
        return found

    def _shared(self, whole: Encoded, chunks: list[tuple[int, list[Encoded]]]) -> dict[Encoded, Tensor]:
        device = hooked.device_of(self.model)
        tokens, positions = _inputs([whole], 0, device)
        logits, past = kv_cache.logits_and_past(self.model, tokens, positions)
        found = {whole: self._values(logits, [whole])[0]}
        for length, rows in chunks:

            def run(part: list[int], rows: list[Encoded] = rows, length: int = length) -> list[Tensor]:
                chosen = [rows[i] for i in part]
                tokens, positions = _inputs(chosen, length, device)
                if not length:
                    return self._values(hooked.logits_at(self.model, tokens, positions), chosen)
                return self._values(kv_cache.logits_after(self.model, past, length, tokens, positions), chosen)

            # A shared position costs no computation, but its copy of keys and values some memory.
            sizes = [len(r.ids) - 1 - length + length // 4 for r in rows]
            found.update(zip(rows, self.in_batches(sizes, run), strict=True))
        return found

    def _flat(self, rows: list[Encoded]) -> list[Tensor]:
        device = hooked.device_of(self.model)

        def run(part: list[int]) -> list[Tensor]:
            chosen = [rows[i] for i in part]
            return self._values(hooked.logits_at(self.model, *_inputs(chosen, 0, device)), chosen)

        return self.in_batches([len(r.ids) - 1 for r in rows], run)

    def intervened(self, row: Encoded, count: int, hooks: Callable[[Tensor], Hooks]) -> list[Tensor]:
        """The target's values of one row under many interventions.

        Args:
            row: prompt and answer.
            count: how many interventions.
            hooks: from the indices of some interventions, the hooks that apply the first to the first row of the
                batch, the second to the second, and so on.

        Returns:
            `[answer]` (or `[1]`) for each intervention, on the CPU.
        """
        self.settle([row])
        device = hooked.device_of(self.model)

        def run(part: list[int]) -> list[Tensor]:
            tokens, positions = _inputs([row] * len(part), 0, device)
            chosen = hooks(torch.tensor(part, device=device))
            return self._values(hooked.logits_at(self.model, tokens, positions, chosen), [row] * len(part))

        with torch.inference_mode(), explained(self.model):
            return self.in_batches([len(row.ids) - 1] * count, run)

    def in_batches(self, sizes: Sequence[int], run: Callable[[list[int]], list[Any]]) -> list[Any]:
        """Run all items in batches within the budget; when memory runs out, halve it and go on with those left.

        Args:
            sizes: tokens of each item.
            run: from the indices of some items to their results.
        """
        results: dict[int, Any] = {}
        while len(results) < len(sizes):
            left = [i for i in range(len(sizes)) if i not in results]
            assert self.batch_tokens is not None
            try:
                for batch in length_batches([sizes[i] for i in left], self.batch_tokens):
                    part = [left[b] for b in batch]
                    results.update(zip(part, run(part), strict=True))
            except RuntimeError as error:
                if not out_of_memory(error) or self.batch_tokens <= max(sizes[i] for i in left):
                    raise
                self.batch_tokens = max(1, self.batch_tokens // 2)
        return [results[i] for i in range(len(sizes))]

    def _values(self, logits: Tensor, rows: list[Encoded]) -> list[Tensor]:
        """The target's values of each row; rows whose answers are of one length go together."""
        values: list[Tensor] = [torch.empty(0)] * len(rows)
        for length in {len(r.answer) for r in rows}:
            members = [i for i, r in enumerate(rows) if len(r.answer) == length]
            answers = torch.tensor([rows[i].answer for i in members], device=logits.device)
            chosen = logits[:, :length] if len(members) == len(rows) else logits[members, :length]
            for i, row in zip(members, self.target.values(chosen, answers).cpu(), strict=True):
                values[i] = row
        return values


def cut(shared: Sequence[int], lengths: Sequence[int]) -> tuple[list[tuple[int, list[int]]], float]:
    """Cut variants into chunks so that the fewest tokens are computed, a forward pass counting as `LAUNCH_TOKENS`.

    Args:
        shared: for each variant, how many positions it shares with the whole text.
        lengths: its positions altogether.

    Returns:
        The chunks, each the positions that all its members share and the members; and the cost in tokens.

    >>> cut([0, 1, 100, 101], [120, 120, 120, 120])[0]
    [(0, [0, 1]), (100, [2, 3])]
    """
    order = sorted(range(len(shared)), key=lambda i: shared[i])
    start = np.array([shared[i] for i in order])
    longest = np.array([lengths[i] for i in order])
    n = len(order)
    # best[j]: least cost of the first j variants; a chunk i..j-1 starts at what its first member shares.
    best, begin = np.zeros(n + 1), np.zeros(n + 1, dtype=int)
    for j in range(1, n + 1):
        width = np.maximum.accumulate(longest[:j][::-1])[::-1] - start[:j]
        cost = best[:j] + LAUNCH_TOKENS + width * np.arange(j, 0, -1)
        begin[j] = int(cost.argmin())
        best[j] = cost[begin[j]]
    chunks: list[tuple[int, list[int]]] = []
    j = n
    while j:
        i = int(begin[j])
        chunks.append((int(start[i]), order[i:j]))
        j = i
    return chunks[::-1], float(best[n])


def shared_positions(whole: Encoded, variant: Encoded) -> int:
    """How many input positions a variant shares with the whole text, short of the first that predicts its answer."""
    limit = min(len(variant.context), len(whole.context)) - 1
    a, b = whole.context, variant.context
    return next((i for i in range(limit) if a[i] != b[i]), limit)


def _inputs(rows: Sequence[Encoded], skipped: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Input ids after the skipped positions, and the columns that predict the answers."""
    tokens = pad_right([r.ids[skipped:-1] for r in rows], device)
    first = torch.tensor([len(r.context) - 1 - skipped for r in rows], device=device)
    columns = first[:, None] + torch.arange(max(len(r.answer) for r in rows), device=device)
    return tokens, columns.clamp(max=tokens.shape[1] - 1)


def budget(model: Any, rows: Sequence[Encoded]) -> int:
    """Input tokens of one forward pass that a quarter of the free memory holds.

    A power of two from 256 up to `MAX_BATCH_TOKENS`.

    Args:
        model: its widths count: one layer's activations and attention scores, and the logits at the answer.
        rows: what will be scored.
    """
    cfg, itemsize = model.cfg, next(iter(model.parameters())).element_size()
    longest = max(len(r.ids) for r in rows)
    answer_share = max(len(r.answer) / (len(r.ids) - 1) for r in rows)
    layer = 12 * cfg.d_model + 4 * (cfg.d_mlp or 4 * cfg.d_model) + 4 * cfg.n_heads * longest
    logits = 3 * cfg.d_vocab * answer_share
    each = itemsize * (layer + logits)
    fitting = free_memory(hooked.device_of(model)) / 4 / each
    # A power of two, so that a little more or less free memory does not change the batches and the last digits.
    return int(min(MAX_BATCH_TOKENS, max(256, 2 ** int(np.log2(max(1.0, fitting))))))


def free_memory(device: torch.device) -> int:
    """Bytes that can still be used on a device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def out_of_memory(error: RuntimeError) -> bool:
    """Whether an error says that memory ran out, on a GPU or in the CPU's allocator."""
    return isinstance(error, torch.cuda.OutOfMemoryError) or "can't allocate memory" in str(error)


@contextmanager
def explained(model: Any) -> Iterator[None]:
    """Turn the error of an operation that a device does not have in half precision into one that says what to do."""
    try:
        yield
    except RuntimeError as error:
        if "not implemented for 'Half'" not in str(error):
            raise
        raise InputError(
            f"the model is in float16, which {hooked.device_of(model).type} cannot compute with ({error}); load it "
            "with dtype=torch.float32, or move it to a GPU"
        ) from None


def check_runnable(model: Any) -> None:
    """Refuse a model in train mode: dropout would make every score a draw.

    Raises:
        InputError: naming the fix.
    """
    if getattr(model, "training", False):
        raise InputError("the model is in train mode, where dropout makes scores random; call model.eval() first")


def batches_of(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Consecutive slices of at most `size` items."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
