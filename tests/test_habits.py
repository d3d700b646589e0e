"""What people bring along from other libraries: the error says what it is called here, or how it is written."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

import pytest
from pydantic import BaseModel

from echostream import (
    ConfigurationError,
    Depends,
    RpcClient,
    RpcError,
    RpcServer,
    Session,
    SignatureError,
    event,
    handler,
    listener,
    service,
)
from echostream.habits import OF_SERVERS, OF_SESSIONS
from tests.serving import linked


@event("order.placed")
class Placed(BaseModel):
    number: int


@service("orders")
class Orders:
    @listener(Placed)
    async def on_placed(self, placed: Placed) -> None: ...

    @handler
    async def add(self, a: int) -> int:
        return a

    @handler
    async def watch(self) -> AsyncIterator[int]:
        yield 1


@pytest.mark.parametrize(("cls", "habits"), [(RpcServer, OF_SERVERS), (RpcClient, OF_SESSIONS), (Session, OF_SESSIONS)])
def test_a_hint_is_about_what_does_not_exist(cls: type, habits: dict[str, str]) -> None:
    assert [name for name in habits if hasattr(cls, name)] == []


async def test_a_name_of_elsewhere_leads_to_the_one_of_here() -> None:
    async with linked(Orders()) as (server, client):
        for each, name, hint in (
            (server, "emit", r"server\.broadcast\(event\) goes to all"),
            (client, "disconnect", r"await close\(\)"),
            (client, "send_datagram", r'open_stream\(name, mode="datagram"\)'),
            (client.session, "time_sync", r"clock has session time: await clock\.wait_locked\(\)"),
            (client.session, "disconnect", r"await close\(\)"),
            (client, "nonsense", None),
        ):
            with pytest.raises(
                AttributeError, match=f"object has no attribute {name!r}{f': {hint}' if hint else '$'}"
            ) as caught:
                getattr(each, name)
            assert (caught.value.name, caught.value.obj) == (name, each)


async def test_what_is_written_otherwise_elsewhere() -> None:
    async with linked(Orders()) as (_, client):
        orders: Any = client.proxy(Orders)
        with pytest.raises(TypeError, match=r"argument 'timeout': give it to client\.proxy\(\.\.\., timeout=\)"):
            await orders.add(1, timeout=2.0)
        with pytest.raises(TypeError, match=r"comes by and by: write `async for item in orders\.watch"):
            for _ in orders.watch():
                pass
        with pytest.raises(ConfigurationError, match=r"or call by name with request\('orders\.add', \.\.\.\)"):
            client.call("orders.add", 1)  # type: ignore[arg-type]
        with pytest.raises(RpcError, match=r"unknown method 'order\.placed'; it is an event here: emit\(\) it"):
            await client.request("order.placed", {"number": 7})
        with pytest.raises(RpcError, match=r"unknown method '/orders/Add'; did you mean orders\.add\?"):
            await client.request("/orders/Add", 1)
        with pytest.raises(
            RpcError, match=r"unknown method '/shop\.Orders/Count'; no service 'shop\.Orders' is registered"
        ):
            await client.request("/shop.Orders/Count")
        with pytest.raises(ConfigurationError, match="'chat' takes one payload, got 2: put them into a list"):
            await client.emit("chat", "ann", "hello")


@pytest.mark.parametrize("code", [404, "NOT_FOUND"])
def test_an_error_with_a_code_of_elsewhere(code: object) -> None:
    with pytest.raises(TypeError, match=f"{code!r} is no Status: write Status.NOT_FOUND"):
        RpcError(code, "no order 7")


def get_name() -> str:
    return "ann"


def get_account(name: str = Depends(get_name)) -> str:  # type: ignore[assignment]
    return name


def test_a_dependency_as_a_default_is_refused_because_callers_could_pass_another_value() -> None:
    with pytest.raises(SignatureError, match=r"'name' has Depends as its default; write name: Annotated\["):

        @handler("whose")
        async def whose(name: str = Depends(get_name)) -> str:  # type: ignore[assignment]
            return name

    with pytest.raises(SignatureError, match=r"parameter 'name' has Depends as its default"):

        @listener("opened")
        async def opened(payload: int, name: str = Depends(get_name)) -> None: ...  # type: ignore[assignment]

    @handler("mine")
    async def mine(account: Annotated[str, Depends(get_account)]) -> str:
        return account

    with pytest.raises(SignatureError, match=r"get_account: parameter 'name' has Depends as its default"):
        RpcServer("memory://habits").register(mine)
