"""Streaming calls: items both ways, their ends, back-pressure, deadlines, cancellation."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from echostream import (
    INJECTED,
    ConnectionLostError,
    Context,
    DeadlineExceededError,
    InvalidArgumentError,
    Limits,
    ResourceError,
    RpcError,
    Status,
    handler,
    service,
)
from echostream.protocol import frames as f
from tests.serving import until
from tests.session.world import ALL_WAYS, MS, Duo, Gate, duo, frozen, left_of, numbers

WINDOW = Limits(call_window_bytes=1 << 10)
"""Room for 1024 / (16 + 1) small items."""


@service("belt")
class Belt:
    """Moves items."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.yielded = 0
        self.taken: list[int] = []
        self.ended = asyncio.Event()

    @handler
    async def count(self, until_: int) -> AsyncIterator[int]:
        for number in range(until_):
            yield number

    @handler
    async def endless(self) -> AsyncIterator[int]:
        try:
            while True:
                self.yielded += 1
                yield self.yielded
        finally:
            self.ended.set()

    @handler
    async def one_then_wait(self) -> AsyncIterator[int]:
        try:
            yield 1
            await self.gate.pass_through()
            yield 2
        finally:
            self.ended.set()

    @handler
    async def fail_after(self, items: int) -> AsyncIterator[int]:
        for number in range(items):
            yield number
        raise RpcError(Status.DATA_LOSS, "dropped it")

    @handler
    async def total(self, items: AsyncIterator[int], start: int = 0) -> int:
        async for item in items:
            start += item
        return start

    @handler
    async def first_only(self, items: AsyncIterator[int]) -> int:
        return await anext(aiter(items))

    @handler
    async def slow(self, items: AsyncIterator[int]) -> list[int]:
        await self.gate.pass_through()
        async for item in items:
            self.taken.append(item)
        return self.taken

    @handler
    async def ignore(self, items: AsyncIterator[int]) -> str:
        await self.gate.pass_through()
        return "ignored"

    @handler
    async def double(self, items: AsyncIterator[int]) -> AsyncIterator[int]:
        async for item in items:
            yield 2 * item

    @handler
    async def blobs(self, items: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for item in items:
            yield item

    @handler
    async def labelled(self, *, ctx: Context = INJECTED) -> AsyncIterator[str]:
        ctx.set_initial_metadata(first="1")
        yield str(ctx.metadata.get("tenant"))
        ctx.set_trailing_metadata(last_bin=b"\x02")

    @handler
    async def has_deadline(self, *, ctx: Context = INJECTED) -> AsyncIterator[bool]:
        yield ctx.deadline is not None


@pytest.fixture
async def belt() -> Belt:
    return Belt()


@pytest.fixture
async def ends(belt: Belt, scheme: str, way: str) -> AsyncIterator[Duo]:
    async with duo(belt, scheme=scheme, way=way) as made:
        yield made
        await until(lambda: left_of(made.here) == {} == left_of(made.there))


async def _all(items: Any) -> list[Any]:
    return [item async for item in items]


# Items


@ALL_WAYS
async def test_items_come_in_order_and_end(ends: Duo) -> None:
    belt = ends.here.proxy(Belt)
    assert await _all(belt.count(1000)) == list(range(1000))
    assert await _all(belt.count(0)) == []
    assert await belt.total(numbers(1000), start=5) == 5 + sum(range(1000))
    assert await belt.total(items=numbers(0)) == 0
    assert await _all(belt.double(numbers(1000))) == [2 * number for number in range(1000)]
    assert await _all(belt.double(numbers(0))) == []


@ALL_WAYS
async def test_ping_pong_waits_for_nothing_but_the_other_side(ends: Duo) -> None:
    answers: asyncio.Queue[int] = asyncio.Queue(1)

    async def asks() -> AsyncIterator[int]:
        for number in range(20):
            yield number
            assert await answers.get() == 2 * number

    async for answer in ends.here.proxy(Belt).double(asks()):
        await answers.put(answer)


@ALL_WAYS
async def test_large_items_cross_both_ways(ends: Duo) -> None:
    async def blobs() -> AsyncIterator[bytes]:
        for number in range(8):
            yield bytes([number]) * 300_000

    got = await _all(ends.here.proxy(Belt).blobs(blobs()))
    assert got == [bytes([number]) * 300_000 for number in range(8)]


async def test_methods_can_be_streamed_by_name(ends: Duo) -> None:
    async with ends.here.stream("belt.count", 3) as items:
        assert await _all(items) == [0, 1, 2]
    async with ends.here.stream("belt.double", numbers(3), returns=float, timeout=5, metadata={"a": "b"}) as items:
        assert await _all(items) == [0.0, 2.0, 4.0]
    async with ends.here.stream("belt.count", until_=2, returns=str) as items:
        with pytest.raises(RpcError):
            await anext(items)


async def test_an_item_that_does_not_fit_ends_the_call(ends: Duo, belt: Belt) -> None:
    async def wrong() -> AsyncIterator[Any]:
        yield 1
        yield "two"

    with pytest.raises(InvalidArgumentError, match="/items"):
        await ends.here.proxy(Belt).total(wrong())
    async with ends.here.stream("belt.double", wrong()) as items:  # by name, only the other side knows the type
        with pytest.raises(InvalidArgumentError, match="/items"):
            await _all(items)


async def test_an_item_over_the_peers_limit_ends_the_call_with_the_reason(belt: Belt) -> None:
    async def huge() -> AsyncIterator[bytes]:
        yield bytes(5000)

    async with duo(belt, there_limits=Limits(max_payload_bytes=4096)) as ends:
        with pytest.raises(ResourceError, match="payload of 5000 bytes is over the peer's limit of 4096"):
            await _all(ends.here.proxy(Belt).blobs(huge()))


# Metadata


@ALL_WAYS
async def test_metadata_comes_with_the_first_item_and_the_end(ends: Duo) -> None:
    items: Any = ends.here.proxy(Belt, metadata={"tenant": "a"}).labelled()
    assert (items.initial_metadata, items.trailing_metadata) == ({}, {})
    assert await anext(items) == "a"
    assert items.initial_metadata == {"first": "1"}
    with pytest.raises(StopAsyncIteration):
        await anext(items)
    assert items.trailing_metadata == {"last-bin": b"\x02"}


async def test_metadata_without_an_item_comes_with_the_end(ends: Duo) -> None:
    @handler("silent")
    async def silent(*, ctx: Context = INJECTED) -> AsyncIterator[int]:
        ctx.set_initial_metadata(first="1")
        for number in range(0):
            yield number

    ends.there.register(silent)
    async with ends.here.stream("silent") as items:
        assert await _all(items) == []
        assert items.initial_metadata == {"first": "1"}  # type: ignore[attr-defined]


# Ends


@ALL_WAYS
async def test_a_closed_iterator_ends_the_remote_generator(ends: Duo, belt: Belt) -> None:
    items: Any = ends.here.proxy(Belt).one_then_wait()
    assert await anext(items) == 1
    await belt.gate.reached.wait()
    await items.aclose()
    await asyncio.wait_for(belt.ended.wait(), 5)
    assert belt.gate.cancelled
    with pytest.raises(RpcError, match="the call was closed"):
        await anext(items)
    await items.aclose()


@ALL_WAYS
async def test_break_ends_the_remote_generator(ends: Duo, belt: Belt) -> None:
    async for _ in ends.here.proxy(Belt).endless():
        break
    await asyncio.wait_for(belt.ended.wait(), 5)


async def test_a_dropped_iterator_ends_the_remote_generator(ends: Duo, belt: Belt) -> None:
    items = ends.here.proxy(Belt).one_then_wait()
    await anext(items)
    await belt.gate.reached.wait()
    del items
    await asyncio.wait_for(belt.ended.wait(), 5)
    assert belt.gate.cancelled


async def test_an_iterator_may_be_collected_in_any_thread(ends: Duo, belt: Belt) -> None:
    holder: list[Any] = [ends.here.proxy(Belt).one_then_wait()]
    await anext(holder[0])
    await belt.gate.reached.wait()
    thread = threading.Thread(target=holder.clear)
    thread.start()
    thread.join()
    await asyncio.wait_for(belt.ended.wait(), 5)


@ALL_WAYS
async def test_the_end_of_a_block_ends_the_remote_generator(ends: Duo, belt: Belt) -> None:
    async with ends.here.stream(ends.here.proxy(Belt).endless) as items:
        async for _ in items:
            break
    await asyncio.wait_for(belt.ended.wait(), 5)


async def test_a_block_calls_at_once_and_not_with_the_first_item(ends: Duo, belt: Belt) -> None:
    async with ends.here.stream(ends.here.proxy(Belt).one_then_wait) as items:
        await asyncio.wait_for(belt.gate.reached.wait(), 5)
        await items.start()  # type: ignore[attr-defined]
        assert await anext(items) == 1


async def test_an_iterator_that_is_never_read_calls_nothing(ends: Duo, belt: Belt) -> None:
    items: Any = ends.here.proxy(Belt).endless()
    await items.aclose()
    del items
    gc.collect()
    assert belt.yielded == 0


@ALL_WAYS
async def test_items_before_an_error_are_delivered_first(ends: Duo) -> None:
    items, got = ends.here.proxy(Belt).fail_after(3), list[int]()
    with pytest.raises(RpcError, match="dropped it") as caught:  # noqa: PT012 - what comes before counts
        async for item in items:
            got.append(item)
    assert got == [0, 1, 2]
    assert caught.value.code is Status.DATA_LOSS
    with pytest.raises(RpcError, match="dropped it"):
        await anext(items)


@ALL_WAYS
async def test_an_early_answer_ends_the_input(ends: Duo) -> None:
    closed = asyncio.Event()

    async def endless() -> AsyncIterator[int]:
        try:
            number = 0
            while True:
                yield number
                number += 1
                await asyncio.sleep(0)
        finally:
            closed.set()

    assert await ends.here.proxy(Belt).first_only(endless()) == 0
    await asyncio.wait_for(closed.wait(), 5)


async def test_an_early_answer_ends_an_input_that_waits_for_something_else(ends: Duo, belt: Belt) -> None:
    closed = asyncio.Event()

    async def stuck() -> AsyncIterator[int]:
        try:
            yield 1
            await asyncio.Event().wait()
        finally:
            closed.set()

    assert await ends.here.proxy(Belt).first_only(stuck()) == 1
    assert closed.is_set()


@ALL_WAYS
async def test_an_input_that_raises_is_what_the_caller_sees(ends: Duo, belt: Belt) -> None:
    async def broken() -> AsyncIterator[int]:
        yield 1
        raise LookupError("no more")

    with pytest.raises(RpcError, match=r"the input of the call raised LookupError\('no more'\)") as caught:
        await ends.here.proxy(Belt).total(broken())
    assert caught.value.code is Status.CANCELLED
    assert isinstance(caught.value.__cause__, LookupError)
    with pytest.raises(RpcError, match="LookupError"):
        await _all(ends.here.proxy(Belt).double(broken()))


async def test_an_input_that_was_cancelled_ends_the_call(ends: Duo) -> None:
    """A caller without a deadline would wait for ever."""

    async def cancelled() -> AsyncIterator[int]:
        yield 1
        raise asyncio.CancelledError

    with pytest.raises(RpcError, match="the input of the call raised CancelledError"):
        await asyncio.wait_for(ends.here.proxy(Belt).total(cancelled()), 5)


async def test_an_input_whose_own_connection_was_lost_ends_the_call(ends: Duo) -> None:
    async def relayed() -> AsyncIterator[int]:
        yield 1
        raise ConnectionLostError("the other one is gone")

    with pytest.raises(ConnectionLostError, match="the other one is gone"):
        await asyncio.wait_for(ends.here.proxy(Belt).total(relayed()), 5)


async def test_an_input_without_aclose_will_do(ends: Duo) -> None:
    class Three:
        def __init__(self) -> None:
            self.left = 3

        def __aiter__(self) -> Three:
            return self

        async def __anext__(self) -> int:
            if not self.left:
                raise StopAsyncIteration
            self.left -= 1
            return 1

    assert await ends.here.proxy(Belt).total(Three()) == 3


# Back-pressure


@ALL_WAYS
async def test_a_slow_consumer_stops_the_generator(belt: Belt, scheme: str, way: str) -> None:
    async with duo(belt, scheme=scheme, way=way, limits=WINDOW) as ends:
        items = ends.here.proxy(Belt).endless()
        assert await anext(items) == 1
        await _settled(lambda: belt.yielded)
        ahead = belt.yielded
        assert ahead <= 1024 // 17 + 2
        for expected in range(2, 400):
            assert await anext(items) == expected
        await _settled(lambda: belt.yielded)
        assert 400 <= belt.yielded <= 400 + ahead
        await items.aclose()  # type: ignore[attr-defined]
        await asyncio.wait_for(belt.ended.wait(), 5)


@ALL_WAYS
async def test_a_slow_handler_stops_the_callers_input(belt: Belt, scheme: str, way: str) -> None:
    given = 0

    async def source() -> AsyncIterator[int]:
        nonlocal given
        for number in range(500):
            given += 1
            yield number

    async with duo(belt, scheme=scheme, way=way, there_limits=WINDOW) as ends:
        call = asyncio.create_task(ends.here.proxy(Belt).slow(source()))
        await asyncio.wait_for(belt.gate.reached.wait(), 5)
        await _settled(lambda: given)
        assert given <= 1024 // 17 + 2
        belt.gate.opened.set()
        assert await call == list(range(500))


async def test_input_that_nobody_reads_ends_with_the_answer(belt: Belt) -> None:
    async with duo(belt, there_limits=WINDOW) as ends:
        call = asyncio.create_task(ends.here.proxy(Belt).ignore(numbers(1000)))
        await asyncio.wait_for(belt.gate.reached.wait(), 5)
        belt.gate.opened.set()
        assert await call == "ignored"


async def test_a_full_network_stops_the_input_before_credit_does(belt: Belt) -> None:
    given = 0

    async def source() -> AsyncIterator[bytes]:
        nonlocal given
        for _ in range(30):
            given += 1
            yield bytes(20_000)

    limits = Limits(high_watermark_bytes=1 << 15, low_watermark_bytes=1 << 10)
    async with duo(belt, limits=limits, there_limits=Limits(call_window_bytes=1 << 20)) as ends:
        items = ends.here.proxy(Belt).blobs(source())
        await items.start()  # type: ignore[attr-defined]
        with frozen(ends):
            await _settled(lambda: given)
            assert given < 10
        assert len(await _all(items)) == 30


async def _settled(value: Any) -> None:
    """Wait until a number stays the same for a few rounds trips."""
    same, before = 0, value()
    async with asyncio.timeout(10):
        while same < 10:
            await asyncio.sleep(MS)
            now = value()
            same, before = (same + 1, now) if now == before else (0, now)


# Deadlines and cancellation


@ALL_WAYS
async def test_streams_have_no_deadline_unless_one_is_given(ends: Duo) -> None:
    assert await _all(ends.here.proxy(Belt).has_deadline()) == [False]
    assert await _all(ends.here.proxy(Belt, timeout=5).has_deadline()) == [True]


@ALL_WAYS
async def test_a_stream_ends_at_its_deadline_on_both_sides(ends: Duo, belt: Belt) -> None:
    items = ends.here.proxy(Belt, timeout=30 * MS).one_then_wait()
    assert await anext(items) == 1
    with pytest.raises(DeadlineExceededError, match=r"belt.one_then_wait: DEADLINE_EXCEEDED: no answer within 0\.03 s"):
        await anext(items)
    await asyncio.wait_for(belt.ended.wait(), 5)


async def test_input_ends_at_the_deadline(ends: Duo, belt: Belt) -> None:
    with pytest.raises(DeadlineExceededError):
        await ends.here.proxy(Belt, timeout=20 * MS).slow(numbers(3))
    await asyncio.wait_for(belt.gate.left.wait(), 5)


async def test_a_stream_inherits_what_is_left_of_a_handlers_time(ends: Duo) -> None:
    @handler("relay")
    async def relay(*, ctx: Context = INJECTED) -> bool:
        async with ctx.session.stream("belt.has_deadline") as items:
            return bool(await anext(items))

    ends.there.register(relay)
    ends.here.register(Belt())
    assert await ends.here.request("relay", timeout=3)
    assert not await ends.here.request("relay", timeout=None)


@ALL_WAYS
async def test_cancelling_a_reader_leaves_the_call_and_closing_it_ends_it(ends: Duo, belt: Belt) -> None:
    items: Any = ends.here.proxy(Belt).one_then_wait()
    await anext(items)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(items), 5 * MS)
    belt.gate.opened.set()
    assert await anext(items) == 2
    await items.aclose()


