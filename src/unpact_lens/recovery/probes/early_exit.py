r"""Generate answers from earlier blocks, skipping those that come after.

At every step, the residual stream after block $l$ goes straight to the final norm and the unembedding. A filter in the
last blocks that suppresses a fact is thereby skipped. This is done for up to four blocks of the upper half, the last
one excluded. A fact counts if one of these answers holds it.

Source: Patil et al. 2023, arXiv 2309.17410 (facts read out of intermediate states after deletion).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from unpact_lens.errors import InputError
from unpact_lens.models import hooked
from unpact_lens.models.acting_hooks import require_acting_hooks
from unpact_lens.models.batches import check_batch_tokens
from unpact_lens.models.hooked import HookedModel, HookFunction, Hooks
from unpact_lens.recovery.intervened_generation import continuations
from unpact_lens.recovery.plan import Sheet
from unpact_lens.recovery.probes.logit_lens import require_earlier_blocks
from unpact_lens.recovery.probes.registry import COMPUTATION, AnswerRow, Scene, probe
from unpact_lens.recovery.wrong_subject import answered_together, any_right, contexts_of, plain_and_elsewhere

EARLY_EXIT = "early_exit"

MOST_EXITS = 4
"""Largest number of blocks after which answers are read out."""


def require_exits(model: HookedModel) -> None:
    """Refuse a model whose answers cannot be read out early.

    Raises:
        InputError: If it has one block, or its final residual stream cannot be replaced.
    """
    require_earlier_blocks(model, f"probe {EARLY_EXIT!r}")
    require_acting_hooks(
        model, [hooked.final_hook(model)], feature=f"probe {EARLY_EXIT!r}", remedy="leave this probe out of probes="
    )


@probe(
    EARLY_EXIT,
    family=COMPUTATION,
    line="generates answers from up to four blocks before the last; counts a fact that any of them holds",
    source="Patil et al. 2023, arXiv 2309.17410",
    check=require_exits,
)
def early_exit(scene: Scene) -> list[AnswerRow]:
    """Generate answers to the plain prompts from earlier blocks, and as a control to those about the wrong subject."""
    bench, budget = scene.bench, scene.probing.batch_tokens

    def ask(model: HookedModel, sheet: Sheet, where: Bool[Tensor, "row item"]) -> Bool[Tensor, "row item"]:
        cells, contexts = contexts_of(model, sheet, where, bench)
        exits = exit_blocks(model)
        texts = early_answers(
            model, [c for c in contexts for _ in exits], exits * len(contexts),
            max_new_tokens=bench.max_new_tokens, stop=bench.stop, batch_tokens=budget,
        )  # fmt: skip
        return any_right(sheet, cells, texts, len(exits))

    return answered_together(scene, plain_and_elsewhere(scene, EARLY_EXIT), ask)


def exit_blocks(model: HookedModel) -> tuple[int, ...]:
    """Return the blocks after which answers are read out: at most four of the upper half, the last but one included.

    >>> from types import SimpleNamespace
    >>> [exit_blocks(SimpleNamespace(cfg=SimpleNamespace(n_layers=n))) for n in (2, 4, 30)]
    [(0,), (1, 2), (14, 19, 23, 28)]
    """
    last = int(model.cfg.n_layers) - 2
    first = max(0, int(model.cfg.n_layers) // 2 - 1)
    count = min(MOST_EXITS, last - first + 1)
    return tuple(dict.fromkeys(round(x) for x in torch.linspace(first, last, count).tolist()))


def early_answers(
    model: HookedModel,
    contexts: Sequence[Sequence[int]],
    blocks: Sequence[int],
    *,
    max_new_tokens: int,
    stop: Sequence[str] = ("\n",),
    batch_tokens: int | None = None,
) -> list[str]:
    """Generate greedy answers from the residual stream after a block, for each context.

    Args:
        model: Hooked model with a tokenizer. It is not changed.
        contexts: For each prompt, all ids that the model reads.
        blocks: For each prompt, the block after which the answer is read out, from 0 to the number of blocks - 2.
        max_new_tokens: Largest number of tokens to generate.
        stop: Texts that end an answer.
        batch_tokens: Largest number of input tokens in one forward pass. If None, 4096, or less where the
            free memory is small.

    Raises:
        InputError: If a block does not exist or is the last one, the numbers of contexts and blocks differ, the model's
            answers cannot be read out early, or `batch_tokens` is not a positive whole number.
    """
    check_batch_tokens(batch_tokens)
    require_exits(model)
    if len(blocks) != len(contexts):
        raise InputError(f"{len(blocks)} blocks for {len(contexts)} contexts; give one for each")
    last = int(model.cfg.n_layers) - 1
    for block in blocks:
        if not 0 <= block < last:
            raise InputError(f"block {block} is no early exit of this model; give one from 0 to {last - 1}")

    def hooks(rows: list[int], width: int) -> Hooks:
        exits = torch.tensor([blocks[i] for i in rows])
        kept: dict[int, Tensor] = {}

        def keeping(block: int) -> HookFunction:
            def keep(resid: Tensor, hook: HookPoint) -> None:
                kept[block] = resid[exits.to(resid.device) == block]

            return keep

        def leave(resid: Tensor, hook: HookPoint) -> Tensor:
            resid = resid.clone()
            for block, early in kept.items():
                resid[exits.to(resid.device) == block] = early  # [row at this block, pos, d_model]
            return resid

        wanted = sorted(set(exits.tolist()))
        return [
            *((f"blocks.{block}.hook_resid_post", keeping(block)) for block in wanted),
            (hooked.final_hook(model), leave),
        ]

    return continuations(
        model, contexts, max_new_tokens=max_new_tokens, stop=stop, hooks=hooks, batch_tokens=batch_tokens
    )
