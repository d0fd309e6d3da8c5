"""Try to bring forgotten facts back: make a plan once, and run it on each unlearned model.

1. Write every prompt: emphasis on the KeyTokens, controls, and probes that change the prompt.
2. Exclude facts that a prompt gives away, and templates under which the original model itself fails.
3. Ask the original model and the retrained model, under every probe that does not depend on the unlearned model.
4. For each unlearned model: ask the plain prompts, find the common set, ask the rest of it, ask the other probes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool
from torch import Tensor
from typing_extensions import Unpack

from unpact_lens.data.as_facts import FactSource, as_benchmark
from unpact_lens.data.benchmark import Corpus, check_unique_ids
from unpact_lens.data.splits import Facts
from unpact_lens.errors import InputError, NoEffectError
from unpact_lens.evaluation.answers import with_room
from unpact_lens.models.batches import check_batch_tokens
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.memory import run_batch_tokens
from unpact_lens.progress import progress_bar
from unpact_lens.recovery.plan import RecoveryPlan, Sheet, ask_sheet, plain_sheet
from unpact_lens.recovery.probes.emphasis import key_words
from unpact_lens.recovery.probes.registry import AFTER as NEEDS_AFTER
from unpact_lens.recovery.probes.registry import BEFORE as NEEDS_BEFORE
from unpact_lens.recovery.probes.registry import PROBES, Answered, AnswerRow, Scene, checked
from unpact_lens.recovery.probes.registry import TEXTS as NEEDS_TEXTS
from unpact_lens.recovery.probes.relearn import check_relearn, end_decided, taught_facts
from unpact_lens.recovery.probes.relearn_unrelated import RELEARN_UNRELATED, unrelated_texts
from unpact_lens.recovery.probing import AFTER, ANSWER_FREE, Probing, ProbingOptions
from unpact_lens.recovery.prompts import never_known_sheet, write_sheet
from unpact_lens.recovery.result import (
    PARAPHRASE,
    RANDOM_WORDS,
    RELEARN,
    UNRELATED,
    WRONG_SUBJECT,
    Example,
    Recovery,
    family_of,
)


def recover(
    model: HookedModel,
    bench: FactSource,
    *,
    before: HookedModel,
    control: HookedModel | None = None,
    progress: bool = True,
    **options: Unpack[ProbingOptions],
) -> Recovery:
    """Try to bring forgotten facts back, by emphasis and by further probes.

    For several unlearned models, make the plan once with `recovery_plan`, and call `run_plan` for each.

    Args:
        model: Unlearned model. It is not changed.
        bench: Benchmark, or facts in any form that `from_pairs` reads. The `unknown` facts stand in for a retrained
            model if there is none.
        before: Original model.
        control: Retrained model. None if there is none.
        progress: If True, show a progress bar on stderr.
        **options: Templates, probes and further options; see `ProbingOptions`. `probes="all"` asks every probe that
            applies to the benchmark.

    Returns:
        Rates on the common set, net of every control, and excess over the retrained model.

    Raises:
        InputError: If a template, probe or hyperparameter is unknown, or there are no forget facts.
    """
    plan = recovery_plan(bench, before=before, control=control, after=model, progress=progress, **options)
    return run_plan(model, plan, before=before, control=control, progress=progress)


def recovery_plan(
    bench: FactSource,
    *,
    before: HookedModel,
    control: HookedModel | None = None,
    after: HookedModel | None = None,
    progress: bool = True,
    **options: Unpack[ProbingOptions],
) -> RecoveryPlan:
    """Fix every prompt of a recovery run, and ask the original model and the retrained model.

    Args:
        bench: Benchmark, or facts in any form that `from_pairs` reads. The `unknown` facts that the original model gets
            wrong stand in for a retrained model if there is none.
        before: Original model.
        control: Retrained model. None if there is none.
        after: Unlearned model. It is needed with `key_tokens="after"`; the plan is then valid for that model only.
        progress: If True, show a progress bar on stderr.
        **options: Templates, probes and further options; see `ProbingOptions`.

    Returns:
        The plan, for any number of calls of `run_plan`.

    Raises:
        InputError: If a template, probe or hyperparameter is unknown, ids occur twice, there are no forget facts, or
            the unlearned model is needed and not given.
    """
    bench = as_benchmark(bench)
    probing = checked(Probing(**options), bench)
    items = bench.forget
    if not items:
        raise InputError(f"benchmark {bench.name!r} has no forget facts to recover")
    check_unique_ids(items)
    bench = with_room(before, bench, items)
    if probing.key_tokens == AFTER and after is None:
        raise InputError("key_tokens='after' are those of the unlearned model; give it: recovery_plan(after=…)")
    _check_probes(probing.probes, before, control, after)
    check_relearn(probing.relearn or {}, before)
    probing = replace(probing, batch_tokens=run_batch_tokens(before, probing.batch_tokens))
    with progress_bar("recovery", shown=progress) as bar:
        bar.say(f"key tokens of the {'unlearned' if probing.key_tokens == AFTER else 'original'} model")
        keyed = after if probing.key_tokens == AFTER and after is not None else before
        unknown = bench.unknown[: len(items)] if control is None else ()
        keys = key_words(
            keyed, (*items, *unknown), bench, rule=probing.rule, key_tokens=probing.key_tokens,
            batch_tokens=probing.batch_tokens, progress=False,
        )  # fmt: skip
        scene = Scene(probing, bench, tuple(items), tuple(keys[: len(items)]), before=before)
        bar.say("asking the original model")
        plan = _planned(before, scene, replace(scene, items=tuple(unknown), keys=tuple(keys[len(items) :])))
        if control is not None:
            bar.say("asking the retrained model")
            said = _ask_prompts(control, plan)
            plan = replace(plan, plain_control=said.plain, right_control=said.right)
        return with_probes(plan, bench, probing.probes, before=before, control=control, relearn=probing.relearn)


def with_probes(
    plan: RecoveryPlan,
    bench: FactSource,
    probes: Sequence[str],
    *,
    before: HookedModel,
    control: HookedModel | None = None,
    relearn: Mapping[str, object] | None = None,
) -> RecoveryPlan:
    """Return a plan whose probes beyond its prompts are these; its prompts and their answers stay.

    Args:
        plan: Plan with or without such probes. Probes that are prompts, e.g. `prefill`, are fixed in it and ignored.
        bench: Facts from which the plan was made; a benchmark's plain text may be trained on.
        probes: Names of the probes.
        before: Original model.
        control: Retrained model. None if there is none.
        relearn: Hyperparameters of relearning.

    Raises:
        InputError: If a hyperparameter is unknown, or a probe would do nothing on a model.
    """
    bench = as_benchmark(bench)
    items, names = plan.sheet.items, tuple(name for name in probes if not PROBES[name].compared)
    _check_probes(names, before, control)
    share, teaching = check_relearn(relearn or {}, before)
    wanted = RELEARN in names
    taught = taught_facts(items, share=share, seed=plan.settings["seed"]) if wanted else (False,) * len(items)
    added = tuple(name for name in names if name != RELEARN)
    texts = None
    if any(NEEDS_TEXTS in PROBES[name].needs for name in added):
        texts = Corpus(unrelated_texts(replace(bench, forget=items)), "unrelated text")
    if any(taught):
        teaching = end_decided(before, [q for q, t in zip(items, taught, strict=True) if t], bench, teaching)
    trains = any(taught) or RELEARN_UNRELATED in added
    plan = replace(
        plan, bench=replace(plan.bench, plain_text=texts), taught=torch.tensor(taught),
        relearn=teaching if trains else None, added=added, added_before={}, added_control={},
    )  # fmt: skip
    rows = _answer_rows(plan, before=before)
    asked_before = {r.name: _right(before, r) if r.before is None else r.before for r in rows if r.name != RELEARN}
    plan = replace(plan, added_before=asked_before)
    if control is None or plan.right_control is None:
        return plan
    right = {row.name: _right(control, row) for row in rows}
    relearned = [right.pop(RELEARN)[None]] if RELEARN in right else []
    prompts = plan.right_control[: len(plan.sheet.rows)]
    return replace(plan, right_control=torch.cat([prompts, *relearned]), added_control=right)


def run_plan(
    model: HookedModel,
    plan: RecoveryPlan,
    *,
    before: HookedModel | None = None,
    control: HookedModel | None = None,
    batch_tokens: int | None = None,
    progress: bool = True,
) -> Recovery:
    """Run a plan on an unlearned model.

    Beyond the plain prompt, prompts are asked for the facts of the common set and for those shown as examples.

    Args:
        model: Unlearned model. It is not changed.
        plan: Plan, as `recovery_plan` returns it.
        before: Original model. It is needed for patching and for `after_keys`.
        control: Retrained model. It is needed for `after_keys`, if the plan was made with one.
        batch_tokens: Largest number of input tokens in one forward pass. If None, that of the plan.
        progress: If True, show a progress bar on stderr.

    Returns:
        Rates on the common set, net of every control, and excess over the retrained model. The rows of the plan come
        first, then relearning, then the other probes in the order asked. A probe that changes nothing of this model is
        asked of no fact, and `settings["without_effect"]` has the reason.

    Raises:
        InputError: If a probe of the plan needs a model that was not given, or `batch_tokens` is not a positive whole
            number.
    """
    check_batch_tokens(batch_tokens)
    _check_models(plan, before, control)
    _check_probes(plan.added, model)
    if batch_tokens is not None:
        plan = replace(plan, settings={**plan.settings, "batch_tokens": batch_tokens})
    with progress_bar("recovery", shown=progress) as bar:
        bar.say("asking the unlearned model")
        said = _ask_prompts(model, plan, unlearned=True)
        rows = _answer_rows(plan, before=before, after=model, counted=plan.candidates & ~said.plain)
        answered, without_effect = [], {}
        for row in rows:
            bar.say(row.name)
            try:
                answered.append(row.answer(model))
            except NoEffectError as error:
                without_effect[row.name] = str(error)
                answered.append(Answered(torch.zeros_like(row.asked)))
        rows = [replace(r, asked=torch.zeros_like(r.asked)) if r.name in without_effect else r for r in rows]
        bar.say("asking the original and the retrained model")
        asked_once = {row.name: row.before for row in rows if row.before is not None}
        right_before = _fixed(before, rows, {RELEARN: plan.plain_before, **asked_once, **plan.added_before})
        if plan.right_control is None:
            right_control = None
        else:
            relearned = {RELEARN: plan.right_control[-1]} if bool(plan.taught.any()) else {}
            known = {**relearned, **plan.added_control}
            prompts = plan.right_control[: len(plan.sheet.rows)]
            right_control = torch.cat([prompts, *_fixed(control, rows, known)])

    n_never = len(plan.never_sheet.items)
    nothing, all_never = torch.zeros(1, n_never, dtype=torch.bool), torch.ones(1, n_never, dtype=torch.bool)
    names = (*plan.sheet.rows, *(row.name for row in rows))
    items = plan.sheet.items
    return Recovery(
        probes=names,
        families=tuple(family_of(name) for name in names),
        items=tuple(q.id for q in items),
        subjects=tuple(q.subject or q.id for q in items),
        kinds=tuple(q.kind for q in items),
        asked=torch.cat([plan.sheet.asked, *(row.asked[None] for row in rows)]),
        compared=plan.compared,
        right_before=torch.cat([plan.right_before, *right_before]),
        right_after=torch.cat([said.right, *((a.right & r.asked)[None] for r, a in zip(rows, answered, strict=True))]),
        right_control=right_control,
        plain_before=plan.plain_before,
        plain_after=said.plain,
        plain_control=plan.plain_control,
        excluded=plan.excluded,
        set_apart=plan.set_apart,
        oracle=plan.oracle,
        headline=plan.headline,
        never_items=tuple(q.id for q in plan.never_sheet.items),
        never_subjects=tuple(q.subject or q.id for q in plan.never_sheet.items),
        never_asked=torch.cat([plan.never_sheet.asked, *(nothing if a.never is None else all_never for a in answered)]),
        never_right=torch.cat([said.never, *(nothing if a.never is None else a.never[None] for a in answered)]),
        examples=(*said.examples, *(e for a in answered for e in a.examples)),
        settings={
            **plan.settings,
            "relearn": plan.relearn,
            "relearn_taught": int(plan.taught.sum()),
            "relearn_taught_right": None,
            "without_effect": without_effect,
            **{name: value for a in answered for name, value in a.settings.items()},
        },
    )


@dataclass(frozen=True)
class _Said:
    """Hold the answers of one model to the prompts of a plan.

    Attributes:
        plain: True for the facts that are right under the plain prompt.
        right: The same under each row of the sheet. False where nothing was asked.
        never: The same for the never-known facts.
        examples: Answers for the facts that are shown.
    """

    plain: Bool[Tensor, " item"]
    right: Bool[Tensor, "probe item"]
    never: Bool[Tensor, "probe never"]
    examples: tuple[Example, ...]


def _ask_prompts(model: HookedModel, plan: RecoveryPlan, *, unlearned: bool = False) -> _Said:
    """Ask one model the prompts of a plan that count, and those of the facts that are shown.

    Args:
        model: Hooked model.
        plan: Plan.
        unlearned: If True, skip the facts that this model answers under the plain prompt: they do not count.
    """
    bench, sheet, never, budget = plan.bench, plan.sheet, plan.never_sheet, plan.settings["batch_tokens"]
    questions = plain_sheet(sheet.items, bench)
    plain, said = ask_sheet(model, questions, questions.asked, bench, budget)
    wanted = plan.candidates & ~plain[0] if unlearned else plan.candidates
    wanted[list(plan.shown)] = True
    right, answers = ask_sheet(model, sheet, wanted.expand(len(sheet.rows), -1), bench, budget)
    never_right, _ = ask_sheet(model, never, never.asked, bench, budget)
    examples = (
        e for c in plan.shown for e in (*questions.examples(said, plain, c), *sheet.examples(answers, right, c))
    )
    return _Said(plain[0], right, never_right, tuple(examples))


def _planned(before: HookedModel, scene: Scene, unknown: Scene) -> RecoveryPlan:
    """Write the prompts of a plan, ask the original model, and exclude templates under which it fails.

    Args:
        before: Original model.
        scene: Forget facts.
        unknown: Facts that the original model may not know.
    """
    probing, bench = scene.probing, scene.bench
    full = write_sheet(scene)
    plain = plain_sheet(scene.items, bench)
    plain_before = ask_sheet(before, plain, plain.asked, bench, probing.batch_tokens)[0][0]
    right_before = ask_sheet(before, full, full.asked, bench, probing.batch_tokens)[0]
    apart = _failing(full, right_before, plain_before, probing)
    rows = [r for r in full.rows if r.removeprefix(f"{RANDOM_WORDS}:") not in apart]
    sheet = full.only(rows)
    never = never_known_sheet(before, unknown, rows)
    prompts = {name for name in probing.probes if PROBES[name].compared}
    return RecoveryPlan(
        bench=replace(bench, forget=scene.items, retain=Facts(), validation=Facts(), unseen=Facts(),
                      validation_corpus=None, unseen_corpus=None, general=(), unknown=never.items, forget_corpus=None,
                      retain_corpus=None, plain_text=None),
        sheet=sheet,
        never_sheet=never,
        keys=scene.keys,
        headline=probing.headline,
        oracle=probing.key_tokens != ANSWER_FREE,
        excluded={**plain.leaking(), **sheet.leaking()},
        set_apart=apart,
        plain_before=plain_before,
        right_before=right_before[[full.rows.index(r) for r in rows]],
        plain_control=None,
        right_control=None,
        taught=torch.zeros(len(scene.items), dtype=torch.bool),
        relearn=None,
        settings={
            "rule": probing.rule, "key_tokens": probing.key_tokens, "templates": probing.chosen_templates,
            "seed": probing.seed, "min_before": probing.min_before, "n_examples": probing.n_examples,
            "batch_tokens": probing.batch_tokens, "threads": torch.get_num_threads(),
            "left_out": tuple(sorted({UNRELATED, PARAPHRASE, WRONG_SUBJECT, *prompts} - set(full.rows))),
            "gain": probing.gain,
        },
    )  # fmt: skip


def _failing(sheet: Sheet, right: Tensor, plain: Tensor, probing: Probing) -> dict[str, float]:
    """Return the templates under which the original model answers too few of the facts it knows, with the share."""
    apart = {}
    for name in probing.chosen_templates:
        if name == probing.headline or name not in sheet.rows:
            continue
        row = sheet.rows.index(name)
        counted = plain & sheet.asked[row]
        share = float(right[row][counted].double().mean()) if bool(counted.any()) else 0.0
        if share < probing.min_before:
            apart[name] = share
    return apart


def _answer_rows(
    plan: RecoveryPlan,
    *,
    before: HookedModel | None,
    after: HookedModel | None = None,
    counted: Bool[Tensor, " item"] | None = None,
) -> list[AnswerRow]:
    """Build the rows beyond the plan's prompts: relearning first, then the other probes in the order asked.

    Args:
        plan: Plan.
        before: Original model.
        after: Unlearned model. If None, probes that need it are skipped.
        counted: True for the facts that count. If None, the candidates of the plan.
    """
    counted = plan.candidates if counted is None else counted
    scene = Scene(plan.probing, plan.bench, plan.sheet.items, plan.keys, plan, before, after, counted)
    names = (*((RELEARN,) if bool(plan.taught.any()) else ()), *plan.added)
    fit = [PROBES[name] for name in names if after is not None or NEEDS_AFTER not in PROBES[name].needs]
    return [row for entry in fit for row in entry.answer_rows(scene)]


def _fixed(
    model: HookedModel | None, rows: Sequence[AnswerRow], known: Mapping[str, Tensor]
) -> list[Bool[Tensor, "one item"]]:
    """Return what the original or the retrained model gets right under each row, asked only if not known yet."""

    def right(row: AnswerRow) -> Tensor:
        if row.name in known:
            return known[row.name]
        if model is None:
            raise InputError(f"row {row.name!r} must be asked of the original and the retrained model; give them")
        return _right(model, row)

    return [right(row)[None] for row in rows]


def _right(model: HookedModel, row: AnswerRow) -> Bool[Tensor, " item"]:
    """Return what a model gets right under a row."""
    return row.answer(model).right & row.asked


def _check_probes(names: Sequence[str], *models: HookedModel | None) -> None:
    """Refuse probes that would do nothing on one of the models.

    Raises:
        InputError: If one would.
    """
    for name in names:
        check = PROBES[name].check
        if check is not None:
            for model in filter(None, models):
                check(model)


def _check_models(plan: RecoveryPlan, before: HookedModel | None, control: HookedModel | None) -> None:
    """Refuse to run a plan without the models that its probes need."""
    for name in plan.added:
        needs = PROBES[name].needs
        if NEEDS_BEFORE in needs and before is None:
            raise InputError(f"probe {name!r} needs the original model; give it: run_plan(before=…)")
        if NEEDS_AFTER in needs and plan.right_control is not None and control is None:
            raise InputError(f"probe {name!r} needs the retrained model of the plan; give it again: control=…")
