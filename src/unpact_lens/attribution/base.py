"""What every attribution method is given, and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Run:
    """What a method works with.

    Attributes:
        model: a hooked model, or whatever `scorer` scores with.
        scorer: scores families of rows towards the target.
        seed: of methods that sample.
    """

    model: Any
    scorer: Any
    seed: int = 0


@dataclass(frozen=True)
class Outcome:
    """What a method finds for one example.

    Attributes:
        per_answer_token: units x answer tokens (or x 1, for a target of one number).
        error: standard error of the mean over the answer, where the method samples.
        convergence_delta: what is left unexplained, where the method promises completeness.
        settings: what was in force.
    """

    per_answer_token: Float[Tensor, "unit answer"]
    error: Float[Tensor, " unit"] | None = None
    convergence_delta: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)
