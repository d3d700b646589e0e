"""FLOOD: 10,000 first packets within a second, twice, from the address that live sessions use too.

The packets are real hellos, each encrypted for a connection id of its own and never continued, or garbage of the same
shape. Measured is what calls of the live sessions take before and meanwhile, and what the server's memory grows by.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import socket
import statistics
import struct
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from multiprocessing.connection import Connection
from typing import Any, Final, Self
from urllib.parse import urlsplit

from benches.core import Contender, Figures, Plan, Row, contest, missing
from benches.slow_reader import resident_bytes
from benches.worker import Round
from echostream import RpcClient, RpcServer, handler

ID = "FLOOD"

KINDS: Final = ("hellos", "garbage")

_PACKETS: Final = 10_000
_FLOOD_SECONDS: Final = 1.0
_FLOODS: Final = 2
_PAUSE: Final = 1.0
"""Seconds between the floods."""
_SESSIONS: Final = 10
_CALL_EVERY: Final = 0.04
"""Seconds between the calls of a session: 250 a second in all."""
_SAMPLE: Final = 0.1
_TICK: Final = 0.001
_LIMIT_MIB: Final = 32.0
_INITIAL_BYTES: Final = 1200


@asynccontextmanager
async def serve(engine: str, kind: str) -> AsyncIterator[dict[str, Any]]:
    @handler("flood.echo")
    async def echo(number: int) -> int:
        return number

    @handler("flood.memory")
    async def memory() -> int:
        return resident_bytes()

    server = RpcServer("quic://127.0.0.1:0", engine=engine)
    server.register(echo, memory)
    async with server:
        yield {"url": server.addresses[0]}


@asynccontextmanager
async def connect(engine: str, kind: str, url: str) -> AsyncIterator[Round]:
    async with AsyncExitStack() as stack:
        flooder = stack.enter_context(_Flooder(kind, urlsplit(url).port or 0))
        await asyncio.to_thread(flooder.wait)  # its packets are made
        sessions = [
            await stack.enter_async_context(RpcClient.connect(url, ca="dev", engine=engine)) for _ in range(_SESSIONS)
        ]

        async def measure(*, seconds: float) -> Figures:
            return await _watch(sessions, flooder, seconds)

        yield measure


async def _watch(sessions: list[RpcClient], flooder: _Flooder, calm: float) -> Figures:
    """Call at a steady rate, before the floods and through them."""
    calls: list[tuple[float, float]] = []
    floods: list[tuple[float, float]] = []
    memory = [await sessions[0].request("flood.memory", returns=int)]

    async def flood() -> None:
        await asyncio.sleep(calm)
        for _ in range(_FLOODS):
            began = time.perf_counter()
            await asyncio.to_thread(flooder.flood)
            floods.append((began, time.perf_counter()))
            await asyncio.sleep(_PAUSE)

    async def call(session: RpcClient, offset: float) -> None:
        due = time.perf_counter() + offset
        number = 0
        while not flooding.done():
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            answer = await session.request("flood.echo", number, returns=int)
            calls.append((due, time.perf_counter() - due))  # from when it was due: one that waits does not hide others
            if answer != number:
                raise ValueError(f"wrong answer to call {number}")
            due, number = due + _CALL_EVERY, number + 1

    async def sample() -> None:
        while not flooding.done():
            await asyncio.sleep(_SAMPLE)
            memory.append(await sessions[0].request("flood.memory", returns=int))

    flooding = asyncio.get_running_loop().create_task(flood())
    async with asyncio.TaskGroup() as group:
        for index, session in enumerate(sessions):
            group.create_task(call(session, index * _CALL_EVERY / len(sessions)))
        group.create_task(sample())
    await flooding
    return {
        "before": _p99(took for at, took in calls if at < floods[0][0]),
        "during": _p99(took for at, took in calls if any(began <= at <= ended for began, ended in floods)),
        "grew": (max(memory) - memory[0]) / (1 << 20),
        "rate": _PACKETS / statistics.mean(ended - began for began, ended in floods),
    }


def _p99(times: Iterable[float]) -> float:
    return statistics.quantiles(list(times), n=100)[98]


class _Flooder:
    """A process that sends the packets when told to."""

    def __init__(self, kind: str, port: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, far = context.Pipe()
        self._process = context.Process(target=_send_floods, args=(kind, port, far), daemon=True)

    def __enter__(self) -> Self:
        self._process.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._pipe.close()
        self._process.join(5)
        self._process.kill()

    def wait(self) -> None:
        self._pipe.recv()

    def flood(self) -> None:
        self._pipe.send(None)
        self._pipe.recv()


def _send_floods(kind: str, port: int, pipe: Connection) -> None:
    packets = _hellos() if kind == "hellos" else _garbage()
    per_tick = round(_PACKETS * _TICK / _FLOOD_SECONDS)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        pipe.send(None)
        while True:
            try:
                pipe.recv()
            except EOFError:
                return
            began = time.perf_counter()
            for first in range(0, _PACKETS, per_tick):
                for packet in packets[first : first + per_tick]:
                    sock.sendto(packet, ("127.0.0.1", port))
                due = began + (first + per_tick) / _PACKETS * _FLOOD_SECONDS
                time.sleep(max(0.0, due - time.perf_counter()))
            pipe.send(None)


def _garbage() -> list[bytes]:
    head, rest = struct.pack("!BIB", 0xC3, 1, 8), struct.pack("!BHH", 0, 0x4000 | 1174, 0)
    filling = os.urandom(_INITIAL_BYTES)
    return [(head + os.urandom(8) + b"\x08" + os.urandom(8) + rest + filling)[:_INITIAL_BYTES] for _ in range(_PACKETS)]


def _hellos() -> list[bytes]:
    """A client's hello, encrypted anew for each connection id (RFC 9001 section 5.2)."""
    from aioquic._buffer import Buffer
    from aioquic.quic.configuration import QuicConfiguration
    from aioquic.quic.connection import QuicConnection
    from aioquic.quic.crypto import CryptoPair
    from aioquic.quic.packet import pull_quic_header

    from echostream.config import ALPN

    client = QuicConnection(configuration=QuicConfiguration(alpn_protocols=[ALPN], server_name="127.0.0.1"))
    client.connect(("127.0.0.1", 1), 0.0)
    first = client.datagrams_to_send(0.0)[0][0]
    buffer = Buffer(data=first)
    header = pull_quic_header(buffer, host_cid_length=8)
    receiver = CryptoPair()
    receiver.setup_initial(cid=header.destination_cid, is_client=False, version=header.version or 1)
    head, content, number = receiver.decrypt_packet(first[: header.packet_length], buffer.tell(), 0)
    packets = []
    for _ in range(_PACKETS):
        connection_id = os.urandom(8)
        sender = CryptoPair()
        sender.setup_initial(cid=connection_id, is_client=True, version=header.version or 1)
        packet = sender.encrypt_packet(head[:6] + connection_id + head[14:], content, number)
        packets.append(packet.ljust(_INITIAL_BYTES, b"\0"))
    return packets


