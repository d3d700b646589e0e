"""Unary calls: deadlines, cancellation, places, metadata, large payloads, what a lost connection does."""

from __future__ import annotations

import asyncio
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
    Session,
    Status,
    handler,
    service,
)
from echostream.errors import EchoStreamError, LocalProtocolError
from echostream.protocol import frames as f
from echostream.protocol.link import LANE
from echostream.session.calling import call_unary, error_of
from echostream.session.pending import NO_ARGUMENTS, CallRequest, PendingCall
from tests.serving import until
from tests.session.world import ALL_WAYS, BOTH, MS, Duo, Gate, duo, frozen, left_of


class OutOfStock(RpcError, code=Status.FAILED_PRECONDITION, reason="desk.out_of_stock"): ...


@service("desk")
class Desk:
    """Every kind of answer; `onward` is the session for nested calls, if not the caller's own."""

    def __init__(self, onward: Session | None = None) -> None:
        self.gate = Gate()
        self.onward = onward
        self.seen: list[Any] = []

    @handler
    async def add(self, a: int, b: int = 0) -> int:
        return a + b

    @handler
    async def later(self, text: str) -> str:
        await asyncio.sleep(0)
        return text

    @handler
    async def wait(self, *, ctx: Context = INJECTED) -> str:
        self.seen.append(ctx)
        await self.gate.pass_through()
        return "through"

    @handler(timeout=0.02)
    async def hurry(self) -> None:
        await self.gate.pass_through()

    @handler(timeout=None)
    async def patient(self, *, ctx: Context = INJECTED) -> bool:
        return ctx.deadline is None

    @handler
    async def time_left(self, *, ctx: Context = INJECTED) -> float | None:
        return ctx.time_left

    @handler
    async def nested(self, *, ctx: Context = INJECTED) -> float | None:
        session = self.onward or ctx.session
        left: float | None = await session.request("desk.time_left", returns=float | None, timeout=None)
        return left

    @handler
    async def pass_on(self, *, ctx: Context = INJECTED) -> str:
        session = self.onward or ctx.session
        self.gate.reached.set()
        try:
            return await session.proxy(Desk).wait()
        except asyncio.CancelledError:
            self.gate.cancelled = True
            raise
        finally:
            self.gate.left.set()

    @handler(raises=[OutOfStock])
    async def buy(self) -> None:
        raise OutOfStock("only 3 left", details={"left": 3})

    @handler
    async def fail(self, code: int) -> None:
        raise RpcError(Status(code), "tab\t newline\n 🦀", retry_after=1.5)

    @handler
    async def echo(self, data: bytes) -> bytes:
        return data

    @handler
    async def describe(self, *, ctx: Context = INJECTED) -> dict[str, str]:
        ctx.set_initial_metadata(served_by="x", key_bin=b"\x00\xff")
        ctx.set_trailing_metadata(cost="3", sum_bin=b"\x01")
        return {key: value.hex() if isinstance(value, bytes) else value for key, value in ctx.metadata.items()}

    @handler
    async def quit_by_itself(self) -> None:
        raise asyncio.CancelledError


@pytest.fixture
async def desk() -> Desk:
    return Desk()


@pytest.fixture
async def ends(desk: Desk, scheme: str, way: str) -> AsyncIterator[Duo]:
    async with duo(desk, scheme=scheme, way=way) as made:
        yield made
        await until(lambda: left_of(made.here) == {} == left_of(made.there))


# Results


@ALL_WAYS
async def test_a_call_returns_what_the_handler_returns(ends: Duo) -> None:
    desk = ends.here.proxy(Desk)
    assert await desk.add(1, b=2) == 3
    assert await desk.later("hello") == "hello"
    assert await ends.here.request("desk.add", 4, returns=int) == 4
    assert await ends.here.request("desk.add", a=4, b=3) == 7


@ALL_WAYS
async def test_many_calls_at_once_each_get_their_own_answer(ends: Duo) -> None:
    desk = ends.here.proxy(Desk)
    answers = await asyncio.gather(*(desk.later(str(number)) for number in range(300)))
    assert answers == [str(number) for number in range(300)]


