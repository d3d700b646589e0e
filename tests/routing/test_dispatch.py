"""Tests for echostream.routing.dispatch: finding, permitting, running and answering, seen from the caller."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import BaseModel

from echostream import (
    INJECTED,
    Context,
    DeadlineExceededError,
    InvalidArgumentError,
    Limits,
    Principal,
    RpcClient,
    RpcError,
    RpcServer,
    Status,
    StreamReceiver,
    StreamResetError,
    handler,
    service,
    stream,
)
from echostream.errors import ConnectionLostError, LocalProtocolError, ResourceError
from echostream.testing import SimNetwork, connect_in_memory
from tests.serving import PATIENCE, joined, linked, served, session_of, until

SECRET = "password is hunter2"

HIDDEN = "internal error; its cause is in the log of the side that serves it"


class Order(BaseModel):
    symbol: str
    qty: int = 1


class OutOfStock(RpcError, code=Status.FAILED_PRECONDITION, reason="orders.out_of_stock"):
    """An error of the application."""


class Sold(RpcError, code=Status.FAILED_PRECONDITION, reason="orders.sold"):
    """Another one, which the contract does not list."""


@service("orders")
class Orders:
    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.ended: list[str] = []

    @handler
    async def place(self, order: Order) -> int:
        return order.qty

    @handler
    async def add(self, a: int, b: int = 0) -> int:
        return a + b

    @handler
    async def watch(self, symbol: str) -> AsyncIterator[int]:
        yield 1
        yield 2

    @handler
    async def total(self, items: AsyncIterator[int]) -> int:
        return sum([item async for item in items])

    @handler
    async def double(self, items: AsyncIterator[int]) -> AsyncIterator[int]:
        async for item in items:
            yield 2 * item

    @handler(raises=[OutOfStock])
    async def fail(self, how: str) -> int:
        raise failure(how)

    @handler
    async def fail_later(self, how: str) -> AsyncIterator[int]:
        yield 1
        raise failure(how)

    @handler
    async def hang(self) -> None:
        self.started.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.append("hang")

    @handler
    async def hang_on_items(self) -> AsyncIterator[int]:
        try:
            yield 1
            await asyncio.Event().wait()
        finally:
            self.ended.append("items")

    @handler
    async def stubborn(self) -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.ended.append("stubborn")
        return "too late"

    @handler
    async def cancel_itself(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    @handler
    async def wrong_result(self) -> int:
        return SECRET  # type: ignore[return-value]

    @handler
    async def wrong_item(self) -> AsyncIterator[int]:
        yield 1
        yield SECRET  # type: ignore[misc]

    @handler
    async def large(self, size: int) -> bytes:
        return bytes(size)

    @handler(requires="orders:write")
    async def cancel(self, order_id: int) -> str:
        return "cancelled"

    @handler(requires="orders:read")
    async def history(self) -> AsyncIterator[int]:
        yield 1


def failure(how: str) -> BaseException:
    return {
        "rpc": RpcError(Status.NOT_FOUND, "no order 7", details={"resource": "orders/7"}, retry_after=2.5),
        "typed": OutOfStock("only 3 left"),
        "unlisted": Sold("gone"),
        "plain": RuntimeError(SECRET),
        "key": KeyError(SECRET),
        "local": LocalProtocolError(SECRET),
        "resource": ResourceError("9 of 8 places taken", current=9, limit=8),
        "lost": ConnectionLostError(SECRET),
        "timeout": TimeoutError(SECRET),
        "unpackable": RpcError(Status.ABORTED, "with strange details", details={"it": object()}),
        "long": RpcError(Status.ABORTED, "x" * 5000),
    }[how]


async def outcome(call: Any) -> RpcError:
    with pytest.raises(RpcError) as caught:
        await call
    return caught.value


async def asked(client: RpcClient, method: str, payload: bytes, **options: Any) -> tuple[int, str]:
    """Send a request that no proxy would make; return the status and message of its answer."""
    answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    class Handle:
        def on_response(self, frame: Any) -> None:
            answer.set_result(frame)

    peer = client.session.peer
    peer.protocol.calls.start(method, payload, handle=Handle(), stream_id=0, **{"timeout_ns": 0, **options})
    peer.touch()
    frame = await answer
    return frame.status, peer.runtime.payload.decode(frame.payload)["message"]


async def drained(items: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in items]


def told(error: RpcError) -> tuple[Status, str]:
    return error.code, error.message


# Finding


async def test_unknown_method_offers_near_names() -> None:
    async with linked(Orders()) as (_, client):
        error = await outcome(client.request("orders.plaice"))
        assert error.code is Status.UNIMPLEMENTED
        assert error.message.startswith("unknown method 'orders.plaice'; did you mean orders.place?")
        assert error.operation == "orders.plaice"
        assert error.session == client.session.id
        assert told(await outcome(client.request("#"))) == (Status.UNIMPLEMENTED, "unknown method '#'")


async def test_unknown_stream_offers_near_names() -> None:
    @stream("microphone")
    async def on_microphone(receiver: StreamReceiver) -> None: ...

    async with linked(on_microphone) as (_, client):
        error = await outcome(client.open_stream("microfone"))
        assert told(error) == (Status.UNIMPLEMENTED, "unknown stream 'microfone'; did you mean microphone?")


async def test_near_names_are_hidden_from_clients_that_are_nobody() -> None:
    """A client cannot be admitted without a principal where `authenticate` is set, but the hint asks all the same."""
    async with served(Orders(), authenticate=lambda _: Principal("Ada")) as server, joined(server) as client:
        assert "did you mean" in (await outcome(client.request("orders.plaice"))).message
        session_of(server, client).principal = None
        assert told(await outcome(client.request("orders.plaice"))) == (
            Status.UNIMPLEMENTED,
            "unknown method 'orders.plaice'",
        )
        assert told(await outcome(client.open_stream("x"))) == (Status.UNIMPLEMENTED, "unknown stream 'x'")


@service("orders")
class OtherShapes:
    """The methods of `Orders` as somebody else remembers them."""

    @handler
    async def place(self, items: AsyncIterator[int]) -> int: ...  # type: ignore[empty-body]

    @handler
    async def add(self, a: int) -> AsyncIterator[int]:
        yield 1

    @handler
    async def watch(self, symbol: str) -> int: ...  # type: ignore[empty-body]

    @handler
    async def double(self, items: AsyncIterator[int]) -> int: ...  # type: ignore[empty-body]

    @handler
    async def total(self, items: AsyncIterator[int]) -> AsyncIterator[int]:
        yield 1


async def numbers() -> AsyncIterator[int]:
    yield 1


async def test_shapes_that_do_not_match_are_refused() -> None:
    async with linked(Orders()) as (_, client):
        other = client.proxy(OtherShapes)
        errors = [
            await outcome(other.place(numbers())),
            await outcome(drained(other.add(1))),
            await outcome(other.watch("A")),
            await outcome(other.double(numbers())),
            await outcome(drained(other.total(numbers()))),
        ]
    by_name = "use a proxy, or stream() by name"
    assert [told(error) for error in errors] == [
        (Status.INVALID_ARGUMENT, f"orders.{text}")
        for text in (
            "place is unary, but was called with a stream in, one value out; use a proxy",
            "add is unary, but was called with one value in, a stream out; use a proxy",
            f"watch is server streaming, but was called with one value in, one value out; {by_name}",
            f"double is bidirectional, but was called with a stream in, one value out; {by_name}",
            "total is client streaming, but was called with a stream in, a stream out; use a proxy",
        )
    ]


# Arguments and results


@pytest.mark.parametrize(
    ("arguments", "keywords", "text", "field"),
    [
        ((), {}, "invalid orders.add: /a: missing", "/a"),
        (("x",), {}, "invalid orders.add: /a: ", "/a"),
        ((1, 2, 3), {}, "invalid orders.add: ", None),
        ((1,), {"c": 2}, "invalid orders.add: /c: ", "/c"),
        ((1,), {"a": 2}, "invalid orders.add: /a: ", "/a"),
        (([1],), {}, "invalid orders.add: /a: ", "/a"),
    ],
)
async def test_wrong_arguments_are_refused_with_the_path(
    arguments: tuple[Any, ...], keywords: dict[str, Any], text: str, field: str | None
) -> None:
    async with linked(Orders()) as (_, client):
        error = await outcome(client.request("orders.add", *arguments, **keywords))
    assert isinstance(error, InvalidArgumentError)
    assert error.message.startswith(text)
    if field is not None:
        assert error.violations[0][0] == field


async def test_the_path_leads_into_the_argument() -> None:
    async with linked(Orders()) as (_, client):
        error = await outcome(client.request("orders.place", {"symbol": "ACME", "qty": "many"}))
    assert isinstance(error, InvalidArgumentError)
    assert [field for field, _ in error.violations] == ["/order/qty"]
    assert error.message.startswith("invalid orders.place: /order/qty: ")


@pytest.mark.parametrize("wire", [b"raw", 7, [1], [1, {}], [[], []], [[1], {}, 2], {"a": 1}])
async def test_arguments_of_another_form_are_refused(wire: Any) -> None:
    async with linked(Orders()) as (_, client):
        raw = isinstance(wire, bytes)
        payload = wire if raw else client.session.runtime.payload.encode(wire)
        status, message = await asked(client, "orders.add", payload, raw=raw)
    assert status == Status.INVALID_ARGUMENT
    if raw:
        assert message.startswith("invalid orders.add: /a: ")
    else:
        assert message == "arguments of orders.add must be [positional, keyword]"


async def test_items_of_the_wrong_type_are_refused() -> None:
    async def words() -> AsyncIterator[Any]:
        yield 1
        yield "many"

    @service("orders")
    class Loose:
        @handler
        async def total(self, items: AsyncIterator[Any]) -> int: ...  # type: ignore[empty-body]

    async with linked(Orders()) as (_, client):
        error = await outcome(client.proxy(Loose).total(words()))
    assert isinstance(error, InvalidArgumentError)
    assert error.message.startswith("invalid orders.total: /items: ")


async def test_result_that_does_not_fit_is_an_internal_error_without_the_value() -> None:
    async with linked(Orders()) as (_, client):
        error = await outcome(client.request("orders.wrong_result"))
        assert error.code is Status.INTERNAL
        assert SECRET not in str(error)
        assert error.message.startswith("orders.wrong_result ")
        items = client.proxy(Orders).wrong_item()
        assert await anext(aiter(items)) == 1
        assert (await outcome(anext(aiter(items)))).message == error.message.replace("wrong_result", "wrong_item")


async def test_result_over_the_limit_of_the_caller_is_refused() -> None:
    async with served(Orders()) as server, joined(server, limits=Limits(max_payload_bytes=2000)) as client:
        error = await outcome(client.request("orders.large", 3000))
        assert error.code is Status.RESOURCE_EXHAUSTED
        assert error.message == (
            "payload of 3000 bytes is over the peer's limit of 2000 (max_payload_bytes); send it in pieces over a"
            " stream, or raise the limit there"
        )
        assert not error.retryable
        assert error.details == {"current": 3000, "limit": 2000, "retryable": False}
        assert len(await client.request("orders.large", 1000)) == 1000


# Errors


@pytest.mark.parametrize(
    ("how", "code", "message"),
    [
        ("rpc", Status.NOT_FOUND, "no order 7"),
        ("typed", Status.FAILED_PRECONDITION, "only 3 left"),
        ("unlisted", Status.FAILED_PRECONDITION, "gone"),
        ("plain", Status.INTERNAL, HIDDEN),
        ("key", Status.INTERNAL, HIDDEN),
        ("local", Status.INTERNAL, HIDDEN),
        ("timeout", Status.INTERNAL, HIDDEN),
        ("resource", Status.RESOURCE_EXHAUSTED, "9 of 8 places taken"),
        ("lost", Status.UNAVAILABLE, "a connection behind this handler was lost"),
        ("unpackable", Status.ABORTED, "with strange details"),
        ("long", Status.ABORTED, "x" * 5000),
    ],
)
async def test_errors_travel_as_they_should(how: str, code: Status, message: str) -> None:
    async with linked(Orders()) as (_, client):
        orders = client.proxy(Orders)
        for call in (orders.fail(how), client.request("orders.fail", how)):
            assert told(await outcome(call)) == (code, message)
        items = aiter(orders.fail_later(how))
        assert await anext(items) == 1
        assert told(await outcome(anext(items))) == (code, message)
        assert await orders.add(1, 2) == 3


async def test_details_and_retry_travel() -> None:
    async with linked(Orders()) as (_, client):
        error = await outcome(client.proxy(Orders).fail("rpc"))
    assert error.details["resource"] == "orders/7"
    assert error.retry_after == 2.5
    assert error.operation == "orders.fail"


async def test_listed_errors_arrive_as_their_class() -> None:
    async with linked(Orders()) as (_, client):
        orders = client.proxy(Orders)
        typed, unlisted = await outcome(orders.fail("typed")), await outcome(orders.fail("unlisted"))
        by_name = await outcome(client.request("orders.fail", "typed"))
    assert type(typed) is OutOfStock
    assert typed.details == {"reason": "orders.out_of_stock"}
    assert type(unlisted) is RpcError
    assert unlisted.details == {"reason": "orders.sold"}
    assert type(by_name) is RpcError


@pytest.mark.parametrize("how", ["plain", "key", "local", "timeout", "lost"])
async def test_nothing_internal_leaks(how: str, caplog: pytest.LogCaptureFixture) -> None:
    async with linked(Orders()) as (_, client):
        error = await outcome(client.request("orders.fail", how))
    assert "hunter2" not in str(error)
    assert "hunter2" not in repr(error.details)
    if how != "lost":
        assert "! orders.fail raised " in caplog.text
        assert "hunter2" in caplog.text


async def test_debug_sends_the_text() -> None:
    async with linked(Orders(), debug=True) as (_, client):
        assert told(await outcome(client.request("orders.fail", "plain"))) == (
            Status.INTERNAL,
            f"RuntimeError: {SECRET}",
        )


async def test_an_error_too_long_for_the_caller_is_cut() -> None:
    async with served(Orders()) as server, joined(server, limits=Limits(max_payload_bytes=1 << 11)) as client:
        assert told(await outcome(client.request("orders.fail", "long"))) == (Status.ABORTED, "x" * 200)


async def test_an_error_of_a_nested_call_goes_on_to_the_caller() -> None:
    async with linked(Orders()) as (_, backend):

        @handler("front")
        async def front(how: str) -> int:
            return await backend.proxy(Orders).fail(how)

        @handler("front.lost")
        async def lost() -> None:
            await backend.close()
            await backend.request("orders.add", 1)

        async with linked(front, lost) as (_, client):
            assert told(await outcome(client.request("front", "rpc"))) == (Status.NOT_FOUND, "no order 7")
            assert told(await outcome(client.request("front", "plain"))) == (Status.INTERNAL, HIDDEN)
            assert told(await outcome(client.request("front.lost"))) == (
                Status.UNAVAILABLE,
                "a connection behind this handler was lost",
            )


async def test_a_nested_call_inherits_the_deadline() -> None:
    orders = Orders()
    async with linked(orders) as (_, backend):

        @handler("front")
        async def front() -> None:
            await backend.request("orders.hang", timeout=None)

        async with linked(front) as (_, client):
            with pytest.raises(DeadlineExceededError):
                await client.request("front", timeout=0.05)
            await until(lambda: orders.ended)


def test_a_task_that_outlives_its_call_has_no_deadline_of_it() -> None:
    async def scenario(_: SimNetwork) -> None:
        tasks: list[asyncio.Task[Any]] = []

        @handler("here")
        async def here() -> str:
            return "here"

        @handler("front")
        async def front(*, ctx: Context = INJECTED) -> float | None:
            async def later() -> tuple[Any, ...]:
                assert Context.current() is ctx
                left = ctx.time_left
                await asyncio.sleep(60)
                return left, ctx.deadline, ctx.cancelled, await ctx.session.request("here")

            tasks.append(asyncio.create_task(later()))
            await asyncio.sleep(1)
            return ctx.time_left

        server = RpcServer("memory://unused")
        server.register(front)
        async with connect_in_memory(server) as client:
            client.register(here)
            assert await client.request("front", timeout=5.0) == pytest.approx(4.0, abs=0.1)
            left, *rest = await tasks[0]
            assert left == pytest.approx(5.0, abs=0.1)
            assert rest == [None, False, "here"]

    SimNetwork().run(scenario)


# Ends


async def test_a_handler_that_hangs_is_cancelled_at_the_deadline() -> None:
    orders = Orders()
    async with linked(orders) as (_, client):
        error = await outcome(client.request("orders.hang", timeout=0.03))
        assert isinstance(error, DeadlineExceededError)
        assert str(error) == "orders.hang: DEADLINE_EXCEEDED: no answer within 0.03 s; timeout= gives it more"
        await until(lambda: orders.ended == ["hang"])


async def test_the_server_says_that_the_deadline_passed() -> None:
    """The caller's own clock is usually first: here there is none, only the time in the request."""
    async with linked(Orders()) as (_, client):
        payload = client.session.runtime.payload.encode([[], {}])
        status, message = await asked(client, "orders.hang", payload, timeout_ns=30_000_000)
    late = "the deadline passed while the handler ran; timeout= gives it more"
    assert (status, message) == (Status.DEADLINE_EXCEEDED, late)


