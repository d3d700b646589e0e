"""P6: bytes over one reliable stream, against each engine's own wrapper and grpc.aio.

At 1,452 bytes a packet as over a network, and as large as between two programs of one machine. Two processes that are
both busy all the time lose up to half of their rate whenever the machine does anything else, for seconds: so there are
more and shorter rounds than elsewhere, and those who are compared follow each other.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import itertools
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from types import ModuleType
from typing import Any, Final

from benches.core import Contender, Plan, Row, compare, contest, missing
from benches.p01_unary import engine_modules
from benches.worker import Round
from echostream import Context, RpcClient, RpcServer, StreamReceiver, service, stream
from echostream.config import QuicSettings
from echostream.transport.quic import transport
from echostream.transport.state import state_folder

ID = "P6"

_PIECE: Final = bytes(range(256)) * 256
_MORE_ROUNDS: Final = 3
_SHORTER: Final = 2
_DATAGRAM_BYTES: Final = 1452
_LOCAL_DATAGRAM_BYTES: Final = QuicSettings().local_datagram_bytes


@service("bulk")
class Bulk:
    @stream("upload")
    async def upload(self, receiver: StreamReceiver[bytes], ctx: Context) -> None:
        total = 0
        async for item in receiver:
            total += len(item)
        await ctx.session.emit("bulk.received", total)


@asynccontextmanager
async def serve(engine: str, datagram_bytes: int) -> AsyncIterator[dict[str, Any]]:
    _send_packets_of(datagram_bytes)
    server = RpcServer("quic://127.0.0.1:0", engine=engine)
    server.register(Bulk())
    async with server:
        yield {"url": server.addresses[0]}


@asynccontextmanager
async def connect(engine: str, datagram_bytes: int, url: str) -> AsyncIterator[Round]:
    _send_packets_of(datagram_bytes)
    async with RpcClient.connect(url, ca="dev", engine=engine) as client:
        received: asyncio.Queue[int] = asyncio.Queue(1)
        client.on("bulk.received", received.put_nowait)

        async def measure(*, seconds: float) -> dict[str, float]:
            started, sent = time.perf_counter(), 0
            async with client.open_stream("upload") as sender:
                while time.perf_counter() - started < seconds:
                    await sender.send(_PIECE)
                    sent += len(_PIECE)
            return _rate(await received.get(), sent, started)

        yield measure


def _send_packets_of(datagram_bytes: int) -> None:
    """Set for this process what no user needs to set."""
    vars(transport)["QuicSettings"] = functools.partial(QuicSettings, local_datagram_bytes=datagram_bytes)


@asynccontextmanager
async def serve_stock(engine: str) -> AsyncIterator[dict[str, Any]]:
    """The engine's own asyncio wrapper: what arrives is counted, the count is the answer."""
    wrapper, configure = _stock(engine)
    configuration = configure(is_client=False, alpn_protocols=["bulk"], max_datagram_size=_DATAGRAM_BYTES)
    pem = (state_folder() / "development" / "server.pem").read_text()
    key, mark, chain = pem.partition("-----BEGIN CERTIFICATE-----")
    turned = state_folder() / f"bulk-{os.getpid()}.pem"
    turned.write_text(f"{mark}{chain}{key}")  # qh3 takes the key behind the certificate only
    configuration.load_cert_chain(str(turned))
    tasks: set[asyncio.Task[None]] = set()

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        total = 0
        while data := await reader.read(len(_PIECE)):
            total += len(data)
        writer.write(total.to_bytes(8))
        writer.write_eof()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(count(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:  # neither wrapper tells which port it took
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    server = await wrapper.serve("127.0.0.1", port, configuration=configuration, stream_handler=accept, retry=True)
    yield {"port": port}
    server.close()


@asynccontextmanager
async def connect_stock(engine: str, port: int) -> AsyncIterator[Round]:
    wrapper, configure = _stock(engine)
    configuration = configure(alpn_protocols=["bulk"], max_datagram_size=_DATAGRAM_BYTES, verify_mode=ssl.CERT_NONE)
    async with wrapper.connect("127.0.0.1", port, configuration=configuration) as protocol:

        async def measure(*, seconds: float) -> dict[str, float]:
            started, sent = time.perf_counter(), 0
            reader, writer = await protocol.create_stream()
            stream_id = writer.get_extra_info("stream_id")
            while time.perf_counter() - started < seconds:
                writer.write(_PIECE)
                sent += len(_PIECE)
                # Its writers never wait and its buffers grow without limit: a window of 4 MiB, as ours.
                while _unsent(protocol._quic, stream_id) > 4 << 20:  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
            writer.write_eof()
            return _rate(int.from_bytes(await reader.read(-1)), sent, started)

        yield measure


def _stock(engine: str) -> tuple[ModuleType, Any]:
    configuration = importlib.import_module(f"{engine}.quic.configuration")
    return importlib.import_module(f"{engine}.asyncio"), configuration.QuicConfiguration


def _unsent(quic: Any, stream_id: int) -> int:
    if hasattr(quic, "get_send_buffer_size"):  # qh3
        return int(quic.get_send_buffer_size(stream_id))
    sender = quic._streams[stream_id].sender
    return int(sender._buffer_stop - sender._buffer_start)


@asynccontextmanager
async def serve_grpc() -> AsyncIterator[dict[str, Any]]:
    """One call that takes a stream of messages of bytes and answers with their total."""
    import grpc

    from benches.grpc_typed import server_credentials

    async def upload(pieces: AsyncIterator[bytes], _context: Any) -> bytes:
        total = 0
        async for piece in pieces:
            total += len(piece)
        return total.to_bytes(8)

    server = grpc.aio.server()
    methods = {"Upload": grpc.stream_unary_rpc_method_handler(upload)}  # no serialiser: bytes as they are
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Bulk", methods),))
    port = server.add_secure_port("127.0.0.1:0", server_credentials())
    await server.start()
    yield {"target": f"127.0.0.1:{port}"}
    await server.stop(0)


@asynccontextmanager
async def connect_grpc(target: str) -> AsyncIterator[Round]:
    import grpc

    from benches.grpc_typed import credentials

    async with grpc.aio.secure_channel(target, credentials()) as channel:
        upload = channel.stream_unary("/bench.Bulk/Upload")

        async def measure(*, seconds: float) -> dict[str, float]:
            started, sent = time.perf_counter(), 0
            call = upload()
            while time.perf_counter() - started < seconds:
                await call.write(_PIECE)
                sent += len(_PIECE)
            await call.done_writing()
            return _rate(int.from_bytes(await call), sent, started)

        yield measure


def _rate(received: int, sent: int, started: float) -> dict[str, float]:
    if received != sent:
        raise ValueError(f"{received} of {sent} bytes arrived")
    return {"rate": received / (time.perf_counter() - started) / 1e6}


def measure(plan: Plan) -> Iterator[Row]:
    yield _row(plan, "aioquic", _stock_wrapper("aioquic", plan.loops), 2.5, 3.3)
    yield _row(plan, "qh3", _stock_wrapper("qh3", plan.loops), 6, 9)
    grpc = [
        Contender(f"grpc.aio TLS {loop}", f"{__name__}:serve_grpc", f"{__name__}:connect_grpc", loop)
        for loop in plan.loops
    ]
    yield _row(plan, "qh3", grpc, 0.55, 0.65, "grpc", "google.protobuf")
    yield _row(plan, "qh3", grpc, 1.0, 1.4, "grpc", "google.protobuf", datagram_bytes=_LOCAL_DATAGRAM_BYTES)


def _stock_wrapper(engine: str, loops: Sequence[str]) -> list[Contender]:
    return [
        Contender(
            f"stock {engine} wrapper {loop}",
            f"{__name__}:serve_stock",
            f"{__name__}:connect_stock",
            loop,
            {"engine": engine},
        )
        for loop in loops
    ]


def _row(
    plan: Plan,
    engine: str,
    theirs: list[Contender],
    floor: float,
    goal: float,
    *needed: str,
    datagram_bytes: int = _DATAGRAM_BYTES,
) -> Row:
    row = Row(ID, f"bulk over one stream at {datagram_bytes} bytes", unit="MB/s", floor=floor, goal=goal)
    row.note = missing(*engine_modules(engine), *needed)
    if not row.note:
        options = {"engine": engine, "datagram_bytes": datagram_bytes}
        ours = [
            Contender(f"{engine} {loop}", f"{__name__}:serve", f"{__name__}:connect", loop, options)
            for loop in plan.loops
        ]
        plan = replace(plan, rounds=plan.rounds * _MORE_ROUNDS, seconds=plan.seconds / _SHORTER)
        results = contest([*itertools.chain.from_iterable(zip(ours, theirs, strict=True))], plan)
        compare(row, {c.name: results[c.name] for c in ours}, {c.name: results[c.name] for c in theirs}, "rate")
    return row
