"""Infer which texts a model was trained on, and compute MUSE's privacy leakage from that.

Every attack gives a score that is *larger for texts that look trained on*. Its AUC is the probability that a member
scores higher than a held-out text. MUSE reports the AUC of a loss, which is 1 minus that: `muse_auc`.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Bool, Float
from scipy.stats import rankdata
from torch import Tensor

from unpact_lens.data.benchmark import Benchmark
from unpact_lens.display import joined
from unpact_lens.errors import InputError, nearest
from unpact_lens.evaluation.metrics import INFINITY, BenchmarkRun, metric
from unpact_lens.models import hooked
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.self_test import require
from unpact_lens.models.tokens import document_ids
from unpact_lens.results import Result

ATTACKS = ("loss", "zlib", "min_k", "min_k_plus_plus", "reference")

MUSE_K = 0.4
"""Share of tokens that MUSE's privacy leakage uses (Min-40%)."""

UNEMBED_POSITIONS = 256
"""Number of positions whose logits are in memory at once."""


def loss_score(log_probs: Float[Tensor, " token"]) -> float:
    """Compute the mean log-probability of a text's tokens, nats (Yeom et al. 2018, arXiv 1709.01604)."""
    return float(log_probs.double().mean())


def zlib_score(log_probs: Float[Tensor, " token"], text: str) -> float:
    """Divide the loss score by the length of the compressed text in bytes (Carlini et al. 2021, arXiv 2012.07805)."""
    return loss_score(log_probs) / len(zlib.compress(text.encode("utf-8")))


def min_k_score(log_probs: Float[Tensor, " token"], k: float = 0.2) -> float:
    """Compute the mean log-probability of the least likely tokens, nats.

    Args:
        log_probs: log p of each token, nats.
        k: Share of the tokens that counts, above 0 and at most 1; at least one token counts.

    Raises:
        InputError: If k is not in (0, 1].

    Source: Shi et al. 2023, arXiv 2310.16789.
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
    """Compute the min-k score of log-probabilities that are standardised over the vocabulary.

    Args:
        log_probs: log p of each token, nats.
        mean: Σ_v p_v log p_v at each position.
        variance: Σ_v p_v (log p_v)² − mean² at each position, clamped to at least 1e-6.
        k: Share of the tokens that counts.

    Source: Zhang et al. 2024, arXiv 2404.02936.
    """
    return min_k_score((log_probs - mean) / variance.clamp(min=1e-6).sqrt(), k)


def vocabulary_moments(
    logits: Float[Tensor, "pos d_vocab"],
) -> tuple[Float[Tensor, " pos"], Float[Tensor, " pos"]]:
    """Compute mean and variance of log p_v under p at each position: minus the entropy, and the varentropy."""
    log_p = logits.double().log_softmax(-1)
    p = log_p.exp()
    mean = (p * log_p).sum(-1)
    return mean, (p * (log_p - mean[:, None]) ** 2).sum(-1)


def auc(members: Float[Tensor, " m"], nonmembers: Float[Tensor, " n"]) -> float:
    """Compute the area under the ROC curve: P(member > non-member) + ½ P(equal).

    Args:
        members: Scores of texts that were trained on.
        nonmembers: Scores of texts that were not.

    Raises:
        InputError: If one is empty or contains NaN.
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
    """Compute 1 minus the AUC, MUSE's orientation: near 0 for a model that memorised the members."""
    return 1 - auc(members, nonmembers)


def privleak(unlearned: float, retrained: float) -> float:
    """Compute MUSE's privacy leakage, per cent: `(A_unlearn − A_retrain) / A_retrain · 100`, A in MUSE's orientation.

    0 is best. Near −100, the forget set still looks trained on (under-unlearned). Far above 0, it looks less likely
    than unseen texts (over-unlearned), which also reveals it.

    Args:
        unlearned: `muse_auc` of the unlearned model, forget set against held-out texts.
        retrained: `muse_auc` of the retrained model.

    Raises:
        InputError: If one is not in [0, 1], or the retrained model's is 0.

    Source: Shi et al. 2024, arXiv 2407.06460, Sec. 3.1.

    >>> privleak(0.0, 0.48), round(privleak(1.0, 0.48))
    (-100.0, 108)
    """
    if not (0 <= unlearned <= 1 and 0 < retrained <= 1):
        raise InputError(
            f"privleak of AUCs {unlearned} and {retrained}; both must be in [0, 1], the retrained model's above 0"
        )
    return (unlearned - retrained) / retrained * 100


