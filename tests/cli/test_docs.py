"""Tests for echostream.cli.docs: the documentation of a server as files, and for a browser."""

from __future__ import annotations

import json
import re
import signal
import socket
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from tests.cli.running import TIMEOUT, echostream, read_until, started


def test_docs_writes_asyncapi_of_a_running_server(url: str) -> None:
    done = echostream("docs", "gen", "-u", url, "--title", "Shop")
    document = json.loads(done.out)
    assert (document["asyncapi"], document["info"]["title"]) == ("3.1.0", "Shop")
    assert document["servers"]["server1"]["host"] == url.removeprefix("quic://")


def test_docs_writes_a_page_without_a_running_server(tmp_path: Path) -> None:
    page = tmp_path / "shop.html"
    assert echostream("docs", "gen", "tests.cli.app:server", "-o", str(page)) == (0, "", f"wrote {page}\n")
    assert page.read_text("utf-8").startswith("<!DOCTYPE html>")
    assert json.loads(echostream("docs", "gen", "tests.cli.app:server").out)["channels"]["ping"]["address"] == "ping"
    done = echostream("docs", "gen", "tests.cli.app:server", "-o", str(tmp_path / "no" / "where.html"))
    assert done.code == 2
    assert "No such file or directory" in done.err


def test_docs_are_written_of_what_a_factory_makes() -> None:
    assert "ping" in json.loads(echostream("docs", "gen", "tests.cli.app:make", "--factory").out)["channels"]


@pytest.mark.slow
def test_docs_are_served_until_ctrl_c() -> None:
    with started("docs", "serve", "tests.cli.app:server", "--port", "0") as running:
        found = re.search(r"http://127[.\d]+:\d+", read_until(running, "showing"))
        assert found is not None
        with urlopen(found[0] + "/", timeout=TIMEOUT) as page:
            assert page.read().startswith(b"<!DOCTYPE html>")
        with urlopen(found[0] + "/asyncapi.json", timeout=TIMEOUT) as document:
            assert "ping" in json.load(document)["channels"]
        with pytest.raises(HTTPError, match="404"):
            urlopen(found[0] + "/other", timeout=TIMEOUT)
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=TIMEOUT)
        assert (running.returncode, err) == (0, "")


def test_a_port_that_is_taken_is_a_failure() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        done = echostream("docs", "serve", "tests.cli.app:server", "--port", port)
    assert (done.code, done.out) == (1, "")
    assert f"cannot listen on 127.0.0.1:{port} (Address already in use): choose another --port" in done.err
