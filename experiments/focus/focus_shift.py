r"""Finding 1 with its controls: does unlearning move focus off the KeyTokens, and does the loss run through it?

For each unlearned model, and for controls that were not unlearned, on forget facts, on other phrasings of them and on
retain facts:

1. contributions before and after: overlap of the KeyTokens, their share of the positive mass, their sum;
2. the same for as many other prompt tokens, drawn at random;
3. what each head moves from the KeyTokens into the answer's logit, and how much it attends to them, before and after;
4. the share of the lost log-probability that comes back when all heads read the KeyTokens as before, or only attend to
   them as before (`key_path`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

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
from unpact_lens.results import Result

FOCUS_MEASURES: dict[str, str] = {
    "overlap": "Jaccard overlap of the KeyTokens before and after",
    "spearman": "Spearman correlation of the contributions before and after, over the prompt's tokens",
    "mass_before": "share of the positive contributions on the KeyTokens of before, under the model before",
    "mass_shift": "change of that share, after - before",
    "mass_shift_random": "the same for as many other prompt tokens, mean over the draws",
    "score_before": "summed contribution of the KeyTokens of before, nats",
    "score_shift": "its change, after - before",
    "score_shift_random": "the same for as many other prompt tokens",
    "subject_rank_shift": "change of the best rank of the subject's tokens, positive is less focus on it",
    "lost": "log-probability of the answer before - after, nats",
    "back_key": "nats that come back when all heads read the KeyTokens as before",
    "back_random": "the same for as many other prompt tokens, mean over the draws",
    "back_all": "the same for all positions",
    "back_pattern": "nats that come back when all heads attend to the KeyTokens as before, on the values of after",
    "back_pattern_random": "the same for as many other prompt tokens, mean over the draws",
}
"""What is measured of every fact."""

HEAD_MEASURES: dict[str, str] = {
    "moves_before": "what the head moves from the KeyTokens into the answer's logit, mean over its tokens, before",
    "moves_shift": "its change, after - before",
    "moves_shift_random": "the same for as many other prompt tokens, mean over the draws",
    "attends_before": "attention of the head to the KeyTokens, mean over the answer's tokens, before",
    "attends_shift": "its change, after - before",
    "attends_shift_random": "the same for as many other prompt tokens, mean over the draws",
    "back_key": "nats that come back when this head alone reads the KeyTokens as before",
}
"""What is measured of every fact and head."""


@dataclass(frozen=True, eq=False)
class FocusShift(Result):
    """How the focus of one model moved away from that of the model before, fact by fact.

    Attributes:
        model: what became of the model: a method, `"retrain"`, `"unrelated"`, ...
        seed: of its training.
        group: `"forget"`, `"paraphrase"` or `"retain"`.
        ids: of the facts.
        subjects: whom or what each is about; intervals cluster by it.
        values: for each of `FOCUS_MEASURES`, its value for each fact; NaN where it is undefined.
        heads: for each of `HEAD_MEASURES`, `[item, layer, head]`.
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
        """One row a fact, with every measure."""
        columns = {name: v.tolist() for name, v in self.values.items()}
        return pd.DataFrame({"id": self.ids, "subject": self.subjects, **columns})


