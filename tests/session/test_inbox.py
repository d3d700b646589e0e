"""Events on their way to listeners: order, bounds, acknowledgements, failures."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import pytest

from echostream import Context, Limits, event, listener, service
from echostream.session.emitter import EventAck
from tests.serving import until
from tests.session.world import ALL_WAYS, Duo, Gate, duo, left_of

_colour: ContextVar[str] = ContextVar("inbox_colour", default="none")


@event("price.changed")
@dataclass
class Price:
    symbol: str
    price: float = 1.0


@event("point")
@dataclass
class Point:
    x: int


@pytest.fixture
async def ends(scheme: str, way: str) -> AsyncIterator[Duo]:
    async with duo(scheme=scheme, way=way) as made:
        yield made
        await until(lambda: left_of(made.here) == {} == left_of(made.there))


# What arrives


@ALL_WAYS
async def test_an_event_reaches_every_listener_of_the_session(ends: Duo) -> None:
    seen: list[Any] = []

    async def slow(payload: Any, ctx: Context) -> None:
        await asyncio.sleep(0)
        seen.append(("async", payload, ctx.method, ctx.session, dict(ctx.metadata)))

    ends.there.on(Price, seen.append)
    ends.there.on("price.*", slow)
    ends.there.on("other", seen.append)
    ack = await ends.here.emit(Price("A", 2.0), ack=True, metadata={"k": "v"})
    assert ack == EventAck(listeners=2, failed=0)
    assert seen == [Price("A", 2.0), ("async", Price("A", 2.0), "price.changed", ends.there, {"k": "v"})]


@ALL_WAYS
async def test_the_payload_is_the_model_where_the_class_is_known_else_a_dict(ends: Duo) -> None:
    seen: list[Any] = []
    ends.there.on("price.changed", seen.append)
    await ends.here.emit(Price("A"), ack=True)
    await ends.here.emit("price.changed", {"symbol": "B", "price": 3}, ack=True)
    ends.there.on(Price, lambda _: None)  # now it is known
    await ends.here.emit("price.changed", {"symbol": "C", "price": 3}, ack=True)
    assert seen == [{"symbol": "A", "price": 1.0}, {"symbol": "B", "price": 3}, Price("C", 3.0)]


@ALL_WAYS
async def test_events_without_a_class_carry_anything(ends: Duo) -> None:
    seen: list[Any] = []
    ends.there.on("any", seen.append)
    await ends.here.emit("any", ack=True)
    for payload in (None, 1, "text", b"\x00raw", [1, 2], {"a": 1}, Point(3)):
        await ends.here.emit("any", payload, ack=True)
    assert seen == [None, None, 1, "text", b"\x00raw", [1, 2], {"a": 1}, {"x": 3}]


async def test_service_listeners_take_part(ends: Duo) -> None:
    seen: list[Any] = []

    @service("watcher")
    class Watcher:
        @listener(Price)
        async def on_price(self, changed: Price, ctx: Context) -> None:
            seen.append((changed, ctx.session is ends.there))

        @listener("point")
        async def on_point(self, point: Point) -> None:
            seen.append(point)

        @listener("keyword")
        async def on_keyword(self, payload: Any, *, ctx: Context) -> None:
            seen.append(ctx.method)

    ends.there.register(Watcher())
    await ends.here.emit(Price("A"), ack=True)
    await ends.here.emit("point", {"x": 4}, ack=True)
    await ends.here.emit("keyword", 1, ack=True)
    assert seen == [(Price("A"), True), Point(4), "keyword"]


async def test_an_event_that_does_not_fit_its_class_counts_as_failed(
    ends: Duo, caplog: pytest.LogCaptureFixture
) -> None:
    ends.there.on(Point, lambda _: None)
    assert await ends.here.emit("point", {"x": "many"}, ack=True) == EventAck(listeners=1, failed=1)
    await ends.here.emit("point", {"x": "many"})
    assert await ends.here.emit("point", {"x": 1}, ack=True) == EventAck(listeners=1, failed=0)
    assert "! event point dropped: invalid point: /x" in caplog.text
    record, _ = [item for item in caplog.records if "dropped" in item.getMessage()]
    assert vars(record)["method"] == "point"
    assert vars(record)["session"]


async def test_nobody_listens(ends: Duo) -> None:
    await ends.here.emit("silence", 1)
    assert await ends.here.emit("silence", 1, ack=True) == EventAck(listeners=0, failed=0)


@ALL_WAYS
async def test_once_is_for_the_next_one_only(ends: Duo) -> None:
    seen: list[Any] = []
    ends.there.once(Point, seen.append)

    async def slow(payload: Any) -> None:
        await asyncio.sleep(0)
        seen.append(payload)

    ends.there.once("*", slow)
    acks = [await ends.here.emit(Point(number), ack=True) for number in range(3)]
    assert seen == [Point(0), Point(0)]
    assert [ack.listeners for ack in acks] == [2, 0, 0]


async def test_off_ends_the_delivery(ends: Duo) -> None:
    seen: list[Any] = []
    off = ends.there.on("a", seen.append)
    await ends.here.emit("a", 1, ack=True)
    off()
    off()
    await ends.here.emit("a", 2, ack=True)
    assert seen == [1]


async def test_off_holds_for_what_is_queued_and_for_the_event_being_handed_out(ends: Duo) -> None:
    gate, seen, offs = Gate(), list[Any](), list[Any]()

    async def slow(payload: Any) -> None:
        await gate.pass_through()
        seen.append(payload)

    off = ends.there.on("a", slow)
    acks = [asyncio.create_task(ends.here.emit("a", number, ack=True)) for number in range(3)]
    await gate.reached.wait()
    await until(lambda: ends.there._inbox.queued == 2)
    off()
    gate.opened.set()
    assert [ack.listeners for ack in await asyncio.gather(*acks)] == [1, 0, 0]
    assert seen == [0]

    ends.there.on("b", lambda _: offs[0]())
    offs.append(ends.there.on("b", seen.append))
    assert await ends.here.emit("b", 1, ack=True) == EventAck(listeners=1, failed=0)
    assert seen == [0]


# Failures


@ALL_WAYS
async def test_a_failing_listener_is_counted_and_does_not_disturb_others(
    ends: Duo, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[Any] = []

    def breaks(payload: Any) -> None:
        raise ValueError("plain")

    async def breaks_later(payload: Any) -> None:
        await asyncio.sleep(0)
        raise ValueError("async")

    for callback in (breaks, breaks_later, seen.append):
        ends.there.on("a", callback)
    for _ in range(2):
        assert await ends.here.emit("a", 1, ack=True) == EventAck(listeners=3, failed=2)
    assert seen == [1, 1]
    assert "breaks_later of event a raised" in caplog.text


async def test_a_listener_that_cancels_itself_fails_and_the_next_ones_are_delivered(ends: Duo) -> None:
    gate, seen = Gate(), list[Any]()

    async def cancelled(payload: Any) -> None:
        await gate.pass_through()
        seen.append(payload)
        if payload < 2:
            raise asyncio.CancelledError

    ends.there.on("a", cancelled)
    acks = [asyncio.create_task(ends.here.emit("a", number, ack=True)) for number in range(3)]
    await until(lambda: ends.there._inbox.queued == 2)
    gate.opened.set()
    assert [ack.failed for ack in await asyncio.wait_for(asyncio.gather(*acks), 5)] == [1, 1, 0]
    assert seen == [0, 1, 2]


async def test_a_plain_listener_that_raises_a_cancellation_fails_and_the_rest_of_the_burst_is_delivered(
    ends: Duo,
) -> None:
    cancelled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    cancelled.cancel()
    seen: list[Any] = []
    ends.there.on("a", lambda _: cancelled.result())
    ends.there.on("b", seen.append)
    acks = await asyncio.gather(*(ends.here.emit(name, 1, ack=True, timeout=5) for name in "ab"))
    assert acks == [EventAck(1, 1), EventAck(1, 0)]
    assert seen == [1]


# Order


@ALL_WAYS
async def test_one_listener_gets_one_event_at_a_time_in_order(ends: Duo) -> None:
    seen: list[int] = []
    running = 0

    async def uneven(payload: int) -> None:
        nonlocal running
        running += 1
        assert running == 1
        for _ in range(payload % 3):
            await asyncio.sleep(0)
        seen.append(payload)
        running -= 1

    ends.there.on("a", uneven)
    for number in range(200):
        await ends.here.emit("a", number)
    assert await ends.here.emit("a", 200, ack=True) == EventAck(1, 0)
    assert seen == list(range(201))


async def test_different_listeners_and_different_names_run_concurrently(ends: Duo) -> None:
    gates = {key: Gate() for key in ("first", "second", "other")}

    def waits(key: str) -> Any:
        async def callback(payload: Any) -> None:
            await gates[key].pass_through()

        return callback

    ends.there.on("a", waits("first"))
    ends.there.on("a", waits("second"))
    same = waits("other")

    async def by_name(payload: Any, ctx: Context) -> None:
        if ctx.method == "x":
            await same(payload)

    ends.there.on("?", by_name)  # one listener, two names
    await ends.here.emit("a", 1)
    await ends.here.emit("x", 1)
    for gate in gates.values():
        await asyncio.wait_for(gate.reached.wait(), 5)
    assert await ends.here.emit("y", 1, ack=True) == EventAck(1, 0)
    for gate in gates.values():
        gate.opened.set()
    await until(lambda: not ends.there._inbox._busy)


# Bounds


async def test_the_oldest_plain_events_are_dropped_above_the_bound(caplog: pytest.LogCaptureFixture) -> None:
    gate, seen = Gate(), list[Any]()

    async def slow(payload: Any) -> None:
        await gate.pass_through()
        seen.append(payload)

    async with duo(there_limits=Limits(max_queued_events=3)) as ends:
        ends.there.on("a", slow)
        for number in range(10):
            await ends.here.emit("a", number)
        await until(lambda: ends.there.dropped_events == 6)
        gate.opened.set()
        assert await ends.here.emit("a", 10, ack=True) == EventAck(1, 0)
        assert seen == [0, 7, 8, 9, 10]
        assert caplog.text.count("listeners of a are too slow, the oldest of 3 queued events is dropped") == 1


async def test_what_was_dropped_is_let_go_of() -> None:
    gate = Gate()
    async with duo(there_limits=Limits(max_queued_events=3)) as ends:
        for name in ("a", "b"):
            ends.there.on(name, lambda _: gate.pass_through())
        for number in range(50):
            await ends.here.emit("a" if number % 2 else "b", number)
        await until(lambda: ends.there.dropped_events == 45)
        assert sum(len(line) for line in ends.there._inbox._busy.values()) == 3
        gate.opened.set()


async def test_the_bound_is_1024_unless_said_otherwise(ends: Duo) -> None:
    gate, seen = Gate(), list[Any]()

    async def slow(payload: Any) -> None:
        await gate.pass_through()
        seen.append(payload)

    ends.there.on("a", slow)
    for number in range(1030):
        await ends.here.emit("a", number)
    await until(lambda: ends.there.dropped_events == 5)
    gate.opened.set()
    await until(lambda: len(seen) == 1025)
    assert seen == [0, *range(6, 1030)]


async def test_acknowledged_events_are_never_dropped(ends: Duo) -> None:
    gate, seen = Gate(), list[Any]()

    async def slow(payload: Any) -> None:
        await gate.pass_through()
        seen.append(payload)

    async with duo(there_limits=Limits(max_queued_events=2)) as small:
        small.there.on("a", slow)
        acks = [asyncio.create_task(small.here.emit("a", number, ack=True)) for number in range(20)]
        await until(lambda: small.there._inbox.queued == 19)
        await small.here.emit("a", "plain")  # above the bound: dropped, as the oldest plain one
        await until(lambda: small.there.dropped_events == 1)
        gate.opened.set()
        await asyncio.gather(*acks)
        assert seen == list(range(20))


# The end


async def test_listeners_are_cancelled_with_their_session() -> None:
    gate, seen = Gate(), list[Any]()

    async def slow(payload: Any) -> None:
        seen.append(payload)
        await gate.pass_through()

    async with duo() as ends:
        ends.there.on("a", slow)
        await ends.here.emit("a", 1)
        await ends.here.emit("a", 2)
        await until(lambda: ends.there._inbox.queued == 1)
        await ends.client.close()
        await asyncio.wait_for(gate.left.wait(), 5)
    assert gate.cancelled
    assert seen == [1]


async def test_a_listener_knows_its_context_and_keeps_its_variables_to_itself(ends: Duo) -> None:
    seen: list[Any] = []

    def plain(payload: Any) -> None:
        seen.append((Context.current().method, _colour.get()))
        _colour.set("plain")

    async def later(payload: Any) -> None:
        await asyncio.sleep(0)
        seen.append((Context.current().method, _colour.get()))

    ends.there.on("a", plain)
    ends.there.on("a", later)
    await ends.here.emit("a", 1, ack=True)
    await ends.here.emit("a", 1, ack=True)
    assert seen == [("a", "none")] * 4
