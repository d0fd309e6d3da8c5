"""Write every prompt of a recovery run: emphasis, controls, and the probes that change the prompt only."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from unpact_lens.data.benchmark import QA
from unpact_lens.data.emphasis import EMPHASIS
from unpact_lens.evaluation.answers import prefill_for
from unpact_lens.models.hooked import HookedModel
from unpact_lens.recovery import controls
from unpact_lens.recovery.plan import Sheet, ask_sheet, plain_sheet, require_changed_prompts
from unpact_lens.recovery.probes.emphasis import emphasised
from unpact_lens.recovery.probes.registry import PROBES, PromptRow, Scene
from unpact_lens.recovery.result import (
    CONTROL_FAMILY,
    PARAPHRASE,
    RANDOM_WORDS,
    UNRELATED,
    WRONG_SUBJECT,
    family_of,
)


def write_sheet(scene: Scene) -> Sheet:
    """Write every emphasised prompt, every control prompt and every prompt of a probe, for each fact.

    Args:
        scene: Facts, their key words, the benchmark and the options. `bench` gives the unrelated texts.

    Returns:
        Rows: templates; random words in each template that takes words; unrelated text, paraphrase and wrong subject;
        probes. A row under which no fact can be asked is dropped, except the headline, whose R is then undefined.

    Raises:
        InputError: If the prompts of a row equal the plain ones.
    """
    headline = scene.probing.headline
    probes = [name for name in scene.probing.probes if PROBES[name].compared and name != PARAPHRASE]
    rows = [
        *_emphasis_rows(scene),
        _row(scene, UNRELATED, _unrelated(scene)),
        *PROBES[PARAPHRASE].prompt_rows(scene),
        PromptRow(WRONG_SUBJECT, tuple(_wrong_subject(scene, q, k) for q, k in _pairs(scene))),
        *(row for name in probes for row in PROBES[name].prompt_rows(scene)),
    ]
    kept = [row for row in rows if row.name == headline or any(row.cells)]
    cells = [[cell or ("", "") for cell in row.cells] for row in kept]
    sheet = Sheet(
        items=scene.items,
        rows=tuple(row.name for row in kept),
        prompts=tuple(tuple(prompt for prompt, _ in row) for row in cells),
        prefills=tuple(tuple(prefill for _, prefill in row) for row in cells),
    )
    require_changed_prompts(sheet, scene.bench)
    return sheet


def never_known_sheet(before: HookedModel, scene: Scene, rows: Sequence[str]) -> Sheet:
    """Write the prompts of never-known facts: those that the original model gets wrong under all prompts.

    Args:
        before: Original model.
        scene: Facts that it may not know, with their key words.
        rows: Rows of the plan. Control rows, except the paraphrase, stay empty.

    Returns:
        A sheet with these rows, and the never-known facts only.
    """
    if not scene.items:
        nothing = ((),) * len(rows)
        return Sheet((), tuple(rows), nothing, nothing)
    written = write_sheet(scene)
    wanted = [r for r in rows if family_of(r) != CONTROL_FAMILY or r == PARAPHRASE]
    sheet = written.only([r for r in wanted if r in written.rows])
    right = torch.zeros(len(scene.items), dtype=torch.bool)
    barred: dict[str, str] = {}
    for asked in (plain_sheet(scene.items, scene.bench), sheet):
        right |= ask_sheet(before, asked, asked.asked, scene.bench, scene.probing.batch_tokens)[0].any(0)
        barred |= asked.leaking()
    kept = [i for i, q in enumerate(scene.items) if not bool(right[i]) and q.id not in barred]

    def cells(table: Sequence[Sequence[str]]) -> tuple[tuple[str, ...], ...]:
        of = dict(zip(sheet.rows, table, strict=True))
        return tuple(tuple(of[r][i] if r in of else "" for i in kept) for r in rows)

    return Sheet(tuple(scene.items[i] for i in kept), tuple(rows), cells(sheet.prompts), cells(sheet.prefills))


def _emphasis_rows(scene: Scene) -> list[PromptRow]:
    """Emphasise the key words in every template, then random words in every template that takes words."""
    templates = scene.probing.chosen_templates
    random = [controls.random_words(q, key, scene.probing.seed) for q, key in _pairs(scene)]

    def written(template: str, words: Sequence[Sequence[str]]) -> list[str | None]:
        return [emphasised(template, q.prompt, w) for q, w in zip(scene.items, words, strict=True)]

    takers = [t for t in templates if EMPHASIS[t].needs_words]
    return [
        *(_row(scene, t, written(t, scene.keys)) for t in templates),
        *(_row(scene, f"{RANDOM_WORDS}:{t}", written(t, random)) for t in takers),
    ]


def _unrelated(scene: Scene) -> list[str | None]:
    """Write each plain prompt after unrelated text, of the length that the headline adds."""
    fillers, seed = controls.fillers_of(scene.bench), scene.probing.seed
    headline = scene.probing.headline
    return [
        controls.unrelated(q, controls.words_added(headline, q.prompt, key), fillers, seed) for q, key in _pairs(scene)
    ]


def _wrong_subject(scene: Scene, qa: QA, key: Sequence[str]) -> tuple[str, str] | None:
    """Write the question about another subject. An answer prefix that names the subject must name the other one."""
    prompt, name = controls.wrong_subject(qa, key, scene.probing.headline), controls.wrong_name(qa)
    if prompt is None or ("{subject}" in scene.bench.prefill and name is None):
        return None
    return prompt, scene.bench.prefill.replace("{subject}", name or "")


def _row(scene: Scene, name: str, prompts: Sequence[str | None]) -> PromptRow:
    """Pair each prompt with the benchmark's answer prefix."""
    prefills = [prefill_for(scene.bench, q) for q in scene.items]
    return PromptRow(name, tuple(None if p is None else (p, o) for p, o in zip(prompts, prefills, strict=True)))


def _pairs(scene: Scene) -> list[tuple[QA, tuple[str, ...]]]:
    """Return each fact with its key words."""
    return list(zip(scene.items, scene.keys, strict=True))
