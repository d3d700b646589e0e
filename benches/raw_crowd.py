"""Many connections in one process, without a framework: the ceilings of P7 (memory) and P10 (fan-out).

`Greeter` is what stands above the server's endpoint where EchoStream's sessions stand otherwise; `Guest` is the client
of both, light enough to leave the server to be measured. Both kinds of server exchange the same bytes with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, TypeVar

from benches.load import allow_files
from echostream.config import Limits, QuicSettings
from echostream.protocol.codec import FrameCodec
from echostream.protocol.frames import FrameKind
from echostream.protocol.hello import Hello
from echostream.protocol.payload import PayloadCodec
from echostream.transport.base import Address, CloseReason, Connection, Listener
from echostream.transport.quic import QuicTransport
from echostream.transport.tls import ClientTls, ServerTls
from echostream.types import Role

__all__ = ("Greeter", "Guest", "Silent", "crowd", "full_handshakes", "listen")

_DIALLING: Final = 32
"""Guests that connect at a time: a handshake takes milliseconds of both processes, and all at once would time out."""
_SERVER_HELLO_BYTES: Final = 275
"""About what a session's Hello has."""


def _hello() -> bytes:
    payload = PayloadCodec(Limits())
    return FrameCodec(payload).plain(FrameKind.HELLO, 0, Hello(role=Role.CLIENT).encode(payload))


_HELLO: Final = _hello()


class Silent:
    """A receiver that does nothing."""

    __slots__ = ("connection",)

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def closed(self, reason: CloseReason) -> None: ...
    def stream_data(self, stream_id: int, data: bytes, fin: bool) -> None: ...
    def burst_ended(self) -> None: ...
    def stream_reset(self, stream_id: int, code: int) -> None: ...
    def stream_stopped(self, stream_id: int, code: int) -> None: ...
    def datagram(self, data: bytes, arrived_ns: int) -> None: ...
    def writable(self, stream_id: int) -> None: ...
    def streams_available(self) -> None: ...


class Greeter(Silent):
    """The server's side: answers a greeting with one, as a session does."""

    __slots__ = ()

    def stream_data(self, stream_id: int, data: bytes, fin: bool) -> None:
        self.connection.write(stream_id, bytes(_SERVER_HELLO_BYTES))
        self.connection.flush()


class Guest(Silent):
    """The client's side: greets, and is greeted; sessions and raw servers see no difference."""

    __slots__ = ("ended", "greeted")

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        loop = asyncio.get_running_loop()
        self.greeted: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        loop.call_soon(self._greet)  # the connection takes no data before it knows its receiver

    def stream_data(self, stream_id: int, data: bytes, fin: bool) -> None:
        if not self.greeted.done():
            self.greeted.set_result(None)

    def closed(self, reason: CloseReason) -> None:
        self.ended.set_result(None)

    def _greet(self) -> None:
        lane = self.connection.open_stream()
        assert lane is not None
        self.connection.write(lane, _HELLO)
        self.connection.flush()


G = TypeVar("G", bound=Guest)


async def listen(engine: str, accept: Callable[[Connection], Silent]) -> Listener:
    """Open a listener of the raw transport."""
    transport = QuicTransport(engine=engine)
    return await transport.listen(Address.parse("quic://127.0.0.1:0"), accept=accept, tls=ServerTls.load())


def full_handshakes() -> QuicSettings:
    """Return settings of clients without tickets: a crowd of strangers cannot take up each other's connections."""
    return QuicSettings(max_tickets_per_server=0)


@asynccontextmanager
async def crowd(
    url: str, engine: str, count: int, make: Callable[[Connection], G], settings: QuicSettings | None = None
) -> AsyncIterator[list[G]]:
    """So many guests that were greeted, each with a socket and a handshake of its own; closed at the end."""
    allow_files(count)
    transport, tls = QuicTransport(engine=engine, settings=settings or full_handshakes()), ClientTls.load(ca="dev")
    guests: list[G] = []

    def take_in(connection: Connection) -> G:
        guests.append(make(connection))
        return guests[-1]

    dialling = asyncio.Semaphore(_DIALLING)

    async def join() -> None:
        async with dialling:
            await transport.dial(Address.parse(url), accept=take_in, tls=tls)

    try:
        await asyncio.gather(*(join() for _ in range(count)))
        async with asyncio.timeout(10):
            await asyncio.gather(*(guest.greeted for guest in guests))
        yield guests
    finally:
        for guest in guests:
            guest.connection.close(3000)
        await asyncio.gather(*(guest.ended for guest in guests))
