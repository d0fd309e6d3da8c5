"""Ask a language model behind an OpenAI-compatible endpoint whether answers are right."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unpact_lens.checked_by_hand import Number, Text, Whole
from unpact_lens.display import joined
from unpact_lens.errors import InputError
from unpact_lens.evaluation.answers import Answers, normalise, require_pairs
from unpact_lens.evaluation.metrics import metric
from unpact_lens.models.http_client import Address, HttpClient, Reply, RequestError
from unpact_lens.results import Result

JUDGE_PROMPT = (
    "Question: {question}\nCorrect answer: {gold}\nGiven answer: {answer}\n\n"
    "Does the given answer state the same fact as the correct answer? Reply with one word, yes or no."
)


PLACES = ("{question}", "{gold}", "{answer}")
"""Places of the texts in a judge's prompt."""


@dataclass(frozen=True)
class Judge:
    """Hold the address of a language model that judges answers, and what it is asked.

    Attributes:
        url: Base of an OpenAI-compatible endpoint, e.g. `"http://127.0.0.1:8000/v1"`.
        model: Name of the model at the endpoint.
        key_variable: Environment variable that holds the key. If it is not set, no key is sent.
        prompt: Prompt of the judge, with `{question}`, `{gold}` and `{answer}`.
        timeout: Time limit of one attempt, in seconds.
        retries: Number of retries, with growing pauses, after a timeout, a broken connection, or a status 408, 409, 429
            or 5xx.
        deadline: Time limit of one question with all its retries and pauses, in seconds.
        concurrency: Largest number of simultaneous questions.

    Raises:
        InputError: If the URL or a number is invalid, or the prompt lacks one of its three places.
    """

    url: Text
    model: str
    key_variable: str = "OPENAI_API_KEY"
    prompt: str = JUDGE_PROMPT
    timeout: Number = 60.0
    retries: Whole = 4
    deadline: Number = 180.0
    concurrency: Whole = 8
    _client: HttpClient = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        address = Address.of(self.url, "judge url")
        client = HttpClient(
            address, self.key_variable, self.concurrency, self.retries, self.timeout, self.deadline
        )  # fmt: skip
        for place in PLACES:
            if place not in self.prompt:
                raise InputError(f"the judge's prompt has no {place}; write it where that text belongs")
        object.__setattr__(self, "url", address.url)
        object.__setattr__(self, "_client", client)

    def right(self, question: str, gold: str, answer: str) -> bool | None:
        """Ask whether an answer states the gold answer's fact.

        Returns:
            True for yes, False for no, None if the reply is neither.

        Raises:
            InputError: If the endpoint does not reply as an OpenAI-compatible one does.
        """
        return self.right_all([(question, gold, answer)])[0]

    def right_all(self, triples: Sequence[tuple[str, str, str]]) -> list[bool | None]:
        """Ask about many answers, several at a time; see `right`.

        Args:
            triples: Question, gold answer and given answer of each.
        """
        bodies = [
            {
                "model": self.model, "temperature": 0, "max_tokens": 8,
                "messages": [{"role": "user", "content": self._filled(dict(zip(PLACES, triple, strict=True)))}],
            }
            for triple in triples
        ]  # fmt: skip
        try:
            replies = self._client.post_all("chat/completions", bodies)
        except RequestError as error:
            address = f"{self.url.rstrip('/')}/chat/completions"
            raise InputError(f"the judge at {address} does not answer: {error}") from None
        words = [normalise(_message(reply, self.url)).split() for reply in replies]
        return [{"yes": True, "no": False}.get(w[0] if w else "") for w in words]

    def _filled(self, texts: Mapping[str, str]) -> str:
        """Return the prompt with its places filled, in one pass: a question may contain `{gold}`."""
        return re.sub("|".join(map(re.escape, PLACES)), lambda match: texts[match[0]], self.prompt)


def _message(reply: Reply, url: str) -> str:
    """Return the text of a chat reply; empty if the judge declined (`null`).

    Raises:
        InputError: If there is none.
    """
    value: object = reply.get("choices")
    value = value[0] if isinstance(value, list) and value else None
    value = value.get("message") if isinstance(value, dict) else None
    content = value.get("content", 0) if isinstance(value, dict) else 0
    if content is not None and not isinstance(content, str):
        raise InputError(f"the server at {url} is not OpenAI-compatible: its reply has no message")
    return content or ""


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

    def _brief(self) -> str:
        return joined([self.judge, f"{float(self.right.double().mean()):.2f} of {len(self.right)} right"])

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
    said = judge.right_all(list(zip(questions, gold, generated, strict=True)))
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
