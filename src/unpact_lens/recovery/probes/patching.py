r"""Cross-model patching: do the later layers still read out what the model before had written by the middle layer?

The unlearned model reads the plain prompt; on the way into its middle block, the residual stream at some positions is
replaced by that of the model before. Then it answers by itself, greedily: only what it has read is patched, and below
the middle layer the tokens that it says still read its own states. If the fact comes back, unlearning left the later
layers as they were, and changed what is written before them. The retrain model, patched alike, tells how much of that
any model of this shape would read out of those states.

Source: Meng et al. 2022, arXiv 2202.05262 (patching); across models as in arXiv 2605.24614 (UDS).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.comparison.model_pair import require_comparable
from unpact_lens.data.benchmark import QA, Benchmark
from unpact_lens.errors import InputError, nearest
from unpact_lens.evaluation.answers import holds_fact, prefill_for
from unpact_lens.models import hooked
from unpact_lens.models.generate import generate_answers
from unpact_lens.models.hooked import Hooks
from unpact_lens.models.tokens import DEFAULT_BATCH_TOKENS, Encoded, encode_context, length_batches, pad_right
from unpact_lens.recovery.controls import generator
from unpact_lens.recovery.probes.attention import word_positions

SUBJECT, PROMPT, OPENING = "subject", "prompt", "opening"
WHERE = (SUBJECT, PROMPT, OPENING)
"""The last token of the subject's name; every position that the model reads before it answers; or these and the opening
of the gold answer, which it is then given, as many facts are looked up only where they are about to be said."""


def read_with(model: Any, qa: QA, bench: Benchmark, where: str) -> tuple[Encoded, str]:
    """What is read of a question before the model goes on by itself, and the opening of the answer in it.

    Args:
        model: gives the tokenizer.
        qa: the question.
        bench: chat template and prefill.
        where: of `WHERE`.
    """
    opening = prefill_for(bench, qa) + (qa.answer_prefix if where == OPENING else "")
    return encode_context(model, qa.prompt, chat=bench.chat, prefill=opening), opening


def middle(model: Any) -> int:
    """The block whose input is patched unless another is named: the middle one, chosen before any run."""
    return int(model.cfg.n_layers) // 2


def places(model: Any, qa: QA, example: Encoded, where: str) -> tuple[int, ...]:
    """Positions in the input that are patched; none where there is no subject in the prompt, or no opening.

    Args:
        model: gives the tokenizer.
        qa: the question.
        example: what is read of it, see `read_with`.
        where: of `WHERE`.
    """
    if where == PROMPT or (where == OPENING and qa.answer_prefix.strip()):
        return tuple(range(len(example.context)))
    if where == OPENING:
        return ()
    return word_positions(model, qa.prompt, example, [qa.subject] if qa.subject else [])[-1:]


def unrelated_fact(qa: QA, items: Sequence[QA], seed: int = 0) -> QA | None:
    """A fact about somebody else, drawn afresh for each, whose question and answer do not hold this one's; or None.

    One of another kind is taken where there is one, so that its states are not those of an answer of the same form.
    """
    others = [
        q
        for q in items
        if q.subject != qa.subject and not holds_fact(q.answer, qa.fact) and not holds_fact(q.prompt, qa.fact)
    ]
    fit = [q for q in others if q.kind != qa.kind] or others
    return generator(seed, qa, "unrelated fact").choice(fit) if fit else None


def patched_answers(
    recipient: Any,
    donor: Any,
    items: Sequence[QA],
    *,
    bench: Benchmark,
    where: str = PROMPT,
    sources: Sequence[QA] | None = None,
    layer: int | None = None,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
) -> list[str]:
    """Greedy answers of one model to plain prompts, with states of another at some positions of the prompt.

    Args:
        recipient: the model that answers; it is not changed.
        donor: the model whose residual stream is put in.
        items: the questions.
        bench: how to ask: chat template, prefill, length of an answer.
        where: `"subject"` (its last token), `"prompt"` (all positions) or `"opening"` (all positions of the prompt and
            of the gold answer's opening).
        sources: for each question the one that the donor reads; None for the same. Positions of a prompt of another
            length are aligned at the end, and what it is too short for stays the recipient's own.
        layer: the block whose input is replaced, 0 to the number of blocks (which is the output of the last); None for
            the middle one.
        batch_tokens: bound on the tokens of one batch.

    Returns:
        One answer a question.

    Raises:
        InputError: if `where` or `layer` is unknown, the models are not comparable, a prompt does not name its
            subject or an answer has no opening, or there are not as many sources as questions.
    """
    if where not in WHERE:
        raise InputError(f"where={where!r}; {nearest(str(where), WHERE)}")
    depth = int(recipient.cfg.n_layers)
    layer = middle(recipient) if layer is None else layer
    if not 0 <= layer <= depth:
        raise InputError(f"layer={layer}; give a block from 0 to {depth - 1}, or {depth} for the last one's output")
    require_comparable(donor, recipient)
    given = items if sources is None else sources
    if len(given) != len(items):
        raise InputError(f"{len(given)} sources for {len(items)} questions; give one for each")

    def found(q: QA, example: Encoded) -> tuple[int, ...]:
        at = places(recipient, q, example, where)
        if not at:
            missing = (
                f"the answer {q.answer!r} has nothing before its fact"
                if where == OPENING
                else f"the prompt does not name its subject {q.subject!r} as a word"
            )
            raise InputError(f"QA {q.id or q.prompt!r}: {missing}")
        return at

    own, openings = zip(*(read_with(recipient, q, bench, where) for q in items), strict=True) if items else ((), ())
    read = own if sources is None else [read_with(recipient, q, bench, where)[0] for q in given]
    to = [found(q, e) for q, e in zip(items, own, strict=True)]
    taken_at = [found(q, e) for q, e in zip(given, read, strict=True)]
    counts = [min(len(a), len(b)) for a, b in zip(to, taken_at, strict=True)]
    hook = hooked.final_hook(donor) if layer == depth else f"blocks.{layer}.hook_resid_pre"
    states = _states(donor, [e.context for e in read], hook, batch_tokens)
    values = [s[list(at[-n:])] for s, at, n in zip(states, taken_at, counts, strict=True)]
    targets = [torch.tensor(at[-n:]) for at, n in zip(to, counts, strict=True)]
    lengths = [len(e.context) for e in own]

    def hooks(rows: list[int], width: int) -> Hooks:
        put: Callable[..., Tensor] = _putting([(width - lengths[i] + targets[i], values[i]) for i in rows])
        return [(hook, put)]

    return generate_answers(
        recipient,
        [q.prompt for q in items],
        chat=bench.chat,
        prefills=openings,
        max_new_tokens=bench.max_new_tokens,
        prompt_hooks=hooks,
        batch_tokens=batch_tokens,
    )


def _putting(rows: Sequence[tuple[Tensor, Tensor]]) -> Callable[..., Tensor]:
    """A hook that puts values at the positions of each row."""

    def put(resid: Tensor, hook: Any) -> Tensor:
        resid = resid.clone()
        for row, (at, value) in enumerate(rows):
            resid[row, at.to(resid.device)] = value.to(resid)
        return resid

    return put


def _states(
    model: Any, contexts: Sequence[Sequence[int]], hook: str, batch_tokens: int
) -> list[Float[Tensor, "pos d_model"]]:
    """The residual stream at a hook, for each context."""
    states: list[Tensor] = [torch.empty(0)] * len(contexts)
    with torch.inference_mode():
        for batch in length_batches([len(c) for c in contexts], batch_tokens):
            tokens = pad_right([contexts[i] for i in batch], hooked.device_of(model))
            taken = hooked.collect(model, tokens, [hook])[hook]
            for row, i in enumerate(batch):
                states[i] = taken[row, : len(contexts[i])]
    return states
