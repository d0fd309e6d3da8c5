"""Audit an unlearned model: two or three models and some facts in, a verdict in plain words and a report out."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from typing_extensions import TypedDict, Unpack

from unpact_lens.auditing.answer_store import ANSWERS, AnswerFile
from unpact_lens.auditing.audit_run import AuditRun
from unpact_lens.auditing.budget import Budget, budget_named, measure_speed, planned_costs
from unpact_lens.auditing.fact_table import FEWEST, AuditFacts, FactTable, read_facts, with_wrong_subjects
from unpact_lens.auditing.general_facts import general_facts, plain_text
from unpact_lens.auditing.given_model import AFTER, BEFORE, CONTROL, ROLES, GivenModel, GivenModels, ModelSource
from unpact_lens.auditing.known_facts import ask_until_known, best_way_to_ask, drawn
from unpact_lens.auditing.output_folder import open_audit_folder, write_outputs
from unpact_lens.auditing.result import GENERAL, GIVEN, Audit, destruction_of, remaining_excess
from unpact_lens.data.benchmark import Benchmark
from unpact_lens.data.load import load_benchmark
from unpact_lens.data.splits import Facts, RetainSplit, SplitRequest
from unpact_lens.errors import InputError
from unpact_lens.evaluation.answers import answers_kept_in
from unpact_lens.evaluation.result import Scores
from unpact_lens.evaluation.verdict import EPSILON, LABELS, Verdict, verdict
from unpact_lens.models.batches import check_batch_tokens
from unpact_lens.models.tokens import document_ids
from unpact_lens.progress import step_bar
from unpact_lens.results import versions
from unpact_lens.source_hash import source_hash
from unpact_lens.stats.estimate import Estimate, Rate

KNOWS = 0.5
"""A control that gives this share of the forget facts is refused: it learned them."""

GUESSES = 0.2
"""A control that gives this share of the forget facts is noted."""

SEEN_WAYS = ("split", "all", "none")
"""Which retain facts of a benchmark the unlearner is taken to have seen."""


class AuditOptions(TypedDict, total=False):
    """Keyword arguments of `audit` beside models and facts.

    Attributes:
        budget: `"quick"`, `"standard"` (default) or `"full"`: meant for 1, 10 and 60 minutes with 135 million
            weights on two CPU cores. A larger budget reads what a smaller one left in `out`.
        out: Directory of the outputs and of all parts, from which an interrupted audit goes on. If None, nothing is
            kept.
        name: Name of the audited model. Default: its path or hub id.
        benchmark: Name of a benchmark in place of `facts`, as `load_benchmark` takes it.
        data: Directory or file of the benchmark's data.
        seen: Which retain facts of a benchmark the unlearner saw: `"split"` (default; the trained part of the split),
            `"all"` or `"none"`.
        chat: Use the tokenizer's chat template. If None, the way under which more facts are known.
        prefill: Text that each answer starts with. May hold `{subject}`.
        max_new_tokens: Maximum length of a generated answer, in tokens. Default 24.
        epsilon: Tolerance of the verdict. Default 0.1.
        seed: Random seed of every draw. Default 0.
        wrap: `"hooked"`, `"bridge"` or `"auto"` (default), as in `load_model`.
        device: Device of the models. If None, CUDA if available.
        batch_tokens: Largest number of input tokens in one forward pass. Default: None, which is 4096, or less
            where the free memory is small. It is chosen once; `settings` of the result has the number.
        progress: If True (default), show the costs and the steps on stderr.
        command: Command to record. Default: the call.
    """

    budget: str | Budget
    out: str | os.PathLike[str] | None
    name: str | None
    benchmark: str | None
    data: str | os.PathLike[str] | None
    seen: str
    chat: bool | None
    prefill: str
    max_new_tokens: int
    epsilon: float
    seed: int
    wrap: str
    device: str | None
    batch_tokens: int | None
    progress: bool
    command: str


@dataclass(frozen=True)
class Asked:
    """Hold the checked options of `AuditOptions` with their defaults."""

    budget: str | Budget = "standard"
    out: str | os.PathLike[str] | None = None
    name: str | None = None
    benchmark: str | None = None
    data: str | os.PathLike[str] | None = None
    seen: str = "split"
    chat: bool | None = None
    prefill: str = ""
    max_new_tokens: int = 24
    epsilon: float = EPSILON
    seed: int = 0
    wrap: str = "auto"
    device: str | None = None
    batch_tokens: int | None = None
    progress: bool = True
    command: str = ""

    def __post_init__(self) -> None:
        budget_named(self.budget)
        check_batch_tokens(self.batch_tokens)
        if self.seen not in SEEN_WAYS:
            raise InputError(f"seen={self.seen!r}; give {', '.join(map(repr, SEEN_WAYS))}")
        if not 0 < self.epsilon < 1:
            raise InputError(f"epsilon={self.epsilon}; the tolerance must lie between 0 and 1, e.g. 0.1")


def audit(
    after: ModelSource,
    *,
    before: ModelSource | None = None,
    control: ModelSource | None = None,
    facts: AuditFacts | None = None,
    **options: Unpack[AuditOptions],
) -> Audit:
    """Judge whether an unlearned model erased, hid or destroyed facts, whoever unlearned it and how.

    Parts that lack an input are left out, and `Audit.left_out` says why: without the original model there is no F, and
    all facts are taken to have been known; without a retrained model, excess is measured against questions about the
    wrong subject and facts that nobody knew; without unseen facts, destruction is measured on general facts that are
    shipped.

    Args:
        after: Unlearned model: a directory, a hub id (also with `@revision`), a PEFT adapter, a live model, a pair of a
            live Hugging Face model and its tokenizer, or an `Endpoint`.
        before: Original model, in the same forms.
        control: Retrained model, which never saw the facts, in the same forms.
        facts: Facts that should be gone, and facts to keep: a CSV, JSON, JSONL or Parquet file, a DataFrame, a
            `datasets.Dataset`, a list of dicts or pairs, or a `Benchmark`. See `unpact_lens.auditing.read_facts`.
        **options: Budget, outputs and the way of asking; see `AuditOptions`.

    Returns:
        The audit. With `out`, `audit.json`, `report.html`, `card.md` and `table.csv` are written as well.

    Raises:
        InputError: If a model or a fact is wrong, fewer than ten facts are known, or the control knows the facts.
            Models and facts are checked before anything is loaded.

    >>> import unpact_lens as ul
    >>> bench = ul.load_benchmark("builtin")
    >>> a = audit("builtin-retrain", before="builtin", facts=bench, budget="quick", progress=False)
    >>> a.verdict.labels
    ('undecided',)
    """
    asked = Asked(**options)
    if after is None:
        raise InputError("after=None; give the unlearned model: a directory, a hub id, a live model or an Endpoint")
    given = {AFTER: after, BEFORE: before, CONTROL: control}
    models = GivenModels(
        {r: GivenModel(r, m, asked.wrap, asked.device) for r, m in given.items() if m is not None}
    )  # fmt: skip
    _check_endpoints(models)
    table = _facts(facts, asked)
    with _folder(asked.out) as folder, step_bar("audit", 40, shown=asked.progress) as step:
        return _audited(models, table, asked, folder, step)


def _check_endpoints(models: GivenModels) -> None:
    """Refuse endpoints where weights cannot be done without.

    Raises:
        InputError: If the original model is an endpoint, or there is none beside an endpoint.
    """
    if BEFORE in models and models[BEFORE].endpoint is not None:
        raise InputError("the original model is an endpoint; give its weights as before=, or leave it out")
    if models[AFTER].endpoint is not None and BEFORE not in models:
        raise InputError(
            "the unlearned model is an endpoint, so the original model must say which words are key and which facts "
            "were known; give before="
        )


def _audited(models: GivenModels, table: FactTable, asked: Asked, folder: Path, step: Callable[[str], None]) -> Audit:
    """Run an audit whose inputs are checked."""
    started = time.monotonic()
    store = AnswerFile(folder / ANSWERS)
    run = AuditRun(
        models=models, bench=table.bench, budget=budget_named(asked.budget), folder=folder,
        name=asked.name or _name_of(models), seed=asked.seed, given_batch_tokens=asked.batch_tokens, step=step,
        store=store, notes=list(table.notes),
    )  # fmt: skip
    with answers_kept_in(store):
        counts = prepare(run, table, asked)
        show_costs(run, asked)
        # The steps are in an order in which each model is loaded as seldom as can be.
        before, control = fixed_scores(run)
        if BEFORE in models:
            for items in run.looked_at:
                run.attributed(BEFORE, items)
        _ = run.planned
        run.prepare_probes()
        scores, kept_facts = scored(run, before, control)
        focus, focus_kept = run.focus()
        recovery = run.recovered()
        internals = run.comparable()
        diffs = run.diffs() if internals else ()
        depth = run.depth() if internals else None
        grafts = run.grafts() if internals else ()
    judged = verdict(_forgetting(scores), destruction_of(scores), recovery.excesses, epsilon=asked.epsilon)
    if BEFORE not in models:
        judged = with_remaining(judged, remaining_excess(scores[AFTER], scores.get(CONTROL)))
    found = Audit(
        name=run.name,
        budget=run.budget.name,
        models={role: model.origin for role, model in models.given.items()},
        counts=counts,
        scores=scores,
        recovery=recovery,
        focus=focus,
        focus_kept=focus_kept,
        diffs=diffs,
        depth=depth,
        grafts=grafts,
        verdict=judged,
        kept_facts=kept_facts,
        left_out=dict(run.left_out),
        notes=tuple(run.notes),
        settings={
            "budget": asdict(run.budget), "seed": asked.seed, "epsilon": asked.epsilon, "chat": run.bench.chat,
            "prefill": run.bench.prefill, "max_new_tokens": run.bench.max_new_tokens, "stop": list(run.bench.stop),
            "batch_tokens": run.batch_tokens, "wrap": asked.wrap, "seen": asked.seen,
            "command": asked.command or "unpact_lens.audit(...)",
        },
        data={"source": table.source, "sha256": table.sha256, **({"path": table.path} if table.path else {})},
        seconds={**run.seconds, "total": time.monotonic() - started},
        environment={"versions": versions(), "threads": torch.get_num_threads(), "source": source_hash()},
    )  # fmt: skip
    if asked.out is not None:
        step("writing the report")
        write_outputs(found, folder)
    return found


def prepare(run: AuditRun, table: FactTable, asked: Asked) -> dict[str, int]:
    """Choose how to ask and which facts, and refuse too few known facts and a control that knows them.

    Args:
        run: Audit. Its benchmark is reduced to the facts that are asked.
        table: All facts.
        asked: Options.

    Returns:
        Number of facts of each group.
    """
    budget, bench = run.budget, table.bench
    role = BEFORE if BEFORE in run.models else AFTER
    model = run.one(role)
    run.step(f"asking what the {ROLES[role]} knows")
    bench = best_way_to_ask(model, bench, asked.chat, run.notes, run.batch_tokens)
    if bench.plain_text is None:
        bench = replace(bench, plain_text=plain_text())
    if not bench.unseen:
        bench = replace(bench, unseen=general_facts(), retain_split=RetainSplit((0.0, 0.0, 1.0)))
        run.notes.append("No unseen facts were given: destruction D is measured on general facts that are shipped.")
    how = {"seed": asked.seed, "batch_tokens": run.batch_tokens}
    if BEFORE in run.models:
        forget, unknown = ask_until_known(model, bench, bench.forget, budget.forget, **how)
        if len(forget) < FEWEST:
            raise InputError(_too_few(len(forget), len(forget) + len(unknown), bench))
        if unknown:
            run.notes.append(
                f"The original model does not give {len(unknown)} of {len(forget) + len(unknown)} forget facts; they "
                "are excluded and serve as facts that nobody knows."
            )
        unseen = ask_until_known(model, bench, bench.unseen, budget.kept, **how)[0]
        retain = ask_until_known(model, bench, bench.retain, budget.kept, **how)[0]
        if len(unseen) < FEWEST:
            run.notes.append(
                f"The original model knows {len(unseen)} of the unseen facts, fewer than {FEWEST}: destruction D is "
                "undefined. Give facts of group 'unseen' that it knows."
            )
            unseen = ()
        unknown = tuple(replace(q, group="unknown") for q in unknown)
    else:
        forget, unknown = tuple(drawn(bench.forget, asked.seed)[: budget.forget]), ()
        unseen, retain = (tuple(drawn(q, asked.seed)[: budget.kept]) for q in (bench.unseen, bench.retain))
        if len(forget) < FEWEST:
            raise InputError(_too_few(len(forget), len(forget), bench))
        run.notes.append(
            "No original model was given: F is undefined, and every fact is taken to have been known before."
        )
        run.left_out["forgetting"] = "needs the original model (--before)"
    if CONTROL not in run.models:
        run.notes.append("No retrained model was given: excess is measured against stand-ins.")
    run.bench = replace(
        bench, forget=forget, retain=Facts(retain), unseen=Facts(unseen), validation=Facts(), general=(),
        unknown=(*unknown, *bench.unknown)[: len(forget)],
    )  # fmt: skip
    return {"forget": len(forget), "unknown": len(unknown), "retain": len(retain), "unseen": len(unseen)}


def _too_few(known: int, asked: int, bench: Benchmark) -> str:
    lacking = FEWEST - known
    way = "chat=False" if bench.chat else "chat=True or prefill="
    if known == asked:
        return f"{known} forget facts are given, and an audit needs {FEWEST}; add at least {lacking} more"
    return (
        f"the original model gives {known} of the {asked} forget facts, and an audit needs {FEWEST} that it knows; add "
        f"at least {lacking} facts that it knows, or ask with {way}"
    )


def show_costs(run: AuditRun, asked: Asked) -> None:
    """Measure the speed of a model in this process, and print what each part is expected to cost.

    Args:
        run: Audit with the facts that are asked.
        asked: Options.
    """
    role = next((r for r in (BEFORE, AFTER) if r in run.models and run.models[r].endpoint is None), None)
    if role is None:
        return
    run.step("measuring the speed")
    model = run.one(role)
    speed = measure_speed(model, run.bench, run.bench.forget, run.batch_tokens)
    counts = {g: len(getattr(run.bench, g)) for g in ("forget", "retain", "unseen")}
    counts["unknown"] = 0 if CONTROL in run.models else len(run.bench.unknown)
    texts = run.bench.plain_text.texts if run.bench.plain_text is not None else ()
    counts["text"] = sum(len(document_ids(model, text, "plain text")[1]) for text in texts)
    others = [m for r, m in run.models.given.items() if r != role and m.endpoint is None and not m.loaded]
    loading = run.models[role].seconds * len(others)
    rows = 2 * len(run.budget.templates) + 4
    costs = planned_costs(run.budget, speed, counts, len(run.models.given), rows, loading)
    total = float(costs["seconds"].sum())
    run.seconds["estimated"] = total
    if asked.progress:
        listed = "\n".join(f"  {r['part']:<22} {_minutes(r['seconds'])}" for r in costs.to_dict("records"))
        title = (
            f"budget {run.budget.name}: about {_minutes(total)} at the measured speed, beside the report; finished "
            "parts are read again"
        )
        print(f"{title}\n{listed}", file=sys.stderr, flush=True)


def fixed_scores(run: AuditRun) -> tuple[Scores | None, Scores | None]:
    """Score the original and the retrained model, and check the latter before anything long.

    Args:
        run: Audit with the facts that are asked.

    Returns:
        Their scores; None for a model that was not given.
    """
    before = run.scores(BEFORE) if BEFORE in run.models else None
    control = run.scores(CONTROL, before=before) if CONTROL in run.models else None
    if control is not None:
        asked = control.among("forget") if before is None else before.right & before.among("forget")
        check_control(Rate.of(control.right, control.subjects, among=asked), run.notes)
    return before, control


def scored(run: AuditRun, before: Scores | None, control: Scores | None) -> tuple[dict[str, Scores], str]:
    """Score the unlearned model.

    Args:
        run: Audit with the facts that are asked.
        before: Scores of the original model.
        control: Scores of the retrained model.

    Returns:
        Scores by role, and what destruction is measured on.
    """
    after = run.scores(AFTER, before=before, reference=control)
    found = {AFTER: after, BEFORE: before, CONTROL: control}
    shipped = any(i.startswith("general knowledge/") for i in after.ids)
    return {role: s for role, s in found.items() if s is not None}, GENERAL if shipped else GIVEN


def check_control(knows: Estimate, notes: list[str]) -> None:
    """Refuse a control that knows the facts, and note one that may.

    Args:
        knows: Share of the forget facts that it gives.
        notes: Notes of the audit.

    Raises:
        InputError: If it gives half of them or more.
    """
    share = f"{100 * knows.value:.0f}%"
    if knows.value >= KNOWS:
        raise InputError(
            f"this control gives {share} of the forget facts: it is no retrained model; give one that was trained "
            "without them, or leave control= out"
        )
    if knows.value >= GUESSES:
        notes.append(f"The retrained model gives {share} of the forget facts, by guessing or because it saw them.")


def _forgetting(scores: dict[str, Scores]) -> Estimate:
    after = scores[AFTER]
    return Rate(0, 0) if after.values_before is None else after.forgetting


def with_remaining(judged: Verdict, remaining: Estimate) -> Verdict:
    """Add *insufficient* to a verdict without F, if the facts that are still given are more than tolerated.

    Args:
        judged: Verdict.
        remaining: Share of the forget facts that are still given, beyond those of the retrained model.
    """
    if not remaining.n or remaining.low <= judged.epsilon:
        return judged
    reasons = {"insufficient": f"facts still given {remaining}", **judged.reasons}
    reasons.pop("undecided", None)
    return replace(judged, labels=tuple(label for label in LABELS if label in reasons), reasons=reasons)


def _facts(facts: AuditFacts | None, asked: Asked) -> FactTable:
    """Read the facts or the benchmark."""
    if (facts is None) == (asked.benchmark is None):
        raise InputError("give either facts= (a table) or benchmark= (a name), so that the audit knows what to ask")
    ways: dict[str, SplitRequest] = {"split": "auto", "all": None, "none": (0.0, 0.0, 1.0)}
    split = ways[asked.seen]
    if facts is None:
        bench = load_benchmark(str(asked.benchmark), path=asked.data, retain_split=split)
        return FactTable(with_wrong_subjects(_as_asked(bench, asked)), bench.name, _of_split(bench, asked))
    if isinstance(facts, Benchmark):
        bench = facts if asked.seen == "split" else facts.split(split)
        return FactTable(with_wrong_subjects(_as_asked(bench, asked)), bench.name, _of_split(bench, asked))
    return read_facts(facts, chat=bool(asked.chat), prefill=asked.prefill, max_new_tokens=asked.max_new_tokens)


def _as_asked(bench: Benchmark, asked: Asked) -> Benchmark:
    """Return a benchmark with the answer prefix that was given, if one was."""
    return replace(bench, prefill=asked.prefill) if asked.prefill else bench


def _of_split(bench: Benchmark, asked: Asked) -> tuple[str, ...]:
    if not bench.unseen:
        return ()
    if asked.seen == "none":
        return ("The unlearner is taken to have seen none of the retain facts (seen='none').",)
    return (
        f"Destruction D is measured on the {len(bench.unseen)} retain facts of the unseen part of the split. If the "
        "unlearner trained on them as well, D is too low: say so by seen='all'.",
    )


def _name_of(models: GivenModels) -> str:
    source = models[AFTER].source
    if isinstance(source, (str, os.PathLike)):
        return Path(os.fspath(source)).name or os.fspath(source)
    return "unlearned model"


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


@contextmanager
def _folder(out: str | os.PathLike[str] | None) -> Iterator[Path]:
    """Provide the directory of the parts: the one that was given, or one that is removed afterwards."""
    if out is None:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
    else:
        yield open_audit_folder(out)
