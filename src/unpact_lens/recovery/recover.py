"""Recovery in two steps: a plan, fixed and answered by the models before once, and its run on an unlearned model.

1. Write every prompt down (emphasis on the KeyTokens, as a rule those of the model before; controls; prefill).
2. Leave out facts that a prompt gives away, and templates that the model before itself cannot answer under.
3. Ask the model before and the retrain model; relearn the retrain model.
4. For each unlearned model: ask the plain prompts, find the common set, ask the rest of it, relearn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from unpact_lens.attribution import KeyRule, TopK
from unpact_lens.data.benchmark import QA, Benchmark, check_unique_ids
from unpact_lens.data.emphasis import HEADLINE
from unpact_lens.errors import InputError, nearest
from unpact_lens.models.tokens import DEFAULT_BATCH_TOKENS
from unpact_lens.recovery.controls import fillers_of
from unpact_lens.recovery.outcome import outcome_of
from unpact_lens.recovery.plan import RecoveryPlan
from unpact_lens.recovery.probes.emphasis import AFTER, ANSWER_FREE, KEY_SOURCES, check_templates, key_words
from unpact_lens.recovery.probes.relearn import check_relearn, taught_facts
from unpact_lens.recovery.result import (
    CONTROL_FAMILY,
    PARAPHRASE,
    PREFILL,
    PROBE_FAMILY,
    RANDOM_WORDS,
    RELEARN,
    UNRELATED,
    WRONG_SUBJECT,
    Recovery,
)
from unpact_lens.recovery.sheet import Sheet, ask_sheet, family_of, plain_sheet, write_sheet

PROBES = (PREFILL, RELEARN)
"""Probes beyond emphasis."""

DEFAULT_RULE = TopK(3)
"""Which tokens are key unless another rule is asked for."""

MIN_BEFORE = 0.7
"""A template other than the headline is compared only if the model before answers at least this share under it."""


def recovery_plan(
    bench: Benchmark,
    *,
    before: Any,
    control: Any = None,
    after: Any = None,
    templates: Sequence[str] | None = None,
    headline: str = HEADLINE,
    rule: KeyRule = DEFAULT_RULE,
    key_tokens: str = "oracle",
    probes: Sequence[str] = PROBES,
    relearn: Mapping[str, Any] | None = None,
    min_before: float = MIN_BEFORE,
    n_examples: int = 3,
    seed: int = 0,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
    progress: bool = True,
) -> RecoveryPlan:
    """Fix every prompt of a recovery run, and ask the models that do not change.

    Args:
        bench: forget facts; its `unknown` facts that the model before gets wrong stand in for a retrain model.
        before: the model before unlearning.
        control: the retrain model; None where there is none.
        after: the unlearned model, needed where its own KeyTokens are wanted (`key_tokens="after"`): the plan is then
            one for that model alone.
        templates: names of the emphasis templates; None for all.
        headline: the template whose rate is R, chosen before the run.
        rule: which tokens are key.
        key_tokens: `"oracle"` (of the model before, towards the gold answer), `"answer_free"` (towards what it answers
            itself) or `"after"` (of the unlearned model, towards the gold answer).
        probes: of `PROBES`.
        relearn: settings of relearning: `share`, and those of the unlearning trainer (`lr`, `steps`, ...).
        min_before: a template other than the headline under which the model before answers a smaller share is set
            apart, and not compared.
        n_examples: for how many facts, drawn by the seed, the answers are kept.
        seed: of every draw.
        batch_tokens: bound on the tokens of one batch.
        progress: say on stderr what is being done.

    Returns:
        The plan.

    Raises:
        InputError: if a template, probe or setting is unknown, ids occur twice, there are no forget facts, or the
            unlearned model is wanted and not given.
    """
    chosen = check_templates(templates, headline)
    _check_probes(probes)
    items = bench.forget
    if not items:
        raise InputError(f"benchmark {bench.name!r} has no forget facts to recover")
    check_unique_ids(items)
    share, teaching = check_relearn(relearn or {}, before)
    if key_tokens not in KEY_SOURCES:
        raise InputError(f"key_tokens={key_tokens!r}; {nearest(str(key_tokens), KEY_SOURCES)}")
    if key_tokens == AFTER and after is None:
        raise InputError("key_tokens='after' are those of the unlearned model; give it: recovery_plan(after=…)")
    if not 0 <= min_before <= 1:
        raise InputError(f"min_before={min_before}; give a share between 0 and 1")

    with _saying(progress) as say:
        say(f"key tokens of the {'unlearned model' if key_tokens == AFTER else 'model before'}")
        unknown = bench.unknown[: len(items)] if control is None else ()
        keys = key_words(
            after if key_tokens == AFTER else before, (*items, *unknown), bench, rule=rule, key_tokens=key_tokens,
            batch_tokens=batch_tokens, progress=False,
        )  # fmt: skip
        write: dict[str, Any] = {
            "templates": chosen, "headline": headline, "fillers": fillers_of(bench), "seed": seed,
            "prefill": PREFILL in probes,
        }  # fmt: skip
        full = write_sheet(items, keys[: len(items)], bench, **write)

        say(f"asking the model before {int(full.asked.sum())} prompts")
        plain = plain_sheet(items, bench)
        plain_before = ask_sheet(before, plain, plain.asked, bench, batch_tokens)[0][0]
        right_before = ask_sheet(before, full, full.asked, bench, batch_tokens)[0]
        apart = _set_apart(full, right_before, plain_before, chosen, headline, min_before)
        rows = [r for r in full.rows if r.removeprefix(f"{RANDOM_WORDS}:") not in apart]
        sheet = full.only(rows)
        never = _never_known(before, unknown, keys[len(items) :], bench, rows, write, batch_tokens)
        taught = taught_facts(items, share=share, seed=seed) if RELEARN in probes else (False,) * len(items)
        plan = RecoveryPlan(
            bench=replace(bench, forget=items, retain=(), general=(), unknown=never.items, forget_corpus=None,
                          retain_corpus=None, plain_text=None),
            sheet=sheet,
            never_sheet=never,
            keys=tuple(keys[: len(items)]),
            headline=headline,
            oracle=key_tokens != ANSWER_FREE,
            excluded={**plain.leaking(), **sheet.leaking()},
            set_apart=apart,
            plain_before=plain_before,
            right_before=right_before[[full.rows.index(r) for r in rows]],
            plain_control=None,
            right_control=None,
            taught=torch.tensor(taught),
            relearn=teaching if any(taught) else None,
            settings={
                "rule": rule, "key_tokens": key_tokens, "templates": chosen, "seed": seed, "min_before": min_before,
                "n_examples": n_examples, "batch_tokens": batch_tokens, "threads": torch.get_num_threads(),
                "left_out": tuple(sorted({UNRELATED, PARAPHRASE, WRONG_SUBJECT, *probes} - {RELEARN} - set(full.rows))),
            },
        )  # fmt: skip
        if control is None:
            return plan
        say("asking the control")
        outcome = outcome_of(control, plan, batch_tokens)
        return replace(plan, plain_control=outcome.plain, right_control=outcome.right)


def run_plan(model: Any, plan: RecoveryPlan, *, batch_tokens: int | None = None, progress: bool = True) -> Recovery:
    """Run a plan on an unlearned model.

    Only facts of the common set are asked beyond the plain prompt, and those shown as examples.

    Args:
        model: the model after unlearning; it is not changed.
        plan: of `recovery_plan`.
        batch_tokens: bound on the tokens of one batch; None for that of the plan.
        progress: say on stderr what is being done.
    """
    budget = batch_tokens or plan.settings["batch_tokens"]
    with _saying(progress) as say:
        say("asking the unlearned model")
        outcome = outcome_of(model, plan, budget, skip_right=True)
    rows = plan.sheet.rows if plan.relearn is None else (*plan.sheet.rows, RELEARN)
    before, asked, never_asked = plan.right_before, plan.sheet.asked, plan.never_sheet.asked
    if plan.relearn is not None:
        before = torch.cat([before, plan.plain_before[None]])
        asked = torch.cat([asked, ~plan.taught[None]])
        never_asked = torch.cat([never_asked, torch.ones_like(never_asked[:1])])
    items = plan.sheet.items
    return Recovery(
        probes=rows,
        families=tuple(PROBE_FAMILY if r == RELEARN else family_of(r) for r in rows),
        items=tuple(q.id for q in items),
        subjects=tuple(q.subject or q.id for q in items),
        kinds=tuple(q.kind for q in items),
        asked=asked,
        compared=plan.compared,
        right_before=before,
        right_after=outcome.right,
        right_control=plan.right_control,
        plain_before=plan.plain_before,
        plain_after=outcome.plain,
        plain_control=plan.plain_control,
        excluded=plan.excluded,
        set_apart=plan.set_apart,
        oracle=plan.oracle,
        headline=plan.headline,
        never_items=tuple(q.id for q in plan.never_sheet.items),
        never_asked=never_asked,
        never_right=outcome.never,
        examples=outcome.examples,
        settings={
            **plan.settings,
            "batch_tokens": budget,
            "relearn": plan.relearn,
            "relearn_taught": int(plan.taught.sum()),
            "relearn_taught_right": outcome.taught_right,
        },
    )


def recover(
    model: Any,
    bench: Benchmark,
    *,
    before: Any,
    control: Any = None,
    templates: Sequence[str] | None = None,
    headline: str = HEADLINE,
    rule: KeyRule = DEFAULT_RULE,
    key_tokens: str = "oracle",
    probes: Sequence[str] = PROBES,
    relearn: Mapping[str, Any] | None = None,
    min_before: float = MIN_BEFORE,
    n_examples: int = 3,
    seed: int = 0,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
    progress: bool = True,
) -> Recovery:
    """Try to bring forgotten facts back without changing weights (emphasis, prefill), and with a little (relearning).

    For several unlearned models, make the plan once: `recovery_plan`, then `run_plan` for each.

    Args:
        model: the model after unlearning; it is not changed.
        bench: as for `recovery_plan`, and so for all that follow.
        before: the model before unlearning.
        control: the retrain model, None where there is none.
        templates: names of the emphasis templates.
        headline: the template whose rate is R.
        rule: which tokens are key.
        key_tokens: `"oracle"`, `"answer_free"` or `"after"`; see `recovery_plan`.
        probes: probes beyond emphasis.
        relearn: settings of relearning.
        min_before: share that the model before must answer under a template.
        n_examples: for how many facts the answers are kept.
        seed: of every draw.
        batch_tokens: bound on the tokens of one batch.
        progress: say on stderr what is being done.

    Returns:
        Rates on the common set, net of every control, and excess over the retrain model.

    Raises:
        InputError: if a template, probe or setting is unknown, or there are no forget facts.
    """
    plan = recovery_plan(
        bench, before=before, control=control, after=model, templates=templates, headline=headline, rule=rule,
        key_tokens=key_tokens, probes=probes, relearn=relearn, min_before=min_before, n_examples=n_examples, seed=seed,
        batch_tokens=batch_tokens, progress=progress,
    )  # fmt: skip
    return run_plan(model, plan, progress=progress)


def _set_apart(
    sheet: Sheet, right: Tensor, plain: Tensor, templates: Sequence[str], headline: str, least: float
) -> dict[str, float]:
    """Templates under which the model before answers too few of the facts that it knows, with the share."""
    apart = {}
    for name in templates:
        if name == headline or name not in sheet.rows:
            continue
        row = sheet.rows.index(name)
        counted = plain & sheet.asked[row]
        share = float(right[row][counted].double().mean()) if bool(counted.any()) else 0.0
        if share < least:
            apart[name] = share
    return apart


def _never_known(
    before: Any,
    unknown: Sequence[QA],
    keys: Sequence[Sequence[str]],
    bench: Benchmark,
    rows: Sequence[str],
    write: Mapping[str, Any],
    batch_tokens: int,
) -> Sheet:
    """The prompts, of the rows whose excess is wanted, of facts that the model before gets wrong under all of them."""
    wanted = [r for r in rows if family_of(r) != CONTROL_FAMILY or r == PARAPHRASE]
    if not unknown:
        nothing = ((),) * len(rows)
        return Sheet((), tuple(rows), nothing, nothing)
    written = write_sheet(unknown, keys, bench, **write)
    sheet = written.only([r for r in wanted if r in written.rows])
    right = torch.zeros(len(unknown), dtype=torch.bool)
    barred: dict[str, str] = {}
    for asked in (plain_sheet(unknown, bench), sheet):
        right |= ask_sheet(before, asked, asked.asked, bench, batch_tokens)[0].any(0)
        barred |= asked.leaking()
    kept = [i for i, q in enumerate(unknown) if not bool(right[i]) and q.id not in barred]

    def cells(table: Sequence[Sequence[str]]) -> tuple[tuple[str, ...], ...]:
        of = dict(zip(sheet.rows, table, strict=True))
        return tuple(tuple(of[r][i] if r in of else "" for i in kept) for r in rows)

    return Sheet(tuple(unknown[i] for i in kept), tuple(rows), cells(sheet.prompts), cells(sheet.prefills))


def _check_probes(probes: Sequence[str]) -> None:
    if isinstance(probes, str):
        raise InputError(f"probes={probes!r} is one text; give a list of names, e.g. probes=[{probes!r}]")
    for name in probes:
        if name not in PROBES:
            raise InputError(f"unknown probe {name!r}; {nearest(str(name), PROBES)}")


@contextmanager
def _saying(shown: bool) -> Iterator[Callable[[str], None]]:
    """A line on stderr that says what is being done, silent where that is no terminal."""
    console = Console(stderr=True)
    if not (shown and console.is_terminal):
        yield lambda what: None
        return
    with console.status("recovery") as status:
        yield lambda what: status.update(f"recovery: {what}")
