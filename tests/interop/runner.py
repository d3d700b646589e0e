"""What the cases of the QUIC Interop Runner share: its link, its files, and a look at the packets afterwards."""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import cache
from typing import Any

import pytest
from aioquic.quic.packet import QuicPacketType
from cryptography.hazmat.primitives.asymmetric import ed25519

from echostream import RpcClient, RpcServer, StreamReceiver, handler, service, stream
from echostream.config import QuicSettings
from echostream.connecting import Connecting
from echostream.testing import Link, PacketRecord, SimNetwork
from tests.interop.dissect import Dissector, Packet
from tests.transport.authority import key_pem, self_signed
from tests.transport.lab import Pair, engine_module

KB, MB = 1 << 10, 1 << 20

SIMPLE = Link(delay=0.015, bandwidth=10e6 / 8, queue_bytes=25 * 1500)
"""The runner's plain link: 15 ms, 10 Mbit/s, a queue of 25 packets."""

PATIENCE = 300.0
"""Virtual seconds: the longest timeout of the runner."""

_CHUNK_BYTES = 64 << 10


@cache
def content(number: int, size: int) -> bytes:
    """A file."""
    return hashlib.shake_128(b"%d" % number).digest(size)


@service("files")
class Files:
    """The runner's server, which sends files to those who ask."""

    def __init__(self) -> None:
        self.received: list[bytes] = []

    @handler(safe=True)
    async def fetch(self, number: int, size: int) -> AsyncIterator[bytes]:
        data = content(number, size)
        for start in range(0, size, _CHUNK_BYTES):
            yield data[start : start + _CHUNK_BYTES]

    @handler(safe=True)
    async def read(self, name: str) -> bytes:
        """Return a file of 32 bytes, in a call that may be early data."""
        return hashlib.shake_128(name.encode()).digest(32)

    @stream("files.put")
    async def put(self, receiver: StreamReceiver[bytes]) -> None:
        self.received.append(b"".join([item async for item in receiver]))


async def download(client: RpcClient, number: int, size: int) -> None:
    """Fetch a file and look whether it is whole."""
    parts = [part async for part in client.proxy(Files, timeout=PATIENCE).fetch(number, size)]
    assert b"".join(parts) == content(number, size)


async def download_all(client: RpcClient, *sizes: int) -> None:
    """Fetch files at the same time."""
    await asyncio.gather(*(download(client, number, size) for number, size in enumerate(sizes)))


class Runner:
    """A server and a client of two engines in a network, and its packets.

    Args:
        engines: of the client and of the server.
        link: how they are joined, in both directions.
        certificate: PEM of a chain and its key; left out, one with an Ed25519 key.
        early_data: whether both sides allow 0-RTT.
        url: where the server listens and the client dials.
        settings: of QUIC, on both sides, which have no place in the public API.
        configure: changes the configuration of an engine, given whether it is the client's.
        seed: of the network.
    """

    def __init__(
        self,
        engines: Pair,
        link: Link = SIMPLE,
        *,
        certificate: bytes | None = None,
        early_data: bool = False,
        url: str = "quic://10.0.0.1:4433",
        settings: dict[str, Any] | None = None,
        configure: Callable[[Any, bool], None] = lambda *_: None,
        seed: int = 1,
    ) -> None:
        self.client_engine, self.server_engine = engines
        self.network = SimNetwork(seed=seed, link=link)
        self.network.host("server")
        self.network.host("client")
        self.files = Files()
        self._certificate = certificate or _identity()
        self._early_data = early_data
        self._url = url
        self._change = configure
        self._settings = _settings(**settings or {})
        self._key_log = io.StringIO()

    def run(self, scenario: Callable[[RpcClient], Awaitable[None]], *, connections: int = 1) -> None:
        """Let a client do something, several times one after the other each on a connection of its own."""

        async def whole(network: SimNetwork) -> None:
            server = await self.serve(self._url, self.server_engine)
            for _ in range(connections):
                with network.host("client"):
                    async with self.dial(server, self.client_engine) as client:
                        await scenario(client)
            await server.stop()
            assert network.leaks() == []

        self.network.record_packets()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("echostream.transport.quic.transport.QuicSettings", lambda: self._settings)
            patch.setattr("echostream.transport.quic.engine_common.key_log", lambda: self._key_log)
            for engine in {self.client_engine, self.server_engine, "aioquic"}:
                self._configure(patch, engine)
            self.network.run(whole)

    async def serve(self, url: str, engine: str) -> RpcServer:
        """Start a server."""
        with self.network.host("server"):
            server = RpcServer(url, engine=engine, certificate=self._certificate, early_data=self._early_data)
            server.register(self.files)
            await server.start()
        return server

    def dial(self, server: RpcServer, engine: str) -> Connecting[RpcClient]:
        """Return a client of it, to be entered on its host."""
        return RpcClient.connect(
            server.addresses[0],
            fingerprint=server.fingerprint,
            engine=engine,
            timeout=PATIENCE,
            early_data=self._early_data,
        )

    def packets(self, chosen: Callable[[PacketRecord], bool] = lambda _: True) -> list[Packet]:
        """Decrypt what was sent."""
        return list(Dissector(self._key_log.getvalue()).read(filter(chosen, self.network.packets)))

    def long_packets(self) -> list[Packet]:
        """Decrypt the packets of the handshakes."""
        return self.packets(lambda record: bool(record.data[0] & 0x80))

    def handshakes(self) -> int:
        """Count them as the runner does, by the ids that the server chose."""
        return len(
            {
                packet.header.source_cid
                for packet in self.long_packets()
                if packet.from_server and packet.type is QuicPacketType.HANDSHAKE
            }
        )

    def _configure(self, patch: pytest.MonkeyPatch, engine: str) -> None:
        engines = getattr(engine_module(engine), f"{engine.capitalize()}Engines")
        configuration_of = engines._configuration

        def configured(made: Any, *, is_client: bool) -> Any:
            configuration = configuration_of(made, is_client=is_client)
            self._change(configuration, is_client)
            return configuration

        patch.setattr(engines, "_configuration", configured)


def _settings(**changes: Any) -> QuicSettings:
    """Make settings, also such as are out of range for users."""
    settings = QuicSettings()
    for name, value in changes.items():
        assert hasattr(settings, name)
        object.__setattr__(settings, name, value)
    return settings


@cache
def _identity() -> bytes:
    key = ed25519.Ed25519PrivateKey.generate()
    return self_signed(key, "server") + key_pem(key)
