"""Tests for echostream.middleware.timeout, in virtual time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from echostream import INJECTED, ConfigurationError, Context, DeadlineExceededError, handler
from echostream.middleware import DeadlineMiddleware, Middleware, TimeoutMiddleware
from echostream.testing import connect_in_memory
from tests.middleware.world import Desk, make_server, virtually


@handler("left")
async def left(*, ctx: Context = INJECTED) -> float | None:
    return ctx.time_left


@handler("own")
async def own() -> None:
    raise TimeoutError("the handler's own")


def times(
    *layers: Middleware, client: tuple[Middleware, ...] = (), nap: float = 60.0, timeout: float | None = 30.0
) -> tuple[float, Any]:
    """Return when a nap ended, and what the handlers saw of their deadline."""
    found: list[Any] = []

    async def scenario() -> None:
        server, _ = make_server(*layers)
        server.register(left, own)
        async with connect_in_memory(server, middleware=client, raise_server_exceptions=False) as caller:
            loop = asyncio.get_running_loop()
            seen = await caller.request("left", timeout=timeout)
            start = loop.time()
            try:
                await caller.proxy(Desk, timeout=timeout).nap(nap)
            except DeadlineExceededError as error:
                found.append(error.message)
            found[:0] = [loop.time() - start, seen]

    virtually(scenario)
    return found[0], found[1:]


def test_a_handler_is_ended_in_time() -> None:
    seconds, found = times(TimeoutMiddleware(5.0))
    assert seconds == pytest.approx(5.0, abs=0.1)
    assert found == [pytest.approx(5.0, abs=0.1), "not done within 5 s"]


def test_a_call_of_this_side_is_ended_in_time() -> None:
    seconds, found = times(client=(TimeoutMiddleware(5.0),))
    assert seconds == pytest.approx(5.0, abs=0.1)
    assert found == [pytest.approx(5.0, abs=0.1), "no answer within 5 s; timeout= gives it more"]


def test_a_nearer_deadline_stays() -> None:
    for layers in ((TimeoutMiddleware(50.0),), ()):
        seconds, _ = times(*layers, client=(TimeoutMiddleware(50.0),), timeout=3.0)
        assert seconds == pytest.approx(3.0, abs=0.1)


def test_a_call_without_a_deadline_gets_the_default() -> None:
    seconds, found = times(DeadlineMiddleware(default=7.0), timeout=None)
    assert seconds == pytest.approx(7.0, abs=0.1)
    assert found[0] == pytest.approx(7.0, abs=0.1)
    assert times(DeadlineMiddleware(default=7.0), timeout=3.0)[0] == pytest.approx(3.0, abs=0.1)
    assert times(DeadlineMiddleware(default=7.0), timeout=9.0)[0] == pytest.approx(9.0, abs=0.1)


def test_no_deadline_is_further_away_than_the_longest() -> None:
    for timeout in (None, 30.0):
        assert times(DeadlineMiddleware(longest=4.0), timeout=timeout)[0] == pytest.approx(4.0, abs=0.1)
    assert times(DeadlineMiddleware(default=9.0, longest=4.0), timeout=None)[0] == pytest.approx(4.0, abs=0.1)


def test_a_call_that_comes_too_late_is_refused_at_once() -> None:
    async def scenario() -> None:
        server, desk = make_server(DeadlineMiddleware(least=1.0))
        async with connect_in_memory(server) as client:
            with pytest.raises(DeadlineExceededError, match=r"0\.5 s are left, and 1 s are needed") as caught:
                await client.proxy(Desk, timeout=0.5).add(1)
            assert caught.value.unprocessed
            assert await client.proxy(Desk, timeout=1.5).add(1) == 1
            assert await client.proxy(Desk, timeout=None).add(1) == 1
        assert desk.ran == 2

    virtually(scenario)


def test_streams_are_left_alone_unless_they_are_meant() -> None:
    async def scenario() -> None:
        async def slow() -> Any:
            for number in range(3):
                await asyncio.sleep(2)
                yield number

        server, _ = make_server(TimeoutMiddleware(5.0), DeadlineMiddleware(default=1.0))
        async with connect_in_memory(server) as client:
            assert await client.proxy(Desk).total(slow()) == 3
        server, _ = make_server(TimeoutMiddleware(5.0, items=True))
        async with connect_in_memory(server) as client:
            with pytest.raises(DeadlineExceededError, match="not done within 5 s"):
                await client.proxy(Desk).total(slow())

    virtually(scenario)


async def test_a_timeout_of_the_handlers_own_is_no_deadline() -> None:
    server, _ = make_server(TimeoutMiddleware(5.0))
    server.register(own)
    async with connect_in_memory(server) as client:
        with pytest.raises(TimeoutError, match="the handler's own"):
            await client.request("own")


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan")])
def test_a_timeout_is_above_zero(seconds: float) -> None:
    for make in (
        lambda: TimeoutMiddleware(seconds),
        lambda: DeadlineMiddleware(default=seconds),
        lambda: DeadlineMiddleware(longest=seconds),
    ):
        with pytest.raises(ConfigurationError, match="must be above 0 seconds"):
            make()


def test_a_layer_for_deadlines_has_something_to_do() -> None:
    with pytest.raises(ConfigurationError, match="give default=, longest= or least="):
        DeadlineMiddleware()
    with pytest.raises(ConfigurationError, match="least: -1 must be above 0 seconds"):
        DeadlineMiddleware(least=-1)
