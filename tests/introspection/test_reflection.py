"""Tests for echostream.introspection.reflection: what a peer is told, and who is told nothing."""

from __future__ import annotations

import sys
from pathlib import Path
from subprocess import run
from typing import Any

import pytest

from echostream import Principal, RpcClient, RpcError, RpcServer, Status, handler, service
from echostream.introspection import REFLECTION
from echostream.introspection.reflection import Reflection, reflection_router
from echostream.routing.router import Router
from tests.introspection.shop import make_server
from tests.serving import joined, memory_url

ROOT = Path(__file__).parents[2]


async def test_a_client_reads_what_the_server_would_say_of_itself() -> None:
    async with make_server(memory_url()) as server, joined(server) as client:
        reflection = client.proxy(Reflection)
        assert [item async for item in reflection.describe()] == server.describe()
        summaries = await reflection.list_services()
        assert [(item.name, item.version, len(item.methods)) for item in summaries] == [
            ("shop", "2.1.0", 6),
            ("till", "1.0.0", 1),
            ("", "", 1),
        ]
        assert await reflection.describe_service("till") == server.describe()[1]
        assert await reflection.describe_method("ping") == server.describe()[2].methods[0]


async def test_any_client_can_read_it_by_name() -> None:
    async with make_server(memory_url()) as server, joined(server) as client:
        found = await client.request(f"{REFLECTION}.DescribeMethod", "shop.watch")
        assert (found["name"], found["returns_items"], found["arguments"]["required"]) == ("shop.watch", True, ["name"])


@pytest.mark.parametrize(
    ("method", "argument", "text"),
    [
        ("DescribeMethod", "shop.by", "there is no method 'shop.by'; did you mean shop.buy or shop.pay or shop.odd?"),
        ("DescribeService", "nowhere at all", "there is no service 'nowhere at all'"),
    ],
)
async def test_an_unknown_name_gets_near_ones(method: str, argument: str, text: str) -> None:
    async with make_server(memory_url()) as server, joined(server) as client:
        with pytest.raises(RpcError) as caught:
            await client.request(f"{REFLECTION}.{method}", argument)
        assert (caught.value.code, caught.value.message) == (Status.NOT_FOUND, text)


async def test_what_is_registered_later_is_described_too() -> None:
    @service("late")
    class Late:
        @handler
        async def now(self) -> int:
            return 1

    async with make_server(memory_url()) as server, joined(server) as client:
        reflection = client.proxy(Reflection)
        assert len(await reflection.list_services()) == 3
        server.register(Late())
        assert [item.name for item in await reflection.list_services()] == ["shop", "till", "late", ""]


async def test_those_who_have_passed_authentication_are_told() -> None:
    def authenticate(credentials: str | None) -> Principal | None:
        return Principal("ann") if credentials == "secret" else None

    async with make_server(memory_url(), authenticate=authenticate) as server:
        async with joined(server, credentials="secret") as client:
            assert len(await client.proxy(Reflection).list_services()) == 3
        with pytest.raises(RpcError) as caught:
            await RpcClient.connect(server.addresses[0], credentials="wrong")
        assert caught.value.code is Status.UNAUTHENTICATED


async def test_a_session_that_is_not_let_know_is_told_nothing() -> None:
    server = RpcServer(memory_url())
    hidden = Router()
    server._router.offer(REFLECTION, lambda: routes)
    routes = reflection_router(hidden, lambda _session: False)
    async with server, joined(server) as client:
        reflection = client.proxy(Reflection)
        calls: list[Any] = [reflection.list_services(), reflection.describe_service(""), reflection.describe_method("")]
        for call in calls:
            with pytest.raises(RpcError) as caught:
                await call
            assert caught.value.code is Status.UNAUTHENTICATED
        with pytest.raises(RpcError, match="told to those who have authenticated"):
            await anext(reflection.describe())


@pytest.mark.parametrize("way", ["keyword", "builder"])
async def test_a_server_may_keep_to_itself_what_it_serves(way: str) -> None:
    @handler("secret.door")
    async def door() -> str:
        return "open"

    url = memory_url()
    built = RpcServer.builder().bind(url).reflection(False).build()
    server = RpcServer(url, reflection=False) if way == "keyword" else built
    server.register(door)
    async with server, joined(server) as client:
        assert await client.request("secret.door") == "open"
        for method in (f"{REFLECTION}.ListServices", "secret.dor"):
            with pytest.raises(RpcError) as caught:
                await client.request(method)
            assert (caught.value.code, caught.value.message) == (Status.UNIMPLEMENTED, f"unknown method {method!r}")
        assert [item.name for item in server.describe()[0].methods] == ["secret.door"]


async def test_the_service_is_neither_listed_nor_suggested() -> None:
    async with make_server(memory_url()) as server, joined(server) as client:
        await client.proxy(Reflection).list_services()
        assert list(server._router.services) == ["shop", "till"]
        with pytest.raises(RpcError) as caught:
            await client.request(f"{REFLECTION}.ListService")
        assert caught.value.code is Status.UNIMPLEMENTED


def test_a_server_that_nobody_asks_does_not_load_it() -> None:
    program = (
        "import asyncio, sys\n"
        "from tests.serving import linked\n"
        "from tests.introspection.shop import ping\n"
        "async def main():\n"
        "    async with linked(ping) as (_, client):\n"
        "        await client.request('ping')\n"
        "asyncio.run(main())\n"
        "print(sorted(name for name in sys.modules if name.startswith('echostream.introspection.')))\n"
    )
    done = run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=15, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")
