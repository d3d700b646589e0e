"""A session's life: opening, draining, closing while everything runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from echostream import (
    INJECTED,
    ConnectionLostError,
    Context,
    EventAck,
    Limits,
    RpcClient,
    Session,
    StreamReceiver,
    handler,
    service,
    stream,
)
from echostream.errors import CloseCode
from echostream.protocol import events as ev
from tests.serving import joined, memory_url, served, session_of, until
from tests.session.world import ALL_WAYS, BOTH, Duo, Gate, duo, left_of


@service("busy")
class Busy:
    """Does everything until it is cancelled, and says what was."""

    def __init__(self) -> None:
        self.running = 0
        self.ended: list[str] = []

    async def _wait(self, name: str) -> None:
        self.running += 1
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)  # cleaning up may take a while
            self.ended.append(name)

    @handler
    async def call(self) -> None:
        await self._wait("call")

    @handler
    async def watch(self) -> AsyncIterator[int]:
        yield 1
        await self._wait("watch")

    @handler
    async def total(self, items: AsyncIterator[int]) -> int:
        async for _ in items:
            await self._wait("total")
        return 0

    @stream("stream")
    async def on_stream(self, receiver: StreamReceiver[Any]) -> None:
        try:
            async for _ in receiver:
                self.running += 1
        finally:
            self.ended.append("stream")

    @handler
    async def close_mine(self, *, ctx: Context = INJECTED) -> None:
        try:
            await ctx.session.close(4002, "from inside")
        finally:
            self.ended.append("close_mine")


async def _forever() -> AsyncIterator[int]:
    yield 1
    await asyncio.Event().wait()


async def _use_everything(ends: Duo, busy: Busy) -> list[asyncio.Future[Any]]:
    """Start one of everything; each future ends with the error of who waits for it."""
    here = ends.here
    proxy = here.proxy(Busy)

    async def event(payload: Any) -> None:
        await busy._wait("event")

    ends.there.on("event", event)
    watching: Any = proxy.watch()
    await anext(watching)
    sender = await here.open_stream("stream")
    await sender.send(1)
    waits = [
        proxy.call(),
        anext(watching),
        proxy.total(_forever()),
        here.emit("event", ack=True),
        sender.receiver.recv(),
        here.call(proxy.call),
        here.wait_closed(),
    ]
    futures = [asyncio.ensure_future(wait) for wait in waits]
    await until(lambda: busy.running == 6)
    return futures


_ENDINGS = ["close here", "close there", "abort here", "abort there", "client closes", "server stops"]


async def _end(ends: Duo, ending: str) -> None:
    if ending == "close here":
        await ends.here.close()
    elif ending == "close there":
        await ends.there.close()
    elif ending == "abort here":
        ends.here.peer.connection.abort()
    elif ending == "abort there":
        ends.there.peer.connection.abort()
    elif ending == "client closes":
        await ends.client.close()
    else:
        await ends.server.stop(grace=0.0)


@pytest.mark.parametrize("ending", _ENDINGS)
@ALL_WAYS
async def test_everybody_who_waits_hears_of_the_end(scheme: str, way: str, ending: str) -> None:
    busy = Busy()
    async with duo(busy, scheme=scheme, way=way) as ends:
        futures = await _use_everything(ends, busy)
        await _end(ends, ending)
        if (scheme, ending) == ("quic", "abort here"):
            ends.there.peer.connection.abort()  # an aborted link says nothing to the other side
        elif (scheme, ending) == ("quic", "abort there"):
            ends.here.peer.connection.abort()
        async with asyncio.timeout(5):
            *answers, reason = await asyncio.gather(*futures, return_exceptions=True)
        assert [type(answer) for answer in answers] == [ConnectionLostError] * 6
        assert isinstance(reason, ConnectionLostError)
        assert ends.here.state == "closed"
    assert sorted(busy.ended) == ["call", "call", "event", "stream", "total", "watch"]


async def test_closing_returns_when_the_tasks_of_the_session_ended() -> None:
    busy = Busy()
    async with duo(busy) as ends:
        futures = await _use_everything(ends, busy)
        await ends.there.close()
        assert left_of(ends.there) == {}
        assert len(busy.ended) == 6
        await ends.here.close()
        assert left_of(ends.here) == {}
        assert all(future.done() for future in futures)
        await asyncio.gather(*futures, return_exceptions=True)


@BOTH
async def test_closing_is_idempotent_and_tells_why(scheme: str) -> None:
    async with duo(scheme=scheme) as ends:
        await asyncio.gather(*(ends.here.close(4001, "enough") for _ in range(3)))
        await ends.here.close()
        mine, theirs = await ends.here.wait_closed(), await ends.there.wait_closed()
        assert mine is not None
        assert theirs is not None
        assert (mine.close_code, mine.message) == (4001, "connection closed by this side: enough")
        assert (theirs.close_code, theirs.message) == (4001, "connection closed by the peer: enough")
        assert ends.here.ending == mine.message


async def test_what_was_written_before_the_close_is_delivered() -> None:
    seen: list[Any] = []
    async with duo() as ends:
        ends.there.on("last", seen.append)
        await ends.here.emit("last", "words")
        await ends.here.close()
        await ends.there.wait_closed()
    assert seen == ["words"]


async def test_a_handler_may_close_its_own_session() -> None:
    busy = Busy()
    async with duo(busy) as ends:
        with pytest.raises(ConnectionLostError, match="connection closed by the peer: from inside"):
            await ends.here.request("busy.close_mine")
        await until(lambda: busy.ended == ["close_mine"])


async def test_a_handler_of_a_session_that_ended_may_clean_up_before_the_server_stops() -> None:
    gate, cleaned = Gate(), list[str]()

    @handler("tidy")
    async def tidy() -> None:
        try:
            await gate.pass_through()
        finally:
            for _ in range(5):
                await asyncio.sleep(0)
            cleaned.append("up")

    async with served(tidy) as server:
        async with joined(server) as client:
            call = asyncio.create_task(client.request("tidy"))
            await gate.reached.wait()
        with pytest.raises(ConnectionLostError):
            await call
    assert cleaned == ["up"]


@BOTH
async def test_a_session_is_the_same_on_both_sides(scheme: str) -> None:
    async with duo(scheme=scheme) as ends:
        assert ends.here.id == ends.there.id != ""
        assert (ends.here.role, ends.there.role) == ("client", "server")
        assert ends.here.state == ends.there.state == "open"
        assert ends.here.principal is None
        assert ends.here.peer_address
        assert repr(ends.here) == f"<Session {ends.here.id} open {ends.here.peer_address}>"
        assert ends.here.ending == ""
        assert ends.here.dropped_events == 0


async def test_draining_lets_what_runs_go_on_and_takes_nothing_new() -> None:
    gate = Gate()

    @handler("slow")
    async def slow() -> str:
        await gate.pass_through()
        return "served"

    async with duo(slow) as ends:
        call = asyncio.create_task(ends.here.request("slow"))
        await gate.reached.wait()
        ends.there.drain(CloseCode.SHUTDOWN, "bye")
        ends.there.drain(CloseCode.SHUTDOWN, "bye")
        await until(lambda: ends.here.state == "draining")
        assert ends.there.state == "draining"
        gate.opened.set()
        assert await call == "served"
        assert await ends.there.emit("still", ack=True) == EventAck(0, 0)
    ends.there.drain(CloseCode.SHUTDOWN, "too late")


async def test_a_session_that_ends_before_it_opened_fails_those_who_wait_for_it() -> None:
    reached = asyncio.Event()

    async def authenticate(credentials: str | None) -> None:
        reached.set()
        await asyncio.Event().wait()

    url = memory_url()
    async with served(url=url, authenticate=authenticate) as server:
        connecting = asyncio.create_task(RpcClient.connect(url))
        await reached.wait()
        (session,) = server._admission.arriving
        assert isinstance(session, Session)
        assert session.state == "connecting"
        await session.close(4003, "no time")
        with pytest.raises(ConnectionLostError):
            await session.opened
        with pytest.raises(Exception, match="no time"):
            await connecting


async def test_a_peer_that_does_not_introduce_itself_is_sent_away() -> None:
    from echostream.transport.base import Address
    from echostream.transport.memory import MemoryTransport
    from tests.transport.conformance import Recorder

    async with served(limits=Limits(hello_timeout=0.05)) as server:
        silent: list[Recorder] = []

        def accept(connection: Any) -> Recorder:
            silent.append(Recorder(connection))
            return silent[0]

        await MemoryTransport().dial(Address.parse(server.addresses[0]), accept=accept)
        reason = await asyncio.wait_for(silent[0].ended(), 5)
        assert (reason.code, reason.reason) == (CloseCode.HELLO_TIMEOUT, "no hello within 0.05 s")


async def test_a_goodbye_changes_nothing_by_itself() -> None:
    async with duo() as ends:
        ends.here.on_go_away(ev.GoAwayReceived(3001, "bye", []))
        assert ends.here.state == "open"
        ends.here.open()
        assert session_of(ends.server, ends.client) is ends.there
