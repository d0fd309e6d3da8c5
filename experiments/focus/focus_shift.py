r"""Measure how unlearning changes the focus on the KeyTokens, with controls (finding 1 of the paper).

1. Compute the contributions under the original and the unlearned model: overlap of the KeyTokens, their share of the
   positive mass, their sum.
2. Compute the same for random sets of other prompt tokens, each as large as the set of KeyTokens.
3. Compute what each head moves from the KeyTokens into the answer's logit, and how much it attends to them.
4. Restore what all heads read from the KeyTokens, or only their attention to them, and measure the share of the lost
   log-probability that comes back (`key_path`).

Each model is measured on forget facts, on held-out paraphrases of them, and on retain facts. Controls are models that
were not unlearned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.attribution import Attribution, KeyRule, TopK, attribute_many
from unpact_lens.attribution.result import positive_mass
from unpact_lens.comparison.focus import item_measures
from unpact_lens.comparison.key_path import KeyPath, key_path
from unpact_lens.data.benchmark import QA
from unpact_lens.decomposition.decompose import decompositions
from unpact_lens.errors import InputError
from unpact_lens.models.asking import Asking
from unpact_lens.models.hooked import HookedModel
from unpact_lens.results import Result

FOCUS_MEASURES: dict[str, str] = {
    "overlap": "Jaccard overlap of the KeyTokens under the original and the unlearned model",
    "spearman": "Spearman correlation of the contributions under the two models, over the prompt's tokens",
    "mass_before": "share of the positive contributions on the original KeyTokens, under the original model",
    "mass_shift": "change of mass_before, unlearned - original",
    "mass_shift_random": "mass_shift of random sets of other prompt tokens, mean over the draws",
    "score_before": "summed contribution of the original KeyTokens, nats",
    "score_shift": "change of score_before, unlearned - original, nats",
    "score_shift_random": "score_shift of random sets of other prompt tokens, mean over the draws, nats",
    "subject_rank_shift": "change of the best rank of the subject's tokens; positive is less focus on the subject",
    "lost": "log-probability of the answer, original - unlearned, nats",
    "back_key": "nats that come back when all heads read the KeyTokens as in the original model",
    "back_random": "back_key of random sets of other prompt tokens, mean over the draws, nats",
    "back_all": "back_key of all positions, nats",
    "back_pattern": "nats that come back when heads attend to the KeyTokens as before, on the unlearned model's values",
    "back_pattern_random": "back_pattern of random sets of other prompt tokens, mean over the draws, nats",
}
"""Measures of each fact."""

HEAD_MEASURES: dict[str, str] = {
    "moves_before": "what the head moves from the KeyTokens into the answer's logit, mean over answer tokens, original",
    "moves_shift": "change of moves_before, unlearned - original",
    "moves_shift_random": "moves_shift of random sets of other prompt tokens, mean over the draws",
    "attends_before": "attention of the head to the KeyTokens, mean over answer tokens, original model",
    "attends_shift": "change of attends_before, unlearned - original",
    "attends_shift_random": "attends_shift of random sets of other prompt tokens, mean over the draws",
    "back_key": "nats that come back when this head alone reads the KeyTokens as in the original model",
}
"""Measures of each fact and head."""


@dataclass(frozen=True)
class Compared:
    """Name the model and the group of facts of one comparison.

    Attributes:
        model: Name of the compared model: a method, `"retrain"`, `"unrelated"`, ...
        seed: Random seed of its training.
        group: Name of the group of facts: `"forget"`, `"paraphrase"` or `"retain"`.
    """

    model: str
    seed: int = 0
    group: str = "forget"


@dataclass(frozen=True)
class ShiftOptions:
    """Hold how the focus is measured.

    Attributes:
        rule: Rule that selects the KeyTokens, under the original model.
        draws: Number of random sets of other prompt tokens for each fact.
        by_head: Also restore what each head alone reads (`back_key` of `HEAD_MEASURES`), one run per head and fact.

    Raises:
        InputError: If `draws` is not positive.
    """

    rule: KeyRule = field(default_factory=lambda: TopK(3))
    draws: int = 8
    by_head: bool = True

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise InputError(f"draws={self.draws}; give at least one set of random tokens")


@dataclass(frozen=True, eq=False)
class FocusShift(Result):
    """Hold the change of one model's focus from that of the original model, fact by fact.

    Attributes:
        model: Name of the compared model; see `Compared`.
        seed: Random seed of its training.
        group: `"forget"`, `"paraphrase"` or `"retain"`.
        ids: Ids of the facts.
        subjects: Subject of each fact. Intervals cluster by it.
        values: Each of `FOCUS_MEASURES`, one value per fact; NaN where it is undefined.
        heads: Each of `HEAD_MEASURES`, shape `[item, layer, head]`.
    """

    figure: ClassVar[str | None] = None

    model: str
    seed: int
    group: str
    ids: tuple[str, ...]
    subjects: tuple[str, ...]
    values: dict[str, Float[Tensor, " item"]]
    heads: dict[str, Float[Tensor, "item layer head"]]

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row per fact and one column per measure."""
        columns = {name: v.tolist() for name, v in self.values.items()}
        return pd.DataFrame({"id": self.ids, "subject": self.subjects, **columns})


