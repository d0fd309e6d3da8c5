"""Whether a text was trained on: membership inference, and MUSE's privacy leakage made from it.

Every attack gives a score that is *larger for texts that look trained on*; its AUC is the chance that a member scores
higher than a held-out text. MUSE prints the AUC of the loss-like quantity, which is 1 minus that: `muse_auc`.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float
from scipy.stats import rankdata
from torch import Tensor

from unpact_lens.data.benchmark import Benchmark
from unpact_lens.errors import InputError, nearest
from unpact_lens.models import hooked
from unpact_lens.models.tokens import bos_ids, text_ids
from unpact_lens.results import Result

ATTACKS = ("loss", "zlib", "min_k", "min_k_plus_plus", "reference")

MUSE_K = 0.4
"""Share of tokens in MUSE's privacy leakage (Min-40%)."""

UNEMBED_POSITIONS = 256
"""Positions whose logits are held at once."""


def loss_score(log_probs: Float[Tensor, " token"]) -> float:
    """Mean log-probability of a text's tokens, nats: Yeom et al. 2018, arXiv 1709.01604."""
    return float(log_probs.double().mean())


def zlib_score(log_probs: Float[Tensor, " token"], text: str) -> float:
    """The loss score over the length of the compressed text, bytes: Carlini et al. 2021, arXiv 2012.07805."""
    return loss_score(log_probs) / len(zlib.compress(text.encode("utf-8")))


def min_k_score(log_probs: Float[Tensor, " token"], k: float = 0.2) -> float:
    """Mean log-probability of the least likely share k of the tokens (one at least): Shi et al. 2023, arXiv 2310.16789.

    Raises:
        InputError: if k is not in (0, 1].
    """
    if not 0 < k <= 1:
        raise InputError(f"k={k}; give the share of tokens, above 0 and at most 1")
    lowest = max(1, int(len(log_probs) * k))
    return float(log_probs.double().sort().values[:lowest].mean())


def min_k_plus_plus_score(
    log_probs: Float[Tensor, " token"],
    mean: Float[Tensor, " token"],
    variance: Float[Tensor, " token"],
    k: float = 0.2,
) -> float:
    """Min-k of each token's log-probability standardised over the vocabulary: Zhang et al. 2024, arXiv 2404.02936.

    Args:
        log_probs: log p of each token, nats.
        mean: Σ_v p_v log p_v at each position.
        variance: Σ_v p_v (log p_v)² − mean², at least 1e-6 is used.
        k: share of tokens.
    """
    return min_k_score((log_probs - mean) / variance.clamp(min=1e-6).sqrt(), k)


def vocabulary_moments(
    logits: Float[Tensor, "pos d_vocab"],
) -> tuple[Float[Tensor, " pos"], Float[Tensor, " pos"]]:
    """Mean and variance of log p_v under p itself, at each position: minus the entropy, and the varentropy."""
    log_p = logits.double().log_softmax(-1)
    p = log_p.exp()
    mean = (p * log_p).sum(-1)
    return mean, (p * (log_p - mean[:, None]) ** 2).sum(-1)


def auc(members: Float[Tensor, " m"], nonmembers: Float[Tensor, " n"]) -> float:
    """Area under the ROC curve: P(member > non-member) + ½ P(equal).

    Args:
        members: scores of texts that were trained on.
        nonmembers: scores of texts that were not.

    Raises:
        InputError: if one is empty or holds NaN.
    """
    for name, scores in (("member", members), ("non-member", nonmembers)):
        if not len(scores) or bool(torch.isnan(scores).any()):
            raise InputError(
                f"AUC of {len(scores)} {name} scores{', some NaN' if len(scores) else ''}; give at least one"
            )
    ranks = rankdata(torch.cat([members, nonmembers]).double().numpy())
    m, n = len(members), len(nonmembers)
    return float((ranks[:m].sum() - m * (m + 1) / 2) / (m * n))


def muse_auc(members: Float[Tensor, " m"], nonmembers: Float[Tensor, " n"]) -> float:
    """MUSE's orientation of the AUC: 1 minus the usual one. Near 0 for a model that memorised the members."""
    return 1 - auc(members, nonmembers)


def privleak(unlearned: float, retrained: float) -> float:
    """MUSE's privacy leakage, per cent: `(A_unlearn − A_retrain) / A_retrain · 100`, each A in MUSE's orientation.

    0 is best. Near −100 the forget set still looks trained on (under-unlearned); far above 0 it looks less likely than
    texts never seen (over-unlearned), which gives it away as well.

    Args:
        unlearned: `muse_auc` of the unlearned model, forget set against held-out texts.
        retrained: the same of the retrain model.

    Raises:
        InputError: if one is not in [0, 1], or the retrain model's is 0.

    Source: Shi et al. 2024, arXiv 2407.06460, Sec. 3.1.

    >>> privleak(0.0, 0.48), round(privleak(1.0, 0.48))
    (-100.0, 108)
    """
    if not (0 <= unlearned <= 1 and 0 < retrained <= 1):
        raise InputError(
            f"privleak of AUCs {unlearned} and {retrained}; both lie in [0, 1], the retrain model's above 0"
        )
    return (unlearned - retrained) / retrained * 100


