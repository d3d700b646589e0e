"""Tests for echostream.cli.discover, on the loopback interface."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from echostream.types import random_bytes
from tests.cli.running import echostream, serving

LOOPBACK = ("--interface", "127.0.0.1")

PATIENCE = "2.5"
"""Seconds: an answer that was given to all within the last second is not given again at once (RFC 6762 section 6)."""

PROGRAM = """
from echostream import RpcServer, handler, service

@service("{name}", version="1.4.0")
class Clock:
    @handler
    async def now(self) -> int:
        return 1

server = RpcServer("quic://127.0.0.1:0")
server.register(Clock())
server.enable_discovery("{name}", metadata={{"room": "hall"}})
"""


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_servers_are_found_called_and_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECHOSTREAM_STATE_DIR", str(tmp_path / "state"))
    name = f"clock_{random_bytes(4).hex()}"
    (tmp_path / "clock.py").write_text(PROGRAM.format(name=name), "utf-8")
    with serving("clock", folder=tmp_path) as (_, url):
        table = echostream("discover", name, "--timeout", PATIENCE, *LOOPBACK)
        assert table.code == 0
        assert all(text in table.out for text in (name, "1.4.0", url, "room=hall"))
        assert url in echostream("discover", name, "--timeout", PATIENCE, *LOOPBACK, COLUMNS="60").out
        done = echostream("discover", "--watch", name, "--json", "--timeout", PATIENCE, *LOOPBACK)
        found = json.loads(done.out.splitlines()[0])
        assert (found["event"], found["name"], found["urls"]) == ("arrived", name, [url])
        assert (found["version"], found["services"], found["metadata"]) == ("1.4.0", [name], {"room": "hall"})
        assert echostream("call", f"{name}.now").out == "1\n"  # found by the service's name
        assert name in echostream("certs", "list").out


@pytest.mark.slow
def test_nobody_found_is_a_failure_that_tells_what_to_try() -> None:
    done = echostream("discover", "nobody_has_this_name", "--timeout", "0.3", *LOOPBACK)
    assert done.code == 1
    assert "no service 'nobody_has_this_name' that fits answered within 0.3 s on 127.0.0.1" in done.err
    assert "or name an address: --url quic://host:4433" in echostream("call", "nobody.here", "--wait", "0.3").err
    assert echostream("discover", "nobody_has_this_name", "--timeout", "0.3", "--json", *LOOPBACK) == (1, "", "")
