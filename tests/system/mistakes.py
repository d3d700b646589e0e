"""Mistakes that users make, each as a small program that ends in the message that its user sees."""

from __future__ import annotations

import asyncio
import logging
import time
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from echostream import (
    INJECTED,
    ConfigurationError,
    Context,
    Limits,
    Principal,
    RpcClient,
    RpcError,
    RpcServer,
    Status,
    StreamReceiver,
    event,
    handler,
    service,
    stream,
)
from echostream.discovery.query import Found, Query
from tests.serving import QUIC

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


@mistake("a stream is called like a value")
async def stream_by_request() -> None:
    async with served() as client:
        await client.request("orders.watch", "ACME")


@mistake("`await` in front of a stream")
async def stream_is_awaited() -> None:
    async with served() as client:
        orders: Any = client.proxy(Orders)
        await orders.watch("ACME")


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


@mistake("`client.call` with the method of the class")
async def class_in_call() -> None:
    async with served() as client:
        method: Any = Orders.place
        await client.call(method, Order(symbol="ACME", qty=1))


@mistake("`client.proxy` with an object")
async def object_in_proxy() -> None:
    async with served() as client:
        client.proxy(Orders())  # type: ignore[arg-type]


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


@mistake("`server.register` with a function without `@handler`")
async def plain_function() -> None:
    async def place() -> None: ...

    RpcServer(QUIC).register(place)


@mistake("two services of one name")
async def name_is_taken() -> None:
    RpcServer(QUIC).register(Orders(), Orders())


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


@mistake("a private key without its certificate")
async def key_alone() -> None:
    server = RpcServer(QUIC, private_key=b"-----BEGIN PRIVATE KEY-----")
    await server.start()


@mistake("`debug=True` on a public address (in the log)")
async def debug_in_public() -> str:
    async def make() -> None:
        RpcServer("quic://0.0.0.0:0", debug=True)

    return await _logged("echostream.server", make())


# Events and streams


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
