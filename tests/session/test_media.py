"""Streams of items that may be dropped: in datagrams, with timestamps, paced, with policies; and their figures."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from echostream import (
    ChannelQuality,
    ConfigurationError,
    ConnectionLostError,
    InvalidArgumentError,
    Item,
    Limits,
    Middleware,
    RpcClient,
    RpcError,
    RpcServer,
    StreamReceiver,
    StreamResetError,
    StreamSender,
    TimedItem,
    handler,
    listener,
    service,
    stream,
)
from echostream.errors import LocalProtocolError, ResourceError, Status
from echostream.protocol import hello
from echostream.protocol.frames import DatagramItemFrame
from echostream.session.chains import ItemNext
from echostream.testing import Link, SimNetwork
from echostream.types import clock
from tests.serving import until
from tests.session.world import ALL_WAYS, BOTH, MS, Duo, Gate, duo, frozen, left_of

URL = "quic://server:4433"
SMALL = Limits(max_queued_items=4)


@service("studio")
class Studio:
    """Takes what comes, in different ways."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.got: list[TimedItem[Any]] = []
        self.at: list[int] = []
        self.receiver: StreamReceiver[Any] | None = None
        self.error: Exception | None = None
        self.figures: list[ChannelQuality] = []

    @property
    def items(self) -> list[Any]:
        return [timed.item for timed in self.got]

    @stream("timed")
    async def on_timed(self, receiver: StreamReceiver[Any]) -> None:
        self.receiver = receiver
        async for timed in receiver.timed():
            self.got.append(timed)
            self.at.append(clock.monotonic_ns())
        self.figures.append(receiver.quality())

    @stream("aligned")
    async def on_aligned(self, receiver: StreamReceiver[Any]) -> None:
        self.receiver = receiver
        while True:
            try:
                self.got.append(await receiver.recv_aligned(frame=0.02, latency=0.1))
            except StopAsyncIteration:
                self.figures.append(receiver.quality())
                return
            self.at.append(clock.monotonic_ns())

    @stream("plain")
    async def on_plain(self, receiver: StreamReceiver[Any]) -> None:
        self.receiver = receiver
        async for item in receiver:
            self.got.append(TimedItem(len(self.got), None, 0, item))

    @stream("slow")
    async def on_slow(self, receiver: StreamReceiver[Any]) -> None:
        self.receiver = receiver
        await self.gate.pass_through()
        try:
            async for timed in receiver.timed():
                self.got.append(timed)
        except StreamResetError as error:
            self.error = error

    @stream("echo")
    async def on_echo(self, receiver: StreamReceiver[Any]) -> None:
        async for item in receiver:
            await receiver.sender.send(item)


@pytest.fixture
async def studio() -> Studio:
    return Studio()


@pytest.fixture
async def ends(studio: Studio, scheme: str, way: str) -> AsyncIterator[Duo]:
    async with duo(studio, scheme=scheme, way=way) as made:
        yield made
        await until(lambda: left_of(made.here) == {} == left_of(made.there))


# In datagrams


@ALL_WAYS
async def test_items_travel_in_datagrams_with_numbers_timestamps_and_arrivals(ends: Duo, studio: Studio) -> None:
    before = clock.monotonic_ns()
    async with ends.here.open_stream("timed", mode="datagram", time_sync=True, max_age=60.0) as sender:
        for number in range(50):
            await sender.send({"number": number})
            await asyncio.sleep(0)
        await sender.send_with_timestamp(b"raw", at_ns=-5)
        await until(lambda: len(studio.got) == 51)
        assert sender.quality().sent.sent == 51
    assert studio.items == [*({"number": number} for number in range(50)), b"raw"]
    assert [timed.sequence for timed in studio.got] == [*range(51)]
    stamps = [timed.timestamp_ns for timed in studio.got]
    assert stamps[-1] == -5
    assert stamps[:-1] == sorted(stamps[:-1])  # type: ignore[type-var]
    assert all(before <= timed.arrived_ns <= clock.monotonic_ns() for timed in studio.got)
    assert studio.receiver is not None
    received = studio.receiver.quality()
    assert (received.received.received, received.lost, received.duplicated, received.buffered) == (51, 0, 0, 0)


@ALL_WAYS
async def test_answers_travel_in_datagrams_too(ends: Duo) -> None:
    async with ends.here.open_stream("echo", mode="datagram", max_age=60.0) as sender:
        for number in range(3):
            await sender.send(number)
            assert await sender.receiver.recv() == number
        sender.end()
        assert [item async for item in sender.receiver] == []


