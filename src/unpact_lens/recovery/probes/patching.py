r"""Patch states of the original model into the middle layer, and see whether the later layers still read out the fact.

The unlearned model reads the plain prompt. At the input of its middle block, the residual stream at some positions is
replaced by that of the original model. Then the model generates greedily. Only prompt positions are patched: below the
middle layer, the generated tokens still read the unlearned model's own states. If the fact comes back, unlearning left
the later layers unchanged, and changed what is written before them. The retrained model, patched alike, shows how much
of that any model of this shape would read out of those states.

Source: Meng et al. 2022, arXiv 2202.05262 (patching); across models as in arXiv 2605.24614 (UDS).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from unpact_lens.comparison.model_pair import require_comparable
from unpact_lens.data.benchmark import QA, Benchmark
from unpact_lens.errors import InputError, NoEffectError, nearest
from unpact_lens.evaluation.answers import holds_fact, prefill_for
from unpact_lens.models import hooked
from unpact_lens.models.acting_hooks import require_acting_hooks
from unpact_lens.models.batches import check_batch_tokens, length_batches, pad_right
from unpact_lens.models.generate import generate_answers
from unpact_lens.models.hooked import HookedModel, Hooks
from unpact_lens.models.memory import run_batch_tokens
from unpact_lens.models.same_weights import same_weights
from unpact_lens.models.tokens import Encoded, encode_context
from unpact_lens.recovery.controls import generator
from unpact_lens.recovery.probes.attention import word_positions
from unpact_lens.recovery.probes.registry import BEFORE, COMPUTATION, Answered, AnswerRow, Scene, probe
from unpact_lens.recovery.result import UNRELATED_FACT

SUBJECT, PROMPT, OPENING = "subject", "prompt", "opening"
WHERE = (SUBJECT, PROMPT, OPENING)
"""Positions to patch: the last token of the subject's name; every position of the prompt; or every position of the
prompt and of the gold answer's start, which the model is then given. Many facts are looked up only where they are about
to be said."""

LINES = {
    SUBJECT: "the subject's last token",
    PROMPT: "every position of the prompt",
    OPENING: "every position of the prompt and of the gold answer's start",
}


def patch_rows(scene: Scene, where: str) -> list[AnswerRow]:
    """Patch states from the same prompt, and as a control from the prompt of an unrelated fact.

    Args:
        scene: What the rows are built from.
        where: Positions to patch, one of `WHERE`.
    """
    model = scene.before
    if model is None:
        raise InputError(f"probe 'patch_{where}' patches states of the original model; give it: before=…")
    others = [unrelated_fact(q, scene.items, scene.probing.seed) for q in scene.items]

    def named(qa: QA | None) -> bool:
        return qa is not None and bool(places(model, qa, read_with(model, qa, scene.bench, where)[0], where))

    def row(name: str, sources: Sequence[QA | None]) -> AnswerRow:
        asked = torch.tensor([named(q) and named(s) for q, s in zip(scene.items, sources, strict=True)])
        pairs = [(q, s) for q, s, a in zip(scene.items, sources, asked.tolist(), strict=True) if a and s is not None]

        def answer(recipient: HookedModel) -> Answered:
            texts = patched_answers(
                recipient, model, [q for q, _ in pairs], bench=scene.bench, where=where,
                sources=[s for _, s in pairs], batch_tokens=scene.probing.batch_tokens,
            )  # fmt: skip
            return scene.judged(texts, asked)

        return AnswerRow(name, asked, answer)

    return [row(f"patch_{where}", scene.items), row(f"{UNRELATED_FACT}:patch_{where}", others)]


def require_residual_hook(model: HookedModel, feature: str = "a patch probe") -> None:
    """Refuse a model on which a changed residual stream in the middle changes nothing.

    Args:
        model: Hooked model.
        feature: What needs the hook, for the message.

    Raises:
        InputError: If it is such a model.
    """
    require_acting_hooks(
        model, [f"blocks.{middle(model)}.hook_resid_pre"], feature=feature, remedy="leave the patches out of probes="
    )


for _where in WHERE:
    probe(
        f"patch_{_where}",
        family=COMPUTATION,
        line=f"puts the original model's residual stream into the middle layer, at {LINES[_where]}",
        source="Meng et al. 2022, arXiv 2202.05262; arXiv 2605.24614",
        needs=(BEFORE,),
        check=partial(require_residual_hook, feature=f"probe 'patch_{_where}'"),
    )(partial(patch_rows, where=_where))


def read_with(model: HookedModel, qa: QA, bench: Benchmark, where: str) -> tuple[Encoded, str]:
    """Tokenise what a model reads of a question before it generates.

    Args:
        model: Model that gives the tokenizer.
        qa: Question.
        bench: Benchmark that gives the chat template and the answer prefix.
        where: Positions to patch, one of `WHERE`.

    Returns:
        The tokenised prompt, and the answer prefix in it.
    """
    opening = prefill_for(bench, qa) + (qa.answer_prefix if where == OPENING else "")
    return encode_context(model, qa.prompt, chat=bench.chat, prefill=opening), opening


def middle(model: HookedModel) -> int:
    """Return the block whose input is patched by default: the middle one. It was chosen before any run."""
    return int(model.cfg.n_layers) // 2


def places(model: HookedModel, qa: QA, example: Encoded, where: str) -> tuple[int, ...]:
    """Return the input positions to patch. There are none if the prompt lacks the subject or the answer has no prefix.

    Args:
        model: Model that gives the tokenizer.
        qa: Question.
        example: Tokenised prompt, as `read_with` returns it.
        where: Positions to patch, one of `WHERE`.
    """
    if where == PROMPT or (where == OPENING and qa.answer_prefix.strip()):
        return tuple(range(len(example.context)))
    if where == OPENING:
        return ()
    return word_positions(model, qa.prompt, example, [qa.subject] if qa.subject else [])[-1:]


def unrelated_fact(qa: QA, items: Sequence[QA], seed: int = 0) -> QA | None:
    """Draw a fact about another subject, whose question and answer do not hold this fact. None if there is none.

    A fact of another kind is preferred, so that its states are not those of an answer of the same form.

    Args:
        qa: Fact.
        items: Facts to draw from.
        seed: Random seed for the draw.
    """
    others = [
        q
        for q in items
        if q.subject != qa.subject and not any(holds_fact(text, qa.fact, qa.aliases) for text in (q.answer, q.prompt))
    ]
    fit = [q for q in others if q.kind != qa.kind] or others
    return generator(seed, qa, "unrelated fact").choice(fit) if fit else None


def patched_answers(
    recipient: HookedModel,
    donor: HookedModel,
    items: Sequence[QA],
    *,
    bench: Benchmark,
    where: str = PROMPT,
    sources: Sequence[QA] | None = None,
    layer: int | None = None,
    batch_tokens: int | None = None,
) -> list[str]:
    """Generate greedy answers of one model, with states of another model at some positions of the prompt.

    Args:
        recipient: Model that answers. It is not changed.
        donor: Model whose residual stream is patched in.
        items: Questions.
        bench: Benchmark that gives the chat template, the answer prefix and the answer length.
        where: Positions to patch: `"subject"` (its last token), `"prompt"` (all positions) or `"opening"` (all
            positions of the prompt and of the gold answer's start).
        sources: For each question, the question that the donor reads. If None, the same questions. Prompts of different
            lengths are aligned at the end. Positions that the shorter prompt lacks keep the recipient's own states.
        layer: Block whose input is replaced, from 0 to the number of blocks (the output of the last one). If None, the
            middle one.
        batch_tokens: Largest number of input tokens in one forward pass. If None, 4096, or less where the
            free memory is small.

    Returns:
        One answer for each question.

    Raises:
        InputError: If `where` or `layer` is unknown, the models are not comparable, a prompt does not name its subject,
            an answer has no prefix, the numbers of sources and questions differ, every patched state equals the
            recipient's own although the models differ, or `batch_tokens` is not a positive whole number.
    """
    check_batch_tokens(batch_tokens)
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
    longest = max((len(e.context) for e in (*own, *read)), default=0) + bench.max_new_tokens
    budget = run_batch_tokens(recipient, batch_tokens, longest)
    states = _states(donor, [e.context for e in read], hook, budget)
    values = [s[list(at[-n:])] for s, at, n in zip(states, taken_at, counts, strict=True)]
    targets = [torch.tensor(at[-n:]) for at, n in zip(to, counts, strict=True)]
    lengths = [len(e.context) for e in own]
    kept = _states(recipient, [e.context for e in own], hook, budget)
    equal = all(torch.equal(k[at], v) for k, at, v in zip(kept, targets, values, strict=True))
    if items and equal and not same_weights(recipient, donor):
        raise NoEffectError(
            f"patching at layer {layer} changes nothing: there the states of both models are equal for every question, "
            f"so unlearning changed later layers only; give a later layer=, or leave patch_{where} out"
        )

    def hooks(rows: list[int], width: int) -> Hooks:
        put: Callable[..., Tensor] = _putting([(width - lengths[i] + targets[i], values[i]) for i in rows])
        return [(hook, put)]

    return generate_answers(
        recipient,
        [q.prompt for q in items],
        chat=bench.chat,
        prefills=openings,
        max_new_tokens=bench.max_new_tokens,
        stop=bench.stop,
        prompt_hooks=hooks,
        batch_tokens=budget,
    )


def _putting(rows: Sequence[tuple[Tensor, Tensor]]) -> Callable[..., Tensor]:
    """Return a hook that writes values at the positions of each row."""

    def put(resid: Tensor, hook: HookPoint) -> Tensor:
        resid = resid.clone()
        for row, (at, value) in enumerate(rows):
            resid[row, at.to(resid.device)] = value.to(resid)  # [position, d_model]
        return resid

    return put


def _states(
    model: HookedModel, contexts: Sequence[Sequence[int]], hook: str, batch_tokens: int
) -> list[Float[Tensor, "pos d_model"]]:
    """Collect the residual stream at a hook, for each context."""
    states: list[Tensor] = [torch.empty(0)] * len(contexts)
    with torch.inference_mode():
        for batch in length_batches([len(c) for c in contexts], batch_tokens):
            tokens = pad_right([contexts[i] for i in batch], hooked.device_of(model))
            taken = hooked.collect(model, tokens, [hook])[hook]
            for row, i in enumerate(batch):
                states[i] = taken[row, : len(contexts[i])]
    return states
