"""Typed proxies: what they look like, what they refuse, their options."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from typing import Any, Protocol

import pytest

from echostream import INJECTED, Context, RpcError, SignatureError, handler, service
from echostream.session.proxy import UNSET, ProxyMethod
from tests.session.world import Duo, duo


@service("things")
class Things:
    def __init__(self) -> None:
        self.metadata: list[Any] = []

    @handler
    async def add(self, a: int, b: int = 0) -> int:
        return a + b

    @handler
    async def who(self, *, ctx: Context = INJECTED) -> float | None:
        self.metadata.append(dict(ctx.metadata))
        return ctx.time_left

    @handler(timeout=3.0)
    async def three(self, *, ctx: Context = INJECTED) -> float | None:
        return ctx.time_left

    @handler("renamed")
    async def original(self) -> str:
        return "original"

    @handler
    async def count(self, up_to: int) -> AsyncIterator[int]:
        for number in range(up_to):
            yield number

    def unmarked(self) -> None: ...


@service("things")
class ThingsContract(Protocol):
    @handler
    async def add(self, a: int, b: int = 0) -> int: ...

    @handler
    def count(self, up_to: int) -> AsyncIterator[int]: ...


@service("things")
class ThingsBase(ABC):
    @handler
    @abstractmethod
    async def add(self, a: int, b: int = 0) -> int: ...


@service("things")
class Liar(Protocol):
    @handler
    async def add(self, a: int, b: int = 0) -> list[str]: ...


@pytest.fixture
async def things() -> Things:
    return Things()


@pytest.fixture
async def ends(things: Things) -> AsyncIterator[Duo]:
    async with duo(things) as made:
        yield made


async def test_a_proxy_shows_what_it_is_and_holds_nothing(ends: Duo) -> None:
    things: Any = ends.here.proxy(Things)
    assert repr(things) == "<proxy of things>"
    assert repr(things.add) == "<proxy method things.add>"
    assert isinstance(things.add, ProxyMethod)
    assert repr(things.count(1)) == "<items of things.count>"
    assert repr(UNSET) == "UNSET"
    with pytest.raises(AttributeError, match=r"a proxy holds nothing: 'x' cannot be set; options go to client.proxy"):
        things.x = 1
    with pytest.raises(AttributeError) as caught:
        things.unmarked  # noqa: B018
    assert str(caught.value) == ("service 'things' has no handler 'unmarked'; it has add, count, original, three, who")


async def test_a_method_is_called_under_its_wire_name(ends: Duo) -> None:
    assert await ends.here.proxy(Things).original() == "original"
    assert await ends.here.request("things.renamed") == "original"


@pytest.mark.parametrize("contract", [ThingsContract, ThingsBase])
async def test_a_contract_will_do(ends: Duo, contract: Any) -> None:
    assert await ends.here.proxy(contract).add(1, b=2) == 3
    if contract is ThingsContract:
        assert [item async for item in ends.here.proxy(ThingsContract).count(3)] == [0, 1, 2]


async def test_a_wrong_argument_fails_before_anything_is_sent(ends: Duo) -> None:
    things: Any = ends.here.proxy(Things)
    before = ends.here.peer.protocol.link.next_id
    for arguments, keywords, text in [
        ((), {}, "missing 1 required"),
        ((1, 2, 3), {}, "takes"),
        ((1,), {"c": 1}, "'c'"),
        (("many",), {}, "/a"),
    ]:
        with pytest.raises((TypeError, RpcError), match=text):
            things.add(*arguments, **keywords)
    with pytest.raises(TypeError, match=r"things.who\(\) fills in 'ctx' on the other side; leave it out"):
        things.who(ctx=None)
    assert ends.here.peer.protocol.link.next_id == before


async def test_a_result_that_does_not_fit_the_contract_is_refused(ends: Duo) -> None:
    with pytest.raises(RpcError, match=r"things\.add"):
        await ends.here.proxy(Liar).add(1)


async def test_options_belong_to_the_proxy_they_were_given_to(ends: Duo, things: Things) -> None:
    options = {"tenant": "a"}
    plain, hurried = ends.here.proxy(Things), ends.here.proxy(Things, timeout=1.0, metadata=options)
    patient = ends.here.proxy(Things, timeout=None)
    left = await hurried.who()
    assert left is not None
    assert 0.5 < left <= 1.0
    assert await patient.who() is None
    options["tenant"] = "b"  # read anew for every call
    await hurried.who()
    await plain.who()
    assert things.metadata == [{"tenant": "a"}, {}, {"tenant": "b"}, {}]


async def test_a_handlers_timeout_gives_way_to_the_proxys(ends: Duo) -> None:
    left = await ends.here.proxy(Things).three()
    assert left is not None
    assert 2.0 < left <= 3.0
    assert await ends.here.proxy(Things, timeout=None).three() is None


async def test_what_is_no_service_has_no_proxy(ends: Duo) -> None:
    class Plain: ...

    with pytest.raises(SignatureError):
        ends.here.proxy(Plain)


async def test_methods_can_be_kept_and_proxies_are_cheap(ends: Duo) -> None:
    add = ends.here.proxy(Things).add
    assert [await add(number) for number in range(3)] == [0, 1, 2]
