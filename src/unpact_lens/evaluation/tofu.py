"""Compute TOFU's metrics: truth ratio, forget quality and model utility.

All of them are computed from log r, so the truth ratio is defined even if every answer is extremely unlikely.

The truth ratio r has three public definitions (`TRUTH_RATIOS`), and published figures differ in which one they use:

- `"geometric"`: the geometric mean of the wrong answers' per-token probabilities over the true answer's. This is
  `aggregate_eval_stat.py`, the script that TOFU's README names for forget quality and model utility. The default.
- `"arithmetic"`: their arithmetic mean, as in Eq. 1 of the paper, and in `utils.get_model_utility` of the same
  repository. Its `utils.get_forget_quality` is geometric.
- `"open-unlearning"`: the geometric mean over the true answer's probability plus 1e-10. A model under which all answers
  have nearly no probability then has r = 0 on every question.

Source: Maini et al. 2024, arXiv 2401.06121, Sec. 2.2; github.com/locuslab/tofu at 8c49eee;
github.com/locuslab/open-unlearning, `evals/metrics/memorization.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float
from scipy.stats import hmean
from torch import Tensor

from unpact_lens.data.benchmark import QA, Benchmark
from unpact_lens.display import joined
from unpact_lens.errors import InputError, nearest
from unpact_lens.evaluation.answers import ask, prefill_for, with_room
from unpact_lens.evaluation.metrics import INFINITY, BenchmarkRun, metric
from unpact_lens.evaluation.rouge import rouge
from unpact_lens.models.hooked import HookedModel
from unpact_lens.models.tokens import encode
from unpact_lens.results import Result
from unpact_lens.scoring import score_rows
from unpact_lens.stats.ks import KSTest, ks_test

UTILITY_SETS = ("retain", "real_authors", "world_facts")
"""Sets that model utility is computed from."""

TRUTH_RATIOS = ("geometric", "arithmetic", "open-unlearning")
"""Names of the public definitions of the truth ratio; see the top of this file."""

EPSILON = 1e-10
"""Number that open-unlearning adds to denominators."""

_SOURCE = "TOFU, arXiv 2401.06121"


def log_truth_ratio(
    true: Float[Tensor, " item"], wrong: Float[Tensor, "item wrong"], how: str = "geometric"
) -> Float[Tensor, " item"]:
    r"""Compute $\log r = \frac1J\sum_j \mathrm{LP}(x, \tilde y_j) - \mathrm{LP}(x, \hat y)$, or another form of it.

    r is a mean of the wrong answers' per-token probability, divided by that of the true answer. A model that knows has
    r far below 1. A model that does not know has r near 1.

    Args:
        true: LP of the paraphrased answer (of the answer itself if the set has no paraphrase), nats.
        wrong: LP of each wrong answer, nats.
        how: One of `TRUTH_RATIOS`. `"geometric"` is the formula above. `"arithmetic"` is
            $\log \frac1J\sum_j e^{\mathrm{LP}(x, \tilde y_j)} - \mathrm{LP}(x, \hat y)$. `"open-unlearning"` puts
            $\log(e^{\mathrm{LP}(x, \hat y)} + 10^{-10})$ in place of $\mathrm{LP}(x, \hat y)$.

    Raises:
        InputError: If `how` is unknown.

    >>> log_truth_ratio(torch.tensor([-1.0]), torch.tensor([[-1.0, -3.0]])).item()
    -1.0
    """
    check_truth_ratio(how)
    if how == "arithmetic":
        return wrong.double().logsumexp(-1) - math.log(wrong.shape[-1]) - true
    if how == "open-unlearning":
        return wrong.mean(-1) - torch.logaddexp(true.double(), torch.tensor(EPSILON, dtype=torch.double).log())
    return wrong.mean(-1) - true


def check_truth_ratio(how: str) -> None:
    """Check the name of a definition of the truth ratio.

    Raises:
        InputError: If it is unknown. The message offers the nearest.
    """
    if how not in TRUTH_RATIOS:
        raise InputError(f"unknown truth ratio {how!r}; {nearest(str(how), TRUTH_RATIOS)}")


def truth_ratio_forget(log_ratio: Float[Tensor, " item"], how: str = "geometric") -> float:
    """Compute the mean of `min(r, 1/r)`: 1 if right and wrong answers are equally likely, else towards 0.

    Args:
        log_ratio: log r of each question.
        how: Definition that r comes from. `"open-unlearning"` takes `1/(r + 1e-10)` for `1/r`.
    """
    check_truth_ratio(how)
    ratio = log_ratio.double()
    if how == "open-unlearning":
        return float(torch.minimum(ratio.exp(), 1 / (ratio.exp() + EPSILON)).mean())
    return float((-ratio.abs()).exp().mean())


def truth_ratio_keep(log_ratio: Float[Tensor, " item"]) -> float:
    """Compute the mean of `max(0, 1 − r)`: 1 if the true answer is always far more likely, 0 if it never is."""
    return float((-log_ratio.double().expm1()).clamp(min=0).mean())


def forget_quality(unlearned: Float[Tensor, " item"], retrained: Float[Tensor, " other"]) -> KSTest:
    """Test whether the truth ratios on the forget set differ from those of the retrained model.

    A p-value near 1 means that no difference was found (good). With 400 questions, `log10_p` can be as low as −239.

    Args:
        unlearned: log r of the unlearned model. (r gives the same result: the test is invariant to monotone maps.)
        retrained: log r of the retrained model.
    """
    return ks_test(unlearned, retrained)


def option_probability(true: Float[Tensor, " item"], wrong: Float[Tensor, "item wrong"]) -> Float[Tensor, " item"]:
    """Compute exp(LP) of the true answer over the sum for all options, TOFU's score on real authors and world facts."""
    return torch.cat([true[:, None], wrong], dim=-1).double().softmax(-1)[:, 0]


