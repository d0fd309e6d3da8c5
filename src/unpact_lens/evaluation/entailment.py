"""Compute bidirectional entailment of generated and gold answers by an NLI model of the user."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from unpact_lens.errors import InputError
from unpact_lens.evaluation.answers import Answers, require_pairs, shown
from unpact_lens.evaluation.metrics import metric
from unpact_lens.progress import transformers_progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BATCH = 64
"""Number of pairs in one forward pass."""


def entailment(generated: Sequence[str], gold: Sequence[str], *, nli: str | os.PathLike[str]) -> Float[Tensor, " item"]:
    """Compute the smaller of P(gold entails generated) and P(generated entails gold), 0 to 1.

    Args:
        generated: Answers of the model.
        gold: Gold answers, one for each.
        nli: Sequence-classification model with exactly one label that contains "entail" and not "not": a local
            directory or a hub id, e.g. `"cross-encoder/nli-deberta-v3-small"`.

    Raises:
        InputError: If the lists differ in length, or the model cannot be loaded or has no such label.

    Source: Kuhn et al. 2023, arXiv 2302.09664.
    """
    require_pairs(generated, gold)
    tokenizer, model = _nli(str(nli))
    labels = {
        int(i): name.lower()
        for i, name in model.config.id2label.items()
        if "entail" in name.lower() and "not" not in name.lower()
    }
    if len(labels) != 1:
        raise InputError(
            f"{nli} has the labels {', '.join(model.config.id2label.values())}; one must be the entailment"
        )
    (label,) = labels

    def one_way(premises: Sequence[str], hypotheses: Sequence[str]) -> Float[Tensor, " item"]:
        parts = []
        for start in range(0, len(premises), BATCH):
            stop = start + BATCH
            batch = tokenizer(
                [shown(p) for p in premises[start:stop]],
                [shown(h) for h in hypotheses[start:stop]],
                padding=True,
                truncation=True,
                return_tensors="pt",
            )
            with torch.inference_mode():
                parts.append(model(**batch).logits.softmax(-1)[:, label])
        return torch.cat(parts).clone()

    return torch.minimum(one_way(gold, generated), one_way(generated, gold))


@cache
def _nli(name: str) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        with transformers_progress():
            return tokenizer, AutoModelForSequenceClassification.from_pretrained(
                name, use_safetensors=True, trust_remote_code=False
            ).eval()
    except (OSError, ValueError) as error:
        raise InputError(f"cannot load the NLI model {name}: {str(error).splitlines()[0]}") from None


@metric("entailment", source="arXiv 2302.09664", better="higher", needs="nli")
def entailment_of_answers(answers: Answers, nli: str | os.PathLike[str]) -> Float[Tensor, " item"]:
    """Compute the smaller probability that generated or gold answer entails the other; needs an NLI model, nli=."""
    return entailment(answers.generated, [q.answer for q in answers.items], nli=nli)
