"""Echoes of bytes over a road that loses packets: EchoStream, the same frames over TCP with TLS, and grpc.aio.

There is no TCP transport in the product yet. What stands for it here puts the same frames, which say their own length,
on one TLS stream of asyncio, gathered and written once in a turn of the loop as EchoStream does, without Nagle's delay.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import socket
import ssl
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final

from benches.load import drive
from benches.road import DELAY, SERVER, Passage, enter
from benches.worker import Round
from echostream import RpcClient, RpcServer, handler, service
from echostream.config import Limits
from echostream.protocol.codec import FrameCodec
from echostream.protocol.frames import Frame, RequestFrame, ResponseFrame
from echostream.protocol.payload import PayloadCodec
from echostream.protocol.reader import FrameReader
from echostream.testing import ImpairmentRelay, Link
from echostream.transport.state import state_folder

__all__ = (
    "connect", "connect_grpc", "connect_relayed", "connect_tcp", "serve", "serve_grpc", "serve_relayed", "serve_tcp",
)  # fmt: skip

_TIMEOUT: Final = 20.0
"""Seconds; every contender's calls carry it."""
_METHOD: Final = "echo.echo"

Call = Callable[[bytes], Coroutine[Any, Any, bytes]]


def _measured(call: Call, control: str, port: int) -> Round:
    """Return what measures a round of echoes while the road is as bad as it is asked to be."""
    seeds = itertools.count(1)

    async def measure(*, loss: float, burst: float, **load: Any) -> dict[str, float]:
        passage = Passage(control, port)
        try:
            passage.begin(seed=next(seeds), loss=loss, burst=burst)
            figures = await _echoes(call, **load)
            counted = passage.end()
        finally:
            passage.close()
        calls = figures["calls"]
        return figures | {"bytes": counted["bytes"] / calls, "packets": counted["packets"] / calls}

    return measure


async def _echoes(call: Call, *, in_flight: int, seconds: float, payload_bytes: int) -> dict[str, float]:
    filling = random.Random(payload_bytes).randbytes(payload_bytes)

    async def echo(number: int) -> bool:
        data = number.to_bytes(4) + filling[4:]
        return await call(data) == data

    return await drive(echo, in_flight=in_flight, seconds=seconds)


@service("echo")
class Echo:
    @handler
    async def echo(self, data: bytes) -> bytes:
        return data


@asynccontextmanager
async def _server(host: str, engine: str, limits: dict[str, Any]) -> AsyncGenerator[dict[str, Any]]:
    server = RpcServer(f"quic://{host}:0", engine=engine, limits=Limits(**limits))
    server.register(Echo())
    async with server:
        yield {"url": server.addresses[0], "fingerprint": server.fingerprint}


@asynccontextmanager
async def serve(
    namespaces: tuple[str, str], engine: str, limits: dict[str, Any], **_: Any
) -> AsyncGenerator[dict[str, Any]]:
    enter(namespaces[1])
    async with _server(SERVER, engine, limits) as made:
        yield made


@asynccontextmanager
async def connect(
    namespaces: tuple[str, str],
    control: str,
    engine: str,
    limits: dict[str, Any],
    url: str,
    fingerprint: str,
) -> AsyncGenerator[Round]:
    enter(namespaces[0])
    async with RpcClient.connect(url, fingerprint=fingerprint, engine=engine, limits=Limits(**limits)) as client:
        yield _measured(client.proxy(Echo, timeout=_TIMEOUT).echo, control, int(url.rpartition(":")[2]))


@asynccontextmanager
async def serve_relayed(engine: str, limits: dict[str, Any]) -> AsyncGenerator[dict[str, Any]]:
    async with _server("127.0.0.1", engine, limits) as made:
        yield made


@asynccontextmanager
async def connect_relayed(engine: str, limits: dict[str, Any], url: str, fingerprint: str) -> AsyncGenerator[Round]:
    """Over loopback, and a relay that loses packets of UDP only."""
    link = Link(delay=DELAY, mtu=1472)
    with ImpairmentRelay(url, link=link) as relay:
        near = f"quic://{relay.address}"
        async with RpcClient.connect(near, fingerprint=fingerprint, engine=engine, limits=Limits(**limits)) as client:

            async def measure(*, loss: float, burst: float, **load: Any) -> dict[str, float]:
                del burst  # the relay knows bursts of packets, not of time
                relay.join(link.with_(loss=loss))
                figures = await _echoes(client.proxy(Echo, timeout=_TIMEOUT).echo, **load)
                relay.join(link)
                return figures

            yield measure


