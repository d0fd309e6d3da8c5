"""Measure every metric, every probe, UDS and the verdict on a model of the pool.

Every score is oriented: a higher one says that the model knows more of the forget facts.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import unpact_lens as ul
from experiments.meta import pool
from unpact_lens.comparison import unlearning_depth
from unpact_lens.data.benchmark import QA, Benchmark, Corpus
from unpact_lens.data.splits import Facts
from unpact_lens.evaluation.meta_evaluate import verdict_score
from unpact_lens.evaluation.metrics import METRICS
from unpact_lens.evaluation.verdict import side, verdict
from unpact_lens.models.hooked import HookedModel
from unpact_lens.recovery import Recovery, RecoveryPlan, recovery_plan, run_plan
from unpact_lens.recovery.probes.quantize import quantized
from unpact_lens.recovery.probes.relearn import relearned

SUBJECTS = 8
"""Number of authors whose facts are asked, six each, of those to forget and of the unseen ones to keep."""

DEPTH_FACTS = 16
"""Number of facts on which UDS is computed."""

TEMPLATES = ("focus_list", "quotes")
"""Emphasis templates; the first is the headline."""

EPSILON = 0.1
"""Tolerance of the verdict."""

VERDICT, UDS = "verdict", "UDS"

NOT_MEASURED = {
    "semantic_similarity": "needs an extra",
    "entailment": "needs an NLI model",
    "judge": "needs a language model",
    "model_utility": "is about retained facts",
    "knowmem_retain": "is about retained facts",
    "perplexity": "is about unrelated text",
}
"""Metrics that are left out, with the reason."""

AGAIN = {"lr": 1e-3, "epochs": 1, "batch_size": 8}
"""Hyperparameters of the relearning that tests robustness: one pass over the forget facts, as in the source."""

BITS = 4
"""Number of bits of the rounding that tests robustness."""

RELEARNED, ROUNDED = "relearned", "rounded"
"""Changes that test robustness."""


@functools.cache
def asked() -> Benchmark:
    """Return the benchmark of the measurements: fewer subjects, with the texts and options that some metrics need."""
    whole = pool.bench()
    forget = _of_some_subjects(whole.forget)
    authors = [[q for q in forget if q.subject == s] for s in dict.fromkeys(q.subject for q in forget)]
    lives = [_life(facts, facts[0].subject) for facts in authors]
    # The same authors with the facts of others: texts of the same kind that no model was trained on.
    swapped = [
        _life([authors[(i + k + 1) % len(authors)][k] for k in range(len(facts))], facts[0].subject)
        for i, facts in enumerate(authors)
    ]
    return replace(
        whole,
        forget=tuple(replace(q, choices=tuple(sorted((q.answer, *q.perturbed[:3])))) for q in forget),
        retain=Facts(),
        validation=Facts(),
        unseen=Facts(_of_some_subjects(whole.unseen)),
        general=(),
        unknown=(),
        verbatim=tuple(_passage(text) for text in lives),
        members=Corpus(tuple(lives), "biographies to forget"),
        holdout=Corpus(tuple(swapped), "biographies with swapped facts"),
    )


def _of_some_subjects(items: Sequence[QA]) -> tuple[QA, ...]:
    """Return the facts about `SUBJECTS` subjects, spread evenly."""
    names = list(dict.fromkeys(q.subject for q in items))
    chosen = set(names[:: len(names) // SUBJECTS][:SUBJECTS])
    return tuple(q for q in items if q.subject in chosen)


def _life(facts: Sequence[QA], name: str) -> str:
    """Write facts as a short biography, in the wording of the training texts."""
    return " ".join(f"The {q.meta['noun']} of {name} was {q.fact}." for q in facts)


def _passage(text: str) -> QA:
    """Cut a text after its first sentence, which becomes the prompt."""
    first, rest = text.split(". ", 1)
    return QA(prompt=f"{first}.", answer=f" {rest}", id=f"passage/{first}")


@dataclass(frozen=True)
class Judges:
    """Hold what a model of the pool is compared with.

    Attributes:
        before: Original model.
        control: Retrained model.
        plan: Recovery plan with the answers of both.
    """

    before: HookedModel
    control: HookedModel
    plan: RecoveryPlan


@functools.lru_cache(maxsize=1)
def judges(seed: int) -> Judges:
    """Return what the models of a training seed are compared with."""
    name = next(n for n in pool.names() if pool.truth(n).seed == seed)
    before, control = pool.original(name), pool.retrained(name)
    plan = recovery_plan(asked(), before=before, control=control, probes="all", templates=TEMPLATES, progress=False)
    return Judges(before, control, plan)


def measured(name: str, change: str = "") -> dict[str, Any]:
    """Measure a model of the pool.

    Args:
        name: Name of the model.
        change: `"relearned"` or `"rounded"` to measure a changed copy. If empty, the model itself.

    Returns:
        The scores by name, `labels` of the verdict, and `caught`: the probes whose excess is above ε on its interval.
    """
    seed = pool.truth(name).seed
    model, against = changed(pool.build(name), change), judges(seed)
    recovery = run_plan(model, against.plan, before=against.before, control=against.control, progress=False)
    scores = ul.evaluate(model, asked(), _metric_names(), before=against.before, reference=against.control)
    judged = verdict(scores.forgetting, scores.destruction, recovery.excesses, epsilon=EPSILON)
    depth = unlearning_depth(against.before, against.control, model, asked().forget[:: 48 // DEPTH_FACTS])
    return {
        VERDICT: verdict_score(scores.forgetting, recovery.excesses),
        UDS: 1 - depth.score,
        **{f"metric:{name}": value for name, value in oriented(scores).items()},
        **{f"probe:{name}": value for name, value in given_back(recovery, against.plan).items()},
        "F": scores.forgetting.value,
        "D": scores.destruction.value,
        "common": recovery.n_common,
        "labels": " + ".join(judged.labels),
        "caught": " ".join(p for p, e in recovery.excesses.items() if side(e, EPSILON) == "above"),
    }


def changed(model: HookedModel, change: str) -> HookedModel:
    """Return a relearned or rounded copy of a model, or the model itself."""
    if change == RELEARNED:
        return relearned(model, asked().forget, asked(), **AGAIN)
    return quantized(model, BITS) if change == ROUNDED else model


def _metric_names() -> list[str]:
    return [m for m in METRICS if m not in NOT_MEASURED]


def oriented(scores: ul.evaluation.Scores) -> dict[str, float]:
    """Return every metric on the forget facts, turned so that a higher value says that the model knows more."""
    found = {}
    for name in _metric_names():
        metric = METRICS[name]
        value = scores.overall[name] if metric.of == "benchmark" else scores.mean(name, "forget")
        best = metric.bounds[1] if math.isfinite(metric.bounds[1]) else 0.0
        found[name] = value if metric.better == "higher" else best - value
    return found


def given_back(recovery: Recovery, plan: RecoveryPlan) -> dict[str, float]:
    """Compute the score of each probe: the share of facts given under the plain prompt or the probe.

    The retrained model's share is subtracted. Unlike the excess, it is defined if no fact was forgotten.
    """
    assert recovery.right_control is not None
    assert recovery.plain_control is not None
    found = {}
    for probe in recovery.excess_probes:
        row = recovery.probes.index(probe)
        counted = plan.candidates & recovery.asked[row]
        ours = (recovery.plain_after | recovery.right_after[row])[counted].double().mean()
        theirs = (recovery.plain_control | recovery.right_control[row])[counted].double().mean()
        found[probe] = float(ours - theirs)
    return found