def focus_shift(
    before: Any,
    after: Any,
    items: Sequence[QA],
    *,
    model: str,
    seed: int = 0,
    group: str = "forget",
    rule: KeyRule | None = None,
    draws: int = 8,
    by_head: bool = True,
    chat: bool = False,
    prefill: str = "",
) -> FocusShift:
    """Every measure of `FOCUS_MEASURES` and `HEAD_MEASURES` on some facts.

    Args:
        before: a hooked causal model.
        after: one of the same shape, vocabulary and tokenizer.
        items: the facts.
        model: what `after` is called.
        seed: of its training.
        group: what the facts are called.
        rule: which tokens are key, under the model before; `TopK(3)` by default.
        draws: how many sets of other prompt tokens, as many as are key.
        by_head: also put back what each head alone reads (`back_key` of `HEAD_MEASURES`), a run for each head and fact.
        chat: wrap the prompts in the tokenizer's chat template.
        prefill: the opening of the answers; may hold `{subject}`.

    Raises:
        InputError: if there are no facts, `draws` is not positive, or the models are not comparable.
    """
    if not items:
        raise InputError(f"no {group} facts to look at; give at least one")
    if draws < 1:
        raise InputError(f"draws={draws}; give at least one set of random tokens")
    rule = TopK(3) if rule is None else rule
    sides = [attribute_many(m, items, chat=chat, prefill=prefill, progress=False) for m in (before, after)]
    rows, heads = [], []
    for number, (qa, b, a) in enumerate(zip(items, *sides, strict=True)):
        keys = b.key_tokens(rule).indices
        others = other_tokens(len(b.tokens), keys, draws, number)
        opening = prefill.replace("{subject}", qa.subject)
        path, pattern = (
            key_path(
                before, after, qa.prompt, qa.answer, keys=keys, restore=restore, draws=draws, seed=number,
                by_head=by_head and restore == "moved", chat=chat, prefill=opening,
            )
            for restore in ("moved", "pattern")
        )  # fmt: skip
        rows.append({**contribution_shift(b, a, rule, others), **_mediation(path, pattern)})
        was, now = (_reads(m, qa, chat, opening) for m in (before, after))
        heads.append({**head_shift(was, now, len(b.head_ids), keys, others), "back_key": path.values})
    return FocusShift(
        model=model,
        seed=seed,
        group=group,
        ids=tuple(q.id for q in items),
        subjects=tuple(q.subject or q.id or f"item {i}" for i, q in enumerate(items)),
        values={m: torch.tensor([r[m] for r in rows], dtype=torch.float64) for m in FOCUS_MEASURES},
        heads={m: torch.stack([h[m] for h in heads]).double() for m in HEAD_MEASURES},
    )


def other_tokens(tokens: int, keys: Sequence[int], draws: int, seed: int) -> list[tuple[int, ...]]:
    """Sets of prompt tokens that are not key, as many in each as are key; fewer where fewer are left.

    Args:
        tokens: of the prompt.
        keys: which of them are key.
        draws: how many sets; none where all tokens are key.
        seed: of the draws.
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
    """The measures of contributions for one prompt; those of other tokens are means over the sets, NaN without any."""
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
    """The measures of heads for one prompt.

    Args:
        before: what heads moved and attended to, under the model before.
        after: the same after.
        offset: position of the prompt's first token.
        keys: the KeyTokens, counted within the prompt.
        others: sets of other tokens.
    """
    found = {}
    for name, b, a in zip(("moves", "attends"), before, after, strict=True):
        shift = (a - b)[..., offset:]
        drawn = [shift[..., list(o)].sum(-1) for o in others]
        found[f"{name}_before"] = b[..., [offset + k for k in keys]].sum(-1)
        found[f"{name}_shift"] = shift[..., list(keys)].sum(-1)
        nothing = torch.full(shift.shape[:-1], float("nan"), dtype=shift.dtype)
        found[f"{name}_shift_random"] = torch.stack(drawn).mean(0) if drawn else nothing
    return found


def _reads(model: Any, qa: QA, chat: bool, prefill: str) -> Reads:
    (sources,), run = decompositions(model, qa.prompt, qa.answer, ("source",), chat=chat, prefill=prefill)
    patterns = [run.at(layer, "attn.hook_pattern").mean(1) for layer in range(model.cfg.n_layers)]
    return sources.values.mean(-1), torch.stack(patterns).cpu()


def _mediation(path: KeyPath, pattern: KeyPath) -> dict[str, float]:
    """What comes back through each set of positions, nats: attention and values, or attention alone."""
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
