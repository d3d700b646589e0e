"""Every kind of handler runs in a real task, however it is started: time-outs, task groups, identity, variables.

A coroutine that is stepped outside a task breaks all four, and calls are answered in place where they never wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextvars import ContextVar
from typing import Any

import pytest

from echostream import INJECTED, Context, StreamReceiver, handler, listener, service, stream
from tests.session.world import Duo, duo, numbers

_secret: ContextVar[str] = ContextVar("eager_secret", default="nothing")
_mark: ContextVar[int] = ContextVar("eager_mark", default=0)


async def _probe(method: str) -> str:
    """Do in a handler what only works in a task; return "fine", or raise."""
    task = asyncio.current_task()
    assert task is not None
    assert task in asyncio.all_tasks()
    assert Context.current().method == method
    assert _secret.get() == "nothing"  # the caller's variables do not cross
    assert _mark.get() == 0  # nor do those of the call before
    token = _mark.set(1)
    async with asyncio.timeout(5):
        await asyncio.sleep(0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await asyncio.sleep(1)
    async with asyncio.TaskGroup() as group:
        child = group.create_task(_child())
    assert child.result() == 1
    _mark.reset(token)
    assert _mark.get() == 0
    _mark.set(2)
    assert asyncio.current_task() is task
    assert task.cancelling() == 0
    return "fine"


async def _child() -> int:
    assert Context.current() is not None
    return _mark.get()


@service("shapes")
class Shapes:
    """One handler of each shape."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    @handler
    async def unary(self) -> str:
        return await _probe("shapes.unary")

    @handler
    async def never_waits(self) -> bool:
        task = asyncio.current_task()
        return task is not None and Context.current().method == "shapes.never_waits"

    @handler
    async def server_streaming(self) -> AsyncIterator[str]:
        task = asyncio.current_task()
        yield await _probe("shapes.server_streaming")
        assert asyncio.current_task() is task
        yield "fine"

    @handler
    async def client_streaming(self, items: AsyncIterator[int]) -> str:
        assert [item async for item in items] == [0, 1, 2]
        return await _probe("shapes.client_streaming")

    @handler
    async def bidirectional(self, items: AsyncIterator[int]) -> AsyncIterator[str]:
        answer = await _probe("shapes.bidirectional")
        async for _ in items:
            yield answer

    @handler(thread=True)
    def in_a_thread(self, *, ctx: Context = INJECTED) -> str:
        assert Context.current() is ctx
        assert _mark.get() == 0
        token = _mark.set(1)
        _mark.reset(token)
        _mark.set(2)
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        return "fine"

    @listener("event")
    async def on_event(self, payload: Any) -> None:
        self.heard.append(await _probe("event"))

    @stream("stream")
    async def on_stream(self, receiver: StreamReceiver[int]) -> None:
        await receiver.sender.send(await _probe("stream"))
        async for _ in receiver:
            pass


async def _call_unary(ends: Duo, shapes: Shapes) -> None:
    assert await ends.here.proxy(Shapes).unary() == "fine"


async def _call_without_waiting(ends: Duo, shapes: Shapes) -> None:
    assert await ends.here.proxy(Shapes).never_waits()


async def _call_server_streaming(ends: Duo, shapes: Shapes) -> None:
    assert [item async for item in ends.here.proxy(Shapes).server_streaming()] == ["fine"] * 2


async def _call_client_streaming(ends: Duo, shapes: Shapes) -> None:
    assert await ends.here.proxy(Shapes).client_streaming(numbers(3)) == "fine"


async def _call_bidirectional(ends: Duo, shapes: Shapes) -> None:
    assert [item async for item in ends.here.proxy(Shapes).bidirectional(numbers(3))] == ["fine"] * 3


async def _call_thread(ends: Duo, shapes: Shapes) -> None:
    assert await ends.here.request("shapes.in_a_thread", returns=str) == "fine"


async def _emit(ends: Duo, shapes: Shapes) -> None:
    assert (await ends.here.emit("event", 1, ack=True)).failed == 0
    assert shapes.heard[-1] == "fine"


async def _emit_to_callback(ends: Duo, shapes: Shapes) -> None:
    async def callback(payload: Any) -> None:
        await _probe("other")

    off = ends.there.on("other", callback)
    assert (await ends.here.emit("other", 1, ack=True)).failed == 0
    off()


async def _stream(ends: Duo, shapes: Shapes) -> None:
    async with ends.here.open_stream("stream") as sender:
        assert await sender.receiver.recv() == "fine"


async def _call_object(ends: Duo, shapes: Shapes) -> None:
    assert await ends.here.call(ends.here.proxy(Shapes).unary) == "fine"


_WAYS: list[Callable[[Duo, Shapes], Coroutine[Any, Any, None]]] = [
    _call_unary,
    _call_without_waiting,
    _call_server_streaming,
    _call_client_streaming,
    _call_bidirectional,
    _call_thread,
    _emit,
    _emit_to_callback,
    _stream,
    _call_object,
]


async def _exercise(use: Callable[[Duo, Shapes], Coroutine[Any, Any, None]], scheme: str, way: str) -> None:
    shapes = Shapes()
    async with duo(shapes, scheme=scheme, way=way) as ends:
        _secret.set("the caller's")
        for _ in range(2):
            await use(ends, shapes)
        await asyncio.gather(*(use(ends, shapes) for _ in range(3)))


@pytest.mark.parametrize("use", _WAYS, ids=lambda use: use.__name__.strip("_"))
@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.parametrize("scheme", ["memory", "quic"])
async def test_a_handler_runs_in_a_real_task(
    use: Callable[[Duo, Shapes], Coroutine[Any, Any, None]], scheme: str, way: str
) -> None:
    await _exercise(use, scheme, way)


@pytest.mark.parametrize("use", _WAYS, ids=lambda use: use.__name__.strip("_"))
@pytest.mark.parametrize("scheme", ["memory", "quic"])
def test_a_handler_runs_in_a_real_task_on_uvloop(
    use: Callable[[Duo, Shapes], Coroutine[Any, Any, None]], scheme: str
) -> None:
    uvloop = pytest.importorskip("uvloop")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_exercise(use, scheme, "up"))
