r"""Register NPO on the neurons that forget facts need more than other facts do.

A neuron's effect on an answer is estimated as activation times gradient, $\sum_t a_t\, \partial\ell/\partial a_t$: the
change of the answer's log-probability when the neuron is set to 0, to first order. Neurons are ranked by the mean
absolute effect on forget answers minus that on answers about other subjects, which the original model wrote.
"""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from unpact_lens.errors import InputError
from unpact_lens.models import hooked
from unpact_lens.models.hooked import HookedModel
from unpact_lens.scoring import gather_log_probs
from unpact_lens.unlearning import losses
from unpact_lens.unlearning.batch import Examples, View
from unpact_lens.unlearning.input_moments import mlp_matrices
from unpact_lens.unlearning.job import Job
from unpact_lens.unlearning.methods.npo import NPO
from unpact_lens.unlearning.option import Number, Option
from unpact_lens.unlearning.registry import METHODS, Method
from unpact_lens.unlearning.retain_terms import add_rehearsed
from unpact_lens.unlearning.self_rehearsal import REHEARSAL

EXAMPLES = 256
"""Largest number of written answers on which effects are taken."""


def neuron_effects(model: HookedModel, data: Examples, count: int) -> Float[Tensor, "layer d_mlp"]:
    """Compute the mean absolute effect of each neuron on the log-probability of an answer, to first order.

    Args:
        model: Hooked model.
        data: Questions and answers.
        count: Largest number of examples; the first ones are taken.

    Returns:
        Means over examples, nats.
    """
    layers = sorted({layer for layer, which, _ in mlp_matrices(model).values() if which == "out"})
    total: Tensor | None = None
    used = min(count, len(data))
    for start in range(0, used, 32):
        view = View(model, data, range(start, min(start + 32, used)))
        taken: dict[int, Tensor] = {}

        def keep(layer: int, taken: dict[int, Tensor] = taken) -> hooked.HookFunction:
            def function(value: Tensor, hook: HookPoint) -> None:
                taken[layer] = value

            return function

        hooks = [(f"blocks.{layer}.mlp.hook_post", keep(layer)) for layer in layers]
        with torch.enable_grad():
            logits = hooked.logits_at(model, view.tokens, view.positions, hooks)
            answers = losses.sequence_sums(gather_log_probs(logits, view.labels), view.mask)
            grads = torch.autograd.grad(answers.sum(), [taken[layer] for layer in layers])
        effects = [(taken[l].detach() * g).sum(1).abs().double().sum(0) for l, g in zip(layers, grads, strict=True)]
        found = torch.stack(effects).cpu()  # [layer, d_mlp]
        total = found if total is None else total + found
    assert total is not None  # no data set is empty
    return total / used


def choose_neurons(job: Job) -> None:
    """Train only the neurons whose effect on forget answers exceeds that on other answers most.

    Raises:
        InputError: If `only` is given too.
    """
    assert job.written is not None  # `writes`
    if job.settings.only is not None:
        raise InputError(f"only={list(job.settings.only)}: this method chooses the neurons itself; leave only out")
    layers = sorted({layer for layer, which, _ in mlp_matrices(job.before).values() if which == "out"})
    more = neuron_effects(job.before, job.data, len(job.data)) - neuron_effects(job.before, job.written, EXAMPLES)
    count = max(1, round(job.options["share"] * more.numel()))
    width = more.shape[1]
    chosen = more.flatten().argsort(descending=True, stable=True)[:count].sort().values.tolist()
    job.settings = dataclasses.replace(job.settings, only=tuple(f"L{layers[i // width]}N{i % width}" for i in chosen))


NPO_LOCAL = Method(
    "npo_local",
    "NPO on the neurons that forget facts need more than other facts do",
    "(2/β)·mean softplus(β(ℓ_θ − ℓ_θ0)) / mean T, θ the weights of a share of the neurons",
    "this toolkit; effects after Nanda 2023 and Syed et al. 2023, arXiv 2310.10348; loss of arXiv 2404.05868",
    forget=lambda view, options: losses.npo(view.log_probs, view.ref_log_probs, view.mask, options["beta"]),
    per="example",
    sums=True,
    writes=True,
    options={**NPO, "share": Option(0.1, Number(0, 1, above=True)), **REHEARSAL},
    prepare=choose_neurons,
    adapts="it trains single neurons, and adapters change whole matrices",
    note="a neuron's input, gate and output weights are trained; the chosen ones are recorded as `only`. `only=` lets "
    "every other method train given components, heads or neurons.",
)

METHODS.add("npo_local", NPO_LOCAL)
add_rehearsed(NPO_LOCAL)
