"""Run a study: load, then for each method and seed unlearn, score, attribute, diff, recover, judge; then report.

Every part is written to disk as it is finished and is found there again when the same study is run once more, as long
as what it depends on (configuration, weights, data, versions) is the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from unpact_lens import attribution, comparison, recovery, unlearning
from unpact_lens.attribution import Attribution, TopK
from unpact_lens.comparison.focus import focus
from unpact_lens.data.benchmark import QA, Benchmark
from unpact_lens.data.load import load_benchmark
from unpact_lens.errors import InputError
from unpact_lens.evaluation import evaluate, known_facts, prefill_for, verdict
from unpact_lens.evaluation.result import Scores
from unpact_lens.models.checkpoint import model_hash, save_model
from unpact_lens.models.load import load_model
from unpact_lens.recovery import RecoveryPlan
from unpact_lens.report import write_report
from unpact_lens.results import Result, load, save, versions, write_text
from unpact_lens.study.config import MethodConfig, StudyConfig
from unpact_lens.study.phrasings import split_phrasings
from unpact_lens.study.result import Cell, Study
from unpact_lens.unlearning.early_stopping import FactsKnown
from unpact_lens.unlearning.settings import Settings, split

R = TypeVar("R", bound="Result | Benchmark")


def run_study(config: StudyConfig, out: str | os.PathLike[str], *, progress: bool = True) -> Study:
    """Run what is not finished yet, write everything, and return it.

    Args:
        config: what to run; see `load_config`.
        out: directory of the results: `result.json` and tensors of the whole study, `cells/<method>-seed<n>/`,
            `table.csv` and `report.html`.
        progress: show a bar on stderr (only where that is a terminal; a line for each step elsewhere).

    Returns:
        The study.

    Raises:
        InputError: before any model is loaded, if a method, setting, template or benchmark is unknown; or later, if
            the model knows none of the facts.
    """
    folder = Path(out)
    for method in config.methods:
        chosen = unlearning.METHODS[method.name]
        split(method.settings, chosen.defaults, chosen.options)
    recovery.check_templates(config.recovery.templates, config.recovery.headline)
    recovery.check_added(config.recovery.added, headline=config.recovery.headline)
    with arithmetic(config), step_bar(config, progress) as step:
        space = Workspace(config, folder, step)
        cells = tuple(space.cell(m, seed) for seed in config.seeds for m in config.methods)
        study = Study(
            config=config.model_dump(mode="json"),
            before=space.before,
            control=space.control_scores,
            cells=cells,
            notes=space.notes,
            seconds=sum(c.seconds for c in cells),
            environment={"versions": versions(), "threads": torch.get_num_threads(), "model": space.hash},
        )
        step("writing the report")
        save(study, folder)
        write_text(folder / "table.csv", study.to_frame().to_csv(index=False))
        write_report(study, folder / "report.html")
    return study


@dataclass
class Workspace:
    """What the cells of a study share, each part made when first needed and kept on disk.

    Attributes:
        config: of the study.
        folder: where it is written.
        step: told what is being done.
    """

    config: StudyConfig
    folder: Path
    step: Callable[[str], None]

    @cached_property
    def model(self) -> Any:
        """The model before."""
        self.step(f"loading {self.config.model}")
        return self._load(self.config.model)

    @cached_property
    def control(self) -> Any | None:
        """The model that never saw the forget set."""
        return self._load(self.config.control) if self.config.control else None

    def _load(self, spec: str) -> Any:
        how = self.config.load
        dtype = getattr(torch, how.dtype) if how.dtype else None
        return load_model(spec, wrap=self.config.wrap, device=how.device, dtype=dtype)

    @cached_property
    def hash(self) -> str:
        """Of the weights before."""
        return model_hash(self.model)

    @cached_property
    def loaded(self) -> Benchmark:
        """The benchmark, cut down to known facts if asked for."""
        bench = load_benchmark(self.config.benchmark, **self.config.benchmark_options)
        if self.config.unlearn_from == "corpus" and bench.forget_corpus is None:
            raise InputError(f"unlearn_from: corpus, but benchmark {bench.name!r} has no forget corpus; use questions")
        recovery.check_added(self.config.recovery.added, headline=self.config.recovery.headline, bench=bench)
        if self.config.known_only:
            self.step("asking the model what it knows")
            part, budget = self.fingerprint("known", asdict(bench)), self.config.batch_tokens
            bench = self.kept("known", part, lambda: known_facts(self.model, bench, batch_tokens=budget))
        if not bench.forget:
            raise InputError(f"{self.config.model} knows none of the forget facts of {self.config.benchmark}")
        return bench

    @cached_property
    def bench(self) -> Benchmark:
        """What is scored and probed."""
        return split_phrasings(self.loaded, self.config.hold_out_phrasings)[1]

    @cached_property
    def to_unlearn(self) -> Benchmark:
        """What unlearning sees: the same facts, without the phrasings that are held out."""
        return split_phrasings(self.loaded, self.config.hold_out_phrasings)[0]

    @cached_property
    def trained_away(self) -> dict[str, Any]:
        """What `unlearn` is given to forget, to keep, and to stop by."""
        bench = self.to_unlearn
        if self.config.unlearn_from == "questions":
            return {"forget": bench}
        asked = Settings(chat=bench.chat, prefill=bench.prefill, max_new_tokens=bench.max_new_tokens)
        known = FactsKnown(self.model, bench.forget, asked)
        return {"forget": bench.forget_corpus, "retain": bench.retain_corpus, "forget_score": known}

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the study must know."""
        notes = [f"Benchmark {self.bench.name}: {len(self.bench.forget)} forget, {len(self.bench.near)} near, "
                 f"{len(self.bench.far)} far, {len(self.bench.general)} general facts."]  # fmt: skip
        if self.config.control is None:
            notes.append(
                "No retrain control exists for this model: what a probe gives away is measured on facts that the model "
                "was never taught and on prompts about the wrong subject instead."
            )
        if self.config.recovery.key_tokens != "answer_free":
            whose = "the unlearned model's, " if self.config.recovery.key_tokens == "after" else ""
            notes.append(f"Key tokens are {whose}taken towards the gold answer: recovery is oracle-assisted.")
        return tuple(notes)

    @cached_property
    def before(self) -> Scores:
        """Scores of the model before, beside the control's."""
        self.step("scoring the model before")
        part = self.fingerprint("before", asdict(self.bench))
        return self.kept("before", part, lambda: self._scored(self.model))

    @cached_property
    def control_scores(self) -> Scores | None:
        """Scores of the control."""
        if self.control is None:
            return None
        self.step("scoring the control")
        part = self.fingerprint("control", asdict(self.bench))
        return self.kept("control", part, lambda: self._scored(self.control, before=self.before))

    def _scored(self, model: Any, **beside: Any) -> Scores:
        return evaluate(model, self.bench, batch_tokens=self.config.batch_tokens, **beside)

    @cached_property
    def plan(self) -> RecoveryPlan:
        """Every prompt of the recovery probes, and what the model before and the control answer."""
        self.step("planning recovery")
        options = self.config.recovery
        part = self.fingerprint("plan", asdict(self.bench), options.model_dump())

        def planned() -> RecoveryPlan:
            models = {"before": self.model, "control": self.control}
            return recovery.plan_added(self._plan(), **models, probes=options.added, gain=options.gain)

        return self.kept("plan", part, planned)

    def _plan(self, after: Any = None) -> RecoveryPlan:
        options = self.config.recovery
        return recovery.recovery_plan(
            self.bench,
            before=self.model,
            control=self.control,
            after=after,
            templates=options.templates,
            headline=options.headline,
            key_tokens=options.key_tokens,
            rule=TopK(self.config.contributions.key_tokens),
            probes=options.probes,
            relearn=options.relearn,
            batch_tokens=self.config.batch_tokens,
            progress=False,
        )

    def tracked(self, group: str) -> list[QA]:
        """The facts of a group whose contributions are taken: the first ones."""
        wanted = getattr(self.config.contributions, group)
        return list(getattr(self.bench, group)[:wanted])

    @cached_property
    def contributions(self) -> dict[str, list[Attribution]]:
        """Contributions under the model before."""
        self.step("contributions before")
        return {group: self._attribute(self.model, group) for group in ("forget", "retain")}

    def _attribute(self, model: Any, group: str) -> list[Attribution]:
        facts = self.tracked(group)
        if not facts:
            return []
        prefills = [prefill_for(self.bench, q) for q in facts]
        return attribution.attribute_many(model, facts, chat=self.bench.chat, prefill=prefills, progress=False)

    def cell(self, method: MethodConfig, seed: int) -> Cell:
        """One method with one seed, from disk if it is finished there."""
        return self.kept(*self._cell(method, seed), lambda: self._run(method, seed))

    def finished(self, method: MethodConfig, seed: int) -> bool:
        """Whether that cell stands on disk, of just these settings."""
        return self._stands(*self._cell(method, seed))

    def _cell(self, method: MethodConfig, seed: int) -> tuple[str, str]:
        """Where a cell is kept, and its fingerprint."""
        rest = self.config.model_dump(exclude={"methods", "seeds"})
        part = self.fingerprint("cell", asdict(self.bench), method.model_dump(), seed, rest)
        return f"cells/{method.name}-seed{seed}", part

    def _run(self, method: MethodConfig, seed: int) -> Cell:
        config, bench, name = self.config, self.bench, method.name
        before, contributions = self.before, self.contributions
        shared = None if config.recovery.key_tokens == "after" else self.plan
        started = time.monotonic()

        self.step(f"{name}: unlearning")
        unlearned = unlearning.unlearn(
            self.model, **self.trained_away, method=name, seed=seed, stop_at=config.forget_level, progress=False,
            **method.settings,
        )  # fmt: skip
        after = unlearned.model

        self.step(f"{name}: scoring")
        scores = self._scored(after, before=before, reference=self.control_scores)

        self.step(f"{name}: contributions")
        rule = TopK(config.contributions.key_tokens)
        shift = focus(contributions["forget"], self._attribute(after, "forget"), rule)
        kept = contributions["retain"]
        shift_retain = focus(kept, self._attribute(after, "retain"), rule) if kept else None

        self.step(f"{name}: exact diffs")
        diffs = tuple(
            comparison.diff(
                self.model, after, q.prompt, q.answer, chat=bench.chat, prefill=prefill_for(bench, q), weights=False
            )
            for q in bench.forget[: config.diff_examples]
        )

        self.step(f"{name}: recovery")
        plan = shared or self._plan(after)
        recovered = recovery.run_plan(after, plan, progress=False)
        if config.recovery.added:
            recovered = recovery.add_probes(
                recovered, plan, after, before=self.model, control=self.control, probes=config.recovery.added,
                gain=config.recovery.gain,
            )  # fmt: skip
        judged = verdict(scores.forgetting, scores.destruction, recovered.excesses, epsilon=config.epsilon)
        if config.save_models:
            save_model(after, self.folder / "models" / f"{name}-seed{seed}")
        return Cell(
            method=name,
            seed=seed,
            scores=scores,
            recovery=recovered,
            focus=shift,
            focus_retain=shift_retain,
            diffs=diffs,
            verdict=judged,
            history=unlearned.history,
            stopped=unlearned.stopped,
            settings=unlearned.config,
            seconds=time.monotonic() - started,
        )

    def fingerprint(self, *parts: Any) -> str:
        """Of what a part depends on, the weights before, the versions and the arithmetic included."""
        text = json.dumps([self.hash, versions(), self.config.matmul_precision, *parts], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    def kept(self, name: str, fingerprint: str, compute: Callable[[], R]) -> R:
        """A part from disk, if it is finished and depends on the same; else computed and written."""
        folder = self.folder / name
        if self._stands(name, fingerprint):
            return load(folder)
        mark = folder / "fingerprint"
        mark.unlink(missing_ok=True)
        if folder.exists():
            shutil.rmtree(folder)
        result = compute()
        save(result, folder)
        write_text(mark, fingerprint)
        return result

    def _stands(self, name: str, fingerprint: str) -> bool:
        mark = self.folder / name / "fingerprint"
        return mark.is_file() and mark.read_text() == fingerprint


@contextmanager
def arithmetic(config: StudyConfig) -> Iterator[None]:
    """Torch with the threads and the precision of products that a study asks for, then as before."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_num_threads(config.threads or threads)
    torch.set_float32_matmul_precision(config.matmul_precision)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)


@contextmanager
def step_bar(config: StudyConfig, progress: bool) -> Iterator[Callable[[str], None]]:
    """A bar that moves one mark a step on a terminal, a line a step elsewhere, nothing if not asked for."""
    console = Console(stderr=True)
    if not progress:
        yield lambda text: None
        return
    if not sys.stderr.isatty():
        yield lambda text: print(text, file=sys.stderr, flush=True)
        return
    total = 5 * len(config.methods) * len(config.seeds) + 6
    columns = (TextColumn("{task.description:<32}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=total)

        def step(text: str) -> None:
            bar.update(task, description=text, advance=1)

        yield step
