"""The verbs of a session, their refusals, and what `connect` returns."""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import AsyncIterator
from typing import Any

import pytest

from echostream import (
    INJECTED,
    ConnectError,
    Context,
    DeadlineExceededError,
    RpcClient,
    RpcError,
    RpcServer,
    Status,
    StreamReceiver,
    handler,
    service,
    stream,
)
from echostream.errors import ConfigurationError
from echostream.session.api import Conversation
from tests.serving import memory_url, served
from tests.session.world import ALL_WAYS, BOTH, MS, Duo, duo, frozen, left_of


@service("ui")
class Ui:
    @handler
    async def ask(self, question: str) -> str:
        return f"{question}!"

    @handler
    async def ask_back(self, *, ctx: Context = INJECTED) -> str:
        return str(await ctx.session.request("ui.ask", "really", returns=str))

    @handler
    async def count(self, up_to: int) -> AsyncIterator[int]:
        for number in range(up_to):
            yield number

    @stream("lines")
    async def on_lines(self, receiver: StreamReceiver[str]) -> None:
        async for line in receiver:
            await receiver.sender.send(line.upper())


@pytest.fixture
async def ends(scheme: str, way: str) -> AsyncIterator[Duo]:
    async with duo(Ui(), scheme=scheme, way=way) as made:
        yield made
        assert left_of(made.here) == {}


def test_client_and_session_have_the_same_verbs() -> None:
    verbs = ["request", "proxy", "call", "stream", "emit", "on", "once", "register", "open_stream", "ping"]
    for verb in verbs:
        assert callable(getattr(Conversation, verb))


@ALL_WAYS
async def test_both_sides_serve_and_call(ends: Duo) -> None:
    ends.here.register(Ui())
    assert await ends.here.request("ui.ask_back") == "really!"
    assert await ends.there.request("ui.ask_back") == "really!"


async def test_a_client_forwards_to_its_session(ends: Duo) -> None:
    client = ends.client
    assert client.session is ends.here
    assert await client.request("ui.ask", "who") == "who!"
    assert await client.proxy(Ui).ask("why") == "why!"
    assert await client.call(client.proxy(Ui).ask, "how") == "how!"
    async with client.stream(client.proxy(Ui).count, 2) as numbers:
        assert [number async for number in numbers] == [0, 1]
    async with client.open_stream("lines", item=str, returns=str) as lines:
        await lines.send("a")
        assert await lines.receiver.recv() == "A"
    seen: list[Any] = []
    off = client.on("x", seen.append)
    client.once("x", seen.append)
    await ends.there.emit("x", 1, ack=True)
    off()
    await ends.there.emit("x", 2, ack=True)
    assert seen == [1, 1]


async def test_a_keyword_may_have_any_name_but_those_of_options(ends: Duo) -> None:
    @handler("keywords")
    async def keywords(method: str, self: str, *, name: str) -> list[str]:
        return [method, self, name]

    ends.there.register(keywords)
    answer = await ends.here.request("keywords", method="a", self="b", name="c")
    assert answer == ["a", "b", "c"]


async def test_a_method_that_returns_one_value_is_no_stream(ends: Duo) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ends.here.stream(ends.here.proxy(Ui).ask, "x")  # type: ignore[call-overload]
    assert caught.value.message == r"method: ui.ask returns one value: await it, or use call()"
    with pytest.raises(RpcError, match=r"ui\.count is server streaming, but was called with one value in"):
        await ends.here.request("ui.count", 1)


async def test_a_block_whose_call_fails_ends_with_its_error(ends: Duo) -> None:
    with pytest.raises(RpcError) as caught:
        async with ends.here.stream("ui.cuont", 1) as numbers:
            await anext(numbers)
    assert caught.value.code is Status.UNIMPLEMENTED
    assert "did you mean ui.count" in caught.value.message


@pytest.mark.parametrize("timeout", [0, -1])
async def test_every_timeout_is_checked(ends: Duo, timeout: float) -> None:
    with pytest.raises(ConfigurationError, match=rf"timeout: {timeout} must be above 0 seconds"):
        ends.here.proxy(Ui, timeout=timeout)
    with pytest.raises(ConfigurationError, match="timeout"):
        ends.here.stream("ui.count", 1, timeout=timeout)


@BOTH
async def test_ping_measures_the_round_trip(ends: Duo) -> None:
    for session in (ends.here, ends.there):
        assert 0 <= await session.ping() < 5


async def test_a_ping_without_answer_ends_in_time(ends: Duo) -> None:
    with frozen(ends), pytest.raises(DeadlineExceededError, match=r"no answer to a probe within 0\.01 s") as caught:
        await ends.here.ping(timeout=10 * MS)
    assert caught.value.duration == 10 * MS


# connect


async def test_connect_is_a_coroutine() -> None:
    async with served(Ui()) as server:
        url = server.addresses[0]
        by_task = await asyncio.create_task(RpcClient.connect(url))
        by_wait_for = await asyncio.wait_for(RpcClient.connect(url), 5)
        by_gather = (await asyncio.gather(RpcClient.connect(url), RpcClient.connect(url)))[0]
        async with asyncio.TaskGroup() as group:
            task = group.create_task(RpcClient.connect(url))
        for client in (by_task, by_wait_for, by_gather, task.result()):
            assert await client.request("ui.ask", "x") == "x!"
            await client.close()
            await client.close()
        for session in server.sessions:
            await session.close()


async def test_connect_that_is_not_awaited_warns() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        RpcClient.connect("memory://nobody")
        gc.collect()
    assert [str(item.message) for item in caught] == ["coroutine 'RpcClient.connect' was never awaited"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        RpcClient.discover("nobody")
        gc.collect()
    assert [str(item.message) for item in caught] == ["coroutine 'RpcClient.discover' was never awaited"]


async def test_connect_can_be_closed_instead_of_awaited() -> None:
    connecting = RpcClient.connect("memory://nobody")
    connecting.close()
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        await connecting


async def test_a_connect_that_is_cancelled_leaves_nothing() -> None:
    url, reached = memory_url(), asyncio.Event()

    async def authenticate(credentials: str | None) -> None:
        reached.set()
        await asyncio.Event().wait()

    async with served(url=url, authenticate=authenticate):
        connecting = asyncio.create_task(RpcClient.connect(url))
        await reached.wait()
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting


async def test_an_address_where_nobody_is_says_so() -> None:
    with pytest.raises(ConnectError, match="nobody listens on memory://nobody"):
        async with RpcClient.connect("memory://nobody"):
            pytest.fail("not reached")


async def test_a_block_closes_its_client() -> None:
    async with served() as server:
        assert isinstance(server, RpcServer)
        with pytest.raises(LookupError):
            async with RpcClient.connect(server.addresses[0]) as client:
                raise LookupError
        assert client.session.state == "closed"