@BOTH
async def test_items_larger_than_a_datagram_are_cut_and_joined(scheme: str, studio: Studio) -> None:
    items = [bytes([number]) * (40_000 * number) for number in range(4)]
    async with (
        duo(studio, scheme=scheme) as ends,
        ends.here.open_stream("plain", mode="datagram", max_age=60.0) as sender,
    ):
        for number, item in enumerate(items):
            await sender.send(item)
            await until(lambda count=number: len(studio.got) == count + 1)
    assert studio.items == items


async def test_an_item_that_the_other_side_could_not_join_is_refused(studio: Studio) -> None:
    async with (
        duo(studio, there_limits=Limits(stream_window_bytes=1024)) as ends,
        ends.here.open_stream("plain", mode="datagram") as sender,
    ):
        with pytest.raises(ResourceError, match="item of 1025 bytes is over the 1024 that the peer joins"):
            await sender.send(bytes(1025))
        await sender.send(bytes(1024))
    assert len(studio.got) == 1


async def test_what_waits_is_sent_before_the_stream_ends(studio: Studio) -> None:
    async with duo(studio) as ends:
        async with ends.here.open_stream("plain", mode="datagram") as sender:
            with frozen(ends):
                for number in range(400):  # more than the transport takes at once, and than the queue of the receiver
                    await sender.send(number)
                    if number % 100 == 50:
                        await asyncio.sleep(0)
                sender.end()
                with pytest.raises(LocalProtocolError, match="takes no more items: end"):
                    await sender.send(400)
        quality = sender.quality().sent
        assert quality.sent + quality.dropped + quality.stale == 400
        assert studio.items[-1] == 399


async def test_a_stream_that_is_reset_sends_nothing_more(studio: Studio) -> None:
    async with duo(studio) as ends:
        sender = await ends.here.open_stream("plain", mode="datagram")
        await sender.send(1)
        sender.reset("enough")
        with pytest.raises(StreamResetError, match="enough"):
            await sender.send(2)
        assert sender.quality().sent.queued == 0


@pytest.mark.parametrize("bound", ["max_held_bytes", "max_queued_item_bytes"])
async def test_what_nobody_reads_gives_way_where_too_many_bytes_wait(studio: Studio, bound: str) -> None:
    limits = Limits(**{"max_payload_bytes": 1 << 16, "max_reassembly_bytes": 1 << 16, bound: 100_000})
    async with duo(studio, there_limits=limits) as ends:
        async with ends.here.open_stream("slow", mode="datagram", max_age=60.0) as sender:
            for number in range(150):
                await sender.send(bytes([number]) * 1000)
                await asyncio.sleep(0)
            await until(lambda: studio.receiver is not None and studio.receiver.quality().received.received == 150)
            assert studio.receiver is not None
            received = studio.receiver.quality().received
            assert 90_000 < received.buffered_bytes == ends.there.quality().held_bytes <= 100_000
            assert received.dropped == 150 - received.buffered
            studio.gate.opened.set()
        assert [item[0] for item in studio.items] == [*range(received.dropped, 150)]


async def test_only_the_newest_are_kept_of_what_nobody_reads_and_the_rest_is_counted(studio: Studio) -> None:
    async with duo(studio, there_limits=SMALL) as ends:
        async with ends.here.open_stream("slow", mode="datagram") as sender:
            for number in range(10):
                await sender.send(number)
            await until(lambda: studio.receiver is not None and studio.receiver.quality().received.received == 10)
            assert studio.receiver is not None
            quality = studio.receiver.quality()
            assert (quality.received.dropped, quality.buffered, quality.lost) == (6, 4, 0)
            held = ends.there.peer.protocol.link.held
            assert held.held == 4
            studio.gate.opened.set()
        assert studio.items == [6, 7, 8, 9]
        assert held.held == 0


# Where datagrams cannot be had


def _defaults(kind: Any) -> dict[str, Any]:
    return {**kind.__init__.__kwdefaults__, "features": hello.FEATURES - {"datagram-items"}}


