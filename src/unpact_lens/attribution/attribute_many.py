"""Attribute the answers of many questions, batched across them.

1. Each question is tokenised with its answer, or with the model's own greedy answer, and cut into units.
2. The method scores windows of `WINDOW` questions together.
3. The scores of each question become an `Attribution`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from torch import Tensor

from unpact_lens.attribution.endpoint_scorer import EndpointScorer, encode_for, scorer_for
from unpact_lens.attribution.methods import METHODS, MethodInput, MethodOutput, check_endpoint, check_options
from unpact_lens.attribution.result import Attribution
from unpact_lens.attribution.scorer import Scorer, asking_with_budget, check_runnable
from unpact_lens.attribution.targets import PLAIN, Target, resolve
from unpact_lens.attribution.units import BOS, Example, Units, make_example
from unpact_lens.data.as_facts import FactSource, as_pair, as_questions
from unpact_lens.data.benchmark import QA
from unpact_lens.errors import InputError
from unpact_lens.models.answer_end import end_ids
from unpact_lens.models.asking import Asking, AskingOptions
from unpact_lens.models.endpoint import Endpoint
from unpact_lens.models.generate import greedy
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.tokens import Text, token_strings
from unpact_lens.progress import progress_bar
from unpact_lens.scoring import check_finite

WINDOW = 32
"""Number of questions that are batched together; the progress bar advances after each window."""

QuestionLike = QA | tuple[Text, Text | None]
"""A question with its answer; None as the answer means the model's own."""


@dataclass(frozen=True)
class Request:
    """Hold what is attributed and how, for all questions of a call.

    Attributes:
        method: Name of the method.
        units: Units of the prompts.
        target: Target, or its name.
        foil: Text or ids whose logits are subtracted from the answer's.
        attribute_bos: Whether BOS has a row of its own.
        seed: Random seed.
        options: The method's own options.
    """

    method: str
    units: Units
    target: str | Target | Callable[..., Tensor]
    foil: Text | None
    attribute_bos: bool
    seed: int
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Question:
    """Hold one question and how it is asked.

    Attributes:
        prompt: Text or ids.
        answer: Text or ids. If None, the model's own greedy answer is used.
        asked: Chat template and answer prefix.
        id: Identifier of the QA.
        subject: Subject of the fact.
    """

    prompt: Text
    answer: Text | None
    asked: Asking
    id: str = ""
    subject: str = ""


@dataclass(frozen=True)
class Item:
    """Hold one question ready to be scored.

    Attributes:
        question: The question as it was given.
        example: Its prompt and answer, cut into units.
        target: What is attributed.
    """

    question: Question
    example: Example
    target: Target


def attribute_many(
    model: HookedModel | Endpoint,
    qas: FactSource | Sequence[QuestionLike],
    *,
    method: str = "leave_one_out",
    units: Units = "token",
    target: str | Target | Callable[..., Tensor] = "log_prob",
    foil: Text | None = None,
    attribute_bos: bool = False,
    answer_free: bool = False,
    progress: bool = True,
    seed: int = 0,
    **options: Any,
) -> list[Attribution]:
    """Compute `attribute` for many questions, batched across them, with one progress bar.

    Args:
        model: Model, as for `attribute`.
        qas: Facts in any form that `from_pairs` reads. The pairs of a list are taken as they are; None as an answer is
            the model's own.
        method: Name of the method, as for `attribute`.
        units: Units, as for `attribute`.
        target: Target, as for `attribute`.
        foil: Foil, as for `attribute`.
        attribute_bos: Give BOS a row of its own.
        answer_free: Attribute the model's own greedy answers instead of the given ones.
        progress: Show a progress bar on stderr, if stderr is a terminal.
        seed: Random seed of methods that sample.
        options: Options as for `attribute`. `prefill` is one answer prefix for all, in which `{subject}` becomes the
            question's subject, or a list with one for each question.

    Returns:
        One attribution for each question, in their order.

    Raises:
        InputError: As `attribute`, before any long computation.
    """
    own = {name: value for name, value in options.items() if name not in AskingOptions.__annotations__}
    prefill = options.get("prefill", "")
    shared = {name: value for name, value in options.items() if name not in own and name != "prefill"}
    request = Request(method, units, target, foil, attribute_bos, seed, own)
    check_options(method, own, target)
    if isinstance(model, Endpoint):
        check_endpoint(method, own, foil, attribute_bos)
    else:
        check_runnable(model)
    asked, budget = asking_with_budget(shared)
    questions = _with_answers(model, _questions(qas, prefill, asked, answer_free))
    items = [_item(model, question, given, request) for question, given in questions]
    results: list[Attribution] = []
    with progress_bar(f"{method} attribution", len(items), shown=progress) as bar:
        for batch in _batches(items, one_by_one=foil is not None):
            results += _attribute(model, batch, request, budget)
            bar.step(len(batch))
    return results


def _questions(
    qas: FactSource | Sequence[QuestionLike], prefill: Text | Sequence[Text], asked: Asking, answer_free: bool
) -> list[Question]:
    """Collect the questions, each with its own answer prefix."""
    found = []
    for number, qa in enumerate(as_questions(qas, "qas"), start=1):
        if isinstance(qa, QA):
            found.append(Question(qa.prompt, qa.answer, asked, qa.id, qa.subject))
        else:
            prompt, answer = cast("tuple[Text, Text | None]", as_pair(qa, "qas", number))
            found.append(Question(prompt, answer, asked))
    prefills = _prefills(prefill, [q.subject for q in found])
    return [
        replace(q, asked=asked.but(prefill=own), answer=None if answer_free else q.answer)
        for q, own in zip(found, prefills, strict=True)
    ]


