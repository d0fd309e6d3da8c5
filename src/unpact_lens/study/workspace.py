"""Hold the parts that the cells of a study share: each is made when first needed, and kept on disk.

A part is a directory with a `fingerprint` of all that it depends on: configuration, weights, data and versions. The
fingerprint is written last. A part with the same fingerprint is loaded, any other part is made anew.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch

from unpact_lens import recovery
from unpact_lens.attribution import Attribution, TopK, attribute_many
from unpact_lens.data.benchmark import QA, Benchmark
from unpact_lens.data.load import load_benchmark
from unpact_lens.errors import InputError
from unpact_lens.evaluation import evaluate, known_facts, prefill_for
from unpact_lens.evaluation.result import Scores
from unpact_lens.models.checkpoint import model_hash
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.load import load_model
from unpact_lens.recovery import Probing, ProbingOptions, RecoveryPlan
from unpact_lens.recovery.probes.registry import checked
from unpact_lens.results import Result, load, save, versions, write_text
from unpact_lens.study.config import StudyConfig
from unpact_lens.study.held_out_paraphrases import split_phrasings
from unpact_lens.unlearning.early_stopping import FactsKnown
from unpact_lens.unlearning.settings import Settings

R = TypeVar("R", bound="Result | Benchmark")


@dataclass
class Workspace:
    """Hold the models, the benchmark and the shared results of a study.

    Attributes:
        config: Configuration of the study.
        folder: Directory of its results.
        step: Function that is called with the name of each step.
    """

    config: StudyConfig
    folder: Path
    step: Callable[[str], None]

    @cached_property
    def model(self) -> HookedModel:
        """Original model."""
        self.step(f"loading {self.config.model}")
        return self._load(self.config.model)

    @cached_property
    def control(self) -> HookedModel | None:
        """Retrained model, which never saw the forget set."""
        return self._load(self.config.control) if self.config.control else None

    def _load(self, spec: str) -> HookedModel:
        """Load a model on the device and in the dtype of the configuration."""
        how = self.config.load
        dtype = getattr(torch, how.dtype) if how.dtype else None
        loaded: HookedModel = load_model(spec, wrap=self.config.wrap, device=how.device, dtype=dtype)
        return loaded

    @cached_property
    def hash(self) -> str:
        """Hash of the original model's weights."""
        return model_hash(self.model)

    @cached_property
    def loaded(self) -> Benchmark:
        """Benchmark, reduced to known facts if the configuration says so."""
        bench = load_benchmark(self.config.benchmark, **self.config.benchmark_options)
        if self.config.unlearn_from == "corpus" and bench.forget_corpus is None:
            raise InputError(f"unlearn_from: corpus, but benchmark {bench.name!r} has no forget corpus; use questions")
        checked(Probing(**probing_options(self.config)), bench)
        if self.config.known_only:
            self.step("asking the model what it knows")
            part, budget = self.fingerprint("known", asdict(bench)), self.config.batch_tokens
            bench = self.kept("known", part, lambda: known_facts(self.model, bench, batch_tokens=budget))
        if not bench.forget:
            raise InputError(f"{self.config.model} knows none of the forget facts of {self.config.benchmark}")
        return bench

    @cached_property
    def bench(self) -> Benchmark:
        """Benchmark that is scored and probed. Its paraphrases of the forget facts are the held-out ones."""
        return split_phrasings(self.loaded, self.config.hold_out_phrasings)[1]

    @cached_property
    def to_unlearn(self) -> Benchmark:
        """Benchmark that unlearning sees: the same facts without the held-out paraphrases."""
        return split_phrasings(self.loaded, self.config.hold_out_phrasings)[0]

    @cached_property
    def trained_away(self) -> dict[str, Any]:
        """Arguments of `unlearn` for the forget set, the retain set and early stopping."""
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
                "This model has no retrained model. The excess of a probe is measured against never-known facts and "
                "against prompts about the wrong subject instead."
            )
        if self.config.recovery.key_tokens != "answer_free":
            whose = "the unlearned model's, " if self.config.recovery.key_tokens == "after" else ""
            notes.append(f"Key tokens are {whose}taken towards the gold answer: recovery is oracle-assisted.")
        return tuple(notes)

    @cached_property
    def before(self) -> Scores:
        """Scores of the original model."""
        self.step("scoring the original model")
        part = self.fingerprint("before", asdict(self.bench))
        return self.kept("before", part, lambda: self.scored(self.model))

    @cached_property
    def control_scores(self) -> Scores | None:
        """Scores of the retrained model, with those of the original model. None without a retrained model."""
        control = self.control
        if control is None:
            return None
        self.step("scoring the retrained model")
        part = self.fingerprint("control", asdict(self.bench))
        return self.kept("control", part, lambda: self.scored(control, before=self.before))

    def scored(self, model: HookedModel, **beside: Any) -> Scores:
        """Evaluate a model on the benchmark.

        Args:
            model: Model to evaluate.
            **beside: Scores to keep with the result: `before` and `reference` of `evaluate`.
        """
        return evaluate(model, self.bench, batch_tokens=self.config.batch_tokens, **beside)

    @cached_property
    def plan(self) -> RecoveryPlan:
        """Recovery plan for all cells, with the answers of the original and the retrained model."""
        self.step("planning recovery")
        part = self.fingerprint("recovery plan", asdict(self.bench), self.config.recovery.model_dump())
        return self.kept("plan", part, self.new_plan)

    def new_plan(self, after: HookedModel | None = None) -> RecoveryPlan:
        """Make a recovery plan.

        Args:
            after: Unlearned model, if its own KeyTokens are emphasised.
        """
        return recovery.recovery_plan(
            self.bench, before=self.model, control=self.control, after=after, progress=False,
            **probing_options(self.config),
        )  # fmt: skip

    @cached_property
    def contributions(self) -> dict[str, list[Attribution]]:
        """Contributions under the original model, by group."""
        self.step("contributions before")
        return {group: self.attributed(self.model, group) for group in ("forget", "retain")}

    def attributed(self, model: HookedModel, group: str) -> list[Attribution]:
        """Compute the contributions of the prompt tokens for the first facts of a group.

        Args:
            model: Model to attribute.
            group: `"forget"` or `"retain"`. `contributions` in the configuration gives the number of facts.
        """
        facts: list[QA] = list(getattr(self.bench, group)[: getattr(self.config.contributions, group)])
        if not facts:
            return []
        prefills = [prefill_for(self.bench, q) for q in facts]
        return attribute_many(model, facts, chat=self.bench.chat, prefill=prefills, progress=False)

    def fingerprint(self, *parts: Any) -> str:
        """Return a hash of the parts, the original model's weights, the versions and the precision of products."""
        text = json.dumps([self.hash, versions(), self.config.matmul_precision, *parts], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    def kept(self, name: str, fingerprint: str, compute: Callable[[], R]) -> R:
        """Load a part from disk if its fingerprint matches. Otherwise compute and write it.

        Args:
            name: Directory of the part, below the study's.
            fingerprint: Fingerprint of all that the part depends on.
            compute: Function that computes the part.
        """
        folder = self.folder / name
        if self.finished(name, fingerprint):
            found: R = load(folder)
            return found
        mark = folder / "fingerprint"
        mark.unlink(missing_ok=True)
        if folder.exists():
            shutil.rmtree(folder)
        result = compute()
        save(result, folder)
        write_text(mark, fingerprint)
        return result

    def finished(self, name: str, fingerprint: str) -> bool:
        """Return whether a part with this fingerprint is on disk."""
        mark = self.folder / name / "fingerprint"
        return mark.is_file() and mark.read_text() == fingerprint


def probing_options(config: StudyConfig) -> ProbingOptions:
    """Return the options of `recovery_plan` that a study asks for."""
    asked = config.recovery
    return {
        "templates": asked.templates, "headline": asked.headline, "key_tokens": asked.key_tokens,
        "rule": TopK(config.contributions.key_tokens),
        "probes": asked.probes if isinstance(asked.probes, str) else (*asked.probes, *asked.added),
        "relearn": asked.relearn, "gain": asked.gain, "batch_tokens": config.batch_tokens,
    }  # fmt: skip