def focus_shift(
    before: HookedModel,
    after: HookedModel,
    items: Sequence[QA],
    compared: Compared,
    options: ShiftOptions | None = None,
    asked: Asking | None = None,
) -> FocusShift:
    """Compute all of `FOCUS_MEASURES` and `HEAD_MEASURES` on some facts.

    Args:
        before: Original model.
        after: Compared model, of the same shape, vocabulary and tokenizer.
        items: Facts to measure.
        compared: Names of the compared model and of the group of facts.
        options: Rule of the KeyTokens, number of draws, and whether single heads are restored; defaults if None.
        asked: Chat template and answer prefix, which may contain `{subject}`; defaults if None.

    Raises:
        InputError: If there are no facts, or the models are not comparable.
    """
    if not items:
        raise InputError(f"no {compared.group} facts to measure; give at least one")
    options, asked = options or ShiftOptions(), asked or Asking()
    sides = [attribute_many(m, items, chat=asked.chat, prefill=asked.prefill, progress=False) for m in (before, after)]
    rows, heads = [], []
    for number, (qa, b, a) in enumerate(zip(items, *sides, strict=True)):
        keys = b.key_tokens(options.rule).indices
        others = other_tokens(len(b.tokens), keys, options.draws, number)
        prefix = asked.prefill
        own = asked.but(prefill=prefix.replace("{subject}", qa.subject) if isinstance(prefix, str) else prefix)
        path, pattern = (
            key_path(
                before, after, qa.prompt, qa.answer, keys=keys, restore=restore, draws=options.draws, seed=number,
                by_head=options.by_head and restore == "moved", chat=own.chat, prefill=own.prefill,
            )
            for restore in ("moved", "pattern")
        )  # fmt: skip
        rows.append({**contribution_shift(b, a, options.rule, others), **_mediation(path, pattern)})
        was, now = (_reads(m, qa, own) for m in (before, after))
        heads.append({**head_shift(was, now, len(b.head_ids), keys, others), "back_key": path.values})
    return FocusShift(
        model=compared.model,
        seed=compared.seed,
        group=compared.group,
        ids=tuple(q.id for q in items),
        subjects=tuple(q.subject or q.id or f"item {i}" for i, q in enumerate(items)),
        values={m: torch.tensor([r[m] for r in rows], dtype=torch.float64) for m in FOCUS_MEASURES},
        heads={m: torch.stack([h[m] for h in heads]).double() for m in HEAD_MEASURES},
    )