def model_utility(components: Mapping[str, float] | Sequence[float]) -> float:
    """Compute the harmonic mean of the nine components; 0 if one of them is 0.

    Args:
        components: Probability, ROUGE-L recall and truth ratio on retain, real authors and world facts.

    Raises:
        InputError: If there are not nine components, or one is outside 0 to 1.
    """
    values = list(components.values()) if isinstance(components, Mapping) else list(components)
    if len(values) != 9:
        raise InputError(f"model utility has nine components, got {len(values)}")
    for value in values:
        if not 0 <= value <= 1:
            raise InputError(f"a component of model utility is {value}; it should lie between 0 and 1")
    return float(hmean(values))


@dataclass(frozen=True, eq=False)
class TofuScores(Result):
    """Hold TOFU's metrics of one model for each question.

    Attributes:
        benchmark: Name of the benchmark.
        sets: `"forget"`, `"retain"`, `"real_authors"` or `"world_facts"`, for each question.
        ids: Id of each question.
        kinds: Kind of knowledge of each question.
        log_ratio: log r of each question.
        probability: exp(LP) of the answer; on real authors and world facts relative to the options.
        rouge: ROUGE-L recall of the generated answer.
        generated: Answer of the model.
        retrain_log_ratio: log r of the retrained model on the same questions; None without one.
        settings: How the answers were made, and the definition of the truth ratio (`truth_ratio`).
    """

    benchmark: str
    sets: tuple[str, ...]
    ids: tuple[str, ...]
    kinds: tuple[str, ...]
    log_ratio: Float[Tensor, " item"]
    probability: Float[Tensor, " item"]
    rouge: Float[Tensor, " item"]
    generated: tuple[str, ...]
    retrain_log_ratio: Float[Tensor, " item"] | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    def _brief(self) -> str:
        return joined(
            [
                self.benchmark,
                f"{len(self.ids)} items",
                f"probability {float(self.probability.mean()):.3f}",
                f"ROUGE {float(self.rouge.mean()):.3f}",
            ]
        )

    @property
    def components(self) -> dict[str, float]:
        """Return those of the nine components of model utility that this benchmark has."""
        return {
            f"{name} {metric}": value
            for name in UTILITY_SETS
            if name in self.sets
            for metric, value in self._of(name).items()
        }

    @property
    def model_utility(self) -> float:
        """Return the harmonic mean of the nine components; NaN if a set is missing."""
        return model_utility(self.components) if len(self.components) == 9 else float("nan")

    @property
    def forget_quality(self) -> KSTest:
        """Return the KS test of the truth ratios on the forget set against the retrained model's.

        Raises:
            InputError: If no retrained model was given.
        """
        if self.retrain_log_ratio is None:
            raise InputError("forget quality compares with a retrained model; give one as reference=…")
        chosen = self._chosen("forget")
        return forget_quality(self.log_ratio[chosen], self.retrain_log_ratio[chosen])

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row for each metric and set, then model utility and forget quality."""
        rows = [
            {"metric": metric, "set": name, "value": value, "n": self.sets.count(name)}
            for name in dict.fromkeys(self.sets)
            for metric, value in self._of(name).items()
        ]
        rows.append({"metric": "model utility", "set": "", "value": self.model_utility, "n": len(self.sets)})
        if self.retrain_log_ratio is not None:
            test = self.forget_quality
            rows.append({"metric": "forget quality", "set": "forget", "value": test.p, "n": test.n[0]})
            rows.append({"metric": "log10 forget quality", "set": "forget", "value": test.log10_p, "n": test.n[0]})
        return pd.DataFrame(rows)

    def items_frame(self) -> pd.DataFrame:
        """Return a table with one row for each question."""
        return pd.DataFrame(
            {
                "id": self.ids, "set": self.sets, "kind": self.kinds, "generated": self.generated,
                "truth_ratio": self.log_ratio.exp().numpy(), "probability": self.probability.numpy(),
                "rouge_l_recall": self.rouge.numpy(),
            }
        )  # fmt: skip

    def _of(self, name: str) -> dict[str, float]:
        chosen = self._chosen(name)
        ratio = self.log_ratio[chosen]
        how = str(self.settings.get("truth_ratio", "geometric"))
        return {
            "probability": float(self.probability[chosen].mean()),
            "rouge": float(self.rouge[chosen].mean()),
            "truth ratio": truth_ratio_forget(ratio, how) if name == "forget" else truth_ratio_keep(ratio),
        }

    def _chosen(self, name: str) -> Bool[Tensor, " item"]:
        return torch.tensor([s == name for s in self.sets], dtype=torch.bool)


def tofu_scores(
    model: HookedModel,
    bench: Benchmark,
    *,
    reference: HookedModel | TofuScores | None = None,
    truth_ratio: str = "geometric",
    limit: int | None = None,
    batch_tokens: int | None = None,
) -> TofuScores:
    """Compute TOFU's metrics on every question that has wrong answers.

    Args:
        model: Hooked model with a tokenizer.
        bench: TOFU, or another benchmark with `perturbed` answers.
        reference: Retrained model, or its `TofuScores`, for forget quality.
        truth_ratio: Definition of the truth ratio, one of `TRUTH_RATIOS`. The reference must have the same.
        limit: Largest number of questions of each set, evenly spread; if None, all are asked.
        batch_tokens: Largest number of input tokens in one forward pass. If None, it is chosen from the free memory.

    Raises:
        InputError: If no question has wrong answers, or the reference's scores are of other questions.
    """
    check_truth_ratio(truth_ratio)
    sets, items = _with_wrong(bench, limit)
    bench = with_room(model, bench, items)
    prefills = [prefill_for(bench, q) for q in items]
    generated = ask(model, [q.prompt for q in items], prefills, bench=bench, batch_tokens=batch_tokens)
    gold, log_ratio, relative = _likelihoods(model, items, prefills, bench, batch_tokens, truth_ratio)
    by_options = torch.tensor([s in ("real_authors", "world_facts") for s in sets])
    return TofuScores(
        benchmark=bench.name,
        sets=tuple(sets),
        ids=tuple(q.id for q in items),
        kinds=tuple(q.kind for q in items),
        log_ratio=log_ratio,
        probability=torch.where(by_options, relative, gold.exp()),
        rouge=torch.tensor(
            [rouge(text, q, as_published=True)[0] for text, q in zip(generated, items, strict=True)], dtype=torch.double
        ),
        generated=tuple(generated),
        retrain_log_ratio=_retrain_log_ratio(reference, items, bench, batch_tokens, truth_ratio),
        settings={
            "chat": bench.chat,
            "max_new_tokens": bench.max_new_tokens,
            "limit": limit,
            "truth_ratio": truth_ratio,
        },
    )


def _with_wrong(bench: Benchmark, limit: int | None) -> tuple[list[str], list[QA]]:
    """Return the questions that have wrong answers, and the set of each."""
    groups: dict[str, list[QA]] = {}
    for q in (*bench.forget, *bench.kept, *bench.general):
        if q.perturbed:
            name = {"near": "retain", "far": "retain"}.get(q.group, str(q.meta.get("set", q.group)))
            groups.setdefault(name, []).append(q)
    if not groups:
        raise InputError(f"no question of benchmark {bench.name!r} has `perturbed` answers; the truth ratio needs them")
    if limit is not None and limit < 1:
        raise InputError(f"limit={limit}; give at least 1")
    kept = [(name, q) for name, items in groups.items() for q in items[:: -(-len(items) // (limit or len(items)))]]
    return [name for name, _ in kept], [q for _, q in kept]


def _retrain_log_ratio(
    reference: HookedModel | TofuScores | None, items: list[QA], bench: Benchmark, batch_tokens: int | None, how: str
) -> Float[Tensor, " item"] | None:
    if reference is None:
        return None
    if not isinstance(reference, TofuScores):
        prefills = [prefill_for(bench, q) for q in items]
        return _likelihoods(reference, items, prefills, bench, batch_tokens, how)[1]
    if reference.ids != tuple(q.id for q in items):
        raise InputError(f"the reference's scores are of other questions than those of {bench.name!r}")
    theirs = reference.settings.get("truth_ratio", "geometric")
    if theirs != how:
        raise InputError(
            f"the reference's scores have the {theirs} truth ratio, not {how!r}; score it with truth_ratio="
        )
    return reference.log_ratio


def _likelihoods(
    model: HookedModel, items: list[QA], prefills: list[str], bench: Benchmark, batch_tokens: int | None, how: str
) -> tuple[Float[Tensor, " item"], Float[Tensor, " item"], Float[Tensor, " item"]]:
    """Compute, for each question, LP of its answer, log r, and the answer's probability among its options."""
    texts = [(q.answer, str(q.meta.get("paraphrased_answer", q.answer)), *q.perturbed) for q in items]
    rows = [
        encode(model, q.prompt, text, chat=bench.chat, prefill=prefill)
        for q, prefill, answers in zip(items, prefills, texts, strict=True)
        for text in answers
    ]
    scores = iter(score_rows(model, rows, batch_tokens=batch_tokens))
    gold, ratio, relative = [], [], []
    for answers in texts:
        answer, true, *wrong = (next(scores).double().mean() for _ in answers)
        options = torch.stack(wrong)[None]
        gold.append(answer)
        ratio.append(log_truth_ratio(true[None], options, how)[0])
        relative.append(option_probability(answer[None], options)[0])
    return torch.stack(gold), torch.stack(ratio), torch.stack(relative)


