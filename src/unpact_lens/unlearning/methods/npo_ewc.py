r"""Register NPO with elastic weight consolidation on what the original model wrote.

The penalty is $\frac{\lambda}{2} \sum_i F_i (\theta_i - \theta_{0,i})^2$ with F the diagonal of the Fisher information
on questions and answers that the original model wrote about other subjects. No retain fact is given.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import Parameter

from unpact_lens.models.hooked import HookedModel
from unpact_lens.unlearning import losses
from unpact_lens.unlearning.batch import Examples, View
from unpact_lens.unlearning.job import Job
from unpact_lens.unlearning.losses import wide
from unpact_lens.unlearning.methods.npo import NPO
from unpact_lens.unlearning.option import Number, Option
from unpact_lens.unlearning.registry import METHODS, Method
from unpact_lens.unlearning.retain_terms import add_rehearsed
from unpact_lens.unlearning.self_rehearsal import REHEARSAL
from unpact_lens.unlearning.trainable import only_these_train, trainable


def fisher_diagonal(
    model: HookedModel, data: Examples, params: Mapping[str, Parameter], count: int, seed: int
) -> dict[str, Tensor]:
    r"""Estimate the diagonal of the Fisher information of the answers' next-token distributions.

    $F_i = \frac1n \sum_x \big(\partial_i \sum_k \log p(\hat y_k \mid x, y_{<k})\big)^2$ with labels
    $\hat y_k \sim p(\cdot \mid x, y_{<k})$, one draw for each token. In expectation, the tokens' cross terms vanish.

    Args:
        model: Hooked model.
        data: Questions and answers.
        params: Weights by name.
        count: Largest number n of examples; they are drawn at random.
        seed: Random seed of the examples and labels.

    Returns:
        Tensors of the shapes of the weights, fp32, squared nats.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(data), generator=generator)[:count].tolist()
    fisher = {name: torch.zeros(p.shape, device=p.device) for name, p in params.items()}
    with only_these_train(model, params):
        for i in chosen:
            view = View(model, data, [i])
            log_p = view.logits[0].float().log_softmax(-1)  # [pos, d_vocab]
            drawn = torch.multinomial(log_p.detach().exp().cpu(), 1, generator=generator).to(log_p.device)
            found = torch.autograd.grad(log_p.gather(1, drawn).sum(), list(params.values()), allow_unused=True)
            for total, grad in zip(fisher.values(), found, strict=True):
                if grad is not None:
                    total.add_(grad.float().square())
    return {name: total / len(chosen) for name, total in fisher.items()}


class Elastic:
    """Pull each weight back to its start, in proportion to its Fisher information.

    Args:
        model: Copy to be trained.
        job: Run with the options `strength` and `fisher_examples`, and the text that the original model wrote.
    """

    def __init__(self, model: HookedModel, job: Job) -> None:
        assert job.written is not None  # `writes`
        params = trainable(model, job.settings.modules)
        fisher = fisher_diagonal(model, job.written, params, job.options["fisher_examples"], job.seed)
        mean = sum(float(f.sum()) for f in fisher.values()) / sum(f.numel() for f in fisher.values())
        self.pull = {name: job.options["strength"] * f / max(mean, 1e-30) for name, f in fisher.items()}
        self.start = {name: wide(p.detach()).clone() for name, p in params.items()}

    def edit(self, params: Mapping[str, Parameter]) -> None:
        """Add the gradient of the penalty."""
        for name, pull in self.pull.items():
            p = params[name]
            added = (pull * (wide(p.detach()) - self.start[name])).to(p.dtype)
            p.grad = added if p.grad is None else p.grad + added

    def settle(self) -> None:
        """Do nothing: the penalty acts by its gradient."""


NPO_EWC = Method(
    "npo_ewc",
    "NPO with each weight held in proportion to what other facts need it (elastic weight consolidation)",
    "(2/β)·mean softplus(β(ℓ_θ − ℓ_θ0)) / mean T + (λ/2)·Σ_i F_i/mean F·(θ_i − θ0_i)², F on D_self",
    "this toolkit, after Kirkpatrick et al. 2017, arXiv 1612.00796, Eq. 3; loss of arXiv 2404.05868",
    forget=lambda view, options: losses.npo(view.log_probs, view.ref_log_probs, view.mask, options["beta"]),
    per="example",
    sums=True,
    writes=True,
    options={
        **NPO,
        "strength": Option(0.1, Number(0)),
        "fisher_examples": Option(256, Number(1, whole=True)),
        **REHEARSAL,
    },
    rule=Elastic,
    adapts="the Fisher information is that of the weights themselves",
    note="F is taken with labels drawn from the original model, on questions that it wrote about other subjects, and "
    "divided by its mean over the trained weights, so that strength= does not depend on the model's size.",
)

METHODS.add("npo_ewc", NPO_EWC)
add_rehearsed(NPO_EWC)
