"""The one HTTP client of endpoints and judges: bounded in time and size, keeps its key, refuses broken replies."""

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from tests.attribution.server import Scripted, http, replies
from unpact_lens.errors import InputError
from unpact_lens.evaluation.judge import Judge
from unpact_lens.models import http_client
from unpact_lens.models.endpoint import Endpoint
from unpact_lens.models.http_client import Address, HttpClient

GOOD = http({"choices": [{"text": " Oslo", "message": {"content": "yes"}}]})


def client(url, **options):
    return HttpClient(Address.of(url), **options)


def judge(url, **options):
    return Judge(url, "m", **options).right("Where?", "Oslo", "Oslo")


def complete(url, **options):
    return Endpoint(url, "m", **options).complete("a", 3)


ASKED = pytest.mark.parametrize("ask", [complete, judge])
"""Both users of the client: what holds for one holds for the other."""


@ASKED
@pytest.mark.parametrize("status", ["408 Slow", "429 Busy", "500 Oops", "502 Gate", "503 Full", "599 Odd"])
def test_a_failure_that_may_pass_is_repeated(ask, status, monkeypatch):
    monkeypatch.setattr(http_client, "FIRST_PAUSE", 0.01)
    with Scripted(replies(http({}, status), http({}, status), GOOD)) as server:
        assert ask(server.url) in (" Oslo", True)
        assert len(server.seen) == 3


@ASKED
@pytest.mark.parametrize("status", ["400 Bad", "401 Who", "403 No", "404 Gone", "422 Odd"])
def test_a_failure_that_stays_is_not_repeated(ask, status):
    with Scripted(replies(http({"error": {"message": "as told"}}, status))) as server:
        with pytest.raises(InputError, match="as told"):
            ask(server.url)
        assert len(server.seen) == 1


def test_pauses_grow_and_follow_the_server(monkeypatch):
    monkeypatch.setattr(http_client, "FIRST_PAUSE", 0.1)
    times = []

    def script(connection, number):
        times.append(time.monotonic())
        wait = ("Retry-After: 1",) if number == 3 else ()
        connection.sendall(GOOD if number == 4 else http({}, "503 Full", *wait))

    with Scripted(script) as server:
        client(server.url).post("x", {})
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert gaps[0] >= 0.1
    assert gaps[1] >= 0.2
    assert gaps[2] >= 1.0


