"""Tests for echostream.routing.invocation: answers that are large, late, held up, or that nothing can carry."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from echostream import (
    INJECTED,
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
from tests.serving import PATIENCE, QUIC, joined, linked, served, session_of, until

LARGE = 100_000


@service("work")
class Work:
    def __init__(self) -> None:
        self.yielded = 0
        self.ended = 0
        self.read = 0

    @handler
    async def flood(self, size: int = 1000) -> AsyncIterator[bytes]:
        try:
            while True:
                yield bytes(size)
                self.yielded += 1
        finally:
            self.ended += 1

    @handler
    async def large(self, size: int = LARGE) -> bytes:
        return bytes(size)

    @handler
    async def large_items(self) -> AsyncIterator[bytes]:
        for _ in range(3):
            yield bytes(LARGE)

    @handler
    async def stubborn(self) -> bytes:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.ended += 1
        return bytes(LARGE)

    @handler
    async def read_one(self, items: AsyncIterator[int]) -> int:
        async for item in items:
            return item
        return 0

    @handler
    async def read_slowly(self, items: AsyncIterator[bytes]) -> int:
        async for item in items:
            self.read += len(item)
            await asyncio.sleep(0)
        return self.read

    @handler
    async def describe(self, trouble: str, *, ctx: Context = INJECTED) -> int:
        match trouble:
            case "large trailing":
                ctx.set_trailing_metadata(text="x" * 10_000)
            case "large initial":
                ctx.set_initial_metadata(text="x" * 10_000)
            case "wrong trailing":
                ctx.set_trailing_metadata(text=7)  # type: ignore[arg-type]
            case "wrong initial":
                ctx.set_initial_metadata(Text="upper case")
            case "surrogates":
                raise RpcError(Status.NOT_FOUND, "no file \udcff")
            case "emoji":
                raise RpcError(Status.NOT_FOUND, "😈" * 5000)
            case "failing with large trailing":
                ctx.set_trailing_metadata(text="x" * 10_000)
                raise RpcError(Status.NOT_FOUND, "no order 7", details={"order": 7})
        return 1

    @handler
    async def report(self, *, ctx: Context = INJECTED) -> int:
        await ctx.progress(1, total=2, message="half")
        await ctx.progress(2, total=2)
        return 1


async def failure(call: Any) -> RpcError:
    with pytest.raises(RpcError) as caught:
        await asyncio.wait_for(call, PATIENCE)
    return caught.value


async def test_a_generator_waits_for_a_slow_reader() -> None:
    work = Work()
    limits = Limits(call_window_bytes=10_000)
    async with served(work) as server, joined(server, limits=limits) as client:
        async with client.stream(client.proxy(Work).flood) as items:
            iterator = aiter(items)
            await anext(iterator)
            await until(lambda: work.yielded >= 9)
            for _ in range(20):
                await asyncio.sleep(0)
            held = work.yielded
            assert held <= 11
            for _ in range(30):
                await anext(iterator)
            await until(lambda: work.yielded > held)
        await until(lambda: work.ended)


async def test_a_generator_that_waits_for_credit_ends_with_its_caller() -> None:
    work = Work()
    async with served(work) as server, joined(server, limits=Limits(call_window_bytes=5000)) as client:
        async with client.stream(client.proxy(Work).flood) as items:
            await anext(aiter(items))
            await until(lambda: work.yielded >= 4)
        await until(lambda: work.ended)


async def test_input_waits_for_a_slow_handler() -> None:
    async def input_items() -> AsyncIterator[bytes]:
        for _ in range(50):
            yield bytes(1000)

    async with served(Work(), limits=Limits(call_window_bytes=5000)) as server, joined(server) as client:
        assert await client.proxy(Work).read_slowly(input_items()) == 50_000


async def test_input_that_is_not_read_is_given_up() -> None:
    closed = asyncio.Event()

    async def endless() -> AsyncIterator[int]:
        try:
            while True:
                yield 7
                await asyncio.sleep(0)
        finally:
            closed.set()

    async with linked(Work()) as (_, client):
        assert await client.proxy(Work).read_one(endless()) == 7
        await asyncio.wait_for(closed.wait(), PATIENCE)


@pytest.mark.parametrize("url", [QUIC, None])
async def test_large_answers_have_streams_of_their_own(url: str | None) -> None:
    async with linked(Work(), url=url) as (server, client):
        work = client.proxy(Work)
        assert [len(answer) for answer in await asyncio.gather(*(work.large() for _ in range(20)))] == [LARGE] * 20
        assert [len(item) async for item in work.large_items()] == [LARGE] * 3
        assert session_of(server, client).peer.large.claimed_bytes == 0


async def test_large_answers_that_come_too_late_cost_no_streams() -> None:
    """More of them than the peer allows streams: each opened one must be given back."""
    work = Work()
    async with linked(work, url=QUIC) as (_, client):
        for burst in range(1, 13):
            calls = [client.call(client.proxy(Work).stubborn) for _ in range(200)]
            await until(lambda: client.session.peer.protocol.calls.outgoing)
            await asyncio.sleep(0.02)
            for call in calls:
                call.cancel()
            await asyncio.wait([asyncio.ensure_future(_ended(call)) for call in calls])
            await until(lambda burst=burst: work.ended == 200 * burst)
        assert len(await client.proxy(Work).large()) == LARGE


async def _ended(call: Any) -> None:
    with pytest.raises(asyncio.CancelledError):
        await call


@pytest.mark.parametrize(
    ("trouble", "kind", "code", "text"),
    [
        ("large trailing", RpcError, Status.RESOURCE_EXHAUSTED, "metadata of "),
        ("large initial", RpcError, Status.RESOURCE_EXHAUSTED, "metadata of "),
        ("wrong trailing", InvalidArgumentError, Status.INVALID_ARGUMENT, "metadata"),
        ("wrong initial", InvalidArgumentError, Status.INVALID_ARGUMENT, "metadata"),
        ("surrogates", RpcError, Status.NOT_FOUND, "no file ?"),
        ("failing with large trailing", RpcError, Status.NOT_FOUND, "no order 7"),
    ],
)
async def test_what_nothing_can_carry_still_ends_the_call(
    trouble: str, kind: type[RpcError], code: Status, text: str
) -> None:
    async with linked(Work()) as (_, client):
        error = await failure(client.request("work.describe", trouble))
    assert type(error) is kind
    assert error.code is code
    assert error.message.startswith(text)


async def test_a_long_text_is_cut_where_it_does_not_fit() -> None:
    async with served(Work()) as server, joined(server, limits=Limits(max_payload_bytes=1 << 10)) as client:
        error = await failure(client.request("work.describe", "emoji"))
    assert (error.code, error.message) == (Status.NOT_FOUND, "😈" * 200)


async def test_a_result_over_the_limit_says_so() -> None:
    async with served(Work()) as server, joined(server, limits=Limits(max_payload_bytes=1 << 10)) as client:
        error = await failure(client.request("work.large", 2000))
        assert error.code is Status.RESOURCE_EXHAUSTED
        with pytest.raises(ResourceError, match="is over the peer's limit"):
            await session_of(server, client).request("x", bytes(2000))


async def test_progress_is_reported() -> None:
    async with linked(Work()) as (_, client):
        call = client.call(client.proxy(Work).report)
        reports = [report async for report in call.progress()]
        assert await call == 1
    assert [(report.progress, report.total, report.message) for report in reports] == [(1, 2, "half"), (2, 2, None)]


async def test_progress_is_kept_from_a_peer_that_cannot_read_it() -> None:
    async with linked(Work()) as (server, client):
        session_of(server, client).peer.protocol.link.features = frozenset()
        call = client.call(client.proxy(Work).report)
        assert [report async for report in call.progress()] == []
        assert await call == 1


async def test_progress_is_dropped_and_an_answer_waits_while_the_stream_is_full() -> None:
    async with linked(Work()) as (server, client):
        peer = session_of(server, client).peer
        peer.blocked[0] = None
        call = client.call(client.proxy(Work).report)
        await until(lambda: peer._waiters)
        assert len(peer.protocol.calls.incoming) == 1  # it counts until it is answered
        peer.writable(0)
        assert await call == 1
        assert [report async for report in call.progress()] == []


async def test_a_deadline_that_passed_on_the_way_is_no_reason_to_wait() -> None:
    async with linked(Work()) as (_, client):
        with pytest.raises(DeadlineExceededError):
            await client.request("work.stubborn", timeout=0.001)
