"""Tests for echostream.cli.sync."""

from __future__ import annotations

import json
import math
import os
import pty
import re
import signal
import subprocess
import sys
from contextlib import suppress

import pytest

from echostream.cli.sync import _curve, _facts, _line
from echostream.session.clock_quality import ClockQuality, ClockStep
from tests.cli.running import ROOT, TIMEOUT, echostream, environment, serving, started

LINE = re.compile(
    r"offset [+-]\d+\.\d{3} ms  drift [+-]\d+\.\d\d ppm  round trip \d+\.\d{3} ms  bound ±\d+\.\d{3} ms  in step.*"
)


def test_readings_are_lines_where_nobody_watches(url: str) -> None:
    done = echostream("sync", url, "-n", "3", "--interval", "0.05")
    assert (done.code, done.err) == (0, "")
    assert len(done.out.splitlines()) == 3
    assert all(map(LINE.fullmatch, done.out.splitlines())), done.out


def test_a_reading_is_one_line_of_json(url: str) -> None:
    done = echostream("sync", "--url", url, "--count", "2", "--interval", "0.05", "--json")
    first, second = map(json.loads, done.out.splitlines())
    assert (done.code, first["verdict"], second["locked"]) == (0, "in step", True)
    assert abs(second["offset_ns"]) < second["error_bound_ns"] + 1_000_000, "one machine, one clock"
    assert second["sent"] >= first["sent"] > 5
    assert second["round_trip_ns"] > 0
    assert set(first) >= {"drift_ppm", "queue_out_ns", "queue_back_ns", "late_ns", "last_step", "lost", "faults"}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "say which server: --url quic://host:port, or --service NAME"),
        (["quic://h:1", "--service", "x"], "give an address or --service: not both"),
        (["-n", "0", "quic://h:1"], "Invalid value for '--count' / '-n'"),
        (["--interval", "0", "quic://h:1"], "Invalid value for '--interval'"),
        (["h:1"], "'h:1' has no scheme, expected like quic://host:4433"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: list[str], text: str) -> None:
    done = echostream("sync", *arguments)
    assert (done.code, done.out) == (2, "")
    assert text in done.err


def test_a_server_that_is_not_there_is_an_error() -> None:
    done = echostream("sync", "quic://127.0.0.1:9", "--wait", "0.5", "--json")
    assert done.code == 1
    assert json.loads(done.err)["code"] == "UNAVAILABLE"


def test_what_is_wrong_stands_behind_the_reading() -> None:
    step = ClockStep(5_000_000_000, local_ns=0, was_asleep=True)
    quality = ClockQuality(offset_ns=1_500_000, sent=40, answered=20, lost=20, late_ns=30_000_000, last_step=step)
    assert _line(quality) == (
        "offset +1.500 ms  drift +0.00 ppm  round trip unknown  bound unknown  locking; 20 of 40 probes were lost; "
        "overloaded loop: this program came 30 ms late to its own timer; "
        "suspended: this machine was asleep for 5000.000 ms"
    )
    facts = _facts(quality)
    assert facts["error_bound_ns"] is None
    assert facts["last_step"] == {"size_ns": 5_000_000_000, "local_ns": 0, "was_asleep": True}


def test_a_curve_spans_from_the_least_to_the_greatest() -> None:
    assert _curve([1.0, 2.0, 8.0]) == "▁▂█"
    assert _curve([3.0, 3.0]) == "▁▁"
    assert _curve([3.0, math.inf]) == ""


@pytest.mark.slow
def test_a_terminal_gets_a_picture_until_ctrl_c_or_the_end_of_the_server() -> None:
    with serving("tests.cli.app:server") as (server, url):
        screen, inside = pty.openpty()
        with subprocess.Popen(
            [sys.executable, "-m", "echostream", "sync", url, "-n", "2", "--interval", "0.1"],
            cwd=ROOT, env=environment(COLUMNS="120"), stdin=subprocess.DEVNULL, stdout=inside,
        ) as drawing:  # fmt: skip
            os.close(inside)
            seen = b""
            with suppress(OSError):  # what a terminal says that nobody writes to any more
                while part := os.read(screen, 1 << 16):
                    seen += part
            assert drawing.wait(TIMEOUT) == 0
        os.close(screen)
        text = seen.decode()
        for words in (f"session time of {url.removeprefix('quic://')}", "error bound", "answered", "in step"):
            assert words in text
        with started("sync", url, "--interval", "0.1") as interrupted:
            assert interrupted.stdout is not None
            assert LINE.match(interrupted.stdout.readline())
            interrupted.send_signal(signal.SIGINT)
            interrupted.communicate(timeout=TIMEOUT)
        assert interrupted.returncode == 130
        with started("sync", url, "--interval", "0.1") as left:
            assert left.stdout is not None
            left.stdout.readline()
            server.send_signal(signal.SIGINT)
            _, err = left.communicate(timeout=TIMEOUT)
        server.wait(TIMEOUT)
        assert left.returncode == 1
        assert "server is shutting down" in err
