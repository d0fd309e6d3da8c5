"""Ask a language model behind an OpenAI-compatible endpoint whether answers are right."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unpact_lens.errors import InputError
from unpact_lens.evaluation.answers import Answers, normalise, require_pairs
from unpact_lens.evaluation.metrics import metric
from unpact_lens.results import Result

JUDGE_PROMPT = (
    "Question: {question}\nCorrect answer: {gold}\nGiven answer: {answer}\n\n"
    "Does the given answer state the same fact as the correct answer? Reply with one word, yes or no."
)


@dataclass(frozen=True)
class Judge:
    """Hold the address of a language model that judges answers, and what it is asked.

    Attributes:
        url: Base of an OpenAI-compatible endpoint, e.g. `"http://127.0.0.1:8000/v1"`.
        model: Name of the model at the endpoint.
        key_variable: Environment variable that holds the key. If it is not set, no key is sent.
        prompt: Prompt of the judge, with `{question}`, `{gold}` and `{answer}`.
        timeout: Seconds to wait for a reply.
    """

    url: str
    model: str
    key_variable: str = "OPENAI_API_KEY"
    prompt: str = JUDGE_PROMPT
    timeout: float = 60.0

    def right(self, question: str, gold: str, answer: str) -> bool | None:
        """Ask whether an answer states the gold answer's fact.

        Returns:
            True for yes, False for no, None if the reply is neither.

        Raises:
            InputError: If the endpoint does not reply as an OpenAI-compatible one does.
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
            raise InputError(f"the server at {url} is not OpenAI-compatible: its reply has no message") from None


@dataclass(frozen=True, eq=False)
class Judgement(Result):
    """Hold the replies of a judge, beside exact match.

    Attributes:
        judge: Model and address of the judge.
        right: True for answers judged right; False if the reply was neither yes nor no.
        clear: True where the reply was yes or no.
        exact: True for answers equal to the gold answer, both normalised.
    """

    judge: str
    right: Bool[Tensor, " item"]
    clear: Bool[Tensor, " item"]
    exact: Bool[Tensor, " item"]

    @property
    def agreement_with_exact_match(self) -> float:
        """Return the share of clear replies that agree with exact match."""
        return float((self.right == self.exact)[self.clear].double().mean())

    @property
    def contradicts_exact_match(self) -> int:
        """Count the answers that equal the gold answer and were judged wrong: a broken judge has many."""
        return int((self.exact & self.clear & ~self.right).sum())

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row: shares of yes, of clear replies, of exact matches and of agreement."""
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
        judge: The judge.
        questions: Questions that were asked.
        gold: Gold answers, one for each.
        generated: Answers of the model, one for each.

    Raises:
        InputError: If the lists differ in length, or the judge does not reply.
    """
    require_pairs(generated, gold)
    require_pairs(generated, questions)
    said = [judge.right(q, t, g) for q, t, g in zip(questions, gold, generated, strict=True)]
    exact = [normalise(t) == normalise(g) for t, g in zip(gold, generated, strict=True)]
    return Judgement(
        judge=f"{judge.model} at {judge.url}",
        right=torch.tensor([bool(s) for s in said]),
        clear=torch.tensor([s is not None for s in said]),
        exact=torch.tensor(exact),
    )


@metric("judge", source="arXiv 2306.05685", better="higher", binary=True, needs="judge")
def judged_right(answers: Answers, judge: Judge) -> Float[Tensor, " item"]:
    """Return 1 if a language model says that the answer states the fact, else 0; needs judge=.

    A reply that is neither yes nor no counts as 0.
    """
    questions, gold = [q.prompt for q in answers.items], [q.answer for q in answers.items]
    return judge_answers(judge, questions, gold, answers.generated).right.float()
