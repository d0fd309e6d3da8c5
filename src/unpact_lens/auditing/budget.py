"""Define how much an audit runs at each budget, and estimate what each part costs before it runs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch

from unpact_lens.data.benchmark import QA, Benchmark
from unpact_lens.data.emphasis import EMPHASIS, HEADLINE
from unpact_lens.errors import InputError, nearest
from unpact_lens.evaluation.answers import prefill_for
from unpact_lens.models.generate import generate_answers
from unpact_lens.models.hooked import HookedModel, device_of
from unpact_lens.models.tokens import encode
from unpact_lens.recovery.probes.registry import PROBES
from unpact_lens.registry import Registry


@dataclass(frozen=True)
class Budget:
    """Hold what an audit runs. A larger budget asks more facts, more probes and more of the internals.

    Attributes:
        name: Name of the budget.
        minutes: About how long it takes for a model of 135 million weights on two CPU cores.
        forget: Largest number of forget facts that the original model knows.
        kept: Largest number of retain facts and of unseen facts, each.
        templates: Emphasis templates.
        probes: Probes beside emphasis.
        contributions: Number of forget facts whose contributions are compared.
        diffs: Number of forget facts whose exact diffs are computed.
        depth: Number of forget facts of the Unlearning Depth Score.
        grafts: Number of forget facts for which layers are grafted.
    """

    name: str
    minutes: float
    forget: int
    kept: int
    templates: tuple[str, ...]
    probes: tuple[str, ...]
    contributions: int
    diffs: int
    depth: int = 0
    grafts: int = 0


BUDGETS: Registry[Budget] = Registry("budget")
"""Budgets by name, from the smallest on."""

for _budget in (
    Budget("quick", 1, 24, 24, (HEADLINE,), ("prefill",), 4, 1),
    Budget(
        "standard", 10, 96, 96, (HEADLINE, "quotes", "repeat_question"),
        ("prefill", "refusal_prefix", "refusal_wording", "trigger", "quantize_4", "relearn", "relearn_unrelated",
         "attention", "logit_lens"),
        8, 2, 4,
    ),
    Budget("full", 60, 400, 400, tuple(EMPHASIS), tuple(PROBES), 24, 6, 24, 6),
):  # fmt: skip
    BUDGETS.add(_budget.name, _budget)


def budget_named(name: str | Budget) -> Budget:
    """Return a budget by its name; a `Budget` is returned as it is.

    Raises:
        InputError: If there is none of this name.
    """
    if isinstance(name, Budget):
        return name
    if name not in BUDGETS:
        raise InputError(f"budget={name!r}; {nearest(str(name), BUDGETS)}")
    return BUDGETS[name]


@dataclass(frozen=True)
class Speed:
    """Hold how fast a model runs here.

    Attributes:
        answer: Seconds for one greedy answer to a plain prompt, in batches.
        token: Seconds for one input token of a forward pass, in batches.
        parameters: Number of weights.
        tokens: Mean number of tokens of a prompt with its answer.
    """

    answer: float
    token: float
    parameters: int
    tokens: float


def measure_speed(model: HookedModel, bench: Benchmark, items: Sequence[QA], batch_tokens: int) -> Speed:
    """Time a few answers and one forward pass.

    Args:
        model: Model that will be asked.
        bench: Benchmark that says how to ask.
        items: Questions to time, at most eight of them.
        batch_tokens: Largest number of input tokens in one forward pass.
    """
    some = items[:8]
    rows = [encode(model, q.prompt, q.answer, chat=bench.chat, prefill=prefill_for(bench, q)) for q in some]

    def answered(items: Sequence[QA]) -> float:
        """Generate answers anew, kept ones too, and return the seconds."""
        started = time.monotonic()
        generate_answers(
            model, [q.prompt for q in items], chat=bench.chat, prefills=[prefill_for(bench, q) for q in items],
            max_new_tokens=bench.max_new_tokens, stop=bench.stop, batch_tokens=batch_tokens,
        )  # fmt: skip
        return time.monotonic() - started

    answered(some[:1])  # warms up
    answer = answered(some) / len(some)
    longest = max(len(r.ids) for r in rows)
    ids = torch.tensor([list(r.ids) + [r.ids[-1]] * (longest - len(r.ids)) for r in rows], device=device_of(model))
    started = time.monotonic()
    with torch.inference_mode():
        model(ids)
    token = (time.monotonic() - started) / ids.numel()
    return Speed(answer, token, sum(p.numel() for p in model.parameters()), sum(len(r.ids) for r in rows) / len(rows))


ANSWERS_OF = {
    "refusal_prefix": 2, "refusal_wording": 2, "trigger": 8, "noise": 3, "sampling": 8, "early_exit": 4,
    "patch_subject": 2, "patch_prompt": 2, "patch_opening": 2, "attention": 2,
}  # fmt: skip
"""Number of answers that a probe asks of one fact, where it is not one."""

WITHOUT_TWIN = ("prefill", "relearn", "after_keys", "logit_lens", "sampling")
"""Probes that do not ask about the wrong subject as well."""

COPY = 2e-8
"""Seconds for one weight when a model is copied and changed."""


def probe_cost(name: str, speed: Speed, facts: int, models: int) -> float:
    """Estimate what a probe costs, in seconds.

    Args:
        name: Name of the probe.
        speed: Measured speed.
        facts: Number of forget facts.
        models: Number of models that are asked.
    """
    asked = facts * ANSWERS_OF.get(name, 1) * (1 if name in WITHOUT_TWIN else 2)
    seconds = asked * speed.answer
    if name == "logit_lens":
        seconds = facts * speed.tokens * speed.token * 2
    if PROBES[name].family == "weights":
        seconds += speed.parameters * COPY * (3 if name == "noise" else 1)
    if name.startswith("relearn"):
        seconds += _training(speed)
    return seconds * models


def _training(speed: Speed) -> float:
    """Estimate the seconds of relearning: forward and backward of every step."""
    from unpact_lens.recovery.probes.relearn import STEPS

    return STEPS * 16 * speed.tokens * speed.token * 3


def planned_costs(
    budget: Budget, speed: Speed, counts: Mapping[str, int], models: int, rows: int, loading: float = 0.0
) -> pd.DataFrame:
    """Estimate what each part of an audit costs.

    Args:
        budget: Budget of the audit.
        speed: Measured speed of the unlearned model.
        counts: Number of facts that are asked, by group: `forget`, `retain`, `unseen`, and `unknown` if facts that
            nobody knows stand in for a retrained model; `text` is the number of tokens of plain text.
        models: Number of models that are given.
        rows: Number of prompt rows of the recovery plan.
        loading: Seconds for loading and testing the models that are not loaded yet.

    Returns:
        One row for each part with `part` and `seconds`, in the order in which they run.
    """
    forget, unknown = counts["forget"], counts.get("unknown", 0)
    known = sum(counts.get(group, 0) for group in ("forget", "retain", "unseen"))
    pass_of_fact = speed.tokens * speed.token
    loo = speed.tokens**2 / 2 * speed.token
    parts = {
        "loading": loading,
        "answers": models * (known * (speed.answer + pass_of_fact) + counts.get("text", 0) * speed.token),
        "emphasis and prompts": rows * (forget * models + unknown) * speed.answer + (forget + unknown) * loo,
        **{p: probe_cost(p, speed, forget, models) for p in budget.probes if not PROBES[p].compared},
        "contributions": 4 * budget.contributions * loo,
        "exact diffs": budget.diffs * 40 * pass_of_fact,
        "depth": budget.depth * 60 * pass_of_fact if models == 3 else 0.0,
        "grafts": budget.grafts * 40 * pass_of_fact if models > 1 else 0.0,
    }
    return pd.DataFrame([{"part": name, "seconds": seconds} for name, seconds in parts.items() if seconds])
