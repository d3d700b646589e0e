"""Tests for echostream.middleware.rate_limit, in virtual time."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from echostream import ConfigurationError, Principal, RpcClient, RpcError, RpcServer, Status
from echostream.middleware import BearerToken, RateLimit, TokenAuthentication
from echostream.testing import connect_in_memory
from tests.middleware.world import Desk, make_server, virtually


async def taken(client: RpcClient, calls: int, method: str = "desk.add") -> int:
    """Call that often at once; return how many were served."""
    answers = await asyncio.gather(*(client.request(method, 1) for _ in range(calls)), return_exceptions=True)
    return sum(not isinstance(item, RpcError) or item.code is not Status.RESOURCE_EXHAUSTED for item in answers)


def test_a_bucket_empties_and_fills_again() -> None:
    async def scenario() -> None:
        limit = RateLimit(2.0, burst=5)
        server, desk = make_server(limit)
        async with connect_in_memory(server) as client:
            assert await taken(client, 8) == 5
            await asyncio.sleep(1.0)
            assert await taken(client, 8) == 2
            await asyncio.sleep(600)
            assert await taken(client, 8) == 5
        assert (desk.ran, limit.refused) == (12, 12)

    virtually(scenario)


def test_the_refusal_says_when_to_come_again() -> None:
    async def scenario() -> None:
        server, _ = make_server(RateLimit(0.5))
        async with connect_in_memory(server) as client:
            assert await client.request("desk.add", 1) == 1
            with pytest.raises(RpcError, match=r"over 0\.5 calls a second for this session") as caught:
                await client.request("desk.add", 1)
            error = caught.value
            assert (error.code, error.retryable, error.unprocessed) == (Status.RESOURCE_EXHAUSTED, True, True)
            assert error.retry_after is not None
            assert error.retry_after == pytest.approx(2.0, abs=0.01)
            await asyncio.sleep(error.retry_after + 0.001)
            assert await client.request("desk.add", 1) == 1

    virtually(scenario)


async def test_unknown_methods_count() -> None:
    server, _ = make_server(RateLimit(0.001, burst=3))
    async with connect_in_memory(server) as client:
        assert await taken(client, 5, "nowhere") == 3


@pytest.mark.parametrize(("by", "served"), [("session", [2, 2, 2]), ("principal", [2, 0, 2]), ("method", [2, 0, 0])])
async def test_who_shares_a_bucket(by: Any, served: list[int]) -> None:
    tokens = {"a": Principal("ann"), "b": Principal("ann"), "c": Principal("bob")}
    limit = RateLimit(0.001, burst=2, by=by)
    server, _ = make_server(TokenAuthentication(tokens), limit)
    await server.start(f"memory://rate-{by}")
    found = []
    for token in tokens:
        async with RpcClient.connect(server.addresses[0], middleware=[BearerToken(token)]) as client:
            found.append(await taken(client, 3))
    await server.stop()
    assert found == served


async def test_a_key_of_ones_own_and_none_for_no_limit() -> None:
    server, _ = make_server(RateLimit(0.001, burst=1, by=lambda request: request.metadata.get("tenant")))
    async with connect_in_memory(server) as client:
        for tenant, served in (("a", 1), ("b", 1)):
            desk = client.proxy(Desk, metadata={"tenant": tenant})
            answers = await asyncio.gather(*(desk.add(1) for _ in range(3)), return_exceptions=True)
            assert answers.count(1) == served
        assert await taken(client, 5) == 5


async def test_the_table_is_bounded_and_the_longest_unused_gives_way() -> None:
    limit = RateLimit(0.001, burst=1, by="method", max_keys=3)
    server, _ = make_server(limit)
    async with connect_in_memory(server) as client:
        for name in ("a", "b", "a", "c", "d", "a"):  # b gives way
            await taken(client, 1, name)
        assert len(limit) == 3
        assert [await taken(client, 1, name) for name in ("a", "c", "d", "b")] == [0, 0, 0, 1]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        *(({"rate": rate}, f"rate: {rate} must be above 0 calls a second") for rate in (0, -1, math.inf, math.nan)),
        *(({"rate": 1, "burst": burst}, f"burst: {burst} must be at least 1") for burst in (0, 0.5)),
        ({"rate": 1, "max_keys": 0}, "max_keys: 0 must be at least 1"),
        ({"rate": 1, "by": "peer"}, "by: 'peer' is none of session, principal, method, nor a function"),
    ],
)
def test_wrong_settings_are_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        RateLimit(**options)


def test_a_limit_may_be_for_one_service() -> None:
    async def scenario() -> None:
        server = RpcServer("memory://unused")
        server.register(Desk(), middleware=[RateLimit(1, burst=1)])
        async with connect_in_memory(server) as client:
            assert await taken(client, 3) == 1
            assert await taken(client, 3, "nowhere") == 3

    virtually(scenario)
