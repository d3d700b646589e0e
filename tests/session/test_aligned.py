"""`recv_aligned` over real sessions in virtual time, whatever timestamps, numbers, senders and machines do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

import pytest

from echostream import (
    ChannelQuality,
    ConfigurationError,
    DeadlineExceededError,
    RpcClient,
    RpcServer,
    StreamReceiver,
    StreamSender,
    stream,
)
from echostream.protocol import frames as f
from echostream.realtime import StreamQuality
from echostream.testing import Link, SimNetwork
from echostream.types import clock
from tests.session.world import duo

URL = "quic://server:4433"
MS: Final = 1_000_000
SECOND: Final = 1_000 * MS
FRAME: Final = 20 * MS
HOUR: Final = 3600 * SECOND
YEARS: Final = 10**18
"""Nanoseconds of 32 years: what the calendar is ahead of a monotonic clock, or more."""


@dataclass
class Heard:
    """What a reader got."""

    numbers: list[int] = field(default_factory=list)
    at: list[float] = field(default_factory=list)
    """Virtual seconds."""
    figures: list[ChannelQuality] = field(default_factory=list)
    receiver: StreamReceiver[int] | None = None

    def look(self) -> StreamQuality:
        """Look at the figures, and check that every item that came has one fate."""
        assert self.receiver is not None
        told = self.receiver.quality()
        self.figures.append(told)
        quality = told.received
        fates = quality.played + quality.late + quality.dropped + quality.buffered + quality.invalid
        assert quality.received == fates
        return quality


@dataclass
class Stage:
    """A server whose handler reads in step, and a client that sends to it, each on a host of its own."""

    network: SimNetwork
    client: RpcClient
    sender: StreamSender[Any]
    heard: Heard
    is_over: bool = False

    def give_up(self) -> None:
        """Look at the figures, and end the stream without waiting for what is not played."""
        self.heard.look()
        self.is_over = True
        self.sender.reset()

    async def send(self, number: int, *, ahead_ns: int = 0) -> None:
        """Send an item that is so far ahead of its time, and wait for the next one's."""
        await self.sender.send_with_timestamp(number, at_ns=self.client.clock.now_ns() + ahead_ns)
        await asyncio.sleep(FRAME / SECOND)

    def slip(self, number: int, sequence: int, *, timed: bool = True) -> None:
        """Put a datagram on the wire as no honest sender does."""
        peer, opened = self.client.session.peer, self.sender._channel.require_stream()
        at_ns = self.client.clock.now_ns() if timed else None
        frame = f.DatagramItemFrame(opened.id, sequence, bytes([number]), timestamp_ns=at_ns)
        peer.connection.send_datagram(peer.runtime.codec.datagram_item(frame))
        peer.connection.flush()


def play(
    act: Callable[[Stage], Awaitable[None]],
    *,
    mode: Any = "datagram",
    latency: float | None = 0.1,
    link: Link | None = None,
    engine: str = "auto",
) -> tuple[Heard, StreamQuality]:
    """Let a scenario run, and end its stream; return what was heard and the last figures."""
    heard = Heard()

    @stream("speaker")
    async def speaker(receiver: StreamReceiver[int]) -> None:
        heard.receiver = receiver
        try:
            while True:
                timed = await receiver.recv_aligned(latency=latency)
                heard.numbers.append(timed.item)
                heard.at.append(network.now)
        except StopAsyncIteration:
            heard.look()

    async def scenario(network: SimNetwork) -> None:
        with network.host("server"):
            server = RpcServer(URL, engine=engine)
            server.register(speaker)
            await server.start()
        with network.host("phone"):
            async with RpcClient.connect(URL, fingerprint=server.fingerprint, engine=engine) as client:
                sender = await client.open_stream("speaker", mode=mode, time_sync=True)
                stage = Stage(network, client, sender, heard)
                await act(stage)
                if not stage.is_over:
                    await sender.close()
        with network.host("server"):
            await server.stop()
        assert network.leaks() == []

    network = SimNetwork(seed=1, link=link or Link(delay=0.01))
    network.run(scenario)
    return heard, heard.figures[-1].received


BOTH_WAYS = pytest.mark.parametrize("latency", [0.1, None], ids=["group", "adaptive"])


# Timestamps


