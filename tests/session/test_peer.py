"""The driver of a connection: when it writes, who it wakes, how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from echostream import ConnectionLostError, Limits, handler
from echostream.errors import CloseCode, EchoStreamError, LocalProtocolError, RpcError
from echostream.protocol import events as ev
from echostream.protocol import frames as f
from echostream.protocol.codec import FrameCodec
from echostream.protocol.hello import Hello
from echostream.protocol.link import LANE
from echostream.protocol.payload import PayloadCodec
from echostream.protocol.peer import PeerProtocol
from echostream.session.peer import Peer
from echostream.session.runtime import Runtime
from echostream.session.timesync import probe
from echostream.transport.base import CloseReason
from echostream.types import Role, clock
from tests.session.world import duo


class _Connection:
    """Remembers what it is told."""

    peer_address = "somewhere"

    def __init__(self) -> None:
        self.writes: list[tuple[int, bytes, bool]] = []
        self.resets: list[tuple[int, int]] = []
        self.stops: list[tuple[int, int]] = []
        self.closes: list[tuple[int, str]] = []
        self.flushes = 0
        self.full: set[int] = set()
        self.unsent: dict[int, int] = {}
        self.unacknowledged = False
        self.streams: list[int | None] = [0, 4, 8, 12]
        self.datagrams: list[bytes] = []
        self.datagrams_taken = 1000
        self.delay_ns = 0

    def open_stream(self, *, unidirectional: bool = False) -> int | None:
        return self.streams.pop(0)

    def write(self, stream_id: int, data: bytes, *, fin: bool = False) -> bool:
        self.writes.append((stream_id, data, fin))
        return stream_id not in self.full

    def unsent_bytes(self, stream_id: int) -> int:
        return self.unsent.get(stream_id, 0)

    def has_undelivered(self) -> bool:
        return bool(self.unsent) or self.unacknowledged

    def acknowledged(self) -> object:
        return object()

    def reset_stream(self, stream_id: int, code: int) -> None:
        self.resets.append((stream_id, code))

    def stop_stream(self, stream_id: int, code: int) -> None:
        self.stops.append((stream_id, code))

    def stamp_arrivals(self, wanted: bool) -> None:
        self.is_stamping = wanted

    def send_datagram_now(self, data: bytes) -> int | None:
        if len(self.datagrams) >= self.datagrams_taken:
            return None
        self.datagrams.append(data)
        return clock.monotonic_ns() + self.delay_ns

    def flush(self) -> None:
        self.flushes += 1

    def close(self, code: int, reason: str = "") -> None:
        self.closes.append((code, reason))


class _Owner:
    def __init__(self) -> None:
        self.told: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *args: self.told.append((name, *args))


class _Handle:
    def __init__(self) -> None:
        self.lost: list[EchoStreamError] = []

    def on_lost(self, error: EchoStreamError) -> None:
        self.lost.append(error)


class _World:
    """A client's peer on a connection that the test plays."""

    def __init__(self, runtime: Runtime) -> None:
        limits = runtime.limits
        self.runtime = runtime
        self.connection = _Connection()
        self.owner = _Owner()
        hello = Hello(role=Role.CLIENT)
        self.protocol = PeerProtocol(hello, runtime.codec, runtime.payload, limits, runtime.clock.monotonic_ns)
        self.peer = Peer(self.connection, self.protocol, runtime, self.owner)  # type: ignore[arg-type]
        self.codec = FrameCodec(PayloadCodec(limits), limits)

    def open(self) -> None:
        """Go through the Hello exchange."""
        self.peer.introduce()
        self.peer.flush()
        hello = Hello(role=Role.SERVER, session="s").encode(self.runtime.payload)
        self.peer.stream_data(LANE, self.codec.plain(f.FrameKind.HELLO, 0, hello), False)
        self.peer.burst_ended()
        self.connection.writes.clear()
        self.connection.flushes = 0


@pytest.fixture
async def world() -> AsyncIterator[_World]:
    runtime = Runtime(Limits())
    made = _World(runtime)
    made.open()
    yield made
    if made.peer.lost is None:
        made.peer.closed(CloseReason(3000, "", by_peer=False))
    await runtime.close()


# Writing


async def test_what_is_queued_in_one_turn_leaves_in_one_write(world: _World) -> None:
    for _ in range(5):
        world.protocol.probe(1)
        world.peer.touch()
    assert world.connection.writes == []
    await asyncio.sleep(0)
    assert len(world.connection.writes) == 1
    assert world.connection.flushes == 1
    world.peer.touch()
    await asyncio.sleep(0)  # nothing was queued
    assert world.connection.flushes == 1


