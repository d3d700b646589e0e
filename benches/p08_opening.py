"""P8: sessions opened per second, against twice the handshakes that one process does with itself.

Two processes have two cores, hence twice. The ceiling is the same engine with the same certificates, checked the same
way, without endpoint and sockets. Every session is counted on the server, too; their ends are not in the time.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final

from benches.control import answering, asking
from benches.core import Contender, Figures, Plan, Row, contest, missing
from benches.load import allow_files
from benches.p01_unary import engine_modules
from benches.raw_crowd import full_handshakes
from benches.typed import Orders
from benches.worker import Round
from echostream import RpcClient, RpcServer
from echostream.config import QuicSettings
from echostream.transport.quic import transport
from echostream.transport.quic.demux import LongHeader
from echostream.transport.quic.engine import AcceptEngine, QuicEngine, QuicEngines
from echostream.transport.quic.engines import load_engines
from echostream.transport.quic.resets import StatelessResets
from echostream.transport.quic.tickets import ServerTickets
from echostream.transport.tls import ClientTls, ServerTls

ID = "P8"

_DIALLING: Final = 32
"""Clients that connect at a time."""
_CLIENT, _SERVER = ("127.0.0.1", 1000), ("127.0.0.1", 4433)
_MAX_FLIGHTS: Final = 20


@asynccontextmanager
async def serve(engine: str) -> AsyncIterator[dict[str, Any]]:
    server = RpcServer("quic://127.0.0.1:0", engine=engine)
    server.register(Orders())
    async with server, answering(lambda _: len(server.sessions)) as control:
        yield {"url": server.addresses[0], "control": control}


@asynccontextmanager
async def connect(engine: str, url: str, control: int) -> AsyncIterator[Round]:
    vars(transport)["QuicSettings"] = full_handshakes
    allow_files(16_384)
    async with asking(control) as ask:

        async def measure(*, seconds: float) -> Figures:
            clients: list[RpcClient] = []
            started = time.perf_counter()

            async def dial() -> None:
                while time.perf_counter() - started < seconds:
                    clients.append(await RpcClient.connect(url, ca="dev", engine=engine))

            await asyncio.gather(*(dial() for _ in range(_DIALLING)))
            elapsed, there = time.perf_counter() - started, await ask("count")
            ids = {client.session.id for client in clients}
            if not len(clients) == len(ids) == there:
                raise ValueError(
                    f"{len(clients)} clients have {len(ids)} ids, and {there:g} sessions are on the server"
                )
            await asyncio.gather(*(client.close() for client in clients))
            while await ask("count"):  # noqa: ASYNC110  # in another process
                await asyncio.sleep(0.01)
            return {"rate": len(clients) / elapsed}

        yield measure


@asynccontextmanager
async def serve_nothing(engine: str) -> AsyncIterator[dict[str, Any]]:
    yield {}


@asynccontextmanager
async def handshakes(engine: str) -> AsyncIterator[Round]:
    """Both sides in one process, as the endpoints would drive them."""
    settings = full_handshakes()
    made, tls, trust = load_engines(engine, settings), ServerTls.load(), ClientTls.load(ca="dev")
    made.warm_up(tls)
    tickets = ServerTickets(QuicSettings())
    accept = made.acceptor(tls, StatelessResets(bytes(32), per_second=1000).token, tickets)

    async def measure(*, seconds: float) -> Figures:
        started, count = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            _shake_hands(made, accept, trust)
            count += 1
        return {"rate": count / (time.perf_counter() - started)}

    yield measure


class _Heard:
    """What an engine reports (`EngineSink`): whether the handshake is done."""

    def __init__(self) -> None:
        self.is_done = False

    def on_handshake(self, protocol: str | None) -> None:
        self.is_done = True

    def on_closed(self, *, application: bool, code: int, reason: str, by_peer: bool) -> None:
        raise ValueError(f"the handshake failed: {code} {reason}")

    def on_stream_data(self, stream_id: int, data: bytes, fin: bool) -> None: ...
    def on_stream_reset(self, stream_id: int, code: int) -> None: ...
    def on_stream_stopped(self, stream_id: int, code: int) -> None: ...
    def on_datagram(self, data: bytes) -> None: ...
    def on_streams_available(self) -> None: ...
    def on_connection_id(self, connection_id: bytes, *, issued: bool) -> None: ...


def _shake_hands(made: QuicEngines, accept: AcceptEngine, trust: ClientTls) -> None:
    """Let packets go to and fro until neither side has more to say."""
    client = made.connect(_SERVER, server_name="localhost", now=time.monotonic())
    packets = _packets(client)
    header = LongHeader.parse(packets[0])
    assert header is not None
    server = accept(header.destination, None)
    sides = ((server, _Heard(), _CLIENT), (client, _Heard(), _SERVER))
    for flight in range(_MAX_FLIGHTS):
        engine, heard, source = sides[flight % 2]
        engine.receive(packets, source, time.monotonic())
        engine.deliver(heard)
        packets = _packets(engine)
        engine.deliver(heard)  # the ids that it issued
        engine.timer()
        if not packets:
            break
    if not all(heard.is_done for _, heard, _ in sides):
        raise ValueError("the handshake did not end")
    trust.verify(client.peer_chain, "localhost")


def _packets(engine: QuicEngine) -> list[bytes]:
    return [data for data, _ in engine.transmit(time.monotonic())]


def measure(plan: Plan) -> Iterator[Row]:
    for engine, loop in ((engine, plan.loops[-1]) for engine in ("aioquic", "qh3")):
        row = Row(ID, f"sessions opened, {engine} {loop}", unit="sessions/s", floor=0.5, goal=0.7)
        row.note = missing(*engine_modules(engine))
        if not row.note:
            options = {"engine": engine}
            ours = Contender(f"{engine} {loop}", f"{__name__}:serve", f"{__name__}:connect", loop, options)
            raw = Contender(
                "twice in one process", f"{__name__}:serve_nothing", f"{__name__}:handshakes", loop, options
            )
            results = contest([ours, raw], plan)
            pairs = [
                (figures["rate"], 2 * alone["rate"])
                for figures, alone in zip(results[ours.name], results[raw.name], strict=True)
            ]
            row.value, row.against_value = (statistics.median(column) for column in zip(*pairs, strict=True))
            row.against, row.ratio = raw.name, statistics.median(a / b for a, b in pairs)
            row.rounds = [{"value": a, "against": b} for a, b in pairs]
            row.judge()
        yield row
