"""Sending events: waiting, acknowledgements, time-outs, ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from echostream import ConnectionLostError, DeadlineExceededError, Limits, RpcServer, event
from echostream.errors import ConfigurationError, InvalidArgumentError, LocalProtocolError, ResourceError
from echostream.protocol import frames as f
from echostream.session.emitter import EventAck, _AckWaiter, encode_event
from tests.serving import joined, served, session_of, until
from tests.session.world import BOTH, MS, Duo, Gate, duo, frozen, left_of


@event("point")
@dataclass
class Point:
    x: int


class Derived(Point):
    """No event of its own."""


@pytest.fixture
async def ends(scheme: str) -> AsyncIterator[Duo]:
    async with duo(scheme=scheme) as made:
        yield made


def test_an_event_is_an_object_or_a_name_with_or_without_a_payload() -> None:
    assert encode_event(Point(1)) == ("point", {"x": 1})
    assert encode_event("point", Point(1)) == ("point", {"x": 1})
    assert encode_event("point", {"x": 1}) == ("point", {"x": 1})
    assert encode_event("point") == ("point", None)


@pytest.mark.parametrize("given", [Derived(1), 7, None])
def test_other_objects_are_no_events(given: object) -> None:
    with pytest.raises(ConfigurationError, match="is no event: decorate the class with @event"):
        encode_event(given)


def test_a_class_is_no_event_object() -> None:
    with pytest.raises(ConfigurationError, match=r"Point is a class: give an object, Point\(...\)"):
        encode_event(Point)


def test_an_object_and_a_payload_are_too_much() -> None:
    with pytest.raises(
        ConfigurationError, match="give an event object or a name and a payload, not both \\('point'\\)"
    ):
        encode_event(Point(1), {"x": 2})


@BOTH
async def test_an_event_goes_to_one_session(scheme: str) -> None:
    seen: dict[str, list[Any]] = {"one": [], "two": []}
    url = "quic://127.0.0.1:0" if scheme == "quic" else None
    async with served(url=url) as server, joined(server) as one, joined(server) as two:
        one.on("a", seen["one"].append)
        two.on("a", seen["two"].append)
        assert await session_of(server, one).emit("a", 1, ack=True) == EventAck(1, 0)
        assert await session_of(server, two).emit("a", 2, ack=True) == EventAck(1, 0)
    assert seen == {"one": [1], "two": [2]}


async def test_a_plain_event_does_not_wait_for_listeners(ends: Duo) -> None:
    gate = Gate()
    ends.there.on("a", lambda _: gate.pass_through())
    await ends.here.emit("a", 1)
    await asyncio.wait_for(gate.reached.wait(), 5)
    gate.opened.set()


async def test_an_acknowledged_event_waits_for_every_listener(ends: Duo) -> None:
    gates = [Gate(), Gate()]
    for gate in gates:
        ends.there.on("a", lambda _, gate=gate: gate.pass_through())
    ack = asyncio.create_task(ends.here.emit("a", 1, ack=True))
    for gate in gates:
        await gate.reached.wait()
    gates[0].opened.set()
    await gates[0].left.wait()
    await ends.here.ping()
    assert not ack.done()
    gates[1].opened.set()
    assert await ack == EventAck(2, 0)


@BOTH
async def test_an_acknowledgement_has_its_time(ends: Duo) -> None:
    gate = Gate()
    ends.there.on("a", lambda _: gate.pass_through())
    with pytest.raises(DeadlineExceededError) as caught:
        await ends.here.emit("a", 1, ack=True, timeout=20 * MS)
    assert str(caught.value) == "a: DEADLINE_EXCEEDED: event not acknowledged within 0.02 s"
    assert (caught.value.duration, caught.value.session) == (0.02, ends.here.id)
    gate.opened.set()
    assert await ends.here.emit("a", 2, ack=True, timeout=None) == EventAck(1, 0)


async def test_unacknowledged_events_are_bounded_even_when_nobody_waits_for_them_any_more() -> None:
    gate, seen = Gate(), list[Any]()

    async def slow(payload: Any) -> None:
        seen.append(payload)
        await gate.pass_through()

    async with duo(there_limits=Limits(max_unacknowledged_events=2)) as ends:
        ends.there.on("a", slow)
        for number in range(5):
            with pytest.raises(DeadlineExceededError):
                await ends.here.emit("a", number, ack=True, timeout=5 * MS)
        assert ends.there._inbox.queued == 1
        assert left_of(ends.here) == {"acknowledgements": 2, "unacknowledged": 2}
        waiting = asyncio.create_task(ends.here.emit("a", 5, ack=True))
        gate.opened.set()
        assert await waiting == EventAck(1, 0)
        assert seen == [0, 1, 5]


async def test_the_bound_lets_the_next_one_go_as_soon_as_one_is_acknowledged() -> None:
    seen: list[Any] = []
    async with duo(there_limits=Limits(max_unacknowledged_events=1)) as ends:
        ends.there.on("a", seen.append)
        await asyncio.gather(*(ends.here.emit("a", number, ack=True) for number in range(50)))
    assert seen == list(range(50))


async def test_thousands_that_wait_for_acknowledgements_go_in_order_and_do_not_hold_up_the_loop() -> None:
    seen: list[Any] = []
    async with duo() as ends, asyncio.timeout(5):
        ends.there.on("a", seen.append)
        await asyncio.gather(*(ends.here.emit("a", number, ack=True) for number in range(2000)))
    assert seen == list(range(2000))


async def test_an_event_that_was_not_sent_takes_no_place() -> None:
    limits = Limits(max_unacknowledged_events=1, max_payload_bytes=1024)
    watermarks = Limits(high_watermark_bytes=1 << 10, low_watermark_bytes=1 << 9)
    async with duo(limits=watermarks, there_limits=limits) as ends:
        with pytest.raises(ResourceError, match="payload of 2000 bytes is over the peer's limit of 1024"):
            await ends.here.emit("a", bytes(2000), ack=True)
        with frozen(ends):
            await ends.here.emit("a", bytes(1024))
            await asyncio.sleep(0)
            with pytest.raises(DeadlineExceededError, match="event not acknowledged"):
                await ends.here.emit("a", 1, ack=True, timeout=5 * MS)
        assert await ends.here.emit("a", 1, ack=True) == EventAck(0, 0)


async def test_plain_events_wait_while_the_network_is_slow() -> None:
    seen: list[Any] = []
    limits = Limits(high_watermark_bytes=1 << 15, low_watermark_bytes=1 << 10)
    async with duo(limits=limits) as ends:
        ends.there.on("a", lambda payload: seen.append(len(payload)))
        with frozen(ends):
            for _ in range(10):
                await asyncio.wait_for(ends.here.emit("a", bytes(5000)), 5)
                await asyncio.sleep(0)
                if ends.here.peer.is_blocked(ends.here.peer.choose_event_stream()):
                    break
            with pytest.raises(DeadlineExceededError, match=r"event not sent within 0\.01 s"):
                await ends.here.emit("a", b"late", timeout=10 * MS)
            waiting = [asyncio.create_task(ends.here.emit("a", bytes(number))) for number in range(5)]
            await asyncio.sleep(0)
            assert not any(task.done() for task in waiting)
        await asyncio.gather(*waiting)
        await until(lambda: seen[-5:] == [0, 1, 2, 3, 4])


async def test_a_lost_connection_ends_those_who_wait() -> None:
    gate = Gate()
    async with duo(there_limits=Limits(max_unacknowledged_events=1)) as ends:
        ends.there.on("a", lambda _: gate.pass_through())
        gone = asyncio.create_task(ends.here.emit("a", 0, ack=True))
        await gate.reached.wait()
        gone.cancel()
        acks = [asyncio.create_task(ends.here.emit("a", number, ack=True)) for number in range(2)]
        await asyncio.sleep(0)
        ends.here.peer.connection.abort()
        for error in await asyncio.gather(*acks, return_exceptions=True):
            assert isinstance(error, ConnectionLostError)
            assert error.session == ends.here.id
        with pytest.raises(ConnectionLostError) as caught:
            await ends.here.emit("late", 1)
        assert caught.value.operation == "late"


async def test_an_acknowledgement_that_crossed_the_end_changes_nothing() -> None:
    answer: asyncio.Future[EventAck] = asyncio.get_running_loop().create_future()
    waiter = _AckWaiter(answer)
    waiter.on_acknowledged(f.AckFrame(1, 2, 1))
    waiter.on_acknowledged(f.AckFrame(1, 9, 9))
    assert await answer == EventAck(2, 1)


async def test_what_has_no_form_on_the_wire_is_refused_here(ends: Duo) -> None:
    with pytest.raises(InvalidArgumentError):
        await ends.here.emit("n" * 70_000, 1)
    with pytest.raises(ResourceError, match="over the peer's limit"):
        await ends.here.emit("a", bytes(5 << 20))
    with pytest.raises(ConfigurationError, match="timeout: 0 must be above 0 seconds"):
        await ends.here.emit("a", 1, ack=True, timeout=0)


async def test_a_peer_that_does_not_acknowledge_is_known(ends: Duo) -> None:
    ends.here.peer.protocol.link.features = frozenset()
    with pytest.raises(LocalProtocolError, match="peer does not acknowledge events"):
        await ends.here.emit("a", 1, ack=True)
    assert left_of(ends.here) == {}


async def test_events_may_be_emitted_at_once_after_connecting() -> None:
    seen: list[Any] = []
    async with served() as server:
        server.on("hello", lambda payload, ctx: seen.append((payload, ctx.session.id)))
        async with joined(server) as client:
            assert await client.emit("hello", "there", ack=True) == EventAck(1, 0)
            assert seen == [("there", client.session.id)]


def test_servers_do_not_emit() -> None:
    assert not hasattr(RpcServer, "emit")  # broadcast says to how many
