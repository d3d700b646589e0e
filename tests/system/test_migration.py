"""A client whose port changes on the way, as behind a NAT that forgot: real sockets, every pairing of the engines."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from echostream import RpcClient, StreamReceiver, handler, service, stream
from echostream.session.api import Conversation
from echostream.testing import ImpairmentRelay, Link
from tests.serving import QUIC, served, until
from tests.transport.lab import Pair, every_pair

CALLS = 100
CHUNK_BYTES, CHUNKS = 32 << 10, 32
"""1 MB each way."""
TIMEOUT = 15.0


def chunk(number: int) -> bytes:
    return hashlib.shake_128(b"%d" % number).digest(CHUNK_BYTES)


@service("moving")
class Moving:
    """Holds its calls and transfers back in the middle, until the client has moved."""

    def __init__(self) -> None:
        self.calls: Counter[int] = Counter()
        self.received: list[bytes] = []
        self.sent = 0
        self.has_moved = asyncio.Event()

    @handler
    async def double(self, number: int) -> int:
        self.calls[number] += 1
        await self.has_moved.wait()
        return 2 * number

    @handler
    async def fetch(self) -> AsyncIterator[bytes]:
        for number in range(CHUNKS):
            if number == CHUNKS // 2:
                await self.has_moved.wait()
            yield chunk(number)
            self.sent += 1

    @stream("moving.put")
    async def put(self, receiver: StreamReceiver[bytes]) -> None:
        async for item in receiver:
            self.received.append(item)
            if len(self.received) == CHUNKS // 2:
                await self.has_moved.wait()


async def put(client: Conversation) -> None:
    async with client.open_stream("moving.put", timeout=TIMEOUT, close_timeout=TIMEOUT) as sender:
        for number in range(CHUNKS):
            await sender.send(chunk(number))


async def fetch(client: Conversation) -> list[bytes]:
    return [item async for item in client.proxy(Moving, timeout=TIMEOUT).fetch()]


@pytest.mark.slow
@every_pair
async def test_a_client_that_gets_another_port_in_the_middle_loses_nothing(engines: Pair) -> None:
    near, far = engines
    moving = Moving()
    async with served(moving, url=QUIC, engine=far) as server:
        narrow = Link(delay=0.002, bandwidth=4e6)
        with ImpairmentRelay(server.addresses[0], link=narrow, seed=1) as relay:
            url = f"quic://{relay.address}"
            async with RpcClient.connect(url, fingerprint=server.fingerprint, engine=near) as client:
                stub = client.proxy(Moving, timeout=TIMEOUT)
                calls = asyncio.gather(*(stub.double(number) for number in range(CALLS)))
                transfers = asyncio.gather(put(client), fetch(client))
                await until(lambda: len(moving.calls) == CALLS and len(moving.received) == moving.sent == CHUNKS // 2)
                relay.rebind()
                moving.has_moved.set()
                assert await calls == [2 * number for number in range(CALLS)]
                _, fetched = await transfers
                assert server.sessions.get(client.session.id) is not None, "it is the same session still"
    assert moving.calls == Counter(range(CALLS))
    assert moving.received == fetched == [chunk(number) for number in range(CHUNKS)]
