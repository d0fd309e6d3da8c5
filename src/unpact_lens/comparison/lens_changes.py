"""Compare the answer's logit, log-probability and rank after each layer between two models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import ClassVar

import pandas as pd
from jaxtyping import Float
from torch import Tensor
from typing_extensions import Unpack

from unpact_lens.comparison.model_pair import ModelPair
from unpact_lens.comparison.noise_columns import beside_floor
from unpact_lens.comparison.question import Question
from unpact_lens.data.benchmark import QA
from unpact_lens.decomposition.lens import TunedLens, lens_curves
from unpact_lens.decomposition.result import LensCurves
from unpact_lens.display import joined, quoted
from unpact_lens.errors import InputError
from unpact_lens.models.asking import Asking, AskingOptions
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.tokens import Text
from unpact_lens.results import Result


@dataclass(frozen=True, eq=False)
class LensChanges(Result):
    """Hold lens curves of one question under two models, and Δ = after − before.

    Attributes:
        before: Logit, log-probability and rank of each answer token after each layer of the original model.
        after: The same for the unlearned model.
        floor: The same for the noise baseline, or None.
    """

    before: LensCurves
    after: LensCurves
    floor: LensChanges | None = None

    figure: ClassVar[str | None] = "decomposition:lens_changes"

    def _brief(self) -> str:
        before, after = (float(side.log_prob[-1].mean()) for side in (self.before, self.after))
        return joined(
            [quoted(self.before.answer), f"log-prob {before:.2f} → {after:.2f} nats", f"{self.before.lens} lens"]
        )

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
        """Δ rank after each layer; positive means further from the most likely token."""
        return (self.after.rank - self.before.rank).to(self.after.logit.dtype)

    def to_frame(self) -> pd.DataFrame:
        """Make a table with one row per layer and answer token: logit, log-probability (nats) and rank, and their Δ."""
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
    before: HookedModel,
    after: HookedModel,
    prompt: Text | QA,
    answer: Text | None = None,
    *,
    lenses: Sequence[TunedLens] | None = None,
    floor: Sequence[HookedModel] | None = None,
    floor_lenses: Sequence[TunedLens] | None = None,
    **asking: Unpack[AskingOptions],
) -> LensChanges:
    """Compute lens curves of one question under two models.

    Args:
        before: Original model.
        after: Unlearned model, of the same shape, vocabulary and tokenizer.
        prompt: Text or ids; or a `QA`, which holds its answer.
        answer: Text, leading space included, or ids.
        lenses: Tuned lens of each of the two models, trained on the same texts; if None, the logit lens.
        floor: Noise baseline: two models that differ by noise only (two training seeds, or before and after
            fine-tuning on unrelated text), on which the same is measured.
        floor_lenses: Tuned lens of each model of the noise baseline; required with `lenses`.
        **asking: `chat` and `prefill`; see `AskingOptions`.

    Raises:
        InputError: If the models are not comparable, lenses are not a pair, a lens was trained for another model, the
            noise baseline is read by another kind of lens, or for any input that `lens_curves` refuses.
    """
    asked = Asking(**asking)
    pair, question = ModelPair.of(before, after, floor=floor), Question.of(prompt, answer)
    for name, given in (("lenses", lenses), ("floor_lenses", floor_lenses)):
        if given is not None and len(given) != 2:
            raise InputError(f"{name}= takes a pair of tuned lenses, one for each model; got {len(given)}")
    if pair.noise is not None and (lenses is None) != (floor_lenses is None):
        raise InputError("lenses= and floor_lenses= go together: read the noise baseline with the same kind of lens")
    found = _changes(pair, question, asked, lenses)
    if pair.noise is None:
        return found
    return replace(found, floor=_changes(pair.noise, question, asked, floor_lenses))


def _changes(pair: ModelPair, question: Question, asked: Asking, lenses: Sequence[TunedLens] | None) -> LensChanges:
    """Compute the lens curves of each model of a pair."""
    before, after = (
        lens_curves(model, question.prompt, question.answer, lens=lens, **asked.reading)
        for model, lens in zip(pair.models, lenses or (None, None), strict=True)
    )
    return LensChanges(before, after)
