"""Relearning: train a little on a tenth of the forgotten facts, and see whether the others come back."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from unpact_lens.data.benchmark import QA, Benchmark
from unpact_lens.errors import InputError
from unpact_lens.models.checkpoint import clone
from unpact_lens.unlearning import losses
from unpact_lens.unlearning.batch import Examples
from unpact_lens.unlearning.dataset import draw_order, examples
from unpact_lens.unlearning.early_stopping import Checks
from unpact_lens.unlearning.result import StopRule
from unpact_lens.unlearning.settings import split
from unpact_lens.unlearning.trainer import Term, train

SHARE = 0.1
"""Fraction of the forget facts that is taught again."""

STEPS = 12
"""Optimiser steps, the same for the unlearned and the retrain model."""

LR_SCALE = 0.25
"""The default learning rate is this over `d_model · n_layers`: wide and deep models move further for the same change of
each weight. It gives 1e-3 for the embedded model and 1.4e-5 for SmolLM2-135M. Whether it teaches what it should is
reported with the result (`relearn_taught_right`)."""


def taught_facts(items: Sequence[QA], *, share: float = SHARE, seed: int = 0) -> tuple[bool, ...]:
    """Which facts are taught again: all of some subjects, so that no subject is both taught and tested.

    Args:
        items: the forget facts.
        share: least fraction of them to teach.
        seed: of the draw of subjects.

    Returns:
        One flag a fact; all False where there are fewer than two subjects.

    Raises:
        InputError: if `share` is not between 0 and 1.
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


def check_relearn(given: Mapping[str, Any], model: Any) -> tuple[float, dict[str, Any]]:
    """The share to teach, and the settings of the trainer.

    Args:
        given: `share`, and settings of `unlearning.settings.Settings`; `epochs` in place of `STEPS` steps.
        model: whose width and depth give the default learning rate.

    Raises:
        InputError: for an unknown setting or a wrong value.
    """
    lr = LR_SCALE / (model.cfg.d_model * model.cfg.n_layers)
    length = {} if "epochs" in given else {"steps": STEPS}
    settings = {"lr": lr, **length, **{k: v for k, v in given.items() if k != "share"}}
    split(settings, {}, {})
    return float(given.get("share", SHARE)), settings


def relearned(model: Any, taught: Sequence[QA], bench: Benchmark, *, seed: int = 0, **settings: Any) -> Any:
    """A copy of a model after a few steps on some facts, by the unlearning trainer with plain negative log-likelihood.

    Args:
        model: it is not changed.
        taught: the facts.
        bench: chat template and prefill.
        seed: of the data order.
        **settings: of `unlearning.settings.Settings`, e.g. `lr`, `steps`, `batch_size`.

    Raises:
        InputError: for an unknown setting.
    """
    _, complete = check_relearn(settings, model)
    shared, _ = split(complete, {"chat": bench.chat, "prefill": bench.prefill}, {})
    copy = clone(model)
    data = Examples(examples(copy, taught, shared, "relearning"), copy)
    steps = shared.steps or shared.epochs * -(-len(data) // shared.batch_size)
    order = draw_order(len(data), steps, shared.batch_size, torch.Generator().manual_seed(seed))
    term = Term("relearn", lambda view, options: losses.nll(view.log_probs, view.mask), "token", 1.0, data, order)
    train(copy, [term], shared, {}, Checks(StopRule(), {}))
    return copy
