"""The registered metrics that need a whole benchmark: TOFU's, MUSE's, WMDP's, membership inference.

They ask the model more than the plain questions, so `evaluate` takes them only where they are named.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from unpact_lens.data.benchmark import Benchmark
from unpact_lens.errors import InputError
from unpact_lens.evaluation.answer_metrics import INFINITY, METRICS, UNIT, Metric
from unpact_lens.evaluation.membership_inference import ATTACKS, MUSE_K, Membership, membership, privacy_leakage
from unpact_lens.evaluation.memorisation import Memorisation, knowmem, verbmem
from unpact_lens.evaluation.multiple_choice import Choices, choose
from unpact_lens.evaluation.tofu import TofuScores, tofu_scores, truth_ratio_forget
from unpact_lens.models.tokens import DEFAULT_BATCH_TOKENS


@dataclass(frozen=True)
class Whole:
    """A model and a benchmark, and what several metrics need of them, computed once when first asked for.

    Attributes:
        model: the model to score.
        bench: the benchmark.
        reference: the retrain model, or None.
        batch_tokens: bound on the tokens of one batch.
    """

    model: Any
    bench: Benchmark
    reference: Any = None
    batch_tokens: int = DEFAULT_BATCH_TOKENS

    @cached_property
    def tofu(self) -> TofuScores:
        """TOFU's evaluation."""
        return tofu_scores(self.model, self.bench, reference=self.reference, batch_tokens=self.batch_tokens)

    @cached_property
    def verbmem(self) -> Memorisation:
        """MUSE's verbatim memorisation."""
        return verbmem(self.model, self.bench, batch_tokens=self.batch_tokens)

    @cached_property
    def knowmem(self) -> Memorisation:
        """MUSE's knowledge memorisation."""
        return knowmem(self.model, self.bench, batch_tokens=self.batch_tokens)

    @cached_property
    def choices(self) -> Choices:
        """Answers to the multiple-choice questions."""
        items = [q for q in self.bench.all_items() if q.choices]
        if not items:
            raise InputError(f"benchmark {self.bench.name!r} has no question with `choices`; accuracy needs them")
        return choose(self.model, items, chat=self.bench.chat, batch_tokens=self.batch_tokens)

    @cached_property
    def membership(self) -> Membership:
        """Membership inference."""
        members, holdout = self.bench.members, self.bench.holdout
        if members is None or holdout is None:
            raise InputError(
                f"benchmark {self.bench.name!r} has no `members` and `holdout` texts; an attack needs both"
            )
        return membership(self.model, members.texts, holdout.texts, k=MUSE_K, reference=self.reference)

    def retrained(self, metric: str) -> Any:
        """The retrain model.

        Raises:
            InputError: if there is none.
        """
        if self.reference is None:
            raise InputError(f"metric {metric!r} compares with a retrain model; give the model as reference=…")
        return self.reference


def forget_truth_ratio(whole: Whole) -> float:
    """TOFU's truth ratio on the forget set: mean of min(r, 1/r); NaN where it has no wrong answers.

    Range: 0 to 1; lower is better. Source: TOFU, arXiv 2401.06121.
    """
    chosen = torch.tensor([s == "forget" for s in whole.tofu.sets])
    return truth_ratio_forget(whole.tofu.log_ratio[chosen]) if bool(chosen.any()) else float("nan")


def forget_quality(whole: Whole) -> float:
    """log10 of TOFU's forget quality.

    Range: minus infinity to 0; lower is better. Source: TOFU, arXiv 2401.06121.
    """
    whole.retrained("forget_quality_log10")
    return whole.tofu.forget_quality.log10_p


def utility(whole: Whole) -> float:
    """TOFU's model utility; NaN where one of its sets is missing.

    Range: 0 to 1; higher is better. Source: TOFU, arXiv 2401.06121.
    """
    return whole.tofu.model_utility