@dataclass(frozen=True, eq=False)
class Membership(Result):
    """Hold the score of each attack for each text.

    Attributes:
        attacks: Names of the rows of `scores`.
        scores: Larger for texts that look trained on.
        member: True for texts that were trained on.
        k: Share of tokens that counts in the two min-k attacks.
        tokens: Number of tokens of each text that were read.
    """

    attacks: tuple[str, ...]
    scores: Float[Tensor, "attack text"]
    member: Bool[Tensor, " text"]
    k: float
    tokens: tuple[int, ...]

    def _brief(self) -> str:
        return joined([f"{len(self.member)} texts", f"{int(self.member.sum())} members", ", ".join(self.attacks)])

    def auc(self, attack: str) -> float:
        """Compute the AUC of an attack: 0.5 by chance, 1 if it identifies all members.

        Raises:
            InputError: If the attack was not run.
        """
        scores = self._row(attack)
        return auc(scores[self.member], scores[~self.member])

    def muse_auc(self, attack: str = "min_k") -> float:
        """Compute 1 minus the AUC of an attack, MUSE's orientation."""
        return 1 - self.auc(attack)

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row for each attack: its AUC, also in MUSE's orientation."""
        return pd.DataFrame(
            [{"attack": a, "auc": self.auc(a), "muse_auc": self.muse_auc(a)} for a in self.attacks]
        ).assign(members=int(self.member.sum()), nonmembers=int((~self.member).sum()))

    def _row(self, attack: str) -> Tensor:
        if attack not in self.attacks:
            raise InputError(f"attack {attack!r} was not run; {nearest(attack, self.attacks)}")
        return self.scores[self.attacks.index(attack)]


def membership(
    model: HookedModel,
    members: Sequence[str],
    nonmembers: Sequence[str],
    *,
    k: float = MUSE_K,
    reference: HookedModel | None = None,
) -> Membership:
    """Run the attacks: loss, zlib, min-k%, min-k%++, and the difference of losses if `reference` is given.

    A text longer than the model's context is truncated to it.

    Args:
        model: Hooked model with a tokenizer.
        members: Texts that were trained on; after unlearning they should look as if they were not.
        nonmembers: Texts of the same kind that were not trained on.
        k: Share of tokens that counts in the two min-k attacks.
        reference: Model whose loss measures how hard each text is.

    Raises:
        InputError: If there are no members or no other texts, or a text has no token to predict.
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


def privacy_leakage(
    model: HookedModel | Membership,
    bench: Benchmark,
    retrained: HookedModel | Membership | float,
    *,
    attack: str = "min_k",
    k: float = MUSE_K,
) -> float:
    """Compute MUSE's privleak of a model on a benchmark with `members` and `holdout`, per cent; 0 is best.

    Args:
        model: Unlearned model, or its `Membership`.
        bench: MUSE, or another benchmark with both corpora.
        retrained: Retrained model, its `Membership`, or its AUC in MUSE's orientation.
        attack: One of `ATTACKS`.
        k: Share of tokens that counts in the two min-k attacks.

    Raises:
        InputError: If the benchmark lacks a corpus.
    """
    texts = require_texts(bench, "privleak")

    def area(of: HookedModel | Membership | float) -> float:
        if isinstance(of, (float, int)):
            return float(of)
        return (of if isinstance(of, Membership) else membership(of, *texts, k=k)).muse_auc(attack)

    return privleak(area(model), area(retrained))


def require_texts(bench: Benchmark, user: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the member and holdout texts of a benchmark.

    Raises:
        InputError: If it lacks one of them.
    """
    if bench.members is None or bench.holdout is None:
        raise InputError(f"benchmark {bench.name!r} has no `members` and `holdout` texts; {user} needs both")
    return tuple(bench.members.texts), tuple(bench.holdout.texts)


def attacks(run: BenchmarkRun) -> Membership:
    """Run the attacks on the members and holdout texts of a benchmark; the metrics share the result."""
    return membership(run.model, *require_texts(run.bench, "an attack"), reference=run.reference)


@metric("privleak", source="MUSE, arXiv 2407.06460", better="lower", bounds=(-100.0, INFINITY), of="benchmark")
def privleak_of_benchmark(run: BenchmarkRun) -> float:
    """Compute the relative difference of the min-40% AUC to the retrained model's, per cent; 0 if equal."""
    return privacy_leakage(run.once(attacks), run.bench, run.retrained("privleak"))


def _token_statistics(
    model: HookedModel, text: str
) -> tuple[Float[Tensor, " token"], Float[Tensor, " token"], Float[Tensor, " token"]]:
    """Compute log p of each token after the first, and mean and variance of log p over the vocabulary."""
    bos, own = document_ids(model, text, "text")
    ids = torch.tensor([(*bos, *own)[: model.cfg.n_ctx]], dtype=torch.long)
    if ids.shape[1] < 2:
        raise InputError(f"text {text!r:.60} has no token to predict; leave it out")
    require(model, "lens", feature="membership inference by min-k++")
    ids = ids.to(hooked.device_of(model))
    with torch.inference_mode():
        resid = hooked.final_residual(model, ids)[0, :-1]  # [pos, d_model]
        parts = []
        for start in range(0, len(resid), UNEMBED_POSITIONS):
            logits = hooked.unembed(model, resid[start : start + UNEMBED_POSITIONS]).double()
            labels = ids[0, 1 + start : 1 + start + len(logits)]  # [pos]
            log_probs = logits.log_softmax(-1).gather(-1, labels[:, None])[:, 0]
            parts.append(torch.stack([log_probs, *vocabulary_moments(logits)]))  # [3, pos]
    log_probs, mean, variance = torch.cat(parts, dim=1).cpu()
    return log_probs, mean, variance
