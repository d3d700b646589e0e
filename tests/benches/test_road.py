"""Tests for benches.road: what is sent over it arrives late or not at all, is counted, and nothing of it stays."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from queue import Queue
from typing import Any

import pytest

from benches import road
from benches.core import ROOT, Plan
from benches.p09_loss import measure
from benches.road import CLIENT, DELAY, SERVER, NoRoadError, Passage, Road, enter, make_road

pytestmark = pytest.mark.slow
PORT = 4433


@pytest.fixture
def way() -> Iterator[Road]:
    try:
        with make_road() as made:
            yield made
    except NoRoadError as error:
        pytest.skip(str(error))


def inside(namespace: str, call: Callable[[], Any]) -> Any:
    """Call in a thread of its own: a thread that entered a namespace stays there."""
    answer: Queue[Any] = Queue()

    def run() -> None:
        enter(namespace)
        answer.put(call())

    threading.Thread(target=run, daemon=True).start()
    return answer.get(timeout=5)


def bound(kind: socket.SocketKind, host: str, port: int) -> Callable[[], socket.socket]:
    def make() -> socket.socket:
        sock = socket.socket(socket.AF_INET, kind)
        sock.bind((host, port))
        sock.settimeout(2)
        return sock

    return make


def test_packets_of_both_protocols_take_their_time_are_counted_and_lost_as_asked(way: Road) -> None:
    passage = Passage(way.control, PORT)
    server = inside(way.server, bound(socket.SOCK_DGRAM, SERVER, PORT))
    client = inside(way.client, bound(socket.SOCK_DGRAM, CLIENT, 0))
    listener = inside(way.server, bound(socket.SOCK_STREAM, SERVER, PORT))
    stream = inside(way.client, bound(socket.SOCK_STREAM, CLIENT, 0))
    with server, client, listener, stream:
        passage.begin(seed=1, loss=0.0, burst=0.0)
        sent_at = time.monotonic()
        client.sendto(b"x" * 72, (SERVER, PORT))
        assert server.recv(100) == b"x" * 72
        assert time.monotonic() - sent_at >= DELAY
        assert passage.end() == {"packets": 1, "lost": 0, "bytes": 100}

        passage.begin(seed=1, loss=0.5, burst=0.0)
        for _ in range(100):
            client.sendto(b"", (SERVER, PORT))
        listener.listen()
        stream.settimeout(20)
        stream.connect((SERVER, PORT))
        counted = passage.end()
        assert counted["packets"] >= 102  # with SYN and its answer
        assert 30 <= counted["lost"] <= 70
    passage.close()


def test_the_same_seed_loses_the_same_packets_and_bursts_keep_the_mean() -> None:
    def fates(seed: str, burst: float, loss: float = 0.1) -> list[bool]:
        fate = road._Fate(seed, loss, burst)
        return [fate.is_lost(number / 1000) for number in range(1, 20_001)]

    assert fates("1", 0.0) == fates("1", 0.0) != fates("2", 0.0)
    for burst, rows in ((0.0, (1.0, 1.3)), (0.01, (8.0, 12.0))):
        lost = fates("1", burst)
        assert sum(lost) / len(lost) == pytest.approx(0.1, abs=0.02)
        starts = sum(now and not before for before, now in pairwise(lost))
        assert rows[0] <= sum(lost) / starts <= rows[1]


def test_nothing_stays_of_a_road_whose_bench_was_killed() -> None:
    program = (
        "import time; from benches.road import *\n"
        "with make_road() as way: print(way.client, way.control); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-u", "-c", program], stdout=subprocess.PIPE, cwd=ROOT, text=True, stderr=subprocess.DEVNULL
    ) as bench:
        assert bench.stdout is not None
        line = bench.stdout.readline().split()
        bench.kill()
    if not line:
        pytest.skip("no road here")
    namespace, control = map(Path, line)
    until = time.monotonic() + 10
    while (namespace.exists() or control.parent.exists()) and time.monotonic() < until:
        time.sleep(0.01)
    assert not namespace.exists()
    assert not control.parent.exists()


def test_without_root_the_row_says_so_and_lanes_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("google.protobuf")
    pytest.importorskip("grpc")
    monkeypatch.setattr(os, "geteuid", lambda: 1000, raising=False)
    told = next(measure(Plan(rounds=1, seconds=0.1)))
    assert told.note.startswith("not run: ")
