"""Large items of many streams at once: they take turns, so that what the peer holds unfinished fits its memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from echostream import (
    ConnectionLostError,
    DeadlineExceededError,
    Limits,
    RpcError,
    StreamReceiver,
    StreamResetError,
    handler,
    service,
    stream,
)
from echostream.errors import LocalProtocolError
from echostream.session.items import turn, wants_turn
from echostream.session.streams import StreamSender
from tests.serving import until
from tests.session.world import MS, Duo, Gate, duo, frozen, left_of

SIZE = 40_000
ITEM = bytes(SIZE)
FEW = Limits(max_large_bytes=1 << 16)
"""The side that sends: one large item at a time."""
SMALL = Limits(max_payload_bytes=1 << 17, max_reassembly_bytes=1 << 17)
"""The side that receives: room for three unfinished ones."""


@service("depot")
class Depot:
    """Takes and gives large items."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.taken = 0

    @stream("store")
    async def on_store(self, receiver: StreamReceiver[bytes]) -> None:
        async for item in receiver:
            self.taken += len(item)

    @stream("fetch")
    async def on_fetch(self, receiver: StreamReceiver[int]) -> None:
        async for count in receiver:
            for _ in range(count):
                await receiver.sender.send(ITEM)

    @stream("closed")
    async def on_closed(self, receiver: StreamReceiver[bytes]) -> None:
        await self.gate.pass_through()

    @handler
    async def pour(self, items: AsyncIterator[bytes]) -> int:
        return sum([len(item) async for item in items])

    @handler
    async def give(self, count: int, ballast: bytes = b"") -> AsyncIterator[bytes]:
        for _ in range(count):
            yield ITEM

    @handler
    async def echo(self, item: bytes) -> bytes:
        return item


@pytest.fixture
async def depot() -> Depot:
    return Depot()


async def _store(ends: Duo) -> int:
    async with ends.here.open_stream("store") as sender:
        for _ in range(2):
            await sender.send(ITEM)
    return 2 * SIZE


async def _fetch(ends: Duo) -> int:
    async with ends.here.open_stream("fetch") as sender:
        await sender.send(2)
        sender.end()
        return sum([len(item) async for item in sender.receiver])


async def _pour(ends: Duo) -> int:
    async def items() -> AsyncIterator[bytes]:
        for _ in range(2):
            yield ITEM

    return await ends.here.proxy(Depot).pour(items())


async def _give(ends: Duo) -> int:
    return sum([len(item) async for item in ends.here.proxy(Depot).give(2)])


async def _ask(ends: Duo) -> int:
    return SIZE + sum([len(item) async for item in ends.here.proxy(Depot).give(1, ITEM)])


async def _echo(ends: Duo) -> int:
    return SIZE + len(await ends.here.proxy(Depot).echo(ITEM))


@pytest.mark.parametrize("work", [_store, _fetch, _pour, _give, _ask, _echo])
async def test_many_large_items_at_once_fit_the_peers_memory(
    depot: Depot, work: Callable[[Duo], Coroutine[Any, Any, int]]
) -> None:
    both = Limits(max_large_bytes=1 << 16, max_payload_bytes=1 << 17, max_reassembly_bytes=1 << 17)
    async with duo(depot, scheme="quic", limits=both, there_limits=both) as ends:
        assert await asyncio.gather(*(work(ends) for _ in range(12))) == [2 * SIZE] * 12
        await until(lambda: left_of(ends.here) == {} == left_of(ends.there))


async def test_large_items_take_turns_and_small_ones_where_one_on_each_stream_would_be_too_much(depot: Depot) -> None:
    async with duo(depot, limits=FEW) as ends:
        senders = await _senders(ends, "store", 2)
        assert wants_turn(ends.here.peer, (1 << 15) + 1)
        assert not wants_turn(ends.here.peer, 1 << 15)
        senders += await _senders(ends, "store", 2)
        assert wants_turn(ends.here.peer, (1 << 14) + 1)
        assert not wants_turn(ends.here.peer, 1 << 14)
        for sender in senders:
            await sender.close()


async def _senders(ends: Duo, name: str, count: int) -> list[StreamSender[Any]]:
    return [await ends.here.open_stream(name) for _ in range(count)]


async def test_a_turn_ends_when_all_was_sent_and_the_next_one_goes(depot: Depot) -> None:
    async with duo(depot, limits=FEW, there_limits=SMALL) as ends:
        senders = await _senders(ends, "store", 3)
        with frozen(ends):
            writers = [asyncio.create_task(sender.send(ITEM)) for sender in senders]
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert left_of(ends.here) == {"large bytes": SIZE, "streams": 3, "owners": 3, "writers and openers": 1}
            await asyncio.wait_for(senders[1].send(b"small"), 5)  # these do not wait
        await asyncio.gather(*writers)
        assert ends.here.peer.large.claimed_bytes == 0
        for sender in senders:
            await sender.close()
        assert depot.taken == 3 * SIZE + len(b"small")