async def test_much_leaves_at_once(world: _World) -> None:
    for _ in range(world.runtime.limits.early_push_frames):
        assert not world.connection.writes
        world.protocol.probe(1)
        world.peer.touch()
    assert len(world.connection.writes) == 1
    world.protocol.emit("a", bytes(70_000))
    world.peer.touch()
    assert len(world.connection.writes) == 2


async def test_answers_to_a_burst_leave_at_its_end(world: _World) -> None:
    probe = world.codec.encode(f.TimeSyncFrame(1, 5))
    world.peer.stream_data(LANE, probe, False)
    world.peer.stream_data(LANE, probe, False)
    world.peer.touch()
    await asyncio.sleep(0)
    assert world.connection.writes == []
    world.peer.burst_ended()
    assert len(world.connection.writes) == 1
    world.peer.burst_ended()
    assert world.connection.flushes == 1


async def test_a_burst_that_gives_rise_to_much_is_answered_on_the_way(world: _World) -> None:
    probe = world.codec.encode(f.TimeSyncFrame(1, 5))
    answered = world.codec.encode(f.TimeSyncFrame(9, 5, 6, 7, is_answer=True))
    world.peer.stream_data(LANE, probe * world.runtime.limits.early_push_frames + answered, False)
    assert len(world.connection.writes) == 1
    world.peer.burst_ended()


# Waiting


async def test_writers_of_a_full_stream_wait_until_it_is_writable(world: _World) -> None:
    world.connection.full.add(LANE)
    world.protocol.probe(1)
    world.peer.flush()
    assert world.peer.is_blocked(LANE)
    waits = [asyncio.create_task(world.peer.drain(LANE)) for _ in range(3)]
    await asyncio.sleep(0)
    waits[1].cancel()
    await asyncio.sleep(0)
    assert [len(group) for group in world.peer._waiters.values()] == [2]
    world.peer.writable(LANE)
    await asyncio.gather(waits[0], waits[2])
    assert not world.peer.is_blocked(LANE)
    await world.peer.drain(LANE)
    assert world.peer._waiters == {}