@ALL_WAYS
@pytest.mark.parametrize("size", [0, 1, 40_000, 1_000_000])
async def test_bytes_travel_as_they_are_at_any_size(ends: Duo, size: int) -> None:
    data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    assert await ends.here.proxy(Desk).echo(data) == data


@ALL_WAYS
async def test_large_and_small_calls_mix(ends: Duo) -> None:
    desk = ends.here.proxy(Desk)
    blobs = [bytes([number]) * 1_000_000 for number in range(12)]
    large = asyncio.gather(*(desk.echo(blob) for blob in blobs))
    small = await asyncio.gather(*(desk.add(number) for number in range(50)))
    assert (small, await large) == (list(range(50)), blobs)


async def test_returns_says_what_an_answer_is_validated_as(ends: Duo) -> None:
    assert await ends.here.request("desk.later", "2026-01-02", returns=str) == "2026-01-02"
    with pytest.raises(RpcError) as caught:
        await ends.here.request("desk.later", "x", returns=int)
    assert caught.value.code is Status.INTERNAL


# Errors


@ALL_WAYS
async def test_a_listed_error_is_raised_as_its_class(ends: Duo) -> None:
    with pytest.raises(OutOfStock) as caught:
        await ends.here.proxy(Desk).buy()
    error = caught.value
    assert (error.code, error.message, error.details["left"]) == (Status.FAILED_PRECONDITION, "only 3 left", 3)
    assert (error.operation, error.session) == ("desk.buy", ends.here.id)
    with pytest.raises(RpcError) as plain:
        await ends.here.request("desk.buy")
    assert type(plain.value) is RpcError
    assert plain.value.details["reason"] == "desk.out_of_stock"


async def test_status_text_and_retry_delay_cross(ends: Duo) -> None:
    for status in Status:
        if status is Status.OK:
            continue
        with pytest.raises(RpcError) as caught:
            await ends.here.proxy(Desk).fail(int(status))
        assert (caught.value.code, caught.value.message) == (status, "tab\t newline\n 🦀")
        assert caught.value.retry_after == 1.5


async def test_a_handler_that_cancels_itself_answers_cancelled(ends: Duo) -> None:
    with pytest.raises(RpcError, match="the handler was cancelled") as caught:
        await ends.here.proxy(Desk).quit_by_itself()
    assert caught.value.code is Status.CANCELLED


@pytest.mark.parametrize("payload", [b"", b"\xc1", b"\x90", b"\x82\xa7message\x01\xa7details\x02"])
async def test_an_error_without_a_readable_payload_is_still_an_error(ends: Duo, payload: bytes) -> None:
    error = error_of(ends.here.peer, Status.NOT_FOUND, payload, "a.b", "s")
    assert (error.code, error.message, error.details) == (Status.NOT_FOUND, "", {})


async def test_a_payload_over_the_peers_limit_is_refused_here(ends: Duo) -> None:
    limit = Limits().max_payload_bytes
    with pytest.raises(ResourceError, match=f"payload of {limit + 1} bytes is over the peer's limit of {limit}"):
        await ends.here.proxy(Desk).echo(bytes(limit + 1))
    assert await ends.here.proxy(Desk).add(1) == 1


async def test_a_request_that_never_started_leaves_no_transport_stream_behind(ends: Duo) -> None:
    """Streams count against the peer's limit until they end."""
    with pytest.raises(ResourceError):
        await ends.here.proxy(Desk).echo(bytes(Limits().max_payload_bytes + 1))
    await ends.here.proxy(Desk).add(1)
    streams = ends.here.peer.connection._sending  # type: ignore[attr-defined]
    assert set(streams) == {0}


@pytest.mark.parametrize("timeout", [0, -1.0, float("nan"), float("inf")])
async def test_a_timeout_must_be_a_time(ends: Duo, timeout: float) -> None:
    with pytest.raises(EchoStreamError, match=f"timeout: {timeout} must be above 0 seconds, or None for no deadline"):
        await ends.here.request("desk.add", 1, timeout=timeout)


async def test_a_timeout_may_be_longer_than_anyone_lives(ends: Duo) -> None:
    assert await ends.here.request("desk.add", 1, timeout=1e15) == 1
    assert await ends.here.request("desk.add", 1, timeout=1e300) == 1


