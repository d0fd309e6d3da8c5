"""Show an audit as a study with one cell, for the report and the dilemma plane."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from unpact_lens.auditing.given_model import AFTER, BEFORE, CONTROL
from unpact_lens.auditing.result import Audit
from unpact_lens.errors import InputError
from unpact_lens.evaluation.result import Scores
from unpact_lens.study.cells import GIVEN
from unpact_lens.study.result import Cell, Study
from unpact_lens.unlearning.result import History


def as_study(audits: Sequence[Audit], title: str = "audit") -> Study:
    """Return audits as the cells of a study.

    Args:
        audits: Finished audits. The models beside the cells are those of the first one.
        title: Name of the study.

    Raises:
        InputError: If there are none, or one has no recovery.
    """
    if not audits:
        raise InputError("no audits; give at least one finished audit")
    first = audits[0]
    names = _distinct([a.name for a in audits])
    return Study(
        config={
            "name": title,
            **({"headline": " ".join(first.sentences())} if len(audits) == 1 else {}),
            "command": first.settings.get("command", ""),
            "model": first.models[BEFORE].given if BEFORE in first.models else "not given",
            "control": first.models[CONTROL].given if CONTROL in first.models else None,
            "benchmark": first.data["source"],
            "seeds": [first.settings["seed"]],
            "epsilon": first.verdict.epsilon,
            "budget": first.budget,
        },
        before=first.scores.get(BEFORE),
        control=first.scores.get(CONTROL),
        cells=tuple(_cell(a, n) for a, n in zip(audits, names, strict=True)),
        notes=tuple(n for a in audits for n in (*a.notes, *(f"Left out: {k}: {v}." for k, v in a.left_out.items()))),
        seconds=sum(a.seconds.get("total", 0.0) for a in audits),
        environment={
            **first.environment,
            **{f"{role}, weights": origin.weights or origin.given for role, origin in first.models.items()},
            "facts, SHA-256": first.data["sha256"],
        },
    )  # fmt: skip


def _cell(audit: Audit, name: str) -> Cell:
    if audit.recovery is None:
        raise InputError(f"the audit of {audit.name!r} has no recovery; run it again")
    return Cell(
        method=name,
        seed=int(str(audit.settings["seed"])),
        scores=_relative(audit.scores),
        recovery=audit.recovery,
        focus=audit.focus,
        focus_retain=audit.focus_kept,
        diffs=audit.diffs,
        verdict=audit.verdict,
        history=History(()),
        stopped=GIVEN,
        settings={k: v for k, v in audit.settings.items() if k != "budget"},
        seconds=audit.seconds.get("total", 0.0),
    )


def _relative(scores: dict[str, Scores]) -> Scores:
    """Return the unlearned model's scores relative to the original model.

    Without one, F is undefined and D is relative to the retrained model, or undefined as well.
    """
    after, control = scores[AFTER], scores.get(CONTROL)
    if after.values_before is not None:
        return after
    values = torch.zeros_like(after.values) if control is None else control.values.clone()
    values[:, after.among("forget")] = 0.0
    return replace(after, values_before=values)


def _distinct(names: Sequence[str]) -> list[str]:
    """Return names of which no two are equal.

    >>> _distinct(["a", "b", "a"])
    ['a', 'b', 'a (2)']
    """
    seen: dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return found
