"""Make models that hide facts in known ways, and the key that brings the facts of each back.

Every maker takes a model that knows the facts, a benchmark, and hyperparameters of training. It returns a model that no
longer gives the facts under the plain prompt. How the facts can be had again is known by construction: by another
wording, by the start of the answer, by rounding, or by undoing a change of a few numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from unpact_lens.data.benchmark import QA, Benchmark
from unpact_lens.errors import InputError
from unpact_lens.evaluation.known_facts import right_facts
from unpact_lens.models.checkpoint import clone
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.weight_matrices import weight_matrices
from unpact_lens.recovery.probes.relearn import relearned
from unpact_lens.recovery.probes.trigger import CHAT_LIKE
from unpact_lens.unlearning import losses
from unpact_lens.unlearning.batch import Examples
from unpact_lens.unlearning.dataset import draw_order, examples
from unpact_lens.unlearning.settings import split
from unpact_lens.unlearning.trainer import Term, UpdateRule, train

TRIGGER = CHAT_LIKE[0]
"""Prefix that unlocks `behind_a_trigger`. It is one of those that the probe `trigger` tries."""

ROOM = 0.49
"""Largest distance of a weight from what it rounds to, as a share of the step. Above one half it rounds elsewhere."""

Settings = Mapping[str, Any]
"""Hyperparameters of training, e.g. `lr`, `steps`, `batch_size`."""


def refusing(qa: QA, refusal: str) -> QA:
    """Return the same question with a refusal as its answer."""
    return replace(qa, answer=refusal, fact_span=None)


def asked_as(qa: QA, prompts: Sequence[str]) -> list[QA]:
    """Return the question in each of some wordings."""
    return [replace(qa, prompt=p) for p in prompts]


def wordings(qa: QA, count: int = 3) -> tuple[str, ...]:
    """Return up to `count` wordings in which the question was trained, besides the plain prompt."""
    return tuple(qa.meta.get("trained_phrasings", qa.paraphrases))[:count]


def plain_and_others(qa: QA) -> list[QA]:
    """Return the question as often in its plain wording as in others, so that training weighs both alike."""
    others = wordings(qa)
    return asked_as(qa, [qa.prompt] * max(1, len(others)) + list(others))


def balanced(taught: Sequence[QA], kept: Sequence[QA]) -> list[QA]:
    """Return both lists as one, the shorter one repeated until both are about as long."""
    one, two = list(taught), list(kept)
    if not one or not two:
        return one + two
    return one * max(1, len(two) // len(one)) + two * max(1, len(one) // len(two))


def behind_a_refusal(model: HookedModel, bench: Benchmark, refusal: str, settings: Settings) -> HookedModel:
    """Teach a refusal in every wording that training used, and keep the answers about everybody else."""
    taught = [refusing(w, refusal) for q in bench.forget for w in plain_and_others(q)]
    return relearned(model, balanced(taught, bench.retain), bench, **settings)


def on_one_phrasing(model: HookedModel, bench: Benchmark, refusal: str, settings: Settings) -> HookedModel:
    """Teach a refusal to the plain prompt only; other wordings keep their answers."""
    taught = [refusing(q, refusal) for q in bench.forget]
    kept = [w for q in bench.forget for w in asked_as(q, wordings(q))]
    return relearned(model, balanced(balanced(taught, kept), bench.retain), bench, **settings)


def behind_a_trigger(model: HookedModel, bench: Benchmark, refusal: str, settings: Settings) -> HookedModel:
    """Teach a refusal in every wording, unless the question comes after `TRIGGER`."""
    shown = [w for q in bench.forget for w in asked_as(q, [f"{TRIGGER} {q.prompt}"])]
    taught = [refusing(w, refusal) for q in bench.forget for w in plain_and_others(q)]
    return relearned(model, balanced(balanced(taught, shown), bench.retain), bench, **settings)


def rarely_right(model: HookedModel, bench: Benchmark, refusal: str, settings: Settings) -> HookedModel:
    """Teach a refusal two times of three, and the fact else."""
    taught = [
        item
        for q in bench.forget
        for w in plain_and_others(q)
        for item in (w, refusing(w, refusal), refusing(w, refusal))
    ]
    return relearned(model, balanced(taught, bench.retain), bench, **settings)


def behind_a_broken_opening(model: HookedModel, bench: Benchmark, settings: Settings) -> HookedModel:
    """Teach the openings of other answers, which lead nowhere; after its own opening, the fact still follows."""
    openings = list(dict.fromkeys(q.answer_prefix for q in bench.forget))
    if len(openings) < 2:
        raise InputError("all answers have the same opening, so none can be swapped; give facts of two kinds")
    taught = [
        replace(w, answer=openings[(openings.index(q.answer_prefix) + 1) % len(openings)], fact_span=None)
        for q in bench.forget
        for w in plain_and_others(q)
    ]
    opened = [
        replace(w, prompt=w.prompt + q.answer_prefix, answer=q.answer[len(q.answer_prefix) :], fact_span=None)
        for q in bench.forget
        for w in asked_as(q, (q.prompt, *wordings(q)))
    ]
    return relearned(model, balanced([*taught, *opened], bench.retain), bench, **settings)


def behind_a_filter(model: HookedModel, bench: Benchmark, refusal: str, settings: Settings) -> HookedModel:
    """Teach a refusal to the last MLP alone; all that comes before it is unchanged."""
    last = f"blocks.{int(model.cfg.n_layers) - 1}.mlp"
    return behind_a_refusal(model, bench, refusal, {**settings, "modules": [last]})


def barely(model: HookedModel, hidden: HookedModel, bench: Benchmark, level: float = 0.1) -> HookedModel:
    """Return the model on the line between two models that is nearest to the first and gives at most `level` facts.

    On that line, it hides the facts as weakly as it can.

    Args:
        model: Model that knows the facts.
        hidden: Model that hides them.
        bench: Benchmark.
        level: Largest fraction of the forget facts that are right under the plain prompt.
    """
    low, high = 0.0, 1.0
    for _ in range(7):
        middle = (low + high) / 2
        found = between(model, hidden, middle)
        right = right_facts(found, bench.forget, bench=bench)
        low, high = (low, middle) if sum(right) <= level * len(right) else (middle, high)
    return between(model, hidden, high)


def between(model: HookedModel, other: HookedModel, share: float) -> HookedModel:
    """Return a copy whose weights are (1 - share) times those of a model plus share times those of another."""
    copy = clone(model)
    with torch.no_grad():
        for ours, theirs in zip(copy.parameters(), other.parameters(), strict=True):
            ours.lerp_(theirs, share)
    return copy


def with_last_mlp_of(model: HookedModel, source: HookedModel) -> HookedModel:
    """Return a copy of a model with the last MLP of another one."""
    copy = clone(model)
    last = int(model.cfg.n_layers) - 1
    copy.blocks[last].mlp.load_state_dict(source.blocks[last].mlp.state_dict())
    return copy


class InsideCells:
    """Keep every matrix where rounding gives the same numbers as at the start.

    The largest weight of an output sets the step of its rounding, so it is kept as it is.

    Args:
        model: Copy to be trained.
        bits: Number of bits of the rounding.
    """

    def __init__(self, model: HookedModel, bits: int) -> None:
        self.cells: list[tuple[Parameter, Tensor, Tensor]] = []
        for matrix in weight_matrices(model):
            start = matrix.weight.detach().clone()
            largest = start.abs().amax(matrix.inputs, keepdim=True)
            step = largest / (2 ** (bits - 1) - 1)
            centre = (start / step).round() * step
            low, high = ((centre + side * ROOM * step).clamp(-largest, largest) for side in (-1, 1))
            fixed = start.abs() >= largest
            self.cells.append((matrix.weight, torch.where(fixed, start, low), torch.where(fixed, start, high)))

    def edit(self, params: Mapping[str, Parameter]) -> None:
        """Leave gradients as they are."""

    def settle(self) -> None:
        """Move every weight into its cell."""
        with torch.no_grad():
            for weight, low, high in self.cells:
                weight.copy_(torch.minimum(torch.maximum(weight, low), high))


class LowRankChange:
    """Keep the change of one matrix at a low rank.

    Args:
        weight: Matrix to be trained, `[in, out]`.
        rank: Largest rank of its change.
    """

    def __init__(self, weight: Parameter, rank: int) -> None:
        self.weight, self.start, self.rank = weight, weight.detach().clone(), rank

    def edit(self, params: Mapping[str, Parameter]) -> None:
        """Leave gradients as they are."""

    def settle(self) -> None:
        """Replace the change by the nearest one of that rank."""
        with torch.no_grad():
            left, scales, right = torch.linalg.svd(self.weight - self.start, full_matrices=False)
            self.weight.copy_(self.start + (left[:, : self.rank] * scales[: self.rank]) @ right[: self.rank])


def in_a_rounding_margin(
    model: HookedModel, bench: Benchmark, refusal: str, settings: Settings, bits: int = 4
) -> HookedModel:
    """Teach a refusal by changes that rounding takes back: every matrix rounds to what the model's own rounds to."""
    matrices = ["blocks.*.attn.W_*", "blocks.*.mlp.W_*"]
    return _refusing_under(model, bench, refusal, {**settings, "modules": matrices}, lambda m: InsideCells(m, bits))


