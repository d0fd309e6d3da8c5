"""What some methods need before the first step: other answers, a reinforced model, a direction to steer to."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from unpact_lens.data.benchmark import QA, Corpus
from unpact_lens.errors import InputError
from unpact_lens.models import hooked
from unpact_lens.models.checkpoint import clone
from unpact_lens.models.tokens import Encoded, text_ids
from unpact_lens.unlearning import losses
from unpact_lens.unlearning.batch import Examples
from unpact_lens.unlearning.dataset import Source, draw_order
from unpact_lens.unlearning.early_stopping import Checks
from unpact_lens.unlearning.result import StopRule
from unpact_lens.unlearning.settings import Settings
from unpact_lens.unlearning.trainer import Term, train

REFUSALS = (
    " I don't know.",
    " I'm not able to answer that.",
    " Sorry, I have no information about this.",
    " I cannot help with this question.",
    " That is something I do not know.",
)
"""Ways to decline, used where the user and the benchmark give none."""


@dataclass
class Job:
    """All that a method may look at, and add to, before training.

    Attributes:
        before: the model before unlearning, never changed.
        forget: what is forgotten.
        settings: shared by all methods.
        options: the method's own.
        seed: of whatever is random.
        data: the forget set as token ids.
    """

    before: Any
    forget: Source
    settings: Settings
    options: dict[str, Any]
    seed: int
    data: Examples


def train_on_refusals(job: Job) -> None:
    """Replace every answer by a refusal."""
    job.data.rows = _refusing(job)


def pair_with_refusals(job: Job) -> None:
    """Put a refusal beside every answer."""
    job.data.alternatives = Examples(_refusing(job), job.before)


def _refusing(job: Job) -> list[Encoded]:
    refusals = tuple(job.options["refusals"])
    if not refusals:
        raise InputError("refusals is empty; give at least one text that declines, leading space included")
    rng = random.Random(f"refusals/{job.seed}")
    _questions(job)
    return [_with_answer(job, row, rng.choice(refusals), "refusal") for row in job.data.rows]


def pair_with_alternatives(job: Job) -> None:
    """Put `n_alternatives` other answers beside every answer; a question then counts once for each."""
    items, wanted = _questions(job), int(job.options["n_alternatives"])
    given = job.options["alternatives"]
    if given is not None and len(given) != len(items):
        raise InputError(f"{len(given)} alternatives for {len(items)} forget items; give one (or several) for each")
    rng = random.Random(f"alternatives/{job.seed}")
    rows, chosen, owners = [], [], []
    answers = [_alternatives(items, i, rng) if given is None else _listed(given[i]) for i in range(len(items))]
    for row, owner in zip(job.data.rows, job.data.owners, strict=True):
        for other in answers[owner][:wanted]:
            rows.append(row)
            chosen.append(_with_answer(job, row, other, "alternative"))
            owners.append(owner)
    job.data = Examples(rows, job.before, owners, job.data.store)
    job.data.alternatives = Examples(chosen, job.before, owners)


def _alternatives(items: Sequence[QA], i: int, rng: random.Random) -> list[str]:
    """Wrong answers of the same form: those the item brings, else what is true of others of its kind."""
    item = items[i]
    if item.perturbed:
        return list(item.perturbed)
    others = list(dict.fromkeys(q.answer for q in items if q.kind == item.kind and q.fact != item.fact))
    if not others:
        raise InputError(
            f"forget item {item.id or i} has no perturbed answers, and no other item is of kind {item.kind!r}; "
            "give alternatives="
        )
    return rng.sample(others, len(others))


def _listed(given: str | Sequence[str]) -> list[str]:
    return [given] if isinstance(given, str) else list(given)


def _with_answer(job: Job, row: Encoded, answer: str, what: str) -> Encoded:
    ids = text_ids(job.before, answer, what)
    changed = dataclasses.replace(row, answer=ids)
    if not ids or len(changed.ids) > job.before.cfg.n_ctx:
        raise InputError(
            f"{what} {answer!r} has {len(ids)} tokens; it needs at least 1, and with its prompt of "
            f"{len(row.context)} at most {job.before.cfg.n_ctx}"
        )
    return changed


def _questions(job: Job) -> Sequence[QA]:
    if isinstance(job.forget, Corpus):
        raise InputError("this method needs questions with answers, the forget set is raw text; give QA items")
    return job.forget


def reinforce(job: Job) -> None:
    """Train a copy further on the forget set: what it has come to prefer is what is to be avoided."""
    steps = int(job.options["reinforce_steps"])
    settings = dataclasses.replace(job.settings, lr=job.options["reinforce_lr"], schedule="constant", warmup=0)
    generator = torch.Generator().manual_seed(job.seed)
    order = draw_order(len(job.data), steps, settings.batch_size, generator)
    model = clone(job.before)
    term = Term("forget", lambda v, o: losses.nll(v.log_probs, v.mask), "token", 1.0, job.data, order)
    train(model, [term], settings, {}, Checks(StopRule(), {}))
    job.data.reinforced = model.requires_grad_(False)


def choose_direction(job: Job) -> None:
    """Settle the layer, draw a direction, and train the MLPs' output weights of that layer and the two below only."""
    n_layers = job.before.cfg.n_layers
    layer = job.options["layer"]
    layer = round(7 / 32 * n_layers) if layer is None else layer
    if not 0 <= layer < n_layers:
        raise InputError(f"layer={layer}; the model has layers 0 to {n_layers - 1}")
    job.options["layer"] = layer
    # Uniform on [0, 1), as in the source: all coordinates are positive before normalisation.
    draw = torch.rand(job.before.cfg.d_model, generator=torch.Generator().manual_seed(job.seed))
    weight = next(iter(job.before.parameters()))
    job.data.direction = (draw / draw.norm()).to(weight.device, weight.dtype)
    if job.settings.modules is None:
        out = "out.weight" if hooked.is_bridge(job.before) else "W_out"
        modules = tuple(f"blocks.{i}.mlp.{out}" for i in range(max(0, layer - 2), layer + 1))
        job.settings = dataclasses.replace(job.settings, modules=modules)
