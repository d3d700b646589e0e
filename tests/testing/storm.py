"""Everything at once between a server and a client on a bad network, and the check of what was promised.

Every call runs once, every acknowledged event is heard once and in order, a stream arrives whole and in order, and
nothing is left of any of it. `test_storm.py` runs it with many seeds, `sim_full.py` with larger loads.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import cache

from cryptography.hazmat.primitives.asymmetric import ed25519

from echostream import Context, RpcClient, RpcServer, StreamReceiver, handler, listener, service, stream
from echostream.session.api import Conversation
from echostream.testing import Link, SimNetwork
from tests.transport.authority import key_pem, self_signed
from tests.transport.lab import Pair

__all__ = ("STORM", "Load", "Storm", "storm")

STORM = Link(delay=0.02, jitter=0.05, loss=0.05, reorder=0.2, duplicate=0.05)
CHUNK_BYTES = 4096


@dataclass(frozen=True)
class Load:
    """What one storm carries."""

    calls: int = 200
    items: int = 100
    """Of one streaming call."""
    events: int = 50
    chunks: int = 64
    """Of 4 KiB: 256 KiB in a stream."""
    patience: float = 120.0
    """Virtual seconds for each of them."""


@service("storm")
class Storm:
    """Remembers what arrived."""

    def __init__(self) -> None:
        self.calls: Counter[int] = Counter()
        self.steps: list[int] = []
        self.received = hashlib.sha256()
        self.streams_ended = 0

    @handler
    async def double(self, number: int) -> int:
        self.calls[number] += 1
        if number % 10 == 0:
            await asyncio.sleep(0.1)
        return 2 * number

    @handler
    async def count(self, until: int) -> AsyncIterator[int]:
        for number in range(until):
            yield number

    @listener("storm.step")
    async def on_step(self, number: int, ctx: Context) -> None:
        if number % 7 == 0:
            await asyncio.sleep(0.02)
        self.steps.append(number)

    @stream("storm.bytes")
    async def on_bytes(self, receiver: StreamReceiver[bytes]) -> None:
        async for item in receiver:
            self.received.update(item)
        self.streams_ended += 1

    def check(self, load: Load) -> None:
        """Compare with what was sent."""
        assert self.calls == Counter(range(load.calls)), "every call ran exactly once"
        assert self.steps == list(range(load.events)), "every event was heard exactly once and in order"
        whole = hashlib.sha256(b"".join(map(_chunk, range(load.chunks))))
        assert (self.received.digest(), self.streams_ended) == (whole.digest(), 1), "the stream arrived whole"


@cache
def identity() -> bytes:
    """PEM of a certificate and its key; an Ed25519 signature has the same length each time, as do then the packets."""
    key = ed25519.Ed25519PrivateKey.generate()
    return self_signed(key, "server") + key_pem(key)


async def storm(
    network: SimNetwork,
    engines: Pair,
    *,
    load: Load | None = None,
    served: Storm | None = None,
    move_at: float | None = None,
) -> None:
    """Run it, and look that nothing is left.

    Args:
        network: where.
        engines: of the client and of the server.
        load: how much.
        served: the server's service; left out, a new one.
        move_at: virtual second at which the client gets another address.
    """
    load, served = load or Load(), served or Storm()
    with network.host("server"):
        server = RpcServer("quic://server:4433", engine=engines[1], certificate=identity())
        server.register(served)
        await server.start()
    [listener] = server._listeners
    with network.host("client"):
        async with RpcClient.connect(
            "quic://server:4433", fingerprint=server.fingerprint, timeout=load.patience, engine=engines[0]
        ) as client:
            if move_at is not None:
                network.loop.call_later(move_at - network.now, network.host("client").move)
            await asyncio.gather(_call(client, load), _emit(client, load), _send(client, load))
    await server.stop()
    served.check(load)
    assert listener.stats()["connections"] == 0  # type: ignore[attr-defined]


async def _call(client: Conversation, load: Load) -> None:
    orders = client.proxy(Storm, timeout=load.patience)
    answers = await asyncio.gather(*(orders.double(number) for number in range(load.calls)))
    assert answers == [2 * number for number in range(load.calls)]
    assert [number async for number in orders.count(load.items)] == list(range(load.items))


async def _emit(client: Conversation, load: Load) -> None:
    acks = await asyncio.gather(
        *(client.emit("storm.step", number, ack=True, timeout=load.patience) for number in range(load.events))
    )
    assert {(ack.listeners, ack.failed) for ack in acks} == {(1, 0)}


async def _send(client: Conversation, load: Load) -> None:
    async with client.open_stream("storm.bytes", timeout=load.patience, close_timeout=load.patience) as sender:
        for number in range(load.chunks):
            await sender.send(_chunk(number))


def _chunk(number: int) -> bytes:
    return hashlib.shake_128(b"%d" % number).digest(CHUNK_BYTES)
