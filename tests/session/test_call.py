"""`Call`: a call as an object, with progress, cancellation and metadata."""

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
    Progress,
    RpcError,
    handler,
    service,
)
from echostream.errors import ConfigurationError
from echostream.protocol.hello import EVENT_ACK
from tests.serving import until
from tests.session.world import ALL_WAYS, MS, Duo, Gate, duo, left_of, numbers


@service("jobs")
class Jobs:
    def __init__(self) -> None:
        self.gate = Gate()

    @handler
    async def work(self, steps: int, *, ctx: Context = INJECTED) -> str:
        ctx.set_initial_metadata(begin="1")
        for step in range(1, steps + 1):
            ctx._reported = None  # as if 0.1 s had passed
            await ctx.progress(step, total=steps, message=f"step {step}")
        ctx.set_trailing_metadata(end="2")
        return "done"

    @handler
    async def hurried(self, *, ctx: Context = INJECTED) -> None:
        for step in range(100):
            await ctx.progress(step)
        await ctx.progress(100, total=100)

    @handler
    async def wait(self, *, ctx: Context = INJECTED) -> str:
        await ctx.progress(0.5)
        await self.gate.pass_through()
        return "through"

    @handler
    async def total(self, items: AsyncIterator[int], *, ctx: Context = INJECTED) -> int:
        ctx.set_initial_metadata(begin="1")
        ctx.set_trailing_metadata(end="2")
        total = 0
        async for item in items:
            total += item
            ctx._reported = None
            await ctx.progress(total)
        return total

    @handler
    async def fail(self) -> None:
        raise RpcError("no")

    @handler
    async def watch(self) -> AsyncIterator[int]:
        yield 1


@pytest.fixture
async def jobs() -> Jobs:
    return Jobs()


@pytest.fixture
async def ends(jobs: Jobs, scheme: str, way: str) -> AsyncIterator[Duo]:
    async with duo(jobs, scheme=scheme, way=way) as made:
        yield made
        await until(lambda: left_of(made.here) == {} == left_of(made.there))


@ALL_WAYS
async def test_a_call_is_awaited_for_its_result_and_has_its_metadata(ends: Duo) -> None:
    call = ends.here.call(ends.here.proxy(Jobs).work, 1)
    assert (call.done, repr(call)) == (False, "<Call jobs.work running>")
    assert await call == "done"
    assert await call == "done"
    assert (call.done, repr(call)) == (True, "<Call jobs.work ended>")
    assert (call.initial_metadata, call.trailing_metadata) == ({"begin": "1"}, {"end": "2"})


@ALL_WAYS
async def test_a_call_with_input_is_one_too(ends: Duo) -> None:
    call = ends.here.call(ends.here.proxy(Jobs).total, numbers(4))
    assert [report.progress async for report in call.progress()] == [0, 1, 3, 6]
    assert await call == 6
    assert (call.initial_metadata, call.trailing_metadata) == ({"begin": "1"}, {"end": "2"})


@ALL_WAYS
async def test_progress_is_read_until_the_call_ends(ends: Duo) -> None:
    call = ends.here.call(ends.here.proxy(Jobs).work, 5)
    reports = [report async for report in call.progress()]
    assert reports == [Progress(step, 5.0, f"step {step}") for step in range(1, 6)]
    assert await call == "done"


async def test_progress_can_be_read_while_the_call_runs(ends: Duo, jobs: Jobs) -> None:
    call = ends.here.call(ends.here.proxy(Jobs).wait)
    reports = call.progress()
    assert await anext(reports) == Progress(0.5)
    jobs.gate.opened.set()
    with pytest.raises(StopAsyncIteration):
        await anext(reports)
    assert await call == "through"


async def test_only_the_newest_reports_are_kept(ends: Duo) -> None:
    call = ends.here.call(ends.here.proxy(Jobs).work, 100)
    await call
    assert [report.progress async for report in call.progress()] == list(range(37, 101))


