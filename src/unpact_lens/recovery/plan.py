"""A recovery plan: every prompt, fixed, and what the models that do not change answer to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool
from torch import Tensor

from unpact_lens.data.benchmark import Benchmark
from unpact_lens.recovery.result import WRONG_SUBJECT
from unpact_lens.recovery.sheet import Sheet
from unpact_lens.results import Result


@dataclass(frozen=True, eq=False)
class RecoveryPlan(Result):
    """Every prompt of a recovery run, and what the model before and the retrain model answer.

    Attributes:
        bench: the forget facts, never-known facts as `unknown`, and how to ask.
        sheet: the prompts of the forget facts.
        never_sheet: the prompts of the never-known facts; those whose excess is wanted.
        keys: the key words of each forget fact.
        headline: the template chosen before the run.
        oracle: KeyTokens were computed towards the gold answer.
        excluded: facts that a prompt gives away, and which.
        set_apart: templates that the model before cannot answer under, with its rate.
        plain_before, right_before: what the model before gets right.
        plain_control, right_control: the retrain model, with relearning in the last row if it is a probe; None
            without one.
        taught: which facts relearning teaches; all False without that probe.
        relearn: settings of relearning; None without that probe.
        settings: rule, seed, batch budget and the like.
        added_before, added_control: the same of added probes, by row; what is missing is asked when it is needed.
    """

    bench: Benchmark
    sheet: Sheet
    never_sheet: Sheet
    keys: tuple[tuple[str, ...], ...]
    headline: str
    oracle: bool
    excluded: dict[str, str]
    set_apart: dict[str, float]
    plain_before: Bool[Tensor, " item"]
    right_before: Bool[Tensor, "probe item"]
    plain_control: Bool[Tensor, " item"] | None
    right_control: Bool[Tensor, "row item"] | None
    taught: Bool[Tensor, " item"]
    relearn: dict[str, Any] | None
    settings: dict[str, Any] = field(default_factory=dict)
    added_before: dict[str, Bool[Tensor, " item"]] = field(default_factory=dict)
    added_control: dict[str, Bool[Tensor, " item"]] = field(default_factory=dict)

    @property
    def compared(self) -> tuple[str, ...]:
        """The rows under which the model before must be right: all prompts but the wrong subject's."""
        return tuple(r for r in self.sheet.rows if r != WRONG_SUBJECT)

    @property
    def candidates(self) -> Bool[Tensor, " item"]:
        """Facts that can be in a common set: not given away, and right before under all compared prompts."""
        kept = self.plain_before & ~torch.tensor([q.id in self.excluded for q in self.sheet.items], dtype=torch.bool)
        for name in self.compared:
            row = self.sheet.rows.index(name)
            kept = kept & self.sheet.asked[row] & self.right_before[row]
        return kept

    def to_frame(self) -> pd.DataFrame:
        """One row a fact: its key words, whether it can be counted, and every prompt."""
        columns = {row: self.sheet.prompts[i] for i, row in enumerate(self.sheet.rows)}
        return pd.DataFrame(
            {
                "id": [q.id for q in self.sheet.items],
                "key words": [", ".join(k) for k in self.keys],
                "candidate": self.candidates.tolist(),
                "excluded": [self.excluded.get(q.id, "") for q in self.sheet.items],
                **columns,
            }
        )