# Deadlines


@ALL_WAYS
async def test_a_call_has_ten_seconds_unless_said_otherwise(ends: Duo) -> None:
    desk = ends.here.proxy(Desk)
    left = await desk.time_left()
    assert left is not None
    assert 9.0 < left <= 10.0
    left = await ends.here.request("desk.time_left")
    assert 9.0 < left <= 10.0
    left = await ends.here.request("desk.time_left", timeout=3.0)
    assert 2.0 < left <= 3.0


@ALL_WAYS
async def test_none_is_no_deadline(ends: Duo) -> None:
    assert await ends.here.proxy(Desk, timeout=None).time_left() is None
    assert await ends.here.request("desk.time_left", timeout=None) is None
    assert await ends.here.proxy(Desk).patient()


@ALL_WAYS
async def test_a_call_ends_at_its_deadline_on_both_sides(ends: Duo, desk: Desk) -> None:
    with pytest.raises(DeadlineExceededError) as caught:
        await ends.here.request("desk.wait", timeout=20 * MS)
    error = caught.value
    assert (error.code, error.duration, error.operation) == (Status.DEADLINE_EXCEEDED, 0.02, "desk.wait")
    assert str(error) == "desk.wait: DEADLINE_EXCEEDED: no answer within 0.02 s; timeout= gives it more"
    assert isinstance(error, TimeoutError)
    await asyncio.wait_for(desk.gate.left.wait(), 5)
    assert desk.gate.cancelled
    assert desk.seen[0].cancelled


async def test_a_handlers_own_timeout_is_that_of_its_calls(ends: Duo, desk: Desk) -> None:
    with pytest.raises(DeadlineExceededError, match=r"within 0\.02 s"):
        await ends.here.proxy(Desk).hurry()
    desk.gate.opened.set()
    await ends.here.proxy(Desk, timeout=5).hurry()


async def test_the_servers_deadline_is_its_own_when_the_caller_says_nothing_more(ends: Duo, desk: Desk) -> None:
    """A caller that is stuck does not keep a handler running."""
    request = CallRequest("desk.wait", NO_ARGUMENTS, 20 * MS)
    seen: list[f.ResponseFrame] = []
    waiting = call_unary(ends.here.peer, request, NO_ARGUMENTS, lambda wire: wire, seen=seen.append)
    call = asyncio.create_task(waiting)
    await asyncio.wait_for(desk.gate.reached.wait(), 5)
    ends.here.peer.due.close()
    with pytest.raises(RpcError, match="the deadline passed while the handler ran"):
        await asyncio.wait_for(call, 5)
    assert [frame.status for frame in seen] == [Status.DEADLINE_EXCEEDED]


@ALL_WAYS
async def test_a_nested_call_inherits_what_is_left(desk: Desk, scheme: str, way: str) -> None:
    async with duo(desk, scheme=scheme, way=way) as ends:
        ends.here.register(Desk())  # the far handler calls back
        left = await ends.here.request("desk.nested", timeout=2.0)
        assert 1.0 < left <= 2.0
        assert await ends.here.request("desk.nested", timeout=None) is None


async def test_a_nested_call_takes_the_nearer_deadline(ends: Duo) -> None:
    ends.here.register(Desk())

    @handler("nearer")
    async def nearer(*, ctx: Context = INJECTED) -> float:
        left: float = await ctx.session.request("desk.time_left", timeout=0.5)
        return left

    ends.there.register(nearer)
    assert 0.3 < await ends.here.request("nearer", timeout=5.0) <= 0.5


async def test_a_nested_call_of_a_proxy_inherits_what_is_left(ends: Duo) -> None:
    ends.here.register(Desk())

    @handler("proxied")
    async def proxied(*, ctx: Context = INJECTED) -> float:
        left = await ctx.session.proxy(Desk, timeout=5.0).time_left()
        assert left is not None
        return left

    ends.there.register(proxied)
    assert 0.3 < await ends.here.request("proxied", timeout=0.5) <= 0.5
    assert 4.0 < await ends.here.request("proxied", timeout=8.0) <= 5.0


