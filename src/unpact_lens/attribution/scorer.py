"""Score a prompt and many variants of it, exactly and as fast as possible.

On a bridge without hooks, all rows of all families are laid out as a tree of tokens on the source model
(`unpact_lens.models.packed_logits`): every distinct beginning is computed once, across variants and examples, nothing
is padded, and answer positions only are unembedded.

Elsewhere the algorithm, for one *family* (a prompt with its answer, and variants that differ from it somewhere), is:

1. Run the whole prompt once, keeping keys and values at every position.
2. Share the positions before a variant's first difference. If the model takes a mask of pairs (bridges), pack the
   remainders of the variants end to end in rows, so that only what differs is computed. Otherwise sort the variants by
   the number of shared positions and cut them into chunks. Each chunk starts from the keys and values that all its
   members share, and computes the rest.
3. Unembed at the answer's positions only.

The cut has the least cost: every computed token costs 1, and every forward pass `LAUNCH_TOKENS` more. Families too
small to gain are scored without sharing, in batches that mix examples. Nothing is approximated: up to rounding, the
numbers are those of one unbatched forward pass for each row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from unpact_lens.attribution.targets import PLAIN, Target
from unpact_lens.errors import InputError
from unpact_lens.models import hooked, kv_cache
from unpact_lens.models.asking import Asking
from unpact_lens.models.batches import check_batch_tokens, length_batches, pad_right
from unpact_lens.models.hooked import HookedModel, Hooks
from unpact_lens.models.memory import batch_tokens_for_rows, out_of_memory
from unpact_lens.models.packed_logits import packed_logits
from unpact_lens.models.source_model import SourceModel, source_model
from unpact_lens.models.tokens import Encoded

LAUNCH_TOKENS = 24
"""Cost of starting a forward pass, in computed tokens."""

Family = Sequence[Encoded]
"""A prompt with its answer, followed by its variants."""

Score = Callable[[Sequence[Family]], list[list[Tensor]]]
"""Function from families to the target's values for each answer token, for each row of each family."""