STRANGE: dict[str, tuple[Callable[[int, int, int], int], set[int]]] = {
    # what an item says, by its number, the time of the first and its own; and which a group does not play
    "all equal": (lambda number, first, now: first, set()),
    "going back": (lambda number, first, now: first - number * FRAME, set()),
    "the first far in the future": (lambda number, first, now: (1 << 63) - 1 if number == 0 else now, {0, 1, 2}),
    "the first far in the past": (lambda number, first, now: -(1 << 63) if number == 0 else now, {0, 1, 2}),
    "every other of another century": (lambda number, first, now: now + YEARS * (number % 2), set()),
    # two are taken to go on as before, until a third one says the same
    "an hour back for a while": (lambda number, first, now: now - HOUR * (30 <= number < 60), {*range(32, 62)}),
    "an hour ahead for a while": (lambda number, first, now: now + HOUR * (30 <= number < 60), {*range(32, 62)}),
}


@pytest.mark.parametrize(("latency", "mode"), [(0.1, "datagram"), (0.1, "reliable"), (None, "datagram")])
@pytest.mark.parametrize("strange", STRANGE)
def test_strange_timestamps_cost_no_more_than_themselves(strange: str, latency: float | None, mode: str) -> None:
    stamp, by_a_group = STRANGE[strange]

    async def act(stage: Stage) -> None:
        first_ns = stage.client.clock.now_ns()
        for number in range(90):
            at_ns = stamp(number, first_ns, stage.client.clock.now_ns())
            await stage.sender.send_with_timestamp(number, at_ns=at_ns)
            await asyncio.sleep(FRAME / SECOND)
            assert stage.heard.look().buffered <= 64

    heard, quality = play(act, mode=mode, latency=latency)
    missing = {*range(90)} - {*heard.numbers}
    assert heard.numbers == sorted(heard.numbers)
    if latency is None:
        assert missing == set()
    else:
        assert missing - by_a_group <= {26, 27, 28, 29, 30, 31}, "only what waited when the time moved may go with it"
        assert by_a_group <= missing
    assert quality.bad_timestamps > 0


@pytest.mark.parametrize(("ahead_ns", "told"), [(YEARS, "1e+09 s ahead of"), (-YEARS, "1e+09 s before")])
def test_timestamps_of_another_clock_are_told_once_and_fill_no_memory(
    ahead_ns: int, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    """As of `time.time_ns()`: by the clock of a group such items are due in decades, or were long ago."""

    async def act(stage: Stage) -> None:
        for number in range(100):
            await stage.send(number, ahead_ns=ahead_ns)
        assert stage.heard.numbers == []
        quality = stage.heard.look()
        assert (quality.dropped, quality.late, quality.buffered) == ((36, 0, 64) if ahead_ns > 0 else (0, 100, 0))
        stage.give_up()

    play(act)
    [warning] = [record.getMessage() for record in caplog.records if "speaker" in record.getMessage()]
    assert f"stream 'speaker': an item is stamped {told} session time" in warning
    assert "at_ns=client.clock.now_ns()" in warning


def test_who_needs_no_common_clock_is_told_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def act(stage: Stage) -> None:
        for number in range(20):
            await stage.send(number, ahead_ns=YEARS)

    heard, _ = play(act, latency=None)
    assert heard.numbers == [*range(20)]
    assert not [record for record in caplog.records if "stamped" in record.getMessage()]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"latency": 1e300}, r"latency: 1e\+300 must be at most 3600 seconds, or None to adapt"),
        ({"latency": float("nan")}, "latency: nan must be above 0 seconds, or None to adapt"),
        ({"frame": 3601.0}, "frame: 3601.0 must be at most 3600 seconds"),
        ({"frame": float("inf")}, "frame: inf must be above 0 seconds"),
    ],
)
async def test_a_latency_or_a_frame_out_of_range_is_named(options: dict[str, float], text: str) -> None:
    @stream("speaker")
    async def speaker(receiver: StreamReceiver[int]) -> None:
        async for _ in receiver:
            pass

    async with duo(speaker) as ends, ends.here.open_stream("speaker", time_sync=True) as sender:
        with pytest.raises(ConfigurationError, match=text):
            await sender.receiver.recv_aligned(**options)


# What a peer puts on the wire


def test_items_without_the_timestamps_that_were_promised_are_counted() -> None:
    async def act(stage: Stage) -> None:
        for number in range(20):
            stage.slip(number, number, timed=number % 4 != 3)
            await asyncio.sleep(FRAME / SECOND)
        await asyncio.sleep(0.5)
        stage.give_up()

    heard, quality = play(act)
    assert heard.numbers == [number for number in range(20) if number % 4 != 3]
    assert (quality.received, quality.invalid, quality.played) == (20, 5, 15)


