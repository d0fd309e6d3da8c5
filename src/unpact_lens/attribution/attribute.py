"""`attribute` and `attribute_many`: from prompts and answers to attributions."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from unpact_lens.attribution.base import Outcome, Run
from unpact_lens.attribution.endpoint_scorer import RemoteScorer, encode_for, scorer_for
from unpact_lens.attribution.methods import METHODS, check_options, check_remote
from unpact_lens.attribution.result import Attribution
from unpact_lens.attribution.scorer import Scorer, batches_of, check_runnable
from unpact_lens.attribution.targets import PLAIN, Target, resolve
from unpact_lens.attribution.units import BOS, Example, Units, make_example
from unpact_lens.data.benchmark import QA
from unpact_lens.errors import InputError
from unpact_lens.models.endpoint import Endpoint
from unpact_lens.models.generate import greedy
from unpact_lens.models.tokens import Text, encode_context, token_strings
from unpact_lens.scoring import check_finite

WINDOW = 32
"""Examples that are batched together; the progress bar moves on after each window."""

Item = QA | tuple[Text, Text | None]


def attribute(
    model: Any,
    prompt: Text,
    answer: Text | None,
    *,
    method: str = "leave_one_out",
    units: Units = "token",
    target: str | Target | Callable[..., Tensor] = "log_prob",
    foil: Text | None = None,
    chat: bool = False,
    prefill: Text = "",
    attribute_bos: bool = False,
    batch_tokens: int | None = None,
    max_new_tokens: int = 24,
    seed: int = 0,
    **options: Any,
) -> Attribution:
    """How much each unit of a prompt contributes to an answer.

    Args:
        model: a hooked causal model in eval mode, or an `Endpoint`.
        prompt: text or ids.
        answer: text, leading space included, or ids. None takes the model's own greedy answer.
        method: name in `attribution_methods()`.
        units: `"token"`, `"word"`, `"sentence"`; a list of `(start, end)` token ranges or pieces of the text; or a
            function from the prompt's tokens to such a list.
        target: `"log_prob"`, `"logit"`, `"prob"`, `"logit_diff"` (needs `foil`), or a function of the logits
            `[answer, d_vocab]` and answer ids `[answer]`.
        foil: text or ids that the answer's logits are compared with.
        chat: wrap the prompt in the tokenizer's chat template; its tokens stay and are not attributed.
        prefill: the opening of the answer, given to the model and not scored.
        attribute_bos: give BOS a row of its own.
        batch_tokens: bound on the input tokens of one forward pass; None picks it from free memory.
        max_new_tokens: length of the greedy answer, for `answer=None`.
        seed: of methods that sample.
        options: the method's own.

    Returns:
        One row a unit; see `Attribution`.

    Raises:
        InputError: naming what cannot be worked with: an empty prompt or answer, ids outside the vocabulary, more than
            the context, unknown names, units that overlap, a model in train mode, and the like.
    """
    return attribute_many(
        model,
        [(prompt, answer)],
        method=method,
        units=units,
        target=target,
        foil=foil,
        chat=chat,
        prefill=prefill,
        attribute_bos=attribute_bos,
        batch_tokens=batch_tokens,
        max_new_tokens=max_new_tokens,
        seed=seed,
        progress=False,
        **options,
    )[0]


def attribute_many(
    model: Any,
    qas: Sequence[Item],
    *,
    method: str = "leave_one_out",
    units: Units = "token",
    target: str | Target | Callable[..., Tensor] = "log_prob",
    foil: Text | None = None,
    chat: bool = False,
    prefill: Text | Sequence[Text] = "",
    attribute_bos: bool = False,
    batch_tokens: int | None = None,
    max_new_tokens: int = 24,
    answer_free: bool = False,
    progress: bool = True,
    seed: int = 0,
    **options: Any,
) -> list[Attribution]:
    """`attribute` for many questions, batched across them, with one progress bar.

    Args:
        model: as for `attribute`.
        qas: `QA` items, or `(prompt, answer)` pairs.
        method: as for `attribute`.
        units: as for `attribute`.
        target: as for `attribute`.
        foil: as for `attribute`.
        chat: as for `attribute`.
        prefill: one opening for all, which may hold `{subject}`; or a list, one for each.
        attribute_bos: as for `attribute`.
        batch_tokens: as for `attribute`.
        max_new_tokens: as for `attribute`.
        answer_free: attribute the model's own greedy answers instead of the gold ones.
        progress: show a bar on stderr, if that is a terminal.
        seed: as for `attribute`.
        options: as for `attribute`.

    Returns:
        One attribution for each question, in their order.

    Raises:
        InputError: as `attribute`, before any long work.
    """
    entry = METHODS[method]
    check_options(method, options, target)
    if isinstance(model, Endpoint):
        check_remote(method, options, foil, attribute_bos)
    else:
        check_runnable(model)
    wanted = "log_prob" if entry.fixed_target else target
    items = [_item(q) for q in qas]
    prefills = _prefills(prefill, [subject for *_, subject in items])
    if answer_free:
        items = [(prompt, None, name, subject) for prompt, _, name, subject in items]
    answers = _greedy_answers(model, items, prefills, chat, max_new_tokens)
    examples: list[Example] = []
    targets: list[Target] = []
    for (prompt, *_), answer, opening in zip(items, answers, prefills, strict=True):
        encoded = encode_for(model, prompt, answer, chat=chat, prefill=opening)
        examples.append(make_example(model, encoded, prompt, answer, units=units, attribute_bos=attribute_bos))
        targets.append(resolve(model, wanted, encoded.answer, foil))
        if entry.deletion == "ids":
            examples[-1].require_context()
    results: list[Attribution] = []
    with _bar(len(examples), progress, f"{method} attribution") as advance:
        for window in batches_of(range(len(examples)), WINDOW):
            # A foil gives each answer a target of its own; all others are one for all.
            groups = [[i] for i in window] if foil is not None else [list(window)]
            for group in groups:
                part = [examples[i] for i in group]
                scorer = scorer_for(model, targets[group[0]], batch_tokens)
                outcomes = entry.run(Run(model, scorer, seed), part, **options)
                log_probs = _log_probs(scorer, part)
                for i, outcome, lp in zip(group, outcomes, log_probs, strict=True):
                    results.append(
                        _attribution(
                            model, examples[i], outcome, lp, items[i], method, units, targets[i], scorer, options
                        )
                    )
                advance(len(group))
    return results


def _item(qa: Item) -> tuple[Text, Text | None, str, str]:
    """Prompt, answer, id and subject of a question."""
    if isinstance(qa, QA):
        return qa.prompt, qa.answer, qa.id, qa.subject
    try:
        prompt, answer = qa
    except (TypeError, ValueError):
        raise InputError(f"{qa!r} is neither a QA nor a (prompt, answer) pair") from None
    return prompt, answer, "", ""


def _prefills(prefill: Text | Sequence[Text], subjects: Sequence[str]) -> list[Text]:
    """One opening for each example. A list of numbers is the ids of one opening, a list of anything else one each."""
    if isinstance(prefill, str):
        return [prefill.replace("{subject}", s) for s in subjects]
    if isinstance(prefill, Tensor) or all(isinstance(p, int) for p in prefill):
        ids = tuple(int(t) for t in prefill)  # type: ignore[arg-type]
        return [ids] * len(subjects)
    if len(prefill) != len(subjects):
        raise InputError(f"{len(prefill)} prefills for {len(subjects)} prompts; give one for each, or one for all")
    return list(prefill)  # type: ignore[arg-type]


def _greedy_answers(
    model: Any, items: Sequence[tuple[Text, Text | None, str, str]], prefills: Sequence[Text], chat: bool, limit: int
) -> list[Text]:
    """The answers given; where there is none, the model's own greedy one, up to the end of its line."""
    answers = [answer for _, answer, *_ in items]
    open_ = [i for i, answer in enumerate(answers) if answer is None]
    if not open_:
        return [a for a in answers if a is not None]
    if isinstance(model, Endpoint):
        for i in open_:
            answers[i] = model.complete(f"{items[i][0]}{prefills[i]}", limit)
            if not answers[i]:
                raise InputError(f"the endpoint's own answer to {items[i][0]!r} is empty; give an answer to attribute")
        return [a for a in answers if a is not None]
    contexts = [encode_context(model, items[i][0], chat=chat, prefill=prefills[i]).context for i in open_]
    tokenizer = model.tokenizer
    eos = None if tokenizer is None else tokenizer.eos_token_id

    def ended(_: int, new: Sequence[int]) -> bool:
        return tokenizer is not None and "\n" in tokenizer.decode([new[-1]])

    own = greedy(model, contexts, max_new_tokens=limit, stop_ids=() if eos is None else (eos,), until=ended)
    for i, ids in zip(open_, own, strict=True):
        kept = ids[:-1] if len(ids) > 1 and ended(i, ids) else ids
        if not kept:
            raise InputError(f"the model's own answer to {items[i][0]!r} is empty; give an answer to attribute")
        answers[i] = kept
    return [a for a in answers if a is not None]


