"""MANY: a thousand clients in one process, all connected at once to one server: calls, events and a stream each."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final

from benches.core import Contender, Figures, Plan, Row, contest, engines
from benches.load import allow_files
from benches.slow_reader import resident_bytes
from benches.worker import Round
from echostream import Context, RpcClient, RpcServer, StreamReceiver, handler, listener, service, stream

ID = "MANY"

CLIENTS: Final = 1000
_QUICK_CLIENTS: Final = 100
_DIALLING: Final = 32
"""Clients that connect at a time: a handshake takes milliseconds of both processes, and all at once would time out."""
_CALLS: Final = 10
_EVENTS: Final = 10
_PIECES: Final = 8
_TIMEOUT: Final = 60.0
_LIMIT_MIB: Final = 0.25
"""Of each connection: twice what the engines alone take."""


@service("crowd")
class Crowd:
    """Remembers what each client sent, by its number."""

    def __init__(self) -> None:
        self.events: dict[int, list[int]] = {}

    @handler
    async def digest(self, content: bytes) -> bytes:
        return hashlib.sha256(content).digest()

    @handler
    async def heard(self, client: int) -> list[int]:
        return self.events.pop(client, [])

    @handler
    async def memory(self) -> int:
        return resident_bytes()

    @listener("crowd.step")
    async def on_step(self, step: list[int]) -> None:
        self.events.setdefault(step[0], []).append(step[1])

    @stream("crowd.echo")
    async def on_echo(self, receiver: StreamReceiver[bytes], ctx: Context) -> None:
        async for item in receiver:
            await receiver.sender.send(item)


async def take_part(client: RpcClient, number: int) -> None:
    """Do what one client does; raise if anything of it is wrong."""
    crowd = client.proxy(Crowd, timeout=_TIMEOUT)
    contents = [b"%d %d" % (number, call) * (1 + 20 * call) for call in range(_CALLS)]
    digests = await asyncio.gather(*map(crowd.digest, contents))
    if digests != [hashlib.sha256(content).digest() for content in contents]:
        raise ValueError(f"client {number} got a wrong answer")
    for step in range(_EVENTS - 1):
        await client.emit("crowd.step", [number, step])
    await client.emit("crowd.step", [number, _EVENTS - 1], ack=True, timeout=_TIMEOUT)
    if await crowd.heard(number) != list(range(_EVENTS)):
        raise ValueError(f"events of client {number} were lost or out of order")
    pieces = [hashlib.shake_128(b"%d %d" % (number, piece)).digest(4096) for piece in range(_PIECES)]
    async with client.open_stream("crowd.echo", returns=bytes, timeout=_TIMEOUT) as sender:
        for piece in pieces:
            await sender.send(piece)
        sender.end()
        if [item async for item in sender.receiver] != pieces:
            raise ValueError(f"the stream of client {number} came back otherwise")


@asynccontextmanager
async def crowd(url: str, engine: str, count: int) -> AsyncIterator[list[RpcClient]]:
    """So many clients, connected; closed at the end."""
    dialling = asyncio.Semaphore(_DIALLING)
    clients: list[RpcClient] = []

    async def join() -> None:
        async with dialling:
            clients.append(await RpcClient.connect(url, ca="dev", engine=engine, timeout=_TIMEOUT))

    try:
        await asyncio.gather(*(join() for _ in range(count)))
        yield clients
    finally:
        await asyncio.gather(*(client.close() for client in clients))


async def run(url: str, engine: str, count: int) -> Figures:
    """Connect all, let all take part at once, close all; return the seconds of each, and MiB of each connection."""
    allow_files(count)
    async with RpcClient.connect(url, ca="dev", engine=engine) as observer:
        here, there = resident_bytes(), await observer.proxy(Crowd).memory()
        started = time.perf_counter()
        async with crowd(url, engine, count) as clients:
            connected = time.perf_counter()
            here, there = resident_bytes() - here, await observer.proxy(Crowd).memory() - there
            await asyncio.gather(*map(take_part, clients, range(count)))
            worked = time.perf_counter()
        closed = time.perf_counter()
    return {
        "connect": connected - started,
        "work": worked - connected,
        "close": closed - worked,
        "client": here / count / 2**20,
        "session": there / count / 2**20,
    }


@asynccontextmanager
async def serve(engine: str, count: int) -> AsyncIterator[dict[str, Any]]:
    server = RpcServer("quic://127.0.0.1:0", engine=engine)
    server.register(Crowd())
    async with server:
        yield {"url": server.addresses[0]}


@asynccontextmanager
async def connect(engine: str, count: int, url: str) -> AsyncIterator[Round]:
    async def measure(*, seconds: float) -> Figures:
        return await run(url, engine, count if seconds >= 1 else 8)  # the warm-up

    yield measure


def measure(plan: Plan) -> Iterator[Row]:
    count = CLIENTS if plan.seconds >= 1 else _QUICK_CLIENTS
    contenders = [
        Contender(name, f"{__name__}:serve", f"{__name__}:connect", options={"engine": name, "count": count})
        for name in engines()
    ]
    for name, (figures,) in contest(contenders, Plan(rounds=1, seconds=_TIMEOUT)).items():
        seconds = figures["connect"] + figures["work"] + figures["close"]
        for value, unit, what in (
            (seconds, "s in all", "all they do"),
            (figures["client"], "MiB", "memory of each client"),
            (figures["session"], "MiB", "memory of each session on the server"),
        ):
            row = Row(ID, f"{count} clients, {what}, {name}", value=value, unit=unit, lower_is_better=True)
            if unit == "MiB":
                row.floor, row.goal = _LIMIT_MIB, _LIMIT_MIB / 2
            row.rounds = [figures]
            yield row.judge()