async def test_a_writer_that_is_cancelled_just_when_it_may_write_is_cancelled(world: _World) -> None:
    world.connection.full.add(LANE)
    world.protocol.probe(1)
    world.peer.flush()
    first, second = (asyncio.create_task(world.peer.drain(LANE)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    world.peer.writable(LANE)
    await second
    assert first.cancelled()


async def test_a_stopped_or_reset_stream_lets_its_writers_go(world: _World) -> None:
    world.connection.full.update({4, 8})
    handle: Any = _Handle()
    call = world.protocol.calls.start("m", b"", handle=handle, stream_id=4)
    world.protocol.calls.start("m", b"", handle=handle, stream_id=8)
    world.peer.flush()
    waits = [asyncio.create_task(world.peer.drain(number)) for number in (4, 8)]
    await asyncio.sleep(0)
    world.protocol.calls.cancel(call)
    world.peer.flush()
    await waits[0]
    assert world.connection.resets == [(4, 1)]
    assert world.connection.stops == [(4, 1)]
    world.peer.stream_stopped(8, 1)
    await waits[1]


async def test_openers_wait_for_a_transport_stream(world: _World) -> None:
    world.connection.streams = [None, None, 4, 8]
    opening = [asyncio.create_task(world.peer.open_transport_stream()) for _ in range(2)]
    await asyncio.sleep(0)
    world.peer.streams_available()
    assert await asyncio.gather(*opening) == [4, 8]


async def test_an_opener_that_gives_up_is_no_longer_in_line(world: _World) -> None:
    world.connection.streams = [None]
    opening = asyncio.create_task(world.peer.open_transport_stream())
    await asyncio.sleep(0)
    opening.cancel()
    await asyncio.sleep(0)
    assert not any(world.peer._waiters.values())
    world.peer.streams_available()


async def test_events_have_a_stream_of_their_own_or_the_lane(world: _World) -> None:
    world.connection.streams = [6]
    assert world.peer.choose_event_stream() == 6
    assert world.peer.choose_event_stream() == 6
    other = _World(world.runtime)
    other.open()
    other.connection.streams = [None]
    assert other.peer.choose_event_stream() == LANE
    other.peer.closed(CloseReason(None, "", by_peer=True))


async def test_the_lane_must_come_first(world: _World) -> None:
    other = _World(world.runtime)
    other.connection.streams = [4]
    with pytest.raises(LocalProtocolError, match="the lane must be the connection's first stream, got 4"):
        other.peer.introduce()


async def test_an_unused_transport_stream_is_given_back(world: _World) -> None:
    world.peer.give_back(4)
    assert world.connection.resets == [(4, 1)]


# Probes


async def test_a_probe_gets_the_answer_with_its_number(world: _World) -> None:
    probing = asyncio.create_task(probe(world.peer, 7))
    await asyncio.sleep(0)
    for nonce in (9, 7, 7):
        frame = f.TimeSyncFrame(nonce, 1, 2, 3, is_answer=True)
        world.peer.stream_data(LANE, world.codec.encode(frame), False)
    assert (await probing).frame.id == 7


async def test_an_answer_that_crossed_a_cancellation_is_dropped(world: _World) -> None:
    probing = asyncio.create_task(probe(world.peer, 7))
    await asyncio.sleep(0)
    probing.cancel()
    world.peer.stream_data(LANE, world.codec.encode(f.TimeSyncFrame(7, 1, 2, 3, is_answer=True)), False)
    with pytest.raises(asyncio.CancelledError):
        await probing


# The end


async def test_everybody_who_waits_hears_why_it_ended(world: _World) -> None:
    world.connection.full.add(LANE)
    world.connection.streams = [None] * 5
    handle: Any = _Handle()
    world.protocol.calls.start("m", b"", handle=handle)
    world.peer.flush()
    await world.peer.large.claim(1 << 30)
    waits = [
        asyncio.create_task(coroutine)
        for coroutine in (
            world.peer.drain(LANE),
            world.peer.open_transport_stream(),
            probe(world.peer, 1),
            world.peer.large.claim(1),
        )
    ]
    await asyncio.sleep(0)
    world.peer.closed(CloseReason(4000, "bye", by_peer=True))
    world.peer.closed(CloseReason(4001, "again", by_peer=True))
    for error in await asyncio.gather(*waits, return_exceptions=True):
        assert isinstance(error, ConnectionLostError)
        assert (error.message, error.close_code) == ("connection closed by the peer: bye", 4000)
    assert [error.code for error in handle.lost] == [14]
    assert [told[0] for told in world.owner.told] == ["on_hello", "on_closed"]
    assert world.peer.lost is not None
    assert not world.peer.open
    for late in (world.peer.open_transport_stream(), probe(world.peer, 1)):
        with pytest.raises(ConnectionLostError, match="bye"):
            await late
    world.peer.close(3000)
    assert world.connection.closes == []


@pytest.mark.parametrize(
    ("by_peer", "text"), [(True, "connection closed by the peer"), (False, "called; connect again")]
)
async def test_an_end_without_words_is_told_too(world: _World, by_peer: bool, text: str) -> None:
    world.peer.closed(CloseReason(None, "", by_peer=by_peer))
    assert world.peer.lost is not None
    assert world.peer.lost.message.endswith(text)
    assert world.peer.lost.close_code is None


@pytest.mark.parametrize(
    ("break_it", "text"),
    [
        (lambda peer: peer.stream_data(LANE, b"", True), "peer ended the lane"),
        (lambda peer: peer.stream_reset(LANE, 0), "peer reset the lane"),
        (lambda peer: peer.stream_stopped(LANE, 0), "peer stopped reading the lane"),
        (lambda peer: peer.stream_data(LANE, b"\xff" * 40, False), ""),
    ],
)
async def test_a_peer_that_breaks_the_protocol_is_left_with_a_code(
    world: _World, break_it: Any, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    break_it(world.peer)
    ((code, reason),) = world.connection.closes
    assert code >= 3500
    assert text in reason
    assert world.peer.lost is not None
    assert world.peer.lost.message == f"peer broke the protocol: {reason}"
    assert f"! somewhere: {reason}" in caplog.text


async def test_an_answer_right_before_a_violation_reaches_its_caller(world: _World) -> None:
    answers: list[f.Frame] = []
    handle = _Handle()
    handle.on_response = answers.append  # type: ignore[attr-defined]
    calls = [world.protocol.calls.start("m", b"", handle=handle) for _ in range(2)]
    burst = [f.ResponseFrame(calls[0].id, 0, b"\xc0"), f.HelloFrame(0, b"")]
    world.peer.stream_data(LANE, b"".join(map(world.codec.encode, burst)), False)
    assert answers == burst[:1]
    assert len(handle.lost) == 1  # the other call


async def test_a_bug_of_ours_ends_the_connection_and_is_logged(world: _World, caplog: pytest.LogCaptureFixture) -> None:
    world.protocol.calls.start("m", b"", handle=_Handle())  # which takes no response
    world.peer.stream_data(LANE, world.codec.response(1, 0, b""), False)
    assert world.connection.closes == [(CloseCode.INTERNAL, "internal error")]
    assert world.peer.lost is not None
    assert world.peer.lost.message == "internal error"
    assert "cannot handle OutgoingCall" in caplog.text


async def test_an_answer_right_after_a_bug_of_ours_reaches_its_caller(world: _World) -> None:
    answers: list[f.Frame] = []
    handle = _Handle()
    handle.on_response = answers.append  # type: ignore[attr-defined]
    for each in (_Handle(), handle):
        world.protocol.calls.start("m", b"", handle=each)
    world.peer.stream_data(LANE, world.codec.response(1, 0, b"") + world.codec.response(3, 0, b"yes"), False)
    assert answers == [f.ResponseFrame(3, 0, b"yes")]
    assert world.peer.lost is not None


async def test_datagrams_that_are_no_frame_are_dropped_and_counted(world: _World) -> None:
    world.peer.datagram(b"x", 0)
    assert world.peer.lost is None
    assert world.protocol.link.dropped_datagrams == 1


async def test_a_probe_in_a_datagram_is_answered_in_one_with_the_time_of_its_arrival(world: _World) -> None:
    arrived_ns = world.runtime.clock.monotonic_ns() - 1000
    world.peer.datagram(world.codec.encode(f.TimeSyncFrame(7, 5)), arrived_ns)
    (sent,) = world.connection.datagrams
    answer = world.codec.single(sent)
    assert isinstance(answer, f.TimeSyncFrame)
    assert (answer.id, answer.t1_ns, answer.t2_ns, answer.is_answer) == (7, 5, arrived_ns, True)
    assert arrived_ns < answer.t3_ns <= world.runtime.clock.monotonic_ns()
    assert world.connection.writes == []


async def test_an_answer_says_when_it_will_leave_and_not_when_it_is_written(world: _World) -> None:
    """The engine takes a while between the two, which is learned by looking at the first ones."""
    world.connection.delay_ns = 60_000_000_000
    ahead = []
    for nonce in range(10):
        before_ns = world.runtime.clock.monotonic_ns()
        world.peer.datagram(world.codec.encode(f.TimeSyncFrame(nonce, 5)), before_ns)
        answer = world.codec.single(world.connection.datagrams[-1])
        assert isinstance(answer, f.TimeSyncFrame)
        ahead.append(answer.t3_ns - before_ns)
    assert max(ahead[:8]) < 10_000_000_000
    assert 60_000_000_000 <= min(ahead[8:]) < 70_000_000_000


async def test_nothing_happens_when_an_answer_finds_no_room(world: _World) -> None:
    world.connection.datagrams_taken = 0
    world.peer.datagram(world.codec.encode(f.TimeSyncFrame(7, 5)), clock.monotonic_ns())
    assert (world.connection.datagrams, world.peer.lost) == ([], None)
    assert world.runtime.send_delay.ns == 0


async def test_answers_in_datagrams_that_nobody_asked_for_are_counted(world: _World) -> None:
    probing = asyncio.create_task(probe(world.peer, 7))
    await asyncio.sleep(0)
    for nonce in (9, 7, 7):
        world.peer.datagram(world.codec.encode(f.TimeSyncFrame(nonce, 1, 2, 3, is_answer=True)), 5)
    assert (await probing).arrived_ns == 5
    assert world.protocol.link.stray_answers == 2


async def test_calls_that_the_peer_never_saw_are_handed_back(world: _World) -> None:
    handle: Any = _Handle()
    world.protocol.calls.start("m", b"", handle=handle)
    world.peer.stream_data(LANE, world.codec.encode(f.GoAwayFrame(0, 3001, "bye")), False)
    (error,) = handle.lost
    assert isinstance(error, RpcError)
    assert (error.message, error.retryable) == ("the peer is shutting down and did not see to this", True)


async def test_a_peer_shows_its_state(world: _World) -> None:
    assert repr(world.peer) == "<Peer somewhere <PeerProtocol client OPEN 0 out 0 in 0 streams>>"


async def test_every_event_of_the_machine_has_a_handler() -> None:
    from echostream.session.reports import EVENT_HANDLERS

    names = set(ev.__all__) - {"ProtocolEvent"}
    assert {kind.__name__ for kind in EVENT_HANDLERS} == names


# Both ends


async def test_other_sessions_go_on_when_one_breaks_the_protocol() -> None:
    @handler("fine")
    async def fine() -> str:
        return "fine"

    async with duo(fine) as ends, duo(fine) as others:
        ends.here.peer.connection.write(LANE, b"\xff" * 100)
        reason = await ends.there.wait_closed()
        assert reason is not None
        assert reason.message.startswith("peer broke the protocol: ")
        assert await others.here.request("fine") == "fine"
        told = await ends.here.wait_closed()
        assert told is not None
        assert told.close_code is not None
        assert told.close_code >= 3500
