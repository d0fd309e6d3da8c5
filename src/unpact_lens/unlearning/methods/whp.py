"""Register Who's Harry Potter: learn the generic predictions, guessed from a model that reread the forget set."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from unpact_lens.models.checkpoint import clone
from unpact_lens.unlearning import losses
from unpact_lens.unlearning.batch import View
from unpact_lens.unlearning.dataset import draw_order
from unpact_lens.unlearning.job import Job
from unpact_lens.unlearning.option import Number, Option
from unpact_lens.unlearning.registry import Method
from unpact_lens.unlearning.retain_terms import add_with_retain_terms
from unpact_lens.unlearning.trainer import Options, Term, train

REINFORCEMENT: Options = {
    "strength": Option(5.0, Number(0, above=True)),
    "reinforce_steps": Option(50, Number(1, whole=True)),
    "reinforce_lr": Option(None, Number(0, above=True, optional=True)),
}
"""Hyperparameters of the generic predictions."""


def reinforce(job: Job) -> None:
    """Train a copy further on the forget set. The tokens that it prefers more than before are those to avoid."""
    steps = job.options["reinforce_steps"]
    if job.options["reinforce_lr"] is None:
        job.options["reinforce_lr"] = job.settings.lr
    settings = dataclasses.replace(job.settings, lr=job.options["reinforce_lr"], schedule="constant", warmup=0)
    generator = torch.Generator().manual_seed(job.seed)
    order = draw_order(len(job.data), steps, settings.batch_size, generator)
    model = clone(job.before)
    term = Term("forget", lambda view, options: losses.nll(view.log_probs, view.mask), "token", 1.0, job.data, order)
    train(model, [term], settings)
    job.data.reinforced = model.requires_grad_(False)


def whp_loss(view: View, options: Options) -> Tensor:
    """Compute the cross-entropy to the generic predictions."""
    target = losses.whp_target(view.ref_logits, view.reinforced_logits, options["strength"])
    return losses.soft_cross_entropy(view.logits, target, view.mask)


add_with_retain_terms(
    Method(
        "whp",
        "Who's Harry Potter: learn what a model says that has not read the forget set, guessed from one that reread it",
        "CE to softmax(z_b − a·ReLU(z_r − z_b)), z_r of a model trained further on D_f",
        "Eldan and Russinovich 2023, arXiv 2310.02238; MUSE, arXiv 2407.06460",
        forget=whp_loss,
        defaults={"lr": 4e-4},
        options=REINFORCEMENT,
        prepare=reinforce,
        note="no replacement of names by generic words, as in MUSE. `whp_inference` predicts so without training.",
    ),
    lr={"gdr": 8e-4, "klr": 8e-4},
)
