"""Servers from a list, and several ways to look in turn."""

from __future__ import annotations

import math
from typing import Any

import pytest

from echostream.discovery.mdns_browser import Browser
from echostream.discovery.query import Found, Query
from echostream.discovery.resolver import Resolver, StaticResolver, resolve
from echostream.errors import ConfigurationError, ServiceNotFoundError

LISTED = StaticResolver({"orders": ["quic://10.0.0.5:4433", "quic://orders.example:4434"], "stock": "quic://[::1]:1"})


class Nothing:
    def __init__(self) -> None:
        self.asked = 0

    async def find(self, query: Query, *, timeout: float, settle: float) -> Found:
        self.asked += 1
        return Found([], [], "nowhere")


async def urls(query: Query, *resolvers: Resolver) -> list[str]:
    return [info.urls[0] for info in await resolve(query, resolvers, timeout=1.0)]


async def test_a_list_is_asked_by_name() -> None:
    assert await urls(Query("orders"), LISTED) == ["quic://10.0.0.5:4433", "quic://orders.example:4434"]
    assert await urls(Query("stock"), LISTED) == ["quic://[::1]:1"]
    assert len(await urls(Query(), LISTED)) == 3


async def test_the_next_is_asked_when_one_finds_nothing_and_not_otherwise() -> None:
    nothing = Nothing()
    assert await urls(Query("stock"), nothing, LISTED, nothing) == ["quic://[::1]:1"]
    assert nothing.asked == 1


async def test_when_all_find_nothing_the_error_tells_of_each() -> None:
    with pytest.raises(
        ServiceNotFoundError, match=r"within 1 s on nowhere, the static list; seen instead: 'orders', 'stock'"
    ):
        await urls(Query("printer"), Nothing(), LISTED)


async def test_there_are_a_list_of_resolvers_and_a_time() -> None:
    one: Any = LISTED
    with pytest.raises(ConfigurationError, match=r"resolvers: give a list of them: \[StaticResolver\(\.\.\.\)\]"):
        await resolve(Query(), one, timeout=1.0)
    for timeout in (0, -1.0, math.inf, math.nan):
        with pytest.raises(ConfigurationError, match=r"timeout: .* must be above 0 seconds"):
            await resolve(Query(), [LISTED], timeout=timeout)
        with pytest.raises(ConfigurationError, match=r"timeout: .* must be above 0 seconds"):
            Browser(timeout=timeout)


@pytest.mark.parametrize(
    "url", ["10.0.0.5:4433", "http://a:1", "quic://a", "quic://:1", "quic://a:99999", "quic://a:x"]
)
def test_a_url_that_cannot_be_dialled_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="must be like quic://host:4433"):
        StaticResolver({"orders": [url]})