def verbatim(whole: Whole) -> float:
    """MUSE's verbmem.

    Range: 0 to 100; higher is better. Source: MUSE, arXiv 2407.06460.
    """
    return whole.verbmem.value()


def knowledge_forget(whole: Whole) -> float:
    """MUSE's knowmem on the forget set.

    Range: 0 to 100; higher is better. Source: MUSE, arXiv 2407.06460.
    """
    return whole.knowmem.value("forget")


def knowledge_retain(whole: Whole) -> float:
    """MUSE's knowmem on the retain set, near and far together.

    Range: 0 to 100; higher is better. Source: MUSE, arXiv 2407.06460.
    """
    kept = [float(s) for s, g in zip(whole.knowmem.scores, whole.knowmem.groups, strict=True) if g != "forget"]
    return 100 * sum(kept) / len(kept) if kept else float("nan")


def leakage(whole: Whole) -> float:
    """MUSE's privleak.

    Range: -100 to infinity; lower is better. Source: MUSE, arXiv 2407.06460.
    """
    return privacy_leakage(whole.membership, whole.bench, whole.retrained("privleak"))


def accuracy(whole: Whole) -> float:
    """Share of multiple-choice questions answered right.

    Range: 0 to 1; higher is better. Source: WMDP, arXiv 2403.03218.
    """
    return whole.choices.accuracy.value


def _attack(name: str) -> Any:
    def area(whole: Whole) -> float:
        if name == "reference":
            whole.retrained("mia_reference")
        return whole.membership.auc(name)

    area.__doc__ = (
        f"AUC of the {name} attack on members against holdout texts.\n\n"
        f"Range: 0 to 1; higher is better. Source: {_SOURCES[name]}."
    )
    return area


_TOFU, _MUSE = "TOFU, arXiv 2401.06121", "MUSE, arXiv 2407.06460"
_SOURCES = {
    "loss": "arXiv 1709.01604",
    "zlib": "arXiv 2012.07805",
    "min_k": "arXiv 2310.16789, k = 0.4",
    "min_k_plus_plus": "arXiv 2404.02936, k = 0.4",
    "reference": "arXiv 2111.08440",
}

for _metric in (
    Metric("truth_ratio_forget", "mean of min(r, 1/r) on the forget set; 1 where the model cannot tell", _TOFU, UNIT,
           "lower", forget_truth_ratio, of="benchmark", default=False),
    Metric("forget_quality_log10", "log10 p of the KS test of r against the retrain model's; 0 where alike", _TOFU,
           (-INFINITY, 0.0), "lower", forget_quality, of="benchmark", default=False),
    Metric("model_utility", "harmonic mean of nine scores on what is kept", _TOFU, UNIT, "higher", utility,
           of="benchmark", default=False),
    Metric("verbmem", "ROUGE-L F1 of the recited continuation of passages, times 100", _MUSE, (0.0, 100.0), "higher",
           verbatim, of="benchmark", default=False),
    Metric("knowmem_forget", "ROUGE-L F1 of answers about the forget set, times 100", _MUSE, (0.0, 100.0), "higher",
           knowledge_forget, of="benchmark", default=False),
    Metric("knowmem_retain", "ROUGE-L F1 of answers about the retain set, times 100", _MUSE, (0.0, 100.0), "higher",
           knowledge_retain, of="benchmark", default=False),
    Metric("privleak", "relative difference of the min-40% AUC to the retrain model's, per cent; 0 where alike", _MUSE,
           (-100.0, INFINITY), "lower", leakage, of="benchmark", default=False),
    Metric("accuracy", "multiple-choice accuracy by the likelihood of the options", "WMDP, arXiv 2403.03218", UNIT,
           "higher", accuracy, of="benchmark", default=False),
    *(Metric(f"mia_{name}", f"AUC of the {name} attack; 0.5 by chance", _SOURCES[name], UNIT, "higher", _attack(name),
             of="benchmark", default=False) for name in ATTACKS),
):  # fmt: skip
    METRICS.add(_metric.name, _metric)
