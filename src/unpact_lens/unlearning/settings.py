"""Hold the hyperparameters of a training run, checked before anything long happens."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from unpact_lens.checked_by_hand import Texts as Names
from unpact_lens.data.chat import Chat
from unpact_lens.errors import InputError, nearest
from unpact_lens.results import storable
from unpact_lens.unlearning.option import (
    Accepts,
    ChatTemplate,
    Flag,
    MaybeFlag,
    Number,
    OneOf,
    Stops,
    Text,
    Texts,
    read_options,
)

SCHEDULES = ("constant", "linear", "cosine")

PASSES, LEAST_STEPS = 5, 60
"""Default length of a run: this many passes over the forget set, and at least this many optimiser steps."""


def setting(default: Any, accepts: Accepts) -> Any:
    """Declare a field of `Settings`: its default and the values that it accepts."""
    return field(default=default, metadata={"accepts": accepts})


COUNT, MAYBE_COUNT = Number(1, whole=True), Number(1, whole=True, optional=True)
POSITIVE, NOT_NEGATIVE, DECAY = Number(0, above=True), Number(0), Number(0, 1, below=True)


@storable
@dataclass(frozen=True)
class Settings:
    """Hold the hyperparameters that all trained methods share.

    Numbers may be given as text, e.g. `"1e-5"`.

    Attributes:
        lr: Peak learning rate of AdamW. `unlearn` has a default of its own for each method and size of model; see
            `default_settings`.
        steps: Number of optimiser steps. If None, `epochs` decides.
        epochs: Number of passes over the forget set, where `steps` is None. If both are None, trains for 5 passes and
            at least 60 steps.
        batch_size: Number of forget examples, and of retain examples, in one optimiser step.
        micro_batch: Number of examples in one forward pass. If None, the whole batch. The result is the same.
        schedule: Learning rate after the warm-up: `"constant"`, or `"linear"` or `"cosine"` decay to 0.
        warmup: Number of steps over which the learning rate rises linearly from 0.
        clip: Largest norm of the gradient. If None, the gradient is not clipped.
        weight_decay: Decoupled weight decay of AdamW.
        beta1: AdamW's decay rate of the first moment.
        beta2: AdamW's decay rate of the second moment.
        eps: AdamW's epsilon.
        gamma: Weight of the forget term.
        alpha: Weight of the retain term.
        phrasings: `"headline"` trains on each question's prompt, `"all"` on its paraphrases as well.
        chat: Wrap prompts in the tokenizer's chat template, with these options if it is a mapping.
        prefill: Answer prefix, given to the model and not trained on; `{subject}` becomes the question's subject.
        chunk_tokens: Length of the chunks that raw text is cut into, tokens (2048 in MUSE); at most the model's context
            length.
        max_new_tokens: Largest number of tokens generated when facts are checked.
        stop: Texts that end an answer when facts are checked.
        end_token: Whether the token that ends an answer is among the trained labels of every answer. If None,
            `unlearn` trains it where the original model expects it after the answers to forget (mean probability of at
            least 1%): else a loss falls by that one token and leaves the fact alone. False trains as version 0.1 did.
        check_every: Number of optimiser steps between two checks of the stop rule.
        modules: Names or patterns of the parameters to train, e.g. `"blocks.*.mlp"`. If None, all are trained. With a
            rank, the matrices that get an adapter; if None, all of attention and MLPs.
        only: Names of the components, heads and neurons to train, e.g. `"L0.mlp"`, `"L1H3"`, `"L0N17"`; see `bounds`.
            All other entries of the weights keep their values. If None, all entries are trained.
        anchor: Weight of the penalty ½·anchor·‖θ − θ0‖² on the change of the trained weights (L2-SP; Li et al. 2018,
            arXiv 1802.01483).
        radius: Largest norm of the change of all trained weights together, relative to their norm at the start. The
            change is scaled back after every step. If None, it is free.
        rank: Rank of the low-rank adapters that are trained. On a bridge they stay apart from the weights, which the
            original model shares; on a `HookedTransformer` they are merged. If None, trains the weights.
        lora_alpha: Scale of the adapters; what they add is multiplied by lora_alpha / rank.
        precision: `"full"` computes in the weights' own type, `"bf16"` under autocast. Weights keep their type.
            Half-precision weights are trained by fp32 copies in both cases; see `MasterWeights`.
        recompute: Gradient checkpointing: run all blocks but the last again in the backward pass, to save memory.
        reference_mb: Largest size in memory of one kind of reference (what the original model computes for the data),
            megabytes; larger ones go to disk. If None, a quarter of the free memory. It never changes the result.

    Raises:
        InputError: If a value is not accepted. The message names it and what would be accepted.
    """

    lr: float = setting(1e-5, POSITIVE)
    steps: int | None = setting(None, MAYBE_COUNT)
    epochs: int | None = setting(None, MAYBE_COUNT)
    batch_size: int = setting(32, COUNT)
    micro_batch: int | None = setting(None, MAYBE_COUNT)
    schedule: str = setting("constant", OneOf(SCHEDULES))
    warmup: int = setting(0, Number(0, whole=True))
    clip: float | None = setting(1.0, Number(0, above=True, optional=True))
    weight_decay: float = setting(0.0, NOT_NEGATIVE)
    beta1: float = setting(0.9, DECAY)
    beta2: float = setting(0.999, DECAY)
    eps: float = setting(1e-8, POSITIVE)
    gamma: float = setting(1.0, NOT_NEGATIVE)
    alpha: float = setting(1.0, NOT_NEGATIVE)
    phrasings: str = setting("headline", OneOf(("headline", "all")))
    chat: Chat = setting(False, ChatTemplate())  # noqa: RUF009
    prefill: str = setting("", Text())
    chunk_tokens: int = setting(2048, Number(2, whole=True))
    max_new_tokens: int = setting(24, COUNT)
    stop: tuple[str, ...] = setting(("\n",), Stops())
    end_token: bool | None = setting(None, MaybeFlag())
    check_every: int = setting(5, COUNT)
    modules: Names | None = setting(None, Texts(optional=True, one=True))  # noqa: RUF009
    only: Names | None = setting(None, Texts(optional=True, one=True))  # noqa: RUF009
    anchor: float = setting(0.0, NOT_NEGATIVE)
    radius: float | None = setting(None, Number(0, above=True, optional=True))
    rank: int | None = setting(None, MAYBE_COUNT)
    lora_alpha: float = setting(16.0, POSITIVE)
    precision: str = setting("full", OneOf(("full", "bf16")))
    recompute: bool = setting(False, Flag())
    reference_mb: float | None = setting(None, Number(0, optional=True))

    def __post_init__(self) -> None:
        for declaration in dataclasses.fields(self):
            accepts: Accepts = declaration.metadata["accepts"]
            object.__setattr__(self, declaration.name, accepts.read(declaration.name, getattr(self, declaration.name)))

        bounds = {"only": self.only, "anchor": self.anchor or None, "radius": self.radius}
        given = [f"{name}={value!r}" for name, value in bounds.items() if value is not None]
        if self.rank is not None and given:
            raise InputError(
                f"rank={self.rank} trains adapters, and {', '.join(given)} bounds the change of the weights; "
                "leave one of them out"
            )

    def length(self, examples: int) -> int:
        """Return the number of optimiser steps for a forget set of this many examples."""
        a_pass = -(-examples // self.batch_size)
        if self.steps is not None:
            return self.steps
        return max(PASSES * a_pass, LEAST_STEPS) if self.epochs is None else self.epochs * a_pass


def split(
    given: Mapping[str, Any], defaults: Mapping[str, Any], options: Mapping[str, Any]
) -> tuple[Settings, dict[str, Any]]:
    """Sort keyword arguments into the shared hyperparameters and those of the method, and check each of them.

    Args:
        given: Keyword arguments of `unlearn`.
        defaults: The method's defaults of shared hyperparameters.
        options: The method's own hyperparameters: an `Option`, or a plain default.

    Returns:
        Both, complete.

    Raises:
        InputError: If a name is neither, or a value is not accepted. The message names what would be accepted.
    """
    shared = {f.name for f in dataclasses.fields(Settings)}
    for name in given:
        if name not in shared and name not in options:
            raise InputError(f"unknown setting {name!r}; {nearest(name, shared | set(options))}")
    mine = {**defaults, **{k: v for k, v in given.items() if k in shared}}
    return Settings(**mine), read_options(options, given)


def schedule_factor(step: int, steps: int, warmup: int, schedule: str) -> float:
    """Compute the factor of the peak learning rate at `step`, counted from 0.

    >>> [schedule_factor(s, 4, 2, "linear") for s in range(4)]
    [0.5, 1.0, 1.0, 0.5]
    """
    if step < warmup:
        return (step + 1) / warmup
    gone = (step - warmup) / max(1, steps - warmup)
    if schedule == "linear":
        return 1 - gone
    return 0.5 * (1 + math.cos(math.pi * gone)) if schedule == "cosine" else 1.0
