r"""Selective unlearning: only what the answer owes to the KeyTokens is taken away.

Three ways, from each forget example's contribution matrix C (prompt token i, answer token k) before unlearning.

*Select*: penalise only the answer tokens that depend on the KeyTokens, with weight
$w_k \propto \max(0, \sum_{i \in \mathrm{Key}} C_{ik})$; or a given share of each answer's tokens alike, those first
that depend most. What the KeyTokens do not decide (an answer's opening, its grammar) is kept.

*Recall*: the same, where an answer is a sentence. A sentence repeats the question's words, which owe most to the
KeyTokens, and what follows reads them there: its fact hardly depends on the prompt. So the key words are hidden in the
prompt and wherever the answer repeats them, and of the other tokens those are penalised that get less likely by it;
what the answer copies from the prompt never is.

*Blind*: nothing is penalised; the model learns to answer the whole prompt as the model before answers the prompt
without its KeyTokens. The loss is bounded, and its aim is what one says who does not know whom the question is about.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unpact_lens.attribution import Attribution, TopK, attribute_many
from unpact_lens.attribution.units import character_spans
from unpact_lens.data.benchmark import QA, Corpus
from unpact_lens.errors import InputError, nearest
from unpact_lens.models.tokens import Encoded
from unpact_lens.scoring import score_rows
from unpact_lens.unlearning import losses
from unpact_lens.unlearning.batch import Examples, View
from unpact_lens.unlearning.prepare import Job
from unpact_lens.words import WORD

PICKS = ("key", "chance")
"""Which tokens a share takes first: those that owe most to the KeyTokens, or any (the control)."""


def token_weights(
    per_answer_token: Float[Tensor, "prompt answer"], key: Float[Tensor, ...] | list[int]
) -> Float[Tensor, " answer"]:
    r"""$w_k = \max(0, \sum_{i \in \mathrm{Key}} C_{ik})$, scaled to a maximum of 1; all 0 where nothing depends on Key.

    A mean of 1 would multiply the gradient of the few tokens that carry a fact, and so weigh a retain term less.

    Args:
        per_answer_token: contributions C, nats.
        key: rows of C that are KeyTokens.
    """
    return _largest_1(per_answer_token[list(key)].sum(0).clamp(min=0))


def _largest_1(raw: Float[Tensor, " answer"]) -> Float[Tensor, " answer"]:
    """The same numbers, of which the largest is 1; all 0 stay 0."""
    largest = raw.max()
    return raw / largest if largest > 0 else raw


def chosen_tokens(order: Float[Tensor, " answer"], share: float) -> Float[Tensor, " answer"]:
    """1 for that share of an answer's tokens, rounded up, those that stand highest in the order; 0 for the rest.

    Args:
        order: one number a token; of equals the earlier token comes first.
        share: above 0, at most 1.
    """
    top = order.argsort(descending=True, stable=True)[: math.ceil(share * len(order))]
    return torch.zeros(len(order)).index_fill(0, top, 1.0)


def weigh_tokens(job: Job) -> None:
    """Give every answer token of the forget set its weight, and every sequence one if `weigh_sequences`.

    Raises:
        InputError: if `share` or `pick` is none that is known, or the forget set is raw text.
    """
    share, pick = job.options["share"], job.options["pick"]
    if share is not None and not 0 < share <= 1:
        raise InputError(f"share={share}; give a share of each answer's tokens above 0 and at most 1, or None")
    if pick not in PICKS:
        raise InputError(f"pick={pick!r}; {nearest(str(pick), PICKS)}")
    if pick == "chance" and share is None:
        raise InputError("pick='chance' needs a share of each answer's tokens; give share=, above 0 and at most 1")
    found = _contributions(job)
    if share is None:
        weights = [token_weights(c, k) for c, k in found]
    elif pick == "key":
        weights = [chosen_tokens(c[k].sum(0), share) for c, k in found]
    else:
        drawn = torch.Generator().manual_seed(job.seed)
        weights = [chosen_tokens(torch.rand(c.shape[1], generator=drawn), share) for c, _ in found]
    if job.options["weigh_sequences"]:
        depends = torch.stack([c[k].sum(0).clamp(min=0).mean() for c, k in found])
        weights = [w * (d / depends.mean()) for w, d in zip(weights, depends, strict=True)]
    job.data.weights = [w.float() for w in weights]


def copied(spans: Sequence[tuple[int, int]], answer: str, words: Iterable[str]) -> Bool[Tensor, " answer"]:
    """Which tokens of an answer lie in one of these words, upper and lower case alike.

    Args:
        spans: where each token stands in the answer, in characters.
        answer: its text.
        words: e.g. those of the prompt.
    """
    wanted = {w.casefold() for w in words}
    at = [m.span() for m in WORD.finditer(answer) if m.group().casefold() in wanted]
    return torch.tensor([any(low < e and high > s for s, e in at) for low, high in spans], dtype=torch.bool)


def recalled_weights(
    read: Float[Tensor, " answer"],
    hidden: Float[Tensor, " seen"],
    seen: Bool[Tensor, " answer"],
    copies: Bool[Tensor, " answer"],
) -> Float[Tensor, " answer"]:
    r"""$w_k = \max(0, \log p(y_k | x, y_{<k}) - \log p(y_k | x', y'_{<k}))$, scaled to a maximum of 1; 0 for copies.

    $x'$ and $y'$ are prompt and answer without the key words. All 0 where nothing gets less likely without them.

    Args:
        read: log-probabilities of the answer's tokens, nats.
        hidden: of those that are still there when the key words are hidden.
        seen: which these are.
        copies: which tokens the answer copies from the prompt.
    """
    raw = torch.zeros_like(read)
    raw[seen] = (read[seen] - hidden).clamp(min=0)
    raw[copies] = 0
    return _largest_1(raw)


def weigh_recalled(job: Job) -> None:
    """Give every answer token of the forget set the weight of what the answer recalls, and does not copy.

    Raises:
        InputError: if the forget set is raw text.
    """
    items, found = _attributions(job)
    rule = TopK(job.options["key_tokens"], words=True)
    rows, seen, copies = [], [], []
    for row, item, a in zip(job.data.rows, items, found, strict=True):
        spans = character_spans(job.before, row.answer, item.answer)
        keys = a.key_tokens(rule)
        echo = copied(spans, item.answer, keys.words)
        answer = tuple(t for t, gone in zip(row.answer, echo.tolist(), strict=True) if not gone)
        rows.append(dataclasses.replace(_without(row, keys.indices), answer=answer))
        seen.append(~echo)
        copies.append(copied(spans, item.answer, WORD.findall(item.prompt)))
    parts = zip(job.data.log_probs, score_rows(job.before, rows), seen, copies, strict=True)
    job.data.weights = [recalled_weights(*part).float() for part in parts]


def hide_keys(job: Job) -> None:
    """Put each prompt without its KeyTokens beside it: what the model before answers there is the aim.

    A prompt that would be empty keeps the least of its KeyTokens.
    """
    pairs = zip(job.data.rows, _contributions(job), strict=True)
    rows = [_without(row, keys) for row, (_, keys) in pairs]
    job.data.blinded = Examples(rows, job.before, store=job.data.store)


def _without(row: Encoded, keys: Sequence[int]) -> Encoded:
    """The prompt without these tokens; where nothing would be left, the last of them stays."""
    spare = len(keys) == len(row.prompt) and not row.head and not row.tail
    return row.without(keys[:-1] if spare else keys)


def _contributions(job: Job) -> list[tuple[Float[Tensor, "prompt answer"], list[int]]]:
    """Contributions under the model before and the rows that are KeyTokens, for each row of the forget set."""
    rule = TopK(job.options["key_tokens"])
    return [(a.per_answer_token, list(a.key_tokens(rule).indices)) for a in _attributions(job)[1]]


def _attributions(job: Job) -> tuple[list[QA], list[Attribution]]:
    """The forget set in every phrasing that is unlearned, with its contributions under the model before."""
    if isinstance(job.forget, Corpus):
        raise InputError(
            "selective unlearning attributes answers to prompts, the forget set is raw text; give QA items"
        )
    every = job.settings.phrasings == "all"
    items = [
        dataclasses.replace(qa, prompt=prompt)
        for qa in job.forget
        for prompt in ((qa.prompt, *qa.paraphrases) if every else (qa.prompt,))
    ]
    found = attribute_many(job.before, items, chat=job.settings.chat, prefill=job.settings.prefill, progress=False)
    return items, found


def rest_of(weights: Float[Tensor, "batch pos"]) -> Float[Tensor, "batch pos"]:
    """1 for each token that does not depend on the KeyTokens, 0 for all others: a fact's later tokens are not kept."""
    return (weights <= 0).to(weights.dtype)


