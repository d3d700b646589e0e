"""Mistakes that users make, each as a small program that ends in the message that its user sees."""

from __future__ import annotations

import asyncio
import logging
import time
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol
from unittest.mock import patch

from pydantic import BaseModel

from echostream import (
    INJECTED,
    ConfigurationError,
    Context,
    Depends,
    Limits,
    LoggingMiddleware,
    Plugin,
    Principal,
    RpcClient,
    RpcError,
    RpcServer,
    Session,
    Status,
    StreamReceiver,
    event,
    handler,
    service,
    stream,
)
from echostream.discovery.query import Found, Query
from echostream.protocol.hello import Hello
from echostream.transport.tls import ClientTls
from tests.serving import QUIC
from tests.transport.authority import DAY, issue

if TYPE_CHECKING:
    from decimal import Decimal as Hidden

NOW = time.time()

__all__ = ("MISTAKES", "Mistake")


@dataclass(frozen=True)
class Mistake:
    """A program that goes wrong in a known way."""

    title: str
    run: Callable[[], Coroutine[Any, Any, object]]

    @property
    def __name__(self) -> str:
        return self.run.__name__


MISTAKES: list[Mistake] = []


def mistake(title: str) -> Callable[[Callable[[], Coroutine[Any, Any, object]]], None]:
    def keep(run: Callable[[], Coroutine[Any, Any, object]]) -> None:
        MISTAKES.append(Mistake(title, run))

    return keep


class Order(BaseModel):
    symbol: str
    qty: int


@event("price.changed")
class PriceChanged(BaseModel):
    price: float


@service("orders", version="1.4.2")
class Orders:
    @handler
    async def place(self, order: Order) -> int:
        return order.qty

    @handler
    async def watch(self, symbol: str) -> AsyncIterator[float]:
        yield 1.0

    @handler
    async def lie(self) -> int:
        return "many"  # type: ignore[return-value]

    @handler
    async def fail(self) -> None:
        raise KeyError("ACME")

    @handler
    async def wait(self, *, ctx: Context = INJECTED) -> None:
        await asyncio.sleep(30.0)

    @handler
    async def block(self) -> None:
        time.sleep(0.15)  # noqa: ASYNC251

    @handler(requires="orders:write")
    async def cancel(self) -> None: ...

    @stream("ticks")
    async def on_ticks(self, receiver: StreamReceiver[int]) -> None:
        async for _ in receiver:
            pass


class NewReceipt(BaseModel):
    id: int


@service("orders", version="2.0.0")
class NewOrders(Protocol):
    """What the client's program has by now."""

    @handler
    async def place(self, order: Order, gift: bool = False) -> NewReceipt: ...

    @handler
    async def refund(self, order_id: int) -> None: ...


@asynccontextmanager
async def served(*targets: object, **options: Any) -> AsyncIterator[RpcClient]:
    server = RpcServer(QUIC, **options)
    server.register(*(targets or (Orders(),)))
    async with server, RpcClient.connect(server.addresses[0], fingerprint=server.fingerprint) as client:
        yield client


class Silent:
    """A network on which nobody answers, whatever other programs of this machine do."""

    async def find(self, query: Query, *, timeout: float, settle: float) -> Found:
        return Found([], [], "the default interface, 127.0.0.1")


# Connecting


@mistake("`client = RpcClient.connect(url)` without `await`")
async def connect_is_not_awaited() -> None:
    client: Any = RpcClient.connect("quic://localhost:4433")
    try:
        client.proxy(Orders)
    finally:
        client.close()


@mistake("`with RpcClient.connect(url)` without `async`")
async def connect_in_a_plain_with() -> None:
    client: Any = RpcClient.connect("quic://localhost:4433")
    try:
        with client:
            pass
    finally:
        client.close()


@mistake("`RpcClient(url)`")
async def client_by_name_of_class() -> None:
    RpcClient("quic://127.0.0.1:4433")  # type: ignore[arg-type]


@mistake("the server does not run")
async def nobody_listens() -> None:
    async with RpcServer(QUIC) as server:
        url = server.addresses[0]
    await RpcClient.connect(url, ca="dev", timeout=5.0)