async def test_a_call_from_another_event_loop_says_where_the_session_lives(ends: Duo) -> None:
    desk = ends.here.proxy(Desk)

    def elsewhere() -> None:
        with pytest.raises(LocalProtocolError, match="this session belongs to another event loop"):
            asyncio.run(desk.add(1))

    await asyncio.to_thread(elsewhere)
    assert await desk.add(1) == 1


async def test_a_nested_call_without_time_left_says_so_and_asks_nobody(ends: Duo) -> None:
    seen: list[str] = []
    asked: list[str] = []

    @handler("late")
    async def late(*, ctx: Context = INJECTED) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            while ctx.time_left:  # the caller's Cancel may come a little sooner than the end of the handler's own time
                pass
            try:
                await ctx.session.request("probe", "late", timeout=None)
            except DeadlineExceededError as error:
                seen.append(str(error))
            raise

    @handler("probe")
    async def probe(name: str) -> None:
        asked.append(name)

    ends.there.register(late)
    ends.here.register(probe)
    with pytest.raises(DeadlineExceededError):
        await ends.here.request("late", timeout=100 * MS)
    await until(lambda: seen)
    assert seen == ["probe: DEADLINE_EXCEEDED: no answer within 0 s; timeout= gives it more"]
    await ends.there.request("probe", "in time")
    assert asked == ["in time"]


# Cancellation


@ALL_WAYS
async def test_cancelling_a_call_cancels_the_handler(ends: Duo, desk: Desk) -> None:
    call = asyncio.create_task(ends.here.proxy(Desk).wait())
    await asyncio.wait_for(desk.gate.reached.wait(), 5)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await asyncio.wait_for(desk.gate.left.wait(), 5)
    assert desk.gate.cancelled
    assert desk.seen[0].cancelled


@BOTH
async def test_cancellation_cascades_over_two_hops_up(scheme: str) -> None:
    """Client to server to the other server."""
    far = Desk()
    async with duo(far, scheme=scheme) as onward:
        near = Desk(onward.here)
        async with duo(near, scheme=scheme) as ends:
            call = asyncio.create_task(ends.here.proxy(Desk).pass_on())
            await asyncio.wait_for(far.gate.reached.wait(), 5)
            call.cancel()
            await asyncio.wait_for(far.gate.left.wait(), 5)
            await asyncio.wait_for(near.gate.left.wait(), 5)
            assert (near.gate.cancelled, far.gate.cancelled) == (True, True)
            assert left_of(onward.here) == {}
        await until(lambda: left_of(onward.there) == {})


@BOTH
async def test_cancellation_cascades_over_two_hops_down(scheme: str) -> None:
    """A server calls its client, which calls another server."""
    far = Desk()
    async with duo(far, scheme=scheme) as onward:
        near = Desk(onward.here)
        async with duo(near, scheme=scheme, way="down") as ends:
            call = asyncio.create_task(ends.here.proxy(Desk).pass_on())
            await asyncio.wait_for(far.gate.reached.wait(), 5)
            call.cancel()
            await asyncio.wait_for(far.gate.left.wait(), 5)
            await asyncio.wait_for(near.gate.left.wait(), 5)
            assert (near.gate.cancelled, far.gate.cancelled) == (True, True)


@BOTH
async def test_a_deadline_cascades_back_over_the_same_connection(scheme: str) -> None:
    near, far = Desk(), Desk()
    async with duo(far, scheme=scheme) as ends:
        ends.here.register(near)
        with pytest.raises(DeadlineExceededError):
            await ends.here.request("desk.pass_on", timeout=50 * MS)
        await asyncio.wait_for(near.gate.left.wait(), 5)
        await asyncio.wait_for(far.gate.left.wait(), 5)
        assert (near.gate.cancelled, far.gate.cancelled) == (True, True)


async def test_a_lost_connection_cascades_over_two_hops() -> None:
    far = Desk()
    async with duo(far) as onward:
        near = Desk(onward.here)
        async with duo(near) as ends:
            call = asyncio.create_task(ends.here.proxy(Desk).pass_on())
            await asyncio.wait_for(far.gate.reached.wait(), 5)
            ends.here.peer.connection.abort()
            with pytest.raises(ConnectionLostError):
                await call
            await asyncio.wait_for(far.gate.left.wait(), 5)
            assert (near.gate.cancelled, far.gate.cancelled) == (True, True)


