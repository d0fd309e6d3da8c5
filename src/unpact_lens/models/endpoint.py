"""Closed models: an OpenAI-compatible completions endpoint that returns the log-probabilities of its prompt.

The paper's contribution needs nothing else. Two dialects are spoken: `echo` (llama.cpp, older vLLM) and vLLM's
`prompt_logprobs`; the one that works is found at first use, by a self-test.

The self-test needs no knowledge of the model:

1. Causality. Of two texts that part at one token, the log-probabilities must part at that token too, not before and not
   after. An endpoint that reports them early or late is refused, and the message says which `shift` would put it right.
2. Agreement. A token that the model has just generated must have the same log-probability when it stands in a prompt.
   An endpoint that reads it off the wrong distribution (as llama-cpp-python does for models without BOS: that after the
   token itself) is refused.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

from unpact_lens.errors import InputError
from unpact_lens.models.tokens import Encoded

PROBES = (
    ("The river runs down to the sea and", "The river runs down to the old mill and"),
    ("She put the book on the table near", "She put the book on the chair near"),
    ("Every morning he walks past the green house", "Every morning he walks past the red house"),
)
"""Pairs of texts for the self-test, each of which parts in the middle."""

SAME = 0.02
"""Nats by which a served log-probability may differ between two requests: half precision, other batches."""


AGREED = 0.25
"""Nats by which the log-probability of a generated token may differ from that of the same token in a prompt."""


ENOUGH = 2
"""How many generated tokens the self-test compares with themselves in a prompt."""


@dataclass(frozen=True)
class Echo:
    """What an endpoint says of a text.

    Attributes:
        tokens: its own tokens of the text.
        spans: where each stands in the text; a token without text of its own (BOS, part of a character) has no width.
        log_probs: log p of each token after those before it, nats; None where the endpoint gives none (the first).
    """

    tokens: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]
    log_probs: tuple[float | None, ...]


@dataclass
class Endpoint:
    """An OpenAI-compatible completions endpoint, to be given to `attribute` in place of a model.

    Attributes:
        url: base of the endpoint, e.g. `"http://127.0.0.1:8000/v1"`.
        model: which model is asked for.
        key_variable: environment variable that holds the API key; the key itself is never stored.
        concurrency: requests under way at once.
        retries: how often a request is sent again after a time-out, a broken connection, or an answer 408, 409, 429 or
            5xx, with growing pauses.
        timeout: seconds to wait for an answer.
        shift: the log-probability of token k stands at place k + shift in the endpoint's list; 0 unless the self-test
            said otherwise.

    Raises:
        InputError: if the address or a number makes no sense, or the client library is missing.

    Source: the completions interface of OpenAI; `prompt_logprobs` of vLLM.
    """

    url: str
    model: str
    key_variable: str = "OPENAI_API_KEY"
    concurrency: int = 8
    retries: int = 4
    timeout: float = 60.0
    shift: int = 0
    _dialect: str | None = field(default=None, repr=False)
    _pieces: list[str] = field(default_factory=list, repr=False)
    _number: dict[str, int] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise InputError(f"url {self.url!r}; give the base of an endpoint, e.g. 'http://127.0.0.1:8000/v1'")
        for name, least in (("concurrency", 1), ("retries", 0), ("timeout", 0.001)):
            if getattr(self, name) < least:
                raise InputError(f"{name}={getattr(self, name)}; give at least {least}")
        try:
            from openai import OpenAI
        except ImportError:
            raise InputError('an Endpoint needs the package openai: pip install "unpact-lens[endpoint]"') from None
        key = os.environ.get(self.key_variable) or "none"
        self._client = OpenAI(base_url=self.url, api_key=key, max_retries=self.retries, timeout=self.timeout)

    def echo(self, texts: Sequence[str]) -> list[Echo]:
        """Tokens and log-probabilities of whole texts, several requests at a time.

        Raises:
            InputError: if the endpoint does not answer, gives no log-probabilities of the prompt, or reports them
                misaligned.
        """
        if self._dialect is None:
            self._dialect = self._self_test()
        return self._each(texts, self._dialect)

    def complete(self, text: str, max_tokens: int) -> str:
        """The model's greedy continuation, up to the end of its line.

        Raises:
            InputError: if the endpoint does not answer.
        """
        reply = self._ask(prompt=text, max_tokens=max_tokens, temperature=0, stop=["\n"])
        return str(_choice(reply, self.url)["text"])

    def encode(self, prompt: str, answer: str, prefill: str = "") -> Encoded:
        """Prompt, prefill and answer as numbers of text pieces, cut where the endpoint cuts its tokens.

        The numbers are this object's own (see `tokenizer`); a piece never reaches over the border of two parts.
        """
        text = prompt + prefill + answer
        borders = (len(prompt), len(prompt) + len(prefill), len(text))
        (found,) = self.echo([text])
        cuts = sorted({0, *borders, *(end for _, end in found.spans)})
        pieces = [(a, text[a:b]) for a, b in pairwise(cuts)]
        parts = [
            tuple(self._id(piece) for start, piece in pieces if low <= start < high)
            for low, high in zip((0, *borders), borders, strict=False)
        ]
        return Encoded((), parts[0], parts[1], parts[2])

    @property
    def tokenizer(self) -> Any:
        """What the rest of the library asks of a tokenizer, over the pieces met so far."""
        return SimpleNamespace(is_fast=False, all_special_ids=(), decode=self._decode)

    def text(self, ids: Sequence[int]) -> str:
        """The text of pieces."""
        return "".join(self._pieces[i] for i in ids)

    def piece(self, text: str) -> int:
        """A text as one piece, e.g. what is to stand in another's place."""
        return self._id(text)

    def _decode(self, ids: Sequence[int], **_: object) -> str:
        return self.text(ids)

    def _id(self, piece: str) -> int:
        if piece not in self._number:
            self._number[piece] = len(self._pieces)
            self._pieces.append(piece)
        return self._number[piece]

    def _each(self, texts: Sequence[str], dialect: str) -> list[Echo]:
        read = DIALECTS[dialect]
        with ThreadPoolExecutor(min(self.concurrency, max(1, len(texts)))) as pool:
            replies = list(pool.map(lambda t: self._ask(prompt=t, max_tokens=1, temperature=0, **read.asked), texts))
        return [self._aligned(text, *read.found(_choice(r, self.url))) for text, r in zip(texts, replies, strict=True)]

    def _ask(self, **body: Any) -> dict[str, Any]:
        import openai

        try:
            return self._client.completions.create(model=self.model, **body).model_dump()
        except openai.NotFoundError as error:
            raise InputError(
                f"{self.url} has no completions for model {self.model!r} ({error.message}); chat-only endpoints "
                "cannot be attributed, since they give no log-probabilities of the prompt"
            ) from error
        except openai.APITimeoutError as error:
            raise InputError(
                f"{self.url} did not answer within {self.timeout} s, {self.retries + 1} times; raise timeout="
            ) from error
        except openai.APIStatusError as error:
            raise InputError(f"{self.url} refused the request ({error.status_code}): {error.message}") from error
        except openai.OpenAIError as error:
            raise InputError(f"{self.url} cannot be asked: {error}") from error

    def _aligned(self, text: str, tokens: Sequence[str], values: Sequence[float | None]) -> Echo:
        """The tokens of the text itself (what was generated after it is dropped), with their log-probabilities."""
        spans = align(text, tokens)
        log_probs = [values[k + self.shift] if 0 <= k + self.shift < len(values) else None for k in range(len(spans))]
        return Echo(tuple(tokens[: len(spans)]), tuple(spans), tuple(log_probs))

    def _self_test(self) -> str:
        """The dialect in which the endpoint gives log-probabilities of its prompt, in the right places."""
        for dialect in DIALECTS:
            try:
                echoes = self._each([text for pair in PROBES for text in pair], dialect)
            except _NoLogProbs:
                continue
            self._check_alignment(list(zip(echoes[::2], echoes[1::2], strict=True)))
            self._check_agreement(dialect)
            return dialect
        raise InputError(
            f"{self.url} gives no log-probabilities of the prompt, with echo=True as little as with prompt_logprobs; "
            "serve the model with vLLM or llama.cpp (with all logits kept), or use a model in this process"
        )

    def _check_alignment(self, pairs: Sequence[tuple[Echo, Echo]]) -> None:
        """Where the tokens of two texts part, their log-probabilities must part.

        Two different tokens may happen to be equally likely, which only delays the parting: the earliest of all pairs
        counts.

        Raises:
            InputError: if they part elsewhere, or nowhere.
        """
        tokens = [_parting(a.tokens, b.tokens, lambda x, y: x == y) for a, b in pairs]
        values = [_parting(a.log_probs, b.log_probs, _close) for a, b in pairs]
        found = [
            (v - t, pair, t, v)
            for pair, t, v in zip(pairs, tokens, values, strict=True)
            if t is not None and v is not None
        ]
        if not found:
            raise InputError(
                f"the self-test of {self.url} cannot tell its texts apart: they have the same "
                + ("tokens" if set(tokens) == {None} else "log-probabilities")
            )
        off, (first, second), token, value = min(found, key=lambda f: f[0])
        if off:
            early = "early" if off < 0 else "late"
            raise InputError(
                f"{self.url} reports log-probabilities {abs(off)} token{'s' * (abs(off) > 1)} too {early}: two texts "
                f"that part at token {token} ({first.tokens[token]!r} against {second.tokens[token]!r}) part in their "
                f"log-probabilities at token {value}; give shift={self.shift + off} to put that right"
            )

    def _check_agreement(self, dialect: str) -> None:
        """What the model generated with some log-probability must have it in a prompt too.

        Raises:
            InputError: if it has another.
        """
        compared, words = 0, PROBES[0][0].split()
        for text in (" ".join(words[:n]) for n in range(len(words), 1, -1)):
            if compared == ENOUGH:
                return
            made = _choice(self._ask(prompt=text, max_tokens=1, temperature=0, logprobs=1), self.url)
            reported = made.get("logprobs") or {}
            tokens, values = reported.get("tokens") or [], reported.get("token_logprobs") or []
            if len(tokens) != 1 or not made["text"] or "\ufffd" in made["text"] or values[0] is None:
                continue
            (found,) = self._each([text + made["text"]], dialect)
            if found.tokens[-1] != tokens[0] or found.log_probs[-1] is None:
                continue  # cut into other tokens when it stands in a prompt
            compared += 1
            if abs(found.log_probs[-1] - values[0]) > AGREED:
                raise InputError(
                    f"{self.url} contradicts itself: after {text!r} it generates {tokens[0]!r} with log-probability "
                    f"{values[0]:.2f}, but reports {found.log_probs[-1]:.2f} for it in a prompt; its log-probabilities "
                    "of prompts cannot be used (llama-cpp-python: serve a model that takes BOS)"
                )
        if not compared:
            warnings.warn(
                f"the self-test of {self.url} could compare no generated token with one in a prompt; check a known "
                "answer by hand",
                stacklevel=2,
            )


