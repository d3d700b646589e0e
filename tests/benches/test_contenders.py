"""Every contender of the benches answers right, and is measured: client and server in this process, for a moment."""

from __future__ import annotations

import asyncio
import importlib
from typing import Any

import pytest

from benches import handler_counts, p04_bytes
from benches.core import Contender, Plan, contest
from echostream.transport.quic import transport

TYPED = {"in_flight": 4}


@pytest.fixture(autouse=True)
def _settings_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vars(transport), "QuicSettings", vars(transport)["QuicSettings"])  # some contenders replace it


@pytest.mark.parametrize(
    ("server", "client", "options", "arguments", "needs"),
    [
        ("typed:serve", "typed:connect", {"engine": "aioquic"}, TYPED, ()),
        ("grpc_typed:serve", "grpc_typed:connect", {}, TYPED, ("grpc", "google.protobuf")),
        ("p04_bytes:serve", "p04_bytes:connect", {"engine": "aioquic"}, TYPED, ()),
        ("nats_bytes:serve", "nats_bytes:connect", {}, TYPED, ("nats",)),
        ("zenoh_bytes:serve", "zenoh_bytes:connect", {}, TYPED, ("zenoh",)),
        ("p05_ceiling:serve", "p05_ceiling:connect", {"engine": "aioquic"}, TYPED, ()),
        ("p06_bulk:serve", "p06_bulk:connect", {"engine": "aioquic", "datagram_bytes": 8952}, {}, ()),
        ("p06_bulk:serve_stock", "p06_bulk:connect_stock", {"engine": "aioquic"}, {}, ()),
        ("p06_bulk:serve_grpc", "p06_bulk:connect_grpc", {}, {}, ("grpc",)),
        ("p07_memory:serve", "p07_memory:connect", {"engine": "aioquic", "count": 3}, {}, ()),
        ("p07_memory:serve_raw", "p07_memory:connect", {"engine": "aioquic", "count": 3}, {}, ()),
        ("p08_opening:serve", "p08_opening:connect", {"engine": "aioquic"}, {}, ()),
        ("p08_opening:serve_nothing", "p08_opening:handshakes", {"engine": "aioquic"}, {}, ()),
        ("p08_opening:serve_nothing", "p08_opening:handshakes", {"engine": "qh3"}, {}, ("qh3",)),
        ("p10_fanout:serve", "p10_fanout:connect", {"engine": "aioquic", "count": 3}, {}, ()),
        ("p10_fanout:serve_raw", "p10_fanout:connect", {"engine": "aioquic", "count": 3}, {}, ()),
        ("payload_sizes:serve", "payload_sizes:connect", {"engine": "aioquic"}, {"size": 1 << 16}, ()),
        ("session_counts:serve", "session_counts:connect", {"engine": "aioquic"}, {"sessions": 3}, ()),
        ("churn:serve", "churn:connect", {"engine": "aioquic"}, {}, ()),
    ],
)
def test_a_contender_is_measured(
    server: str, client: str, options: dict[str, Any], arguments: dict[str, Any], needs: tuple[str, ...]
) -> None:
    for module in needs:
        pytest.importorskip(module)

    async def scenario() -> dict[str, float]:
        async with _enter(server, options) as ready, _enter(client, options | ready) as measure:
            figures: dict[str, float] = await measure(seconds=0.02, **arguments)
            return figures

    figures = asyncio.run(scenario())
    assert figures
    assert all(value > 0 for key, value in figures.items() if key not in ("bytes", "memory")), figures


def _enter(place: str, options: dict[str, Any]) -> Any:
    module, _, function = place.partition(":")
    return getattr(importlib.import_module(f"benches.{module}"), function)(**options)


def test_a_peer_or_its_program_that_is_missing_is_named_and_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = {"zenoh"}
    monkeypatch.setattr(p04_bytes, "missing", lambda *modules: ", ".join(absent & {*modules}))
    monkeypatch.setattr(p04_bytes, "find_nats_server", lambda: None)
    notes = [row.note for row in p04_bytes.measure(Plan(rounds=1, seconds=0.1))]
    assert notes == ["not run: nats-server is not installed; pip install 'echostream[bench]'", "zenoh"]


def test_a_server_with_many_handlers_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handler_counts, "_COUNTS", (1, 300))
    times = asyncio.run(handler_counts._rounds(1))
    assert {count: len(found) for count, found in times.items()} == {1: 1, 300: 1}


@pytest.mark.slow
def test_contenders_take_turns_in_processes_of_their_own() -> None:
    told: list[str] = []
    contenders = [
        Contender(name, "benches.typed:serve", "benches.typed:connect", options={"engine": "aioquic"})
        for name in ("one", "two")
    ]
    results = contest(contenders, Plan(rounds=2, seconds=0.05, tell=told.append), in_flight=2)
    assert {name: len(rounds) for name, rounds in results.items()} == {"one": 2, "two": 2}
    assert [text for text in told if text.startswith("round")] == [
        "round 1 of 2: one", "round 1 of 2: two", "round 2 of 2: one", "round 2 of 2: two"
    ]  # fmt: skip