@pytest.mark.parametrize(
    ("jump", "restarts"), [(2_000, 0), (50_000, 0), (100_000, 1), (-2_000, 1), ((1 << 32) - 10, 0), (1 << 31, 1)]
)
def test_numbers_may_jump_and_every_item_has_one_fate(jump: int, restarts: int) -> None:
    """As far ahead as a link that is down for minutes makes them that is loss; further away they begin anew, once the
    next one confirms it."""

    async def act(stage: Stage) -> None:
        for number in range(60):
            sequence = number + (jump if number >= 30 else 0)
            stage.slip(number, sequence % (1 << 32))
            await asyncio.sleep(FRAME / SECOND)
        await asyncio.sleep(0.5)
        stage.give_up()

    heard, quality = play(act)
    assert (quality.strays, quality.restarts) == (restarts, restarts)
    assert heard.numbers[-20:] == [*range(40, 60)]
    assert len(heard.numbers) >= 50
    assert quality.lost == (jump if 0 < jump <= 50_000 else 0)


async def test_datagrams_for_a_stream_that_nobody_opened_are_counted() -> None:
    async with duo() as ends:
        peer, there = ends.here.peer, ends.there
        for number in range(70):
            frame = f.DatagramItemFrame(2 * number + 99, 0, bytes(100))
            peer.connection.send_datagram(peer.runtime.codec.datagram_item(frame))
        await asyncio.sleep(0.01)
        assert there.quality().dropped_datagrams == 6
        assert there.quality().held_bytes == 6400


# Who sends faster than it is played


@BOTH_WAYS
@pytest.mark.parametrize("ahead", [True, False], ids=["stamped ahead", "stamped now"])
def test_who_sends_reliably_and_ahead_of_time_is_held_up_and_nothing_is_dropped(
    ahead: bool, latency: float | None
) -> None:
    """A file that is sent as fast as it goes."""

    async def act(stage: Stage) -> None:
        begin_ns = stage.client.clock.now_ns()
        for number in range(300):
            at_ns = begin_ns + number * FRAME if ahead else stage.client.clock.now_ns()
            await stage.sender.send_with_timestamp(number, at_ns=at_ns)
        await asyncio.sleep(1.0)  # the rest is played while the sender waits for the end

    heard, quality = play(act, mode="reliable", latency=latency)
    assert heard.numbers == [*range(300)]
    assert (quality.dropped, quality.late, quality.lost) == (0, 0, 0)
    assert 5.0 < heard.at[-1] - heard.at[0] < 6.5, "each in its turn"


def test_who_goes_on_after_an_outage_is_not_held_up() -> None:
    """What came late is of the past: a reader that waits as little as it can leaves it out and is up to date again."""

    async def act(stage: Stage) -> None:
        for number in range(400):
            if number == 100:
                stage.network.partition("phone")
            if number == 200:
                stage.network.heal()
            await stage.send(number)

    heard, quality = play(act, mode="reliable", latency=None)
    assert heard.numbers[-100:] == [*range(300, 400)]
    assert heard.at[-1] - heard.at[-101] == pytest.approx(2.0, abs=0.1)
    assert quality.dropped > 50


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["aioquic", "qh3"])
def test_a_reliable_sender_faster_than_the_link_for_minutes_keeps_the_newest(engine: str) -> None:
    """Where there are no datagrams: 20 KB/s into a link of 10."""
    most = 0

    async def act(stage: Stage) -> None:
        nonlocal most
        stage.sender.set_policy("drop_oldest", max_items=10)
        for number in range(600):
            await stage.sender.send(str(number) + 1000 * " ")
            quality = stage.sender.quality().sent
            most = max(most, quality.queued_bytes + stage.client.session.peer.backlog.unsent_bytes)
            await asyncio.sleep(0.05)
        assert quality.sent + quality.dropped + quality.stale + quality.queued in (599, 600)
        assert 200 < quality.dropped < 400

    link = Link(delay=0.02, bandwidth=10_000, queue_bytes=4000)
    heard, quality = play(act, mode="reliable", latency=3.0, link=link, engine=engine)
    assert most < 20_000
    assert heard.numbers[-1] == 599
    assert quality.received == len(heard.numbers) + quality.late > 200


