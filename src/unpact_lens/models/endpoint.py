"""Query closed models through an OpenAI-compatible completions endpoint that returns prompt log-probabilities.

Leave-one-out contributions need nothing else. Two request formats are supported: `echo` (llama.cpp, older vLLM) and
`prompt_logprobs` of vLLM. A self-test at first use finds the one that works.

The self-test needs no knowledge of the model:

1. Causality. If two texts first differ at one token, their log-probabilities must first differ at that token. An
   endpoint that reports them shifted is refused, and the message gives the `shift` that corrects it.
2. Agreement. A generated token must have the same log-probability when it is part of a prompt. An endpoint that uses
   another distribution is refused. For models without BOS, llama-cpp-python uses the one after the token itself.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from types import SimpleNamespace
from typing import TypeVar

from unpact_lens.checked_by_hand import Number, Text, Whole
from unpact_lens.errors import InputError
from unpact_lens.models.http_client import Address, HttpClient, Reply, RequestError
from unpact_lens.models.tokens import Encoded

PROBES = (
    ("The river runs down to the sea and", "The river runs down to the old mill and"),
    ("She put the book on the table near", "She put the book on the chair near"),
    ("Every morning he walks past the green house", "Every morning he walks past the red house"),
)
"""Pairs of texts for the self-test; the texts of a pair differ in the middle."""

SAME = 0.02
"""Largest difference, in nats, of one log-probability between two requests (half precision, other batches)."""

AGREED = 0.25
"""Largest difference, in nats, between the log-probability of a generated token and of the same token in a prompt."""

ENOUGH = 2
"""Number of generated tokens that the self-test compares with the same tokens in a prompt."""

ABOVE_ZERO = 1e-3
"""Largest log-probability that counts as 0, in nats (rounding)."""

LOST = 4
"""Largest number of characters that a token may omit before it (a dropped space, a character split into bytes)."""


X = TypeVar("X")


@dataclass(frozen=True)
class Echo:
    """Hold an endpoint's tokens of a text and their log-probabilities.

    Attributes:
        tokens: The endpoint's tokens of the text.
        spans: Start and end of each token in the text. Tokens without their own text (BOS, part of a character) are
            empty.
        log_probs: Log-probability of each token given the earlier ones, in nats. None if the endpoint gives none, as
            for the first token.
    """

    tokens: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]
    log_probs: tuple[float | None, ...]


@dataclass
class Endpoint:
    """Represent an OpenAI-compatible completions endpoint; pass it to `attribute` in place of a model.

    Attributes:
        url: Base URL of the endpoint, e.g. `"http://127.0.0.1:8000/v1"`. A user name and password in it are sent, but
            neither shown nor stored.
        model: Name of the model on the endpoint.
        key_variable: Environment variable that contains the API key; the key itself is not stored.
        concurrency: Largest number of simultaneous requests.
        retries: Number of retries, with growing pauses, after a timeout, a broken connection, or a status 408, 409, 429
            or 5xx.
        timeout: Time limit of one attempt, in seconds.
        deadline: Time limit of one request with all its retries and pauses, in seconds.
        shift: Offset of the endpoint's list: the log-probability of token k is at position k + shift. Use 0 unless the
            self-test names another value.

    Raises:
        InputError: If the URL or a number is invalid.

    Source: OpenAI completions API; `prompt_logprobs` of vLLM.
    """

    url: Text
    model: str
    key_variable: str = "OPENAI_API_KEY"
    concurrency: Whole = 8
    retries: Whole = 4
    timeout: Number = 60.0
    deadline: Number = 180.0
    shift: int = 0
    _dialect: str | None = field(default=None, repr=False)
    _pieces: list[str] = field(default_factory=list, repr=False)
    _number: dict[str, int] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        address = Address.of(self.url)
        self.url = address.url
        if isinstance(self.shift, bool) or not isinstance(self.shift, int):
            raise InputError(f"shift={self.shift!r}; give a whole number of tokens")
        self._client = HttpClient(
            address, self.key_variable, self.concurrency, self.retries, self.timeout, self.deadline
        )

    def echo(self, texts: Sequence[str]) -> list[Echo]:
        """Return the tokens and log-probabilities of whole texts; requests run in parallel.

        Raises:
            InputError: If the endpoint does not answer, returns no prompt log-probabilities, or misaligns them.
        """
        if self._dialect is None:
            self._dialect = self._self_test()
        return self._each(texts, self._dialect)

    def complete(self, text: str, max_tokens: int) -> str:
        """Return the model's greedy continuation, up to the end of the line.

        Raises:
            InputError: If the endpoint does not answer.
        """
        return self.complete_all([text], max_tokens)[0]

    def complete_all(self, texts: Sequence[str], max_tokens: int) -> list[str]:
        """Return the model's greedy continuation of each text, up to the end of the line; requests run in parallel.

        Raises:
            InputError: If the endpoint does not answer.
        """
        replies = self._ask([{"prompt": text, "max_tokens": max_tokens, "stop": ["\n"]} for text in texts])
        return [_text(_choice(reply, self.url), self.url) for reply in replies]

    def encode(self, prompt: str, answer: str, prefill: str = "") -> Encoded:
        """Split prompt, prefill and answer into pieces at the endpoint's token boundaries, and return the pieces' ids.

        The ids are this object's own (see `tokenizer`). A piece never crosses the boundary of two parts.
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
    def tokenizer(self) -> SimpleNamespace:
        """Return a minimal tokenizer over the pieces seen so far."""
        return SimpleNamespace(is_fast=False, all_special_ids=(), decode=self._decode)

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of pieces, given their ids."""
        return "".join(self._pieces[i] for i in ids)

    def piece(self, text: str) -> int:
        """Return the id of a text as one piece, e.g. of a replacement."""
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
        replies = self._ask([{"prompt": text, "max_tokens": 1, **read.asked} for text in texts])
        return [self._aligned(text, *read.found(_choice(r, self.url))) for text, r in zip(texts, replies, strict=True)]

    def _ask(self, bodies: Sequence[Mapping[str, object]]) -> list[Reply]:
        """Send requests for greedy completions.

        Raises:
            InputError: If one gets no answer.
        """
        try:
            return self._client.post_all("completions", [{"model": self.model, "temperature": 0, **b} for b in bodies])
        except RequestError as error:
            if error.status == 404:
                raise InputError(
                    f"{self.url} has no completions for model {self.model!r} ({error.detail}); chat-only endpoints "
                    "cannot be attributed, since they return no log-probabilities of the prompt"
                ) from None
            raise

    def _aligned(self, text: str, tokens: Sequence[str], values: Sequence[float | None]) -> Echo:
        """Return the tokens of the text and their log-probabilities, without generated tokens."""
        spans = align(text, tokens)
        log_probs = [values[k + self.shift] if 0 <= k + self.shift < len(values) else None for k in range(len(spans))]
        return Echo(tuple(tokens[: len(spans)]), tuple(spans), tuple(log_probs))

    def _self_test(self) -> str:
        """Return the first request format in which the endpoint gives aligned prompt log-probabilities."""
        for dialect in DIALECTS:
            try:
                echoes = self._each([text for pair in PROBES for text in pair], dialect)
            except _NoLogProbs:
                continue
            self._check_alignment(list(zip(echoes[::2], echoes[1::2], strict=True)))
            self._check_agreement(dialect)
            return dialect
        raise InputError(
            f"{self.url} returns no log-probabilities of the prompt, neither with echo=True nor with prompt_logprobs; "
            "serve the model with vLLM or llama.cpp (with all logits kept), or use a model in this process"
        )

    def _check_alignment(self, pairs: Sequence[tuple[Echo, Echo]]) -> None:
        """Check that the log-probabilities of two texts first differ where their tokens first differ.

        Two different tokens may be equally likely, which can only delay the first difference. The smallest offset over
        all pairs is therefore used.

        Raises:
            InputError: If they first differ elsewhere, or nowhere.
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
                f"that first differ at token {token} ({first.tokens[token]!r} against {second.tokens[token]!r}) have "
                f"log-probabilities that first differ at token {value}; give shift={self.shift + off} to correct this"
            )

    def _check_agreement(self, dialect: str) -> None:
        """Check that generated tokens have the same log-probability in a prompt.

        Raises:
            InputError: If one differs by more than `AGREED`.
        """
        compared, words = 0, PROBES[0][0].split()
        for text in (" ".join(words[:n]) for n in range(len(words), 1, -1)):
            if compared == ENOUGH:
                return
            (reply,) = self._ask([{"prompt": text, "max_tokens": 1, "logprobs": 1}])
            made = _choice(reply, self.url)
            new = _text(made, self.url)
            tokens, values = _listed(_table(made.get("logprobs"), "logprobs"))
            if len(tokens) != 1 or not new or "\ufffd" in new or values[0] is None:
                continue
            (found,) = self._each([text + new], dialect)
            if found.tokens[-1] != tokens[0] or found.log_probs[-1] is None:
                continue  # tokenised differently in a prompt
            compared += 1
            if abs(found.log_probs[-1] - values[0]) > AGREED:
                raise InputError(
                    f"{self.url} contradicts itself: after {text!r} it generates {tokens[0]!r} with log-probability "
                    f"{values[0]:.2f}, but reports {found.log_probs[-1]:.2f} for it in a prompt; its log-probabilities "
                    "of prompts cannot be used (llama-cpp-python: serve a model that takes BOS)"
                )
        if not compared:
            warnings.warn(
                f"the self-test of {self.url} could not compare any generated token with one in a prompt; check a "
                "known answer by hand",
                stacklevel=2,
            )


