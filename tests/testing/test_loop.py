"""The loop on virtual time: it jumps, it names who waits for nothing, and it stops what never ends."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import AsyncIterator, Generator, Iterator
from typing import Any

import pytest

from echostream.testing import SimClock, SimDeadlockError, SimLoop, SimTimeLimitError


@pytest.fixture
def loop() -> Iterator[SimLoop]:
    loop = SimLoop(SimClock(wall=1000.0))
    yield loop
    while tasks := asyncio.all_tasks(loop):
        for task in tasks:
            task.cancel()
        loop.limit = None
        loop.run_until_complete(asyncio.wait(tasks))
    loop.close()


def test_waiting_takes_no_time(loop: SimLoop) -> None:
    began = time.monotonic()
    loop.run_until_complete(asyncio.sleep(3600))
    assert loop.time() == pytest.approx(3600)
    assert loop.clock.monotonic() == loop.time()
    assert loop.clock.wall() == pytest.approx(4600)
    assert time.monotonic() - began < 1


def test_timers_fire_in_order_and_never_early(loop: SimLoop) -> None:
    fired: list[tuple[float, float]] = []

    async def wait(seconds: float) -> None:
        await asyncio.sleep(seconds)
        fired.append((seconds, loop.time()))

    async def scenario() -> None:
        await asyncio.gather(*(wait(number / 7) for number in (3, 1, 2, 0.5)))

    loop.run_until_complete(scenario())
    assert [seconds for seconds, _ in fired] == sorted(seconds for seconds, _ in fired)
    assert all(0 <= at - seconds < 1e-6 for seconds, at in fired)


def test_time_may_pass_at_once(loop: SimLoop) -> None:
    async def scenario() -> None:
        sleeper = asyncio.create_task(asyncio.sleep(10))
        await asyncio.sleep(0)
        loop.clock.advance(100)
        for _ in range(3):
            await asyncio.sleep(0)
        assert sleeper.done()
        assert loop.time() == pytest.approx(100)

    loop.run_until_complete(scenario())
    with pytest.raises(ValueError, match="time does not go back: -1 s"):
        loop.clock.advance(-1)


class _Waits:
    def __init__(self, future: asyncio.Future[None]) -> None:
        self.future = future

    def __await__(self) -> Generator[Any, None, None]:
        yield from self.future


async def _items(future: asyncio.Future[None]) -> AsyncIterator[int]:
    await _Waits(future)
    yield 1


def test_who_waits_for_nothing_is_told_where(loop: SimLoop) -> None:
    async def inner() -> None:
        await _Waits(loop.create_future())

    async def scenario() -> None:
        other = asyncio.create_task(inner(), name="other")
        asyncio.create_task(anext(_items(loop.create_future())), name="items")  # type: ignore[arg-type]  # noqa: RUF006
        await other

    with pytest.raises(SimDeadlockError, match="every task waits and nothing is scheduled") as caught:
        loop.run_until_complete(scenario())
    text = str(caught.value)
    assert "\n  other: test_who_waits_for_nothing_is_told_where.<locals>.inner (" in text
    assert " > _Waits.__await__ (" in text
    assert f"{__file__}:" in text
    assert "\n  items:" in text


def test_of_many_tasks_some_are_told(loop: SimLoop) -> None:
    async def scenario() -> None:
        await asyncio.gather(*(_wait(loop.create_future()) for _ in range(30)))

    with pytest.raises(SimDeadlockError, match="and 11 more"):
        loop.run_until_complete(scenario())


async def _wait(future: asyncio.Future[None]) -> None:
    await future


def test_a_limit_of_virtual_time(loop: SimLoop) -> None:
    loop.limit = 60.0
    loop.run_until_complete(asyncio.sleep(60))
    with pytest.raises(SimTimeLimitError, match="not over after 60 virtual seconds; raise limit=") as caught:
        loop.run_until_complete(asyncio.sleep(1))
    assert "sleep (" in str(caught.value)


def test_what_spins_is_stopped(loop: SimLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("echostream.testing.loop._MAX_TURNS_AT_ONE_MOMENT", 100)

    async def spin() -> None:
        for _ in itertools.count():
            await asyncio.sleep(0)

    with pytest.raises(SimTimeLimitError, match="100 turns of the loop without time going on: something spins"):
        loop.run_until_complete(spin())


def test_a_rounding_error_away_is_reached(loop: SimLoop) -> None:
    async def scenario() -> None:
        due = 0.1 + 0.2
        turns = 0
        while loop.time() < due:
            await asyncio.sleep(max(0.0, due - loop.time()))
            turns += 1
            assert turns < 10

    loop.run_until_complete(scenario())


def test_threads_run_in_place(loop: SimLoop) -> None:
    def fail() -> None:
        raise LookupError("in the thread")

    async def scenario() -> None:
        assert await asyncio.to_thread(threading.current_thread) is threading.current_thread()
        with pytest.raises(LookupError, match="in the thread"):
            await asyncio.to_thread(fail)

    loop.run_until_complete(scenario())


def test_calls_from_elsewhere_are_taken(loop: SimLoop) -> None:
    async def scenario() -> None:
        future = loop.create_future()
        loop.call_soon_threadsafe(future.set_result, None)
        await future

    loop.run_until_complete(scenario())


def test_there_are_no_sockets_and_no_names(loop: SimLoop) -> None:
    async def scenario() -> None:
        for start in (
            asyncio.open_connection("127.0.0.1", 1),
            asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0),
            loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)),
        ):
            with pytest.raises(NotImplementedError, match="a simulation has no sockets of the system"):
                await start
        with pytest.raises(OSError, match="no network in this simulation: 'host' cannot be resolved"):
            await loop.getaddrinfo("host", 1)

    loop.run_until_complete(scenario())


def test_the_selector_watches_nothing(loop: SimLoop) -> None:
    selector = loop._selector
    with pytest.raises(NotImplementedError, match="a simulation has no files and sockets"):
        selector.register(0, 1)
    with pytest.raises(KeyError):
        selector.unregister(0)
    assert selector.get_map() == {}