@dataclass(frozen=True, eq=False)
class Membership(Result):
    """What each attack says of each text.

    Attributes:
        attacks: names of the rows of `scores`.
        scores: larger where a text looks trained on.
        member: whether each text was trained on.
        k: share of tokens of the two min-k attacks.
        tokens: how many tokens of each text were read.
    """

    attacks: tuple[str, ...]
    scores: Float[Tensor, "attack text"]
    member: Bool[Tensor, " text"]
    k: float
    tokens: tuple[int, ...]

    def auc(self, attack: str) -> float:
        """AUC of an attack: ½ by chance, 1 where it tells all members.

        Raises:
            InputError: if it was not run.
        """
        scores = self._row(attack)
        return auc(scores[self.member], scores[~self.member])

    def muse_auc(self, attack: str = "min_k") -> float:
        """The same in MUSE's orientation, 1 minus it."""
        return 1 - self.auc(attack)

    def to_frame(self) -> pd.DataFrame:
        """One row an attack: its AUC, and the same in MUSE's orientation."""
        return pd.DataFrame(
            [{"attack": a, "auc": self.auc(a), "muse_auc": self.muse_auc(a)} for a in self.attacks]
        ).assign(members=int(self.member.sum()), nonmembers=int((~self.member).sum()))

    def _row(self, attack: str) -> Tensor:
        if attack not in self.attacks:
            raise InputError(f"attack {attack!r} was not run; {nearest(attack, self.attacks)}")
        return self.scores[self.attacks.index(attack)]


def membership(
    model: Any,
    members: Sequence[str],
    nonmembers: Sequence[str],
    *,
    k: float = MUSE_K,
    reference: Any = None,
) -> Membership:
    """Run the attacks: loss, zlib, min-k%, min-k%++, and with a reference model the difference of losses.

    Args:
        model: a hooked model with a tokenizer.
        members: texts that were trained on (after unlearning: that should look as if not).
        nonmembers: texts of the same kind that were not.
        k: share of tokens of the two min-k attacks.
        reference: a model whose loss says how hard each text is by itself.

    Raises:
        InputError: if there are no texts of one sort, or a text has no token to predict.

    A text longer than the model's context is read up to it.
    """
    if not members or not nonmembers:
        raise InputError(f"membership inference on {len(members)} members and {len(nonmembers)} others; give both")
    attacks = ATTACKS if reference is not None else ATTACKS[:-1]
    columns, tokens = [], []
    for text in (*members, *nonmembers):
        log_probs, mean, variance = _token_statistics(model, text)
        values = [
            loss_score(log_probs),
            zlib_score(log_probs, text),
            min_k_score(log_probs, k),
            min_k_plus_plus_score(log_probs, mean, variance, k),
        ]
        if reference is not None:
            values.append(loss_score(log_probs) - loss_score(_token_statistics(reference, text)[0]))
        columns.append(torch.tensor(values, dtype=torch.double))
        tokens.append(len(log_probs))
    member = torch.tensor([True] * len(members) + [False] * len(nonmembers))
    return Membership(attacks, torch.stack(columns, dim=1), member, k, tuple(tokens))


def privacy_leakage(model: Any, bench: Benchmark, retrained: Any, *, attack: str = "min_k", k: float = MUSE_K) -> float:
    """MUSE's privleak of a model on a benchmark with `members` and `holdout`, per cent; 0 is best.

    Args:
        model: the unlearned model, or its `Membership`.
        bench: MUSE, or another benchmark with both corpora.
        retrained: the retrain model, its `Membership`, or its AUC in MUSE's orientation.
        attack: one of `ATTACKS`.
        k: share of tokens of the two min-k attacks.

    Raises:
        InputError: if the benchmark lacks a corpus.
    """
    if bench.members is None or bench.holdout is None:
        raise InputError(f"benchmark {bench.name!r} has no `members` and `holdout` texts; privleak needs both")
    texts = bench.members.texts, bench.holdout.texts

    def area(of: Any) -> float:
        if isinstance(of, (float, int)):
            return float(of)
        return (of if isinstance(of, Membership) else membership(of, *texts, k=k)).muse_auc(attack)

    return privleak(area(model), area(retrained))


def _token_statistics(model: Any, text: str) -> tuple[Tensor, Tensor, Tensor]:
    """For each token but the first (BOS, or the text's own) log p, and mean and variance over the vocabulary."""
    ids = torch.tensor([[*bos_ids(model), *text_ids(model, text, "text")][: model.cfg.n_ctx]], dtype=torch.long)
    if ids.shape[1] < 2:
        raise InputError(f"text {text!r:.60} has no token to predict; leave it out")
    ids = ids.to(hooked.device_of(model))
    with torch.inference_mode():
        resid = hooked.final_residual(model, ids)[0, :-1]
        parts = []
        for start in range(0, len(resid), UNEMBED_POSITIONS):
            logits = hooked.unembed(model, resid[start : start + UNEMBED_POSITIONS]).double()
            labels = ids[0, 1 + start : 1 + start + len(logits)]
            log_probs = logits.log_softmax(-1).gather(-1, labels[:, None])[:, 0]
            parts.append(torch.stack([log_probs, *vocabulary_moments(logits)]))
    log_probs, mean, variance = torch.cat(parts, dim=1).cpu()
    return log_probs, mean, variance