async def test_a_handler_is_cancelled_when_its_caller_gives_up() -> None:
    orders = Orders()
    async with linked(orders) as (_, client):
        call = client.call(client.proxy(Orders).hang)
        await orders.started.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await until(lambda: orders.ended == ["hang"])


async def test_a_handler_that_resists_cancellation_changes_nothing() -> None:
    orders = Orders()
    async with linked(orders) as (_, client):
        with pytest.raises(DeadlineExceededError):
            await client.request("orders.stubborn", timeout=0.03)
        await until(lambda: orders.ended == ["stubborn"])
        assert await client.request("orders.add", 1) == 1


async def test_a_handler_that_cancels_itself_is_told() -> None:
    async with linked(Orders()) as (_, client):
        assert told(await outcome(client.request("orders.cancel_itself"))) == (
            Status.CANCELLED,
            "the handler was cancelled",
        )


async def test_a_generator_is_closed_when_its_caller_stops_reading() -> None:
    orders = Orders()
    async with linked(orders) as (_, client):
        async with client.stream(client.proxy(Orders).hang_on_items) as items:
            assert await anext(aiter(items)) == 1
        await until(lambda: orders.ended == ["items"])


async def test_handlers_end_with_their_session() -> None:
    orders = Orders()
    async with served(orders) as server, joined(server) as client:
        call = client.call(client.proxy(Orders).hang)
        await orders.started.wait()
        client.session.peer.connection.abort()
        with pytest.raises(ConnectionLostError):
            await call
        await until(lambda: orders.ended == ["hang"] and not len(server.sessions))


