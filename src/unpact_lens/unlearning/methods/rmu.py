"""Register RMU: send the residual stream of forget text to a random direction, and keep that of retain text."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from unpact_lens.errors import InputError
from unpact_lens.models import hooked
from unpact_lens.unlearning import losses
from unpact_lens.unlearning.batch import View
from unpact_lens.unlearning.job import Job
from unpact_lens.unlearning.option import Number, OneOf, Option
from unpact_lens.unlearning.registry import METHODS, Method
from unpact_lens.unlearning.trainer import Options

POSITIONS = ("predicting", "answer")
"""Positions whose residual is moved: those that predict answer tokens, or those of the answer tokens themselves."""


NORMS = 2.0
"""Default norm of the target, as a multiple of the mean norm of the residual there."""


def choose_direction(job: Job) -> None:
    """Choose the layer and the target, and train only the MLP output weights of that layer and the two below."""
    n_layers = job.before.cfg.n_layers
    layer = job.options["layer"]
    layer = math.ceil(7 / 32 * n_layers) if layer is None else layer
    if layer >= n_layers:
        raise InputError(f"layer={layer}; the model has layers 0 to {n_layers - 1}")
    job.options["layer"] = layer
    if job.options["c"] is None:
        acts = torch.cat(list(job.data.acts(layer, job.options["positions"])))  # [token, d_model]
        job.options["c"] = NORMS * float(acts.float().norm(dim=-1).mean())
    # Uniform on [0, 1), as in the source: all coordinates are positive before normalisation.
    draw = torch.rand(job.before.cfg.d_model, generator=torch.Generator().manual_seed(job.seed))
    weight = next(iter(job.before.parameters()))
    job.data.direction = (draw / draw.norm()).to(weight.device, weight.dtype)
    if job.settings.modules is None:
        out = "out.weight" if hooked.is_bridge(job.before) else "W_out"
        modules = tuple(f"blocks.{i}.mlp.{out}" for i in range(max(0, layer - 2), layer + 1))
        job.settings = dataclasses.replace(job.settings, modules=modules)


def rmu_forget_loss(view: View, options: Options) -> Tensor:
    """Compute the distance of the residual stream from the drawn direction."""
    assert view.data.direction is not None
    return losses.rmu_forget(
        view.acts(options["layer"], options["positions"]), view.data.direction, options["c"], view.mask, options["mean"]
    )


def rmu_retain_loss(view: View, options: Options) -> Tensor:
    """Compute the distance of the residual stream from that of the original model."""
    layer, at = options["layer"], options["positions"]
    return losses.rmu_retain(view.acts(layer, at), view.ref_acts(layer, at), view.mask, options["mean"])


METHODS.add(
    "rmu",
    Method(
        "rmu",
        "representation misdirection: send forget text to a random direction in the residual stream, keep the rest",
        "mean (h_l(x_f) − c·u)² + a·mean (h_l(x_r) − h_l⁰(x_r))²",
        "Li et al. 2024, arXiv 2403.03218",
        forget=rmu_forget_loss,
        retain=rmu_retain_loss,
        defaults={"lr": 4e-3},
        options={
            "layer": Option(None, Number(0, whole=True, optional=True)),
            "c": Option(None, Number(0, optional=True)),
            "positions": Option("predicting", OneOf(POSITIONS)),
            "mean": Option("token", OneOf(("token", "example"))),
        },
        prepare=choose_direction,
        note="layer None is 7/32 of the depth, as 7 in Zephyr. c None is twice the mean norm of the residual "
        "there, because no fixed c fits every model (adaptive RMU, arXiv 2408.06223, takes a multiple of each "
        "token's norm). Published for Zephyr-7B: layer=7, c=6.5, alpha=1200, lr=5e-5, batch_size=4, "
        "steps=150. Trains mlp.W_out of that layer and the two below only (modules= changes it). On "
        "questions, the positions that predict answer tokens count, and every token alike. Public toolkits "
        "count the answer tokens' own positions (positions='answer') and average over each example first "
        "(mean='example').",
    ),
)