def _log_probs(scorer: Scorer | RemoteScorer, examples: Sequence[Example]) -> list[float]:
    """LP(x, y) of each example, nats; from what was scored already where it was."""
    plain = scorer
    if isinstance(scorer, Scorer) and scorer.target is not PLAIN["log_prob"]:
        plain = Scorer(scorer.model, batch_tokens=scorer.batch_tokens)
    missing = [e.encoded for e in examples if e.encoded not in plain.whole]
    if missing:
        plain([[row] for row in missing])
    values = [plain.whole[e.encoded].mean() for e in examples]
    for value, example in zip(values, examples, strict=True):
        check_finite(value, f"log-probability of answer {example.answer!r}")
    return [float(v) for v in values]


def _attribution(
    model: Any,
    example: Example,
    outcome: Outcome,
    log_prob: float,
    item: tuple[Text, Text | None, str, str],
    method: str,
    units: Units,
    target: Target,
    scorer: Scorer | RemoteScorer,
    options: dict[str, Any],
) -> Attribution:
    encoded = example.encoded
    bos = encoded.head[:1] if (BOS,) in example.members else ()
    ids = (*bos, *encoded.prompt)
    scores = outcome.per_answer_token.mean(-1)
    return Attribution(
        tokens=example.labels,
        token_ids=ids,
        answer_tokens=token_strings(model, encoded.answer),
        answer_ids=encoded.answer,
        scores=scores,
        per_answer_token=outcome.per_answer_token,
        log_prob=log_prob,
        method=method,
        units=units if isinstance(units, str) else "spans",
        target=METHODS[method].fixed_target or target.name,
        deletion=_deletion(model, method),
        prompt=example.text,
        answer=example.answer,
        members=tuple(tuple(0 if m == BOS else m + len(bos) for m in group) for group in example.members),
        spans=example.spans,
        answer_source="greedy" if item[1] is None else "given",
        head_ids=encoded.head,
        tail_ids=encoded.tail,
        bos_row=bool(bos),
        error=outcome.error,
        convergence_delta=outcome.convergence_delta,
        id=item[2],
        subject=item[3],
        settings={
            **scorer.settings,
            **{k: v for k, v in options.items() if v is None or isinstance(v, (bool, int, float, str))},
            **outcome.settings,
        },
    )


def _deletion(model: Any, method: str) -> str:
    """How the method removes a unit from what this model, or this endpoint, reads."""
    how = METHODS[method].deletion
    return "text" if how == "ids" and isinstance(model, Endpoint) else how


@contextmanager
def _bar(total: int, wanted: bool, title: str) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr, if it is wanted and a terminal is there to show it."""
    if not wanted or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as shown:
        task = shown.add_task(title, total=total)
        yield lambda n: shown.advance(task, n)
