"""`unpact explore` serves a page until it is stopped, and refuses wrong input before it serves."""

import json
import os
import signal
import socket
import time
import urllib.request
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.cli.conftest import builtin, in_child


def wait_for_line(file, seconds=120):
    end = time.monotonic() + seconds
    while not file.read_text().endswith("\n"):
        assert time.monotonic() < end
        time.sleep(0.01)
    return file.read_text().strip()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_it_serves_until_a_signal_ends_it(one_load, tmp_path, number):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have started the tests with it ignored
    builtin("builtin")
    builtin("builtin-retrain")
    out, err = (os.open(tmp_path / name, os.O_RDWR | os.O_CREAT) for name in ("out", "err"))
    pid = in_child(("explore", "builtin", "builtin-retrain", "--no-browser"), out, err)
    try:
        url = wait_for_line(tmp_path / "out")
        token = parse_qs(urlsplit(url).query)["token"][0]
        address = f"http://127.0.0.1:{urlsplit(url).port}"
        assert b"unpact explore" in urllib.request.urlopen(url, timeout=30).read()
        body = json.dumps({"view": "setup"}).encode()
        asked = urllib.request.Request(f"{address}/ask", body, {"X-Token": token})
        found = json.load(urllib.request.urlopen(asked, timeout=30))["data"]
        assert [m["name"] for m in found["models"]] == ["builtin", "builtin-retrain"]
        assert found["facts"]
    finally:
        os.kill(pid, number)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    said = (tmp_path / "err").read_text()
    assert status == 128 + number, said
    assert said.splitlines()[-1].endswith("the explorer is closed, nothing was kept")
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", urlsplit(url).port), timeout=5)


def test_wrong_input_is_told_in_one_line(unpact, one_load, tmp_path):
    empty = tmp_path / "empty.csv"
    empty.write_text("prompt,answer\n")
    for arguments, message in [
        (("builtin", "biltin"), "did you mean 'builtin'"),
        (
            ("builtin", "builtin", "--facts", "bultin"),
            "--facts 'bultin' is no file and no benchmark; did you mean 'builtin'",
        ),
        (("builtin", "builtin", "--facts", str(empty)), "empty.csv"),
        (("builtin", "builtin", "--port", "70000"), "--port"),
        (("builtin",), "after"),
    ]:
        status, out, err = unpact("explore", *arguments, "--no-browser")
        assert (status, out) == (2, ""), arguments
        assert message.lower() in err.lower()


def test_a_port_in_use_is_named(unpact, one_load):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, _, err = unpact("explore", "builtin", "builtin", "--no-browser", "--port", str(port))
    assert status == 2
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use; give another port" in err
