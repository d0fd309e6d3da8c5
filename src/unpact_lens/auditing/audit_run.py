"""Run the parts of an audit: each is made when first needed, kept on disk, and read again by the next run.

An audit is one cell of a study whose model was given instead of trained. Parts are kept and keyed as those of a study
(see `unpact_lens.study.workspace` and `unpact_lens.study.keys`). No key holds the budget, so that a larger budget reads
what a smaller one made.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
from unpact_lens.models.memory import run_batch_tokens
from unpact_lens.recovery import PROBES, Recovery, RecoveryPlan, recovery_plan, run_plan, with_probes
from unpact_lens.recovery.probes.registry import AFTER as NEEDS_AFTER
from unpact_lens.recovery.probes.registry import BEFORE as NEEDS_BEFORE
from unpact_lens.recovery.probing import MIN_BEFORE
from unpact_lens.results import Result
from unpact_lens.study.config import StudyConfig
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
        given_batch_tokens: Largest number of input tokens in one forward pass, as the user gave it. If None, it is
            chosen from the free memory, and parts that were made with another choice are read.
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
    given_batch_tokens: int | None
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
    def batch_tokens(self) -> int:
        """Return the largest number of input tokens in one forward pass: as given, or chosen once."""
        return run_batch_tokens(self.one(self.fixed_roles[0]), self.given_batch_tokens)

    @cached_property
    def workspace(self) -> Workspace:
        """Return the workspace that keeps the parts, with the configuration that their keys hold."""
        entries: dict[str, object] = {
            "name": "audit", "model": "given", "control": "given", "benchmark": self.bench.name, "retain_split": None,
            "methods": [{"name": "given"}], "batch_tokens": self.given_batch_tokens, "recovery": {"probes": []},
            "seeds": [self.seed],
        }  # fmt: skip
        config = StudyConfig.model_validate(entries)
        return Workspace(config, self.folder, self.step)

    def identity(self, role: str) -> str | None:
        """Return the fingerprint of a model, or None if it was not given."""
        return self.models[role].identity if role in self.models else None

    def kept(self, name: str, compute: Callable[[], R], roles: Sequence[str], **more: object) -> R:
        """Read a part from disk, or make and keep it.

        Args:
            name: Name of the part.
            compute: Function that makes it.
            roles: Models on which it depends.
            **more: What it depends on beside the models, the seed and the package.
        """
        on = {role: self.identity(role) for role in roles}
        key = part_key(
            name.split("/")[0],
            self.workspace.config,
            model=on.get(BEFORE) or "",
            control=on.get(CONTROL),
            data=hash_of(more.pop("data", "")),
            after=on.get(AFTER),
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

    def asked(self, *items: QA) -> list[object]:
        """Return what an analysis of these facts depends on: the facts, and the way of asking."""
        return [*map(asdict, items), self.bench.chat, self.bench.prefill]

    @contextmanager
    def left_out_if_refused(self, name: str) -> Iterator[None]:
        """Record the reason if a part cannot be made."""
        try:
            yield
        except InputError as error:
            self.left_out[name] = str(error)

    # Scores

    def scores(self, role: str, before: Scores | None = None, reference: Scores | None = None) -> Scores:
        """Score one model on every group of facts."""
        self.step(f"scoring the {ROLES[role]}")
        endpoint = self.models[role].endpoint

        def compute() -> Scores:
            # The control is scored while the original model is in memory, because the plan asks both next.
            together = [r for r in (BEFORE, CONTROL) if r in self.models] if role == CONTROL else [role]
            model = dict(zip(together, self.need(*together), strict=True))[role]
            if endpoint is not None:
                return endpoint_scores(endpoint, self.bench)
            return evaluate(model, self.bench, batch_tokens=self.batch_tokens)

        scored = self.kept(f"scores/{role}", compute, [role], data=asdict(self.bench), role=role)
        others = [other for other in (before, reference) if other is not None]
        if any(not torch.equal(scored.text_tokens, other.text_tokens) for other in others):
            if len(scored.text_nll):
                self.left_out["perplexity"] = f"the {ROLES[role]} reads other tokens, so its perplexity is another unit"
            scored = replace(scored, text_nll=scored.text_nll[:0], text_tokens=scored.text_tokens[:0])
        return scored.beside(before=before, reference=reference)

    # Recovery

    @property
    def fixed_roles(self) -> tuple[str, str]:
        """Models that the plan asks: the original (or without one the unlearned) and the retrained one."""
        return (BEFORE if BEFORE in self.models else AFTER), CONTROL

    @cached_property
    def planned(self) -> RecoveryPlan:
        """Recovery plan: every prompt, and the answers of the original and the retrained model."""
        self.step("planning the probes")
        prompts = tuple(p for p in self.budget.probes if PROBES[p].compared)
        options = {"templates": self.budget.templates, "probes": prompts}
        data = asdict(self.bench)
        return self._here(self.kept("plan", lambda: self._new_plan(prompts), self.fixed_roles, data=data, **options))

    def _here(self, plan: RecoveryPlan) -> RecoveryPlan:
        """Return a plan with the batch size of this run; a kept one may come from a machine with more memory."""
        return replace(plan, settings={**plan.settings, "batch_tokens": self.batch_tokens})

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

    @cached_property
    def further(self) -> tuple[str, ...]:
        """Probes beyond the prompts that can be asked, in the order of the budget; the others say why not."""
        return tuple(name for name in self.budget.probes if not PROBES[name].compared and self._can_be_asked(name))

    def _can_be_asked(self, name: str) -> bool:
        """Return whether a probe can be asked, and record why if not."""
        entry = PROBES[name]
        reason = entry.refuse(self.planned.headline, self.bench) if entry.refuse else None
        if any(model.endpoint is not None for model in self.models.given.values()) and name not in PROBES_OF_TEXTS:
            reason = "needs the weights of every model, and one of them is an endpoint"
        elif NEEDS_BEFORE in entry.needs and BEFORE not in self.models:
            reason = "needs the original model (--before)"
        if reason is not None:
            self.left_out[name] = reason
        return reason is None

    def prepare_probes(self) -> None:
        """Ask the original and the retrained model under every further probe, while both are in memory."""
        for name in self.further:
            self._prepared(name)

    def _prepared(self, name: str) -> RecoveryPlan | None:
        """Return the plan of one further probe, with the answers of the original and the retrained model."""
        if name in self.left_out:
            return None

        def compute() -> RecoveryPlan:
            before, control = self.original_and_retrained()
            found = with_probes(bare_plan(self.planned), self.bench, (name,), before=before, control=control)
            return found if BEFORE in self.models else assumed_known(found)

        self.step(f"probe {name}: preparing")
        with self.left_out_if_refused(name):
            data = asdict(self.bench)
            return self._here(self.kept(f"probe-plan/{name}", compute, self.fixed_roles, data=data, probe=name))
        return None

    def recovered(self) -> Recovery:
        """Ask the unlearned model the prompts of the plan, then each further probe as a part of its own."""
        plan = self.planned
        self.step("asking under every prompt")
        prompts = tuple(p for p in self.budget.probes if PROBES[p].compared)
        base = self.kept(
            "recovery", lambda: run_plan(self.one(AFTER), plan, progress=False),
            tuple(ROLES), data=asdict(self.bench), templates=self.budget.templates, probes=prompts,
        )  # fmt: skip
        found = {}
        # Probes that need the original model beside the unlearned one come last, so that each is loaded once.
        for name in sorted(self.further, key=lambda n: NEEDS_BEFORE in PROBES[n].needs):
            recovery = self._probed(name)
            if recovery is not None:
                found[name] = recovery
        return joined(base, [found[name] for name in self.further if name in found])

    def _probed(self, name: str) -> Recovery | None:
        """Run one further probe on the unlearned model."""
        plan = self._prepared(name)
        if plan is None:
            return None
        needs = PROBES[name].needs
        roles = [AFTER, *([BEFORE] if NEEDS_BEFORE in needs else []), *([CONTROL] if NEEDS_AFTER in needs else [])]

        def compute() -> Recovery:
            loaded = dict(zip(roles, self.use(*roles), strict=True))
            after, before, control = self.models[AFTER].load(), loaded.get(BEFORE), loaded.get(CONTROL)
            return run_plan(after, plan, before=before, control=control, progress=False)

        self.step(f"probe {name}")
        with self.left_out_if_refused(name):
            return self.kept(f"probe/{name}", compute, tuple(ROLES), data=asdict(self.bench), probe=name)
        return None

    # Internals

    def attributed(self, role: str, items: Sequence[QA]) -> tuple[Attribution, ...]:
        """Compute the contributions of the prompt tokens under one model, each fact as a part of its own."""
        return tuple(self._attributed(role, qa) for qa in items)

    def _attributed(self, role: str, qa: QA) -> Attribution:
        def compute() -> Attribution:
            prefill = [prefill_for(self.bench, qa)]
            return attribute_many(self.one(role), [qa], chat=self.bench.chat, prefill=prefill, progress=False)[0]

        return self.kept(f"contributions/{role}-{short(qa.id)}", compute, [role], data=self.asked(qa))

    @property
    def looked_at(self) -> tuple[tuple[QA, ...], tuple[QA, ...]]:
        """Facts whose contributions are computed: forget facts, and unseen facts."""
        most = self.budget.contributions
        return self.bench.forget[:most], tuple(self.bench.unseen or self.bench.retain)[:most]

    def focus(self) -> tuple[Focus | None, Focus | None]:
        """Compare the contributions before and after, on forget facts and on unseen facts."""
        if BEFORE not in self.models:
            self.left_out["contributions"] = "need the original model (--before)"
            return None, None
        self.step("contributions")
        sides = {role: [self.attributed(role, items) for items in self.looked_at] for role in (BEFORE, AFTER)}
        looks: list[Focus | None] = []
        for before, after in zip(sides[BEFORE], sides[AFTER], strict=True):
            try:
                looks.append(focus(before, after, TopK(3)) if before else None)
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

        return self.kept(f"diff/{short(qa.id)}", compute, [BEFORE, AFTER], data=self.asked(qa))

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

        with self.left_out_if_refused("depth"):
            return self.kept("depth", compute, tuple(ROLES), data=self.asked(*items))
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

            with self.left_out_if_refused("grafts"):
                found.append(self.kept(f"graft/{short(qa.id)}", compute, [BEFORE, AFTER], data=self.asked(qa)))
                continue
            break
        return tuple(found)


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