def drip(connection, number):
    """Send one byte of an endless body each 20 ms."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n")
    while True:
        connection.sendall(b" ")
        time.sleep(0.02)


def drip_headers(connection, number):
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    while True:
        connection.sendall(b"X")
        time.sleep(0.02)


@ASKED
@pytest.mark.parametrize("script", [lambda c, n: time.sleep(30), drip, drip_headers], ids=["hangs", "drips", "heads"])
def test_a_server_that_hangs_or_drips_cannot_pass_the_deadline(ask, script):
    with Scripted(script) as server:
        began = time.monotonic()
        with pytest.raises(InputError, match=r"did not answer within 0\.(3|8) s"):
            ask(server.url, timeout=0.3, deadline=0.8)
        assert time.monotonic() - began < 2.5


def test_a_long_pause_that_a_server_asks_for_ends_at_the_deadline():
    with Scripted(replies(http({}, "429 Busy", "Retry-After: 9999"))) as server:
        began = time.monotonic()
        with pytest.raises(InputError, match=r"did not answer within 2 s in all .*429.*raise deadline="):
            complete(server.url, deadline=2)
        assert time.monotonic() - began < 1


def test_an_interrupt_ends_a_hanging_request_at_once():
    with Scripted(lambda connection, number: time.sleep(60)) as server:
        code = (
            "import sys; from unpact_lens.models.endpoint import Endpoint\n"
            "print('ready', flush=True)\n"
            "try: Endpoint(sys.argv[1], 'm').echo(['a'] * 20)\n"
            "except KeyboardInterrupt: print('interrupted', flush=True)\n"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code, server.url], stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        assert process.stdout.readline() == b"ready\n"
        while not server.seen:
            time.sleep(0.02)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == b"interrupted\n"
        assert time.monotonic() - began < 2
        assert process.wait(timeout=60) == 0


@ASKED
@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See", "307 Temp", "308 Perm"])
def test_a_redirect_is_not_followed_and_the_key_stays(ask, status, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with Scripted(replies(GOOD)) as other, Scripted(replies(http({}, status, f"Location: {other.url}/x"))) as server:
        with pytest.raises(InputError, match=r"redirects to http://127\.0\.0\.1:\d+/v1/x, which is not followed"):
            ask(server.url)
        assert other.seen == []
        assert "Authorization: Bearer sk-secret" in server.seen[0]


@ASKED
def test_a_user_name_and_password_are_sent_but_never_shown(ask, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-other")
    with Scripted(replies(http({}, "401 Who"))) as server:
        url = server.url.replace("://", "://ann:s%40cret@")
        with pytest.raises(InputError) as caught:
            ask(url)
        assert "Authorization: Basic YW5uOnNAY3JldA==" in server.seen[0]
        assert "sk-other" not in server.seen[0]
    assert "cret" not in str(caught.value)
    for held in (Endpoint(url, "m"), Judge(url, "m")):
        assert "cret" not in repr(held)
        assert held.url == server.url


@pytest.mark.parametrize(
    "url",
    [
        "localhost", "ftp://a/v1", "http://", "http://:80", "http://a:99999", "http://a:x", "http://a b/", "http://ä/",
        "http://a/\n", "http://a/v1?key=s3cret", "http://a/v1#s3cret", "http://u:s3cret@", "http://u:s3cret@h:99999",
        "http://u:s3@cret@", "http://[::1", 7, None,
    ],
)  # fmt: skip
@pytest.mark.parametrize("made", [Endpoint, Judge])
def test_a_wrong_url_is_refused_without_showing_secrets(url, made):
    with pytest.raises(InputError, match="base URL of an endpoint") as caught:
        made(url, "m")
    assert "cret" not in str(caught.value)


@pytest.mark.parametrize("name", ["concurrency", "retries", "timeout", "deadline"])
@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), "3", None, True])
def test_a_wrong_number_is_refused(name, value):
    with pytest.raises(InputError, match=f"{name}="):
        client("http://127.0.0.1:9", **{name: value})


def test_a_key_that_no_header_can_hold_is_refused_and_not_shown(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret\r\nX: y")
    with pytest.raises(InputError, match="OPENAI_API_KEY has a line break") as caught:
        client("http://127.0.0.1:9").post("x", {})
    assert "secret" not in str(caught.value)


BROKEN = [
    b"", b"null", b"[]", b'"text"', b"17", b"{", b"<html>", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 5000, b'{"x": NaN}',
    b'{"x": Infinity}', b'{"x": ' + b"9" * 5000 + b"}",
]  # fmt: skip


@ASKED
@pytest.mark.parametrize("body", BROKEN, ids=lambda b: repr(b[:12]))
def test_a_reply_that_is_no_json_object_is_refused(ask, body):
    with Scripted(replies(http(body))) as server, pytest.raises(InputError, match="is not OpenAI-compatible") as caught:
        ask(server.url, retries=0)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@ASKED
def test_a_reply_is_limited_in_size(ask, monkeypatch):
    monkeypatch.setattr(http_client, "MOST_BYTES", 2**20)

    def endless(connection, number):
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n")
        while True:
            connection.sendall(b" " * 65536)

    with Scripted(endless) as server, pytest.raises(InputError, match="a reply is larger than 1 MB"):
        ask(server.url)


@ASKED
def test_a_reply_that_breaks_off_is_repeated(ask, monkeypatch):
    monkeypatch.setattr(http_client, "FIRST_PAUSE", 0.01)
    with Scripted(replies(GOOD[:-5], b"", b"nonsense\r\n\r\n", GOOD)) as server:
        assert ask(server.url, timeout=2) in (" Oslo", True)
        assert len(server.seen) == 4


def echo(tokens, values):
    return {"choices": [{"text": "a b c", "logprobs": {"tokens": tokens, "token_logprobs": values}}]}


@pytest.mark.parametrize(
    ("tokens", "values", "message"),
    [
        (["a", " b", " c"], [None, "-1.5", -2.0], "the log-probability '-1.5', which is not a finite number"),
        (["a", " b", " c"], [None, 0.5, -2.0], "the log-probability 0.5"),
        (["a", " b", " c"], [None, True, -2.0], "the log-probability True"),
        (["a", " b", " c"], [None, -1e400, -2.0], "its reply contains -Infinity"),
        (["a", " b", " c"], [None, {}, -2.0], "the log-probability {}"),
        (["a", None, " c"], [None, -1.0, -2.0], "the token None, which is not text"),
        (["a", 3, " c"], [None, -1.0, -2.0], "the token 3, which is not text"),
        (["a", " b", " c"], [None, -1.0], "not two lists of one length"),
        ("a b c", [None, -1.0, -2.0], "not two lists of one length"),
    ],
)
def test_broken_log_probabilities_are_refused(tokens, values, message):
    with Scripted(replies(http(echo(tokens, values)))) as server:
        endpoint = Endpoint(server.url, "m")
        endpoint._dialect = "echo"
        with pytest.raises(InputError, match=message):
            endpoint.echo(["a b c"])


@pytest.mark.parametrize(
    "places",
    [[None, 7, 8], [None, {"1": 7}, {}], [None, {"1": {"logprob": "x"}}, {}], [None, {"1": {"logprob": 2}}, {}]],
)
def test_broken_prompt_logprobs_are_refused(places):
    with Scripted(replies(http({"choices": [{"prompt_logprobs": places}]}))) as server:
        endpoint = Endpoint(server.url, "m")
        endpoint._dialect = "prompt_logprobs"
        with pytest.raises(InputError, match="the endpoint"):
            endpoint.echo(["a b c"])


@pytest.mark.parametrize("choices", [None, [], {}, "x", [None], ["x"], [[]]])
@ASKED
def test_a_reply_without_choices_is_refused(ask, choices):
    with Scripted(replies(http({"choices": choices}))) as server, pytest.raises(InputError, match="its reply has no"):
        ask(server.url)


def test_replies_keep_the_order_of_the_requests():
    def script(connection, number):
        time.sleep(0.05 * (number % 3))
        connection.sendall(http({"n": number}))

    bodies = [{"k": k} for k in range(9)]
    seen, lock = {}, threading.Lock()

    class Counting(Scripted):
        def _serve(self, connection):
            with connection:
                text = connection.recv(65536)
                while b"}" not in text:
                    text += connection.recv(65536)
                k = json.loads(text.partition(b"\r\n\r\n")[2])["k"]
                with lock:
                    seen[k] = len(seen)
                time.sleep(0.02 * (k % 3))
                connection.sendall(http({"k": k}))

    with Counting(script) as server:
        assert client(server.url, concurrency=3).post_all("x", bodies) == bodies
    assert sorted(seen) == list(range(9))


def test_a_judge_prompt_is_filled_in_one_pass_and_must_have_its_places():
    with pytest.raises(InputError, match=r"the judge's prompt has no \{answer\}"):
        Judge("http://127.0.0.1:9", "m", prompt="{question} {gold}")
    filled = Judge("http://127.0.0.1:9", "m", prompt="{question}|{gold}|{answer}")._filled(
        {"{question}": "{gold}", "{gold}": "{answer}", "{answer}": "x"}
    )
    assert filled == "{gold}|{answer}|x"