@mistake("UDP is blocked, or the machine does not exist")
async def packets_get_lost() -> None:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))
    port = transport.get_extra_info("sockname")[1]
    try:
        await RpcClient.connect(f"quic://127.0.0.1:{port}", ca="dev", timeout=0.2)
    finally:
        transport.close()


@mistake("a URL with another scheme")
async def url_of_the_web() -> None:
    await RpcClient.connect("http://localhost:4433")


@mistake("a URL without a port")
async def url_without_port() -> None:
    await RpcClient.connect("quic://localhost")


@mistake("a host name that does not exist")
async def unknown_host() -> None:
    await RpcClient.connect("quic://no-such-host.invalid:4433", ca="dev", timeout=5.0)


@mistake('a development server without `ca="dev"`')
async def no_authority() -> None:
    async with RpcServer(QUIC) as server:
        await RpcClient.connect(server.addresses[0])


@mistake("the wrong `fingerprint=`")
async def other_fingerprint() -> None:
    async with RpcServer(QUIC) as server:
        await RpcClient.connect(server.addresses[0], fingerprint="ab" * 32)


@mistake("a `fingerprint=` that is none")
async def no_fingerprint() -> None:
    await RpcClient.connect("quic://localhost:4433", fingerprint="abc")


@mistake("`ca=` names a file that is not there")
async def no_such_authority() -> None:
    await RpcClient.connect("quic://localhost:4433", ca="missing.pem")


@mistake("no credentials, or wrong ones")
async def wrong_credentials() -> None:
    def authenticate(credentials: str | None) -> Principal | None:
        return Principal("anna") if credentials == "secret" else None

    async with served(authenticate=authenticate):
        pass


@mistake("the address at which the server listens is dialled")
async def wildcard_is_dialled() -> None:
    await RpcClient.connect("quic://0.0.0.0:4433", ca="dev")


@mistake("a certificate that has expired")
async def certificate_expired() -> None:
    old = issue("server", "127.0.0.1", start=NOW - 2 * DAY, end=NOW - DAY)
    await RpcServer(QUIC, certificate=old.pem, private_key=old.key_pem).start()


@mistake("a certificate that expires while the server runs")
async def certificate_expires() -> None:
    authority = issue("authority", ca=True, start=NOW - DAY, end=NOW + DAY)
    old = issue("server", "127.0.0.1", by=authority, start=NOW - 2 * DAY, end=NOW - 60.0)
    ClientTls.load(ca=authority.pem).verify([old.der], "127.0.0.1", now=NOW)


@mistake("a certificate for another name")
async def certificate_of_another() -> None:
    other = issue("server", "orders.example", start=NOW - DAY, end=NOW + DAY)
    async with RpcServer(QUIC, certificate=other.pem, private_key=other.key_pem) as server:
        await RpcClient.connect(server.addresses[0], ca=other.pem)


@mistake("the two programs have versions of EchoStream that do not understand each other")
async def other_protocol() -> None:
    async with RpcServer(QUIC) as server:
        with patch("echostream.client.Hello", partial(Hello, version=2)):
            await RpcClient.connect(server.addresses[0], fingerprint=server.fingerprint)


@mistake("a client is used in another thread, or in a second `asyncio.run`")
async def other_loop() -> None:
    async with served() as client:

        def work() -> None:
            asyncio.run(client.request("orders.place", {"symbol": "ACME", "qty": 1}))

        await asyncio.to_thread(work)


@mistake("the client is used after its block")
async def client_is_closed() -> None:
    async with served() as client:
        pass
    await client.request("orders.place")


@mistake("an engine that does not exist")
async def unknown_engine() -> None:
    RpcServer(QUIC, engine="aioquik")


@mistake("a service that is not on the network")
async def not_found() -> None:
    await RpcClient.discover("no.such.service.here", resolvers=[Silent()])


@mistake("`discover` with the class")
async def class_in_discover() -> None:
    await RpcClient.discover(Orders)  # type: ignore[arg-type]


# Calling


