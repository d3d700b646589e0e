"""What every transport must do. A new transport adds a class with a `world` fixture, no tests:

class TestMine(TransportConformance):
    @pytest.fixture
    async def world(self): ...yield World(transport, url, client_tls, server_tls)
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from echostream.errors import ConnectError
from echostream.transport.base import Address, CloseReason, Connection, Listener, Transport
from echostream.types import clock

PATIENCE = 10.0
"""Seconds until a test that waits for something gives up."""


class Recorder:
    """A receiver that remembers, and wakes who waits for something."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.data: defaultdict[int, bytearray] = defaultdict(bytearray)
        self.finished: list[int] = []
        self.resets: list[tuple[int, int]] = []
        self.stops: list[tuple[int, int]] = []
        self.datagrams: list[bytes] = []
        self.arrivals_ns: list[int] = []
        self.writables: list[int] = []
        self.availables = 0
        self.bursts = 0
        self.reasons: list[CloseReason] = []
        self.on_data: Callable[[int, bytes, bool], None] | None = None
        self.on_writable: Callable[[int], None] | None = None
        self._changed = asyncio.Event()

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def finish_count(self, count: int) -> None:
        await self.until(lambda: len(self.finished) >= count)

    async def holds(self, stream_id: int, content: bytes) -> None:
        await self.until(lambda: len(self.data[stream_id]) >= len(content))
        assert self.data[stream_id] == content

    async def ended(self) -> CloseReason:
        await self.until(lambda: self.reasons)
        return self.reasons[0]

    def stream_data(self, stream_id: int, data: bytes, fin: bool) -> None:
        self.data[stream_id] += data
        if fin:
            self.finished.append(stream_id)
        self._changed.set()
        if self.on_data is not None:
            self.on_data(stream_id, data, fin)

    def stream_reset(self, stream_id: int, code: int) -> None:
        self.resets.append((stream_id, code))
        self._changed.set()

    def stream_stopped(self, stream_id: int, code: int) -> None:
        self.stops.append((stream_id, code))
        self._changed.set()

    def datagram(self, data: bytes, arrived_ns: int) -> None:
        self.datagrams.append(data)
        self.arrivals_ns.append(arrived_ns)
        self._changed.set()

    def has_datagrams(self, count: int) -> bool:
        return len(self.datagrams) == count

    def writable(self, stream_id: int) -> None:
        self.writables.append(stream_id)
        self._changed.set()
        if self.on_writable is not None:
            self.on_writable(stream_id)

    def streams_available(self) -> None:
        self.availables += 1
        self._changed.set()

    def burst_ended(self) -> None:
        self.bursts += 1
        self._changed.set()

    def closed(self, reason: CloseReason) -> None:
        self.reasons.append(reason)
        self._changed.set()


class World:
    """A transport with a listener, and the recorders of the connections to it."""

    def __init__(
        self,
        transport: Transport[Any, Any],
        url: str,
        *,
        client_tls: Any = None,
        server_tls: Any = None,
        server_transport: Transport[Any, Any] | None = None,
    ) -> None:
        self.transport = transport
        self.server_transport = server_transport or transport
        """What listens, where it is not what dials."""
        self.url = url
        self.client_tls = client_tls
        self.server_tls = server_tls
        self.servers: list[Recorder] = []
        self.clients: list[Recorder] = []
        self.refusal: Exception | None = None
        self.listener: Listener

    async def open(self) -> None:
        self.listener = await self.listen(self.url)
        self.url = self.listener.url

    async def listen(self, url: str) -> Listener:
        return await self.server_transport.listen(Address.parse(url), accept=self._accept, tls=self.server_tls)

    async def dial(self, url: str | None = None) -> Recorder:
        recorders: list[Recorder] = []

        def accept(connection: Connection) -> Recorder:
            recorders.append(Recorder(connection))
            return recorders[0]

        async with asyncio.timeout(PATIENCE):
            connection = await self.transport.dial(Address.parse(url or self.url), accept=accept, tls=self.client_tls)
        assert recorders[0].connection is connection
        self.clients.append(recorders[0])
        return recorders[0]

    async def pair(self, url: str | None = None, *, to: World | None = None) -> tuple[Recorder, Recorder]:
        """Return a new connection's (client, server); `to` is whose listener the URL leads to."""
        servers = (to or self).servers
        count = len(servers)
        client = await self.dial(url)
        await eventually(lambda: len(servers) > count)
        return client, servers[-1]

    async def close(self) -> None:
        """Close everything, and make sure that nothing is left and everybody was told, once."""
        for client in self.clients:
            client.connection.abort()
        await self.listener.close()
        await asyncio.sleep(0)
        for recorder in self.clients + self.servers:
            assert len(recorder.reasons) == 1, recorder.reasons
        assert_nothing_left()

    def _accept(self, connection: Connection) -> Recorder:
        if self.refusal is not None:
            raise self.refusal
        self.servers.append(Recorder(connection))
        return self.servers[-1]