def _prefills(prefill: Text | Sequence[Text], subjects: Sequence[str]) -> list[Text]:
    """Return one answer prefix for each question. A list of numbers is the ids of one prefix for all."""
    if isinstance(prefill, str):
        return [prefill.replace("{subject}", s) for s in subjects]
    if isinstance(prefill, Tensor) or all(isinstance(p, int) for p in prefill):
        ids = tuple(int(t) for t in prefill)  # type: ignore[arg-type]
        return [ids] * len(subjects)
    if len(prefill) != len(subjects):
        raise InputError(f"{len(prefill)} prefills for {len(subjects)} prompts; give one for each, or one for all")
    return list(prefill)  # type: ignore[arg-type]


def _with_answers(model: HookedModel | Endpoint, questions: list[Question]) -> list[tuple[Question, Text]]:
    """Pair each question with its answer, or with the model's own greedy answer up to the end of its line."""
    open_ = [q for q in questions if q.answer is None]
    if isinstance(model, Endpoint):
        own: list[Text] = [model.complete(f"{q.prompt}{q.asked.prefill}", q.asked.max_new_tokens) for q in open_]
        owner = "the endpoint's"
    else:
        own, owner = _greedy_answers(model, open_), "the model's"
    for question, answer in zip(open_, own, strict=True):
        if not len(answer):
            raise InputError(f"{owner} own answer to {question.prompt!r} is empty; give an answer to attribute")
    remaining = iter(own)
    return [(q, next(remaining) if q.answer is None else q.answer) for q in questions]


def _greedy_answers(model: HookedModel, questions: Sequence[Question]) -> list[Text]:
    """Generate greedy answers, up to the end of the line."""
    if not questions:
        return []
    contexts = [q.asked.encode_context(model, q.prompt).context for q in questions]
    tokenizer = model.tokenizer

    def ended(_: int, new: Sequence[int]) -> bool:
        return tokenizer is not None and "\n" in tokenizer.decode([new[-1]])

    limit = questions[0].asked.max_new_tokens
    own = greedy(model, contexts, max_new_tokens=limit, stop_ids=end_ids(model), until=ended)
    return [ids[:-1] if len(ids) > 1 and ended(i, ids) else ids for i, ids in enumerate(own)]


def _item(model: HookedModel | Endpoint, question: Question, answer: Text, request: Request) -> Item:
    """Tokenise a question, cut it into units and resolve its target."""
    method = METHODS[request.method]
    encoded = encode_for(model, question.prompt, answer, question.asked)
    example = make_example(
        model, encoded, question.prompt, answer, units=request.units, attribute_bos=request.attribute_bos
    )
    target = resolve(model, "log_prob" if method.fixed_target else request.target, encoded, request.foil)
    if method.deletion == "ids":
        example.require_context()
    return Item(question, example, target)


def _batches(items: Sequence[Item], *, one_by_one: bool) -> Iterator[Sequence[Item]]:
    """Cut the items into windows. With a foil, each answer has its own target and is scored by itself."""
    size = 1 if one_by_one else WINDOW
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _attribute(
    model: HookedModel | Endpoint, items: Sequence[Item], request: Request, budget: int | None
) -> list[Attribution]:
    """Score items that share one target."""
    scorer = scorer_for(model, items[0].target, budget)
    examples = [item.example for item in items]
    outputs = METHODS[request.method].run(MethodInput(scorer, request.seed), examples, **request.options)
    log_probs = _log_probs(scorer, examples)
    return [
        _attribution(item, output, log_prob, request, scorer)
        for item, output, log_prob in zip(items, outputs, log_probs, strict=True)
    ]


def _log_probs(scorer: Scorer | EndpointScorer, examples: Sequence[Example]) -> list[float]:
    """Return LP(x, y) of each example, nats; prompts that were scored already are not scored again."""
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
    item: Item, output: MethodOutput, log_prob: float, request: Request, scorer: Scorer | EndpointScorer
) -> Attribution:
    """Collect the scores of one item, with all that is needed to read them."""
    method, example, encoded = METHODS[request.method], item.example, item.example.encoded
    bos = encoded.head[:1] if (BOS,) in example.members else ()
    from_text = method.deletion == "ids" and isinstance(scorer, EndpointScorer)
    return Attribution(
        tokens=example.labels,
        token_ids=(*bos, *encoded.prompt),
        answer_tokens=token_strings(scorer.model, encoded.answer),
        answer_ids=encoded.answer,
        scores=output.per_answer_token.mean(-1),
        per_answer_token=output.per_answer_token,
        log_prob=log_prob,
        method=request.method,
        units=request.units if isinstance(request.units, str) else "spans",
        target=method.fixed_target or item.target.name,
        deletion="text" if from_text else method.deletion,
        prompt=example.text,
        answer=example.answer,
        # Members count from the first attributed token, which is BOS if BOS has a row.
        members=tuple(tuple(0 if m == BOS else m + len(bos) for m in group) for group in example.members),
        spans=example.spans,
        answer_source="greedy" if item.question.answer is None else "given",
        head_ids=encoded.head,
        tail_ids=encoded.tail,
        bos_row=bool(bos),
        error=output.error,
        convergence_delta=output.convergence_delta,
        id=item.question.id,
        subject=item.question.subject,
        settings={
            **scorer.settings,
            **{k: v for k, v in request.options.items() if v is None or isinstance(v, (bool, int, float, str))},
            **output.settings,
            **({} if isinstance(item.question.asked.chat, bool) else {"chat": item.question.asked.chat}),
            **({"special": True} if item.question.asked.special else {}),
        },
        notes=encoded.notes,
    )