# Permissions


async def test_requires_fails_closed_without_a_principal() -> None:
    async with linked(Orders()) as (_, client):
        orders = client.proxy(Orders)
        error = await outcome(orders.cancel(1))
        assert told(error) == (
            Status.UNAUTHENTICATED,
            "orders.cancel requires 'orders:write'; connect with credentials",
        )
        assert (await outcome(drained(orders.history()))).code is Status.UNAUTHENTICATED
        assert await orders.add(1) == 1


async def test_requires_is_checked_against_the_principal() -> None:
    ada = Principal("Ada", frozenset({"orders:read"}))
    async with served(Orders(), authenticate=lambda _: ada) as server, joined(server) as client:
        orders = client.proxy(Orders)
        assert told(await outcome(orders.cancel(1))) == (
            Status.PERMISSION_DENIED,
            "orders.cancel requires 'orders:write', which Ada lacks",
        )
        assert await drained(orders.history()) == [1]


async def test_permission_is_checked_before_the_arguments() -> None:
    async with linked(Orders()) as (_, client):
        assert (await outcome(client.request("orders.cancel", "?", 7))).code is Status.UNAUTHENTICATED


# Threads


@service("threads")
class Threads:
    def __init__(self) -> None:
        self.running = 0
        self.most = 0
        self.lock = threading.Lock()

    @handler(thread=True)
    def where(self, number: int, *, ctx: Context = INJECTED) -> list[str]:
        return [threading.current_thread().name, Context.current().method, ctx.method, str(number)]

    @handler(thread=True)
    def work(self) -> None:
        with self.lock:
            self.running += 1
            self.most = max(self.most, self.running)
        time.sleep(0.01)
        with self.lock:
            self.running -= 1

    @handler(thread=True)
    def fail(self) -> None:
        raise OutOfStock("from a thread")


