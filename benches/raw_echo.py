"""The ceiling: what the QUIC endpoint carries with nothing above it. Two processes on loopback, JSON out.

``python benches/raw_echo.py [--in-flight 1,64,512] [--seconds 3] [--engine auto] [--loop asyncio|uvloop]
[--datagram-bytes 1452] [--bulk-megabytes 256]``

Echo: N frames of 64 bytes with a length before each are in flight on one stream; both sides answer a burst in pieces
of 32 frames (early push). Bulk: one stream, one way, watched watermarks.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from echostream.config import QuicSettings
from echostream.transport.base import Address, CloseReason, Connection
from echostream.transport.quic import QuicTransport
from echostream.transport.tls import ClientTls, ServerTls

FRAME = (64).to_bytes(4) + bytes(64)
PUSH_FRAMES = 32
BULK_PIECE = bytes(64 << 10)


class Side:
    """A receiver that cuts a stream into frames and answers each burst."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.ended = asyncio.get_running_loop().create_future()
        self.stream_id = -1
        self._rest = b""
        self._out: list[bytes] = []

    def stream_data(self, stream_id: int, data: bytes, fin: bool) -> None:
        self.stream_id = stream_id
        buffer = self._rest + data if self._rest else data
        position, size = 0, len(buffer)
        while size - position >= 4:
            end = position + 4 + int.from_bytes(buffer[position : position + 4])
            if end > size:
                break
            self.frame(buffer[position:end])
            position = end
        self._rest = buffer[position:]

    def frame(self, frame: bytes) -> None:
        raise NotImplementedError

    def answer(self, frame: bytes) -> None:
        self._out.append(frame)
        if len(self._out) >= PUSH_FRAMES:
            self.push()

    def push(self) -> None:
        if self._out:
            self.connection.write(self.stream_id, b"".join(self._out))
            self._out.clear()
            self.connection.flush()

    def burst_ended(self) -> None:
        self.push()

    def closed(self, reason: CloseReason) -> None:
        if not self.ended.done():
            self.ended.set_result(reason)

    def stream_reset(self, stream_id: int, code: int) -> None: ...
    def stream_stopped(self, stream_id: int, code: int) -> None: ...
    def datagram(self, data: bytes, arrived_ns: int) -> None: ...
    def writable(self, stream_id: int) -> None: ...
    def streams_available(self) -> None: ...