def selective_ascent(view: View, options: Mapping[str, Any]) -> Tensor:
    """Ascent on what depends on the KeyTokens, likelihood of the rest."""
    keep = options["keep_rest"]
    penalty = losses.weighted_ascent(view.log_probs, view.weights, view.mask)
    return penalty - keep * losses.weighted_ascent(view.log_probs, rest_of(view.weights), view.mask)


def selective_npo(view: View, options: Mapping[str, Any]) -> Tensor:
    """NPO on the weighted sequence sum, likelihood of the rest."""
    w = view.weights
    penalty = losses.npo(w * view.log_probs, w * view.ref_log_probs, view.mask, options["beta"])
    return penalty - options["keep_rest"] * losses.sequence_sums(rest_of(w) * view.log_probs, view.mask).mean()


def selective_simnpo(view: View, options: Mapping[str, Any]) -> Tensor:
    """SimNPO on the weighted mean, likelihood of the rest."""
    w, lengths = view.weights, view.mask.sum(-1)
    penalty = losses.simnpo(w * view.log_probs, view.mask, options["beta"], options["delta"])
    rest = losses.sequence_sums(rest_of(w) * view.log_probs, view.mask) / lengths
    return penalty - options["keep_rest"] * rest.mean()


def blind(view: View, options: Mapping[str, Any]) -> Tensor:
    """Towards what the model before answers to the prompt without its KeyTokens."""
    return losses.kl_to_reference(view.logits, view.blinded_logits, view.mask)