@pytest.mark.parametrize("what", ["feature", "transport"])
async def test_without_datagrams_items_travel_reliably_and_old_ones_are_dropped(
    what: str, studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    if what == "feature":
        monkeypatch.setattr(hello.Hello.__init__, "__kwdefaults__", _defaults(hello.Hello))
    scheme = "pipe" if what == "transport" else "memory"
    async with duo(studio, scheme=scheme, limits=SMALL, there_limits=Limits(stream_window_bytes=1024)) as ends:
        async with ends.here.open_stream("slow", mode="datagram", time_sync=True) as sender:
            for number in range(20):
                await sender.send(bytes([number]) * 500)
                await asyncio.sleep(0)
            quality = sender.quality().sent
            assert quality.dropped > 5
            assert quality.queued <= 4
            studio.gate.opened.set()
        got = [item[0] for item in studio.items]
        assert got == sorted(got)
        assert got[-4:] == [16, 17, 18, 19]
        assert len(got) + sender.quality().sent.dropped == 20
        assert all(timed.timestamp_ns for timed in studio.got)


async def test_a_peer_without_timestamps_is_named(monkeypatch: pytest.MonkeyPatch, studio: Studio) -> None:
    async with duo(studio) as ends:
        ends.here.peer.protocol.link.features -= {"timed-items"}
        with pytest.raises(LocalProtocolError, match="the peer does not have the feature timed-items"):
            await ends.here.open_stream("timed", time_sync=True)
        assert left_of(ends.here) == {}


# Timestamps


@ALL_WAYS
async def test_reliable_streams_have_timestamps_where_asked_for(ends: Duo, studio: Studio) -> None:
    async with ends.here.open_stream("timed").with_time_sync() as sender:
        await sender.send_with_timestamp("a", at_ns=10**18)
        await sender.send("b")
    assert [timed.item for timed in studio.got] == ["a", "b"]
    first, second = studio.got
    assert first.timestamp_ns == 10**18
    assert second.timestamp_ns is not None
    assert second.timestamp_ns <= second.arrived_ns + 10**9


@pytest.mark.parametrize(
    ("at_ns", "named"),
    [
        (1.5, "1.5"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        (True, "True"),
        (None, "None"),
        ("1", "'1'"),
        (1 << 63, "of 64 bits"),
        (-(1 << 63) - 1, "of 64 bits"),
        pytest.param(10**5000, "of 16610 bits", id="huge"),
    ],
)
async def test_what_is_no_timestamp_is_refused(studio: Studio, at_ns: Any, named: str) -> None:
    async with duo(studio) as ends, ends.here.open_stream("timed", time_sync=True) as sender:
        with pytest.raises(InvalidArgumentError) as caught:
            await sender.send_with_timestamp("a", at_ns=at_ns)
    assert caught.value.message == (
        f"timestamp {named} is no whole number of nanoseconds in 64 bits; session time is one: client.clock.now_ns()"
    )
    assert studio.got == []


async def test_whole_numbers_of_other_kinds_are_timestamps(studio: Studio) -> None:
    class Whole:
        def __index__(self) -> int:
            return 77

    stamp: Any = Whole()
    async with duo(studio) as ends, ends.here.open_stream("timed", time_sync=True) as sender:
        await sender.send_with_timestamp("a", at_ns=stamp)
        await sender.send_with_timestamp("b", at_ns=(1 << 63) - 1)
        await sender.send_with_timestamp("c", at_ns=-(1 << 63))
    assert [timed.timestamp_ns for timed in studio.got] == [77, (1 << 63) - 1, -(1 << 63)]


async def test_streams_without_timestamps_say_so(studio: Studio) -> None:
    async with duo(studio) as ends, ends.here.open_stream("plain") as sender:
        with pytest.raises(LocalProtocolError, match="have no timestamps: open it with time_sync=True"):
            await sender.send_with_timestamp("a", at_ns=1)
        with pytest.raises(LocalProtocolError, match="open it with time_sync=True, or mode='datagram'"):
            [item async for item in sender.receiver.timed()]
        with pytest.raises(LocalProtocolError, match="open it with time_sync=True"):
            await sender.receiver.recv_aligned()


# Policies and pace


async def fill(ends: Duo, sender: StreamSender[Any], count: int) -> None:
    """Send items while nothing is read: the window of 1 KB is full after two of them."""
    for number in range(count):
        await sender.send(bytes([number]) * 600)
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [("drop_oldest", [0, 1, 6, 7, 8, 9]), ("drop_newest", [0, 1, 2, 3, 4, 5])],
)
async def test_a_full_queue_drops_what_its_policy_says(studio: Studio, policy: Any, expected: list[int]) -> None:
    async with duo(studio, there_limits=Limits(stream_window_bytes=1024)) as ends:
        async with ends.here.open_stream("slow", time_sync=True, policy=policy, max_items=4) as sender:
            await fill(ends, sender, 10)
            assert (sender.quality().sent.dropped, sender.quality().sent.queued) == (4, 4)
            studio.gate.opened.set()
        assert [item[0] for item in studio.items] == expected


async def test_a_full_queue_ends_the_stream_where_its_policy_says_so(studio: Studio) -> None:
    async with duo(studio, there_limits=Limits(stream_window_bytes=1024)) as ends:
        sender = await ends.here.open_stream("slow", time_sync=True, policy="disconnect", max_items=4)
        with pytest.raises(StreamResetError, match="4 items wait to be sent: the other side, or the netw"):
            await fill(ends, sender, 10)
        studio.gate.opened.set()
        await until(lambda: studio.error is not None)
        assert isinstance(studio.error, StreamResetError)
        assert studio.error.code is Status.RESOURCE_EXHAUSTED


async def test_a_sender_waits_where_its_policy_is_to_block(studio: Studio) -> None:
    async with duo(studio, there_limits=Limits(stream_window_bytes=1024)) as ends:
        async with ends.here.open_stream("slow", time_sync=True, policy="block", max_items=2, max_age=60.0) as sender:
            filling = asyncio.ensure_future(fill(ends, sender, 10))
            await asyncio.sleep(20 * MS)
            assert not filling.done()
            studio.gate.opened.set()
            await filling
        assert [item[0] for item in studio.items] == [*range(10)]


async def test_a_sender_that_waits_for_room_is_told_when_the_stream_ends(studio: Studio) -> None:
    async with duo(studio, there_limits=Limits(stream_window_bytes=1024)) as ends:
        sender = await ends.here.open_stream("slow", time_sync=True, policy="block", max_items=1, max_age=60.0)
        filling = asyncio.ensure_future(fill(ends, sender, 10))
        await asyncio.sleep(5 * MS)
        sender.reset("enough")
        with pytest.raises(StreamResetError, match="enough"):
            await filling


@pytest.mark.parametrize(("policy", "expected"), [("drop_oldest", [7, 8, 9]), ("drop_newest", [0, 1, 2])])
async def test_a_reader_chooses_what_to_miss(studio: Studio, policy: Any, expected: list[int]) -> None:
    async with duo(studio) as ends:
        async with ends.here.open_stream("slow", time_sync=True) as sender:
            assert studio.receiver is not None
            studio.receiver.set_policy(policy, max_items=3)
            for number in range(10):
                await sender.send(number)
            await until(lambda: studio.receiver is not None and studio.receiver.quality().received.received == 10)
            assert ends.there.peer.protocol.link.held.held == 3 * 17
            studio.gate.opened.set()
        assert studio.items == expected
        assert studio.receiver.quality().received.dropped == 7


async def test_a_reader_may_end_the_stream_that_it_cannot_follow(studio: Studio) -> None:
    async with duo(studio) as ends:
        sender = await ends.here.open_stream("slow", mode="datagram")
        assert studio.receiver is not None
        studio.receiver.set_policy("disconnect", max_items=3)
        for number in range(10):
            await sender.send(number)
        with pytest.raises(StreamResetError, match="4 items wait to be read: the reader is too slow"):
            await sender.receiver.recv()
        studio.gate.opened.set()


async def test_a_plain_stream_can_be_given_a_policy_while_it_runs(studio: Studio) -> None:
    async with duo(studio) as ends:
        async with ends.here.open_stream("slow") as sender:
            assert studio.receiver is not None
            await sender.send(0)
            await sender.send(1)
            await until(lambda: studio.receiver is not None and studio.receiver.quality().buffered == 2)
            studio.receiver.set_policy("drop_oldest", max_items=2)
            sender.set_policy("drop_oldest", max_items=5)
            await sender.send(2)
            await until(lambda: studio.receiver is not None and studio.receiver.quality().received.dropped == 1)
            studio.gate.opened.set()
        assert studio.items == [1, 2]


async def test_nothing_holds_up_who_sends_in_datagrams(studio: Studio) -> None:
    async with duo(studio) as ends, ends.here.open_stream("plain", mode="datagram") as sender:
        with pytest.raises(ConfigurationError, match="'block' cannot be for items in datagrams"):
            sender.receiver.set_policy("block")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"mode": "quick"}, "mode: 'quick' is neither 'reliable' nor 'datagram'"),
        ({"policy": "drop"}, "policy: 'drop' is none of block, drop_oldest, drop_newest, disconnect"),
        ({"max_items": 2.5}, "max_items: 2.5 is no whole number"),
        ({"max_items": True}, "max_items: True is no whole number"),
        ({"rate": "1kB"}, "rate: '1kB' is no number of bytes a second"),
        ({"max_items": 0}, "max_items: 0 must be at least 1"),
        ({"max_age": 0.0}, "max_age: 0.0 must be above 0 seconds"),
        ({"rate": math.nan}, "rate: nan must be above 0 bytes a second"),
        ({"rate": -1}, "rate: -1 must be above 0 bytes a second"),
    ],
)
async def test_an_option_out_of_range_is_named_before_anything_is_sent(
    studio: Studio, options: dict[str, Any], text: str
) -> None:
    async with duo(studio) as ends:
        with pytest.raises(ConfigurationError, match=text):
            ends.here.open_stream("plain", **options)


