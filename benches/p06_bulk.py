"""P6: bytes over one reliable stream at 1,452 bytes a packet, against aioquic's own asyncio wrapper."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final

from benches.core import Contender, Plan, Row, compare, contest, loops
from benches.worker import Round
from echostream import Context, RpcClient, RpcServer, StreamReceiver, service, stream
from echostream.transport.state import state_folder

ID = "P6"

_PIECE: Final = bytes(range(256)) * 256
_DATAGRAM_BYTES: Final = 1452


@service("bulk")
class Bulk:
    @stream("upload")
    async def upload(self, receiver: StreamReceiver[bytes], ctx: Context) -> None:
        total = 0
        async for item in receiver:
            total += len(item)
        await ctx.session.emit("bulk.received", total)


@asynccontextmanager
async def serve(engine: str) -> AsyncIterator[dict[str, Any]]:
    server = RpcServer("quic://127.0.0.1:0", engine=engine)
    server.register(Bulk())
    async with server:
        yield {"url": server.addresses[0]}


@asynccontextmanager
async def connect(engine: str, url: str) -> AsyncIterator[Round]:
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


@asynccontextmanager
async def serve_stock() -> AsyncIterator[dict[str, Any]]:
    """Aioquic's asyncio wrapper: what arrives is counted, the count is the answer."""
    from aioquic.asyncio.server import serve as serve_quic
    from aioquic.quic.configuration import QuicConfiguration

    configuration = QuicConfiguration(is_client=False, alpn_protocols=["bulk"], max_datagram_size=_DATAGRAM_BYTES)
    pem = str(state_folder() / "development" / "server.pem")
    configuration.load_cert_chain(pem, pem)
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

    server = await serve_quic("127.0.0.1", 0, configuration=configuration, stream_handler=accept)
    assert server._transport is not None
    yield {"port": server._transport.get_extra_info("sockname")[1]}
    server.close()


@asynccontextmanager
async def connect_stock(port: int) -> AsyncIterator[Round]:
    from aioquic.asyncio.client import connect as connect_quic
    from aioquic.quic.configuration import QuicConfiguration

    configuration = QuicConfiguration(
        alpn_protocols=["bulk"], max_datagram_size=_DATAGRAM_BYTES, verify_mode=ssl.CERT_NONE
    )
    async with connect_quic("127.0.0.1", port, configuration=configuration) as protocol:

        async def measure(*, seconds: float) -> dict[str, float]:
            started, sent = time.perf_counter(), 0
            reader, writer = await protocol.create_stream()
            while time.perf_counter() - started < seconds:
                # Its writers never wait and its buffers grow without limit: a window of 4 MiB, as ours.
                writer.write(_PIECE)
                sent += len(_PIECE)
                # Its writers never wait and its buffers grow without limit: a window of 4 MiB for it.
                sender = protocol._quic._streams[writer.get_extra_info("stream_id")].sender
                while sender._buffer_stop - sender._buffer_start > 4 << 20:  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
            writer.write_eof()
            return _rate(int.from_bytes(await reader.read(-1)), sent, started)

        yield measure


def _rate(received: int, sent: int, started: float) -> dict[str, float]:
    if received != sent:
        raise ValueError(f"{received} of {sent} bytes arrived")
    return {"rate": received / (time.perf_counter() - started) / 1e6}


def measure(plan: Plan) -> Iterator[Row]:
    ours = [
        Contender(f"aioquic {loop}", f"{__name__}:serve", f"{__name__}:connect", loop, {"engine": "aioquic"})
        for loop in loops()
    ]
    stock = [
        Contender(f"stock aioquic wrapper {loop}", f"{__name__}:serve_stock", f"{__name__}:connect_stock", loop)
        for loop in loops()
    ]
    row = Row(ID, "bulk over one stream at 1452 bytes", unit="MB/s", floor=2.5, goal=3.3)
    results = contest([*ours, *stock], plan)
    yield compare(row, {c.name: results[c.name] for c in ours}, {c.name: results[c.name] for c in stock}, "rate")
