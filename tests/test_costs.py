"""What a call may cost, counted instead of timed, so that a slow machine does not matter."""

from __future__ import annotations

import gc

from echostream import handler, service
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
