"""Every prompt of a recovery run, written out before any unlearned model is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from unpact_lens.data.benchmark import QA, Benchmark
from unpact_lens.data.emphasis import EMPHASIS
from unpact_lens.evaluation.answers import ask, fact_right, prefill_for
from unpact_lens.recovery import controls
from unpact_lens.recovery.probes.emphasis import emphasised, leaks
from unpact_lens.recovery.result import (
    CONTROL_FAMILY,
    EMPHASIS_FAMILY,
    PARAPHRASE,
    PREFILL,
    PROBE_FAMILY,
    RANDOM_WORDS,
    UNRELATED,
    WRONG_SUBJECT,
)
from unpact_lens.results import storable

Asked = tuple[str, str]
"""A prompt, and the opening of the answer that goes with it."""


@storable
@dataclass(frozen=True)
class Sheet:
    """What is asked: one row a probe, one column a fact.

    Attributes:
        items: the facts.
        rows: names of the probes.
        prompts: for each row, the prompt of each fact; empty where a fact cannot be asked that way.
        prefills: for each row, the opening of each answer.
    """

    items: tuple[QA, ...]
    rows: tuple[str, ...]
    prompts: tuple[tuple[str, ...], ...]
    prefills: tuple[tuple[str, ...], ...]

    @property
    def asked(self) -> Bool[Tensor, "probe item"]:
        """Where there is a prompt."""
        return torch.tensor([[bool(p) for p in row] for row in self.prompts], dtype=torch.bool).reshape(
            len(self.rows), len(self.items)
        )

    def only(self, rows: Sequence[str]) -> Sheet:
        """The same with these rows, in this order."""
        index = [self.rows.index(r) for r in rows]
        return Sheet(
            self.items, tuple(rows), tuple(self.prompts[i] for i in index), tuple(self.prefills[i] for i in index)
        )

    def leaking(self) -> dict[str, str]:
        """Facts that a prompt would give away, and which prompt."""
        found: dict[str, str] = {}
        for row, prompts, prefills in zip(self.rows, self.prompts, self.prefills, strict=True):
            for qa, prompt, prefill in zip(self.items, prompts, prefills, strict=True):
                if prompt and qa.id not in found and leaks(qa, prompt, prefill):
                    found[qa.id] = f"the {row} prompt holds the fact"
        return found


def family_of(row: str) -> str:
    """`"emphasis"`, `"control"` or `"probe"`."""
    if row in EMPHASIS:
        return EMPHASIS_FAMILY
    known = (PARAPHRASE, UNRELATED, WRONG_SUBJECT)
    return CONTROL_FAMILY if row in known or row.startswith(RANDOM_WORDS) else PROBE_FAMILY


def plain_sheet(items: Sequence[QA], bench: Benchmark, row: str = "plain") -> Sheet:
    """Every question as it stands.

    Args:
        items: the facts.
        bench: gives the prefill.
        row: what the row is called.
    """
    prefills = tuple(prefill_for(bench, q) for q in items)
    return Sheet(tuple(items), (row,), (tuple(q.prompt for q in items),), (prefills,))


def write_sheet(
    items: Sequence[QA],
    keys: Sequence[Sequence[str]],
    bench: Benchmark,
    *,
    templates: Sequence[str],
    headline: str,
    fillers: Sequence[str],
    seed: int,
    prefill: bool,
) -> Sheet:
    """Every emphasised prompt and every control prompt of every fact.

    Args:
        items: the facts.
        keys: the key words of each.
        bench: gives the prefill.
        templates: names of the emphasis templates.
        headline: the one whose length and wording the other controls follow.
        fillers: unrelated texts.
        seed: of every draw.
        prefill: whether the answer's opening is given as a probe.

    Returns:
        Rows: templates; random words in each template that takes words; unrelated text, paraphrase, wrong subject;
        prefill. A row that no fact can be asked under is left out, but for the headline: R is then undefined.
    """
    columns = [
        _column(qa, key, bench, templates, headline, fillers, seed, prefill)
        for qa, key in zip(items, keys, strict=True)
    ]
    rows = [r for r in (columns[0] if columns else {}) if r == headline or any(c[r] is not None for c in columns)]
    table = [[column[r] or ("", "") for column in columns] for r in rows]
    return Sheet(
        tuple(items),
        tuple(rows),
        tuple(tuple(prompt for prompt, _ in row) for row in table),
        tuple(tuple(opening for _, opening in row) for row in table),
    )


def ask_sheet(
    model: Any, sheet: Sheet, where: Bool[Tensor, "probe item"], bench: Benchmark, batch_tokens: int
) -> tuple[Bool[Tensor, "probe item"], dict[tuple[int, int], str]]:
    """Ask a model what the sheet says, in one go.

    Args:
        model: a hooked model.
        sheet: the prompts.
        where: which of them to ask; those without a prompt are passed over.
        bench: chat template and length of an answer.
        batch_tokens: bound on the tokens of one batch.

    Returns:
        Whether each answer holds its fact (False where nothing was asked), and the answers by row and column.
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


def _column(
    qa: QA,
    key: Sequence[str],
    bench: Benchmark,
    templates: Sequence[str],
    headline: str,
    fillers: Sequence[str],
    seed: int,
    prefill: bool,
) -> dict[str, Asked | None]:
    """Every prompt of one fact."""
    opening = prefill_for(bench, qa)
    drawn = controls.random_words(qa, key, seed)
    added = controls.words_added(headline, qa.prompt, key)
    prompts: dict[str, str | None] = {t: emphasised(t, qa.prompt, key) for t in templates}
    prompts |= {f"{RANDOM_WORDS}:{t}": emphasised(t, qa.prompt, drawn) for t in templates if EMPHASIS[t].needs_words}
    prompts[UNRELATED] = controls.unrelated(qa, added, fillers, seed)
    prompts[PARAPHRASE] = controls.paraphrase(qa, seed)
    column: dict[str, Asked | None] = {row: None if p is None else (p, opening) for row, p in prompts.items()}
    column[WRONG_SUBJECT] = _wrong_subject(qa, key, headline, bench)
    if prefill:
        column[PREFILL] = (qa.prompt, opening + qa.answer_prefix) if qa.answer_prefix.strip() else None
    return column


def _wrong_subject(qa: QA, key: Sequence[str], headline: str, bench: Benchmark) -> Asked | None:
    """The question about another subject; its prefill, if it names the subject, must name the other."""
    prompt, name = controls.wrong_subject(qa, key, headline), controls.wrong_name(qa)
    if prompt is None or ("{subject}" in bench.prefill and name is None):
        return None
    return prompt, bench.prefill.replace("{subject}", name or "")