async def test_a_plain_function_runs_in_a_thread_with_its_context() -> None:
    async with linked(Threads()) as (_, client):
        name, current, own, number = await client.request("threads.where", 3)
        assert name.startswith("echostream")
        assert (current, own, number) == ("threads.where", "threads.where", "3")
        assert told(await outcome(client.request("threads.fail"))) == (Status.FAILED_PRECONDITION, "from a thread")


async def test_threads_are_bounded() -> None:
    threads = Threads()
    async with linked(threads, limits=Limits(max_threads=3)) as (_, client):
        await asyncio.gather(*(client.request("threads.work") for _ in range(12)))
    assert threads.most == 3


# Stalls


def block() -> None:
    time.sleep(0.12)


async def test_a_handler_that_blocks_the_loop_is_named(caplog: pytest.LogCaptureFixture) -> None:
    @handler("sleepy")
    async def sleepy() -> None:
        block()

    @handler("sleepy.items")
    async def items() -> AsyncIterator[int]:
        yield 1
        await asyncio.sleep(0)
        block()
        yield 2

    async with linked(sleepy, items) as (_, client):
        await client.request("sleepy")
        async with client.stream("sleepy.items") as found:
            assert await drained(found) == [1, 2]
    stalls = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [text.split()[2] for text in stalls] == ["sleepy", "sleepy.items"]
    assert stalls[0].endswith("ms: await something, or mark it @handler(thread=True)")


