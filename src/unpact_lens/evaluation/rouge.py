"""Compute ROUGE-L and ROUGE-1 of generated answers against gold answers, with stemming."""

from __future__ import annotations

from functools import cache

from jaxtyping import Float
from rouge_score.rouge_scorer import RougeScorer
from torch import Tensor

from unpact_lens.data.benchmark import QA
from unpact_lens.evaluation.answers import Answers
from unpact_lens.evaluation.metrics import metric

_SOURCE = "Lin 2004, through rouge-score (stemmed)"


@cache
def _scorer() -> RougeScorer:
    return RougeScorer(["rouge1", "rougeL"], use_stemmer=True)


def rouge(generated: str, qa: QA, which: str = "rougeL") -> tuple[float, float]:
    """Compute ROUGE recall and F1 of a generated answer against the gold answer, with stemming.

    The words are those of rouge-score's own tokenizer, which reads only ASCII letters and digits.

    Args:
        generated: Answer of the model.
        qa: Question with its gold answer.
        which: `"rouge1"` or `"rougeL"`.

    Source: Lin 2004, through rouge-score.
    """
    score = _scorer().score(qa.answer, generated)[which]
    return float(score.recall), float(score.fmeasure)


@metric("rouge_l", source=_SOURCE, better="higher")
def rouge_l(answers: Answers) -> Float[Tensor, " item"]:
    """Compute the F1 of the longest common subsequence of words."""
    return answers.each(lambda text, qa: rouge(text, qa, "rougeL")[1])


@metric("rouge_l_recall", source=_SOURCE, better="higher")
def rouge_l_recall(answers: Answers) -> Float[Tensor, " item"]:
    """Compute the share of the gold answer's words in the longest common subsequence."""
    return answers.each(lambda text, qa: rouge(text, qa, "rougeL")[0])


@metric("rouge_1", source=_SOURCE, better="higher")
def rouge_1(answers: Answers) -> Float[Tensor, " item"]:
    """Compute the F1 of common words."""
    return answers.each(lambda text, qa: rouge(text, qa, "rouge1")[1])


@metric("rouge_1_recall", source=_SOURCE, better="higher")
def rouge_1_recall(answers: Answers) -> Float[Tensor, " item"]:
    """Compute the share of the gold answer's words that were generated."""
    return answers.each(lambda text, qa: rouge(text, qa, "rouge1")[0])