@mistake("a call that is not awaited")
async def call_is_not_awaited() -> None:
    async with served() as client:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            call = client.proxy(Orders).place(Order(symbol="ACME", qty=1))
            note = _name_of(call)
            call.close()
            raise RuntimeWarning(note)


def _name_of(coroutine: Any) -> str:
    return f"coroutine '{coroutine.__qualname__}' was never awaited"


@mistake("`server.register` was forgotten")
async def nothing_registered() -> None:
    @handler("other")
    async def other() -> None: ...

    async with served(other) as client:
        await client.proxy(Orders).place(Order(symbol="ACME", qty=1))


@mistake("the client's register was forgotten, and the server calls it")
async def nothing_registered_here() -> None:
    @handler("ask")
    async def ask(*, ctx: Context = INJECTED) -> str:
        return await ctx.session.request("ui.name", returns=str)

    async with served(ask) as client:
        await client.request("ask")


@mistake("the server is older: it lacks a method")
async def newer_method() -> None:
    async with served() as client:
        await client.proxy(NewOrders).refund(5)


@mistake("the server is older: it does not know an argument")
async def newer_argument() -> None:
    async with served() as client:
        await client.proxy(NewOrders).place(Order(symbol="ACME", qty=1), gift=True)


@mistake("the server is older: its result is another")
async def newer_result() -> None:
    async with served() as client:
        await client.proxy(NewOrders).place(Order(symbol="ACME", qty=1))


@mistake("a method's name is misspelt, in `request`")
async def near_method() -> None:
    async with served() as client:
        await client.request("orders.palce")


@mistake("a method's name is misspelt, on a proxy")
async def near_attribute() -> None:
    async with served() as client:
        orders: Any = client.proxy(Orders)
        await orders.palce()


@mistake("a value of the wrong type, on a proxy")
async def wrong_type() -> None:
    async with served() as client:
        orders: Any = client.proxy(Orders)
        await orders.place({"symbol": "ACME", "qty": "many"})


@mistake("a value of the wrong type, in `request`")
async def wrong_type_by_name() -> None:
    async with served() as client:
        await client.request("orders.place", {"symbol": "ACME"})


@mistake("an argument is missing")
async def missing_argument() -> None:
    async with served() as client:
        orders: Any = client.proxy(Orders)
        await orders.place()


@mistake("an argument that there is not")
async def unknown_argument() -> None:
    async with served() as client:
        orders: Any = client.proxy(Orders)
        await orders.watch("ACME", depth=3).__anext__()


@mistake("`ctx` is passed by the caller")
async def context_is_passed() -> None:
    async with served() as client:
        orders: Any = client.proxy(Orders)
        await orders.wait(ctx=None)


@mistake("a value that cannot travel")
async def cannot_travel() -> None:
    async with served() as client:
        await client.request("orders.place", object())


@mistake("a list that contains itself")
async def circle() -> None:
    endless: list[Any] = []
    endless.append(endless)
    async with served() as client:
        await client.request("orders.place", endless)


@mistake("a dict with tuples as keys")
async def tuple_key() -> None:
    async with served() as client:
        await client.request("orders.place", {(1, 2): "ACME"})


@mistake("metadata with a capital letter")
async def capital_metadata() -> None:
    async with served() as client:
        await client.request("orders.place", metadata={"Authorization": "Bearer 123"})


@mistake("a payload that is too large")
async def too_large() -> None:
    async with served(limits=Limits(max_payload_bytes=1024)) as client:
        await client.request("orders.place", "x" * 2000)


@mistake("a call that takes longer than its timeout")
async def deadline() -> None:
    async with served() as client:
        await client.request("orders.wait", timeout=0.05)


@mistake("a timeout of 0")
async def no_time() -> None:
    async with served() as client:
        await client.request("orders.wait", timeout=0)


@mistake("a timeout that is no number")
async def timeout_of_delta() -> None:
    async with served() as client:
        await client.request("orders.wait", timeout=timedelta(seconds=5))  # type: ignore[call-overload]


@mistake("`request` with a method instead of its name")
async def method_in_request() -> None:
    async with served() as client:
        await client.request(Orders.place, Order(symbol="ACME", qty=1))  # type: ignore[call-overload]