async def test_middleware_sees_items_in_datagrams_and_timestamps_pass_it_by(studio: Studio) -> None:
    class Double(Middleware):
        async def outbound_item(self, item: Item, call_next: ItemNext) -> Any:
            item.payload *= 2
            return await call_next(item)

        async def inbound_item(self, item: Item, call_next: ItemNext) -> Any:
            item.payload += 1
            return await call_next(item)

    server = RpcServer("memory://media-middleware", middleware=[Double()])
    server.register(studio)
    connecting = RpcClient.connect("memory://media-middleware", middleware=[Double()])
    async with server, connecting as client, client.open_stream("timed", mode="datagram", time_sync=True) as sender:
        await sender.send_with_timestamp(10, at_ns=77)
    assert [(timed.item, timed.timestamp_ns) for timed in studio.got] == [(21, 77)]


async def test_typed_items_are_checked_on_both_sides(studio: Studio) -> None:
    got: list[Any] = []

    @stream("numbers")
    async def numbers(receiver: StreamReceiver[int]) -> None:
        try:
            got.append(await receiver.recv())
            await receiver.recv()
        except InvalidArgumentError as error:
            got.append(error.message)

    async with duo(numbers) as ends:
        sender = await ends.here.open_stream("numbers", item=int, mode="datagram")
        with pytest.raises(InvalidArgumentError):
            await sender.send("no number")
        await sender.send(1)
        loose = StreamSender[Any](sender._channel)
        await loose.send("no number")
        await until(lambda: len(got) == 2)
        sender.reset()
    assert got[0] == 1