# Application streams


async def test_a_stream_handler_that_raises_resets_the_stream() -> None:
    @stream("plain")
    async def plain(receiver: StreamReceiver) -> None:
        raise RuntimeError(SECRET)

    @stream("typed")
    async def typed(receiver: StreamReceiver) -> None:
        raise OutOfStock("only 3 left")

    @stream("early")
    async def early(receiver: StreamReceiver) -> None:
        return None

    async def reset(client: RpcClient, name: str) -> tuple[Status, str]:
        sender = await client.open_stream(name)
        with pytest.raises(StreamResetError) as caught:
            await sender.close()
        return caught.value.code, caught.value.message

    async with linked(plain, typed, early) as (_, client):
        assert await reset(client, "plain") == (Status.INTERNAL, HIDDEN)
        assert await reset(client, "typed") == (Status.FAILED_PRECONDITION, "only 3 left")
        assert await reset(client, "early") == (
            Status.CANCELLED,
            "the stream's handler returned before the end of the stream",
        )


async def test_stream_handlers_take_the_context_as_they_like() -> None:
    seen: list[Any] = []

    @stream("none")
    async def none(receiver: StreamReceiver) -> None:
        seen.append([item async for item in receiver])

    @stream("positional")
    async def positional(receiver: StreamReceiver, ctx: Context) -> None:
        seen.append((ctx.method, ctx.metadata, [item async for item in receiver]))

    @stream("keyword")
    async def keyword(receiver: StreamReceiver, *, ctx: Context = INJECTED) -> None:
        seen.append((ctx.method, Context.current() is ctx, [item async for item in receiver]))

    async with linked(none, positional, keyword) as (_, client):
        for name in ("none", "positional", "keyword"):
            async with client.open_stream(name, metadata={"a": "b"}) as sender:
                await sender.send(1)
    assert seen == [[1], ("positional", {"a": "b"}, [1]), ("keyword", True, [1])]


