"""The registry of methods. A method is a declaration: what pushes the forget set away, what holds the retain set.

To add one, write its loss in `losses.py` and register it here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pandas as pd
from torch import Tensor

from unpact_lens.registry import Registry
from unpact_lens.unlearning import losses
from unpact_lens.unlearning.trainer import Loss
from unpact_lens.unlearning.views import View

Options = Mapping[str, Any]


@dataclass(frozen=True)
class Method:
    """One way of unlearning.

    Attributes:
        name: its key.
        line: one line on what it does.
        formula: what is minimised, in the notation of `losses`.
        source: where it comes from.
        forget: its loss on the forget set; None where nothing is trained away from it.
        per: what that loss is a mean over.
        sums: whether the loss grows with the answer's length, as sums over an answer do. The trainer divides such a
            loss by the mean answer length of the forget set, so that it weighs the same against a retain term, which
            is a mean over tokens. `length_scale=False` leaves it as in the source.
        retain: its loss on the retain set; None where it needs no retain set.
        defaults: of the shared settings, where they differ from `Settings`.
        options: its own settings with their defaults.
        note: what differs here from the source, and why.
        kind: `"trained"` by the loop, or `"arithmetic"` on weights.
    """

    name: str
    line: str
    formula: str
    source: str
    forget: Loss | None = None
    per: Literal["token", "example"] = "token"
    sums: bool = False
    retain: Loss | None = None
    defaults: Options = field(default_factory=dict)
    options: Options = field(default_factory=dict)
    note: str = ""
    kind: Literal["trained", "arithmetic"] = "trained"


METHODS: Registry[Method] = Registry("unlearning method")


def methods() -> pd.DataFrame:
    """The registered methods: name, one line, formula, defaults, source, and what differs from it."""
    return pd.DataFrame(
        [
            {
                "name": m.name,
                "line": m.line,
                "formula": m.formula,
                "defaults": {**m.defaults, **m.options},
                "needs_retain": m.retain is not None,
                "source": m.source,
                "note": m.note,
            }
            for m in METHODS.values()
        ]
    )


def retain_nll(view: View, options: Options) -> Tensor:
    """GDR: go on learning the retain set."""
    return losses.nll(view.log_probs, view.mask)


def retain_kl(view: View, options: Options) -> Tensor:
    """KLR: keep the next-token distributions on the retain set."""
    return losses.kl_to_reference(view.logits, view.ref_logits, view.mask)


def _register(method: Method, with_retain: Mapping[str, tuple[Callable[[View, Options], Tensor], str]]) -> None:
    """Register a method, and a variant of it for each retain regulariser."""
    METHODS.add(method.name, method)
    for suffix, (loss, formula) in with_retain.items():
        name = f"{method.name}_{suffix}"
        variant = {
            **vars(method),
            "name": name,
            "line": f"{method.line}; the retain set is held by {suffix.upper()}",
            "formula": f"γ·[{method.formula}] + α·[{formula}]",
            "retain": loss,
        }
        METHODS.add(name, Method(**variant))


REGULARISERS = {
    "gdr": (retain_nll, "−mean log p on D_r"),
    "klr": (retain_kl, "mean KL(p_θ0 ‖ p_θ) on D_r"),
}

_register(
    Method(
        "ga",
        "gradient ascent: make every answer token less likely",
        "mean log p",
        "Jang et al. 2022, arXiv 2210.01504; with a retain term: TOFU (arXiv 2401.06121), MUSE (arXiv 2407.06460)",
        forget=lambda v, o: losses.gradient_ascent(v.log_probs, v.mask),
        note="diverges unless stopped: use stop_at. KLR is a true KL of distributions; public code for MUSE feeds raw "
        "logits to its KL.",
    ),
    REGULARISERS,
)
_register(
    Method(
        "npo",
        "negative preference optimisation: make each answer less likely than before, ever more gently",
        "(2/β)·mean softplus(β(ℓ_θ − ℓ_θ0)) / mean T",
        "Zhang et al. 2024, arXiv 2404.05868",
        forget=lambda v, o: losses.npo(v.log_probs, v.ref_log_probs, v.mask, o["beta"]),
        per="example",
        sums=True,
        options={"beta": 0.1, "length_scale": True},
        note="divided by the mean answer length of the forget set, so that a retain term, a mean over tokens, is not "
        "swamped; length_scale=False gives the source's scale.",
    ),
    REGULARISERS,
)
METHODS.add(
    "task_vector",
    Method(
        "task_vector",
        "task arithmetic: learn the forget set by heart, then go the opposite way",
        "θ_0 − a(θ_ft − θ_0), θ_ft trained on mean −log p of D_f",
        "Ilharco et al. 2022, arXiv 2212.04089; MUSE, arXiv 2407.06460",
        forget=lambda v, o: losses.nll(v.log_probs, v.mask),
        options={"coefficient": None, "max_coefficient": 256.0, "tolerance": 0.05},
        note="a is the smallest that reaches the forget level, found by doubling and halving; with no level, 1.",
        kind="arithmetic",
    ),
)
