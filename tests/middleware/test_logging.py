"""Tests for echostream.middleware.logging: one line for each, ids that travel, nothing of what was said."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator

import pytest

from echostream import INJECTED, Context, RpcError, RpcServer, Status, handler, service
from echostream.middleware import LoggingMiddleware
from echostream.testing import connect_in_memory
from tests.middleware.world import Desk, make_server, virtually

SECRET = "hunter2"


@service("front")
class Front:
    @handler
    async def ask(self, secret: str) -> str:
        return secret

    @handler
    async def fail(self, code: int) -> None:
        raise RpcError(Status(code), "no")

    @handler
    async def nap(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    @handler
    async def ids(self, *, ctx: Context = INJECTED) -> list[str]:
        return [ctx.state["request_id"], *await ctx.session.request("back.ids", returns=list[str])]

    @handler
    async def both(self, items: AsyncIterator[str]) -> AsyncIterator[str]:
        async for item in items:
            yield item


@service("back")
class Back:
    @handler
    async def ids(self, *, ctx: Context = INJECTED) -> list[str]:
        return [ctx.state["request_id"]]


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [item for item in caplog.records if item.name == "echostream.calls"]
    return [re.sub(r"in [\d.]+ ms.*", "...", item.getMessage()) for item in found]


async def test_calls_and_events_are_logged_on_both_sides(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    server, _ = make_server(LoggingMiddleware())
    async with connect_in_memory(server, middleware=[LoggingMiddleware()]) as client:
        await client.request("desk.add", 1)
        await client.emit("thing", 1, ack=True)
        async with client.open_stream("belt"):
            pass
        server.broadcast("news")
    assert lines(caplog) == [
        "< desk.add OK ...",
        "> desk.add OK ...",
        "< event thing OK ...",
        "> event thing OK ...",
        "> stream belt OK ...",
        "< stream belt OK ...",
        "> event news OK ...",
    ]


async def test_a_record_has_its_facts(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    server, _ = make_server(LoggingMiddleware(logging.getLogger("mine"), level=logging.INFO))
    async with connect_in_memory(server) as client:
        await client.request("desk.add", 1, metadata={"es-request-id": "abc-1"})
        session = client.id
    [record] = [item for item in caplog.records if item.name == "mine"]
    facts = {name: getattr(record, name) for name in ("direction", "method", "status", "session", "request_id")}
    assert facts == {
        "direction": "inbound",
        "method": "desk.add",
        "status": "OK",
        "session": session,
        "request_id": "abc-1",
    }
    assert record.getMessage().endswith(f"ms (session {session}, request abc-1)")


def test_the_duration_is_that_of_the_whole_call(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def scenario() -> None:
        server, _ = make_server(LoggingMiddleware())
        async with connect_in_memory(server) as client:
            assert await client.proxy(Desk).nap(2.5) == "slept"

    virtually(scenario)
    [record] = [item for item in caplog.records if item.name == "echostream.calls"]
    assert record.__dict__["duration"] == pytest.approx(2.5, abs=0.01)


def test_faults_of_this_side_are_warnings(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def scenario() -> None:
        server = RpcServer("memory://unused", middleware=[LoggingMiddleware()])
        server.register(Front())
        async with connect_in_memory(server) as client:
            front = client.proxy(Front, timeout=1.0)
            for code in (Status.NOT_FOUND, Status.UNAVAILABLE):
                with pytest.raises(RpcError):
                    await front.fail(int(code))
            with pytest.raises(TimeoutError):
                await front.nap(60)
            with pytest.raises(TimeoutError):  # the caller's own doing, long before its deadline
                await asyncio.wait_for(front.nap(60), 0.1)
            await asyncio.sleep(0.1)

    virtually(scenario)
    found = [(item.__dict__["status"], item.levelname) for item in caplog.records if item.name == "echostream.calls"]
    assert found == [
        ("NOT_FOUND", "INFO"),
        ("UNAVAILABLE", "WARNING"),
        ("DEADLINE_EXCEEDED", "WARNING"),
        ("CANCELLED", "INFO"),
    ]


async def test_what_was_said_is_never_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    server = RpcServer("memory://unused", middleware=[LoggingMiddleware()])
    server.register(Front())
    async with connect_in_memory(server, middleware=[LoggingMiddleware()]) as client:
        assert await client.proxy(Front).ask(SECRET) == SECRET
        await client.emit("event", SECRET, ack=True)
    assert lines(caplog)
    assert not any(SECRET in item.getMessage() + str(item.__dict__) for item in caplog.records)


async def test_the_id_travels_with_the_calls_that_a_request_gives_rise_to() -> None:
    server = RpcServer("memory://unused", middleware=[LoggingMiddleware()])
    server.register(Front())
    async with connect_in_memory(server, middleware=[LoggingMiddleware()]) as client:
        client.register(Back())
        here, there = await client.proxy(Front).ids()
        assert here == there
        assert re.fullmatch("[0-9a-f]{16}", here)


@pytest.mark.parametrize("bad", ["a b", "x" * 65, "a\nb", ""])
async def test_an_id_that_cannot_be_shown_is_replaced(bad: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    server, _ = make_server(LoggingMiddleware())
    async with connect_in_memory(server) as client:
        await client.request("desk.add", 1, metadata={"es-request-id": bad})
        with pytest.raises(RpcError):
            await client.request("a\nb")
    records = [item for item in caplog.records if item.name == "echostream.calls"]
    assert re.fullmatch("[0-9a-f]{16}", records[0].__dict__["request_id"])
    assert "'a\\nb' UNIMPLEMENTED" in records[1].getMessage()