class _NoLogProbs(InputError):
    """Signal that the endpoint answers in this format without prompt log-probabilities."""


@dataclass(frozen=True)
class _Dialect:
    """Describe a request format for prompt log-probabilities.

    Attributes:
        asked: Arguments of the request.
        found: Function that returns tokens and log-probabilities from a choice of the reply.
    """

    asked: Mapping[str, object]
    found: Callable[[Reply], tuple[list[str], list[float | None]]]


def _from_echo(choice: Reply) -> tuple[list[str], list[float | None]]:
    tokens, values = _listed(_table(choice.get("logprobs"), "logprobs"))
    if len(tokens) < 3:  # fewer: generated tokens only
        raise _NoLogProbs("no log-probabilities of the prompt")
    return tokens, values


def _from_prompt_logprobs(choice: Reply) -> tuple[list[str], list[float | None]]:
    places = choice.get("prompt_logprobs")
    if not isinstance(places, list) or len(places) < 3:
        raise _NoLogProbs("no log-probabilities of the prompt")
    tokens: list[str] = []
    values: list[float | None] = []
    for place in places:
        # The prompt's own token comes first, before the most likely tokens.
        entry = _table(next(iter(_table(place, "prompt_logprobs").values()), None), "prompt_logprobs")
        token = entry.get("decoded_token")
        tokens.append(token if isinstance(token, str) else "")
        values.append(_log_prob(entry.get("logprob")))
    return tokens, values


