"""Places for calls: the peer's limit is kept on this side, in order."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from echostream.errors import ConnectionLostError, ResourceError
from echostream.session.deadlines import DeadlineWheel
from echostream.session.places import Places


class _World:
    """Calls that take a place until they are ended."""

    def __init__(self, *, limit: int = 1, max_waiting: int = 10) -> None:
        self.running: list[str] = []
        link: Any = SimpleNamespace(
            limits=SimpleNamespace(max_waiting_calls=max_waiting),
            peer_limits=SimpleNamespace(max_concurrent_calls=limit),
        )
        loop = asyncio.get_running_loop()
        self.places = Places(loop, self.running, link, DeadlineWheel(loop))

    async def call(self, name: str, *, fails: bool = False) -> None:
        async with self.places.one():
            if fails:
                raise ValueError(name)
            self.running.append(name)

    def end(self, name: str) -> None:
        self.running.remove(name)
        self.places.freed()

    async def calls(self, *names: str) -> list[asyncio.Task[None]]:
        tasks = [asyncio.create_task(self.call(name)) for name in names]
        await asyncio.sleep(0)
        return tasks


async def test_callers_above_the_limit_wait_and_go_in_order() -> None:
    world = _World(limit=2)
    tasks = await world.calls("a", "b", "c", "d")
    assert (world.running, world.places.waiting, world.places.free) == (["a", "b"], 2, False)
    world.end("a")
    await tasks[2]
    assert world.running == ["b", "c"]
    world.end("b")
    world.end("c")
    await tasks[3]
    assert (world.running, world.places.free) == (["d"], True)


async def test_a_freed_place_is_not_taken_by_one_who_did_not_wait() -> None:
    world = _World()
    await world.call("a")
    (waiter,) = await world.calls("b")
    world.end("a")
    assert not world.places.free
    late = asyncio.create_task(world.call("c"))
    await waiter
    assert world.running == ["b"]
    world.end("b")
    await late
    assert world.running == ["c"]


async def test_a_call_that_fails_to_start_frees_its_place() -> None:
    world = _World()
    await world.call("a")
    failing = asyncio.create_task(world.call("b", fails=True))
    await asyncio.sleep(0)
    (third,) = await world.calls("c")
    world.end("a")
    with pytest.raises(ValueError, match="b"):
        await failing
    await third
    assert world.running == ["c"]


async def test_who_gives_up_is_no_longer_in_line() -> None:
    world = _World(max_waiting=1)
    await world.call("a")
    for _ in range(3):
        (waiter,) = await world.calls("b")
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        assert world.places.waiting == 0


async def test_a_place_that_came_too_late_is_handed_on() -> None:
    world = _World()
    await world.call("a")
    first, second = await world.calls("b", "c")
    world.end("a")
    first.cancel()
    await second
    assert first.cancelled()
    assert world.running == ["c"]


async def test_who_was_cancelled_in_the_turn_in_which_a_place_is_freed_is_passed_over() -> None:
    world = _World()
    await world.call("a")
    first, second = await world.calls("b", "c")
    first.cancel()
    world.end("a")
    await second
    assert first.cancelled()
    assert (world.running, world.places.waiting) == (["c"], 0)


async def test_too_many_who_wait_are_refused() -> None:
    world = _World(max_waiting=2)
    await world.call("a")
    tasks = await world.calls("b", "c")
    with pytest.raises(ResourceError) as caught:
        await world.call("d")
    assert caught.value.message == "2 calls already wait for a free place (max_waiting_calls); slow down"
    assert (caught.value.current, caught.value.limit) == (2, 2)
    for task in tasks:
        task.cancel()


async def test_those_who_wait_hear_of_the_end() -> None:
    world = _World()
    await world.call("a")
    first, second = await world.calls("b", "c")
    world.places.lose(ConnectionLostError("gone"))
    second.cancel()  # both at once
    with pytest.raises(ConnectionLostError, match="gone"):
        await first
    with pytest.raises(asyncio.CancelledError):
        await second
    world.end("a")
    assert world.places.free


async def test_who_waits_until_its_deadline_leaves_the_line_and_takes_no_place() -> None:
    world = _World()
    await world.call("a")
    loop = asyncio.get_running_loop()
    patient = loop.create_task(world.places.take(loop.time() + 60))
    with pytest.raises(TimeoutError):
        await world.places.take(loop.time() + 0.01)
    assert world.places.waiting == 1
    world.end("a")
    await patient
    world.places.settle()
    assert world.places.free
    assert len(world.places._wheel) == 0


async def test_a_place_that_comes_together_with_the_deadline_is_kept() -> None:
    world = _World()
    await world.call("a")
    waiting = asyncio.create_task(world.places.take(asyncio.get_running_loop().time() + 60))
    await asyncio.sleep(0)
    assert world.places._waiters is not None
    (waiter,) = world.places._waiters
    world.end("a")
    waiter.expire()
    await waiting
    assert not world.places.free