def contenders() -> list[Contender]:
    """Each engine that is installed, under each kind of flood."""
    engines = ["aioquic"] if missing("qh3") else ["aioquic", "qh3"]
    return [
        Contender(
            f"{engine}, {kind}",
            "benches.flood:serve",
            "benches.flood:connect",
            "asyncio",
            {"engine": engine, "kind": kind},
        )
        for engine in engines
        for kind in KINDS
    ]


def measure(plan: Plan) -> Iterator[Row]:
    for contender in contenders():
        (rounds,) = contest([contender], plan).values()
        row = Row(ID, f"calls during 10,000 first packets/s, p99, {contender.name}", unit="s", lower_is_better=True)
        row.floor, row.goal = 2.0, 1.5
        row.value = statistics.median(figures["during"] for figures in rounds)
        row.against, row.against_value = "before", statistics.median(figures["before"] for figures in rounds)
        row.ratio = statistics.median(figures["during"] / figures["before"] for figures in rounds)
        row.rounds = [{"value": figures["during"], "against": figures["before"]} for figures in rounds]
        yield row.judge()
        grown = Row(ID, f"memory of the server, grown by, {contender.name}", unit="MiB", lower_is_better=True)
        grown.floor, grown.goal = _LIMIT_MIB, _LIMIT_MIB / 4
        grown.value = max(figures["grew"] for figures in rounds)
        grown.rounds = [{"value": figures["grew"]} for figures in rounds]
        yield grown.judge()
