"""Train a little on a tenth of the forget facts, and see whether the others come back.

Source: Hu et al. 2024, arXiv 2406.13356 (relearning attacks on unlearned models).
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from unpact_lens.data.benchmark import QA, Benchmark
from unpact_lens.errors import InputError
from unpact_lens.models.checkpoint import clone
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.shared_weights import share
from unpact_lens.recovery.changed_weights import require_changed_weights
from unpact_lens.recovery.plan import ask_sheet, plain_sheet
from unpact_lens.recovery.probes.registry import WEIGHTS, Answered, AnswerRow, Scene, probe
from unpact_lens.recovery.result import RELEARN
from unpact_lens.unlearning import losses
from unpact_lens.unlearning.adapters import keeps_adapters, trained_adapters
from unpact_lens.unlearning.batch import Examples
from unpact_lens.unlearning.dataset import Source, draw_order, examples
from unpact_lens.unlearning.end_token import with_end_decided
from unpact_lens.unlearning.settings import split
from unpact_lens.unlearning.trainer import Term, train

SHARE = 0.1
"""Fraction of the forget facts to teach."""

STEPS = 12
"""Optimiser steps, for the unlearned and for the retrained model."""

LR_SCALE = 0.25
"""The default learning rate is this over `d_model · n_layers`. In wide and deep models, the same change of each weight
moves the output further. It is 1e-3 for the embedded model and 1.4e-5 for SmolLM2-135M. The result reports how many of
the taught facts are right afterwards (`relearn_taught_right`)."""


@probe(
    "relearn",
    family=WEIGHTS,
    line="trains a few steps on a tenth of the forget facts, and asks the others",
    source="Hu et al. 2024, arXiv 2406.13356",
)
def relearn(scene: Scene) -> list[AnswerRow]:
    """Ask the plain prompts after relearning, of facts about other subjects than the taught ones.

    There is no row if the facts are about one subject only.
    """
    plan = scene.plan
    if plan is None or plan.relearn is None or not bool(plan.taught.any()) or scene.counted is None:
        return []
    settings, taught, counted = plan.relearn, plan.taught, scene.counted
    bench, budget = scene.bench, scene.probing.batch_tokens
    questions, never = (plain_sheet(items, bench, RELEARN) for items in (scene.items, plan.never_sheet.items))

    def answer(model: HookedModel) -> Answered:
        facts = [q for q, t in zip(scene.items, taught.tolist(), strict=True) if t]
        again = relearned(model, facts, bench, seed=scene.probing.seed, **settings)
        wanted = counted | taught
        wanted[list(plan.shown)] = True
        right, said = ask_sheet(again, questions, wanted[None], bench, budget)
        never_right, _ = ask_sheet(again, never, never.asked, bench, budget)
        return Answered(
            right=right[0],
            never=never_right[0],
            examples=tuple(e for c in plan.shown for e in questions.examples(said, right, c)),
            settings={"relearn_taught_right": float(right[0][taught].double().mean())},
        )

    return [AnswerRow(RELEARN, ~taught, answer)]


def taught_facts(items: Sequence[QA], *, share: float = SHARE, seed: int = 0) -> tuple[bool, ...]:
    """Choose the facts to teach: all facts about some subjects, so no subject is both taught and tested.

    Args:
        items: Forget facts.
        share: Smallest fraction of the facts to teach.
        seed: Random seed for the draw of subjects.

    Returns:
        One flag for each fact. All are False if there are fewer than two subjects.

    Raises:
        InputError: If `share` is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise InputError(f"relearn share={share}; give a fraction between 0 and 1, e.g. 0.1")
    subjects = list(dict.fromkeys(q.subject or q.id for q in items))
    random.Random(f"{seed}/relearn").shuffle(subjects)
    taught: set[str] = set()
    for subject in subjects[:-1]:
        if sum((q.subject or q.id) in taught for q in items) >= math.ceil(share * len(items)):
            break
        taught.add(subject)
    return tuple((q.subject or q.id) in taught for q in items)


def check_relearn(given: Mapping[str, Any], model: HookedModel) -> tuple[float, dict[str, Any]]:
    """Return the share of facts to teach, and the complete hyperparameters of the trainer.

    Args:
        given: `share`, and hyperparameters of `unlearning.settings.Settings`. `epochs` replaces the default of `STEPS`
            steps.
        model: Model whose width and depth give the default learning rate.

    Raises:
        InputError: If a hyperparameter is unknown or has a wrong value.
    """
    lr = LR_SCALE / (model.cfg.d_model * model.cfg.n_layers)
    length = {} if "epochs" in given else {"steps": STEPS}
    settings = {"lr": lr, **length, **{k: v for k, v in given.items() if k != "share"}}
    split(settings, {}, {})
    return float(given.get("share", SHARE)), settings


def end_decided(model: HookedModel, taught: Sequence[QA], bench: Benchmark, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return hyperparameters of relearning with `end_token` decided where it is not given, as `unlearn` does.

    Where the model does not expect the end token, its loss is most of the loss, and the few steps teach the end of
    answers instead of the facts. The original model decides, for the unlearned and for the retrained model.

    Args:
        model: Original model.
        taught: Facts to teach.
        bench: Benchmark that gives the chat template and the answer prefix.
        given: Hyperparameters of `unlearning.settings.Settings`.
    """
    settings, _ = split(given, {"chat": bench.chat, "prefill": bench.prefill}, {})
    return {**given, "end_token": with_end_decided(model, taught, settings, shown=False).end_token}


def relearned(model: HookedModel, taught: Source, bench: Benchmark, *, seed: int = 0, **settings: Any) -> HookedModel:
    """Return a copy of a model after a few training steps on some facts, or on raw text.

    The unlearning trainer minimises the negative log-likelihood of the answers, or of every token of the text. With a
    `rank`, it trains low-rank adapters; on a bridge, the copy then shares the weights of `model`.

    Args:
        model: Model to copy. It is not changed.
        taught: Facts to teach, or raw text.
        bench: Benchmark that gives the chat template and the answer prefix.
        seed: Random seed for the data order.
        **settings: Hyperparameters of `unlearning.settings.Settings`, e.g. `lr`, `steps`, `batch_size`. The end token
            is a trained label unless `end_token` is False; a plan decides that (`end_decided`).

    Raises:
        InputError: If a hyperparameter is unknown, or training changes no weight.
    """
    _, complete = check_relearn(settings, model)
    shared, _ = split(complete, {"chat": bench.chat, "prefill": bench.prefill}, {})
    copy = share(model) if keeps_adapters(model, shared.rank) else clone(model)
    data = Examples(examples(copy, taught, shared, "relearning"), copy)
    steps = shared.length(len(data))
    order = draw_order(len(data), steps, shared.batch_size, torch.Generator().manual_seed(seed))
    term = Term("relearn", lambda view, options: losses.nll(view.log_probs, view.mask), "token", 1.0, data, order)
    with trained_adapters(copy, shared, seed) as trained:
        train(copy, [term], trained)
    require_changed_weights(model, copy, f"relearning at lr={shared.lr}", "give relearn= a larger lr or more steps")
    return copy
