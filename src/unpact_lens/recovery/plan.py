"""Hold the recovery plan: every prompt, fixed before the run, and the answers of the original and retrained models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool
from torch import Tensor

from unpact_lens.data.benchmark import QA, Benchmark
from unpact_lens.display import joined
from unpact_lens.errors import InputError
from unpact_lens.evaluation.answers import ask, fact_right, holds_fact, prefill_for
from unpact_lens.models.hooked import HookedModel
from unpact_lens.recovery.probing import DEFAULT_RULE, GAIN, Probing
from unpact_lens.recovery.result import WRONG_SUBJECT, Example
from unpact_lens.results import Result, storable

Answers = dict[tuple[int, int], str]
"""Generated answers by the row and the column of a sheet."""


@storable
@dataclass(frozen=True)
class Sheet:
    """Hold the prompts of several facts under several probes: one row for each probe, one column for each fact.

    Attributes:
        items: Facts.
        rows: Name of each row.
        prompts: For each row, the prompt of each fact. Empty where the fact cannot be asked under this row.
        prefills: For each row, the answer prefix that goes with each prompt.
    """

    items: tuple[QA, ...]
    rows: tuple[str, ...]
    prompts: tuple[tuple[str, ...], ...]
    prefills: tuple[tuple[str, ...], ...]

    @property
    def asked(self) -> Bool[Tensor, "probe item"]:
        """True where there is a prompt."""
        return torch.tensor([[bool(p) for p in row] for row in self.prompts], dtype=torch.bool).reshape(
            len(self.rows), len(self.items)
        )

    def only(self, rows: Sequence[str]) -> Sheet:
        """Return the sheet with these rows only, in this order."""
        index = [self.rows.index(r) for r in rows]
        return Sheet(
            self.items, tuple(rows), tuple(self.prompts[i] for i in index), tuple(self.prefills[i] for i in index)
        )

    def leaking(self) -> dict[str, str]:
        """Return the ids of the facts that a prompt gives away, with the reason."""
        found: dict[str, str] = {}
        for row, prompts, prefills in zip(self.rows, self.prompts, self.prefills, strict=True):
            for qa, prompt, prefill in zip(self.items, prompts, prefills, strict=True):
                if prompt and qa.id not in found and leaks(qa, prompt, prefill):
                    found[qa.id] = f"the {row} prompt holds the fact"
        return found

    def examples(self, answers: Answers, right: Bool[Tensor, "probe item"], column: int) -> list[Example]:
        """Return the answers for one fact as examples.

        Args:
            answers: Generated answers, as `ask_sheet` returns them.
            right: True where an answer holds its fact.
            column: Index of the fact.
        """
        qa = self.items[column]
        return [
            Example(qa.id, self.rows[r], self.prompts[r][c], self.prefills[r][c], text, bool(right[r, c]))
            for (r, c), text in answers.items()
            if c == column
        ]


def leaks(qa: QA, prompt: str, prefill: str) -> bool:
    """Return whether a prompt, or the answer prefix that goes with it, gives the fact away."""
    return any(holds_fact(text, qa.fact, qa.aliases) for text in (prompt, prefill))


def require_changed_prompts(sheet: Sheet, bench: Benchmark) -> None:
    """Refuse a row whose every prompt is the plain one.

    Args:
        sheet: Prompts.
        bench: Benchmark that gives the answer prefix.

    Raises:
        InputError: If a row that can be asked changes neither prompt nor answer prefix of any fact.
    """
    plain = [(q.prompt, prefill_for(bench, q)) for q in sheet.items]
    for row, prompts, prefills in zip(sheet.rows, sheet.prompts, sheet.prefills, strict=True):
        asked = [(own, cell) for own, cell in zip(plain, zip(prompts, prefills, strict=True), strict=True) if cell[0]]
        if asked and all(own == cell for own, cell in asked):
            raise InputError(
                f"row {row!r} would do nothing: its prompts equal the plain ones, e.g. {asked[0][0][0]!r}; leave it "
                "out, or give questions whose wording differs"
            )


def plain_sheet(items: Sequence[QA], bench: Benchmark, row: str = "plain") -> Sheet:
    """Write the sheet of the unchanged questions.

    Args:
        items: Facts.
        bench: Benchmark that gives the answer prefix.
        row: Name of the only row.
    """
    prefills = tuple(prefill_for(bench, q) for q in items)
    return Sheet(tuple(items), (row,), (tuple(q.prompt for q in items),), (prefills,))


def ask_sheet(
    model: HookedModel, sheet: Sheet, where: Bool[Tensor, "probe item"], bench: Benchmark, batch_tokens: int | None
) -> tuple[Bool[Tensor, "probe item"], Answers]:
    """Ask a model the prompts of a sheet in one call.

    Args:
        model: Hooked model.
        sheet: Prompts.
        where: True for the prompts to ask. Cells without a prompt are skipped.
        bench: Benchmark that gives the chat template and the answer length.
        batch_tokens: Largest number of input tokens in one forward pass. If None, it is chosen from the free memory.

    Returns:
        True where an answer holds its fact (False where nothing was asked), and the answers by row and column.
    """
    cells = [(int(r), int(c)) for r, c in (where & sheet.asked).nonzero().tolist()]
    texts = ask(
        model,
        [sheet.prompts[r][c] for r, c in cells],
        [sheet.prefills[r][c] for r, c in cells],
        bench=bench,
        batch_tokens=batch_tokens,
    )
    answers = dict(zip(cells, texts, strict=True))
    right = torch.zeros(len(sheet.rows), len(sheet.items), dtype=torch.bool)
    for (r, c), text in answers.items():
        right[r, c] = fact_right(text, sheet.items[c])
    return right, answers


@dataclass(frozen=True, eq=False)
class RecoveryPlan(Result):
    """Hold every prompt of a recovery run, and the answers of the original and the retrained model.

    Attributes:
        bench: Benchmark of the forget facts. Its `unknown` are the never-known facts.
        sheet: Prompts of the forget facts.
        never_sheet: Prompts of the never-known facts, for the rows whose excess is computed.
        keys: Key words of each forget fact.
        headline: Emphasis template whose rate is R.
        oracle: True if KeyTokens were computed towards the gold answer.
        excluded: Facts that a prompt gives away, with the reason.
        set_apart: Excluded templates, with the share of facts that the original model answers under each.
        plain_before: True for the facts that the original model answers under the plain prompt.
        right_before: The same under each row of the sheet.
        plain_control: The same as `plain_before` for the retrained model. None without one.
        right_control: The same as `right_before` for the retrained model, with relearning in the last row if it is
            asked. None without a retrained model.
        taught: True for the facts that relearning teaches. All False without relearning.
        relearn: Hyperparameters of relearning. None without it.
        settings: Rule, seed, batch budget and other options of the run.
        added_before: What the original model answers right under each row of the probes in `added`.
        added_control: The same for the retrained model.
        added: Names of the probes beyond prompts and relearning, in the order asked.
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
    added: tuple[str, ...] = ()

    def _brief(self) -> str:
        return joined([f"{len(self.bench.forget)} facts", f"{int(self.plain_before.sum())} known", self.headline])

    @property
    def compared(self) -> tuple[str, ...]:
        """Rows under which the original model must be right for a fact to count: all but the wrong subject."""
        return tuple(r for r in self.sheet.rows if r != WRONG_SUBJECT)

    @property
    def candidates(self) -> Bool[Tensor, " item"]:
        """True for the facts that can be in a common set: not excluded, and right before under all compared rows."""
        kept = self.plain_before & ~torch.tensor([q.id in self.excluded for q in self.sheet.items], dtype=torch.bool)
        for name in self.compared:
            row = self.sheet.rows.index(name)
            kept = kept & self.sheet.asked[row] & self.right_before[row]
        return kept

    @property
    def shown(self) -> tuple[int, ...]:
        """Indices of the facts whose answers are kept: the first ones in the seed's order."""
        generator = torch.Generator().manual_seed(self.settings["seed"])
        order = torch.randperm(len(self.sheet.items), generator=generator)
        return tuple(order[: self.settings["n_examples"]].tolist())

    @property
    def probing(self) -> Probing:
        """Options that a probe needs, as the plan was made with them."""
        return Probing(
            templates=self.settings.get("templates"),
            headline=self.headline,
            rule=self.settings.get("rule", DEFAULT_RULE),
            key_tokens=self.settings["key_tokens"],
            probes=self.added,
            relearn=self.relearn,
            gain=self.settings.get("gain", GAIN),
            seed=self.settings["seed"],
            batch_tokens=self.settings["batch_tokens"],
        )

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row for each fact: its key words, whether it can count, and every prompt."""
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
