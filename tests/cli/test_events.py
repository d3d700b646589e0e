"""Tests for echostream.cli.events."""

from __future__ import annotations

import json
import signal

import pytest

from tests.cli.running import TIMEOUT, echostream, read_until, serving, started


def test_emit_says_who_listened(url: str) -> None:
    assert echostream("emit", "-u", url, "wish.made", '{"a": 1}') == (0, '{"listeners": 1, "failed": 0}\n', "")
    assert echostream("emit", "-u", url, "wish.made", "-", stdin="[1]").out == '{"listeners": 1, "failed": 0}\n'
    assert echostream("emit", "-u", url, "wish.made").code == 0
    assert echostream("emit", "-u", url, "wish.made", "--no-ack") == (0, "", "")


def test_emit_tells_when_nobody_listens_or_a_listener_fails(url: str) -> None:
    done = echostream("emit", "-u", url, "wihs.made", "1")
    assert (done.code, done.err) == (0, "nobody on the server listens to wihs.made\n")
    assert echostream("emit", "-u", url, "brokn").err.endswith("listens to brokn; did you mean broken?\n")
    done = echostream("emit", "-u", url, "broken", "1")
    assert (done.code, done.out) == (1, '{"listeners": 1, "failed": 1}\n')
    assert done.err == "its listener failed; the server's log says why\n"
    done = echostream("emit", "-u", url, "price.changed", '{"symbol": "A", "price": "x"}')
    assert done.code == 1
    assert done.err.endswith("the server's log says why; expected PriceChanged with symbol: str, price: float\n")


@pytest.mark.parametrize("name", ["", "wish.*"])
def test_a_pattern_is_no_event(url: str, name: str) -> None:
    done = echostream("emit", "-u", url, name, "1")
    assert (done.code, done.err) == (2, f"error: {name!r} is no name of an event: only listeners have patterns\n")


def test_an_event_is_not_sent_to_whoever_is_found_first() -> None:
    done = echostream("emit", "wish.made", "1")
    assert done.code == 2
    assert "error: say which server: --url quic://host:port, or --service NAME" in done.err


def test_a_payload_that_is_no_json_is_refused(url: str) -> None:
    done = echostream("emit", "-u", url, "wish.made", "{a}")
    assert done.code == 2
    assert "error: payload: '{a}' is not JSON: " in done.err
    assert done.err.endswith("(char 1)\n")
    assert echostream("emit", "-u", url, "wish.made", "pony").err.endswith('; text needs its quotes, "pony"\n')


@pytest.mark.slow
def test_events_are_printed_as_they_come() -> None:
    with serving("tests.cli.app:server") as (server, url):
        with started("events", "-u", url, "price.*", "--count", "2") as listening:
            read_until(listening, "listening to price.*")
            assert echostream("call", "-u", url, "shop.prices", "3").code == 0
            out, _ = listening.communicate(timeout=TIMEOUT)
        assert listening.returncode == 0
        assert [json.loads(line) for line in out.splitlines()] == [
            {"event": "price.changed", "payload": {"symbol": "ACME", "price": number}} for number in (0.0, 1.0)
        ]
        with started("events", "-u", url) as interrupted:
            read_until(interrupted, "listening to *")
            interrupted.send_signal(signal.SIGINT)
            interrupted.communicate(timeout=TIMEOUT)
        assert interrupted.returncode == 130
        with started("events", "-u", url) as left:
            read_until(left, "listening to *")
            server.send_signal(signal.SIGINT)
            _, err = left.communicate(timeout=TIMEOUT)
        server.wait(TIMEOUT)
        assert left.returncode == 1
        assert "server is shutting down" in err
