"""Every setting of a training run, checked before anything long happens."""

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
    """What all trained methods share.

    Attributes:
        lr: peak learning rate of AdamW.
        steps: optimiser steps; None for `epochs` passes over the forget set.
        epochs: passes over the forget set, where `steps` is None.
        batch_size: examples of the forget set, and as many of the retain set, in one optimiser step.
        micro_batch: examples in one forward pass; None for the whole batch. Changes memory, never the result.
        schedule: how the learning rate goes on after the warm-up: `"constant"`, `"linear"` or `"cosine"` to 0.
        warmup: steps over which the learning rate rises linearly from 0.
        clip: the gradient's norm is cut to this; None for no limit.
        weight_decay: of AdamW, decoupled.
        beta1, beta2, eps: of AdamW.
        gamma: weight of the forget term.
        alpha: weight of the retain term.
        phrasings: `"headline"` trains on the prompt of each QA, `"all"` on its paraphrases as well.
        chat: prompts go through the tokenizer's chat template.
        prefill: what the answer starts with, given and not trained on; `{subject}` stands for the QA's subject.
        chunk_tokens: raw text is cut into pieces of this many tokens (MUSE's 2048), or as long as the model's context
            if that is shorter.
        max_new_tokens: how long an answer may get when facts are checked by generation.
        check_every: optimiser steps between two looks of the stop rule.
        modules: which parameters are trained: names or patterns such as `"blocks.*.mlp"`; None for all. With a rank:
            which matrices get an adapter; None for all of attention and MLPs.
        rank: train low-rank adapters of this rank and merge them afterwards; None trains the weights themselves.
        lora_alpha: what the adapters add is scaled by lora_alpha / rank.
        precision: `"full"` computes in the weights' own type, `"bf16"` under autocast; weights keep their type.
        reference_mb: megabytes that one kind of reference (what the model before says of the data) may take in memory;
            larger ones go to disk. None for a quarter of what is free. Changes memory, never the result.
        recompute: gradient checkpointing: all blocks but the last are run again in the backward pass, to save memory.
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


def split(given: Mapping[str, Any], defaults: Mapping[str, Any], options: Mapping[str, Any]) -> tuple[Settings, dict]:
    """Sort what the user gave into the shared settings and the method's own options.

    Args:
        given: keyword arguments of `unlearn`.
        defaults: the method's defaults for the shared settings.
        options: the method's own options with their defaults.

    Returns:
        Both, complete.

    Raises:
        InputError: for a name that is neither, with the nearest that exist.
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
    """What the peak learning rate is multiplied with at `step`, counted from 0.

    >>> [schedule_factor(s, 4, 2, "linear") for s in range(4)]
    [0.5, 1.0, 1.0, 0.5]
    """
    if step < warmup:
        return (step + 1) / warmup
    gone = (step - warmup) / max(1, steps - warmup)
    if schedule == "linear":
        return 1 - gone
    return 0.5 * (1 + math.cos(math.pi * gone)) if schedule == "cosine" else 1.0
