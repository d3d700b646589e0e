"""What a call may cost, counted instead of timed, so that a slow machine does not matter."""

from __future__ import annotations

import asyncio
import gc
import socket
import statistics
import sys
from collections.abc import Awaitable, Callable, Sequence
from types import FrameType, FunctionType, MethodType, ModuleType
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest

from echostream import handler, service
from echostream.middleware import Middleware, Request, RequestNext
from echostream.protocol.payload import PayloadCodec
from echostream.session.tasks import start_eagerly
from echostream.testing import connect_in_memory
from echostream.transport.tls import ServerTls
from tests.serving import QUIC, joined, linked, served, session_of
from tests.transport.lab import CLIENT, Lab


@service("echo")
class Echo:
    @handler
    async def say(self, text: str) -> str:
        return text


async def test_a_unary_call_leaves_nothing_to_the_garbage_collector() -> None:
    async with linked(Echo()) as (_, client):
        echo = client.proxy(Echo)
        assert await echo.say("warm") == "warm"
        gc.collect()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            for _ in range(20):
                assert await echo.say("hi") == "hi"
            gc.collect()
            left = [type(item).__name__ for item in gc.garbage]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
        assert left == []


async def test_all_sessions_of_a_server_share_one_packer() -> None:
    """A used one holds 4 KiB, see performance.md."""
    async with linked(Echo()) as (server, client):
        assert await client.proxy(Echo).say("warm") == "warm"
        gc.collect()
        before = sum(isinstance(item, PayloadCodec) for item in gc.get_objects())
        async with connect_in_memory(server) as other, connect_in_memory(server) as another:
            for more in (other, another):
                assert await more.proxy(Echo).say("hi") == "hi"
            gc.collect()
            after = sum(isinstance(item, PayloadCodec) for item in gc.get_objects())
    assert after - before == 2  # the clients'


async def test_an_idle_session_costs_a_server_five_kilobytes() -> None:
    """What is reachable from one session and from no other, without its connection."""
    async with linked(Echo()) as (server, _), connect_in_memory(server):
        one, another = server.sessions
        walls = [server, one._owner, one.runtime, one.loop, one.peer.connection, another.peer.connection]
        shared = _reachable(another, walls)
        own = _reachable(one, [*walls, *shared])
        assert 2500 < sum(map(sys.getsizeof, own)) < 5500


def _reachable(root: object, walls: Sequence[object]) -> list[object]:
    seen, found, left = set(map(id, walls)), list[object](), [root]
    while left:
        item = left.pop()
        if id(item) not in seen and not isinstance(item, type | ModuleType | FunctionType | MethodType):
            seen.add(id(item))
            found.append(item)
            left += gc.get_referents(item)
    return found


class Layer(Middleware):
    async def inbound_request(self, request: Request, call_next: RequestNext) -> Any:
        return await call_next(request)


async def counted(wanted: Callable[[str, Any], bool], work: Callable[[], Awaitable[object]], times: int) -> float:
    """Count what the interpreter reports about a piece of work, for the median of `times` runs of it.

    A timer that fires in between is no part of the work.
    """
    runs: list[int] = []
    seen = 0

    def count(_frame: FrameType, event: str, arg: Any) -> None:
        nonlocal seen
        seen += wanted(event, arg)

    await work()  # warm
    sys.setprofile(count)
    try:
        for _ in range(times):
            seen = 0
            await work()
            runs.append(seen)
    finally:
        sys.setprofile(None)
    return statistics.median(runs)


async def calls_of_python(*, server: Sequence[Middleware] = (), client: Sequence[Middleware] = ()) -> float:
    """Count the functions that Python enters for one unary call, on both sides together."""
    async with served(Echo(), middleware=server) as running, joined(running, middleware=client) as caller:
        echo = caller.proxy(Echo)
        return await counted(lambda event, _: event == "call", lambda: echo.say("hi"), 20)


async def together(echo: Echo, count: int = 64) -> None:
    """Make so many calls at once."""
    await asyncio.gather(*(echo.say("hi") for _ in range(count)))


async def test_a_unary_call_takes_no_more_steps_than_it_did() -> None:
    """Raise these figures for nothing less than a feature; bring them down with every step that is saved."""
    assert await calls_of_python() <= 142
    async with linked(Echo()) as (_, client):
        echo = client.proxy(Echo)
        assert await counted(lambda event, _: event == "call", lambda: together(echo), 5) / 64 <= 64