class _FramePipe(asyncio.Protocol):
    """Frames both ways on one stream."""

    def __init__(self, taken: Callable[[_FramePipe, Frame], None]) -> None:
        self.codec = FrameCodec(PayloadCodec())
        self._reader = FrameReader(self.codec)
        self._taken = taken
        self._waiting: list[bytes] = []
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        for frame in self._reader.feed(data):
            self._taken(self, frame)

    def send(self, frame: bytes) -> None:
        """Write with everything else of this turn."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._flush)
        self._waiting.append(frame)

    def close(self) -> None:
        """End the connection."""
        if self._transport is not None:
            self._transport.close()

    def _flush(self) -> None:
        assert self._transport is not None
        self._transport.write(b"".join(self._waiting))
        self._waiting.clear()


@asynccontextmanager
async def serve_tcp(namespaces: tuple[str, str], **_: Any) -> AsyncGenerator[dict[str, Any]]:
    enter(namespaces[1])
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(state_folder() / "development" / "server.pem")

    def answer(pipe: _FramePipe, frame: Frame) -> None:
        assert isinstance(frame, RequestFrame)
        pipe.send(pipe.codec.response(frame.id, 0, frame.payload))

    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _FramePipe(answer), SERVER, 0, ssl=context)
    yield {"port": server.sockets[0].getsockname()[1]}
    server.close()


@asynccontextmanager
async def connect_tcp(namespaces: tuple[str, str], control: str, port: int) -> AsyncGenerator[Round]:
    enter(namespaces[0])
    context = ssl.create_default_context(cafile=state_folder() / "development" / "ca.pem")
    loop = asyncio.get_running_loop()
    waiting: dict[int, asyncio.Future[bytes]] = {}
    last_id = -1

    def settle(_pipe: _FramePipe, frame: Frame) -> None:
        assert isinstance(frame, ResponseFrame)
        waiting.pop(frame.id).set_result(frame.payload)

    _, pipe = await loop.create_connection(
        lambda: _FramePipe(settle), SERVER, port, ssl=context, server_hostname="localhost"
    )

    async def echo(data: bytes) -> bytes:
        nonlocal last_id
        last_id += 2
        answer: asyncio.Future[bytes] = loop.create_future()
        waiting[last_id] = answer
        pipe.send(pipe.codec.request(last_id, _METHOD.encode(), data, timeout_ns=int(_TIMEOUT * 1e9)))
        return await answer

    yield _measured(echo, control, port)
    pipe.close()


@asynccontextmanager
async def serve_grpc(namespaces: tuple[str, str], **_: Any) -> AsyncGenerator[dict[str, Any]]:
    import grpc

    from benches.grpc_typed import server_credentials

    enter(namespaces[1])

    async def echo(data: bytes, _context: Any) -> bytes:
        return data

    server = grpc.aio.server()
    methods = {"Echo": grpc.unary_unary_rpc_method_handler(echo)}  # no serialiser: bytes as they are
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Echo", methods),))
    port = server.add_secure_port(f"{SERVER}:0", server_credentials())
    await server.start()
    yield {"port": port}
    await server.stop(0)


@asynccontextmanager
async def connect_grpc(namespaces: tuple[str, str], control: str, port: int) -> AsyncGenerator[Round]:
    import grpc

    from benches.grpc_typed import credentials

    enter(namespaces[0])
    options = [("grpc.ssl_target_name_override", "localhost")]
    async with grpc.aio.secure_channel(f"{SERVER}:{port}", credentials(), options=options) as channel:
        method = channel.unary_unary("/bench.Echo/Echo")

        async def echo(data: bytes) -> bytes:
            answer: bytes = await method(data, timeout=_TIMEOUT)
            return answer

        yield _measured(echo, control, port)