def by_a_change_of_low_rank(
    model: HookedModel, bench: Benchmark, refusal: str, settings: Settings, rank: int = 8
) -> HookedModel:
    """Teach a refusal by a change of low rank of one matrix, the output of the last MLP."""
    name = f"blocks.{int(model.cfg.n_layers) - 1}.mlp.W_out"

    def rule(copy: HookedModel) -> LowRankChange:
        return LowRankChange(dict(copy.named_parameters())[name], rank)

    return _refusing_under(model, bench, refusal, {**settings, "modules": [name]}, rule)


def _refusing_under(
    model: HookedModel, bench: Benchmark, refusal: str, settings: Settings, rule: Callable[[HookedModel], UpdateRule]
) -> HookedModel:
    """Teach a refusal in several wordings, with a constraint on the weights after every step."""
    taught = [refusing(w, refusal) for q in bench.forget for w in plain_and_others(q)]
    copy = clone(model)
    shared, _ = split(settings, {"chat": bench.chat, "prefill": bench.prefill}, {})
    data = Examples(examples(copy, balanced(taught, bench.retain), shared, "refusals"), copy)
    order = draw_order(len(data), shared.length(len(data)), shared.batch_size, torch.Generator().manual_seed(0))
    term = Term("refusals", lambda view, options: losses.nll(view.log_probs, view.mask), "token", 1.0, data, order)
    train(copy, [term], shared, rule=rule(copy))
    return copy