class Server(Side):
    """Echoes bidirectional streams; counts unidirectional ones and says how much came."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._count = 0

    def stream_data(self, stream_id: int, data: bytes, fin: bool) -> None:
        if not stream_id & 2:
            super().stream_data(stream_id, data, fin)
            return
        self._count += len(data)
        if fin:
            answer = self.connection.open_stream(unidirectional=True)
            assert answer is not None
            self.connection.write(answer, self._count.to_bytes(8), fin=True)

    def frame(self, frame: bytes) -> None:
        self.answer(frame)


class Echo(Side):
    """Keeps N frames in flight until the time is over."""

    def start(self, in_flight: int) -> None:
        self.count = 0
        self.sent_at: deque[float] = deque()
        self.times: list[float] = []
        stream_id = self.connection.open_stream()
        assert stream_id is not None
        self.stream_id = stream_id
        for _ in range(in_flight):
            self.sent_at.append(time.perf_counter())
            self.answer(FRAME)
        self.push()

    def frame(self, frame: bytes) -> None:
        if frame != FRAME:
            raise ValueError(f"wrong answer: {frame!r}")
        now = time.perf_counter()
        self.times.append(now - self.sent_at.popleft())
        self.sent_at.append(now)
        self.count += 1
        self.answer(FRAME)


class Bulk(Side):
    """Writes as long as the watermark lets it."""

    def start(self, size: int) -> asyncio.Future[int]:
        self.left = size
        self.done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        stream_id = self.connection.open_stream(unidirectional=True)
        assert stream_id is not None
        self.writable(stream_id)
        return self.done

    def writable(self, stream_id: int) -> None:
        while self.left > 0:
            self.left -= len(BULK_PIECE)
            if not self.connection.write(stream_id, BULK_PIECE, fin=self.left <= 0):
                break
        self.connection.flush()

    def stream_data(self, stream_id: int, data: bytes, fin: bool) -> None:
        self.done.set_result(int.from_bytes(data))


def run(main: Coroutine[Any, Any, None], loop: str) -> None:
    if loop == "uvloop":
        import uvloop

        uvloop.run(main)
    else:
        asyncio.run(main)


def serve(options: argparse.Namespace, pipe: Any) -> None:
    async def main() -> None:
        transport = QuicTransport(engine=options.engine, settings=settings(options))
        listener = await transport.listen(Address.parse("quic://127.0.0.1:0"), accept=Server, tls=ServerTls.load())
        pipe.send(listener.url)
        await asyncio.to_thread(pipe.recv)
        pipe.send((listener.stats(), sum(os.times()[:2])))
        await listener.close()

    run(main(), options.loop)


def settings(options: argparse.Namespace) -> QuicSettings:
    return QuicSettings(max_datagram_bytes=options.datagram_bytes, local_datagram_bytes=options.datagram_bytes)


async def measure(options: argparse.Namespace, url: str, report: dict[str, Any]) -> None:
    transport = QuicTransport(engine=options.engine, settings=settings(options))
    tls = ClientTls.load(ca="dev")

    async def connect(make: Callable[[Connection], Side]) -> Side:
        sides: list[Side] = []

        def accept(connection: Connection) -> Side:
            sides.append(make(connection))
            return sides[0]

        await transport.dial(Address.parse(url), accept=accept, tls=tls)
        return sides[0]

    for in_flight in options.in_flight:
        echo = await connect(Echo)
        assert isinstance(echo, Echo)
        echo.start(in_flight)
        await asyncio.sleep(0.5)
        echo.count = 0
        echo.times.clear()
        started = time.perf_counter()
        await asyncio.sleep(options.seconds)
        rate = echo.count / (time.perf_counter() - started)
        cuts = statistics.quantiles(echo.times, n=100)
        report["echo"].append(
            {
                "in_flight": in_flight,
                "frames_per_second": round(rate),
                "p50_ms": round(cuts[49] * 1e3, 3),
                "p99_ms": round(cuts[98] * 1e3, 3),
            }
        )
        echo.connection.close(3000)
        await echo.ended
    if options.bulk_megabytes:
        bulk = await connect(Bulk)
        assert isinstance(bulk, Bulk)
        started = time.perf_counter()
        received = await bulk.start(options.bulk_megabytes << 20)
        seconds = time.perf_counter() - started
        assert received == options.bulk_megabytes << 20, received
        report["bulk_megabytes_per_second"] = round(received / seconds / 1e6, 1)
        bulk.connection.close(3000)
        await bulk.ended


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--in-flight", type=lambda text: [int(item) for item in text.split(",")], default=[1, 64, 512])
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    parser.add_argument("--datagram-bytes", type=int, default=1452)
    parser.add_argument("--bulk-megabytes", type=int, default=256)
    options = parser.parse_args()
    report: dict[str, Any] = {
        "bench": "raw_echo",
        "engine": options.engine,
        "loop": options.loop,
        "datagram_bytes": options.datagram_bytes,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "echo": [],
    }
    with tempfile.TemporaryDirectory() as state:
        os.environ["ECHOSTREAM_STATE_DIR"] = state
        ServerTls.load()  # makes the certificates, so that both processes see the same
        ours, theirs = multiprocessing.Pipe()
        server = multiprocessing.get_context("spawn").Process(target=serve, args=(options, theirs))
        server.start()
        try:
            run(measure(options, ours.recv(), report), options.loop)
            ours.send("stop")
            report["server"], report["server_cpu_seconds"] = ours.recv()
        finally:
            server.join(5)
            server.kill()
    json.dump(report, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
