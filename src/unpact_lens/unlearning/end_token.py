"""Tell whether a model expects the token that ends each answer to be forgotten.

A loss on the mean log-probability of an answer's tokens counts an answer as forgotten where that mean is low. One end
token at −20 nats makes the mean of a short answer low although the model knows the answer, and nothing is trained.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from unpact_lens.data.benchmark import Corpus
from unpact_lens.models.answer_end import end_of_answer
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.tokens import Encoded
from unpact_lens.scoring import score_rows
from unpact_lens.unlearning.dataset import Source, examples
from unpact_lens.unlearning.settings import Settings

UNEXPECTED = math.log(0.01)
"""Mean log-probability of the end token below which it is not expected, nats."""

ROWS = 32
"""Number of examples that are looked at."""


def unexpected_end(model: HookedModel, forget: Source, settings: Settings) -> float | None:
    """Return the mean log-probability that a model gives to the end token after the answers, nats.

    Args:
        model: Original model.
        forget: Data to forget.
        settings: `end_token`, and how questions are asked.

    Returns:
        None if the end token is no trained label of these data, or the model expects it (mean of at least
        `UNEXPECTED`).
    """
    if isinstance(forget, Corpus) or not settings.end_token:
        return None
    end = end_of_answer(model, chat=settings.chat)
    rows: Sequence[Encoded] = [
        r for r in examples(model, forget[:ROWS], settings, "forget")[:ROWS] if r.answer[-1] == end
    ]
    if not rows:
        return None
    last = [float(log_probs[-1]) for log_probs in score_rows(model, rows)]
    mean = sum(last) / len(last)
    return mean if mean < UNEXPECTED else None
