"""Serve the explorer as a page of this machine: loopback only, a secret token, nothing fetched from elsewhere.

A request must name this address in `Host` (a page of another site that resolves to 127.0.0.1 does not), hold the token
of the URL, and come from the page itself if it has an `Origin`. The page is sent with a policy that lets the browser
load nothing but its own three files.
"""

from __future__ import annotations

import hmac
import json
import secrets
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from unpact_lens.errors import InputError
from unpact_lens.explorer.session import ExplorerSession

ASSETS = Path(__file__).parent / "assets"

HOST = "127.0.0.1"
"""Address that the server listens on; no other machine reaches it."""

FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/explorer.js": ("explorer.js", "text/javascript; charset=utf-8"),
    "/explorer.css": ("explorer.css", "text/css; charset=utf-8"),
}
"""Files that are served: name in `assets`, and type."""

TOKEN_IN_PAGE = "__TOKEN__"
"""Text in `page.html` that stands for the token."""

ASK = "/ask"
"""Path that takes requests of the page."""

LARGEST = 1_000_000
"""Largest number of bytes of a request."""

TIMEOUT = 30
"""Seconds that a connection may be silent."""

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class ExplorerServer(ThreadingHTTPServer):
    """Serve one session on 127.0.0.1.

    Attributes:
        session: Session that answers.
        token: Secret that each request must hold.
        url: Address of the page, with the token.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, session: ExplorerSession, port: int = 0) -> None:
        """Listen on a port.

        Args:
            session: Session that answers.
            port: Port, or 0 for a free one.

        Raises:
            InputError: If the port is out of range, in use, or may not be used.
        """
        if not 0 <= port <= 65535:
            raise InputError(f"port={port}; give a number from 1 to 65535, or 0 for a free one")
        self.session, self.token = session, secrets.token_urlsafe(32)
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            raise InputError(f"cannot listen on {HOST}:{port}: {error.strerror}; give another port") from None
        self.url = f"http://{HOST}:{self.server_port}/?token={self.token}"

    @property
    def hosts(self) -> tuple[str, ...]:
        """Return the values of `Host` that name this server."""
        return tuple(f"{name}:{self.server_port}" for name in (HOST, "localhost"))

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore connections that the browser closed."""


class _Handler(BaseHTTPRequestHandler):
    """Answer GET for the page's files, and POST for its requests."""

    server: ExplorerServer
    timeout = TIMEOUT
    server_version = "unpact"
    sys_version = ""
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Send one of the page's files."""
        path = urlsplit(self.path).path
        if not self._allowed():
            return
        if path not in FILES:
            self._refuse(HTTPStatus.NOT_FOUND, "there is no such page")
            return
        name, kind = FILES[path]
        content = (ASSETS / name).read_bytes()
        if path == "/":
            content = content.replace(TOKEN_IN_PAGE.encode(), self.server.token.encode())
        self._send(HTTPStatus.OK, content, kind)

    def do_POST(self) -> None:
        """Answer a request of the page."""
        if not self._allowed():
            return
        if urlsplit(self.path).path != ASK:
            self._refuse(HTTPStatus.NOT_FOUND, "there is no such page")
            return
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            self._refuse(HTTPStatus.LENGTH_REQUIRED, "the request does not say how long it is")
        elif len(length) > len(str(LARGEST)) or int(length) > LARGEST:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the request is longer than {LARGEST} bytes")
        else:
            self._reply(self.rfile.read(int(length)))

    def _reply(self, body: bytes) -> None:
        """Answer the JSON of a request."""
        try:
            payload = json.loads(body)
        except (ValueError, RecursionError):
            self._refuse(HTTPStatus.BAD_REQUEST, "the request is not JSON")
            return
        reply = json.dumps(self.server.session.reply(payload), allow_nan=False).encode()
        self._send(HTTPStatus.OK, reply, "application/json")

    def _allowed(self) -> bool:
        """Check address, origin and token; refuse the request if one is wrong."""
        origin = self.headers.get("Origin")
        if self.headers.get("Host", "").lower() not in self.server.hosts:
            self._refuse(HTTPStatus.FORBIDDEN, "this address is not served")
        elif origin is not None and origin.lower() not in [f"http://{host}" for host in self.server.hosts]:
            self._refuse(HTTPStatus.FORBIDDEN, "requests of other pages are not answered")
        elif not hmac.compare_digest(self._token().encode(), self.server.token.encode()):
            self._refuse(HTTPStatus.FORBIDDEN, "the token is missing or wrong; open the address that unpact printed")
        else:
            return True
        return False

    def _token(self) -> str:
        """Return the token of a request: in its header, or in the URL of a file."""
        given = parse_qs(urlsplit(self.path).query).get("token", [""]) if self.command == "GET" else [""]
        return self.headers.get("X-Token") or given[0]

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        """Send an error of one line, and close the connection, whose body was not read."""
        self.close_connection = True
        self._send(status, (json.dumps({"error": message}) + "\n").encode(), "application/json")

    def _send(self, status: HTTPStatus, content: bytes, kind: str) -> None:
        """Send a reply."""
        self.send_response(status)
        for name, value in {**HEADERS, "Content-Type": kind, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing: lines of requests would hold the token."""