class _NoLogProbs(InputError):
    """The endpoint answers in this dialect, but without log-probabilities of the prompt."""


@dataclass(frozen=True)
class _Dialect:
    """One way of asking for the log-probabilities of a prompt.

    Attributes:
        asked: what the request holds for it.
        found: tokens and log-probabilities from a choice of the reply.
    """

    asked: Mapping[str, Any]
    found: Callable[[Mapping[str, Any]], tuple[list[str], list[float | None]]]


def _from_echo(choice: Mapping[str, Any]) -> tuple[list[str], list[float | None]]:
    found = choice.get("logprobs") or {}
    tokens, values = found.get("tokens") or [], found.get("token_logprobs") or []
    if len(tokens) < 3 or len(values) != len(tokens):  # fewer: what was generated, and no prompt
        raise _NoLogProbs("no log-probabilities of the prompt")
    return list(tokens), list(values)


def _from_prompt_logprobs(choice: Mapping[str, Any]) -> tuple[list[str], list[float | None]]:
    places = choice.get("prompt_logprobs") or []
    tokens: list[str] = []
    values: list[float | None] = []
    for place in places:
        # The token that stands in the prompt comes first; the most likely ones, if asked for, follow.
        entry: Mapping[str, Any] = next(iter(place.values())) if place else {}
        tokens.append(entry.get("decoded_token") or "")
        values.append(entry.get("logprob"))
    if len(tokens) < 3:
        raise _NoLogProbs("no log-probabilities of the prompt")
    return tokens, values


