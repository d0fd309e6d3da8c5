"""Read the fact out of the layers before the last, with the logit lens.

The residual stream after each block is read out by the model's own final norm and unembedding. The position is the one
whose next token is the first token of the fact, given the start of the gold answer.

Source: nostalgebraist 2020, Interpreting GPT: the logit lens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unpact_lens.data.benchmark import QA, Benchmark
from unpact_lens.decomposition.lens import stream_hooks
from unpact_lens.errors import InputError
from unpact_lens.evaluation.answers import fact_tokens, prefill_for
from unpact_lens.models import hooked
from unpact_lens.models.batches import check_batch_tokens, length_batches, pad_right
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.memory import run_batch_tokens
from unpact_lens.models.self_test import require
from unpact_lens.models.tokens import encode
from unpact_lens.recovery.probes.registry import COMPUTATION, Answered, AnswerRow, Scene, probe
from unpact_lens.recovery.result import WRONG_SUBJECT
from unpact_lens.recovery.wrong_subject import about_wrong_subject

LOGIT_LENS = "logit_lens"


def require_earlier_blocks(model: HookedModel, feature: str = f"probe {LOGIT_LENS!r}") -> None:
    """Refuse a model that has no block before the last.

    Args:
        model: Hooked model.
        feature: What needs the blocks, for the message.

    Raises:
        InputError: If it has one block.
    """
    if model.cfg.n_layers < 2:
        raise InputError(f"{feature} reads out blocks before the last, and this model has 1 block; leave the probe out")


@probe(
    LOGIT_LENS,
    family=COMPUTATION,
    line="counts a fact whose first token is the most likely one after a block before the last",
    source="nostalgebraist 2020, Interpreting GPT: the logit lens",
    check=require_earlier_blocks,
)
def logit_lens(scene: Scene) -> list[AnswerRow]:
    """Read the fact out early, after the plain prompt and as a control after the prompt about the wrong subject."""
    elsewhere = [about_wrong_subject(q, scene.bench) for q in scene.items]
    return [
        _reading(scene, LOGIT_LENS, scene.items),
        _reading(scene, f"{WRONG_SUBJECT}:{LOGIT_LENS}", elsewhere),
    ]


def _reading(scene: Scene, row: str, items: Sequence[QA | None]) -> AnswerRow:
    """Read out the questions that are not None."""
    asked = torch.tensor([q is not None for q in items])
    chosen = [q for q in items if q is not None]

    def answer(model: HookedModel) -> Answered:
        right = torch.zeros(len(items), dtype=torch.bool)
        if chosen:
            ranks = lens_ranks(model, chosen, bench=scene.bench, batch_tokens=scene.probing.batch_tokens)
            right[asked] = read_out_early(ranks)
        return Answered(right)

    return AnswerRow(row, asked, answer)


def lens_ranks(
    model: HookedModel, items: Sequence[QA], *, bench: Benchmark, batch_tokens: int | None = None
) -> Int[Tensor, "item layer"]:
    """Compute the rank of each fact's first token after each block. Rank 1 is the most likely token.

    Args:
        model: Hooked model with a tokenizer.
        items: Questions.
        bench: Benchmark that gives the chat template and the answer prefix.
        batch_tokens: Largest number of input tokens in one forward pass. If None, 4096, or less where the
            free memory is small.

    Returns:
        One column for each block. The last column is the model's own output.

    Raises:
        InputError: If there are no questions, one is too long for the model, or `batch_tokens` is not a positive whole
            number.
    """
    check_batch_tokens(batch_tokens)
    if not items:
        raise InputError("no questions; give the facts that were to be forgotten, e.g. bench.forget")
    require(model, "lens", feature="probe 'logit_lens'")
    rows = [encode(model, q.prompt, q.answer, chat=bench.chat, prefill=prefill_for(bench, q)) for q in items]
    starts = [fact_tokens(model, row, q)[0] for row, q in zip(rows, items, strict=True)]
    lengths = [len(r.ids) - 1 for r in rows]
    budget = run_batch_tokens(model, batch_tokens, max(lengths))
    names = stream_hooks(model)[1:]  # without the embedding, which has read the last token only
    ranks = torch.zeros(len(items), len(names), dtype=torch.long)
    device = hooked.device_of(model)
    with torch.inference_mode():
        for batch in length_batches(lengths, budget):
            tokens = pad_right([rows[i].ids[:-1] for i in batch], device)
            at = torch.tensor([len(rows[i].context) - 1 + starts[i] for i in batch], device=device)
            wanted = torch.tensor([rows[i].answer[starts[i]] for i in batch], device=device)
            streams = hooked.collect(model, tokens, names)
            for layer, name in enumerate(names):
                logits = hooked.unembed(model, streams[name][torch.arange(len(batch), device=device), at])
                ranks[batch, layer] = token_rank(logits, wanted).cpu()
    return ranks


def token_rank(logits: Float[Tensor, "item d_vocab"], wanted: Int[Tensor, " item"]) -> Int[Tensor, " item"]:
    """Return the rank of a token: 1 plus the number of tokens that are more likely.

    Args:
        logits: Next-token logits of each item.
        wanted: One token for each item.

    Raises:
        InputError: If there is another number of tokens than items, or a token lies outside the vocabulary.
    """
    if logits.ndim != 2 or wanted.shape != logits.shape[:1]:
        raise InputError(
            f"logits of shape {tuple(logits.shape)} for {tuple(wanted.shape)} tokens; give [item, d_vocab] and [item]"
        )
    if len(wanted) and not 0 <= int(wanted.min()) <= int(wanted.max()) < logits.shape[1]:
        raise InputError(f"tokens {wanted.tolist()}; the vocabulary has the tokens 0 to {logits.shape[1] - 1}")
    return 1 + (logits > logits.gather(-1, wanted[:, None])).sum(-1)


def read_out_early(ranks: Int[Tensor, "item layer"]) -> Bool[Tensor, " item"]:
    """Return whether the fact's first token is the most likely one after some block before the last."""
    return (ranks[:, :-1] == 1).any(-1)
