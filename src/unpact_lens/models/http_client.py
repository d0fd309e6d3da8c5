"""Ask OpenAI-compatible servers over HTTP: the one client of endpoints and judges.

- A request has a total deadline, and Ctrl-C ends it at once, even where a server hangs or sends byte by byte.
- A timeout, a broken connection and a status 408, 409, 429 or 5xx are retried with growing pauses.
- A redirect is never followed, so the API key goes to no other host.
- A reply is a JSON object of limited size. NaN and infinities are refused.
- A user name and password in the URL are sent, but never shown or saved.
"""

from __future__ import annotations

import base64
import http.client
import json
import math
import os
import queue
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from unpact_lens.checked_by_hand import Number, Text, Whole
from unpact_lens.errors import InputError

MOST_BYTES = 64 * 2**20
"""Largest size of a reply, in bytes."""

FIRST_PAUSE, LONGEST_PAUSE = 0.25, 20.0
"""Pause before the first retry, and the longest pause, in seconds. Each pause is twice the one before."""

RETRIED = (408, 409, 429)
"""Statuses below 500 after which a request is repeated."""

Reply = dict[str, object]
"""JSON object that a server replied."""


class RequestError(InputError):
    """Signal that a server did not answer a request.

    Attributes:
        status: HTTP status of the reply. None if there was no reply.
        detail: What the server said, in one line.
    """

    def __init__(self, message: str, status: int | None = None, detail: str = "") -> None:
        super().__init__(message)
        self.status, self.detail = status, detail


@dataclass(frozen=True)
class Address:
    """Hold the base URL of a server, without the user name and password that it may have had.

    Attributes:
        url: Base URL, e.g. `"http://127.0.0.1:8000/v1"`.
        authorization: Value of the header `Authorization` for the user name and password, or None.
    """

    url: str
    authorization: str | None = field(default=None, repr=False)

    @classmethod
    def of(cls, url: Text, what: str = "url") -> Address:
        """Check a base URL and take its user name and password off.

        Args:
            url: Base URL as the user gave it.
            what: Name of the value in an error message.

        Raises:
            InputError: If it is not the URL of an HTTP server, or has a query or a fragment.
        """
        example = "give the base URL of an endpoint, e.g. 'http://127.0.0.1:8000/v1'"
        if not isinstance(url, str):
            raise InputError(f"{what} {url!r} is not text; {example}")
        # Nothing that may be a secret is shown: user name, password, query.
        shown = re.split("[?#]", re.sub("//.*@", "//", url, flags=re.DOTALL))[0]
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            raise InputError(f"{what} {shown!r}; {example}") from None
        if parts.scheme not in ("http", "https") or not host or port == 0:
            raise InputError(f"{what} {shown!r}; {example}")
        if not url.isascii() or not url.isprintable() or " " in url:
            raise InputError(f"{what} {shown!r} has a blank, a control character or a letter outside ASCII; {example}")
        if parts.query or parts.fragment:
            raise InputError(f"{what} {shown!r} has a query or a fragment; {example}, and the key in the environment")
        if parts.username is None:
            return cls(url)
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        return cls(shown, "Basic " + base64.b64encode(pair.encode()).decode("ascii"))


@dataclass(frozen=True)
class HttpClient:
    """Send JSON to one server.

    Attributes:
        address: Base URL of the server.
        key_variable: Environment variable that contains the API key. If it is not set, no key is sent.
        concurrency: Largest number of simultaneous requests.
        retries: Largest number of repetitions of a request.
        timeout: Time limit of one attempt, in seconds.
        deadline: Time limit of one request with all its repetitions and pauses, in seconds.

    Raises:
        InputError: If a number is out of range.
    """

    address: Address
    key_variable: str = "OPENAI_API_KEY"
    concurrency: Whole = 8
    retries: Whole = 4
    timeout: Number = 60.0
    deadline: Number = 180.0

    def __post_init__(self) -> None:
        for name, least in (("concurrency", 1), ("retries", 0), ("timeout", 0.001), ("deadline", 0.001)):
            value = getattr(self, name)
            whole = isinstance(least, int)
            if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or not value >= least:
                raise InputError(f"{name}={value!r}; give {'a whole number of ' * whole}at least {least}")
            if not math.isfinite(value):
                raise InputError(f"{name}={value!r}; give a finite number")

    @property
    def url(self) -> str:
        """Return the base URL, without user name and password."""
        return self.address.url

    def post(self, path: str, body: Mapping[str, object]) -> Reply:
        """Send one request; see `post_all`."""
        return self.post_all(path, [body])[0]

    def post_all(self, path: str, bodies: Sequence[Mapping[str, object]]) -> list[Reply]:
        """Send requests, several at a time, and return the replies in their order.

        Requests run in threads that the interpreter does not wait for, so Ctrl-C ends the call at once.

        Args:
            path: Path below the base URL, e.g. `"completions"`.
            bodies: JSON object of each request.

        Raises:
            RequestError: If one of them gets no answer. The others are then given up.
        """
        run = _Run(self, f"{self.url.rstrip('/')}/{path}", [json.dumps(body).encode() for body in bodies])
        return run.replies()

    def headers(self) -> dict[str, str]:
        """Return the headers of a request.

        Raises:
            InputError: If the API key has characters that no header can hold. The message does not show it.
        """
        headers = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity"}
        key = os.environ.get(self.key_variable)
        if self.address.authorization is not None:
            headers["Authorization"] = self.address.authorization
        elif key:
            if not (key.isascii() and key.isprintable()):
                raise InputError(
                    f"the key in {self.key_variable} has a line break or a letter outside ASCII; set it again"
                )
            headers["Authorization"] = f"Bearer {key}"
        return headers


