"""Compute the next-token logits of many texts at chosen positions, on the source model of a bridge.

The texts are laid out as a tree, batch by batch. Only the chosen positions are unembedded, a bounded number at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.models.batches import check_batch_tokens
from unpact_lens.models.exclusive import exclusive
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.source_model import SourceModel, run_tree, unembedded
from unpact_lens.models.token_tree import TokenTree
from unpact_lens.models.tokens import Encoded

LOGITS_AT_ONCE = 2**25
"""Largest number of logits that are computed in one call; 128 MiB in fp32."""


def packed_logits(
    model: HookedModel, source: SourceModel, rows: Sequence[Encoded], batch_tokens: int
) -> Iterator[tuple[list[int], Float[Tensor, "row answer d_vocab"]]]:
    """Yield the logits that predict the answers of some rows, until all rows had theirs.

    Args:
        model: Bridge.
        source: Its source model.
        rows: Encoded prompts with their answers. Rows with a common beginning should follow one another.
        batch_tokens: Largest number of distinct tokens in one forward pass. A row that is longer is a batch by itself.

    Yields:
        Indices of rows whose answers are of one length, and their logits.
    """
    for members, tree, columns in tree_batches([r.ids[:-1] for r in rows], batch_tokens):
        with exclusive(model):
            normed, _ = run_tree(source, tree)  # [column, d_model]
        d_vocab = source.hf.get_output_embeddings().weight.shape[0]
        for length in sorted({len(rows[i].answer) for i in members}):
            own = [(i, at[-length:]) for i, at in zip(members, columns, strict=True) if len(rows[i].answer) == length]
            size = max(1, LOGITS_AT_ONCE // (length * d_vocab))
            for start in range(0, len(own), size):
                part = own[start : start + size]
                at = torch.tensor([where for _, where in part], device=normed.device)  # [row, answer]
                yield [i for i, _ in part], unembedded(source, normed[at])


def tree_batches(
    texts: Sequence[Sequence[int]], batch_tokens: int
) -> Iterator[tuple[list[int], TokenTree, list[tuple[int, ...]]]]:
    """Cut texts into trees of at most `batch_tokens` columns, in their order.

    Args:
        texts: Ids of each text.
        batch_tokens: Largest number of columns. A text that is longer is a tree by itself.

    Yields:
        Indices of texts, their tree, and the columns of each text.

    >>> [members for members, *_ in tree_batches([[1, 2, 3], [1, 2, 4], [5, 6]], batch_tokens=4)]
    [[0, 1], [2]]
    """
    check_batch_tokens(batch_tokens)
    members: list[int] = []
    columns: list[tuple[int, ...]] = []
    tree = TokenTree()
    for i, ids in enumerate(texts):
        new = len(ids) - len(tree.known(ids))
        if members and len(tree.tokens) + new > batch_tokens:
            yield members, tree, columns
            members, tree, columns = [], TokenTree(), []
        members.append(i)
        columns.append(tree.add(ids))
    if members:
        yield members, tree, columns
