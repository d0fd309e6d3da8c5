"""Run probes one at a time, and join their rows with those of the prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from unpact_lens.errors import InputError
from unpact_lens.recovery.plan import RecoveryPlan
from unpact_lens.recovery.result import Recovery


def bare_plan(plan: RecoveryPlan) -> RecoveryPlan:
    """Return a plan without prompts: its probes are asked of every fact that the original model knows.

    The common set of a plan with prompts is a subset of these facts, whichever templates it has. So the rows of a probe
    serve every budget.

    Args:
        plan: Plan with prompts.
    """
    return replace(
        plan, sheet=plan.sheet.only(()), never_sheet=plan.never_sheet.only(()), right_before=plan.right_before[:0],
        right_control=None if plan.right_control is None else plan.right_control[:0], set_apart={},
    )  # fmt: skip


def joined(base: Recovery, further: Sequence[Recovery]) -> Recovery:
    """Return a recovery with the rows of the prompts, then those of each probe.

    Args:
        base: Recovery of the prompts; it gives the common set.
        further: Recoveries of single probes on the same facts.

    Raises:
        InputError: If they are not of the same facts.
    """
    for other in further:
        if other.items != base.items or other.never_items != base.never_items:
            raise InputError("recoveries of other facts cannot be joined; run the probes on one set of facts")
    every = (base, *further)

    def rows(name: str) -> Tensor:
        return torch.cat([getattr(r, name) for r in every])

    return replace(
        base,
        probes=tuple(p for r in every for p in r.probes),
        families=tuple(f for r in every for f in r.families),
        asked=rows("asked"),
        right_before=rows("right_before"),
        right_after=rows("right_after"),
        right_control=None if base.right_control is None else rows("right_control"),
        never_asked=rows("never_asked"),
        never_right=rows("never_right"),
        examples=tuple(e for r in every for e in r.examples if r is base or e.probe != "plain"),
        settings={**base.settings, **{k: v for r in further for k, v in r.settings.items() if k not in base.settings},
                  "relearn_taught": max(int(r.settings.get("relearn_taught") or 0) for r in every)},
    )  # fmt: skip