@ALL_WAYS
async def test_cancelling_a_caller_with_input_cancels_handler_and_input(ends: Duo, belt: Belt) -> None:
    closed = asyncio.Event()

    async def stuck() -> AsyncIterator[int]:
        try:
            yield 1
            await asyncio.Event().wait()
        finally:
            closed.set()

    call = asyncio.create_task(ends.here.proxy(Belt).slow(stuck()))
    await asyncio.wait_for(belt.gate.reached.wait(), 5)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert closed.is_set()
    await asyncio.wait_for(belt.gate.left.wait(), 5)
    assert belt.gate.cancelled


# Places and starting


async def test_streams_wait_for_a_place_too(belt: Belt) -> None:
    async with duo(belt, there_limits=Limits(max_concurrent_calls=1)) as ends:
        first: Any = ends.here.proxy(Belt).one_then_wait()
        await anext(first)
        second = asyncio.create_task(_all(ends.here.proxy(Belt).count(3)))
        await until(lambda: ends.here.peer.places.waiting == 1)
        with pytest.raises(DeadlineExceededError, match=r"no answer within 0\.01 s"):
            await anext(ends.here.proxy(Belt, timeout=10 * MS).count(1))
        third = asyncio.create_task(_all(ends.here.proxy(Belt).count(1)))
        await until(lambda: ends.here.peer.places.waiting == 2)
        third.cancel()
        await first.aclose()
        assert await second == [0, 1, 2]


