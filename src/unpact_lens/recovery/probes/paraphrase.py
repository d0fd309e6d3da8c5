"""Ask in other words, without emphasis. Every plan holds this row: it is a control of emphasis and a probe as well."""

from __future__ import annotations

from unpact_lens.evaluation.answers import prefill_for
from unpact_lens.recovery.controls import paraphrase as paraphrase_of
from unpact_lens.recovery.probes.registry import PROMPT, PromptRow, Scene, probe


@probe(
    "paraphrase",
    family=PROMPT,
    line="asks in other words, without emphasis; always asked",
    source="unpact-lens",
    compared=True,
)
def paraphrase(scene: Scene) -> list[PromptRow]:
    """Write one paraphrase of each question, drawn by the seed."""
    texts = [paraphrase_of(q, scene.probing.seed) for q in scene.items]
    cells = (
        None if text is None else (text, prefill_for(scene.bench, q))
        for q, text in zip(scene.items, texts, strict=True)
    )
    return [PromptRow("paraphrase", tuple(cells))]