@mistake("a stream is called like a value")
async def stream_by_request() -> None:
    async with served() as client:
        await client.request("orders.watch", "ACME")


@mistake("`await` in front of a stream")
async def stream_is_awaited() -> None:
    async with served() as client:
        orders: Any = client.proxy(Orders)
        await orders.watch("ACME")


@mistake("`for` without `async` over a stream")
async def plain_for() -> None:
    async with served() as client:
        orders: Any = client.proxy(Orders)
        for _ in orders.watch("ACME"):
            pass


@mistake("`async for` over a call that returns one value")
async def value_is_iterated() -> None:
    async with served() as client:
        orders: Any = client.proxy(Orders)
        call = orders.place(Order(symbol="ACME", qty=1))
        try:
            async for _ in call:
                pass
        finally:
            call.close()


@mistake("`client.call` with a method that returns a stream")
async def stream_in_call() -> None:
    async with served() as client:
        await client.call(client.proxy(Orders).watch, "ACME")  # type: ignore[arg-type]


@mistake("`client.stream` with a method that returns one value")
async def value_in_stream() -> None:
    async with served() as client:
        client.stream(client.proxy(Orders).place, Order(symbol="ACME", qty=1))  # type: ignore[call-overload]


@mistake("`async for` over `client.stream(...)`, which is a block")
async def stream_without_block() -> None:
    async with served() as client:
        stream: Any = client.stream(client.proxy(Orders).watch, "ACME")
        async for _ in stream:
            pass


@mistake("`client.call` with the method of the class")
async def class_in_call() -> None:
    async with served() as client:
        method: Any = Orders.place
        await client.call(method, Order(symbol="ACME", qty=1))


@mistake("`client.proxy` with an object")
async def object_in_proxy() -> None:
    async with served() as client:
        client.proxy(Orders())  # type: ignore[arg-type]


@mistake("`client.proxy` with a name")
async def name_in_proxy() -> None:
    async with served() as client:
        client.proxy("orders")  # type: ignore[arg-type]


@mistake("`client.proxy` with a class without `@service`")
async def plain_class_in_proxy() -> None:
    async with served() as client:
        client.proxy(Order)


@mistake("a permission that the caller lacks")
async def no_permission() -> None:
    async with served() as client:
        await client.proxy(Orders).cancel()


# Serving


@mistake("`server.register` with the class")
async def class_is_registered() -> None:
    RpcServer(QUIC).register(Orders)


@mistake("`server.register` with a method of the class")
async def method_is_registered() -> None:
    RpcServer(QUIC).register(Orders.place)


@mistake("`server.register` with a function without `@handler`")
async def plain_function() -> None:
    async def place() -> None: ...

    RpcServer(QUIC).register(place)


@mistake("two services of one name")
async def name_is_taken() -> None:
    RpcServer(QUIC).register(Orders(), Orders())


@mistake("two handlers of one name")
async def method_is_taken() -> None:
    @service("taken")
    class Taken:
        @handler("place")
        async def first(self) -> None: ...

        @handler("place")
        async def second(self) -> None: ...


@mistake("a handler without `self`")
async def no_self() -> None:
    @service("selfless")
    class Selfless:
        @handler
        async def place(order: Order) -> int:  # type: ignore[misc]  # noqa: N805
            return order.qty


@mistake("a handler that is not `async`")
async def plain_def() -> None:
    @handler("add")
    def add(a: int, b: int) -> int:
        return a + b


@mistake("a parameter without a type")
async def no_annotation() -> None:
    @handler("add")
    async def add(a: int, b) -> int:  # type: ignore[no-untyped-def]  # noqa: ANN001
        return a + int(b)


@mistake("a handler with `*args`")
async def star_arguments() -> None:
    @handler("add")
    async def add(*numbers: int) -> int:
        return sum(numbers)


@mistake("a result without a type")
async def no_result() -> None:
    @handler("add")
    async def add(a: int, b: int):  # type: ignore[no-untyped-def]  # noqa: ANN202
        return a + b


@mistake("a type that is imported under `TYPE_CHECKING` only")
async def hidden_type() -> None:
    @handler("take")
    async def take(it: Hidden) -> None: ...

    RpcServer(QUIC).register(take)


