"""Draw answers instead of taking the most likely one, and see whether the fact is among them.

Greedy decoding shows the mode only: an unlearned model may still give the fact in a tenth of its answers. Eight answers
are drawn at temperature 1. A fact counts if one of them holds it, which is leak@8 with eight samples. The same number
of answers is drawn to the question about the wrong subject.

Source: leak@k of arXiv 2511.04934.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from unpact_lens.models.draw import drawn
from unpact_lens.models.hooked import HookedModel
from unpact_lens.recovery.intervened_generation import continuations
from unpact_lens.recovery.plan import Sheet
from unpact_lens.recovery.probes.registry import COMPUTATION, AnswerRow, Scene, probe
from unpact_lens.recovery.wrong_subject import answered_together, any_right, contexts_of, plain_and_elsewhere

SAMPLES = 8
"""Number of answers drawn to each prompt."""


@probe(
    "sampling",
    family=COMPUTATION,
    line=f"draws {SAMPLES} answers at temperature 1; counts a fact that any of them holds (leak@{SAMPLES})",
    source="arXiv 2511.04934",
)
def sampling(scene: Scene) -> list[AnswerRow]:
    """Draw answers to the plain prompts, and as a control to those about the wrong subject."""
    bench, probing = scene.bench, scene.probing

    def ask(model: HookedModel, sheet: Sheet, where: Bool[Tensor, "row item"]) -> Bool[Tensor, "row item"]:
        cells, contexts = contexts_of(model, sheet, where, bench)
        texts = continuations(
            model,
            [c for c in contexts for _ in range(SAMPLES)],
            max_new_tokens=bench.max_new_tokens,
            stop=bench.stop,
            choose=drawn(torch.Generator().manual_seed(probing.seed)),
            batch_tokens=probing.batch_tokens,
        )
        return any_right(sheet, cells, texts, SAMPLES)

    return answered_together(scene, plain_and_elsewhere(scene, "sampling"), ask)