# In a simulated network


class Show:
    """A server with a studio, and a client of it, each on a host of its own, in virtual time."""

    def __init__(self, network: SimNetwork, engine: str = "auto", limits: Limits | None = None) -> None:
        self.network = network
        self.studio = Studio()
        self.engine = engine
        self.limits = limits
        self.client: RpcClient

    async def run(self, act: Callable[[Show], Awaitable[None]]) -> None:
        @handler("echo")
        async def echo(number: int) -> int:
            return number

        with self.network.host("server"):
            server = RpcServer(URL, engine=self.engine, limits=self.limits)
            server.register(self.studio, echo)
            await server.start()
        with self.network.host("phone"):
            connecting = RpcClient.connect(URL, fingerprint=server.fingerprint, timeout=60.0, engine=self.engine)
            async with connecting as self.client:
                await act(self)
        with self.network.host("server"):
            await server.stop()
        assert self.network.leaks() == []


def show(act: Callable[[Show], Awaitable[None]], link: Link, *, engine: str = "auto", seed: int = 1) -> Studio:
    """Let a scenario run; return the studio."""
    made: list[Show] = []

    async def scenario(network: SimNetwork) -> None:
        made.append(Show(network, engine))
        await made[0].run(act)

    SimNetwork(seed=seed, link=link).run(scenario)
    return made[0].studio


async def stream_for(
    the: Show, seconds: float, *, apart: float, size: int, name: str = "timed", **options: Any
) -> StreamSender[Any]:
    """Send items of one size, so far apart, and end the stream; return its sender."""
    async with the.client.open_stream(name, mode="datagram", time_sync=True, **options) as sender:
        begin, most = clock.monotonic(), 0
        while clock.monotonic() - begin < seconds:
            await sender.send(bytes(size))
            most = max(most, sender.quality().sent.queued_bytes)
            await asyncio.sleep(apart)
        assert most <= 1 << 20
    return sender


both_engines = pytest.mark.parametrize("engine", ["aioquic", "qh3"])


