"""Tests for echostream.transport.memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from echostream.errors import ConfigurationError, ConnectError
from echostream.transport.base import Address
from echostream.transport.memory import MemoryTransport, PipeTransport
from tests.transport.conformance import DatagramConformance, Recorder, TransportConformance, World


class TestMemory(DatagramConformance):
    @pytest.fixture
    async def world(self) -> AsyncIterator[World]:
        world = World(MemoryTransport(), "memory://orders")
        await world.open()
        yield world
        await world.close()

    async def test_an_unknown_name_offers_near_ones(self, world: World) -> None:
        with pytest.raises(ConnectError) as caught:
            await world.dial("memory://order")
        assert caught.value.message == "nobody listens on memory://order, did you mean memory://orders?"

    async def test_a_name_like_no_other_says_what_to_do(self, world: World) -> None:
        with pytest.raises(ConnectError) as caught:
            await world.dial("memory://zzz")
        assert caught.value.message == "nobody listens on memory://zzz: listen on it first, in the same event loop"

    async def test_a_port_is_refused(self, world: World) -> None:
        with pytest.raises(ConfigurationError, match="'memory://a:1' has a port, expected like memory://name"):
            await world.listen("memory://a:1")

    async def test_another_loop_has_its_own_names(self, world: World) -> None:
        async def elsewhere() -> str:
            with pytest.raises(ConnectError) as caught:
                await MemoryTransport().dial(Address.parse("memory://orders"), accept=Recorder)
            return caught.value.message

        text = await asyncio.to_thread(lambda: asyncio.run(elsewhere()))
        assert text.startswith("nobody listens on memory://orders")

    async def test_bytes_are_not_copied(self, world: World) -> None:
        client, server = await world.pair()
        content, seen = bytes(100_000), []
        server.on_data = lambda stream_id, data, fin: seen.append(data)
        stream = client.connection.open_stream()
        assert stream is not None
        client.connection.write(stream, content)
        await server.until(lambda: seen)
        assert seen[0] is content

    async def test_what_waits_when_a_stream_is_reset_or_stopped_is_gone(self, world: World) -> None:
        client, server = await world.pair()
        first, second = client.connection.open_stream(), client.connection.open_stream()
        assert first is not None
        assert second is not None
        client.connection.write(first, b"never seen", fin=True)
        client.connection.reset_stream(first, 5)
        await server.until(lambda: server.resets)
        assert server.resets == [(first, 5)]
        assert server.data == {}
        client.connection.write(second, b"seen")
        await server.until(lambda: server.data[second])
        server.connection.stop_stream(second, 6)
        server.connection.stop_stream(second, 6)
        await client.until(lambda: client.stops)
        await server.until(lambda: len(server.resets) == 2)
        assert client.stops == [(second, 6)]


class TestPipe(TransportConformance):
    """One ordered pipe, as TCP will be."""

    @pytest.fixture
    async def world(self) -> AsyncIterator[World]:
        world = World(PipeTransport(), "pipe://orders")
        await world.open()
        yield world
        await world.close()

    async def test_it_has_no_datagrams(self, world: World) -> None:
        client, server = await world.pair()
        for connection in (client.connection, server.connection):
            assert not connection.info.datagrams
            assert not connection.info.multiplexed
            assert connection.max_datagram_payload_bytes == connection.datagram_room_bytes == 0
            assert not connection.send_datagram(b"")
            assert connection.send_datagram_now(b"") is None

    async def test_its_names_are_not_those_of_the_other_kind(self, world: World) -> None:
        with pytest.raises(ConnectError) as caught:
            await MemoryTransport().dial(Address.parse("memory://orders"), accept=Recorder)
        assert caught.value.message.startswith("nobody listens on memory://orders")
