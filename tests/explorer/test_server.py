"""The local page answers only who knows its address and token."""

import http.client
import json
import threading

import pytest

from unpact_lens.errors import InputError
from unpact_lens.explorer.server import LARGEST, ExplorerServer


class Echo:
    """Stand in for a session."""

    def reply(self, payload):
        return {"data": payload}


@pytest.fixture(scope="module")
def server():
    with ExplorerServer(Echo()) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(server, method="POST", path="/ask", body=b"{}", **headers):
    """Send one request; a header of None is left out."""
    given = {"Host": f"127.0.0.1:{server.server_port}", "X-Token": server.token, "Content-Length": str(len(body))}
    given.update({name.replace("_", "-"): value for name, value in headers.items()})
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=5)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in given.items():
        if value is not None:
            connection.putheader(name, value)
    connection.endheaders(body if method == "POST" else None)
    reply = connection.getresponse()
    content = reply.read()
    connection.close()
    return reply.status, content, reply.headers


def test_it_listens_on_loopback_only(server):
    assert server.server_address[0] == "127.0.0.1"
    assert server.url == f"http://127.0.0.1:{server.server_port}/?token={server.token}"
    assert len(server.token) >= 40


def test_the_page_comes_with_its_token_and_loads_nothing_else(server):
    status, content, headers = ask(server, "GET", f"/?token={server.token}", X_Token=None)
    assert status == 200
    assert server.token in content.decode()
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert (headers["Referrer-Policy"], headers["Cache-Control"]) == ("no-referrer", "no-store")
    for name in ("explorer.js", "explorer.css"):
        status, content, _ = ask(server, "GET", f"/{name}?token={server.token}", X_Token=None)
        assert status == 200
        assert b"http://" not in content
        assert b"https://" not in content


def test_a_request_is_answered(server):
    status, content, _ = ask(server, body=b'{"view": "\\u05d0"}')
    assert (status, json.loads(content)) == (200, {"data": {"view": "א"}})
    assert ask(server, Host=f"localhost:{server.server_port}")[0] == 200
    assert ask(server, Origin=f"http://127.0.0.1:{server.server_port}")[0] == 200


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"X_Token": None}, 403),
        ({"X_Token": ""}, 403),
        ({"X_Token": "wrong"}, 403),
        ({"X_Token": "é"}, 403),
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1"}, 403),
        ({"Host": None}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Content_Length": None}, 411),
        ({"Content_Length": "-1"}, 411),
        ({"Content_Length": "١"}, 411),
        ({"Content_Length": str(LARGEST + 1)}, 413),
        ({"Content_Length": "9" * 5000}, 413),
        ({"body": b"{"}, 400),
        ({"body": b"[" * 200_000}, 400),
        ({"body": b"\xff"}, 400),
        ({"path": "/other"}, 404),
        ({"method": "GET", "path": "/../session.py"}, 404),
        ({"method": "GET", "path": "/ask"}, 404),
        ({"method": "GET", "path": "/", "X_Token": None}, 403),
        ({"method": "GET", "path": "/explorer.js?token=wrong", "X_Token": None}, 403),
        ({"method": "PUT"}, 501),
    ],
)
def test_other_requests_are_refused(server, changes, status):
    if "١" in changes.values() or "é" in changes.values():
        changes = {k: v.encode() if not v.isascii() else v for k, v in changes.items()}
    found, content, _ = ask(server, **changes)
    assert found == status
    assert server.token.encode() not in content


def test_a_token_in_the_url_is_not_enough_to_ask(server):
    assert ask(server, path=f"/ask?token={server.token}", X_Token=None)[0] == 403


def test_a_port_in_use_is_named(server):
    with pytest.raises(InputError, match=f"cannot listen on 127.0.0.1:{server.server_port}: .*; give another port"):
        ExplorerServer(Echo(), server.server_port)
    with pytest.raises(InputError, match="port=70000; give a number from 1 to 65535"):
        ExplorerServer(Echo(), 70000)


def test_nothing_is_printed(server, capfd):
    ask(server, X_Token="wrong")
    ask(server)
    assert capfd.readouterr() == ("", "")