@dataclass
class Scorer:
    """Score families of rows with a hooked model.

    Attributes:
        model: Hooked causal model in eval mode.
        target: Function of the logits that is measured; log-probability by default.
        batch_tokens: Largest number of input tokens in one forward pass. If None, it is set from the free memory. It is
            halved when memory runs out.
        share_prefix: Whether variants share their beginning with the whole prompt. If False, every row is computed in
            full.
        whole: Values of the whole prompts scored so far.
    """

    model: HookedModel
    target: Target = field(default_factory=lambda: PLAIN["log_prob"])
    batch_tokens: int | None = None
    share_prefix: bool = True
    whole: dict[Encoded, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_runnable(self.model)
        check_batch_tokens(self.batch_tokens)

    @property
    def settings(self) -> dict[str, Any]:
        """Settings to record with a result."""
        return {"batch_tokens": self.batch_tokens, "threads": torch.get_num_threads()}

    def __call__(self, families: Sequence[Family]) -> list[list[Tensor]]:
        """Compute the target's values, `[answer]` (or `[1]`) for each row of each family, on the CPU.

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
            source = source_model(self.model) if self.share_prefix else None
            if source is not None:
                found = self._tree(source, unique)
                unique = []
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
        """Set `batch_tokens` from the free memory, if it is None.

        Args:
            rows: Rows that will be scored.
            passes: Memory of each token, as a multiple of a plain forward pass.
        """
        if self.batch_tokens is None:
            self.batch_tokens = batch_tokens_for_rows(self.model, None, rows, passes=passes)

    def _tree(self, source: SourceModel, families: Sequence[Sequence[Encoded]]) -> list[dict[Encoded, Tensor]]:
        """Score all rows of all families on the source model, with every distinct beginning computed once."""
        found: list[dict[Encoded, Tensor]] = [{} for _ in families]
        left = [(f, row) for f, rows in enumerate(families) for row in rows]
        while left:
            rows = [row for _, row in left]
            done: set[int] = set()
            assert self.batch_tokens is not None
            try:
                for members, logits in packed_logits(self.model, source, rows, self.batch_tokens):
                    answers = torch.tensor([rows[i].answer for i in members], device=logits.device)  # [row, answer]
                    for i, values in zip(members, self.target.values(logits, answers).cpu(), strict=True):
                        found[left[i][0]][rows[i]] = values
                    done.update(members)
            except RuntimeError as error:
                if not out_of_memory(error) or self.batch_tokens <= max(len(r.ids) for r in rows):
                    raise
                self.batch_tokens = max(1, self.batch_tokens // 2)
            left = [item for i, item in enumerate(left) if i not in done]
        return found

    def _plan(self, rows: list[Encoded]) -> list[tuple[int, list[Encoded]]] | None:
        """Cut the variants into chunks, each with its number of shared positions; None if sharing gains nothing."""
        if not self.share_prefix or len(rows) < 3 or not kv_cache.can_share(self.model):
            return None
        whole, variants = rows[0], rows[1:]
        chunks, cost = cut([shared_positions(whole, v) for v in variants], [len(v.ids) - 1 for v in variants])
        flat = sum(len(r.ids) - 1 for r in rows)
        if cost + len(whole.ids) + LAUNCH_TOKENS >= flat:
            return None
        return [(length, [variants[i] for i in members]) for length, members in chunks]

    def _packs(self, rows: list[Encoded]) -> bool:
        """Return whether to score a family from one past, with the remainders of its variants packed into rows."""
        if not self.share_prefix or len(rows) < 3 or not kv_cache.can_pack(self.model):
            return False
        whole, variants = rows[0], rows[1:]
        # All pieces are read out at the same number of positions, so answers must be of one length.
        if len({len(r.answer) for r in rows}) > 1:
            return False
        saved = sum(shared_positions(whole, v) for v in variants)
        return saved > LAUNCH_TOKENS

    def _packed(self, whole: Encoded, variants: list[Encoded]) -> dict[Encoded, Tensor]:
        """Score a family with the remainders of its variants packed into rows."""
        tokens, positions = _inputs([whole], 0, hooked.device_of(self.model))  # [1, pos], [1, answer]
        logits, past = kv_cache.logits_and_past(self.model, tokens, positions)  # [1, answer, d_vocab]
        found = {whole: self._values(logits, [whole])[0]}
        # Each piece is the number of shared positions and the ids after them, without the last answer token.
        pieces = [(shared := shared_positions(whole, v), v.ids[shared:-1]) for v in variants]
        sizes = [len(new) for _, new in pieces]
        rows = kv_cache.fewest_tokens(sizes, len(past), self.model.cfg.d_model)  # indices of pieces, for each row

        def run(part: list[int]) -> list[dict[Encoded, Tensor]]:
            chosen = [[pieces[i] for i in rows[r]] for r in part]
            members = [variants[i] for r in part for i in rows[r]]
            logits = kv_cache.logits_packed(self.model, past, chosen, len(whole.answer))  # [piece, answer, d_vocab]
            values = iter(self._values(logits, members))
            return [{variants[i]: next(values) for i in rows[r]} for r in part]

        # As in `_shared`, the copy of the past takes some memory.
        taken = [sum(sizes[i] for i in row) + len(past) // 4 for row in rows]
        for values_of_row in self.in_batches(taken, run):
            found.update(values_of_row)
        return found

    def _shared(self, whole: Encoded, chunks: list[tuple[int, list[Encoded]]]) -> dict[Encoded, Tensor]:
        """Score a family in chunks, each of which continues the positions that its members share."""
        device = hooked.device_of(self.model)
        tokens, positions = _inputs([whole], 0, device)  # [1, pos], [1, answer]
        logits, past = kv_cache.logits_and_past(self.model, tokens, positions)  # [1, answer, d_vocab]
        found = {whole: self._values(logits, [whole])[0]}
        for length, rows in chunks:

            def run(part: list[int], rows: list[Encoded] = rows, length: int = length) -> list[Tensor]:
                chosen = [rows[i] for i in part]
                tokens, positions = _inputs(chosen, length, device)  # [row, pos - length], [row, answer]
                if not length:
                    return self._values(hooked.logits_at(self.model, tokens, positions), chosen)
                return self._values(kv_cache.logits_after(self.model, past, length, tokens, positions), chosen)

            # A shared position costs no computation, but the copy of its keys and values takes some memory.
            sizes = [len(r.ids) - 1 - length + length // 4 for r in rows]
            found.update(zip(rows, self.in_batches(sizes, run), strict=True))
        return found

    def _flat(self, rows: list[Encoded]) -> list[Tensor]:
        """Score rows in full, without sharing."""
        device = hooked.device_of(self.model)

        def run(part: list[int]) -> list[Tensor]:
            chosen = [rows[i] for i in part]
            return self._values(hooked.logits_at(self.model, *_inputs(chosen, 0, device)), chosen)

        return self.in_batches([len(r.ids) - 1 for r in rows], run)

    def intervened(self, row: Encoded, count: int, hooks: Callable[[Tensor], Hooks]) -> list[Tensor]:
        """Compute the target's values of one row under many interventions.

        Args:
            row: Prompt and answer.
            count: Number of interventions.
            hooks: Function from indices of interventions to the hooks that apply them, the first index to the first row
                of the batch, the second to the second, and so on.

        Returns:
            `[answer]` (or `[1]`) for each intervention, on the CPU.
        """
        self.settle([row])
        device = hooked.device_of(self.model)

        def run(part: list[int]) -> list[Tensor]:
            tokens, positions = _inputs([row] * len(part), 0, device)  # [row, pos], [row, answer]
            chosen = hooks(torch.tensor(part, device=device))
            return self._values(hooked.logits_at(self.model, tokens, positions, chosen), [row] * len(part))

        with torch.inference_mode(), explained(self.model):
            return self.in_batches([len(row.ids) - 1] * count, run)

    def in_batches(self, sizes: Sequence[int], run: Callable[[list[int]], list[Any]]) -> list[Any]:
        """Run all items in batches within the budget. When memory runs out, halve the budget and continue.

        Args:
            sizes: Number of tokens of each item.
            run: Function from the indices of some items to their results.
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

    def _values(self, logits: Float[Tensor, "row answer d_vocab"], rows: list[Encoded]) -> list[Tensor]:
        """Compute the target's values of each row; rows with answers of one length are computed together."""
        values: list[Tensor] = [torch.empty(0)] * len(rows)
        for length in {len(r.answer) for r in rows}:
            members = [i for i, r in enumerate(rows) if len(r.answer) == length]
            answers = torch.tensor([rows[i].answer for i in members], device=logits.device)  # [member, length]
            # Columns beyond a shorter answer hold padding.
            chosen = logits[:, :length] if len(members) == len(rows) else logits[members, :length]
            for i, row in zip(members, self.target.values(chosen, answers).cpu(), strict=True):
                values[i] = row
        return values


def cut(shared: Sequence[int], lengths: Sequence[int]) -> tuple[list[tuple[int, list[int]]], float]:
    """Cut variants into chunks at the least cost, where a forward pass costs `LAUNCH_TOKENS` computed tokens.

    Args:
        shared: Number of positions that each variant shares with the whole text.
        lengths: Number of positions of each variant.

    Returns:
        The chunks, each with the number of positions that all its members share and the indices of the members; and
        the cost in tokens.

    >>> cut([0, 1, 100, 101], [120, 120, 120, 120])[0]
    [(0, [0, 1]), (100, [2, 3])]
    """
    order = sorted(range(len(shared)), key=lambda i: shared[i])
    start = np.array([shared[i] for i in order])
    longest = np.array([lengths[i] for i in order])
    n = len(order)
    # best[j] is the least cost of the first j variants. A chunk i..j-1 shares what its first member shares, and is as
    # wide as its longest member.
    best, begin = np.zeros(n + 1), np.zeros(n + 1, dtype=int)
    for j in range(1, n + 1):
        width = np.maximum.accumulate(longest[:j][::-1])[::-1] - start[:j]  # [i], of the chunk i..j-1
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
    """Count the input positions that a variant shares with the whole text, before the first that predicts an answer."""
    limit = min(len(variant.context), len(whole.context)) - 1
    a, b = whole.context, variant.context
    return next((i for i in range(limit) if a[i] != b[i]), limit)


def _inputs(
    rows: Sequence[Encoded], skipped: int, device: torch.device
) -> tuple[Int[Tensor, "row pos"], Int[Tensor, "row answer"]]:
    """Return the input ids after the skipped positions, and the columns that predict the answers."""
    tokens = pad_right([r.ids[skipped:-1] for r in rows], device)
    first = torch.tensor([len(r.context) - 1 - skipped for r in rows], device=device)  # [row]
    columns = first[:, None] + torch.arange(max(len(r.answer) for r in rows), device=device)  # [row, answer]
    # Columns beyond a shorter answer are clamped and never read.
    return tokens, columns.clamp(max=tokens.shape[1] - 1)


@contextmanager
def explained(model: HookedModel) -> Iterator[None]:
    """Replace the error of an operation that a device lacks in half precision by one that names the fix."""
    try:
        yield
    except RuntimeError as error:
        if "not implemented for 'Half'" not in str(error):
            raise
        raise InputError(
            f"the model is in float16, which {hooked.device_of(model).type} cannot compute with ({error}); load it "
            "with dtype=torch.float32, or move it to a GPU"
        ) from None


def check_runnable(model: HookedModel) -> None:
    """Refuse a model in train mode, in which dropout makes every score random.

    Raises:
        InputError: If the model is in train mode.
    """
    if getattr(model, "training", False):
        raise InputError("the model is in train mode, where dropout makes scores random; call model.eval() first")


def asking_with_budget(options: Mapping[str, Any]) -> tuple[Asking, int | None]:
    """Check the options of `AskingOptions`, and return the batch size apart.

    Returns:
        The options, and `batch_tokens` as given; None means that it is set from the free memory.
    """
    batch_tokens = options.get("batch_tokens")
    given = {name: value for name, value in options.items() if name != "batch_tokens" or value is not None}
    return Asking(**given), batch_tokens