DIALECTS = {
    "echo": _Dialect({"echo": True, "logprobs": 1}, _from_echo),
    "prompt_logprobs": _Dialect({"extra_body": {"prompt_logprobs": 0}}, _from_prompt_logprobs),
}
"""Ways of asking, in the order in which they are tried."""


def align(text: str, tokens: Sequence[str]) -> list[tuple[int, int]]:
    r"""Where each token stands in a text; tokens beyond its end (generated ones) are left out.

    A token that is not the text's next piece (BOS, part of a character, a first token whose leading blank the server
    dropped) gets what lies before the next token that is, or nothing.

    Raises:
        InputError: if the tokens do not cover the text.

    >>> align("a été", ["<s>", "a", " ", "bytes:\xc3", "bytes:\xa9", "té", " and"])
    [(0, 0), (0, 1), (1, 2), (2, 2), (2, 3), (3, 5)]
    """
    spans: list[tuple[int, int]] = []
    at = 0
    for token in tokens:
        if at == len(text):
            break
        start = text.find(token, at, at + len(token) + LOST) if token else -1
        if start < 0:
            spans.append((at, at))
            continue
        if start > at and spans and spans[-1] == (at, at):
            spans[-1] = (at, start)
        elif start > at:
            start = at
        at = text.index(token, start) + len(token)
        spans.append((start, at))
    if at < len(text) and spans and spans[-1][0] == spans[-1][1]:
        spans[-1] = (at, len(text))
        at = len(text)
    if at < len(text):
        raise InputError(f"the endpoint's tokens end before the text does: {text[at:]!r} is in none of {list(tokens)}")
    return spans


LOST = 4
"""How many characters of a text a token may leave out before it (a dropped blank, a character cut into bytes)."""


def _parting(a: Sequence[Any], b: Sequence[Any], same: Callable[[Any, Any], bool]) -> int | None:
    """The first place where two lists differ."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if not same(x, y)), None)


def _close(a: float | None, b: float | None) -> bool:
    return a == b if a is None or b is None else abs(a - b) <= SAME


def _choice(reply: Mapping[str, Any], url: str) -> Mapping[str, Any]:
    choices = reply.get("choices") or []
    if not choices:
        raise InputError(f"what answers at {url} is no completions endpoint: its reply has no choices")
    return choices[0]
