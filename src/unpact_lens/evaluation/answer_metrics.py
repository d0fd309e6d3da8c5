"""The registered metrics: one function each, with its source, range and direction."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.evaluation.answers import Answers, degenerate, exact_match, fact_right, rouge
from unpact_lens.evaluation.memorisation import exact_memorisation, extraction_strength
from unpact_lens.evaluation.perplexity import TextScores, perplexity
from unpact_lens.evaluation.semantic import Judge, entailment, judge_answers, semantic_similarity
from unpact_lens.registry import Registry

INFINITY = float("inf")
UNIT = (0.0, 1.0)


@dataclass(frozen=True)
class Metric:
    """One number for each answer, or one for a set of plain texts or a whole benchmark.

    Attributes:
        name: as registered.
        description: one line.
        source: where its definition stands.
        bounds: least and largest value.
        better: which direction is better for a model that knows; `"higher"` or `"lower"`.
        of: what it is computed from: `"answers"` (one number a question), `"texts"` (one for all of them) or
            `"benchmark"` (one for all of it, and the model is asked more than its questions).
        compute: from `Answers` to a tensor `[item]`, or from `TextScores` or `Whole` to a number; where something else
            is needed, from both.
        binary: whether it is right (1) or wrong (0), so that its mean is a rate.
        default: whether `evaluate` takes it unless metrics are named.
        needs: what the user must give `evaluate` besides, the name of its argument: `"nli"` or `"judge"`.
    """

    name: str
    description: str
    source: str
    bounds: tuple[float, float]
    better: Literal["higher", "lower"]
    compute: Callable[..., Any]
    of: Literal["answers", "texts", "benchmark"] = "answers"
    binary: bool = False
    default: bool = True
    needs: str | None = None


METRICS: Registry[Metric] = Registry("metric")
"""The metrics by name."""


def metrics() -> pd.DataFrame:
    """What `evaluate` can measure: one row a metric, with its range, direction and source."""
    return pd.DataFrame(
        [
            {
                "description": m.description, "low": m.bounds[0], "high": m.bounds[1], "better": m.better, "of": m.of,
                "source": m.source,
            }
            for m in METRICS.values()
        ],
        index=pd.Index(list(METRICS), name="metric"),
    )  # fmt: skip


def fact_span(answers: Answers) -> Float[Tensor, " item"]:
    """1 where the generated answer holds the fact, else 0.

    Range: 0 to 1; higher is better. Source: formulas: fact-span match.
    """
    return _each(answers, fact_right)


def fact_span_forced(answers: Answers) -> Float[Tensor, " item"]:
    """1 where every token of the fact is the most likely one, given the gold answer up to it, else 0.

    Range: 0 to 1; higher is better. Source: formulas: fact-span match, teacher-forced.
    """
    pairs = zip(answers.token_right, answers.fact_tokens, strict=True)
    return torch.tensor([float(right[start:end].all()) for right, (start, end) in pairs])


def exact(answers: Answers) -> Float[Tensor, " item"]:
    """1 where the whole generated answer is the gold answer, both normalised, else 0.

    Range: 0 to 1; higher is better. Source: SQuAD, arXiv 1606.05250.
    """
    return _each(answers, exact_match)


def rouge_l(answers: Answers) -> Float[Tensor, " item"]:
    """F1 of the longest common subsequence of words.

    Range: 0 to 1; higher is better. Source: Lin 2004, through rouge-score (stemmed).
    """
    return _each(answers, lambda text, qa: rouge(text, qa, "rougeL")[1])


def rouge_l_recall(answers: Answers) -> Float[Tensor, " item"]:
    """Share of the gold answer's words in the longest common subsequence.

    Range: 0 to 1; higher is better. Source: Lin 2004, through rouge-score (stemmed).
    """
    return _each(answers, lambda text, qa: rouge(text, qa, "rougeL")[0])


def rouge_1(answers: Answers) -> Float[Tensor, " item"]:
    """F1 of common words.

    Range: 0 to 1; higher is better. Source: Lin 2004, through rouge-score (stemmed).
    """
    return _each(answers, lambda text, qa: rouge(text, qa, "rouge1")[1])


def rouge_1_recall(answers: Answers) -> Float[Tensor, " item"]:
    """Share of the gold answer's words that were generated.

    Range: 0 to 1; higher is better. Source: Lin 2004, through rouge-score (stemmed).
    """
    return _each(answers, lambda text, qa: rouge(text, qa, "rouge1")[0])


def probability(answers: Answers) -> Float[Tensor, " item"]:
    r"""$\exp(\mathrm{LP}(x, y)) = \exp(\ell / T)$: the geometric mean of the answer tokens' probabilities.

    Range: 0 to 1; higher is better. Source: TOFU, arXiv 2401.06121.
    """
    return torch.stack([t.double().mean().exp() for t in answers.token_log_probs]).float()


def degenerate_text(answers: Answers) -> Float[Tensor, " item"]:
    """1 where the generated answer is empty or repeats itself, else 0.

    Range: 0 to 1; lower is better. Source: seq-rep-2, arXiv 1908.04319.
    """
    return _each(answers, lambda text, qa: degenerate(text))


def memorised(answers: Answers) -> Float[Tensor, " item"]:
    """Share of the gold answer's tokens that are the most likely ones, given those before them.

    Range: 0 to 1; higher is better. Source: arXiv 2205.10770.
    """
    return torch.tensor([exact_memorisation(right) for right in answers.token_right])


def extraction(answers: Answers) -> Float[Tensor, " item"]:
    """How little of the gold answer must be given for the model to complete it: 1 − k/T.

    Range: 0 to 1; higher is better. Source: arXiv 2502.19301.
    """
    return torch.tensor([extraction_strength(right) for right in answers.token_right])


def similarity(answers: Answers) -> Float[Tensor, " item"]:
    """Cosine of the sentence embeddings of generated and gold answer.

    Range: -1 to 1; higher is better. Source: arXiv 1908.10084, all-MiniLM-L6-v2.
    """
    return semantic_similarity(answers.generated, [q.answer for q in answers.items])


def entailed(answers: Answers, nli: str | os.PathLike[str]) -> Float[Tensor, " item"]:
    """The smaller of P(gold answer entails generated one) and P(generated answer entails gold one), by an NLI model.

    Range: 0 to 1; higher is better. Source: arXiv 2302.09664.
    """
    return entailment(answers.generated, [q.answer for q in answers.items], nli=nli)


def judged(answers: Answers, judge: Judge) -> Float[Tensor, " item"]:
    """1 where a language model says that the generated answer states the gold answer's fact, else 0.

    A reply that is neither yes nor no counts as 0. Range: 0 to 1; higher is better. Source: arXiv 2306.05685.
    """
    questions, gold = [q.prompt for q in answers.items], [q.answer for q in answers.items]
    return judge_answers(judge, questions, gold, answers.generated).right.float()


def text_perplexity(texts: TextScores) -> float:
    """Perplexity of all texts together.

    Range: 1 to infinity; lower is better. Source: exp of the mean negative log-likelihood.
    """
    return perplexity(texts.nll, texts.tokens)


def _each(answers: Answers, judge: Callable[..., float]) -> Float[Tensor, " item"]:
    return torch.tensor([float(judge(g, q)) for g, q in zip(answers.generated, answers.items, strict=True)])


_ROUGE = "Lin 2004, through rouge-score (stemmed)"

for _metric in (
    Metric("fact_span", "the fact is in the generated answer", "formulas: fact-span match", UNIT, "higher",
           fact_span, binary=True),
    Metric("fact_span_forced", "every token of the fact is the most likely one after the gold answer's opening",
           "formulas: fact-span match, teacher-forced", UNIT, "higher", fact_span_forced, binary=True),
    Metric("exact_match", "the whole generated answer is the gold answer, normalised", "SQuAD, arXiv 1606.05250",
           UNIT, "higher", exact, binary=True),
    Metric("rouge_l", "F1 of the longest common subsequence of words", _ROUGE, UNIT, "higher", rouge_l),
    Metric("rouge_l_recall", "share of the gold answer's words in that subsequence", _ROUGE, UNIT, "higher",
           rouge_l_recall),
    Metric("rouge_1", "F1 of common words", _ROUGE, UNIT, "higher", rouge_1),
    Metric("rouge_1_recall", "share of the gold answer's words that were generated", _ROUGE, UNIT, "higher",
           rouge_1_recall),
    Metric("probability", "exp of the mean log-probability of the gold answer's tokens", "TOFU, arXiv 2401.06121",
           UNIT, "higher", probability),
    Metric("degenerate", "the generated answer is empty or repeats itself", "seq-rep-2, arXiv 1908.04319", UNIT,
           "lower", degenerate_text, binary=True),
    Metric("exact_memorisation", "share of the gold answer's tokens that are the most likely ones", "arXiv 2205.10770",
           UNIT, "higher", memorised),
    Metric("extraction_strength", "how little of the gold answer must be given for the rest to follow, floor 1/T",
           "arXiv 2502.19301", UNIT, "higher", extraction),
    Metric("semantic_similarity", "cosine of the sentence embeddings of generated and gold answer; needs [semantic]",
           "arXiv 1908.10084, all-MiniLM-L6-v2", (-1.0, 1.0), "higher", similarity, default=False),
    Metric("entailment", "the generated and the gold answer entail each other; needs an NLI model, nli=",
           "arXiv 2302.09664", UNIT, "higher", entailed, default=False, needs="nli"),
    Metric("judge", "a language model says that the answer states the fact; needs judge=", "arXiv 2306.05685", UNIT,
           "higher", judged, binary=True, default=False, needs="judge"),
    Metric("perplexity", "perplexity of the benchmark's plain text", "exp of the mean negative log-likelihood",
           (1.0, INFINITY), "lower", text_perplexity, of="texts"),
):  # fmt: skip
    METRICS.add(_metric.name, _metric)