@pytest.mark.slow
@both_engines
def test_counts_are_exact_whatever_the_network_does(engine: str) -> None:
    """Lost, doubled and overtaking packets: sent = received + lost, and no item is handed out twice."""
    senders: list[StreamSender[Any]] = []

    async def act(the: Show) -> None:
        senders.append(await stream_for(the, 5.0, apart=0.01, size=300))
        senders.append(await stream_for(the, 5.0, apart=0.1, size=3000))

    link = Link(delay=0.02, jitter=0.03, loss=0.05, reorder=0.3, duplicate=0.05)
    studio = show(act, link, engine=engine)
    for sender, quality, size in zip(senders, studio.figures, (300, 3000), strict=True):
        sent, got = sender.quality().sent, [timed.sequence for timed in studio.got if len(timed.item) == size]
        assert len(got) == len(set(got)) == quality.received.received
        assert quality.lost == sent.sent + sent.stale + sent.dropped - len(got)
        assert 0 < quality.lost < 0.4 * sent.sent
    small = [timed.sequence for timed in studio.got if len(timed.item) == 300]
    overtaken = sum(number < max(small[:at]) for at, number in enumerate(small) if at)
    assert studio.figures[0].reordered == overtaken > 0
    assert (senders[1].quality().sent.dropped, studio.figures[1].duplicated) == (0, 0)


