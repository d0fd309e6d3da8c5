"""Tell whether a model expects the token that ends each answer to be forgotten.

A loss that saturates where an answer is unlikely is met by any of its tokens. Where the model does not expect the end
token, that token is met first: its gradient is the largest, because its probability is small, and the fact stays. A
loss on the mean of an answer's tokens (SimNPO) then counts the answer as forgotten from the start.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import replace

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
    if isinstance(forget, Corpus) or settings.end_token is False:
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


def with_end_decided(model: HookedModel, forget: Source, settings: Settings, *, shown: bool) -> Settings:
    """Return hyperparameters with `end_token` decided where it is None.

    Args:
        model: Original model.
        forget: Data to forget.
        settings: Hyperparameters in force.
        shown: Whether to say on stderr that the end token is left out.
    """
    if settings.end_token is not None:
        return settings
    end = unexpected_end(model, forget, settings)
    if end is not None and shown:
        print(
            f"the model gives the end token {end:.1f} nats after the answers to forget, so it is not trained "
            "(end_token=False)",
            file=sys.stderr,
            flush=True,
        )
    return replace(settings, end_token=end is None)
