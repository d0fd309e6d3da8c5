"""One flat loop that trains every gradient method.

A step: for each term (forget, retain) add up the gradient over micro-batches, so that it equals that of one big batch;
fold the gradient of tied embeddings; clip; AdamW. Token losses are means over all answer tokens of the step's batch,
sequence losses means over its examples. Every so often the stop rule looks at the model.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from math import isfinite
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import Parameter

from unpact_lens.errors import InputError, nearest
from unpact_lens.models import hooked
from unpact_lens.unlearning.batch import Examples, View
from unpact_lens.unlearning.checkpointing import Checkpoints
from unpact_lens.unlearning.early_stopping import Checks
from unpact_lens.unlearning.precision import economical
from unpact_lens.unlearning.settings import Settings, schedule_factor

Loss = Callable[[View, Mapping[str, Any]], Tensor]


@dataclass(frozen=True)
class Term:
    """One summand of the objective.

    Attributes:
        name: `"forget"` or `"retain"`; its column in the history.
        loss: from a batch and the method's options to a scalar.
        per: what the loss is a mean over; decides how micro-batches are weighed.
        weight: gamma or alpha.
        data: the examples.
        order: which of them each step reads.
    """

    name: str
    loss: Loss
    per: Literal["token", "example"]
    weight: float
    data: Examples
    order: Int[Tensor, "step batch"]


@runtime_checkable
class UpdateRule(Protocol):
    """What a method asks of every update besides its loss."""

    def edit(self, params: Mapping[str, Parameter]) -> None:
        """Change `.grad` of some of the parameters in place: once they are complete, before they are clipped."""

    def settle(self) -> None:
        """Put right after the update what must hold of the weights."""


@dataclass
class Run:
    """How far a training run has come.

    Attributes:
        rows: the history so far.
        stopped: why it ended.
        model: what came out, if it is not the copy that was trained.
    """

    rows: list[dict[str, float | int]] = field(default_factory=list)
    stopped: str = "step budget used up"
    model: Any = None


def train(
    model: Any,
    terms: Sequence[Term],
    settings: Settings,
    options: Mapping[str, Any],
    checks: Checks,
    *,
    rule: UpdateRule | None = None,
    checkpoints: Checkpoints | None = None,
    on_step: Callable[[int, Mapping[str, float | int]], None] = lambda step, row: None,
) -> Run:
    """Train `model` in place.

    Args:
        model: the copy to be changed.
        terms: the objective; each holds its data order, whose length is the step budget.
        settings: optimiser, schedule, micro-batches.
        options: of the method, handed to the losses.
        checks: what is scored on the way, and when to stop.
        rule: what a method does to every update besides.
        checkpoints: where the state is left, and taken up again if it is there.
        on_step: told of every step, e.g. to show progress.

    Returns:
        The history and why it ended. If a loss is NaN or infinite, the weights are those that last gave finite losses.

    Raises:
        InputError: if a pattern of `settings.modules` matches nothing, or the first loss is already not finite.
    """
    run, steps = Run(), len(terms[0].order)
    params = trainable(model, settings.modules)
    tied = TiedEmbedding(model, params)
    optimiser = torch.optim.AdamW(
        tied.distinct(params),
        lr=settings.lr,
        betas=(settings.beta1, settings.beta2),
        eps=settings.eps,
        weight_decay=settings.weight_decay,
        # On a CPU the fused update is several times as fast; on CUDA torch's own choice is.
        fused=True if hooked.device_of(model).type == "cpu" else None,
    )
    last_good = [p.detach().clone() for p in params.values()]

    done = 0
    if checkpoints is not None:
        done, run.rows = checkpoints.load(params, last_good, optimiser)
        if done and checks.tracker is not None:
            checks.tracker.resume(done)
    if not done and checks.due(0, steps):
        run.rows.append({"step": 0, **checks.take(model, 0)})
        if reason := checks.verdict(run.rows[-1]):
            run.stopped = reason
            return run

    with only_these_train(model, params), economical(model, settings):
        for step in range(done, steps):
            row: dict[str, float | int] = {"step": step + 1}
            row["lr"] = settings.lr * schedule_factor(step, steps, settings.warmup, settings.schedule)
            for group in optimiser.param_groups:
                group["lr"] = row["lr"]

            optimiser.zero_grad(set_to_none=True)
            for term in terms:
                row[term.name] = accumulate(model, term, step, options, settings.micro_batch)
            row["loss"] = sum(t.weight * row[t.name] for t in terms)
            tied.fold_gradient()
            if rule is not None:
                rule.edit(params)
            norm = torch.nn.utils.clip_grad_norm_(tied.distinct(params), settings.clip or float("inf"))
            row["grad_norm"] = float(norm)

            if broken := next((n for n in (*(t.name for t in terms), "grad_norm") if not isfinite(row[n])), None):
                run.stopped = restore(params, last_good, broken, step, row[broken])
                break
            torch._foreach_copy_(last_good, [p.detach() for p in params.values()])
            optimiser.step()
            tied.copy_weight()
            if rule is not None:
                rule.settle()
            # Under autocast, else: the half-precision copies that it keeps of the weights are of before this update.
            torch.clear_autocast_cache()
            run.rows.append(row)
            on_step(step + 1, row)

            if checks.due(step + 1, steps):
                values = {t.name: peek(model, t, step, options) for t in terms}
                if broken := next((n for n, v in values.items() if not isfinite(v)), None):
                    run.stopped = restore(params, last_good, broken, step + 1, values[broken])
                    break
                row.update(checks.take(model, step + 1, last=step + 1 == steps))
                if reason := checks.verdict(row):
                    run.stopped = reason
                    break
            if checkpoints is not None and ((step + 1) % checkpoints.every == 0 or step + 1 == steps):
                checkpoints.save(step + 1, run.rows, params, last_good, optimiser)
    optimiser.zero_grad(set_to_none=True)
    return run


def accumulate(model: Any, term: Term, step: int, options: Mapping[str, Any], micro_batch: int | None) -> float:
    """Add the gradient of one term over one step's batch; micro-batches are weighed so that they equal one big batch.

    Returns:
        The term's value on the whole batch, unweighted.
    """
    index = term.order[step].tolist()
    size = micro_batch or len(index)

    def count(part: Sequence[int]) -> int:
        return sum(len(term.data.rows[i].answer) for i in part) if term.per == "token" else len(part)

    total = 0.0
    for start in range(0, len(index), size):
        part = index[start : start + size]
        share = count(part) / count(index)
        loss = term.loss(View(model, term.data, part), options)
        (term.weight * share * loss).backward()
        total += share * float(loss.detach())
    return total


def trainable(model: Any, modules: Sequence[str] | None = None) -> dict[str, Parameter]:
    """The parameters that are trained, by name.

    Args:
        model: a hooked model.
        modules: names or patterns; `blocks.*.mlp` stands for all parameters below it. None for every parameter that
            requires a gradient.

    Raises:
        InputError: if a pattern matches no parameter.
    """
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    if modules is None:
        return named
    plain = {n: short for n, short in readable_names(model).items() if n in named}
    chosen = set()
    for pattern in modules:
        hits = {n for n, short in plain.items() if fnmatchcase(short, pattern) or fnmatchcase(short, f"{pattern}.*")}
        if not hits:
            raise InputError(f"modules pattern {pattern!r} matches no parameter; {nearest(pattern, plain.values())}")
        chosen |= hits
    return {n: p for n, p in named.items() if n in chosen}


def readable_names(model: Any) -> dict[str, str]:
    """From each parameter's name to the one that TransformerLens gives it.

    They differ on a bridge, whose parameters are named by the Hugging Face model inside; its `state_dict` has both the
    TransformerLens names and the same memory.
    """
    named = dict(model.named_parameters())
    if parts := getattr(model, "parts", ()):
        short: dict[int, str] = {}
        for i, part in enumerate(parts):
            own = readable_names(part)
            short |= {id(p): f"parts.{i}.{own[n]}" for n, p in part.named_parameters()}
        return {n: short.get(id(p)) or n for n, p in named.items()}
    if not hooked.is_bridge(model):
        return {n: n for n in named}
    known: dict[Any, str] = {(t.data_ptr(), t.shape): n for n, t in model.state_dict().items()}
    return {n: known.get((p.data_ptr(), p.shape)) or n for n, p in named.items()}


class TiedEmbedding:
    """Keeps the unembedding equal to the embedding in a model that stores one weight twice.

    A `HookedTransformer` holds `W_E` and `W_U` apart even where the source model shares them. The gradient of the
    shared weight is the sum of both; the optimiser sees one of them: decay, moments and norm count it once.

    Args:
        model: a hooked model, or several that predict together (`parts`); a model is left alone unless its
            `tied_embeddings` says that it is tied.
        params: what is trained; holds both weights or neither afterwards.
    """

    def __init__(self, model: Any, params: dict[str, Parameter]) -> None:
        self.pairs: list[tuple[Parameter, Parameter]] = []
        parts = {f"parts.{i}.": m for i, m in enumerate(getattr(model, "parts", ()))} or {"": model}
        for prefix, part in parts.items():
            if not getattr(part, "tied_embeddings", False) or hooked.is_bridge(part):
                continue
            embed, unembed = f"{prefix}embed.W_E", f"{prefix}unembed.W_U"
            if embed in params or unembed in params:
                params[embed], params[unembed] = part.embed.W_E, part.unembed.W_U
                self.pairs.append((part.embed.W_E, part.unembed.W_U))

    def distinct(self, params: Mapping[str, Parameter]) -> list[Parameter]:
        """The parameters without the second copies of shared weights."""
        second = {id(unembed) for _, unembed in self.pairs}
        return [p for p in params.values() if id(p) not in second]

    def fold_gradient(self) -> None:
        """Give each embedding the gradient of both uses."""
        for embed, unembed in self.pairs:
            if unembed.grad is not None:
                embed.grad = unembed.grad.T.clone() if embed.grad is None else embed.grad + unembed.grad.T
                unembed.grad = None

    def copy_weight(self) -> None:
        """Write each embedding to its unembedding."""
        with torch.no_grad():
            for embed, unembed in self.pairs:
                unembed.copy_(embed.T)


class only_these_train:
    """Inside the block no other parameter of the model gets a gradient; the flags are as before afterwards."""

    def __init__(self, model: Any, params: Mapping[str, Parameter]) -> None:
        kept = {id(p) for p in params.values()}
        self.paused = [p for p in model.parameters() if p.requires_grad and id(p) not in kept]

    def __enter__(self) -> None:
        for p in self.paused:
            p.requires_grad_(False)

    def __exit__(self, *error: object) -> None:
        for p in self.paused:
            p.requires_grad_(True)


def peek(model: Any, term: Term, step: int, options: Mapping[str, Any]) -> float:
    """The term on the batch just trained on, after the update: shows weights that an update has ruined."""
    with torch.no_grad():
        return float(term.loss(View(model, term.data, term.order[step].tolist()), options))


def restore(params: Mapping[str, Parameter], last_good: Sequence[Tensor], term: str, step: int, value: float) -> str:
    """Put the last good weights back.

    Args:
        params: what is trained.
        last_good: the same before the update that did the harm.
        term: what was not finite.
        step: how many updates had been made.
        value: NaN or infinity.

    Returns:
        What happened, in a line.

    Raises:
        InputError: if no update had been made: then the model itself is broken.
    """
    what = "gradient norm" if term == "grad_norm" else f"{term} loss"
    if step == 0:
        raise InputError(f"the {what} is {value} before the first step; load a sound model")
    with torch.no_grad():
        for p, good in zip(params.values(), last_good, strict=True):
            p.copy_(good)
    message = f"the {what} was {value} after step {step}; the weights of step {step - 1} are kept"
    warnings.warn(message + "; lower the lr", RuntimeWarning, stacklevel=4)
    return message
