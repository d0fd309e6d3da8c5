"""Give the start of the gold answer, and see whether the model completes it with the fact."""

from __future__ import annotations

from unpact_lens.evaluation.answers import prefill_for
from unpact_lens.recovery.probes.registry import PROMPT, PromptRow, Scene, probe


@probe(
    "prefill",
    family=PROMPT,
    line="gives the start of the gold answer, up to the fact",
    source="unpact-lens",
    compared=True,
)
def prefill(scene: Scene) -> list[PromptRow]:
    """Write the plain prompts with the gold answer up to its fact as the answer prefix."""
    cells = (
        (q.prompt, prefill_for(scene.bench, q) + q.answer_prefix) if q.answer_prefix.strip() else None
        for q in scene.items
    )
    return [PromptRow("prefill", tuple(cells))]
