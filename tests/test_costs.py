"""What a call may cost, counted instead of timed, so that a slow machine does not matter."""

from __future__ import annotations

import gc

from echostream import handler, service
from echostream.protocol.payload import PayloadCodec
from echostream.testing import connect_in_memory
from tests.serving import linked


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
