"""Tests for echostream.middleware.size_limit: each kind of thing, in each direction."""

from __future__ import annotations

from typing import Any

import pytest

from echostream import ConfigurationError, EventAck, ResourceError, RpcError, RpcServer, Status, handler
from echostream.errors import EchoStreamError
from echostream.middleware import SizeLimit
from echostream.middleware.size_limit import size_of
from echostream.testing import connect_in_memory
from tests.middleware.world import make_server, numbers

LARGE = "x" * 200


@handler("say")
async def say(text: str, times: int = 1) -> str:
    return text * times


@pytest.mark.parametrize(
    ("value", "size"),
    [(None, 8), ("abc", 3), ("\u00fc", 2), (b"abcd", 4), ([1, "ab"], 10), ({"ab": [b"c", {"d": 1.5}]}, 12), ((), 0)],
)
def test_the_size_is_about_that_of_what_travels(value: Any, size: int) -> None:
    assert size_of(value) == size


async def test_a_server_limits_what_comes() -> None:
    server, desk = make_server(SizeLimit(inbound=100))
    server.register(say)
    async with connect_in_memory(server, raise_server_exceptions=False) as client:
        assert await client.request("say", "x", 200) == LARGE
        with pytest.raises(RpcError, match="arguments of say: 200 bytes are over the limit of 100") as caught:
            await client.request("say", LARGE)
        assert caught.value.code is Status.RESOURCE_EXHAUSTED
        assert await client.emit("thing", LARGE, ack=True) == EventAck(1, 1)
        with pytest.raises(RpcError, match=r"an item of desk\.double"):
            async with client.stream("desk.double", numbers(LARGE)) as items:
                await anext(aiter(items))
    assert desk.heard == []


async def test_a_server_limits_what_leaves() -> None:
    server, _ = make_server(SizeLimit(outbound=100))
    server.register(say)
    async with connect_in_memory(server) as client:
        assert await client.request("say", "x", 100) == "x" * 100
        with pytest.raises(RpcError, match="the result of say: 200 bytes"):
            await client.request("say", LARGE)
        [session] = server.sessions
        with pytest.raises(ResourceError, match="event thing: 200 bytes") as caught:
            await session.emit("thing", LARGE)
        assert (caught.value.current, caught.value.limit) == (200, 100)
        with pytest.raises(EchoStreamError, match="an item of belt"):
            async with client.open_stream("belt") as sender:
                await sender.send(LARGE)


async def test_a_client_limits_both() -> None:
    server = RpcServer("memory://unused")
    server.register(say)
    async with connect_in_memory(server, middleware=[SizeLimit(inbound=150, outbound=100)]) as client:
        with pytest.raises(ResourceError, match="arguments of say: 200 bytes are over the limit of 100"):
            await client.request("say", LARGE)
        with pytest.raises(ResourceError, match="the result of say: 200 bytes are over the limit of 150"):
            await client.request("say", "x", 200)


@pytest.mark.parametrize("options", [{}, {"inbound": 0}, {"outbound": -1}])
def test_wrong_settings_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError):
        SizeLimit(**options)
