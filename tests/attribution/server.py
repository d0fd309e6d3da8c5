"""Serve a hooked model by the completions protocol, with faults on request."""

import contextlib
import json
import socket
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch

from unpact_lens.models.generate import greedy
from unpact_lens.models.tokens import bos_ids


@dataclass
class Server:
    """Serves on a free port inside a `with` block.

    Attributes:
        model: answers.
        dialect: `"echo"` or `"prompt_logprobs"`; None gives no log-probabilities of prompts.
        shift: log-probabilities are reported so many tokens late.
        after_itself: those of prompts are read off the distribution after the token itself.
        failing: the first so many requests are answered 503.
        delay: seconds before each answer.
        status: answer every request with this status.
    """

    model: Any
    dialect: str | None = "echo"
    shift: int = 0
    after_itself: bool = False
    failing: int = 0
    delay: float = 0.0
    status: int = 200
    requests: int = 0
    most_at_once: int = 0
    _under_way: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self):
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, reply = server.answer(self.path, body)
                data = json.dumps(reply).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        return self

    def __exit__(self, *error):
        self.http.shutdown()
        self.http.server_close()

    def answer(self, path, body):
        with self._lock:
            self.requests += 1
            count = self.requests
            self._under_way += 1
            self.most_at_once = max(self.most_at_once, self._under_way)
        time.sleep(self.delay)
        try:
            if count <= self.failing:
                return 503, {"error": {"message": "overloaded"}}
            if self.status != 200 or path != "/v1/completions":
                return self.status if self.status != 200 else 404, {"error": {"message": "as told"}}
            with self._lock:
                return 200, {"id": "x", "object": "text_completion", "choices": [self.choice(body)]}
        finally:
            with self._lock:
                self._under_way -= 1

    def choice(self, body):
        tokenizer = self.model.tokenizer
        text, limit = body["prompt"], body["max_tokens"]
        ids = [*bos_ids(self.model), *tokenizer(text, add_special_tokens=False)["input_ids"]]
        new = list(greedy(self.model, [ids], max_new_tokens=limit, stop_ids=[tokenizer.eos_token_id])[0])
        made = tokenizer.decode(new)
        for stop in body.get("stop") or ():
            made = made.split(stop)[0]
        choice = {"index": 0, "text": made, "finish_reason": "length", "logprobs": None}
        every = [*ids, *new]
        with torch.inference_mode():
            logits = self.model(torch.tensor([every]))[0].log_softmax(-1)
        values = [None, *(float(logits[k, t]) for k, t in enumerate(every[1:]))]
        generated = values[len(ids) :]
        if self.after_itself:
            values = [None, *(float(logits[k, t]) for k, t in enumerate(every) if k)]
        if self.shift:
            k = self.shift
            values = [*[None] * k, *values][: len(values)] if k > 0 else [*values[-k:], *[None] * -k]
        tokens = [tokenizer.decode([t]) for t in every]
        if self.dialect == "echo" and body.get("echo"):
            choice["text"] = text + made
            choice["logprobs"] = {"tokens": tokens, "token_logprobs": values, "text_offset": None}
        elif body.get("logprobs"):
            choice["logprobs"] = {"tokens": tokens[len(ids) :], "token_logprobs": generated}
        if self.dialect == "prompt_logprobs" and "prompt_logprobs" in body:
            choice["prompt_logprobs"] = [
                None if v is None else {str(i): {"logprob": v, "rank": 1, "decoded_token": t}}
                for i, t, v in zip(every, tokens, values[: len(ids)], strict=False)
            ]
        return choice


@dataclass
class Scripted:
    """Serves bytes by a script inside a `with` block: for servers that break the protocol.

    Attributes:
        script: function of the connection and the number of the request, called after the request is read.
    """

    script: Any
    seen: list[str] = field(default_factory=list)

    def __enter__(self):
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}/v1"
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *error):
        self.socket.close()

    def _accept(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        with connection, contextlib.suppress(OSError):
            text = b""
            while b"\r\n\r\n" not in text:
                text += connection.recv(65536)
            head, _, body = text.partition(b"\r\n\r\n")
            length = next(int(line[15:]) for line in head.lower().splitlines() if line.startswith(b"content-length:"))
            while len(body) < length:
                body += connection.recv(65536)
            self.seen.append(head.decode())
            self.script(connection, len(self.seen))


def http(body, status="200 OK", *headers):
    """The bytes of a reply."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(data)}", *headers, "", ""]).encode() + data


def replies(*several):
    """A script that sends these replies, the last one again and again."""
    return lambda connection, number: connection.sendall(several[min(number, len(several)) - 1])