async def test_an_iterator_that_could_not_start_fails_again_and_does_not_hang(belt: Belt) -> None:
    async with duo(belt) as ends:
        items: Any = ends.here.proxy(Belt).count(1)
        late: Any = ends.here.proxy(Belt).count(1)
        ends.there.drain(3001, "bye")
        await until(lambda: ends.here.state == "draining")
        for _ in range(2):
            with pytest.raises(RpcError, match="the peer is shutting down and takes no new calls"):
                await asyncio.wait_for(anext(items), 5)
        assert set(ends.here.peer.connection._sending) <= {0, 2}  # type: ignore[attr-defined]
        await ends.client.close()
        for _ in range(2):
            with pytest.raises(ConnectionLostError):
                await asyncio.wait_for(anext(late), 5)


async def test_a_start_that_was_cancelled_is_over(belt: Belt) -> None:
    async with duo(belt, there_limits=Limits(max_concurrent_calls=1)) as ends:
        first: Any = ends.here.proxy(Belt).one_then_wait()
        await anext(first)
        items: Any = ends.here.proxy(Belt).count(3)
        starting = asyncio.create_task(items.start())
        await until(lambda: ends.here.peer.places.waiting == 1)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        with pytest.raises(RpcError, match="the call was closed"):
            await asyncio.wait_for(anext(items), 5)
        await first.aclose()


# A lost connection


@ALL_WAYS
async def test_both_sides_hear_of_a_lost_connection(belt: Belt, scheme: str, way: str) -> None:
    async with duo(belt, scheme=scheme, way=way) as ends:
        items = ends.here.proxy(Belt).one_then_wait()
        await anext(items)
        total = asyncio.create_task(ends.here.proxy(Belt).slow(numbers(5)))
        await asyncio.wait_for(belt.gate.reached.wait(), 5)
        await until(lambda: len(ends.there.peer.protocol.calls.incoming) == 2)
        ends.here.peer.connection.abort()
        with pytest.raises(ConnectionLostError):
            await anext(items)
        with pytest.raises(ConnectionLostError):
            await total
        await asyncio.wait_for(belt.ended.wait(), 5)


async def test_progress_of_a_call_that_nobody_reads_is_dropped(ends: Duo) -> None:
    items: Any = ends.here.proxy(Belt).count(1)
    items._call.on_progress(f.ProgressFrame(1, b""))
    assert await _all(items) == [0]
