"""Tests for echostream.cli.remote: servers that describe nothing, or nonsense."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from echostream import RpcError, RpcServer, Status
from echostream.cli import remote
from echostream.cli.remote import describe_method, describe_server, remote_method
from echostream.introspection.model import MethodDescription, ServiceDescription
from echostream.testing import connect_in_memory
from tests.cli.running import echostream


class Client:
    """A client of a server that answers as the test wants."""

    session: Any = None

    def __init__(self, error: RpcError | None = None) -> None:
        self._error = error

    def proxy(self, service: object) -> Client:
        return self

    async def describe(self) -> AsyncIterator[ServiceDescription]:
        while True:
            yield ServiceDescription(name="again")

    async def describe_method(self, name: str) -> MethodDescription:
        assert self._error is not None
        raise self._error


@pytest.mark.parametrize("status", [Status.UNIMPLEMENTED, Status.NOT_FOUND, Status.PERMISSION_DENIED])
async def test_a_server_need_not_describe_itself(status: Status) -> None:
    client: Any = Client(RpcError(status, "no"))
    assert await describe_method(client, "x") is None


async def test_another_failure_is_one() -> None:
    client: Any = Client(RpcError(Status.UNAVAILABLE, "later"))
    with pytest.raises(RpcError, match="later"):
        await describe_method(client, "x")


def test_a_call_works_without_a_description(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(client: object, name: str) -> None: ...

    monkeypatch.setattr(remote, "describe_method", nothing)
    assert echostream("call", "-u", url, "shop.add", "1", "b=2", "--timeout", "5") == (0, "3\n", "")
    assert echostream("call", "-u", url, "shop.say", "plain words") == (0, '"plain words"\n', "")


async def test_a_description_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_MOST", 3)
    client: Any = Client()
    with pytest.raises(RpcError, match="the server describes more than 3 services"):
        await describe_server(client)


@pytest.mark.parametrize("name", ["no name", "a", "class"])
def test_nonsense_is_called_nonsense(name: str) -> None:
    arguments = {"properties": {"a": {}, name: {}}, "required": ["a"]}
    method = MethodDescription(name="x.y", arguments=arguments, positional=[name, name, "a"], result={})
    client: Any = Client()
    with pytest.raises(RpcError, match=r"the server's description of x\.y makes no sense"):
        remote_method(client, method)


async def test_a_server_without_reflection_is_named_as_one() -> None:
    server = RpcServer("memory://unused", reflection=False)
    async with connect_in_memory(server) as client:
        with pytest.raises(RpcError, match="tells nobody what it serves") as caught:
            await describe_server(client)
        assert caught.value.code is Status.UNIMPLEMENTED