@mistake("a handler that returns a list where it promises a stream")
async def list_for_stream() -> None:
    @handler("count")
    async def count() -> AsyncIterator[int]:
        return [1, 2, 3]  # type: ignore[return-value]


@mistake("a handler that yields, and promises one value")
async def stream_for_value() -> None:
    @handler("count")
    async def count() -> int:  # type: ignore[misc]
        yield 1


@mistake("a handler that yields, and promises nothing")
async def stream_for_nothing() -> None:
    @handler("count")
    async def count():  # type: ignore[no-untyped-def]  # noqa: ANN202
        yield 1


@mistake("a stream of a plain iterator")
async def plain_iterator() -> None:
    @handler("count")
    async def count() -> Iterator[int]:
        return iter([1])


@mistake("`Depends` as a default, as in FastAPI of old")
async def depends_as_default() -> None:
    @handler("count")
    async def count(database: int = Depends(lambda: 1)) -> int:  # type: ignore[assignment]
        return database


@mistake("`thread=True` on a handler that is `async`")
async def async_in_thread() -> None:
    @handler("count", thread=True)
    async def count() -> int:
        return 1


@mistake("`raises=` with an exception of Python")
async def python_error() -> None:
    @handler("count", raises=[ValueError])
    async def count() -> int:
        return 1


@mistake("a parameter with a name that calls need themselves")
async def reserved_name() -> None:
    @handler("wait")
    async def wait(timeout: float) -> None: ...


@mistake("a type that cannot be validated")
async def strange_type() -> None:
    class Strange: ...

    @handler("take")
    async def take(it: Strange) -> None: ...

    RpcServer(QUIC).register(take)


@mistake("a result that is not what the handler promised")
async def result_does_not_fit() -> None:
    async with served() as client:
        await client.proxy(Orders).lie()


@mistake("an exception in a handler")
async def handler_raises() -> None:
    async with served() as client:
        await client.proxy(Orders).fail()


@mistake("a handler that blocks the event loop (in the server's log)")
async def handler_blocks() -> str:
    async with served() as client:
        return await _logged("echostream.routing", client.proxy(Orders).block())


async def _logged(name: str, work: Coroutine[Any, Any, object]) -> str:
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    keep = Keep()
    logging.getLogger(name).addHandler(keep)
    try:
        await work
    finally:
        logging.getLogger(name).removeHandler(keep)
    return lines[-1]


@mistake("two servers at one address")
async def address_in_use() -> None:
    async with RpcServer(QUIC) as server:
        await RpcServer(server.addresses[0]).start()


@mistake("the server is started twice")
async def started_twice() -> None:
    async with RpcServer(QUIC) as server:
        await server.start()


@mistake("`enable_discovery` without anything to announce")
async def nothing_to_announce() -> None:
    server = RpcServer(QUIC)
    server.enable_discovery()
    await server.start()


@mistake("the private key of another certificate")
async def key_of_another() -> None:
    one, two = issue("one", "127.0.0.1", start=NOW - DAY), issue("two", "127.0.0.1", start=NOW - DAY)
    await RpcServer(QUIC, certificate=one.pem, private_key=two.key_pem).start()


@mistake("a private key without its certificate")
async def key_alone() -> None:
    server = RpcServer(QUIC, private_key=b"-----BEGIN PRIVATE KEY-----")
    await server.start()


@mistake("a middleware's class instead of an object")
async def middleware_class() -> None:
    RpcServer(QUIC, middleware=[LoggingMiddleware])  # type: ignore[list-item]


@mistake("one permission in the place of a set")
async def permission_is_text() -> None:
    Principal("ann", permissions="orders:write")  # type: ignore[arg-type]


@mistake("`debug=True` on a public address (in the log)")
async def debug_in_public() -> str:
    async def make() -> None:
        RpcServer("quic://0.0.0.0:0", debug=True)

    return await _logged("echostream.server", make())


@mistake("a service whose methods lack `@handler`")
async def nothing_is_marked() -> None:
    @service("orders")
    class Orders:
        async def place(self, order: Order) -> int:
            return 1

    RpcServer().register(Orders())


