"""Train a little on unrelated text, and see whether the forgotten facts come back.

Nothing that is trained on mentions a forget fact or its subject. If facts come back all the same, unlearning hid them
under a change that any training undoes.

Source: Łucki et al. 2024, arXiv 2409.18025 (unlearning is undone by fine-tuning on unrelated examples).
"""

from __future__ import annotations

from functools import partial

from unpact_lens.data.benchmark import Benchmark, Corpus
from unpact_lens.errors import InputError
from unpact_lens.evaluation.answers import holds_fact
from unpact_lens.models.hooked import HookedModel
from unpact_lens.recovery.changed_weights import asked_of_copies
from unpact_lens.recovery.controls import fillers_of
from unpact_lens.recovery.probes.registry import TEXTS, WEIGHTS, AnswerRow, Scene, probe
from unpact_lens.recovery.probes.relearn import relearned

RELEARN_UNRELATED = "relearn_unrelated"

MOST_TEXTS = 64
"""Largest number of texts that a plan keeps."""


def unrelated_texts(bench: Benchmark) -> tuple[str, ...]:
    """Return texts of a benchmark that name no subject and hold no fact of its forget set, at most `MOST_TEXTS`.

    These are its plain text, or else the questions of its general and far facts.

    Args:
        bench: Benchmark.
    """
    told = [t for q in bench.forget for t in (q.fact, *q.aliases, q.subject) if t]
    fit = (text for text in fillers_of(bench) if not any(holds_fact(text, t) for t in told))
    return tuple(text for text, _ in zip(fit, range(MOST_TEXTS), strict=False))


def _refuse(headline: str, bench: Benchmark | None) -> str | None:
    """Return why there is nothing to train on."""
    if bench is None or unrelated_texts(bench):
        return None
    return (
        f"probe {RELEARN_UNRELATED!r} trains on unrelated text, and benchmark {bench.name!r} has none that names no "
        "forget fact and no subject; give it plain_text=Corpus(...), or leave the probe out"
    )


@probe(
    RELEARN_UNRELATED,
    family=WEIGHTS,
    line="trains a few steps on unrelated text, and asks all forget facts",
    source="Łucki et al. 2024, arXiv 2409.18025",
    needs=(TEXTS,),
    refuse=_refuse,
)
def relearn_unrelated(scene: Scene) -> list[AnswerRow]:
    """Ask the plain prompts after training on unrelated text, and as a control about the wrong subject."""
    texts = scene.bench.plain_text
    if texts is None:
        raise InputError(f"probe {RELEARN_UNRELATED!r} needs the texts of its plan; make the plan again")
    change = partial(_trained, texts=texts, scene=scene)
    return asked_of_copies(scene, RELEARN_UNRELATED, [change], elsewhere=True)


def _trained(model: HookedModel, *, texts: Corpus, scene: Scene) -> HookedModel:
    """Return a copy of a model after training on texts, with the hyperparameters of relearning."""
    settings = {k: v for k, v in (scene.probing.relearn or {}).items() if k != "share"}
    return relearned(model, texts, scene.bench, seed=scene.probing.seed, **settings)