async def eventually(condition: Callable[[], Any]) -> None:
    """Wait for something that wakes nobody."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


def assert_nothing_left() -> None:
    """No task but the test, no reader or writer, no timer that would fire."""
    loop: Any = asyncio.get_running_loop()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    watched = [key for key in loop._selector.get_map().values() if key.fd != loop._ssock.fileno()]
    assert watched == []
    assert [timer for timer in loop._scheduled if not timer.cancelled() and "echostream" in repr(timer)] == []


class TransportConformance:
    """The suite."""

    async def test_a_stream_carries_bytes_both_ways_and_closes_each_way_alone(self, world: World) -> None:
        client, server = await world.pair()
        stream = client.connection.open_stream()
        assert stream == 0
        assert client.connection.write(stream, b"ping", fin=True)
        client.connection.flush()
        await server.until(lambda: server.finished)
        assert server.data == {0: b"ping"}
        server.connection.write(stream, b"po")
        server.connection.write(stream, b"ng", fin=True)
        server.connection.flush()
        await client.until(lambda: client.finished)
        assert client.data == {0: b"pong"}

    async def test_stream_ids_tell_who_opened_and_whether_one_way(self, world: World) -> None:
        client, server = await world.pair()
        assert [client.connection.open_stream() for _ in range(3)] == [0, 4, 8]
        assert [client.connection.open_stream(unidirectional=True) for _ in range(2)] == [2, 6]
        assert [server.connection.open_stream() for _ in range(2)] == [1, 5]
        assert server.connection.open_stream(unidirectional=True) == 3

    async def test_the_server_opens_streams_of_both_kinds(self, world: World) -> None:
        client, server = await world.pair()
        for stream in (server.connection.open_stream(), server.connection.open_stream(unidirectional=True)):
            assert stream is not None
            server.connection.write(stream, b"from the server", fin=True)
        server.connection.flush()
        await client.until(lambda: len(client.finished) == 2)
        assert client.data == {1: b"from the server", 3: b"from the server"}
        client.connection.write(1, b"answer", fin=True)
        client.connection.flush()
        await server.until(lambda: server.finished)
        assert server.data == {1: b"answer"}

    async def test_many_streams_stay_apart(self, world: World) -> None:
        client, server = await world.pair()
        streams = [client.connection.open_stream(unidirectional=bool(index % 2)) for index in range(200)]
        for stream in streams:
            assert stream is not None
            client.connection.write(stream, b"%d" % stream * 50, fin=True)
        client.connection.flush()
        await server.until(lambda: len(server.finished) == 200)
        assert server.data == {stream: b"%d" % stream * 50 for stream in streams if stream is not None}

    async def test_a_higher_stream_may_speak_first(self, world: World) -> None:
        client, server = await world.pair()
        low, high = client.connection.open_stream(), client.connection.open_stream()
        assert low is not None
        assert high is not None
        client.connection.write(high, b"high", fin=True)
        client.connection.flush()
        await server.until(lambda: high in server.finished)
        client.connection.write(low, b"low", fin=True)
        client.connection.flush()
        await server.until(lambda: low in server.finished)
        server.connection.write(low, b"back", fin=True)
        server.connection.flush()
        await client.until(lambda: low in client.finished)
        assert server.data == {high: b"high", low: b"low"}

    async def test_writes_keep_their_order(self, world: World) -> None:
        client, server = await world.pair()
        stream = client.connection.open_stream()
        assert stream is not None
        for index in range(1000):
            client.connection.write(stream, index.to_bytes(4))
            if index % 7 == 0:
                client.connection.flush()
            if index % 100 == 0:
                await asyncio.sleep(0)
        client.connection.write(stream, b"", fin=True)
        client.connection.flush()
        await server.until(lambda: server.finished)
        assert server.data[stream] == b"".join(index.to_bytes(4) for index in range(1000))

    async def test_a_stream_may_end_without_a_byte(self, world: World) -> None:
        client, server = await world.pair()
        stream = client.connection.open_stream(unidirectional=True)
        assert stream is not None
        client.connection.write(stream, b"", fin=True)
        client.connection.flush()
        await server.until(lambda: server.finished)
        assert server.data == {stream: b""}

    async def test_the_end_of_a_burst_is_told_after_its_data(self, world: World) -> None:
        client, server = await world.pair()
        seen: list[int] = []
        server.on_data = lambda stream_id, data, fin: seen.append(server.bursts)
        stream = client.connection.open_stream()
        assert stream is not None
        client.connection.write(stream, b"x")
        client.connection.flush()
        await server.until(lambda: seen and server.bursts > seen[0])
        assert len(seen) == 1

    async def test_answers_may_leave_in_the_middle_of_a_burst(self, world: World) -> None:
        client, server = await world.pair()

        def answer(stream_id: int, data: bytes, fin: bool) -> None:
            server.connection.write(stream_id, data, fin=fin)
            server.connection.flush()

        server.on_data = answer
        streams = [client.connection.open_stream() for _ in range(20)]
        for stream in streams:
            assert stream is not None
            client.connection.write(stream, bytes([stream]) * 3000, fin=True)
        client.connection.flush()
        await client.until(lambda: len(client.finished) == 20)
        assert client.data == {stream: bytes([stream]) * 3000 for stream in streams if stream is not None}

    async def test_a_reset_reaches_the_peer_with_its_code(self, world: World) -> None:
        client, server = await world.pair()
        stream = client.connection.open_stream()
        assert stream is not None
        client.connection.write(stream, b"begun")
        client.connection.flush()
        await server.until(lambda: server.data[stream])
        client.connection.reset_stream(stream, 77)
        assert client.connection.write(stream, b"too late", fin=True)
        assert client.connection.unsent_bytes(stream) == 0
        client.connection.flush()
        await server.until(lambda: server.resets)
        assert server.resets == [(stream, 77)]
        assert server.data[stream] == b"begun"
        assert server.finished == []

    async def test_a_stop_reaches_the_peer_and_is_answered_by_a_reset(self, world: World) -> None:
        client, server = await world.pair()
        stream = client.connection.open_stream()
        assert stream is not None
        client.connection.write(stream, b"begun")
        client.connection.flush()
        await server.until(lambda: server.data[stream])
        server.connection.stop_stream(stream, 88)
        server.connection.flush()
        await client.until(lambda: client.stops)
        assert client.stops == [(stream, 88)]
        assert client.connection.write(stream, b"nobody listens")
        client.connection.flush()
        await server.until(lambda: server.resets)
        assert server.resets == [(stream, 88)]
        assert server.data[stream] == b"begun"

    async def test_an_ended_or_unknown_stream_takes_calls_and_does_nothing(self, world: World) -> None:
        client, server = await world.pair()
        stream = client.connection.open_stream()
        assert stream is not None
        client.connection.write(stream, b"all", fin=True)
        client.connection.flush()
        await server.until(lambda: server.finished)
        assert client.connection.write(stream, b"more")
        for unknown in (stream, 1, 3, 2**40 + 1):
            client.connection.stop_stream(unknown, 1) if unknown != stream else None
            client.connection.reset_stream(unknown, 1) if unknown != stream else None
            assert client.connection.unsent_bytes(unknown) == 0
        assert client.connection.write(1, b"not opened by the peer")
        client.connection.flush()
        server.connection.write(stream, b"", fin=True)
        server.connection.flush()
        await client.until(lambda: client.finished)
        assert server.data == {stream: b"all"}

    async def test_a_large_transfer_waits_for_the_watermarks_and_arrives_whole(self, world: World) -> None:
        client, server = await world.pair()
        content = random.Random(1).randbytes(8 << 20)
        stream = client.connection.open_stream(unidirectional=True)
        assert stream is not None
        position, most, paused = 0, 0, 0

        def write_on(_: int) -> None:
            nonlocal position, most, paused
            while position < len(content):
                piece = content[position : position + 50_000]
                position += len(piece)
                goes_on = client.connection.write(stream, piece, fin=position == len(content))
                most = max(most, client.connection.unsent_bytes(stream))
                if not goes_on:
                    paused += 1
                    break
            client.connection.flush()

        client.on_writable = write_on
        write_on(stream)
        assert position < len(content)
        await server.until(lambda: server.finished)
        assert hashlib.sha256(server.data[stream]).digest() == hashlib.sha256(content).digest()
        assert paused > 5
        assert most <= (256 << 10) + 50_000
        assert client.connection.unsent_bytes(stream) == 0
        assert len(client.writables) in {paused, paused - 1}

    async def test_a_write_above_the_high_watermark_says_so_and_writable_follows_once(self, world: World) -> None:
        client, server = await world.pair()
        stream = client.connection.open_stream()
        assert stream is not None
        assert client.connection.write(stream, bytes(256 << 10))
        assert not client.connection.write(stream, b"x")
        assert client.connection.unsent_bytes(stream) == (256 << 10) + 1
        assert client.writables == []
        client.connection.flush()
        assert client.writables == []  # never from within a call
        await client.until(lambda: client.writables)
        await server.until(lambda: len(server.data[stream]) == (256 << 10) + 1)
        assert client.writables == [stream]

    async def test_writable_follows_on_a_stream_that_was_ended_with_the_write_too(self, world: World) -> None:
        client, server = await world.pair()
        stream = client.connection.open_stream()
        assert stream is not None
        assert not client.connection.write(stream, bytes(1 << 20), fin=True)
        client.connection.flush()
        await client.until(lambda: client.writables)
        await server.until(lambda: server.finished)
        assert client.writables == [stream]

    async def test_writable_follows_when_all_was_sent_for_who_asked(self, world: World) -> None:
        client, server = await world.pair()
        stream, other = client.connection.open_stream(), client.connection.open_stream()
        assert stream is not None
        assert other is not None
        assert client.connection.sent(stream)
        assert client.connection.write(stream, bytes(200_000))  # below the high watermark
        assert not client.connection.write(other, bytes(1 << 20))
        assert not client.connection.sent(stream)
        assert not client.connection.sent(other)
        unsent: list[int] = []
        client.on_writable = lambda stream_id: unsent.append(client.connection.unsent_bytes(stream_id))
        assert client.writables == []
        await client.until(lambda: len(client.writables) == 2)
        assert sorted(client.writables) == [stream, other]
        assert unsent == [0, 0]
        assert client.connection.sent(stream)
        await server.until(lambda: len(server.data[other]) == 1 << 20)
        client.connection.abort()
        assert client.connection.sent(stream)

    @pytest.mark.parametrize("by_client", [True, False])
    async def test_a_close_tells_both_sides_code_and_reason(self, world: World, by_client: bool) -> None:
        client, server = await world.pair()
        closing, other = (client, server) if by_client else (server, client)
        closing.connection.close(4001, "enough")
        assert closing.reasons == []  # never from within a call
        assert await closing.ended() == CloseReason(4001, "enough", by_peer=False)
        assert await other.ended() == CloseReason(4001, "enough", by_peer=True)

    async def test_what_was_written_before_a_close_arrives(self, world: World) -> None:
        client, server = await world.pair()
        stream = client.connection.open_stream()
        assert stream is not None
        client.connection.write(stream, bytes(200_000), fin=True)
        client.connection.close(3000)
        assert await server.ended() == CloseReason(3000, "", by_peer=True)
        assert len(server.data[stream]) == 200_000
        assert server.finished == [stream]

    async def test_a_close_from_within_a_callback_works(self, world: World) -> None:
        client, server = await world.pair()
        server.on_data = lambda stream_id, data, fin: server.connection.close(4002, "seen")
        stream = client.connection.open_stream()
        assert stream is not None
        client.connection.write(stream, b"x")
        client.connection.flush()
        assert await client.ended() == CloseReason(4002, "seen", by_peer=True)
        assert await server.ended() == CloseReason(4002, "seen", by_peer=False)

    async def test_abort_ends_at_once_and_the_peer_learns(self, world: World) -> None:
        client, server = await world.pair()
        client.connection.abort()
        assert client.reasons == [CloseReason(None, "aborted", by_peer=False)]
        assert await server.ended() == CloseReason(None, "aborted by the peer", by_peer=True)
        client.connection.abort()
        client.connection.close(3000)
        await asyncio.sleep(0)
        assert len(client.reasons) == 1

    async def test_abort_after_close_ends_at_once(self, world: World) -> None:
        client, _ = await world.pair()
        client.connection.close(4003, "bye")
        client.connection.abort()
        assert len(client.reasons) == 1
        assert not client.reasons[0].by_peer

    async def test_every_call_is_safe_after_the_close(self, world: World) -> None:
        client, server = await world.pair()
        stream = client.connection.open_stream()
        assert stream is not None
        client.connection.close(3000)
        await client.ended()
        await server.ended()
        for connection in (client.connection, server.connection):
            assert connection.open_stream() is None
            assert connection.open_stream(unidirectional=True) is None
            assert connection.write(stream, bytes(1 << 20), fin=True)
            connection.flush()
            assert connection.unsent_bytes(stream) == 0
            connection.reset_stream(stream, 1)
            connection.stop_stream(stream, 1)
            assert not connection.send_datagram(b"x")
            assert connection.max_datagram_payload_bytes == 0
            assert connection.rtt is None or connection.rtt > 0
            connection.close(3001)
            connection.abort()
        await asyncio.sleep(0)
        assert client.reasons == [CloseReason(3000, "", by_peer=False)]
        assert server.reasons == [CloseReason(3000, "", by_peer=True)]

    async def test_connections_to_one_listener_stay_apart(self, world: World) -> None:
        pairs = [await world.pair() for _ in range(5)]
        for index, (client, _) in enumerate(pairs):
            stream = client.connection.open_stream()
            assert stream == 0
            client.connection.write(stream, b"client %d" % index)
            client.connection.flush()
        for index, (_, server) in enumerate(pairs):
            await server.holds(0, b"client %d" % index)
        pairs[0][0].connection.close(3000)
        await pairs[0][1].ended()
        for client, server in pairs[1:]:
            server.connection.write(0, b"still here")
            server.connection.flush()
            await client.holds(0, b"still here")

    async def test_a_listener_that_stopped_accepting_keeps_what_is_open(self, world: World) -> None:
        client, server = await world.pair()
        world.listener.stop_accepting()
        with pytest.raises(ConnectError, match="takes no new connections: shutting down"):
            await world.dial()
        stream = client.connection.open_stream()
        assert stream is not None
        client.connection.write(stream, b"on")
        client.connection.flush()
        await server.until(lambda: server.data[stream] == b"on")

    async def test_closing_the_listener_ends_its_connections(self, world: World) -> None:
        client, server = await world.pair()
        await world.listener.close()
        assert server.reasons == [CloseReason(None, "aborted", by_peer=False)]
        assert await client.ended() == CloseReason(None, "aborted by the peer", by_peer=True)
        await world.listener.close()
        with pytest.raises(ConnectError):
            await world.dial()

    async def test_an_address_can_be_listened_on_once_and_again_after_close(self, world: World) -> None:
        with pytest.raises(ConnectError, match="in use by another"):
            await world.listen(world.url)
        await world.listener.close()
        world.listener = await world.listen(world.url)
        await world.pair()

    async def test_accept_may_refuse_and_others_still_come_in(
        self, world: World, caplog: pytest.LogCaptureFixture
    ) -> None:
        world.refusal = RuntimeError("not you")
        try:
            reason = (
                await (await world.dial()).ended()
            ).reason  # the client's handshake may be done before the server's
        except ConnectError as error:
            reason = error.message
        assert "not admitted" in reason
        assert "not you" not in reason
        world.refusal = None
        await world.pair()

    async def test_what_the_diallers_accept_raises_comes_out_of_dial(self, world: World) -> None:
        def refuse(connection: Connection) -> Recorder:
            raise LookupError("no receiver")

        with pytest.raises(LookupError, match="no receiver"):
            await world.transport.dial(Address.parse(world.url), accept=refuse, tls=world.client_tls)
        await world.pair()

    async def test_a_connection_that_is_aborted_while_it_is_accepted_is_told(self, world: World) -> None:
        recorders: list[Recorder] = []

        def accept(connection: Connection) -> Recorder:
            recorders.append(Recorder(connection))
            connection.abort()
            return recorders[0]

        with pytest.raises(ConnectError, match="aborted"):
            await world.transport.dial(Address.parse(world.url), accept=accept, tls=world.client_tls)
        assert recorders[0].reasons == [CloseReason(None, "aborted", by_peer=False)]

    async def test_a_receiver_that_raises_loses_its_own_connection_only(
        self, world: World, caplog: pytest.LogCaptureFixture
    ) -> None:
        client, server = await world.pair()
        other_client, other_server = await world.pair()

        def fail(stream_id: int, data: bytes, fin: bool) -> None:
            raise ZeroDivisionError("a bug above")

        server.on_data = fail
        for recorder in (client, other_client):
            stream = recorder.connection.open_stream()
            assert stream is not None
            recorder.connection.write(stream, b"x")
            recorder.connection.flush()
        reason = await client.ended()
        assert reason.code is None
        assert reason.by_peer
        await other_server.until(lambda: other_server.data[0] == b"x")
        assert len(server.reasons) == 1
        assert "a bug above" in caplog.text
        assert caplog.records[0].name == "echostream.transport"

    async def test_a_receiver_that_raises_in_closed_disturbs_nobody(
        self, world: World, caplog: pytest.LogCaptureFixture
    ) -> None:
        client, server = await world.pair()

        def fail(reason: CloseReason) -> None:
            Recorder.closed(server, reason)
            raise ZeroDivisionError("a bug above")

        server.closed = fail  # type: ignore[method-assign]
        client.connection.close(3000)
        assert (await server.ended()).code == 3000
        assert "raised in closed()" in caplog.text
        await world.pair()

    async def test_a_connection_knows_its_peer(self, world: World) -> None:
        client, server = await world.pair()
        assert client.connection.info == server.connection.info
        assert client.connection.info.scheme == world.transport.scheme
        assert client.connection.info.multiplexed == client.connection.info.datagrams
        assert client.connection.info.datagrams == isinstance(self, DatagramConformance)
        assert client.connection.peer_address in world.url
        assert server.connection.peer_address
        assert server.connection.peer_certificate is None
        assert "OPEN" in repr(client.connection)
        client.connection.abort()
        assert "CLOSED" in repr(client.connection)
        assert world.url in repr(world.listener)


class DatagramConformance(TransportConformance):
    """What holds, besides, of transports with datagrams and independent streams."""

    async def test_datagrams_travel_both_ways_up_to_the_limit(self, world: World) -> None:
        client, server = await world.pair()
        limit = client.connection.max_datagram_payload_bytes
        assert limit >= 1160
        assert client.connection.send_datagram(b"a" * limit)
        assert not client.connection.send_datagram(b"a" * (limit + 1))
        client.connection.flush()
        await server.until(lambda: server.datagrams)
        assert server.datagrams == [b"a" * limit]
        assert server.connection.send_datagram(b"")
        server.connection.flush()
        await client.until(lambda: client.datagrams)
        assert client.datagrams == [b""]

    async def test_a_datagram_is_told_with_the_time_of_its_arrival(self, world: World) -> None:
        """The stamps of one that is sent at once enclose its way, whoever makes them."""
        client, server = await world.pair()
        for count, stamps in enumerate((False, True, True, False), 1):
            server.connection.stamp_arrivals(stamps)
            left_ns = client.connection.send_datagram_now(b"now")
            await server.until(partial(server.has_datagrams, count))
            assert left_ns is not None
            assert left_ns <= server.arrivals_ns[-1] <= clock.monotonic_ns()
        assert client.connection.send_datagram_now(bytes(1 << 16)) is None
        client.connection.abort()
        assert client.connection.send_datagram_now(b"late") is None

    async def test_the_room_for_datagrams_is_what_is_left_beyond_those_that_wait(self, world: World) -> None:
        client, server = await world.pair()
        room = client.connection.datagram_room_bytes
        assert room >= 2000
        sent = 0
        while client.connection.datagram_room_bytes >= 1000 and client.connection.send_datagram(bytes(1000)):
            sent += 1
        assert sent >= 2
        assert client.connection.datagram_room_bytes <= room - 1000 * sent
        client.connection.flush()
        await server.until(lambda: len(server.datagrams) == sent)
        await client.until(lambda: client.connection.datagram_room_bytes >= room)  # all of it again
        client.connection.abort()
        assert client.connection.datagram_room_bytes == 0

    async def test_the_datagram_queue_is_bounded(self, world: World) -> None:
        client, _ = await world.pair()
        taken = 0
        while client.connection.send_datagram(bytes(1000)):
            taken += 1
            assert taken < 10_000
        assert taken >= 64