class _Failure(Exception):
    """Signal that one attempt failed.

    Attributes:
        error: Error for the user if it is not repeated.
        again: Whether to repeat the request.
        pause: Pause that the server asked for, in seconds.
    """

    def __init__(self, error: RequestError, *, again: bool, pause: float = 0.0) -> None:
        super().__init__(str(error))
        self.error, self.again, self.pause = error, again, pause


class _Run:
    """Run the requests of one call in daemon threads."""

    def __init__(self, client: HttpClient, url: str, bodies: list[bytes]) -> None:
        self.client, self.url, self.bodies = client, url, bodies
        self.headers = client.headers()
        self.stop = threading.Event()
        self.started: dict[int, float] = {}
        self.waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.done: queue.SimpleQueue[tuple[int, Reply | Exception]] = queue.SimpleQueue()

    def replies(self) -> list[Reply]:
        """Start the threads and collect the replies, each before its deadline."""
        for index in range(len(self.bodies)):
            self.waiting.put(index)
        found: dict[int, Reply] = {}
        try:
            for _ in range(min(self.client.concurrency, len(self.bodies))):
                threading.Thread(target=self._work, daemon=True).start()
            while len(found) < len(self.bodies):
                index, reply = self._next(found)
                if isinstance(reply, Exception):
                    raise reply
                found[index] = reply
        finally:
            self.stop.set()
        return [found[index] for index in range(len(self.bodies))]

    def _next(self, found: Mapping[int, Reply]) -> tuple[int, Reply | Exception]:
        """Wait for the next reply.

        Raises:
            RequestError: If a request passes its deadline.
        """
        while True:
            try:
                return self.done.get(timeout=min(0.2, self.client.deadline))
            except queue.Empty:
                now = time.monotonic()
                for index, start in list(self.started.items()):
                    # A thread notices the deadline by itself, unless the server sends its headers byte by byte.
                    if index not in found and now > start + self.client.deadline + 0.1:
                        raise self._late() from None

    def _work(self) -> None:
        """Send requests until none is left."""
        while not self.stop.is_set():
            try:
                index = self.waiting.get_nowait()
            except queue.Empty:
                return
            self.started[index] = time.monotonic()
            try:
                self.done.put((index, self._request(self.bodies[index])))
            except Exception as error:
                self.done.put((index, error))

    def _request(self, body: bytes) -> Reply:
        """Send one request, again after a failure that may pass."""
        client, ends = self.client, time.monotonic() + self.client.deadline
        attempt = 0
        while True:
            try:
                return self._attempt(body, min(time.monotonic() + client.timeout, ends))
            except _Failure as failure:
                pause = max(min(FIRST_PAUSE * 2**attempt, LONGEST_PAUSE), failure.pause)
                if not failure.again or attempt >= client.retries:
                    raise failure.error from None
                if time.monotonic() + pause >= ends:
                    raise self._late(failure.error) from None
                attempt += 1
                if self.stop.wait(pause):
                    raise failure.error from None

    def _attempt(self, body: bytes, ends: float) -> Reply:
        """Send one request once."""
        client = self.client
        request = urllib.request.Request(self.url, body, self.headers)
        try:
            limit = max(0.001, ends - time.monotonic())
            with _OPENER.open(request, timeout=limit) as response:
                return _parsed(_read(response, ends), self.url)
        except urllib.error.HTTPError as error:
            raise _refused(error, ends, client.url) from None
        except TimeoutError:
            raise self._timed_out() from None
        except urllib.error.URLError as error:
            if isinstance(error.reason, TimeoutError):
                raise self._timed_out() from None
            raise _unreachable(error.reason, client.url) from None
        except (OSError, http.client.HTTPException) as error:
            raise _unreachable(error, client.url) from None

    def _timed_out(self) -> _Failure:
        client = self.client
        times = client.retries + 1
        message = f"{client.url} did not answer within {client.timeout} s, {times} times; raise timeout="
        return _Failure(RequestError(message), again=True)

    def _late(self, last: RequestError | None = None) -> RequestError:
        client = self.client
        because = f" (last: {last})" if last is not None else ""
        message = f"{client.url} did not answer within {client.deadline} s in all{because}; raise deadline="
        return RequestError(message, None if last is None else last.status)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follow no redirect, so the key goes to no other host."""

    def redirect_request(self, *_: object) -> None:
        """Return nothing; the opener then raises the status as an error."""


_OPENER = urllib.request.build_opener(_NoRedirect)


def _read(response: http.client.HTTPResponse | urllib.error.HTTPError, ends: float) -> bytes:
    """Read a whole reply.

    Raises:
        TimeoutError: If it takes too long.
        InputError: If it is too large.
    """
    chunks, size = [], 0
    read = getattr(response, "read1", response.read)
    while chunk := read(2**16):
        chunks.append(chunk)
        size += len(chunk)
        if size > MOST_BYTES:
            raise InputError(f"a reply is larger than {MOST_BYTES // 2**20} MB; ask for less at a time")
        if time.monotonic() > ends:
            raise TimeoutError
    if getattr(response, "length", None):
        raise http.client.IncompleteRead(b"", response.length)
    return b"".join(chunks)


def _parsed(data: bytes, url: str) -> Reply:
    """Read a JSON object.

    Raises:
        InputError: If the reply is something else.
    """

    def refuse(word: str) -> object:
        raise InputError(f"the server at {url} is not OpenAI-compatible: its reply contains {word}")

    try:
        value = json.loads(data, parse_constant=refuse)
    except InputError:
        raise
    except (ValueError, RecursionError):
        begin = _one_line(data[:80])
        raise InputError(f"the server at {url} is not OpenAI-compatible: its reply is not JSON: {begin!r}") from None
    if not isinstance(value, dict):
        found = "null" if value is None else type(value).__name__
        raise InputError(f"the server at {url} is not OpenAI-compatible: its reply is {found}, not a JSON object")
    return value


def _refused(error: urllib.error.HTTPError, ends: float, url: str) -> _Failure:
    """Describe a status that is not 200."""
    status = error.code
    if 300 <= status < 400:
        target = _one_line(str(error.headers.get("Location") or "nowhere").encode("ascii", "replace"))
        message = f"{url} redirects to {target}, which is not followed; give the final URL if you trust it"
        return _Failure(RequestError(message, status), again=False)
    try:
        detail = _message(_read(error, ends)) or error.reason
    except (OSError, http.client.HTTPException, InputError):
        detail = error.reason
    failed = RequestError(f"{url} refused the request ({status}): {detail}", status, str(detail))
    return _Failure(failed, again=status in RETRIED or status >= 500, pause=_retry_after(error))


def _unreachable(error: object, url: str) -> _Failure:
    """Describe a connection that failed."""
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return _Failure(RequestError(f"{url} cannot be asked: {reason}", None, str(reason)), again=True)


def _retry_after(error: urllib.error.HTTPError) -> float:
    """Return the pause that the server asks for, in seconds; 0 if it asks for none."""
    text = str(error.headers.get("Retry-After") or "").strip()
    return float(text) if text.isascii() and text.isdigit() and len(text) < 7 else 0.0


def _message(data: bytes) -> str:
    """Return the message of an error reply in one line."""
    try:
        value = json.loads(data)
        inner = value.get("error", value)
        said = inner.get("message") if isinstance(inner, dict) else inner
    except (ValueError, AttributeError, RecursionError):
        said = None
    return _one_line(str(said).encode() if isinstance(said, str) else data)


def _one_line(data: bytes, limit: int = 200) -> str:
    text = " ".join(data[: 4 * limit].decode("utf-8", "replace").split())
    return "".join(c for c in text if c.isprintable())[:limit]
