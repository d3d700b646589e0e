"""Dependencies: what they may be, how long they live, how they end, and what is refused at registration."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import pytest

from echostream import (
    INJECTED,
    ConfigurationError,
    Context,
    Depends,
    EventAck,
    LocalProtocolError,
    RpcClient,
    RpcError,
    RpcServer,
    Session,
    SignatureError,
    Status,
    StreamReceiver,
    handler,
    listener,
    service,
    stream,
)
from echostream.routing.plan import make_plan
from echostream.testing import SimNetwork, connect_in_memory
from tests.serving import PATIENCE, linked, nothing_left, until

book: list[str] = []
"""What the dependencies of these tests did."""


@pytest.fixture(autouse=True)
def _fresh_book() -> None:
    book.clear()


def plain() -> str:
    book.append("plain")
    return "plain"


async def waiting() -> str:
    await asyncio.sleep(0)
    return "waiting"


def generator() -> Iterator[str]:
    book.append("generator begins")
    try:
        yield "generator"
    finally:
        book.append("generator ends")


async def async_generator(inner: Annotated[str, Depends(generator)]) -> AsyncIterator[str]:
    book.append("async generator begins")
    try:
        yield f"async {inner}"
    except BaseException as error:
        book.append(f"async generator saw {type(error).__name__}")
        raise
    finally:
        await asyncio.sleep(0)
        book.append("async generator ends")


@dataclass
class Settings:
    name: Annotated[str, Depends(plain)]
    size: int = 7


class Counter:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> int:
        self.count += 1
        return self.count

    async def later(self) -> int:
        return -self()


COUNTER = Counter()


async def about(ctx: Context, session: Session, number: int = 1) -> str:
    assert ctx.session is session
    return f"{ctx.method} {number}"


Shared = Annotated[str, Depends(plain)]


@service("desk")
class Desk:
    @handler
    async def kinds(
        self,
        prefix: str,
        *,
        a: Annotated[str, Depends(plain)] = INJECTED,
        b: Annotated[str, Depends(waiting)] = INJECTED,
        c: Annotated[str, Depends(async_generator)] = INJECTED,
        d: Annotated[Settings, Depends(Settings)] = INJECTED,
        e: Annotated[str, Depends(about)] = INJECTED,
        f: Annotated[str, Depends(partial(about, number=5))] = INJECTED,
        ctx: Context = INJECTED,
    ) -> list[str]:
        book.append("handler")
        return [prefix, a, b, c, f"{d.name} {d.size}", e, f, ctx.method]

    @handler
    async def twice(
        self, *, a: Shared = INJECTED, b: Shared = INJECTED, d: Annotated[Settings, Depends(Settings)] = INJECTED
    ) -> list[str]:
        return [a, b, d.name]

    @handler
    async def counts(
        self,
        *,
        a: Annotated[int, Depends(COUNTER)] = INJECTED,
        b: Annotated[int, Depends(COUNTER)] = INJECTED,
        c: Annotated[int, Depends(COUNTER, use_cache=False)] = INJECTED,
        d: Annotated[int, Depends(COUNTER.later)] = INJECTED,
    ) -> list[int]:
        return [a, b, c, d]

    @handler
    async def fail(self, *, c: Annotated[str, Depends(async_generator)] = INJECTED) -> None:
        raise RpcError(Status.NOT_FOUND, "no such thing")

    @handler
    async def nap(self, *, c: Annotated[str, Depends(async_generator)] = INJECTED) -> None:
        await asyncio.sleep(3600)

    @handler
    async def watch(self, up_to: int, *, c: Annotated[str, Depends(async_generator)] = INJECTED) -> AsyncIterator[str]:
        try:
            for number in range(up_to):
                yield f"{c} {number}"
        finally:
            book.append("handler ends")

    @handler
    async def total(self, items: AsyncIterator[int], *, c: Annotated[str, Depends(generator)] = INJECTED) -> str:
        return f"{c} {sum([item async for item in items])}"

    @handler(thread=True)
    def build(self, *, c: Annotated[str, Depends(async_generator)] = INJECTED) -> str:
        book.append(Context.current().method)
        return c

    @handler
    async def bare(self, text: str, c: Annotated[str, Depends(plain)]) -> str:  # found at run time all the same
        return text + c

    @listener("thing")
    async def on_thing(self, payload: Any, ctx: Context, *, c: Annotated[str, Depends(generator)]) -> None:
        book.append(f"{payload} {ctx.method} {c}")

    @listener("other")
    def on_other(self, payload: Any, c: Annotated[str, Depends(waiting)]) -> None:
        book.append(f"{payload} {c}")

    @stream("belt")
    async def on_belt(self, receiver: StreamReceiver[int], *, c: Annotated[str, Depends(async_generator)]) -> None:
        book.append(f"{[item async for item in receiver]} {c}")


def make_server(*targets: object) -> RpcServer:
    server = RpcServer("memory://unused")
    server.register(*targets or (Desk(),))
    return server


async def test_every_kind_of_function_and_their_order() -> None:
    async with connect_in_memory(make_server()) as client:
        assert await client.proxy(Desk).kinds("x") == [
            "x",
            "plain",
            "waiting",
            "async generator",
            "plain 7",
            "desk.kinds 1",
            "desk.kinds 5",
            "desk.kinds",
        ]
    assert book == [
        "plain",
        "generator begins",
        "async generator begins",
        "handler",
        "async generator ends",
        "generator ends",
    ]


async def test_a_call_makes_each_once_and_another_call_anew() -> None:
    async with connect_in_memory(make_server()) as client:
        desk = client.proxy(Desk)
        assert await desk.twice() == ["plain"] * 3
        assert book == ["plain"]
        COUNTER.count = 0
        assert await desk.counts() == [1, 1, 2, -3]
        assert await desk.counts() == [4, 4, 5, -6]


async def test_the_caller_cannot_fill_them() -> None:
    async with connect_in_memory(make_server()) as client:
        with pytest.raises(TypeError, match=r"desk\.twice\(\) fills in 'a' on the other side; leave it out"):
            await client.proxy(Desk).twice(a="mine")
        with pytest.raises(RpcError, match="unknown") as caught:
            await client.request("desk.twice", a="mine")
        assert caught.value.code is Status.INVALID_ARGUMENT


async def test_a_handler_that_raises_is_seen_by_what_cleans_up() -> None:
    async with connect_in_memory(make_server()) as client:
        with pytest.raises(RpcError, match="no such thing"):
            await client.proxy(Desk).fail()
    assert book[2:] == ["async generator saw RpcError", "async generator ends", "generator ends"]


def test_a_handler_that_is_cancelled_is_cleaned_up_after() -> None:
    async def scenario(_: SimNetwork) -> None:
        async with connect_in_memory(make_server()) as client:
            with pytest.raises(TimeoutError):
                await client.proxy(Desk, timeout=1.0).nap()
            await asyncio.sleep(0.1)
            assert book[2:] == ["async generator saw CancelledError", "async generator ends", "generator ends"]

    SimNetwork().run(scenario)


async def test_they_live_until_the_last_item() -> None:
    async with connect_in_memory(make_server()) as client:
        desk = client.proxy(Desk)
        assert [item async for item in desk.watch(2)] == ["async generator 0", "async generator 1"]
        ended = ["handler ends", "async generator ends", "generator ends"]
        assert book[2:] == ended
        async with client.stream(desk.watch, 1_000_000) as items:
            await anext(aiter(items))
        await until(lambda: len(book) == 11)
        assert book[-4:] == ["handler ends", "async generator saw GeneratorExit", *ended[1:]]
        assert await desk.total(numbers()) == "generator 3"


async def numbers() -> AsyncIterator[int]:
    yield 1
    yield 2


async def test_threads_bare_parameters_listeners_and_streams() -> None:
    async with connect_in_memory(make_server()) as client:
        assert await client.request("desk.build") == "async generator"
        assert "desk.build" in book
        assert await client.request("desk.bare", "a ") == "a plain"
        assert await client.emit("thing", 1, ack=True) == EventAck(1, 0)
        assert await client.emit("other", 2, ack=True) == EventAck(1, 0)
        async with client.open_stream("belt") as sender:
            await sender.send(3)
    for line in ("1 thing generator", "2 waiting", "[3] async generator"):
        assert line in book


@pytest.mark.parametrize("end", ["cancelled", "disconnected"])
async def test_what_a_thread_uses_is_cleaned_up_after_the_thread(end: str) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def tidy() -> Iterator[str]:
        try:
            yield "it"
        finally:
            book.append("cleaned up")

    @handler("slow", thread=True)
    def slow(*, it: Annotated[str, Depends(tidy)] = INJECTED) -> None:
        begun.set()
        assert go_on.wait(PATIENCE)
        book.append(f"used {it}")

    async with linked(slow) as (server, client):
        call = asyncio.create_task(client.request("slow"))
        await until(begun.is_set)
        call.cancel()
        await asyncio.wait([call])
        [session] = server.sessions
        if end == "disconnected":
            closing = asyncio.create_task(client.close())
            await session.wait_closed()
        else:
            await client.ping()
        assert book == []
        go_on.set()
        await until(lambda: len(book) == 2)
        if end == "disconnected":
            await closing
    assert book == ["used it", "cleaned up"]


async def test_what_a_dependency_raises_is_the_answer() -> None:
    def refuse() -> None:
        raise RpcError(Status.PERMISSION_DENIED, "not you")

    @handler("f")
    async def f(*, a: Annotated[None, Depends(refuse)] = INJECTED) -> None:
        book.append("handler")

    async with connect_in_memory(make_server(f)) as client:
        with pytest.raises(RpcError, match="not you"):
            await client.request("f")
    assert book == []


async def test_a_clean_up_that_raises_fails_the_call() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise RpcError(Status.ABORTED, "could not be written down")

    @handler("f")
    async def f(*, a: Annotated[int, Depends(broken)] = INJECTED) -> int:
        return a

    async with connect_in_memory(make_server(f)) as client:
        with pytest.raises(RpcError, match="could not be written down"):
            await client.request("f")


async def test_a_dependency_that_swallows_an_error_is_told_so() -> None:
    def calm() -> Iterator[int]:
        with suppress(RpcError):
            yield 1

    @handler("f")
    async def f(*, a: Annotated[int, Depends(calm)] = INJECTED) -> int:
        raise RpcError(Status.NOT_FOUND, "no")

    @handler("g")
    async def g(*, a: Annotated[int, Depends(calm)] = INJECTED) -> AsyncIterator[int]:
        yield 1
        raise RpcError(Status.NOT_FOUND, "no")

    async with connect_in_memory(make_server(f, g)) as client:
        with pytest.raises(LocalProtocolError, match="dependency of f swallowed the error of the call: raise it"):
            await client.request("f")
        with pytest.raises(LocalProtocolError, match="dependency of g swallowed the error of the call"):
            await collected(client, "g")


async def collected(client: RpcClient, method: str) -> list[Any]:
    async with client.stream(method) as items:
        return [item async for item in items]


# Sessions and servers.


class Thing:
    """Something that is made once and closed once."""

    made: int = 0

    def __init__(self, what: str) -> None:
        Thing.made += 1
        self.name = f"{what} {Thing.made}"


async def pool() -> AsyncIterator[Thing]:
    thing = Thing("pool")
    book.append(f"{thing.name} opens")
    await asyncio.sleep(0)
    with pytest.raises(LookupError):
        Context.current()  # it belongs to no call
    yield thing
    book.append(f"{thing.name} closes")


def cart(session: Session, pool: Annotated[Thing, Depends(pool, scope="app")]) -> Iterator[Thing]:
    thing = Thing(f"cart of {pool.name}")
    book.append(f"{thing.name} opens")
    yield thing
    book.append(f"{thing.name} closes")


@service("shop")
class Shop:
    @handler
    async def names(
        self,
        *,
        pool: Annotated[Thing, Depends(pool, scope="app")] = INJECTED,
        cart: Annotated[Thing, Depends(cart, scope="session")] = INJECTED,
    ) -> list[str]:
        return [pool.name, cart.name]


async def test_one_for_a_session_and_one_for_all() -> None:
    Thing.made = 0
    server = make_server(Shop())
    with nothing_left():
        async with server:
            url = server.addresses[0]
            async with RpcClient.connect(url) as one, RpcClient.connect(url) as two:
                answers = await asyncio.gather(*(client.proxy(Shop).names() for client in (one, two, one, two)))
                assert answers[0] == answers[2] == ["pool 1", "cart of pool 1 2"]
                assert answers[1] == answers[3] == ["pool 1", "cart of pool 1 3"]
            await until(lambda: len(book) == 5)
            assert sorted(book[3:]) == ["cart of pool 1 2 closes", "cart of pool 1 3 closes"]
        assert book[5:] == ["pool 1 closes"]
        async with connect_in_memory(server) as client:  # started again: all is made anew
            assert await client.proxy(Shop).names() == ["pool 4", "cart of pool 4 5"]
    assert book[-2:] == ["cart of pool 4 5 closes", "pool 4 closes"]


async def test_a_client_has_its_own() -> None:
    Thing.made = 0
    server = RpcServer("memory://unused")
    async with connect_in_memory(server) as client:
        client.register(Shop())
        [session] = server.sessions
        for _ in range(2):
            assert await session.proxy(Shop).names() == ["pool 1", "cart of pool 1 2"]
    assert book[-2:] == ["cart of pool 1 2 closes", "pool 1 closes"]


async def test_what_could_not_be_made_is_tried_again() -> None:
    tries: list[int] = []

    async def shaky() -> int:
        tries.append(1)
        await asyncio.sleep(0)
        if len(tries) == 1:
            raise RpcError(Status.UNAVAILABLE, "the database is not up yet")
        return len(tries)

    @handler("f")
    async def f(*, a: Annotated[int, Depends(shaky, scope="app")] = INJECTED) -> int:
        return a

    async with connect_in_memory(make_server(f)) as client:
        answers = await asyncio.gather(*(client.request("f") for _ in range(3)), return_exceptions=True)
        assert [str(answer) for answer in answers] == ["f: UNAVAILABLE: the database is not up yet"] * 3
        assert [await client.request("f") for _ in range(2)] == [2, 2]


def test_a_caller_that_gives_up_does_not_take_it_from_the_others() -> None:
    async def slow() -> int:
        await asyncio.sleep(5)
        return 7

    @handler("f")
    async def f(*, a: Annotated[int, Depends(slow, scope="session")] = INJECTED) -> int:
        return a

    async def scenario(_: SimNetwork) -> None:
        async with connect_in_memory(make_server(f)) as client:
            patient = asyncio.create_task(client.request("f"))
            with pytest.raises(TimeoutError):
                await client.request("f", timeout=1.0)
            assert await patient == 7

    SimNetwork().run(scenario)


def test_a_clean_up_that_hangs_or_raises_does_not_hold_up_the_end(caplog: pytest.LogCaptureFixture) -> None:
    async def hanging() -> AsyncIterator[int]:
        yield 1
        await asyncio.Event().wait()

    def raising() -> Iterator[int]:
        yield 2
        raise OSError("disk full")

    async def never() -> int:
        await asyncio.Event().wait()
        return 3

    @handler("f")
    async def f(
        *,
        a: Annotated[int, Depends(hanging, scope="app")] = INJECTED,
        b: Annotated[int, Depends(raising, scope="app")] = INJECTED,
    ) -> int:
        return a + b

    @handler("g")
    async def g(*, a: Annotated[int, Depends(never, scope="app")] = INJECTED) -> int:
        return a

    async def scenario(_: SimNetwork) -> None:
        loop = asyncio.get_running_loop()
        async with connect_in_memory(make_server(f, g)) as client:
            assert await client.request("f") == 3
            with pytest.raises(TimeoutError):
                await client.request("g", timeout=1.0)
            start = loop.time()
        assert loop.time() - start == pytest.approx(5.0, abs=0.1)

    SimNetwork().run(scenario)
    assert "a clean-up was not done in 5 s" in caplog.text
    assert "disk full" in caplog.text


# Tests put others in.


async def test_a_test_puts_something_in_the_place_of_a_dependency() -> None:
    def fake(ctx: Context) -> Iterator[str]:
        yield f"fake for {ctx.method}"
        book.append("fake ends")

    server = make_server()
    async with connect_in_memory(server) as client:
        server.dependency_overrides[plain] = lambda: "fake"
        assert await client.proxy(Desk).twice() == ["fake"] * 3
        server.dependency_overrides[plain] = fake
        assert (await client.proxy(Desk).twice())[0] == "fake for desk.twice"
        server.dependency_overrides.clear()
        assert (await client.proxy(Desk).twice())[0] == "plain"
    assert book == ["fake ends", "plain"]


async def test_of_a_client_too() -> None:
    server = RpcServer("memory://unused")
    async with connect_in_memory(server) as client:
        client.register(Desk())
        client.dependency_overrides[plain] = lambda: "fake"
        [session] = server.sessions
        assert await session.proxy(Desk).twice() == ["fake"] * 3


# What is refused, and when.


def round_one(b: Annotated[int, Depends(lambda: 1)], c: RoundTwo) -> int:
    return b


def round_two(c: RoundThree) -> int:
    return c


def round_three(a: Annotated[int, Depends(round_one)]) -> int:
    return a


RoundTwo = Annotated[int, Depends(round_two)]
RoundThree = Annotated[int, Depends(round_three)]


def wants_more(size: int) -> int:
    return size


def wants_unseen(size: Nowhere) -> int:  # type: ignore[name-defined]  # noqa: F821
    return 1


def wants_context(ctx: Context) -> int:
    return 1


def wants_session(session: Session) -> int:
    return 1


def wants_call(a: Annotated[str, Depends(plain)]) -> int:
    return 1


def by_position(a: int, /) -> int:
    return a


def has_a_default(a: int = Depends(plain)) -> int:  # type: ignore[assignment]
    return a


HERE = re.escape(__file__)


@pytest.mark.parametrize(
    ("marker", "text"),
    [
        (
            Depends(round_one),
            r"round_one: depends on itself: round_one -> round_two -> round_three -> round_one; break the circle",
        ),
        (
            Depends(wants_more),
            r"wants_more: parameter 'size' cannot be filled; give it a default, or write Context, Session or Annotated",
        ),
        (Depends(wants_unseen), r"wants_unseen: parameter 'size' names Nowhere, which cannot be seen from its module"),
        (
            Depends(wants_context, scope="session"),
            r"wants_context: parameter 'ctx' is the context of one call, but the value outlives it \(session\)",
        ),
        (
            Depends(wants_session, scope="app"),
            r"wants_session: parameter 'session' is one session, but the value is for all of them \(app\); drop it",
        ),
        (
            Depends(wants_call, scope="app"),
            r"wants_call: parameter 'a' lives as long as one call, but wants_call as long as the app; give plain",
        ),
        (Depends(has_a_default), r"has_a_default: parameter 'a' has Depends as its default; write a: Annotated"),
        (Depends(by_position), r"by_position: parameter 'a' is filled by name; move it behind the /"),
    ],
)
def test_a_dependency_that_cannot_be_made_is_refused_at_registration(marker: Depends, text: str) -> None:
    for target in (handled(marker), s_of(marker), e_of(marker)):
        server = RpcServer("memory://unused")
        with pytest.raises(SignatureError, match=rf"^{HERE}:\d+: {text}"):
            server.register(target)
        server.register(Desk())  # nothing of it was registered


def handled(marker: Depends) -> Callable[..., Any]:
    async def f(*, a: int = INJECTED) -> int:
        return a

    f.__annotations__["a"] = Annotated[int, marker]
    return handler("f")(f)


def s_of(marker: Depends) -> Callable[..., Any]:
    async def s(receiver: StreamReceiver[int], *, a: int) -> None: ...

    s.__annotations__["a"] = Annotated[int, marker]
    return stream("s")(s)


def e_of(marker: Depends) -> Callable[..., Any]:
    async def e(payload: int, *, a: int) -> None: ...

    e.__annotations__["a"] = Annotated[int, marker]
    return listener("e")(e)


def test_the_function_itself_is_given_and_a_scope_that_there_is() -> None:
    with pytest.raises(ConfigurationError, match="str given: give the function itself and do not call it"):
        Depends(plain())  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="scope='request' is none of call, session, app"):
        Depends(plain, scope="request")  # type: ignore[arg-type]


def test_what_is_made_anew_does_not_live_longer_than_its_call() -> None:
    with pytest.raises(
        ConfigurationError, match="use_cache=False makes a value anew, and scope='app' makes one for all"
    ):
        Depends(plain, scope="app", use_cache=False)


def test_a_plan_without_needs_is_empty() -> None:
    assert make_plan({}, {}).steps == ()
