"""The sessions of a server, and events for all of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from echostream import BroadcastResult, Limits, RpcClient, RpcServer, event
from echostream.errors import ConfigurationError, InvalidArgumentError
from echostream.protocol.payload import PayloadCodec
from tests.serving import joined, served, session_of, until
from tests.session.world import BOTH, duo, frozen


@event("news")
@dataclass
class News:
    text: str


@pytest.fixture
async def three(scheme: str) -> AsyncIterator[tuple[RpcServer, list[RpcClient]]]:
    url = "quic://127.0.0.1:0" if scheme == "quic" else None
    async with (
        served(url=url) as server,
        joined(server) as one,
        joined(server) as two,
        joined(server, limits=Limits(max_payload_bytes=1024)) as small,
    ):
        yield server, [one, two, small]


@BOTH
async def test_a_broadcast_reaches_every_session(three: tuple[RpcServer, list[RpcClient]]) -> None:
    server, clients = three
    seen: list[tuple[int, Any]] = []
    for number, client in enumerate(clients):
        client.on(News, lambda payload, number=number: seen.append((number, payload)))
    assert server.broadcast(News("hello")) == BroadcastResult(sent=3, failed=0)
    assert server.broadcast("news", {"text": "again"}) == BroadcastResult(3, 0)
    await until(lambda: len(seen) == 6)
    assert sorted(number for number, _ in seen) == [0, 0, 1, 1, 2, 2]
    assert [payload for number, payload in seen if number == 0] == [News("hello"), News("again")]


async def test_a_broadcast_is_encoded_once(
    three: tuple[RpcServer, list[RpcClient]], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, clients = three
    seen: list[Any] = []
    for client in clients:
        client.on("a", seen.append)
    encoded: list[Any] = []
    encode = PayloadCodec.encode

    def counted(self: PayloadCodec, value: Any) -> bytes:
        encoded.append(value)
        return encode(self, value)

    monkeypatch.setattr(PayloadCodec, "encode", counted)
    assert server.broadcast("a", {"x": 1}) == BroadcastResult(3, 0)
    await until(lambda: len(seen) == 3)
    assert encoded == [{"x": 1}]


async def test_where_picks_the_sessions(three: tuple[RpcServer, list[RpcClient]]) -> None:
    server, clients = three
    seen: list[Any] = []
    for client in clients:
        client.on("a", seen.append)
    wanted = clients[1].session.id
    assert server.broadcast("a", 1, where=lambda session: session.id == wanted) == BroadcastResult(1, 0)
    assert server.broadcast("a", 1, where=lambda _: False) == BroadcastResult(0, 0)
    await until(lambda: seen)
    assert seen == [1]


async def test_sessions_that_cannot_take_it_are_counted(three: tuple[RpcServer, list[RpcClient]]) -> None:
    server, clients = three
    assert server.broadcast("a", bytes(2000)) == BroadcastResult(sent=2, failed=1)
    session_of(server, clients[0]).peer.protocol.link.ready = False
    assert server.broadcast("a", 1) == BroadcastResult(sent=2, failed=1)
    session_of(server, clients[0]).peer.protocol.link.ready = True


async def test_a_slow_session_holds_nobody_up() -> None:
    limits = Limits(high_watermark_bytes=1 << 15, low_watermark_bytes=1 << 10)
    async with duo(way="down", limits=limits) as ends:
        with frozen(ends):
            results: list[BroadcastResult] = []
            for _ in range(10):
                results.append(ends.server.broadcast("a", bytes(10_000)))
                ends.here.peer.flush()
            assert results[0] == BroadcastResult(1, 0)
            assert results[-1] == BroadcastResult(0, 1)


async def test_a_mistake_is_raised_and_not_counted(three: tuple[RpcServer, list[RpcClient]]) -> None:
    server, _ = three
    with pytest.raises(ConfigurationError):
        server.broadcast(7)
    with pytest.raises(InvalidArgumentError):
        server.broadcast("n" * 70_000)


async def test_sessions_come_and_go(scheme: str) -> None:
    async with served() as server:
        assert (len(server.sessions), list(server.sessions)) == (0, [])
        assert server.broadcast("a") == BroadcastResult(0, 0)
        async with joined(server) as client:
            session = session_of(server, client)
            assert list(server.sessions) == [session]
            assert session in server.sessions
            assert client.session in server.sessions  # the same conversation
            assert "nobody" not in server.sessions
            assert server.sessions.get(session.id) is session
            assert server.sessions.get("other") is None
            assert repr(server.sessions) == "<SessionManager 1 sessions>"
        await until(lambda: not len(server.sessions))
        server.sessions.discard(session)


async def test_a_session_is_only_taken_out_by_itself() -> None:
    async with duo() as ends:
        other: Any = type("Other", (), {"id": ends.there.id})()
        ends.server.sessions.discard(other)
        assert len(ends.server.sessions) == 1


async def test_iterating_is_safe_while_sessions_leave() -> None:
    async with served() as server, joined(server), joined(server):
        for session in server.sessions:
            await session.close()
        assert len(server.sessions) == 0
