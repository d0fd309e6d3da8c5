r"""Unlearning depth: at which layers is what was to be forgotten erased as deep as in a model that never learned it?

For each layer l, the full model answers with its hidden state after l replaced, at every position, by the retrain
model's (Δ1: what its mean log-probability of the answer loses) and by the unlearned model's (Δ2). Over the layers where
the retrain model's state matters, $\Delta_1 > \tau$,

$$\mathrm{UDS} = \frac{\sum_l \Delta_1\,\mathrm{clip}(\Delta_2/\Delta_1, 0, 1)}{\sum_l \Delta_1}:$$

0 where the unlearned model's states still hold the answer, 1 where they hold as little as the retrain model's.

Source: arXiv 2605.24614 (UDS).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.comparison.compatible import require_comparable
from unpact_lens.data.qa import QA
from unpact_lens.decomposition.intervene import Edit, activations, answer_log_probs
from unpact_lens.errors import InputError
from unpact_lens.models.tokens import Encoded, Text, encode
from unpact_lens.results import Result
from unpact_lens.scoring import DEFAULT_BATCH_TOKENS

THRESHOLD = 0.05
"""τ: layers where the retrain model's state costs less than this, in nats, say nothing."""


@dataclass(frozen=True, eq=False)
class UnlearningDepth(Result):
    """UDS of an unlearned model, item by item and layer by layer.

    Attributes:
        scores: `[item]`, 0 (still there) to 1 (as deep as retraining); NaN where no layer passes the threshold.
        delta_retrain: `[item, layer]`, Δ1, nats.
        delta_unlearned: `[item, layer]`, Δ2, nats.
        threshold: τ, nats.
        ids: the items' ids.
        labels: the layers.
    """

    figure: ClassVar[str | None] = "interventions:unlearning_depth"

    scores: Float[Tensor, " item"]
    delta_retrain: Float[Tensor, "item layer"]
    delta_unlearned: Float[Tensor, "item layer"]
    threshold: float
    ids: tuple[str, ...]
    labels: tuple[str, ...]

    @property
    def score(self) -> float:
        """Mean over the items for which it is defined; NaN where there are none."""
        return float(self.scores.nanmean())

    def to_frame(self) -> pd.DataFrame:
        """One row an item."""
        return pd.DataFrame({"id": self.ids, "uds": self.scores.tolist()})


def unlearning_depth(
    full: Any,
    retrain: Any,
    unlearned: Any,
    items: Sequence[QA | tuple[Text, Text]],
    *,
    threshold: float = THRESHOLD,
    chat: bool = False,
    prefill: Text = "",
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
) -> UnlearningDepth:
    """UDS over some questions and answers.

    Args:
        full: the model before unlearning, in which states are replaced.
        retrain: a model that never learned the answers.
        unlearned: the model judged.
        items: `QA` items, or `(prompt, answer)` pairs.
        threshold: τ, nats.
        chat: wrap the prompts in the tokenizer's chat template.
        prefill: the opening of the answers, given to the model and not scored.
        batch_tokens: bound on the input tokens of one forward pass.

    Raises:
        InputError: if there are no items, the threshold is negative, or the models are not comparable.
    """
    if not items:
        raise InputError("no items; give the questions whose answers were to be forgotten, e.g. bench.forget")
    if threshold < 0:
        raise InputError(f"threshold={threshold}; give a number of nats, 0 or more")
    require_comparable(full, retrain)
    require_comparable(full, unlearned)
    pairs = [(q.prompt, q.answer) if isinstance(q, QA) else q for q in items]
    examples = [encode(full, prompt, answer, chat=chat, prefill=prefill) for prompt, answer in pairs]
    of_retrain, of_unlearned = (
        torch.stack([_loss_by_layer(full, donor, e, batch_tokens) for e in examples]) for donor in (retrain, unlearned)
    )
    return UnlearningDepth(
        scores=depth_score(of_retrain, of_unlearned, threshold),
        delta_retrain=of_retrain,
        delta_unlearned=of_unlearned,
        threshold=threshold,
        ids=tuple(q.id if isinstance(q, QA) else str(i) for i, q in enumerate(items)),
        labels=tuple(f"L{layer}" for layer in range(full.cfg.n_layers)),
    )


def depth_score(
    delta_retrain: Float[Tensor, "item layer"], delta_unlearned: Float[Tensor, "item layer"], threshold: float
) -> Float[Tensor, " item"]:
    """The formula above, for each item; NaN where no layer passes the threshold."""
    counts = delta_retrain > threshold
    # Divided by 1 where it does not count: a Δ1 of zero must not make NaN of the layers that do.
    ratio = (delta_unlearned / torch.where(counts, delta_retrain, torch.ones_like(delta_retrain))).clamp(0, 1)
    weight = torch.where(counts, delta_retrain, torch.zeros_like(delta_retrain))
    return (weight * ratio).sum(1) / weight.sum(1)


def _loss_by_layer(full: Any, donor: Any, example: Encoded, batch_tokens: int) -> Float[Tensor, " layer"]:
    """What the full model's mean log-probability loses with the donor's state after each layer, nats."""
    names = [f"blocks.{layer}.hook_resid_post" for layer in range(full.cfg.n_layers)]
    given = activations(donor, example, names)
    rows = [[], *([Edit(name, (), given[name])] for name in names)]
    scores = answer_log_probs(full, example, rows, batch_tokens=batch_tokens).mean(-1)
    return scores[0] - scores[1:]