async def test_a_connection_lost_behind_a_handler_is_unavailable_to_its_caller() -> None:
    far = Desk()
    async with duo(far) as onward:
        near = Desk(onward.here)
        async with duo(near) as ends:
            call = asyncio.create_task(ends.here.proxy(Desk).pass_on())
            await asyncio.wait_for(far.gate.reached.wait(), 5)
            onward.here.peer.connection.abort()
            with pytest.raises(RpcError, match="a connection behind this handler was lost") as caught:
                await call
            assert caught.value.code is Status.UNAVAILABLE


# Places


SMALL = Limits(max_concurrent_calls=2)


@ALL_WAYS
async def test_callers_above_the_limit_wait_on_their_own_side(desk: Desk, scheme: str, way: str) -> None:
    async with duo(desk, scheme=scheme, way=way, there_limits=SMALL) as ends:
        calls = [asyncio.create_task(ends.here.proxy(Desk).wait()) for _ in range(5)]
        await until(lambda: len(desk.seen) == 2)
        assert ends.here.peer.places.waiting == 3
        assert len(ends.there.peer.protocol.calls.incoming) == 2
        desk.gate.opened.set()
        assert await asyncio.gather(*calls) == ["through"] * 5


async def test_who_waits_for_a_place_has_the_deadline_running(desk: Desk) -> None:
    async with duo(desk, there_limits=SMALL) as ends:
        calls = [asyncio.create_task(ends.here.proxy(Desk).wait()) for _ in range(2)]
        await until(lambda: len(desk.seen) == 2)
        with pytest.raises(DeadlineExceededError, match=r"no answer within 0\.01 s"):
            await ends.here.request("desk.add", 1, timeout=10 * MS)
        assert ends.here.peer.places.waiting == 0
        desk.gate.opened.set()
        await asyncio.gather(*calls)
        assert await ends.here.proxy(Desk).add(1) == 1


async def test_time_spent_in_line_is_taken_off(desk: Desk) -> None:
    async with duo(desk, there_limits=SMALL) as ends:
        calls = [asyncio.create_task(ends.here.proxy(Desk).wait()) for _ in range(2)]
        await until(lambda: len(desk.seen) == 2)
        late = asyncio.create_task(ends.here.request("desk.time_left", timeout=10.0))
        await asyncio.sleep(30 * MS)
        desk.gate.opened.set()
        assert await late < 10.0 - 25 * MS
        await asyncio.gather(*calls)


@pytest.mark.parametrize("end", ["in order", "cancelled", "late"])
async def test_a_call_that_gets_its_place_while_its_lane_is_full_waits_for_that_too(desk: Desk, end: str) -> None:
    async with duo(desk, there_limits=SMALL) as ends:
        peer, desks = ends.here.peer, ends.here.proxy(Desk)
        calls = [asyncio.create_task(desks.wait()) for _ in range(2)]
        await until(lambda: len(desk.seen) == 2)
        third = asyncio.create_task(ends.here.request("desk.add", 1, timeout=0.05 if end == "late" else 10.0))
        await until(lambda: peer.places.waiting == 1)
        peer.blocked[LANE] = None
        desk.gate.opened.set()
        await asyncio.gather(*calls)
        if end == "cancelled":
            third.cancel()
        await asyncio.sleep(5 * MS)
        assert len(peer.protocol.calls.outgoing) == 0
        if end == "late":
            with pytest.raises(DeadlineExceededError):
                await third
        peer.writable(LANE)
        if end == "cancelled":
            with pytest.raises(asyncio.CancelledError):
                await third
        if end == "in order":
            assert await third == 1
        assert await asyncio.gather(*(desks.add(number) for number in range(5))) == [*range(5)]  # no place was lost
        assert (peer.places.waiting, peer.places.free) == (0, True)