@pytest.mark.slow
@both_engines
def test_a_sender_faster_than_the_link_for_minutes_keeps_the_newest_and_counts_the_rest(engine: str) -> None:
    """20 KB/s into a link of 10: memory stays, calls still come through, what arrives is fresh."""
    took: list[float] = []
    senders: list[StreamSender[Any]] = []

    async def call(the: Show) -> None:
        while True:
            begin = clock.monotonic()
            assert await the.client.request("echo", 1, returns=int, timeout=30.0) == 1
            took.append(clock.monotonic() - begin)
            await asyncio.sleep(1.0)

    async def act(the: Show) -> None:
        calling = asyncio.ensure_future(call(the))
        senders.append(await stream_for(the, 120.0, apart=0.05, size=1000))
        calling.cancel()

    studio = show(act, Link(delay=0.02, bandwidth=10_000, queue_bytes=4000), engine=engine)
    [sender] = senders
    sent, got = sender.quality().sent, studio.got
    assert sent.sent + sent.stale + sent.dropped == 2400
    assert 0.3 * 2400 < len(got) < 0.55 * 2400
    ages = sorted(at - (timed.timestamp_ns or 0) for at, timed in zip(studio.at, got, strict=True))
    assert ages[-1] < 1.2e9  # 0.2 s in the queue, the rest in that of the link
    assert got[-1].sequence > 2380
    assert len(took) > 50
    assert sorted(took)[len(took) // 2] < 1.0


def test_items_are_handed_out_in_order_when_they_are_due() -> None:
    async def act(the: Show) -> None:
        await stream_for(the, 4.0, apart=0.02, size=100, name="aligned")

    studio = show(act, Link(delay=0.02, jitter=0.04, loss=0.02, reorder=0.5))
    sequences = [timed.sequence for timed in studio.got]
    assert sequences == sorted(set(sequences))
    assert len(sequences) > 180
    late = [at - (timed.timestamp_ns or 0) - 100_000_000 for at, timed in zip(studio.at, studio.got, strict=True)]
    assert all(abs(each) < 2_000_000 for each in late), "each is handed out 100 ms after its timestamp"
    [quality] = studio.figures
    assert quality.received.played == len(sequences)
    assert quality.skew_ns is not None
    assert abs(quality.skew_ns) < 2_000_000
    assert quality.latency is not None
    assert 0.02 <= quality.latency <= 0.065
    assert (quality.clock_locked, quality.clock_error_bound_ns) == (True, 0.0)


def test_two_receivers_are_in_step_whatever_their_ways() -> None:
    """The server sends to two clients whose links differ: both get item n at the same time of the session."""
    heard: dict[str, dict[int, float]] = {"near": {}, "far": {}}

    async def scenario(network: SimNetwork) -> None:
        network.join("server", "far", Link(delay=0.06))
        with network.host("server"):
            server = RpcServer(URL)
            await server.start()
        clients = [await join(network, server, name, heard[name]) for name in heard]
        with network.host("server"):
            senders = [
                await session.open_stream("speaker", mode="datagram", time_sync=True) for session in server.sessions
            ]
            for number in range(100):
                at_ns = clock.monotonic_ns()
                for sender in senders:
                    await sender.send_with_timestamp(number, at_ns=at_ns)
                await asyncio.sleep(0.02)
            for sender in senders:
                await sender.close()
        for name, client in zip(heard, clients, strict=True):
            with network.host(name):
                await client.close()
        with network.host("server"):
            await server.stop()

    async def join(network: SimNetwork, server: RpcServer, name: str, got: dict[int, float]) -> RpcClient:
        @stream("speaker")
        async def speaker(receiver: StreamReceiver[int]) -> None:
            while True:
                try:
                    timed = await receiver.recv_aligned(latency=0.15)
                except StopAsyncIteration:
                    return
                got[timed.item] = network.now

        with network.host(name):
            network.host(name).offset = 5.0 if name == "far" else -3.0
            client = await RpcClient.connect(URL, fingerprint=server.fingerprint)
            client.register(speaker)
            return client

    SimNetwork(seed=3, link=Link(delay=0.002)).run(scenario)
    common = heard["near"].keys() & heard["far"].keys()
    assert len(common) > 80
    assert max(abs(heard["near"][number] - heard["far"][number]) for number in common) < 0.002


def test_a_stream_is_paced_to_its_rate() -> None:
    async def act(the: Show) -> None:
        async with the.client.open_stream("timed", mode="datagram", time_sync=True, rate=10_000, max_age=60.0) as one:
            for _ in range(100):
                await one.send(bytes(500))
        async with the.client.open_stream("timed", time_sync=True, rate=10_000) as two:
            for _ in range(100):
                await two.send(b"." * 500)

    studio = show(act, Link(delay=0.01))
    for first, last in ((0, 99), (100, 199)):
        assert (studio.at[last] - studio.at[first]) / 1e9 == pytest.approx(5.0, rel=0.1)


@pytest.mark.parametrize(("waiting", "expected"), [(False, 8), (True, 7)], ids=["alone", "beside bulk"])
async def test_media_leave_a_part_of_the_window_to_bulk_that_waits(
    monkeypatch: pytest.MonkeyPatch, studio: Studio, waiting: bool, expected: int
) -> None:
    """There is room for eight datagrams: beside bulk seven eighths of it are taken."""
    async with (
        duo(studio) as ends,
        ends.here.open_stream("plain") as bulk,
        ends.here.open_stream("plain", mode="datagram", max_age=60.0) as sender,
    ):
        await bulk.send(b"begun")
        peer = ends.here.peer
        kind, bulk_id = type(peer.connection), bulk._channel.require_stream().stream_id
        size = len(peer.protocol.streams.cut_item(DatagramItemFrame(3, 0, bytes(90), raw=True), 1000)[0])
        with frozen(ends), monkeypatch.context() as patch:
            patch.setattr(kind, "datagram_room_bytes", property(lambda _: 8 * size))
            patch.setattr(kind, "unsent_bytes", lambda _, number: 1000 if waiting and number == bulk_id else 0)
            peer.backlog.streams[bulk_id] = None
            for _ in range(20):
                await sender.send(bytes(90))
            await asyncio.sleep(0)
            assert sender.quality().sent.sent == expected


@pytest.mark.slow
def test_calls_are_quick_beside_bulk_and_media() -> None:
    """On a link of 1 MB/s with a little queue, full of both: the median call takes little more than its way."""
    took: list[float] = []

    async def bulk(the: Show) -> None:
        async with the.client.open_stream("plain") as sender:
            while True:
                await sender.send(bytes(20_000))

    async def act(the: Show) -> None:
        filling = asyncio.ensure_future(bulk(the))
        playing = asyncio.ensure_future(stream_for(the, 60.0, apart=0.002, size=1000))
        for _ in range(40):
            await asyncio.sleep(0.1)
            begin = clock.monotonic()
            await the.client.request("echo", 1, returns=int)
            took.append(clock.monotonic() - begin)
        for task in (filling, playing):
            task.cancel()
        await asyncio.gather(filling, playing, return_exceptions=True)

    studio = show(act, Link(delay=0.01, bandwidth=1_000_000, queue_bytes=16_000))
    assert sorted(took)[20] < 0.06
    kinds = {len(timed.item) for timed in studio.got}
    assert kinds == {1000, 20_000}, "neither starves the other"


async def test_a_session_tells_how_it_does(studio: Studio) -> None:
    async with duo(studio, scheme="quic") as ends:
        async with (
            ends.here.open_stream("timed", mode="datagram", time_sync=True, max_age=60.0) as sender,
            ends.here.open_stream("plain"),
        ):
            await sender.send(b"x")
            await until(lambda: len(studio.got) == 1)
            here, there = ends.here.quality(), ends.there.quality()
            assert [each.name for each in here.streams] == ["timed", "plain"]
            assert here.streams[0].sent.sent == 1
            assert there.streams[0].received.received == 1
            assert here.round_trip is not None
            assert (here.dropped_datagrams, here.late_frames, here.dropped_events, there.held_bytes) == (0, 0, 0, 0)
            assert (there.clock_locked, there.clock_offset_ns, there.clock_error_bound_ns) == (True, 0, 0.0)
        assert ends.client.quality().streams == ()


@both_engines
async def test_one_connection_carries_all_of_it_both_ways(engine: str) -> None:
    """Requests, events, a reliable stream and timed media, from one class, served by either side to the other (N1)."""

    @service("party")
    class Party:
        def __init__(self) -> None:
            self.heard: list[Any] = []

        @handler
        async def double(self, number: int) -> int:
            return 2 * number

        @listener("greeting")
        async def on_greeting(self, text: str) -> None:
            self.heard.append(text)

        @stream("file")
        async def on_file(self, receiver: StreamReceiver[bytes]) -> None:
            self.heard.append(b"".join([part async for part in receiver]))

        @stream("voice")
        async def on_voice(self, receiver: StreamReceiver[bytes]) -> None:
            self.heard.append([timed.item async for timed in receiver.timed() if timed.timestamp_ns])

    here, there = Party(), Party()
    async with duo(there, scheme="quic", engine=engine) as ends:
        ends.client.register(here)
        for session, other in ((ends.here, there), (ends.there, here)):
            assert await session.proxy(Party).double(21) == 42
            assert (await session.emit("greeting", "hello", ack=True)).listeners == 1
            async with session.open_stream("file") as file:
                await file.send(b"a")
                await file.send(b"b")
            async with session.open_stream("voice", mode="datagram", time_sync=True, max_age=60.0) as voice:
                await voice.send(b"sound")
            assert other.heard == ["hello", b"ab", [b"sound"]]


async def test_a_stream_that_nobody_takes_is_refused_in_datagram_mode_too(studio: Studio) -> None:
    async with duo(studio) as ends:
        with pytest.raises(RpcError, match="unknown stream 'nobody'"):
            await ends.here.open_stream("nobody", mode="datagram", time_sync=True)
        await until(lambda: left_of(ends.here) == {} == left_of(ends.there))  # a probe may be under way


def test_timestamps_far_away_or_all_equal_disturb_no_other_item() -> None:
    """Of 100 items in step some claim to be of another century: the others come in order and on time."""

    async def act(the: Show) -> None:
        async with the.client.open_stream("aligned", mode="datagram", time_sync=True) as sender:
            for number in range(100):
                strange = {30: 10**18, 50: -(10**18), 60: 0, 61: 0}.get(number)
                at_ns = the.client.clock.now_ns() if strange is None else strange
                await sender.send_with_timestamp(number, at_ns=at_ns)
                await asyncio.sleep(0.02)

    studio = show(act, Link(delay=0.02))
    honest = [number for number in range(100) if number not in (30, 50, 60, 61)]
    assert [number for number in studio.items if number in honest] == honest
    assert studio.figures[0].received.bad_timestamps == 4


@both_engines
def test_a_stream_that_breaks_off_leaves_nothing_behind(engine: str) -> None:
    async def act(the: Show) -> None:
        sender = await the.client.open_stream("timed", mode="datagram", time_sync=True)
        for _ in range(50):
            await sender.send(bytes(3000))
        await the.client.close()
        with pytest.raises(ConnectionLostError):
            await sender.send(b"late")
        assert sender.quality().sent.queued == 0
        await asyncio.sleep(1.0)

    show(act, Link(delay=0.02, bandwidth=50_000), engine=engine)


async def test_an_item_cut_too_large_for_what_the_path_carries_now_is_dropped(
    monkeypatch: pytest.MonkeyPatch, studio: Studio
) -> None:
    async with duo(studio) as ends, ends.here.open_stream("plain", mode="datagram", max_age=60.0) as sender:
        with frozen(ends):
            await sender.send(bytes(400_000))  # more pieces than the transport takes at once
            await asyncio.sleep(0)
            monkeypatch.setattr(type(ends.here.peer.connection), "max_datagram_payload_bytes", property(lambda _: 500))
        await sender.send(bytes(2000))
        await until(lambda: len(studio.got) == 1)
        assert (sender.quality().sent.dropped, sender.quality().sent.sent) == (1, 1)
    assert [len(item) for item in studio.items] == [2000]
