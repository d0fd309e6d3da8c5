"""The answer after each layer, before and after: from which layer on is it no longer there?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from unpact_lens.comparison.model_pair import floor_of, require_comparable
from unpact_lens.comparison.result import beside_floor
from unpact_lens.decomposition.lens import TunedLens, lens_curves
from unpact_lens.decomposition.result import LensCurves
from unpact_lens.errors import InputError
from unpact_lens.models.tokens import Text
from unpact_lens.results import Result


@dataclass(frozen=True, eq=False)
class LensChanges(Result):
    """Lens curves of one question under two models, and Δ = after − before.

    Attributes:
        before: logit, log-probability and rank of each answer token after each layer.
        after: the same after.
        floor: the same between two models that differ by noise only; or None.
    """

    before: LensCurves
    after: LensCurves
    floor: LensChanges | None = None

    figure: ClassVar[str | None] = "decomposition:lens_changes"

    @property
    def delta_logit(self) -> Float[Tensor, "layer answer"]:
        """Δ logit after each layer."""
        return self.after.logit - self.before.logit

    @property
    def delta_log_prob(self) -> Float[Tensor, "layer answer"]:
        """Δ log-probability after each layer, nats."""
        return self.after.log_prob - self.before.log_prob

    @property
    def delta_rank(self) -> Float[Tensor, "layer answer"]:
        """Δ rank after each layer: positive is further from the most likely token."""
        return (self.after.rank - self.before.rank).to(self.after.logit.dtype)

    def to_frame(self) -> pd.DataFrame:
        """One row for each layer and answer token: logit, log-probability (nats) and rank before, after, and Δ."""
        rows = list(product(self.before.labels[0], enumerate(self.before.answer_tokens)))
        frame = pd.DataFrame(
            {
                "layer": [layer for layer, _ in rows],
                "answer_token": [token for _, (_, token) in rows],
                "position": [i for _, (i, _) in rows],
            }
        )
        for name in ("logit", "log_prob", "rank"):
            for side in ("before", "after"):
                frame[f"{name}_{side}"] = getattr(getattr(self, side), name).flatten().tolist()
            frame[f"{name}_delta"] = getattr(self, f"delta_{name}").flatten().tolist()
        return beside_floor(frame, self.floor, ("logit_delta", "log_prob_delta", "rank_delta"))


def lens_changes(
    before: Any,
    after: Any,
    prompt: Text,
    answer: Text,
    *,
    lenses: Sequence[TunedLens] | None = None,
    floor: Sequence[Any] | None = None,
    floor_lenses: Sequence[TunedLens] | None = None,
    chat: bool = False,
    prefill: Text = "",
) -> LensChanges:
    """Lens curves of one question under two models.

    Args:
        before: a hooked causal model.
        after: one of the same shape, vocabulary and tokenizer.
        prompt: text or ids.
        answer: text, leading space included, or ids.
        lenses: a tuned lens for each of the two, trained on the same texts; None reads each layer as it is.
        floor: two models that differ by noise only (two training seeds, or before and after fine-tuning on unrelated
            text), on which the same is measured.
        floor_lenses: a tuned lens for each model of the floor; they go with `lenses`.
        chat: wrap the prompt in the tokenizer's chat template.
        prefill: the opening of the answer, given to the model and not scored.

    Raises:
        InputError: if the models are not comparable, lenses are not a pair, a lens was trained for another model, the
            floor is read by another kind of lens, or for any input that `lens_curves` refuses.
    """
    require_comparable(before, after)
    noise = None if floor is None else floor_of(before, floor)
    for name, pair in (("lenses", lenses), ("floor_lenses", floor_lenses)):
        if pair is not None and len(pair) != 2:
            raise InputError(f"{name}= takes a pair of tuned lenses, one for each model; got {len(pair)}")
    if noise is not None and (lenses is None) != (floor_lenses is None):
        raise InputError("lenses= and floor_lenses= go together: a floor is read by the same kind of lens")
    read = [None, None] if lenses is None else list(lenses)
    sides = [
        lens_curves(model, prompt, answer, lens=lens, chat=chat, prefill=prefill)
        for model, lens in zip((before, after), read, strict=True)
    ]
    beside = None
    if noise is not None:
        beside = lens_changes(*noise, prompt, answer, lenses=floor_lenses, chat=chat, prefill=prefill)
    return LensChanges(sides[0], sides[1], beside)
