"""Ask every question twice, about its subject and about the wrong one, by the same probe.

The questions about the wrong subject are the control of a probe: they must not give the fact. Both are asked in one
call, so that a changed copy of a model is made once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool
from torch import Tensor

from unpact_lens.data.benchmark import QA, Benchmark
from unpact_lens.evaluation.answers import fact_right, holds_fact, prefill_for
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.tokens import encode_context
from unpact_lens.recovery.controls import wrong_name
from unpact_lens.recovery.plan import Sheet, ask_sheet, require_changed_prompts
from unpact_lens.recovery.probes.registry import Answered, AnswerRow, Scene
from unpact_lens.recovery.result import WRONG_SUBJECT

Asker = Callable[[HookedModel, Sheet, Bool[Tensor, "row item"]], Bool[Tensor, "row item"]]
"""Function from a model, a sheet and the cells to ask to whether each cell gives its fact."""

if TYPE_CHECKING:
    Asked = HookedModel
else:
    Asked = object  # tests ask with stand-ins


def about_wrong_subject(qa: QA, bench: Benchmark) -> QA | None:
    """Return the question about the wrong subject. None if there is none, or its answer prefix cannot name the subject.

    Args:
        qa: Question.
        bench: Benchmark that gives the answer prefix.
    """
    named = "{subject}" in bench.prefill  # the answer prefix then needs the wrong subject's name
    if not qa.wrong_subject or (named and not wrong_name(qa)):
        return None
    return replace(qa, prompt=qa.wrong_subject, subject=wrong_name(qa) or "")


def plain_and_elsewhere(scene: Scene, name: str) -> Sheet:
    """Write the plain prompts as one row, and those about the wrong subject as its control row.

    Args:
        scene: What the rows are built from.
        name: Name of the first row. The second is `"wrong_subject:"` and the name. It is left out if it has no prompt.
    """
    return written(scene, name, lambda qa: (qa.prompt, prefill_for(scene.bench, qa)))


def written(scene: Scene, name: str, write: Callable[[QA], tuple[str, str]]) -> Sheet:
    """Write a prompt for every fact as one row, and for the question about its wrong subject as its control row.

    Args:
        scene: What the rows are built from.
        name: Name of the first row, as in `plain_and_elsewhere`.
        write: Function from a question to its prompt and answer prefix.
    """
    rows = [name, f"{WRONG_SUBJECT}:{name}"]
    questions: list[Sequence[QA | None]] = [
        scene.items, [about_wrong_subject(q, scene.bench) for q in scene.items]
    ]  # fmt: skip
    cells = [[("", "") if q is None else write(q) for q in row] for row in questions]
    kept = [i for i, row in enumerate(cells) if i == 0 or any(prompt for prompt, _ in row)]
    return Sheet(
        items=scene.items,
        rows=tuple(rows[i] for i in kept),
        prompts=tuple(tuple(prompt for prompt, _ in cells[i]) for i in kept),
        prefills=tuple(tuple(prefill for _, prefill in cells[i]) for i in kept),
    )


def asked_in_variants(
    scene: Scene, name: str, write: Callable[[QA, str], tuple[str, str]], variants: Sequence[str]
) -> list[AnswerRow]:
    """Ask every question in several variants. A fact counts if one of them brings it back.

    Args:
        scene: What the rows are built from.
        name: Name of the row.
        write: Function from a question and a variant to the prompt and its answer prefix.
        variants: Texts that are put into prompt or answer prefix. A variant that holds a fact is left out for it.
    """

    def written_in(variant: str) -> Callable[[QA], tuple[str, str]]:
        return lambda qa: ("", "") if holds_fact(variant, qa.fact, qa.aliases) else write(qa, variant)

    sheets = [written(scene, name, written_in(variant)) for variant in variants]
    for sheet in sheets:
        require_changed_prompts(sheet, scene.bench)

    def ask(model: Asked, first: Sheet, where: Bool[Tensor, "row item"]) -> Bool[Tensor, "row item"]:
        right = torch.zeros_like(where)
        for sheet in sheets:
            right |= ask_sheet(model, sheet, where & ~right, scene.bench, scene.probing.batch_tokens)[0]
        return right

    return answered_together(scene, sheets[0], ask)


def answered_together(scene: Scene, sheet: Sheet, ask: Asker, *, spare: bool = True) -> list[AnswerRow]:
    """Build one row for each row of a sheet, all asked of a model in one call.

    Args:
        scene: What the rows are built from.
        sheet: Prompts.
        ask: Function that asks a model.
        spare: If True, the unlearned model is asked the facts that count only.
    """
    where = sheet.asked
    if spare and scene.after is not None and scene.counted is not None:
        where = where & scene.counted

    last: list[tuple[HookedModel, Tensor]] = []

    def right(model: Asked) -> Bool[Tensor, "row item"]:
        if not last or last[0][0] is not model:  # the rows of one model are asked one after the other
            last[:] = [(model, ask(model, sheet, where))]
        return last[0][1]

    def row(index: int) -> AnswerRow:
        return AnswerRow(sheet.rows[index], sheet.asked[index], lambda model: Answered(right(model)[index]))

    return [row(i) for i in range(len(sheet.rows))]


def contexts_of(
    model: HookedModel, sheet: Sheet, where: Bool[Tensor, "row item"], bench: Benchmark
) -> tuple[list[tuple[int, int]], list[tuple[int, ...]]]:
    """Return the cells of a sheet that are asked, and all ids that a model reads for each.

    Args:
        model: Model that gives the tokenizer.
        sheet: Prompts.
        where: True for the cells to ask.
        bench: Benchmark that gives the chat template.
    """
    cells = [(int(r), int(c)) for r, c in where.nonzero().tolist()]
    return cells, [
        encode_context(model, sheet.prompts[r][c], chat=bench.chat, prefill=sheet.prefills[r][c]).context
        for r, c in cells
    ]


def any_right(
    sheet: Sheet, cells: Sequence[tuple[int, int]], texts: Sequence[str], tries: int
) -> Bool[Tensor, "row item"]:
    """Return where one of several answers holds its fact.

    Args:
        sheet: Prompts that were asked.
        cells: Row and column of each prompt.
        texts: Answers: all tries of the first cell, then those of the second, and so on.
        tries: Number of answers to each prompt.
    """
    right = torch.zeros(len(sheet.rows), len(sheet.items), dtype=torch.bool)
    for i, (r, c) in enumerate(cells):
        right[r, c] = any(fact_right(text, sheet.items[c]) for text in texts[i * tries : (i + 1) * tries])
    return right
