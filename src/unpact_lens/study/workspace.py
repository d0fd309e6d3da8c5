"""Hold the parts that the cells of a study share: each is made when first needed, and kept on disk.

A part is a directory with a result and a `fingerprint`, the key of all that the part depends on (see
`unpact_lens.study.keys`). The fingerprint is written last. A part with the same key is loaded. Any other part, and a
part that is damaged, is computed again. Processes that share a directory compute each part once (see
`unpact_lens.study.claims`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from unpact_lens import recovery
from unpact_lens.attribution import Attribution, TopK, attribute_many
from unpact_lens.data.benchmark import QA, Benchmark
from unpact_lens.data.load import load_benchmark
from unpact_lens.errors import InputError
from unpact_lens.evaluation import evaluate, known_facts, prefill_for
from unpact_lens.evaluation.result import Scores
from unpact_lens.models.checkpoint import model_hash
from unpact_lens.models.fingerprint import model_fingerprint
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.load import load_model
from unpact_lens.models.memory import run_batch_tokens
from unpact_lens.recovery import Probing, ProbingOptions, RecoveryPlan
from unpact_lens.recovery.probes.registry import checked
from unpact_lens.results import RESULT, Result, load, read_json, storable, write_result, write_text
from unpact_lens.study.claims import claim
from unpact_lens.study.config import StudyConfig
from unpact_lens.study.folder import CLAIMS, FAILURE, FINGERPRINT
from unpact_lens.study.held_out_paraphrases import split_phrasings
from unpact_lens.study.keys import BEFORE, CONTRIBUTIONS, CONTROL, KNOWN, PLAN, Key, changes, hash_of, part_key, text_of
from unpact_lens.unlearning.early_stopping import FactsKnown
from unpact_lens.unlearning.settings import Settings
from unpact_lens.writing import sha256

R = TypeVar("R", bound="Result | Benchmark | Contributions")

OF_RESULT = "result"
"""Entry of a part's fingerprint beside its key: the SHA-256 of its `result.json`, so that no other takes its place."""

if TYPE_CHECKING:
    ReadConfig = StudyConfig
else:
    ReadConfig = object  # tests record which entries are read