async def test_a_stream_handler_is_cancelled_with_its_session() -> None:
    ended = asyncio.Event()

    @stream("hanging")
    async def hanging(receiver: StreamReceiver) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with linked(hanging) as (server, client):
        sender = await client.open_stream("hanging")
        session = session_of(server, client)
        session.tasks.cancel_now()
        await ended.wait()
        with pytest.raises(StreamResetError) as caught:
            await sender.close()
        assert (caught.value.code, caught.value.message) == (Status.CANCELLED, "the stream's handler was cancelled")


def test_a_server_shows_what_it_serves() -> None:
    server = RpcServer("memory://shown")
    server.register(Orders())
    assert repr(server) == "<RpcServer stopped 0 sessions>"


async def test_a_stream_that_its_sender_gave_up_is_not_reset_again(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[str] = []

    @stream("patient")
    async def patient(receiver: StreamReceiver) -> None:
        try:
            async for _ in receiver:
                pass
        except StreamResetError as error:
            seen.append(error.message)
            raise

    async with linked(patient) as (_, client):
        sender = await client.open_stream("patient")
        sender.reset("never mind")
        await until(lambda: seen)
    assert seen == ["never mind"]
    assert "raised" not in caplog.text


async def test_a_handler_whose_own_caller_is_gone_ends_quietly(caplog: pytest.LogCaptureFixture) -> None:
    ended: list[str] = []

    @handler("call.back")
    async def call_back(*, ctx: Context = INJECTED) -> None:
        try:
            await asyncio.sleep(PATIENCE)
        except asyncio.CancelledError:
            try:
                await ctx.session.request("ui.ask")
            finally:
                ended.append("lost")

    async with linked(call_back) as (_, client):
        call = asyncio.ensure_future(client.request("call.back"))
        await asyncio.sleep(0.01)
        client.session.peer.connection.abort()
        with pytest.raises(ConnectionLostError):
            await call
        await until(lambda: ended)
    assert "raised" not in caplog.text


async def test_any_async_iterator_may_be_returned() -> None:
    class Countdown:
        def __init__(self) -> None:
            self.left = 3

        def __aiter__(self) -> Countdown:
            return self

        async def __anext__(self) -> int:
            self.left -= 1
            if self.left < 0:
                raise StopAsyncIteration
            return self.left

    @service("plain")
    class Plain:
        @handler
        def countdown(self) -> AsyncIterator[int]:
            return Countdown()

    async with linked(Plain()) as (_, client):
        assert await drained(client.proxy(Plain).countdown()) == [2, 1, 0]
