"""Run the parts of an audit: each is made when first needed, kept on disk, and read again by the next run.

An audit is one cell of a study whose model was given instead of trained. Parts are kept and keyed as those of a study
(see `unpact_lens.study.workspace` and `unpact_lens.study.keys`). No key holds the budget, so that a larger budget reads
what a smaller one made.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import torch

from unpact_lens.attribution import Attribution, TopK, attribute_many
from unpact_lens.auditing.answer_store import AnswerFile
from unpact_lens.auditing.budget import Budget
from unpact_lens.auditing.endpoint_scores import PROBES_OF_TEXTS, endpoint_scores
from unpact_lens.auditing.given_model import AFTER, BEFORE, CONTROL, ROLES, GivenModels
from unpact_lens.auditing.join_probes import bare_plan, joined
from unpact_lens.comparison import graft_map, unlearning_depth
from unpact_lens.comparison.diff import ModelDiff, diff
from unpact_lens.comparison.focus import Focus, focus
from unpact_lens.comparison.model_pair import require_comparable
from unpact_lens.comparison.patching_map import PatchingMap
from unpact_lens.comparison.unlearning_depth import UnlearningDepth
from unpact_lens.data.benchmark import QA, Benchmark
from unpact_lens.errors import InputError
from unpact_lens.evaluation import evaluate, prefill_for
from unpact_lens.evaluation.result import Scores
from unpact_lens.models.hooked import HookedModel
from unpact_lens.recovery import PROBES, Recovery, RecoveryPlan, recovery_plan, run_plan, with_probes
from unpact_lens.recovery.probing import MIN_BEFORE
from unpact_lens.results import Result
from unpact_lens.study.config import StudyConfig
from unpact_lens.study.folder import CLAIMS
from unpact_lens.study.keys import hash_of, part_key
from unpact_lens.study.workspace import Workspace

PARTS = "parts"
"""Directory of the parts, below the audit's."""

R = TypeVar("R", bound=Result)