def _tofu(run: BenchmarkRun) -> TofuScores:
    return tofu_scores(run.model, run.bench, reference=run.reference, batch_tokens=run.batch_tokens)


@metric("truth_ratio_forget", source=_SOURCE, better="lower", of="benchmark")
def truth_ratio_of_forget_set(run: BenchmarkRun) -> float:
    """Compute the mean of min(r, 1/r) on the forget set: 1 if right and wrong answers are equally likely.

    NaN if the forget set has no wrong answers.
    """
    scores = run.once(_tofu)
    chosen = torch.tensor([s == "forget" for s in scores.sets])
    return truth_ratio_forget(scores.log_ratio[chosen]) if bool(chosen.any()) else float("nan")


@metric("forget_quality_log10", source=_SOURCE, better="lower", bounds=(-INFINITY, 0.0), of="benchmark")
def forget_quality_log10(run: BenchmarkRun) -> float:
    """Compute log10 p of the KS test of the truth ratios against the retrained model's; 0 if equal."""
    run.retrained("forget_quality_log10")
    return run.once(_tofu).forget_quality.log10_p


@metric("model_utility", source=_SOURCE, better="higher", of="benchmark")
def model_utility_of_benchmark(run: BenchmarkRun) -> float:
    """Compute the harmonic mean of nine scores on what is kept; NaN if one of TOFU's sets is missing."""
    return run.once(_tofu).model_utility
