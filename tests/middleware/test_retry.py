"""Tests for echostream.middleware.retry, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from echostream import (
    INJECTED,
    ConfigurationError,
    Context,
    DeadlineExceededError,
    RetrySettings,
    RpcError,
    RpcServer,
    Status,
    handler,
    service,
)
from echostream.errors import ConnectionLostError
from echostream.middleware import RateLimit, Retry
from echostream.testing import connect_in_memory
from tests.middleware.world import numbers, virtually


@service("shaky")
class Shaky:
    """Fails some times, then works."""

    def __init__(self) -> None:
        self.errors: list[RpcError] = []
        self.at: list[float] = []

    def _fail(self) -> None:
        self.at.append(asyncio.get_running_loop().time())
        if self.errors:
            raise self.errors.pop(0)

    @handler(idempotent=True)
    async def get(self, *, ctx: Context = INJECTED) -> int:
        await ctx.progress(len(self.at), total=10)
        self._fail()
        return len(self.at)

    @handler
    async def put(self) -> int:
        self._fail()
        return len(self.at)

    @handler(safe=True)
    async def list(self, before: int = 0) -> AsyncIterator[int]:
        for number in range(before):
            yield number
        self._fail()
        yield len(self.at)

    @handler(idempotent=True)
    async def total(self, items: AsyncIterator[int], *, ctx: Context = INJECTED) -> int:
        await ctx.progress(1)
        self._fail()
        return sum([item async for item in items])

    @handler(idempotent=True)
    async def behind(self, *, ctx: Context = INJECTED) -> int:
        return await ctx.session.request("shaky.put", returns=int)


def gone(**options: Any) -> RpcError:
    return RpcError(Status.UNAVAILABLE, "gone", **options)


def tried(
    errors: list[RpcError], call: Callable[[Shaky], Awaitable[Any]], retry: Retry | None = None, **options: Any
) -> tuple[Any, list[float]]:
    """Return what came of a call, and the seconds between its attempts."""
    shaky = Shaky()
    shaky.errors = errors
    outcome: list[Any] = []

    async def scenario() -> None:
        server = RpcServer("memory://unused")
        server.register(shaky)
        async with connect_in_memory(server, middleware=[retry or Retry()]) as client:
            try:
                outcome.append(await call(client.proxy(Shaky, **options)))
            except RpcError as error:
                outcome.append(error)

    virtually(scenario)
    return outcome[0], [b - a for a, b in zip(shaky.at, shaky.at[1:], strict=False)]


async def collected(items: Any) -> list[Any]:
    return [item async for item in items]


def test_a_call_that_may_be_repeated_is_tried_again_after_growing_waits() -> None:
    result, waits = tried([gone(), gone(), gone()], lambda shaky: shaky.get())
    assert result == 4
    for wait, expected in zip(waits, (0.1, 0.2, 0.4), strict=True):
        assert 0.8 * expected <= wait <= 1.2 * expected + 0.001


def test_it_is_not_tried_for_ever() -> None:
    result, waits = tried([gone() for _ in range(9)], lambda shaky: shaky.get())
    assert result.code is Status.UNAVAILABLE
    assert len(waits) == 3


def test_the_wait_has_a_limit() -> None:
    retry = Retry(RetrySettings(max_attempts=5, initial_backoff=1.0, max_backoff=2.0, backoff_multiplier=10.0))
    _, waits = tried([gone() for _ in range(4)], lambda shaky: shaky.get(), retry, timeout=None)
    assert all(1.6 <= wait <= 2.41 for wait in waits[1:])


def test_what_may_not_be_repeated_is_tried_once() -> None:
    result, waits = tried([gone()], lambda shaky: shaky.put())
    assert (result.code, waits) == (Status.UNAVAILABLE, [])


def test_unless_no_handler_ran() -> None:
    result, waits = tried([gone(details={"unprocessed": True})], lambda shaky: shaky.put())
    assert (result, len(waits)) == (2, 1)


def test_other_failures_are_told_at_once() -> None:
    for error in (RpcError(Status.NOT_FOUND, "no"), gone(retryable=False)):
        result, waits = tried([error], lambda shaky: shaky.get())
        assert (result.code, waits) == (error.code, [])
    retry = Retry(retryable_status_codes=[Status.ABORTED])
    assert tried([RpcError(Status.ABORTED, "no")], lambda shaky: shaky.get(), retry)[0] == 2
    assert tried([gone()], lambda shaky: shaky.get(), retry)[0].code is Status.UNAVAILABLE


def test_the_server_says_how_long_to_wait() -> None:
    result, waits = tried([gone(retry_after=3.0), gone()], lambda shaky: shaky.get())
    assert result == 3
    assert waits == [pytest.approx(3.0, abs=0.01), pytest.approx(0.1, abs=0.025)]


def test_no_attempt_that_would_come_too_late() -> None:
    result, waits = tried([gone(retry_after=3.0)], lambda shaky: shaky.get(), timeout=2.0)
    assert (result.message, waits) == ("gone", [])


def test_all_attempts_share_one_deadline() -> None:
    retry = Retry(RetrySettings(initial_backoff=0.4, max_attempts=5))
    result, waits = tried([gone() for _ in range(9)], lambda shaky: shaky.get(), retry, timeout=1.0)
    assert result.message == "gone"
    assert sum(waits) < 1.0

    @handler("slow")
    async def slow() -> None:
        await asyncio.sleep(0.7)
        raise gone()

    async def scenario() -> None:
        server = RpcServer("memory://unused")
        server.register(slow)
        async with connect_in_memory(server, middleware=[Again()]) as client:
            start = asyncio.get_running_loop().time()
            with pytest.raises(DeadlineExceededError):
                await client.request("slow", timeout=2.0)
            assert asyncio.get_running_loop().time() - start == pytest.approx(2.0, abs=0.05)

    virtually(scenario)


class Again(Retry):
    async def outbound_request(self, request: Any, call_next: Any) -> Any:
        while True:
            try:
                return await call_next(request)
            except RpcError as error:
                if error.message != "gone":
                    raise


def test_items_are_tried_again_before_the_first_one_only() -> None:
    result, waits = tried([gone()], lambda shaky: collected(shaky.list()))
    assert (result, len(waits)) == ([2], 1)
    result, waits = tried([gone()], lambda shaky: collected(shaky.list(2)))
    assert (result.code, waits) == (Status.UNAVAILABLE, [])


def test_a_call_that_sends_items_is_tried_once() -> None:
    result, waits = tried([gone()], lambda shaky: shaky.total(numbers(1, 2)))
    assert (result.code, waits) == (Status.UNAVAILABLE, [])


def test_a_client_goes_on_at_the_pace_of_a_rate_limit() -> None:
    async def scenario() -> None:
        shaky, retry = Shaky(), Retry()
        server = RpcServer("memory://unused", middleware=[RateLimit(10, burst=1)])
        server.register(shaky)
        async with connect_in_memory(server, middleware=[retry]) as client:
            for number in range(50):
                assert await client.proxy(Shaky).put() == number + 1
        assert retry.tokens == 10
        assert shaky.at[-1] - shaky.at[0] == pytest.approx(4.9, abs=0.1)

    virtually(scenario)


def test_the_budget_stops_retries_when_most_calls_fail() -> None:
    shaky = Shaky()
    retry = Retry(RetrySettings(max_tokens=10, token_ratio=0.5))

    async def scenario() -> None:
        server = RpcServer("memory://unused")
        server.register(shaky)
        async with connect_in_memory(server, middleware=[retry]) as client:
            shaky.errors = [gone() for _ in range(100)]
            for _ in range(10):
                with pytest.raises(RpcError):
                    await client.proxy(Shaky).get()
            assert len(shaky.at) == 4 + 2 + 8  # 10 tokens: until 5 are left, then one attempt for each call
            assert retry.tokens == 0
            shaky.errors = []
            for _ in range(12):
                await client.proxy(Shaky).get()
            assert retry.tokens == 6
            shaky.errors = [gone()]
            with pytest.raises(RpcError):
                await client.proxy(Shaky).get()
            for _ in range(4):
                await client.proxy(Shaky).get()
            shaky.errors = [gone()]
            assert await client.proxy(Shaky).get() == len(shaky.at)

    virtually(scenario)


def test_a_rate_limit_slows_callers_down_instead_of_failing_them() -> None:
    async def scenario() -> None:
        shaky = Shaky()
        server = RpcServer("memory://unused", middleware=[RateLimit(10.0, burst=1)])
        server.register(shaky)
        async with connect_in_memory(server, middleware=[Retry(RetrySettings(max_tokens=1000))]) as client:
            for number in range(1, 6):
                assert await client.proxy(Shaky).put() == number
        assert shaky.at[-1] - shaky.at[0] == pytest.approx(0.4, abs=0.05)

    virtually(scenario)


def test_a_lost_connection_is_not_called_again() -> None:
    async def scenario() -> None:
        server = RpcServer("memory://unused")
        server.register(Shaky())
        async with connect_in_memory(server, middleware=[Retry()]) as client:
            await client.close()
            with pytest.raises(ConnectionLostError):
                await client.proxy(Shaky).get()

    virtually(scenario)


def test_that_a_call_behind_was_not_processed_says_nothing_about_the_handler_before_it() -> None:
    async def scenario() -> None:
        server, there = RpcServer("memory://unused"), Shaky()
        here = Shaky()
        here.errors = [gone(details={"unprocessed": True})]
        server.register(there)
        async with connect_in_memory(server) as client:
            client.register(here)
            with pytest.raises(RpcError, match="gone") as caught:
                await client.proxy(Shaky).behind()
            assert not caught.value.unprocessed

    virtually(scenario)


def test_reports_of_every_attempt_are_heard() -> None:
    async def scenario() -> None:
        shaky = Shaky()
        shaky.errors = [gone()]
        server = RpcServer("memory://unused")
        server.register(shaky)
        async with connect_in_memory(server, middleware=[Retry()]) as client:
            call = client.call(client.proxy(Shaky).get)
            assert [report.progress async for report in call.progress()] == [0, 1]
            assert await call == 2
            upload = client.call(client.proxy(Shaky).total, numbers(1, 2))
            assert [report.progress async for report in upload.progress()] == [1]

    virtually(scenario)


def test_it_is_not_tried_again_when_the_handler_that_calls_has_no_time_for_it() -> None:
    async def scenario() -> None:
        here = Shaky()
        here.errors = [gone(retry_after=5.0)]

        @handler("ask")
        async def ask(*, ctx: Context = INJECTED) -> str:
            try:
                await ctx.session.proxy(Shaky, timeout=None).get()
            except RpcError as error:
                return f"{error.code} with {ctx.time_left:.1f} s left"
            return "well"

        server = RpcServer("memory://unused", middleware=[Retry()])
        server.register(ask)
        async with connect_in_memory(server) as client:
            client.register(here)
            assert await client.request("ask", timeout=2.0) == "UNAVAILABLE with 2.0 s left"

    virtually(scenario)


@pytest.mark.parametrize("codes", [["UNAVAILABLE"], [14], [Status.OK]])
def test_what_is_no_status_of_an_error_is_refused(codes: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"is no status of an error: Status\.UNAVAILABLE is one"):
        Retry(retryable_status_codes=codes)


@pytest.mark.parametrize("options", [{"max_attempts": 1}, {"max_attempts": 6}, {"initial_backoff": 0.0}])
def test_settings_have_bounds(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="out of range"):
        RetrySettings(**options)