def _listed(found: Reply) -> tuple[list[str], list[float | None]]:
    """Return the tokens and log-probabilities that stand in two lists; both empty if the reply has none.

    Raises:
        InputError: If they are not lists of text and of numbers, of one length.
    """
    tokens, values = found.get("tokens") or [], found.get("token_logprobs") or []
    if not isinstance(tokens, list) or not isinstance(values, list) or len(tokens) != len(values):
        raise InputError("the endpoint's tokens and token_logprobs are not two lists of one length")
    for token in tokens:
        if not isinstance(token, str):
            raise InputError(f"the endpoint gives the token {token!r}, which is not text")
    return tokens, [_log_prob(value) for value in values]


def _log_prob(value: object) -> float | None:
    """Return a log-probability, or None if the endpoint gives none.

    Raises:
        InputError: If it is not a finite number of at most 0.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value > ABOVE_ZERO:
        raise InputError(f"the endpoint gives the log-probability {value!r}, which is not a finite number of at most 0")
    return float(value)


def _table(value: object, name: str) -> Reply:
    """Return an object of a reply; empty if it is absent.

    Raises:
        InputError: If it is something else.
    """
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError(f"the endpoint's {name} hold a {type(value).__name__} in place of an object")
    return value


def _text(choice: Reply, url: str) -> str:
    """Return the generated text of a choice."""
    text = choice.get("text")
    if not isinstance(text, str):
        raise InputError(f"{url} is not a completions endpoint: its reply has no text")
    return text


DIALECTS = {
    "echo": _Dialect({"echo": True, "logprobs": 1}, _from_echo),
    "prompt_logprobs": _Dialect({"prompt_logprobs": 0}, _from_prompt_logprobs),
}
"""Request formats, in the order in which they are tried."""


def align(text: str, tokens: Sequence[str]) -> list[tuple[int, int]]:
    r"""Find the span of each token in a text; generated tokens after its end are omitted.

    Some tokens are not the text's next piece: BOS, part of a character, or a first token whose leading space the server
    dropped. Such a token gets the text before the next matching token, or an empty span.

    Raises:
        InputError: If the tokens do not cover the text.

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


def _parting(a: Sequence[X], b: Sequence[X], same: Callable[[X, X], bool]) -> int | None:
    """Return the first index at which two lists differ, or None."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if not same(x, y)), None)


def _close(a: float | None, b: float | None) -> bool:
    return a == b if a is None or b is None else abs(a - b) <= SAME


def _choice(reply: Reply, url: str) -> Reply:
    """Return the first choice of a reply."""
    choices = reply.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise InputError(f"{url} is not a completions endpoint: its reply has no choices")
    return choices[0]
