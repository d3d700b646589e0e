"""Two engines on virtual time with a wire between them, without endpoint and sockets."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest

from echostream.config import QuicSettings
from echostream.transport.quic.engine import QuicEngine, QuicEngines
from echostream.transport.quic.tickets import Resumption, ServerTickets
from echostream.transport.tls import ServerTls

CLIENT, SERVER = ("192.0.2.1", 1000), ("192.0.2.2", 4433)

Pair = tuple[str, str]
"""Engine of the client, engine of the server."""

HAS_QH3 = find_spec("qh3") is not None


def _parameter(client: str, server: str) -> Any:
    marks = [] if HAS_QH3 or "qh3" not in (client, server) else [pytest.mark.skip("qh3 is not installed")]
    return pytest.param((client, server), id=f"{client}-{server}", marks=marks)


PAIRS = [_parameter(client, server) for client in ("aioquic", "qh3") for server in ("aioquic", "qh3")]

every_pair = pytest.mark.parametrize("engines", PAIRS)
every_client = pytest.mark.parametrize("engines", [PAIRS[0], PAIRS[2]])
every_server = pytest.mark.parametrize("engines", PAIRS[:2])
both_engines = pytest.mark.parametrize("engines", [PAIRS[0], PAIRS[3]])


def engine_module(name: str) -> Any:
    """The adapter of an engine."""
    return import_module(f"echostream.transport.quic.engine_{name}")


def make_engines(name: str, settings: QuicSettings) -> QuicEngines:
    """The engines of an implementation."""
    made: QuicEngines = getattr(engine_module(name), f"{name.capitalize()}Engines")(settings)
    return made


class Sink:
    """Notes what an engine reports."""

    def __init__(self) -> None:
        self.protocol: str | None = None
        self.calls: list[tuple[Any, ...]] = []
        self.ids: list[tuple[bytes, bool]] = []

    def on_handshake(self, protocol: str | None) -> None:
        self.protocol = protocol

    def on_stream_data(self, stream_id: int, data: bytes, fin: bool) -> None:
        self.calls.append(("data", stream_id, data, fin))

    def on_stream_reset(self, stream_id: int, code: int) -> None:
        self.calls.append(("reset", stream_id, code))

    def on_stream_stopped(self, stream_id: int, code: int) -> None:
        self.calls.append(("stopped", stream_id, code))

    def on_datagram(self, data: bytes) -> None:
        self.calls.append(("datagram", data))

    def on_streams_available(self) -> None:
        self.calls.append(("available",))

    def on_connection_id(self, connection_id: bytes, *, issued: bool) -> None:
        self.ids.append((connection_id, issued))

    def on_closed(self, *, application: bool, code: int, reason: str, by_peer: bool) -> None:
        self.calls.append(("closed", application, code, reason, by_peer))


class Lab:
    """A client's and a server's engine with a wire of 10 ms and no loss."""

    def __init__(
        self,
        tls: ServerTls,
        engines: Pair = ("aioquic", "aioquic"),
        *,
        resumption: Resumption | None = None,
        tickets: ServerTickets | None = None,
        early: bytes = b"",
        **settings: Any,
    ) -> None:
        self.now = 1000.0
        self.at_client, self.at_server = Sink(), Sink()
        self.lost = False
        self.mtu = 65_535  # larger packets get lost
        self.client_address = CLIENT
        near, far = (make_engines(name, QuicSettings(**settings)) for name in engines)
        self.client: Any = near.connect(SERVER, server_name="localhost", now=self.now, resumption=resumption)
        if early:
            stream = self.client.open_stream(unidirectional=False)
            assert stream is not None
            self.client.send(stream, early, fin=False)
        first = [data for data, _ in self.client.transmit(self.now)]
        original, retry_source = first[0][6:14], None
        if far.needs_retry:
            retry_source = b"retrying"
            answer = far.retry_packet(
                version=1,
                source=retry_source,
                destination=self.client.connection_id,
                original_destination=original,
                token=b"a token",
            )
            self.client.receive([answer], SERVER, self.now)
            first = [data for data, _ in self.client.transmit(self.now)]
        self.server: Any = far.acceptor(tls, None, tickets)(original, retry_source)
        self.server.receive(first, CLIENT, self.now)

    def run(self, rounds: int = 12) -> None:
        for _ in range(rounds):
            self.now += 0.01
            for engine, peer, address, sink in (
                (self.client, self.server, self.client_address, self.at_client),
                (self.server, self.client, SERVER, self.at_server),
            ):
                due = engine.timer()
                if due is not None and due <= self.now:
                    engine.handle_timer(self.now)
                self.carry(engine, peer, address)
                engine.deliver(sink)

    def carry(self, engine: QuicEngine, peer: QuicEngine, address: tuple[str, int]) -> None:
        """Take what one side sends to the other."""
        datagrams = [data for data, _ in engine.transmit(self.now) if len(data) <= self.mtu]
        if datagrams and not self.lost:
            peer.receive(datagrams, address, self.now)