@pytest.mark.parametrize("engine", ["aioquic", "qh3"])
async def test_calls_that_are_made_together_share_packets_and_system_calls(engine: str) -> None:
    pytest.importorskip(engine)
    system = {"recv", "recv_into", "recvfrom", "recvmsg", "recvmsg_into", "send", "sendto", "sendmsg"}

    def is_system_call(event: str, function: Any) -> bool:
        return event == "c_call" and function.__name__ in system and isinstance(function.__self__, socket.socket)

    async with served(Echo(), url=QUIC, engine=engine) as server, joined(server, engine=engine) as client:
        echo = client.proxy(Echo)
        assert await counted(is_system_call, lambda: together(echo), 20) <= 16  # for 64 calls
        assert await counted(is_system_call, lambda: echo.say("hi"), 20) <= 10


async def test_calls_that_come_together_and_never_wait_share_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    start = start_eagerly

    def noted(*args: Any, **options: Any) -> Any:
        made.append(args)
        return start(*args, **options)

    monkeypatch.setattr("echostream.routing.running.start_eagerly", noted)
    async with linked(Echo()) as (_, client):
        echo = client.proxy(Echo)
        await together(echo)
        assert len(made) == 2  # the client pushes after 32
        await echo.say("hi")
        assert len(made) == 3


async def test_a_unary_call_adds_so_many_bytes_to_its_payloads() -> None:
    written: list[int] = []
    async with linked(Echo()) as (server, client):
        echo = client.proxy(Echo)
        for session in (client.session, session_of(server, client)):
            connection = session.peer.connection
            write = connection.write

            def noted(stream_id: int, data: bytes, *, fin: bool = False, write: Any = write) -> bool:
                written.append(len(data))
                return bool(write(stream_id, data, fin=fin))

            connection.write = noted  # type: ignore[method-assign]
        await echo.say("hi")
    request, response = written[:2]
    assert request - len(msgpack.packb([["hi"], {}])) == 24 + len("echo.say")
    assert response - len(msgpack.packb("hi")) == 15


async def test_calls_leave_no_memory_behind() -> None:
    async with linked(Echo()) as (_, client):
        echo = client.proxy(Echo)
        for _ in range(3):
            await together(echo)
        gc.collect()
        before = sys.getallocatedblocks()
        for _ in range(20):
            await together(echo)
        gc.collect()
        assert sys.getallocatedblocks() - before < 64  # for 1,280 calls


async def test_middleware_that_takes_no_part_costs_a_call_nothing() -> None:
    class Elsewhere(Middleware):
        inbound_event = Layer.inbound_request  # type: ignore[assignment]

    bare = await calls_of_python()
    assert await calls_of_python(server=[Middleware(), Elsewhere()], client=[Middleware(), Elsewhere()]) == bare


async def test_every_further_layer_costs_the_same() -> None:
    one, two, ten = [await calls_of_python(server=[Layer()] * count) for count in (1, 2, 10)]
    assert ten - one == 9 * (two - one)
    assert two - one <= 5  # the layer, the step to the next one, and both again for each wait


@pytest.mark.parametrize(("engine", "limit"), [("aioquic", 12), ("qh3", 1)])
def test_a_packet_of_a_bulk_transfer_takes_no_more_steps_than_it_did(engine: str, limit: int) -> None:
    """Functions that Python enters for one, in the engine of the sender and in that of the receiver."""
    pytest.importorskip(engine)
    lab = Lab(ServerTls.load(), (engine, engine))
    lab.run()
    stream = lab.client.open_stream(unidirectional=True)
    for _ in range(12):  # until the window is wide
        lab.client.send(stream, bytes(100_000), fin=False)
        lab.run(6)
    entered = 0

    def count(_frame: FrameType, event: str, _arg: Any) -> None:
        nonlocal entered
        entered += event == "call"

    def steps(work: Callable[[], object]) -> int:
        nonlocal entered
        entered = 0
        sys.setprofile(count)
        try:
            work()
        finally:
            sys.setprofile(None)
        return entered

    lab.client.send(stream, bytes(63_000), fin=False)
    sent: list[tuple[bytes, object]] = []
    sending = steps(lambda: sent.extend(lab.client.transmit(lab.now)))
    packets = [data for data, _ in sent]
    receiving = steps(lambda: (lab.server.receive(packets, CLIENT, lab.now), lab.server.deliver(lab.at_server)))
    assert len(packets) == 44
    assert max(sending, receiving) / 44 <= limit