async def test_a_call_that_may_not_start_when_its_turn_comes_says_so(desk: Desk) -> None:
    async with duo(desk, there_limits=SMALL) as ends:
        calls = [asyncio.create_task(ends.here.proxy(Desk).wait()) for _ in range(2)]
        await until(lambda: len(desk.seen) == 2)
        third = asyncio.create_task(ends.here.request("desk.add", 1))
        await until(lambda: ends.here.peer.places.waiting == 1)
        ends.there.peer.protocol.go_away(3001)
        ends.there.peer.touch()
        await until(lambda: ends.here.peer.protocol.peer_gone_away)
        desk.gate.opened.set()
        with pytest.raises(RpcError, match="takes no new calls"):
            await third
        await asyncio.gather(*calls)


async def test_the_line_is_bounded(desk: Desk) -> None:
    limits = Limits(max_waiting_calls=1)
    async with duo(desk, there_limits=SMALL, limits=limits) as ends:
        calls = [asyncio.create_task(ends.here.proxy(Desk).wait()) for _ in range(3)]
        await until(lambda: len(desk.seen) == 2)
        with pytest.raises(ResourceError, match="1 calls already wait for a free place"):
            await ends.here.proxy(Desk).add(1)
        desk.gate.opened.set()
        await asyncio.gather(*calls)


async def test_large_calls_do_not_exceed_the_limit_either(desk: Desk) -> None:
    """They wait for their turn to write after they got their place."""
    gate = Gate()

    @handler("busy")
    async def busy(data: bytes) -> int:
        await gate.pass_through()
        return len(data)

    async with duo(busy, limits=Limits(max_large_bytes=1 << 20), there_limits=SMALL) as ends:
        calls = [asyncio.create_task(ends.here.request("busy", bytes(900_000))) for _ in range(8)]
        await until(lambda: len(ends.there.peer.protocol.calls.incoming) == 2)
        assert ends.here.peer.places.waiting == 6
        gate.opened.set()
        assert await asyncio.gather(*calls) == [900_000] * 8


async def test_those_in_line_hear_of_a_lost_connection(desk: Desk) -> None:
    async with duo(desk, there_limits=SMALL) as ends:
        calls = [asyncio.create_task(ends.here.proxy(Desk).wait()) for _ in range(4)]
        await until(lambda: len(desk.seen) == 2)
        ends.here.peer.connection.abort()
        for error in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(error, ConnectionLostError)
            assert error.message == "connection closed by this side: aborted"


async def test_those_in_line_hear_that_the_peer_shuts_down(desk: Desk) -> None:
    async with duo(desk, there_limits=SMALL) as ends:
        calls = [asyncio.create_task(ends.here.proxy(Desk).wait()) for _ in range(4)]
        await until(lambda: len(desk.seen) == 2)
        ends.there.drain(3001, "bye")
        await until(lambda: ends.here.state == "draining")
        desk.gate.opened.set()
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert answers[:2] == ["through"] * 2
        assert [str(error) for error in answers[2:]] == [
            "desk.wait: UNAVAILABLE: the peer is shutting down and takes no new calls"
        ] * 2


async def test_calls_that_crossed_the_goodbye_were_not_seen_to_and_may_be_repeated(desk: Desk) -> None:
    async with duo(desk) as ends:
        ends.there.drain(3001, "bye")  # its last id is 0: it has seen none
        call = asyncio.create_task(ends.here.proxy(Desk).add(1))
        with pytest.raises(RpcError) as caught:
            await call
        assert (caught.value.code, caught.value.retryable) == (Status.UNAVAILABLE, True)


# Waiting to write


async def test_a_large_request_whose_peer_reads_nothing_ends_at_its_deadline(desk: Desk) -> None:
    async with duo(desk, limits=Limits(high_watermark_bytes=1 << 16, low_watermark_bytes=1 << 10)) as ends:
        with frozen(ends), pytest.raises(DeadlineExceededError):
            await ends.here.request("desk.echo", bytes(100_000), timeout=10 * MS)
        await until(lambda: left_of(ends.here) == {})


@pytest.mark.parametrize("size", [100, 100_000])
async def test_a_request_that_waits_to_be_written_hears_of_a_lost_connection(desk: Desk, size: int) -> None:
    async with duo(desk, limits=Limits(lanes=1, high_watermark_bytes=1 << 16, low_watermark_bytes=1 << 10)) as ends:
        with frozen(ends):
            filler = [asyncio.create_task(ends.here.proxy(Desk).echo(bytes(30_000))) for _ in range(4)]
            await until(lambda: ends.here.peer.is_blocked(0))
            call = asyncio.create_task(ends.here.proxy(Desk).echo(bytes(size)))
            await asyncio.sleep(0)
            ends.here.peer.connection.abort()
            for error in await asyncio.gather(call, *filler, return_exceptions=True):
                assert isinstance(error, ConnectionLostError)


