"""Hold the hyperparameters of a training run, checked before anything long happens."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from unpact_lens.errors import InputError, nearest
from unpact_lens.results import storable

SCHEDULES = ("constant", "linear", "cosine")


@storable
@dataclass(frozen=True)
class Settings:
    """Hold the hyperparameters that all trained methods share.

    Attributes:
        lr: Peak learning rate of AdamW.
        steps: Number of optimiser steps. If None, trains for `epochs` passes over the forget set.
        epochs: Number of passes over the forget set, where `steps` is None.
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
        chat: Wrap prompts in the tokenizer's chat template.
        prefill: Answer prefix, given to the model and not trained on; `{subject}` becomes the question's subject.
        chunk_tokens: Length of the chunks that raw text is cut into, tokens (2048 in MUSE); at most the model's context
            length.
        max_new_tokens: Largest number of tokens generated when facts are checked.
        check_every: Number of optimiser steps between two checks of the stop rule.
        modules: Names or patterns of the parameters to train, e.g. `"blocks.*.mlp"`. If None, all are trained. With a
            rank, the matrices that get an adapter; if None, all of attention and MLPs.
        rank: Rank of the low-rank adapters that are trained and merged afterwards. If None, trains the weights.
        lora_alpha: Scale of the adapters; what they add is multiplied by lora_alpha / rank.
        precision: `"full"` computes in the weights' own type, `"bf16"` under autocast. Weights keep their type.
        recompute: Gradient checkpointing: run all blocks but the last again in the backward pass, to save memory.
        reference_mb: Largest size in memory of one kind of reference (what the original model computes for the data),
            megabytes; larger ones go to disk. If None, a quarter of the free memory. It never changes the result.

    Raises:
        InputError: If a value is unknown or out of range. The message names it.
    """

    lr: float = 1e-5
    steps: int | None = None
    epochs: int = 5
    batch_size: int = 32
    micro_batch: int | None = None
    schedule: str = "constant"
    warmup: int = 0
    clip: float | None = 1.0
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    gamma: float = 1.0
    alpha: float = 1.0
    phrasings: str = "headline"
    chat: bool = False
    prefill: str = ""
    chunk_tokens: int = 2048
    max_new_tokens: int = 24
    check_every: int = 5
    modules: tuple[str, ...] | None = None
    rank: int | None = None
    lora_alpha: float = 16.0
    precision: str = "full"
    recompute: bool = False
    reference_mb: int | None = None

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise InputError(f"unknown schedule {self.schedule!r}; {nearest(str(self.schedule), SCHEDULES)}")
        if self.phrasings not in ("headline", "all"):
            raise InputError(f"phrasings={self.phrasings!r}; use 'headline' or 'all'")
        if self.precision not in ("full", "bf16"):
            raise InputError(f"precision={self.precision!r}; use 'full' or 'bf16'")
        counts = ("rank", "steps", "epochs", "batch_size", "micro_batch", "max_new_tokens", "check_every")
        for name in counts:
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise InputError(f"{name}={value!r}; give a whole number of at least 1")
        if self.reference_mb is not None and self.reference_mb < 0:
            raise InputError(f"reference_mb={self.reference_mb!r}; give megabytes, 0 or more, or None")
        if not isinstance(self.chunk_tokens, int) or self.chunk_tokens < 2:
            raise InputError(f"chunk_tokens={self.chunk_tokens!r}; give a whole number of at least 2")
        for name in ("lr", "weight_decay", "gamma", "alpha"):
            value = getattr(self, name)
            if not (isinstance(value, (int, float)) and math.isfinite(value) and value >= 0):
                raise InputError(f"{name}={value!r}; give a finite number of at least 0")
        if self.clip is not None and not self.clip > 0:
            raise InputError(f"clip={self.clip!r}; give a positive norm, or None for no limit")


def split(
    given: Mapping[str, Any], defaults: Mapping[str, Any], options: Mapping[str, Any]
) -> tuple[Settings, dict[str, Any]]:
    """Sort keyword arguments into the shared hyperparameters and those of the method.

    Args:
        given: Keyword arguments of `unlearn`.
        defaults: The method's defaults of shared hyperparameters.
        options: The method's own hyperparameters, with their defaults.

    Returns:
        Both, complete.

    Raises:
        InputError: If a name is neither. The message offers the nearest names.
    """
    shared = {f.name for f in dataclasses.fields(Settings)}
    for name in given:
        if name not in shared and name not in options:
            raise InputError(f"unknown setting {name!r}; {nearest(name, shared | set(options))}")
    mine = {**defaults, **{k: v for k, v in given.items() if k in shared}}
    if isinstance(mine.get("modules"), str):
        mine["modules"] = (mine["modules"],)
    elif mine.get("modules") is not None:
        mine["modules"] = tuple(mine["modules"])
    return Settings(**mine), {**options, **{k: v for k, v in given.items() if k in options}}


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
