"""Compute ROUGE-L and ROUGE-1 of generated answers against gold answers, with stemming."""

from __future__ import annotations

import unicodedata
from functools import cache

from jaxtyping import Float
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer, Tokenizer
from torch import Tensor

from unpact_lens.data.benchmark import QA
from unpact_lens.errors import InputError
from unpact_lens.evaluation.answers import Answers
from unpact_lens.evaluation.metrics import metric
from unpact_lens.evaluation.text_folding import is_word_character, tokens

_SOURCE = "Lin 2004, through rouge-score (stemmed)"


class UnicodeTokenizer(Tokenizer):
    """Cut a text of any script into words, and stem ASCII words as rouge-score does.

    Args:
        stem: If True, words of ASCII letters are stemmed (Porter).
    """

    def __init__(self, stem: bool) -> None:
        self._ascii = DefaultTokenizer(use_stemmer=stem)

    def tokenize(self, text: str) -> list[str]:
        """Return the words of a text."""
        return [self._ascii.tokenize(word)[0] if word.isascii() else word for word in tokens(text)]


@cache
def scorer(*, stem: bool, ascii_only: bool = False) -> RougeScorer:
    """Return a ROUGE scorer, made once.

    Args:
        stem: If True, words of ASCII letters are stemmed.
        ascii_only: If True, the words are those of rouge-score's own tokenizer, which drops all but ASCII letters.
    """
    own = None if ascii_only else UnicodeTokenizer(stem)
    return RougeScorer(["rouge1", "rougeL"], use_stemmer=stem, tokenizer=own)


def rouge(generated: str, qa: QA, which: str = "rougeL", *, as_published: bool = False) -> tuple[float, float]:
    """Compute ROUGE recall and F1 of a generated answer against the gold answer, with stemming.

    Texts of ASCII letters give the numbers of rouge-score. In other texts rouge-score's own tokenizer drops letters.

    Args:
        generated: Answer of the model.
        qa: Question with its gold answer.
        which: `"rouge1"` or `"rougeL"`.
        as_published: If True, uses rouge-score's own tokenizer, as the code of TOFU and MUSE does, where the gold
            answer has no letter outside the Latin script.

    Raises:
        InputError: If `which` is neither.

    Source: Lin 2004, through rouge-score.
    """
    if which not in ("rouge1", "rougeL"):
        raise InputError(f"which={which!r}; give 'rouge1' or 'rougeL'")
    score = scorer(stem=True, ascii_only=as_published and is_latin(qa.answer)).score(qa.answer, generated)[which]
    return float(score.recall), float(score.fmeasure)


def is_latin(text: str) -> bool:
    """Return whether all letters of a text are of the Latin script, so that an ASCII tokenizer loses accents at most.

    >>> is_latin("Nació en Bogotá, 1956."), is_latin("Осло")
    (True, False)
    """
    return all(c.isascii() or not is_word_character(c) or "LATIN" in unicodedata.name(c, "") for c in text)


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