@dataclass
class AuditRun:
    """Hold what an audit works on, and make its parts.

    Attributes:
        models: Models that were given.
        bench: Facts that are asked: known forget facts, retain facts and unseen facts.
        budget: What is run.
        folder: Directory of the parts.
        name: Name of the audited model.
        seed: Random seed of every draw.
        batch_tokens: Largest number of input tokens in one forward pass.
        step: Function that is called with the name of each step.
        store: Greedy answers.
        left_out: Reason for each part that is not run.
        notes: What a reader must know.
        seconds: Wall time of each part that was run now.
    """

    models: GivenModels
    bench: Benchmark
    budget: Budget
    folder: Path
    name: str
    seed: int
    batch_tokens: int
    step: Callable[[str], None]
    store: AnswerFile
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def use(self, *roles: str) -> tuple[HookedModel | None, ...]:
        """Load the models of these roles, drop the others, and keep the answers of those loaded."""
        self.store.forget_models()
        loaded = self.models.only(*roles)
        for role, model in zip(roles, loaded, strict=True):
            if model is not None:
                self.store.register(model, self.models[role].identity)
        return loaded

    def need(self, *roles: str) -> tuple[HookedModel, ...]:
        """Load the models of these roles, and drop the others.

        Raises:
            InputError: If one was not given.
        """
        missing = [role for role in roles if role not in self.models]
        if missing:
            raise InputError(f"no {ROLES[missing[0]]} was given")
        return tuple(model for model in self.use(*roles) if model is not None)

    def one(self, role: str) -> HookedModel:
        """Load one model, and drop the others."""
        return self.need(role)[0]

    @cached_property
    def workspace(self) -> Workspace:
        """Return the workspace that keeps the parts, with the configuration that their keys hold."""
        entries = {
            "name": "audit", "model": self.identity(BEFORE) or "none", "control": self.identity(CONTROL),
            "benchmark": self.bench.name, "retain_split": None, "methods": [{"name": "given"}],
            "batch_tokens": self.batch_tokens, "recovery": {"probes": []}, "seeds": [self.seed],
        }  # fmt: skip
        config = StudyConfig.model_validate(entries)
        return Workspace(config, self.folder, self.step)

    def identity(self, role: str) -> str | None:
        """Return the fingerprint of a model, or None if it was not given."""
        return self.models[role].identity if role in self.models else None

    def kept(self, name: str, compute: Callable[[], R], **more: object) -> R:
        """Read a part from disk, or make and keep it.

        Args:
            name: Name of the part.
            compute: Function that makes it.
            **more: What it depends on beside the models, the seed and the package.
        """
        key = part_key(
            name.split("/")[0],
            self.workspace.config,
            model=self.identity(BEFORE) or "",
            control=self.identity(CONTROL),
            data=hash_of(more.pop("data", "")),
            after=self.identity(AFTER),
            seed=self.seed,
            **more,
        )
        started = time.monotonic()
        made: list[bool] = []

        def timed() -> R:
            made.append(True)
            return compute()

        part: R = self.workspace.kept(f"{PARTS}/{name.replace('/', '-')}", key, timed)
        if made:
            self.seconds[name] = time.monotonic() - started
        return part

    # Scores

    def scores(self, role: str, before: Scores | None = None, reference: Scores | None = None) -> Scores:
        """Score one model on every group of facts."""
        self.step(f"scoring the {ROLES[role]}")
        endpoint = self.models[role].endpoint

        def compute() -> Scores:
            model = self.one(role)
            if endpoint is not None:
                return endpoint_scores(endpoint, self.bench)
            return evaluate(model, self.bench, batch_tokens=self.batch_tokens)

        scored = self.kept(f"scores/{role}", compute, data=asdict(self.bench), role=role)
        return scored.beside(before=before, reference=reference)

    # Recovery

    @cached_property
    def planned(self) -> RecoveryPlan:
        """Recovery plan: every prompt, and the answers of the original and the retrained model."""
        self.step("planning the probes")
        prompts = tuple(p for p in self.budget.probes if PROBES[p].compared)
        options = {"templates": self.budget.templates, "probes": prompts}
        return self.kept("plan", lambda: self._new_plan(prompts), data=asdict(self.bench), **options)

    def original_and_retrained(self) -> tuple[HookedModel, HookedModel | None]:
        """Load the original model, or the unlearned one in its place, and the retrained model if there is one."""
        role = BEFORE if BEFORE in self.models else AFTER
        _, control = self.use(role, CONTROL)
        return self.models[role].load(), control

    def _new_plan(self, prompts: tuple[str, ...]) -> RecoveryPlan:
        before, control = self.original_and_retrained()
        without = BEFORE not in self.models
        # Without an original model, nothing tells which facts nobody was taught, and no template is refused.
        bench = replace(self.bench, unknown=()) if without else self.bench
        plan = recovery_plan(
            bench, before=before, control=control, progress=False, templates=self.budget.templates, probes=prompts,
            seed=self.seed, batch_tokens=self.batch_tokens, min_before=0.0 if without else MIN_BEFORE,
        )  # fmt: skip
        return assumed_known(plan) if without else plan

    def recovered(self) -> Recovery:
        """Run the prompts of the plan, then each further probe as a part of its own."""
        plan = self.planned
        self.step("asking under every prompt")
        prompts = tuple(p for p in self.budget.probes if PROBES[p].compared)
        base = self.kept(
            "recovery", lambda: run_plan(self.one(AFTER), plan, batch_tokens=self.batch_tokens, progress=False),
            data=asdict(self.bench), templates=self.budget.templates, probes=prompts,
        )  # fmt: skip
        further = []
        for name in self.budget.probes:
            if PROBES[name].compared or name == "paraphrase" or name in self.left_out:
                continue
            found = self._probe(name, plan)
            if found is not None:
                further.append(found)
        return joined(base, further)

    def _probe(self, name: str, plan: RecoveryPlan) -> Recovery | None:
        """Run one probe, or say why it is left out."""
        needs = PROBES[name].needs
        asks_endpoint = any(model.endpoint is not None for model in self.models.given.values())
        if asks_endpoint and name not in PROBES_OF_TEXTS:
            self.left_out[name] = "needs the weights of every model, and one of them is an endpoint"
            return None
        if "before" in needs and BEFORE not in self.models:
            self.left_out[name] = "needs the original model (--before)"
            return None
        refuse = PROBES[name].refuse
        reason = refuse(plan.headline, self.bench) if refuse else None
        if reason is not None:
            self.left_out[name] = reason
            return None
        self.step(f"probe {name}")
        try:
            return self.kept(f"probe/{name}", lambda: self._asked(name, plan), data=asdict(self.bench), probe=name)
        except InputError as error:
            self.left_out[name] = str(error)
            return None

    def _asked(self, name: str, plan: RecoveryPlan) -> Recovery:
        """Ask a probe of the original and the retrained model, then of the unlearned one."""
        before, control = self.original_and_retrained()
        asked = with_probes(bare_plan(plan), self.bench, (name,), before=before, control=control)
        if BEFORE not in self.models:
            asked = assumed_known(asked)
        needs = PROBES[name].needs
        roles = [AFTER, *([BEFORE] if "before" in needs else []), *([CONTROL] if "after" in needs else [])]
        loaded = dict(zip(roles, self.use(*roles), strict=True))
        return run_plan(
            self.models[AFTER].load(), asked, before=loaded.get(BEFORE), control=loaded.get(CONTROL), progress=False
        )

    # Internals

    def attributed(self, role: str, items: Sequence[QA]) -> tuple[Attribution, ...]:
        """Compute the contributions of the prompt tokens under one model, each fact as a part of its own."""
        return tuple(self._attributed(role, qa) for qa in items)

    def _attributed(self, role: str, qa: QA) -> Attribution:
        def compute() -> Attribution:
            prefill = [prefill_for(self.bench, qa)]
            return attribute_many(self.one(role), [qa], chat=self.bench.chat, prefill=prefill, progress=False)[0]

        asked = [asdict(qa), self.bench.chat, self.bench.prefill]
        return self.kept(f"contributions/{role}-{short(qa.id)}", compute, data=asked)

    def focus(self) -> tuple[Focus | None, Focus | None]:
        """Compare the contributions before and after, on forget facts and on unseen facts."""
        if BEFORE not in self.models:
            self.left_out["contributions"] = "need the original model (--before)"
            return None, None
        self.step("contributions")
        groups = (self.bench.forget, self.bench.unseen or self.bench.retain)
        looks: list[Focus | None] = []
        for items in groups:
            chosen = items[: self.budget.contributions]
            before, after = (self.attributed(role, chosen) for role in (BEFORE, AFTER))
            try:
                looks.append(focus(before, after, TopK(3)) if chosen else None)
            except InputError as error:
                self.left_out["KeyToken shift"] = f"the two models read other tokens: {error}"
                looks.append(None)
        return looks[0], looks[1]

    def comparable(self) -> bool:
        """Return whether the weights of the original and the unlearned model can be compared, or say why not."""
        if BEFORE not in self.models:
            self.left_out["diffs"] = "need the original model (--before)"
            return False
        if self.models[AFTER].endpoint is not None:
            self.left_out["diffs"] = "need the weights, and the unlearned model is an endpoint"
            return False
        before, after = self.need(BEFORE, AFTER)
        try:
            require_comparable(before, after)
        except InputError as error:
            self.left_out["diffs"] = f"the models cannot be compared weight by weight: {error}"
            return False
        return True

    def diffs(self) -> tuple[ModelDiff, ...]:
        """Compute the exact diffs of the first forget facts: components, heads and source tokens."""
        self.step("exact diffs")
        return tuple(self._diff(q) for q in self.bench.forget[: self.budget.diffs])

    def _diff(self, qa: QA) -> ModelDiff:
        def compute() -> ModelDiff:
            before, after = self.need(BEFORE, AFTER)
            prefill = prefill_for(self.bench, qa)
            return diff(before, after, qa, chat=self.bench.chat, prefill=prefill, sources=True, weights=False)

        return self.kept(f"diff/{short(qa.id)}", compute, data=[asdict(qa), self.bench.chat, self.bench.prefill])

    def depth(self) -> UnlearningDepth | None:
        """Compute the Unlearning Depth Score of the first forget facts."""
        items = self.bench.forget[: self.budget.depth]
        if not items:
            return None
        if CONTROL not in self.models or self.models[CONTROL].endpoint is not None:
            self.left_out["depth"] = "needs a retrained model (--control)"
            return None
        self.step("unlearning depth")

        def compute() -> UnlearningDepth:
            before, control, after = self.need(BEFORE, CONTROL, AFTER)
            return unlearning_depth(before, control, after, items, chat=self.bench.chat, prefill=self.bench.prefill)

        try:
            return self.kept("depth", compute, data=[asdict(q) for q in items], chat=self.bench.chat)
        except InputError as error:
            self.left_out["depth"] = str(error)
            return None

    def grafts(self) -> tuple[PatchingMap, ...]:
        """Graft each layer of the original model into the unlearned one, for the first forget facts."""
        found = []
        for qa in self.bench.forget[: self.budget.grafts]:
            self.step("grafts")

            def compute(qa: QA = qa) -> PatchingMap:
                before, after = self.need(BEFORE, AFTER)
                return graft_map(
                    before, after, qa, unit="layer", chat=self.bench.chat, prefill=prefill_for(self.bench, qa)
                )  # fmt: skip

            try:
                found.append(self.kept(f"graft/{short(qa.id)}", compute, data=[asdict(qa), self.bench.chat]))
            except InputError as error:
                self.left_out["grafts"] = str(error)
                break
        return tuple(found)

    @property
    def claims(self) -> Path:
        """Directory of the marks of parts at work."""
        return self.folder / CLAIMS


def assumed_known(plan: RecoveryPlan) -> RecoveryPlan:
    """Return a plan in which the original model, which is not given, is taken to know every fact.

    Args:
        plan: Plan that was made with another model in its place.
    """
    everything = torch.ones(len(plan.sheet.items), dtype=torch.bool)
    return replace(
        plan, plain_before=everything, right_before=plan.sheet.asked, set_apart={},
        added_before={row: torch.ones_like(right) for row, right in plan.added_before.items()},
    )  # fmt: skip


def short(text: str) -> str:
    """Return a short name for a file from any text.

    >>> short("row 1")
    '96e3051150'
    """
    return hashlib.sha256(text.encode()).hexdigest()[:10]