async def test_small_calls_go_on_when_a_full_lane_is_free_again(desk: Desk) -> None:
    async with duo(desk, limits=Limits(lanes=1, high_watermark_bytes=1 << 16, low_watermark_bytes=1 << 10)) as ends:
        with frozen(ends):
            calls = [asyncio.create_task(ends.here.proxy(Desk).echo(bytes(30_000))) for _ in range(4)]
            await until(lambda: ends.here.peer.is_blocked(0))
            late = asyncio.create_task(ends.here.proxy(Desk).add(5))
            await asyncio.sleep(0)
        assert await late == 5
        assert len(await asyncio.gather(*calls)) == 4


# Metadata


@ALL_WAYS
async def test_metadata_travels_both_ways(ends: Duo) -> None:
    sent: dict[str, str | bytes] = {"tenant": "a", "trace-bin": b"\x00\x01"}
    assert await ends.here.proxy(Desk, metadata=sent).describe() == {"tenant": "a", "trace-bin": "0001"}
    assert await ends.here.request("desk.describe", metadata=sent) == {"tenant": "a", "trace-bin": "0001"}
    call = ends.here.call(ends.here.proxy(Desk).describe)
    await call
    assert call.initial_metadata == {"served-by": "x", "key-bin": b"\x00\xff"}
    assert call.trailing_metadata == {"cost": "3", "sum-bin": b"\x01"}


async def test_metadata_without_a_form_on_the_wire_is_refused_here(ends: Duo) -> None:
    with pytest.raises(InvalidArgumentError):
        await ends.here.request("desk.describe", metadata={"Upper": "x"})
    with pytest.raises(InvalidArgumentError):
        await ends.here.request("desk.describe", metadata={"x-bin": "text"})


# The end


@ALL_WAYS
async def test_a_call_in_flight_hears_of_a_lost_connection(desk: Desk, scheme: str, way: str) -> None:
    async with duo(desk, scheme=scheme, way=way) as ends:
        call = asyncio.create_task(ends.here.proxy(Desk).wait())
        await asyncio.wait_for(desk.gate.reached.wait(), 5)
        await ends.there.close(4001, "lunch")
        with pytest.raises(ConnectionLostError) as caught:
            await call
        assert (caught.value.close_code, caught.value.operation) == (4001, "desk.wait")
        assert caught.value.message == "connection closed by the peer: lunch"
        assert desk.gate.cancelled


async def test_a_call_after_the_end_says_that_it_ended(desk: Desk) -> None:
    async with duo(desk) as ends:
        await ends.client.close()
        with pytest.raises(ConnectionLostError) as caught:
            await ends.here.proxy(Desk).add(1)
        assert (caught.value.operation, caught.value.session) == ("desk.add", ends.here.id)


# The handle by itself


async def test_the_handle_of_a_call_takes_only_the_first_end(ends: Duo) -> None:
    pending = PendingCall(ends.here.peer, 1.0)
    pending.on_answered()
    pending.on_answered()
    pending.on_lost(ConnectionLostError())
    pending.expire()
    pending.on_credit()
    assert await pending.future
    with pytest.raises(AssertionError):
        pending.on_item(f.ItemFrame(1, b""))


async def test_a_call_that_never_started_has_no_method_to_name(ends: Duo) -> None:
    lost, late, gone = (PendingCall(ends.here.peer, None) for _ in range(3))
    lost.on_lost(ConnectionLostError("gone", close_code=3000))
    with pytest.raises(ConnectionLostError, match="gone"):
        await lost.future
    late.expire()
    with pytest.raises(DeadlineExceededError, match=r"^DEADLINE_EXCEEDED: no answer$"):
        await late.future
    gone.on_lost(RpcError(Status.UNAVAILABLE, "away", retryable=True))
    with pytest.raises(RpcError, match="away"):
        await gone.future
