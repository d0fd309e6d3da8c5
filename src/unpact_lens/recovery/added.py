"""Probes that change how the model computes and not what it reads: attention to the key tokens, rounded weights.

They are rows of a `Recovery` like any other, asked under the plain prompt, on the same common set.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from unpact_lens.errors import InputError, nearest
from unpact_lens.evaluation.answers import fact_right
from unpact_lens.recovery.attention import GAIN, attend_to
from unpact_lens.recovery.controls import random_words
from unpact_lens.recovery.plan import RecoveryPlan
from unpact_lens.recovery.quantize import quantized
from unpact_lens.recovery.result import CONTROL_FAMILY, PROBE_FAMILY, RANDOM_WORDS, Recovery
from unpact_lens.recovery.sheet import ask_sheet, plain_sheet

ATTENTION = "attention"
ADDED = (ATTENTION, "quantize_8", "quantize_4")
"""Probes that can be added. `attention` brings its control with it: as many random words, as much more attention."""


def check_added(probes: Sequence[str]) -> None:
    """Refuse what is not a list of names of `ADDED`.

    Raises:
        InputError: naming the first that is unknown.
    """
    if isinstance(probes, str):
        raise InputError(f"probes={probes!r} is one text; give a list of names, e.g. probes=[{probes!r}]")
    for name in probes:
        if name not in ADDED:
            raise InputError(f"unknown probe {name!r}; {nearest(str(name), ADDED)}")


def add_probes(
    recovery: Recovery,
    plan: RecoveryPlan,
    model: Any,
    *,
    control: Any = None,
    before: Any,
    probes: Sequence[str] = ADDED,
    gain: float = GAIN,
) -> Recovery:
    """The same recovery with further rows.

    Args:
        recovery: of `run_plan` with this plan and this model.
        plan: whose key words, facts and ways to ask are taken.
        model: the unlearned model; it is not changed.
        control: the retrain model; needed if the recovery has one.
        before: the model before unlearning.
        probes: of `ADDED`.
        gain: of the attention.

    Returns:
        A recovery whose first rows are those given.

    Raises:
        InputError: if a probe is unknown or there already, or the retrain model is missing.
    """
    check_added(probes)
    for name in probes:
        if name in recovery.probes:
            raise InputError(f"probe {name!r} is in this recovery already")
    if recovery.right_control is not None and control is None:
        raise InputError("this recovery was run beside a retrain model; give it again: control=…")
    rows = [row for name in probes for row in _rows(name, plan, gain)]
    nothing = torch.zeros(len(rows), len(recovery.never_items), dtype=torch.bool)
    asked = torch.stack([a for _, a, _ in rows]) if rows else torch.zeros(0, len(recovery.items), dtype=torch.bool)

    def right(of: Any) -> Tensor:
        return torch.stack([answer(of) for _, _, answer in rows]) & asked if rows else asked

    controls = recovery.right_control
    return replace(
        recovery,
        probes=(*recovery.probes, *(name for name, _, _ in rows)),
        families=(
            *recovery.families,
            *(CONTROL_FAMILY if name.startswith(RANDOM_WORDS) else PROBE_FAMILY for name, _, _ in rows),
        ),
        asked=torch.cat([recovery.asked, asked]),
        right_before=torch.cat([recovery.right_before, right(before)]),
        right_after=torch.cat([recovery.right_after, right(model)]),
        right_control=None if controls is None else torch.cat([controls, right(control)]),
        never_asked=torch.cat([recovery.never_asked, nothing]),
        never_right=torch.cat([recovery.never_right, nothing]),
        settings={**recovery.settings, "gain": gain},
    )


Row = tuple[str, Bool[Tensor, " item"], Callable[[Any], Bool[Tensor, " item"]]]


def _rows(name: str, plan: RecoveryPlan, gain: float) -> list[Row]:
    """Each row of a probe: its name, of which facts it can be asked, and from a model to what is right."""
    items, bench, budget = plan.sheet.items, plan.bench, plan.settings["batch_tokens"]
    if name == ATTENTION:
        random = [random_words(q, key, plan.settings["seed"]) for q, key in zip(items, plan.keys, strict=True)]

        def attending(words: Sequence[Sequence[str]]) -> Callable[[Any], Tensor]:
            def answer(model: Any) -> Tensor:
                texts = attend_to(model, items, words, bench=bench, gain=gain, batch_tokens=budget)
                return torch.tensor([fact_right(t, q) for t, q in zip(texts, items, strict=True)])

            return answer

        return [
            (row, torch.tensor([bool(w) for w in words]), attending(words))
            for row, words in ((ATTENTION, plan.keys), (f"{RANDOM_WORDS}:{ATTENTION}", random))
        ]
    bits = int(name.removeprefix("quantize_"))
    plain = plain_sheet(items, bench)

    def rounded(model: Any) -> Tensor:
        return ask_sheet(quantized(model, bits), plain, plain.asked, bench, budget)[0][0]

    return [(name, plain.asked[0], rounded)]
