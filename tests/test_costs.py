"""What a call may cost, counted instead of timed, so that a slow machine does not matter."""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from types import FrameType, FunctionType, MethodType, ModuleType
from typing import Any

from echostream import handler, service
from echostream.middleware import Middleware, Request, RequestNext
from echostream.protocol.payload import PayloadCodec
from echostream.testing import connect_in_memory
from tests.serving import joined, linked, served


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


async def calls_of_python(*, server: Sequence[Middleware] = (), client: Sequence[Middleware] = ()) -> float:
    """Count the functions that Python enters for one unary call, on both sides together."""
    entered = 0

    def count(_frame: FrameType, event: str, _arg: object) -> None:
        nonlocal entered
        entered += event == "call"

    async with served(Echo(), middleware=server) as running, joined(running, middleware=client) as caller:
        echo = caller.proxy(Echo)
        assert await echo.say("warm") == "warm"
        sys.setprofile(count)
        try:
            for _ in range(20):
                await echo.say("hi")
        finally:
            sys.setprofile(None)
    return entered / 20


async def test_middleware_that_takes_no_part_costs_a_call_nothing() -> None:
    class Elsewhere(Middleware):
        inbound_event = Layer.inbound_request  # type: ignore[assignment]

    bare = await calls_of_python()
    assert await calls_of_python(server=[Middleware(), Elsewhere()], client=[Middleware(), Elsewhere()]) == bare


async def test_every_further_layer_costs_the_same() -> None:
    one, two, ten = [await calls_of_python(server=[Layer()] * count) for count in (1, 2, 10)]
    assert ten - one == 9 * (two - one)
    assert two - one <= 5  # the layer, the step to the next one, and both again for each wait
