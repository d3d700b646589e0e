"""A QUIC listener and its clients on hosts of a simulated network, for tests of the endpoint on either engine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from echostream.config import QuicSettings
from echostream.testing import Link, SimNetwork
from echostream.transport.quic import QuicTransport
from echostream.transport.sockets import SocketAddress
from echostream.transport.tls import ClientTls, ServerTls
from echostream.types import clock
from tests.transport.conformance import Recorder, World
from tests.transport.lab import Pair, make_engines

URL = "quic://server:4433"


class Scene:
    """The world of one test."""

    def __init__(self, network: SimNetwork, engines: Pair, **settings: Any) -> None:
        self.network = network
        self.tls = ServerTls.load()
        self.settings = QuicSettings(**settings)
        self.engines = engines
        self.world = self.make_world()

    @property
    def endpoint(self) -> Any:
        """The server's."""
        return self.world.listener._acceptor.endpoint  # type: ignore[attr-defined]

    @property
    def acceptor(self) -> Any:
        return self.world.listener._acceptor  # type: ignore[attr-defined]

    def make_world(self) -> World:
        client, server = (QuicTransport(engine=engine, settings=self.settings) for engine in self.engines)
        trust = ClientTls.load(fingerprint=self.tls.fingerprint, server_name="localhost")
        return World(client, URL, client_tls=trust, server_tls=self.tls, server_transport=server)

    async def listen(self) -> None:
        with self.network.host("server"):
            await self.world.open()

    async def dial(self, host: str = "client") -> Recorder:
        with self.network.host(host):
            return await self.world.dial()

    async def join(self) -> tuple[Recorder, Recorder]:
        """Return both ends of a connection whose ids are issued and acknowledged."""
        client = await self.dial()
        await asyncio.sleep(1.0)
        return client, self.world.servers[-1]

    async def kill(self) -> None:
        """Let the server end with nobody hearing of it."""
        self.network.partition("server")
        await self.world.listener.close()
        self.network.heal()

    async def restart(self) -> None:
        await self.kill()
        self.world = self.make_world()
        await self.listen()

    def receive(self, *packets: bytes, source: SocketAddress = ("10.9.9.9", 1)) -> list[bytes]:
        """Let packets of a stranger arrive at the server, and return what it answers at once."""
        answers: list[bytes] = []
        socket = self.endpoint._socket
        with self.network.host("server"):
            socket.send = lambda datagrams, source=None: answers.extend(data for data, _ in datagrams)
            self.endpoint.received([(packet, source, None) for packet in packets], clock.monotonic_ns())
            del socket.send
        return answers

    def stats(self) -> dict[str, int]:
        return self.world.listener.stats()  # type: ignore[attr-defined, no-any-return]


def simulated(scenario: Callable[[Scene], Awaitable[None]], engines: Pair, **settings: Any) -> None:
    """Run a scenario at 20 ms each way without loss."""

    async def run(network: SimNetwork) -> None:
        scene = Scene(network, engines, **settings)
        await scene.listen()
        try:
            await scenario(scene)
        finally:
            await scene.world.listener.close()

    SimNetwork(seed=1, link=Link(delay=0.02)).run(run)


def send(recorder: Recorder, size: int = 10) -> None:
    """Send a datagram."""
    assert recorder.connection.send_datagram(bytes(size))
    recorder.connection.flush()


class Hello:
    """A client's engine without a network: its first flight, and the one after a Retry."""

    def __init__(self, engine: str = "aioquic") -> None:
        made: Any = make_engines(engine, QuicSettings()).connect(("10.0.0.1", 1), server_name="localhost", now=0.0)
        self.engine = made
        self.packet = made.transmit(0.0)[0][0]

    def answer(self, retry: bytes) -> bytes:
        """Return the first packet after a Retry."""
        self.engine.receive([retry], ("10.0.0.1", 1), 0.0)
        packet: bytes = self.engine.transmit(0.0)[0][0]
        return packet