async def test_reports_are_thinned_out_and_the_last_one_comes(ends: Duo) -> None:
    call = ends.here.call(ends.here.proxy(Jobs).hurried)
    reports = [report async for report in call.progress()]
    assert reports[0] == Progress(0.0)
    assert reports[-1] == Progress(100.0, 100.0)
    assert len(reports) < 10


async def test_reports_of_the_wrong_form_are_dropped(ends: Duo, jobs: Jobs) -> None:
    call = ends.here.call(ends.here.proxy(Jobs).wait)
    await jobs.gate.reached.wait()
    (serving,) = ends.there.peer.protocol.calls.incoming.values()
    for value in (1, [1, 2], ["much", None, None], [2, 4, "half"]):
        ends.there.peer.protocol.calls.send_progress(serving, ends.there.runtime.payload.encode(value))
    ends.there.peer.protocol.calls.send_progress(serving, b"\xc1")
    ends.there.peer.touch()
    await ends.here.ping()
    jobs.gate.opened.set()
    assert [report async for report in call.progress()] == [Progress(0.5), Progress(2.0, 4.0, "half")]


async def test_a_peer_that_reads_no_progress_gets_none(ends: Duo) -> None:
    ends.there.peer.protocol.link.features = frozenset({EVENT_ACK})
    call = ends.here.call(ends.here.proxy(Jobs).work, 3)
    assert [report async for report in call.progress()] == []
    assert await call == "done"


@ALL_WAYS
async def test_cancel_gives_the_call_up(ends: Duo, jobs: Jobs) -> None:
    call = ends.here.call(ends.here.proxy(Jobs).wait)
    await asyncio.wait_for(jobs.gate.reached.wait(), 5)
    await until(lambda: call._pending.progress)  # the handler is there before its report is here
    assert call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await asyncio.wait_for(jobs.gate.left.wait(), 5)
    assert jobs.gate.cancelled
    assert not call.cancel()
    assert [report.progress async for report in call.progress()] == [0.5]


async def test_errors_are_raised_where_the_call_is_awaited(ends: Duo) -> None:
    with pytest.raises(RpcError, match="no"):
        await ends.here.call(ends.here.proxy(Jobs).fail)
    with pytest.raises(DeadlineExceededError):
        await ends.here.call(ends.here.proxy(Jobs, timeout=5 * MS).wait)


@pytest.mark.parametrize("ending", ["closed here", "closed there", "aborted"])
async def test_a_call_hears_that_its_session_ended(jobs: Jobs, ending: str) -> None:
    """It is not cancelled: that would look like the caller's own cancellation."""
    async with duo(jobs) as ends:
        waiting = ends.here.call(ends.here.proxy(Jobs).wait)
        total = ends.here.call(ends.here.proxy(Jobs).total, _stuck())
        await jobs.gate.reached.wait()
        if ending == "closed here":
            await ends.here.close()
        elif ending == "closed there":
            await ends.there.close()
        else:
            ends.here.peer.connection.abort()
        for call in (waiting, total):
            with pytest.raises(ConnectionLostError):
                await call


async def _stuck() -> AsyncIterator[int]:
    yield 1
    await asyncio.Event().wait()


async def test_only_a_method_of_a_proxy_can_be_called(ends: Duo) -> None:
    for method in (Jobs.work, Jobs().work):
        given: Any = method
        with pytest.raises(ConfigurationError) as caught:
            ends.here.call(given, 1)
        assert caught.value.message == (
            "method: Jobs.work is no method of a proxy: make one with client.proxy(Service)"
        )
    with pytest.raises(ConfigurationError, match="7 is no method of a proxy"):
        ends.here.call(7)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"method: jobs.watch returns a stream: use stream\(\) for it"):
        ends.here.call(ends.here.proxy(Jobs).watch)  # type: ignore[arg-type]
