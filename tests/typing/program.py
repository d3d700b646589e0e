"""The program of the README and the documentation, and what type checkers make of it. Read by test_checkers.py."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any, assert_type

from pydantic import BaseModel

from echostream import (
    INJECTED,
    BroadcastResult,
    Call,
    Context,
    Depends,
    EventAck,
    Middleware,
    Plugin,
    RateLimit,
    Request,
    RpcClient,
    RpcError,
    RpcServer,
    Session,
    Status,
    StreamReceiver,
    event,
    handler,
    listener,
    service,
    stream,
)
from echostream.middleware import RequestNext
from echostream.plugin import Host


class Order(BaseModel):
    symbol: str
    qty: int


class Receipt(BaseModel):
    id: int


class OutOfStock(RpcError, code=Status.FAILED_PRECONDITION, reason="orders.out_of_stock"): ...


@event("price.changed")
class PriceChanged(BaseModel):
    symbol: str
    price: float


class Database:
    def __init__(self) -> None:
        self.rows = {1: "one"}


async def get_database() -> AsyncIterator[Database]:
    yield Database()


class Timer(Middleware):
    async def inbound_request(self, request: Request, call_next: RequestNext) -> Any:
        assert_type(request.session, Session)
        return await call_next(request)


@service("orders")
class Orders:
    @handler(raises=[OutOfStock])
    async def place(self, order: Order) -> Receipt:
        return Receipt(id=1)

    @handler
    async def add(self, a: int, b: int = 0) -> int:
        return a + b

    @handler
    async def watch(self, symbol: str) -> AsyncIterator[PriceChanged]:
        yield PriceChanged(symbol=symbol, price=1.0)

    @handler
    async def total(self, items: AsyncIterator[int]) -> int:
        return sum([i async for i in items])

    @handler
    async def echo_all(self, items: AsyncIterator[str]) -> AsyncIterator[str]:
        async for item in items:
            yield item

    @handler(timeout=2.0, idempotent=True, safe=False, requires="orders:write")
    async def cancel(self, order_id: int, *, ctx: Context = INJECTED) -> None:
        await ctx.session.emit(PriceChanged(symbol="ACME", price=1.0))
        name = await ctx.session.request("ui.ask_name", returns=str)
        assert_type(name, str)

    @handler
    async def find(self, key: int, *, db: Annotated[Database, Depends(get_database)] = INJECTED) -> str:
        assert_type(db, Database)
        return db.rows[key]

    @listener(PriceChanged)
    async def on_price(self, changed: PriceChanged, ctx: Context) -> None: ...

    @stream("microphone")
    async def on_microphone(self, receiver: StreamReceiver, ctx: Context) -> None:
        async for item in receiver:
            print(item)


@handler("echo")
async def echo(text: str) -> str:
    return text


@service("ui")
class Ui:
    @handler
    async def ask_name(self) -> str:
        return "Ada"


async def serve() -> None:
    server = RpcServer("quic://0.0.0.0:4433", early_data=True)
    server.register(Orders(), echo)
    server.register(Ui(), middleware=[Timer(), RateLimit(10)])
    server.dependency_overrides[get_database] = Database
    server.enable_discovery("orders", metadata={"zone": "a"})
    await server.serve()
    assert_type(server.broadcast(PriceChanged(symbol="ACME", price=1.0)), BroadcastResult)


class Greetings(Plugin):
    async def on_start(self, server: Host, /) -> None:
        @server.on("hello.*")
        def heard(payload: str) -> None:
            print(payload)

        heard("hello")

    async def on_connect(self, session: Session, /) -> None:
        await session.emit("hello")


def hooked() -> RpcServer:
    server = RpcServer(plugins=[Greetings()])

    @server.on_connect
    async def connect(session: Session) -> None: ...

    @server.on(PriceChanged)
    def changed(change: PriceChanged) -> float:
        return change.price

    assert_type(changed(PriceChanged(symbol="ACME", price=1.0)), float)

    return server


def build() -> RpcServer:
    return RpcServer.builder().bind("quic://0.0.0.0:4433").register(Orders()).use(Timer()).build()


async def numbers() -> AsyncIterator[int]:
    yield 1


async def words() -> AsyncIterator[str]:
    yield "a"


def on_price(changed: PriceChanged) -> None: ...


async def talk(order: Order) -> None:
    async with RpcClient.connect("quic://127.0.0.1:4433", ca="dev") as client:
        assert_type(client, RpcClient)
        assert_type(client.session, Session)
    async with RpcClient.discover("orders", timeout=3.0) as client:
        orders = client.proxy(Orders)
        assert_type(orders, Orders)
        assert_type(await orders.place(Order(symbol="ACME", qty=5)), Receipt)
        assert_type(await orders.add(1, b=2), int)
        assert_type(await orders.find(1), str)
        assert_type(await orders.total(numbers()), int)
        async for tick in orders.watch("ACME"):
            assert_type(tick, PriceChanged)
        async for word in orders.echo_all(words()):
            assert_type(word, str)
        async with client.stream(orders.watch, "ACME") as ticks:
            async for tick in ticks:
                assert_type(tick, PriceChanged)
                break
        call = client.call(orders.place, order)
        assert_type(call, Call[Receipt])
        assert_type(await call, Receipt)
        slow = client.proxy(Orders, timeout=30.0, metadata={"tenant": "a"})
        await slow.cancel(7)
        text = await client.request("echo", "hi", returns=str, timeout=1.0)
        assert_type(text, str)
        assert_type(await client.request("echo", "hi", returns=list[str]), list[str])
        async with client.stream("orders.watch", "ACME", returns=PriceChanged) as changes:
            assert_type(await anext(aiter(changes)), PriceChanged)
        ack = await client.emit(PriceChanged(symbol="ACME", price=2.0), ack=True)
        assert_type(ack, EventAck)
        off = client.on(PriceChanged, on_price)
        off()
        client.once(PriceChanged, on_price)
        off_news = client.on("news.*", on_price)
        assert_type(off_news, Callable[[], None])

        @client.on(PriceChanged)
        async def on_change(changed: PriceChanged, ctx: Context) -> None: ...

        @client.once("market.closed")
        def on_closed(day: int) -> str:
            return str(day)

        assert_type(on_closed(7), str)
        assert_type(await on_change(PriceChanged(symbol="ACME", price=1.0), INJECTED), None)
        client.register(Ui())
        async with client.open_stream("microphone") as sender:
            await sender.send(b"pcm")
    client = await RpcClient.connect("quic://127.0.0.1:4433", ca="dev", early_data=True, middleware=[Timer()])
    await client.close()