@storable
@dataclass(frozen=True)
class Contributions:
    """Hold the contributions of the prompt tokens under the original model.

    Attributes:
        forget: One attribution for each of the first forget facts.
        retain: The same for the retain facts.
    """

    forget: tuple[Attribution, ...]
    retain: tuple[Attribution, ...]


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
        return self.load(self.config.model)

    @cached_property
    def control(self) -> HookedModel | None:
        """Retrained model, which never saw the forget set."""
        return self.load(self.config.control) if self.config.control else None

    def load(self, spec: str) -> HookedModel:
        """Load a model on the device and in the dtype of the configuration."""
        how = self.config.load
        dtype = getattr(torch, how.dtype) if how.dtype else None
        loaded: HookedModel = load_model(spec, wrap=self.config.wrap, device=how.device, dtype=dtype)
        return loaded

    @cached_property
    def batch_tokens(self) -> int:
        """Largest number of input tokens in one forward pass: that of the configuration, or chosen once.

        It is in no key: a study whose configuration gives no number reads what a machine with other memory made.
        """
        return run_batch_tokens(self.model, self.config.batch_tokens)

    @cached_property
    def hash(self) -> str:
        """Hash of the original model's weights."""
        return model_hash(self.model)

    @cached_property
    def identity(self) -> str:
        """Fingerprint of the original model: weights, configuration and tokenizer."""
        return model_fingerprint(self.model)

    @cached_property
    def control_identity(self) -> str | None:
        """Fingerprint of the retrained model. None without one."""
        return None if self.control is None else model_fingerprint(self.control)

    @cached_property
    def data(self) -> str:
        """Hash of the benchmark that is unlearned and probed."""
        return hash_of([asdict(self.bench), asdict(self.to_unlearn)])

    @cached_property
    def loaded(self) -> Benchmark:
        """Benchmark, reduced to known facts if the configuration says so."""
        split = {"retain_split": self.config.retain_split, "split_seed": self.config.split_seed}
        bench = load_benchmark(self.config.benchmark, **{**split, **self.config.benchmark_options})
        if (self.config.unlearn_from or bench.unlearn_from) == "corpus" and bench.forget_corpus is None:
            raise InputError(f"unlearn_from: corpus, but benchmark {bench.name!r} has no forget corpus; use questions")
        checked(Probing(**probing_options(self.config)), bench)
        if self.config.known_only:
            self.step("asking the model what it knows")
            whole, budget = bench, self.batch_tokens
            key = part_key(KNOWN, self.config, model=self.identity, control=None, data=hash_of(asdict(whole)))
            bench = self.kept(KNOWN, key, lambda: known_facts(self.model, whole, batch_tokens=budget))
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
        bench = replace(bench, unlearn_from=self.config.unlearn_from or bench.unlearn_from)
        if bench.unlearn_from == "questions":
            return {"forget": bench}
        asked = Settings(chat=bench.chat, prefill=bench.prefill, max_new_tokens=bench.max_new_tokens, stop=bench.stop)
        known = FactsKnown(self.model, bench.forget, asked)
        return {"forget": bench.forget_corpus, "retain": bench.retain_corpus, "forget_score": known}

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the study must know."""
        bench = self.bench
        notes = [f"Benchmark {bench.name}: {len(bench.forget)} forget, {len(bench.near)} near, {len(bench.far)} far, "
                 f"{len(bench.general)} general facts."]  # fmt: skip
        if bench.retain_split is not None:
            notes.append(
                f"Of the near and far facts, {len(bench.retain)} are given to the retain term, {len(bench.validation)} "
                f"are for searches of hyperparameters, and destruction D is measured on {len(bench.unseen)} unseen "
                f"ones (split by subject, shares {'/'.join(f'{s:g}' for s in bench.retain_split.shares)}, seed "
                f"{bench.retain_split.seed})."
            )
        elif bench.retain:
            notes.append(
                "The near and far facts are not split: the retain term may train on all of them. Destruction D is "
                "therefore undefined; D_trained is what a method loses of facts that it may rehearse."
            )
        if self.config.control is None:
            notes.append(
                "This model has no retrained model. The excess of a probe is measured against never-known facts and "
                "against prompts about the wrong subject instead. It is undefined where the benchmark has neither."
            )
        if self.config.recovery.key_tokens != "answer_free":
            whose = "the unlearned model's, " if self.config.recovery.key_tokens == "after" else ""
            notes.append(f"Key tokens are {whose}taken towards the gold answer: recovery is oracle-assisted.")
        return tuple(notes)

    @cached_property
    def before(self) -> Scores:
        """Scores of the original model."""
        self.step("scoring the original model")
        return self.kept(BEFORE, self.key(BEFORE), lambda: self.scored(self.model))

    @cached_property
    def control_scores(self) -> Scores | None:
        """Scores of the retrained model, with those of the original model. None without a retrained model."""
        control = self.control
        if control is None:
            return None
        self.step("scoring the retrained model")
        return self.kept(CONTROL, self.key(CONTROL), lambda: self.scored(control, before=self.before))

    def scored(self, model: HookedModel, **beside: Any) -> Scores:
        """Evaluate a model on the benchmark.

        Args:
            model: Model to evaluate.
            **beside: Scores to keep with the result: `before` and `reference` of `evaluate`.
        """
        return evaluate(model, self.bench, batch_tokens=self.batch_tokens, **beside)

    @cached_property
    def plan(self) -> RecoveryPlan:
        """Recovery plan for all cells, with the answers of the original and the retrained model."""
        self.step("planning recovery")
        return self.kept(PLAN, self.key(PLAN), self.new_plan)

    def new_plan(self, after: HookedModel | None = None) -> RecoveryPlan:
        """Make a recovery plan.

        Args:
            after: Unlearned model, if its own KeyTokens are emphasised.
        """
        options: ProbingOptions = {**probing_options(self.config), "batch_tokens": self.batch_tokens}
        return recovery.recovery_plan(
            self.bench, before=self.model, control=self.control, after=after, progress=False, **options
        )

    @cached_property
    def contributions(self) -> dict[str, list[Attribution]]:
        """Contributions under the original model, by group."""
        self.step("contributions before")

        def compute() -> Contributions:
            return Contributions(*(tuple(self.attributed(self.model, group)) for group in ("forget", "retain")))

        found = self.kept(CONTRIBUTIONS, self.key(CONTRIBUTIONS), compute)
        return {"forget": list(found.forget), "retain": list(found.retain)}

    def attributed(self, model: HookedModel, group: str) -> list[Attribution]:
        """Compute the contributions of the prompt tokens for the first facts of a group.

        Args:
            model: Model to attribute.
            group: `"forget"`, or `"retain"` for the unseen retain facts (all of them without a split).
                `contributions` in the configuration gives the number of facts.
        """
        of_group = {"forget": self.bench.forget, "retain": self.bench.unseen or self.bench.retain}[group]
        facts: list[QA] = list(of_group[: getattr(self.config.contributions, group)])
        if not facts:
            return []
        prefills = [prefill_for(self.bench, q) for q in facts]
        return attribute_many(model, facts, chat=self.bench.chat, prefill=prefills, progress=False)

    def make_shared(self) -> None:
        """Make all parts that the cells share, or load them."""
        _ = self.before, self.control_scores, self.contributions, self.to_unlearn
        if self.config.recovery.key_tokens != "after":
            _ = self.plan

    def key(self, part: str, **more: object) -> dict[str, object]:
        """Return the key of a part; see `unpact_lens.study.keys.part_key`.

        Args:
            part: Kind of the part.
            **more: What else the part depends on.
        """
        return part_key(
            part, self.config, model=self.identity, control=self.control_identity, data=self.data, **more
        )  # fmt: skip

    def kept(self, name: str, key: Key, compute: Callable[[], R]) -> R:
        """Load a part from disk if its key matches. Otherwise compute and write it.

        Args:
            name: Directory of the part, below the study's.
            key: Record of all that the part depends on.
            compute: Function that computes the part.
        """
        found = self._loaded(name, key)
        if found is not None:
            return found
        place = self.folder / name
        with claim(self.folder / CLAIMS, name, self.step):
            found = self._loaded(name, key)  # Another process may have computed it in the meantime.
            if found is not None:
                return found
            if (place / FINGERPRINT).is_file() and not self.finished(name, key):
                self.step(f"{name} is computed again: {changes(self.written_key(name), key)}")
            (place / FINGERPRINT).unlink(missing_ok=True)
            result = compute()
            write_result(result, place)
            (place / FAILURE).unlink(missing_ok=True)
            write_text(place / FINGERPRINT, text_of({**key, OF_RESULT: sha256(place / RESULT)}))
        return result

    def _loaded(self, name: str, key: Key) -> Any:
        """Load a part if it is finished; None if it is not, or if it is damaged."""
        if not self.finished(name, key):
            return None
        place = self.folder / name
        try:
            if read_json(place / FINGERPRINT).get(OF_RESULT) not in (None, sha256(place / RESULT)):
                raise InputError(f"{place / RESULT} does not belong to the {FINGERPRINT} beside it")
            return load(place)
        except Exception as error:  # Damage of any form: the part is computed again.
            self.step(f"{name} is damaged and is computed again: {' '.join(str(error).split())}")
            (place / FINGERPRINT).unlink(missing_ok=True)
            return None

    def finished(self, name: str, key: Key) -> bool:
        """Return whether a part with this key is on disk."""
        return self.written_key(name) == key

    def written_key(self, name: str) -> Mapping[str, object] | None:
        """Return the key of the part on disk; None if there is none that can be read."""
        mark = self.folder / name / FINGERPRINT
        if not mark.is_file() or mark.is_symlink():
            return None
        try:
            found = read_json(mark)
        except (InputError, RecursionError):
            return None
        return {k: v for k, v in found.items() if k != OF_RESULT} if isinstance(found, dict) else None


def probing_options(config: ReadConfig) -> ProbingOptions:
    """Return the options of `recovery_plan` that a study asks for."""
    asked = config.recovery
    return {
        "templates": asked.templates, "headline": asked.headline, "key_tokens": asked.key_tokens,
        "rule": TopK(config.contributions.key_tokens),
        "probes": asked.probes if isinstance(asked.probes, str) else (*asked.probes, *asked.added),
        "relearn": asked.relearn, "gain": asked.gain, "batch_tokens": config.batch_tokens,
    }  # fmt: skip
