"""A client that goes on from another address of its machine, by itself."""

from __future__ import annotations

import asyncio
import errno
import socket
import sys
from typing import Any

import pytest

from echostream.config import QuicSettings
from echostream.transport.quic import QuicTransport, roaming
from echostream.transport.sockets import SocketAddress
from echostream.transport.tls import ClientTls, ServerTls
from tests.transport.conformance import World, eventually
from tests.transport.lab import Pair, both_engines, every_pair
from tests.transport.scene import Scene, send, simulated


@every_pair
def test_an_active_migration_uses_a_fresh_id_and_loses_nothing(engines: Pair) -> None:
    async def scenario(scene: Scene) -> None:
        client, server = await scene.join()
        where, ids = server.connection.peer_address, set(scene.endpoint._routes)
        stream = client.connection.open_stream()
        assert stream is not None
        with scene.network.host("client"):
            client.connection.write(stream, b"a" * 100_000)
            client.connection.flush()
            client.connection._link.migrate()  # type: ignore[attr-defined]
        await asyncio.sleep(0.05)
        with scene.network.host("client"):
            client.connection.write(stream, b"b" * 100_000, fin=True)
            client.connection.flush()
        await asyncio.sleep(2.0)
        assert server.data[stream] == b"a" * 100_000 + b"b" * 100_000
        assert server.connection.peer_address != where
        assert not ids <= set(scene.endpoint._routes)  # the last one is retired
        send(server)
        await asyncio.sleep(0.1)
        assert client.datagrams
        assert client.reasons == server.reasons == []
        assert [leak for leak in scene.network.leaks() if "socket" in leak and "server" not in leak] == [
            "socket client:49153"
        ]

    simulated(scenario, engines)


def make_world(engines: Pair) -> World:
    client, server = (QuicTransport(engine=engine, settings=QuicSettings()) for engine in engines)
    trust = ClientTls.load(ca="dev")
    return World(client, "quic://127.0.0.1:0", client_tls=trust, server_tls=ServerTls.load(), server_transport=server)


class Machine:
    """Gives a client's sockets the source address that the machine has now."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.address = "127.0.0.1"
        self.sockets: list[socket.socket] = []
        self.error: OSError | None = None
        monkeypatch.setattr(roaming, "dial_udp", self.dial)

    def dial(self, family: int, target: SocketAddress, *, buffer_bytes: int) -> socket.socket:
        if self.error is not None:
            raise self.error
        sock = socket.socket(family, socket.SOCK_DGRAM)
        sock.setblocking(False)
        sock.bind((self.address, 0))
        sock.connect(target)
        self.sockets.append(sock)
        return sock


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere 127.0.0.2 is nobody's")
@both_engines
async def test_a_client_whose_address_is_gone_goes_on_from_the_new_one(
    engines: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch)
    world = make_world(engines)
    await world.open()
    client, server = await world.pair()
    link: Any = client.connection._link  # type: ignore[attr-defined]
    stream = client.connection.open_stream()
    assert stream is not None
    client.connection.write(stream, b"a")
    client.connection.flush()
    await server.until(lambda: server.data[stream])

    link.look_around(1e9)  # nothing has changed
    await eventually(lambda: link._move is None)
    assert len(machine.sockets) == 2
    assert server.connection.peer_address.startswith("127.0.0.1:")

    machine.error = OSError(errno.ENETUNREACH, "network is unreachable")
    link.failed(machine.error)
    link._looked_at = None
    link.look_around(2e9)  # there is no network at all
    await eventually(lambda: link._move is None)
    assert client.reasons == []

    machine.error, machine.address = None, "127.0.0.2"
    link._looked_at = None
    link.failed(OSError(errno.ENETUNREACH, "network is unreachable"))
    await eventually(lambda: server.connection.peer_address.startswith("127.0.0.2:"))
    client.connection.write(stream, b"b", fin=True)
    client.connection.flush()
    await server.until(lambda: server.finished)
    assert server.data[stream] == b"ab"
    server.connection.write(stream, b"c", fin=True)
    server.connection.flush()
    await client.until(lambda: client.finished)
    assert sum(sock.fileno() >= 0 for sock in machine.sockets) == 1
    assert client.reasons == server.reasons == []
    await world.close()


@both_engines
def test_a_client_that_hears_nothing_looks_around_now_and_then(engines: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(scene: Scene) -> None:
        client, server = await scene.join()
        link: Any = client.connection._link  # type: ignore[attr-defined]
        looks: list[float] = []

        def look(endpoint: object) -> bool:
            looks.append(scene.network.now)
            return False

        monkeypatch.setattr(type(link), "_is_elsewhere", look)
        await asyncio.sleep(3.0)
        assert looks == []  # nothing was expected
        scene.network.partition("server")
        send(client)
        await asyncio.sleep(10.0)
        assert 2 <= len(looks) <= 10
        scene.network.heal()
        await asyncio.sleep(10.0)
        assert server.datagrams or client.reasons == []

    simulated(scenario, engines)


@both_engines
@pytest.mark.parametrize("end", ["before", "meanwhile", "closed"])
async def test_a_connection_that_ends_while_it_moves_leaves_nothing(
    engines: Pair, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(engines)
    await world.open()
    client, _ = await world.pair()
    link: Any = client.connection._link  # type: ignore[attr-defined]
    opened = type(link).open

    async def open_slowly(self: Any, *args: Any, **options: Any) -> None:
        client.connection.abort()
        await opened(self, *args, **options)

    if end == "meanwhile":
        monkeypatch.setattr(type(link), "open", open_slowly)
    link.migrate()
    if end == "before":
        client.connection.abort()
    if end == "closed":
        link.close()
    await eventually(lambda: link._socket.closed and (link._move is None or link._move.done()))
    await world.close()