@mistake("a stream handler that takes the bytes")
async def stream_of_bytes() -> None:
    @service("files")
    class Files:
        @stream("file")
        async def on_file(self, data: bytes) -> None: ...

    RpcServer().register(Files())


@mistake("a stream handler that takes the context first")
async def context_first() -> None:
    @stream("ticks")
    async def on_ticks(ctx: Context, receiver: StreamReceiver[int]) -> None: ...


@mistake("a plugin's hook is misspelt")
async def misspelt_hook() -> None:
    class Visitors(Plugin):
        async def on_conect(self, session: Session) -> None: ...

    RpcServer(plugins=[Visitors()])


# Events and streams


@mistake("`@event` without a name")
async def event_without_name() -> None:
    @event  # type: ignore[arg-type]
    class Nameless(BaseModel): ...


@mistake("`emit` to a room")
async def emitted_to_a_room() -> None:
    async with served() as client:
        await client.emit("hello", room="kitchen")  # type: ignore[call-overload]


@mistake("`emit` with the class")
async def class_is_emitted() -> None:
    async with served() as client:
        await client.emit(PriceChanged)


@mistake("`emit` with an object of a class without `@event`")
async def plain_object_is_emitted() -> None:
    async with served() as client:
        await client.emit(Order(symbol="ACME", qty=1))


@mistake("`emit` with an event and a payload")
async def event_and_payload() -> None:
    async with served() as client:
        await client.emit(PriceChanged(price=1.0), {"price": 2.0})


@mistake("a listener for a class without `@event`")
async def listens_to_plain_class() -> None:
    async with served() as client:
        client.on(Order, print)


@mistake("a callback that takes nothing")
async def callback_takes_nothing() -> None:
    async with served() as client:
        client.on(PriceChanged, lambda: None)


@mistake("a callback that is called instead of given")
async def callback_is_called() -> None:
    async with served() as client:
        client.on(PriceChanged, print("changed"))  # type: ignore[call-overload]


@mistake("a stream's name is misspelt")
async def near_stream() -> None:
    async with served() as client:
        await client.open_stream("tick")


@mistake("an item after the end of a stream")
async def item_after_the_end() -> None:
    async with served() as client, client.open_stream("ticks") as sender:
        sender.end()
        await sender.send(1)


@mistake("an item that does not fit the stream's type")
async def item_does_not_fit() -> None:
    async with served() as client, client.open_stream("ticks", item=int) as sender:
        await sender.send("many")


@mistake("`open_stream` outside of a block, not awaited")
async def stream_is_not_opened() -> None:
    async with served() as client:
        sender: Any = client.open_stream("ticks")
        await sender.send(1)


@mistake("a mode of a stream that there is not")
async def no_such_mode() -> None:
    async with served() as client:
        mode: Any = "unreliable"
        await client.open_stream("ticks", mode=mode)


@mistake("a timestamp in seconds")
async def timestamp_in_seconds() -> None:
    async with served() as client, client.open_stream("ticks", time_sync=True) as sender:
        now: Any = time.time()
        await sender.send_with_timestamp(1, at_ns=now)


@mistake("a timestamp on a stream without")
async def timestamp_without_a_clock() -> None:
    async with served() as client, client.open_stream("ticks") as sender:
        await sender.send_with_timestamp(1, at_ns=5)


@mistake("the clock is read before it is known")
async def clock_is_not_known() -> None:
    async with served() as client:
        client.clock.now_ns()


@mistake("the clock of a server, outside of a handler")
async def clock_of_a_server() -> None:
    server: Any = RpcServer("memory://mistakes")
    server.clock.now_ns()


@mistake("`Context.current()` outside of a handler")
async def no_context() -> None:
    Context.current()


@mistake("`ctx.progress` that falls")
async def progress_falls() -> None:
    @handler("work")
    async def work(*, ctx: Context = INJECTED) -> None:
        await ctx.progress(2.0)
        try:
            await ctx.progress(1.0)
        except ConfigurationError as error:
            raise RpcError(Status.INTERNAL, str(error)) from None

    async with served(work) as client:
        await client.request("work")