# A machine that slept


@pytest.mark.slow
@BOTH_WAYS
def test_a_receiver_whose_machine_slept_is_in_step_again_and_drops_what_is_over(latency: float | None) -> None:
    """Its clock stood still for 10 s, nothing reached it meanwhile, and everybody else went on."""
    heard = Heard()
    woken = 0.0

    async def scenario(network: SimNetwork) -> None:
        nonlocal woken

        @stream("speaker")
        async def speaker(receiver: StreamReceiver[int]) -> None:
            heard.receiver = receiver
            try:
                while True:
                    heard.numbers.append((await receiver.recv_aligned(latency=latency)).item)
                    heard.at.append(network.now)
                    assert len(receiver._channel.aligner.buffer) <= 120  # type: ignore[union-attr]
            except StopAsyncIteration:
                heard.look()

        with network.host("server"):
            server = RpcServer(URL)
            await server.start()
        with network.host("phone") as phone:
            client = await RpcClient.connect(URL, fingerprint=server.fingerprint)
            client.register(speaker)
        with network.host("server"):
            [session] = server.sessions
            async with session.open_stream("speaker", mode="datagram", time_sync=True) as sender:
                for number in range(1150):
                    if number == 150:
                        network.partition("phone")
                    if number == 650:
                        network.heal()
                        phone.offset -= 10.0
                        woken = network.now
                    await sender.send_with_timestamp(number, at_ns=clock.monotonic_ns())
                    await asyncio.sleep(FRAME / SECOND)
        with network.host("phone"):
            assert any("suspended" in fault for fault in client.clock.quality.faults)
            await client.close()
        with network.host("server"):
            await server.stop()

    SimNetwork(seed=1, link=Link(delay=0.01, jitter=0.002)).run(scenario)
    quality = heard.figures[0].received
    since = [(number, at) for number, at in zip(heard.numbers, heard.at, strict=True) if at > woken + 4.0]
    ages = [at - woken - (number - 650) * FRAME / SECOND for number, at in since]
    assert [number for number, _ in since] == [*range(since[0][0], 1150)]
    assert len(since) > 290
    assert max(ages) < 0.15
    assert 480 < quality.lost <= 501, "but for what waited to be sent"
    assert quality.skipped + quality.concealed >= quality.lost


@pytest.mark.parametrize("uptime", [5000.0, -5000.0])
def test_figures_are_of_one_clock_though_the_first_items_come_before_it_is_known(uptime: float) -> None:
    """A client that was up for longer, or shorter, than its server hears it from the first moment on."""
    receivers: list[StreamReceiver[int]] = []

    async def scenario(network: SimNetwork) -> None:
        @stream("speaker")
        async def speaker(receiver: StreamReceiver[int]) -> None:
            receivers.append(receiver)
            async for _ in receiver:
                pass

        with network.host("server") as there:
            there.offset = 6000.0
            server = RpcServer(URL)
            await server.start()
        with network.host("phone") as phone:
            phone.offset = 6000.0 + uptime
            client = await RpcClient.connect(URL, fingerprint=server.fingerprint)
            client.register(speaker)
        with there:
            [session] = server.sessions
            async with session.open_stream("speaker", mode="datagram", time_sync=True) as sender:
                for number in range(1000):
                    await sender.send(number)
                    await asyncio.sleep(FRAME / SECOND)
                with phone:
                    told = receivers[0].quality()
        with phone:
            await client.close()
        with there:
            await server.stop()
        assert told.received.items_per_second == pytest.approx(50, rel=0.05)
        assert told.latency == pytest.approx(0.02, abs=0.005)
        assert told.received.received == 999 + told.lost

    SimNetwork(seed=1, link=Link(delay=0.02)).run(scenario)


async def test_the_end_of_a_stream_waits_for_no_item_of_another_century() -> None:
    @stream("speaker")
    async def speaker(receiver: StreamReceiver[int]) -> None:
        await receiver.recv_aligned(latency=0.1)

    async with duo(speaker) as ends:
        sender = await ends.here.open_stream("speaker", time_sync=True)
        sender._close_timeout = 0.05
        await sender.send_with_timestamp(1, at_ns=clock.monotonic_ns() + YEARS)
        with pytest.raises(DeadlineExceededError, match=r"did not finish within 0\.05 s"):
            await sender.close()