async def test_writers_of_one_stream_share_its_credit_while_they_take_turns(depot: Depot) -> None:
    async with duo(depot, limits=FEW, there_limits=Limits(stream_window_bytes=1 << 10)) as ends:
        one, other = await _senders(ends, "store", 2)
        with frozen(ends):
            first = asyncio.create_task(other.send(ITEM))
            await asyncio.sleep(0)
            rest = [asyncio.create_task(one.send(ITEM)) for _ in range(4)]  # there is credit for one of them
            await asyncio.sleep(0)
        await asyncio.wait_for(asyncio.gather(first, *rest), 5)
        await one.close()
        await other.close()
        assert depot.taken == 5 * SIZE


async def test_who_waits_for_a_turn_can_give_up(depot: Depot) -> None:
    async with duo(depot, limits=FEW) as ends:
        one, other = await _senders(ends, "store", 2)
        with frozen(ends):
            first, second = (asyncio.create_task(sender.send(ITEM)) for sender in (one, other))
            await asyncio.sleep(0)
            second.cancel()
            with pytest.raises(asyncio.CancelledError):
                await second
            assert not first.done()
        await first
        await one.close()
        await other.close()
        assert depot.taken == SIZE


async def test_who_waits_for_a_turn_hears_of_the_end_of_the_stream(depot: Depot) -> None:
    async with duo(depot, limits=FEW) as ends:
        one, other = await _senders(ends, "store", 2)
        with frozen(ends):
            first, second = (asyncio.create_task(sender.send(ITEM)) for sender in (one, other))
            await asyncio.sleep(0)
            other.reset("enough")
        with pytest.raises(StreamResetError, match="enough"):
            await second
        await first
        await one.close()


async def test_a_lost_connection_ends_all_turns(depot: Depot) -> None:
    async with duo(depot, limits=FEW) as ends:
        senders = await _senders(ends, "store", 2)
        with frozen(ends):
            writers = [asyncio.create_task(sender.send(ITEM)) for sender in senders]
            asking = asyncio.create_task(_ask(ends))
            await asyncio.sleep(0)
            ends.here.peer.connection.abort()
            for error in await asyncio.gather(*writers, asking, return_exceptions=True):
                assert isinstance(error, ConnectionLostError)
        assert ends.here.peer.large.claimed_bytes == 0


async def test_a_large_request_has_its_time_before_and_after_it_starts(depot: Depot) -> None:
    async with duo(depot, limits=FEW) as ends:
        slow = ends.here.proxy(Depot, timeout=10 * MS)
        (sender,) = await _senders(ends, "store", 1)
        with frozen(ends):
            async with turn(ends.here.peer, sender._channel.stream.stream_id, SIZE):  # type: ignore[union-attr]
                for _ in range(2):
                    with pytest.raises(DeadlineExceededError):
                        await anext(slow.give(1, ITEM))
                assert ends.here.peer.large.claimed_bytes == SIZE
            with pytest.raises(DeadlineExceededError):
                await anext(slow.give(1, ITEM))
            assert ends.here.peer.large.claimed_bytes == 0
        await sender.close()
        await until(lambda: left_of(ends.here) == {})


async def test_a_large_request_that_cannot_start_holds_no_turn(depot: Depot) -> None:
    async with duo(depot, limits=FEW) as ends:
        ends.there.drain(0, "later")
        await until(lambda: ends.here.peer.protocol.peer_gone_away)
        with pytest.raises(RpcError, match="the peer is shutting down"):
            await anext(ends.here.proxy(Depot).give(1, ITEM))
        assert left_of(ends.here) == {}


async def test_a_writer_that_waits_for_credit_hears_that_its_own_side_ended(depot: Depot) -> None:
    async with duo(depot, there_limits=Limits(stream_window_bytes=1 << 10)) as ends:
        sender = await ends.here.open_stream("closed")
        await sender.send(bytes(1 << 10))
        writer = asyncio.create_task(sender.send(b"more"))
        await asyncio.sleep(0)
        assert not writer.done()
        sender.end()
        for late in (writer, sender.send(b"even more")):
            with pytest.raises(LocalProtocolError, match="stream 'closed' takes no more items"):
                await asyncio.wait_for(late, 5)
        depot.gate.opened.set()
        await sender.close()