def other_tokens(tokens: int, keys: Sequence[int], draws: int, seed: int) -> list[tuple[int, ...]]:
    """Draw random sets of prompt tokens that are not KeyTokens.

    Each set is as large as that of the KeyTokens, or smaller where fewer tokens are left.

    Args:
        tokens: Number of tokens in the prompt.
        keys: Indices of the KeyTokens.
        draws: Number of sets. There are none if all tokens are KeyTokens.
        seed: Random seed of the draws.
    """
    rest = [i for i in range(tokens) if i not in keys]
    generator = torch.Generator().manual_seed(seed)
    return [
        tuple(rest[j] for j in torch.randperm(len(rest), generator=generator)[: len(keys)].tolist())
        for _ in range(draws if rest else 0)
    ]


def contribution_shift(
    before: Attribution, after: Attribution, rule: KeyRule, others: Sequence[tuple[int, ...]]
) -> dict[str, float]:
    """Compute the measures of contributions for one prompt.

    Measures of other tokens are means over the sets, and NaN without any.
    """
    found = item_measures(before, after, rule)
    keys = before.key_tokens(rule).indices

    def score(side: Attribution, rows: Sequence[int]) -> float:
        return float(side.scores[list(rows)].sum())

    mass = [positive_mass(after.scores, o) - positive_mass(before.scores, o) for o in others]
    scores = [score(after, o) - score(before, o) for o in others]
    return {
        **{name: found[name] for name in ("overlap", "spearman", "mass_before", "mass_shift", "subject_rank_shift")},
        "mass_shift_random": _mean(mass),
        "score_before": score(before, keys),
        "score_shift": score(after, keys) - score(before, keys),
        "score_shift_random": _mean(scores),
    }


Reads = tuple[Float[Tensor, "layer head source"], Float[Tensor, "layer head source"]]
"""What each head moves from each source into the answer's logit, and its attention; means over the answer's tokens."""


def head_shift(
    before: Reads, after: Reads, offset: int, keys: Sequence[int], others: Sequence[Sequence[int]]
) -> dict[str, Float[Tensor, "layer head"]]:
    """Compute the measures of heads for one prompt.

    Args:
        before: What heads moved and attended to under the original model.
        after: The same under the compared model.
        offset: Position of the prompt's first token in the input.
        keys: Indices of the KeyTokens within the prompt.
        others: Sets of indices of other tokens within the prompt.
    """
    found = {}
    for name, b, a in zip(("moves", "attends"), before, after, strict=True):
        shift = (a - b)[..., offset:]  # [layer, head, prompt token]
        drawn = [shift[..., list(o)].sum(-1) for o in others]
        found[f"{name}_before"] = b[..., [offset + k for k in keys]].sum(-1)
        found[f"{name}_shift"] = shift[..., list(keys)].sum(-1)
        nothing = torch.full(shift.shape[:-1], float("nan"), dtype=shift.dtype)
        found[f"{name}_shift_random"] = torch.stack(drawn).mean(0) if drawn else nothing
    return found


def _reads(model: HookedModel, qa: QA, asked: Asking) -> Reads:
    """Compute what heads move and attend to for one question."""
    (sources,), run = decompositions(model, qa.prompt, qa.answer, ("source",), asked)
    patterns = [run.at(layer, "attn.hook_pattern").mean(1) for layer in range(model.cfg.n_layers)]
    return sources.values.mean(-1), torch.stack(patterns).cpu()


def _mediation(path: KeyPath, pattern: KeyPath) -> dict[str, float]:
    """Compute the nats that come back through each set of positions, with values and by attention alone."""
    after = path.log_prob_after
    return {
        "lost": path.log_prob_before - after,
        "back_key": path.log_prob_key - after,
        "back_random": _mean((path.log_prob_rest - after).tolist()),
        "back_all": path.log_prob_all - after,
        "back_pattern": pattern.log_prob_key - after,
        "back_pattern_random": _mean((pattern.log_prob_rest - after).tolist()),
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")
