"""What the kernel may say to a client and a server while a connection lives: nothing is lost, nobody else notices."""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from echostream.config import QuicSettings
from echostream.transport.quic import QuicTransport
from echostream.transport.tls import ClientTls, ServerTls
from tests.transport.conformance import Recorder, World
from tests.transport.lab import Pair, both_engines

CONTENT = bytes(range(256)) * 400

pytestmark = both_engines


@pytest.fixture
async def world(engines: Pair) -> AsyncIterator[World]:
    client, server = (QuicTransport(engine=engine, settings=QuicSettings()) for engine in engines)
    world = World(
        client,
        "quic://127.0.0.1:0",
        client_tls=ClientTls.load(ca="dev"),
        server_tls=ServerTls.load(),
        server_transport=server,
    )
    await world.open()
    yield world
    await world.close()


class Failing:
    """A socket whose sends fail for a while."""

    def __init__(self, recorder: Recorder, number: int, count: int, *, only: str = "") -> None:
        self._link: Any = recorder.connection._link  # type: ignore[attr-defined]
        self._sock = self._link._socket._sock
        self._number, self._only = number, only
        self.left = count
        self._link._socket._sock = self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def fileno(self) -> int:
        return int(self._sock.fileno())

    def _call(self, name: str, *args: Any) -> Any:
        if self.left and self._only in {"", name}:
            self.left -= 1
            raise OSError(self._number, os.strerror(self._number))
        return getattr(self._sock, name)(*args)

    def send(self, *args: Any) -> Any:
        return self._call("send", *args)

    def sendto(self, *args: Any) -> Any:
        return self._call("sendto", *args)

    def sendmsg(self, *args: Any) -> Any:
        return self._call("sendmsg", *args)

    def recvmsg(self, *args: Any) -> Any:
        return self._call("recvmsg", *args)


async def carry(sender: Recorder, receiver: Recorder) -> None:
    stream = sender.connection.open_stream(unidirectional=True)
    assert stream is not None
    sender.connection.write(stream, CONTENT, fin=True)
    sender.connection.flush()
    await receiver.until(lambda: stream in receiver.finished)
    assert receiver.data[stream] == CONTENT


@pytest.mark.parametrize("by_client", [True, False], ids=["client", "server"])
@pytest.mark.parametrize("name", ["EMSGSIZE", "ENOBUFS", "ECONNREFUSED", "ENETUNREACH", "ENETDOWN", "EADDRNOTAVAIL"])
async def test_an_error_in_sending_costs_packets_and_no_connection(
    world: World, name: str, by_client: bool, caplog: pytest.LogCaptureFixture
) -> None:
    if by_client:
        # Bystanders of a client have sockets of their own; those of a server share the one that fails.
        client, server = await world.pair()
    bystander = await world.pair()
    if not by_client:
        client, server = await world.pair()
    sender, receiver = (client, server) if by_client else (server, client)
    failing = Failing(sender, getattr(errno, name), 7)
    with caplog.at_level(logging.INFO):
        await carry(sender, receiver)
        await carry(receiver, sender)
        await carry(bystander[1], bystander[0])
    assert failing.left == 0
    # aioquic tells of what it sent again, which it does on a machine that has other work to do.
    assert [record for record in caplog.records if record.name != "quic"] == []
    for recorder in (client, server, *bystander):
        assert recorder.reasons == []


@pytest.mark.parametrize("by_client", [True, False], ids=["client", "server"])
@pytest.mark.parametrize("name", ["ECONNREFUSED", "ENETDOWN"])
async def test_an_error_in_reading_costs_nothing(world: World, name: str, by_client: bool) -> None:
    client, server = await world.pair()
    sender, receiver = (server, client) if by_client else (client, server)
    failing = Failing(receiver, getattr(errno, name), 5, only="recvmsg")
    link: Any = receiver.connection._link  # type: ignore[attr-defined]
    await carry(sender, receiver)
    await carry(receiver, sender)
    assert failing.left == 0
    assert link.counters.socket_errors == 5
    assert client.reasons == server.reasons == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="UDP_SEGMENT is Linux's")
@pytest.mark.parametrize("name", ["EIO", "EINVAL"])
async def test_a_transfer_goes_on_when_the_device_turns_out_not_to_cut_runs(world: World, name: str) -> None:
    client, server = await world.pair()
    failing = Failing(client, getattr(errno, name), 1 << 30, only="sendmsg")
    await carry(client, server)
    assert failing.left == (1 << 30) - 1  # asked once
    link: Any = client.connection._link  # type: ignore[attr-defined]
    assert link.counters.socket_errors == 0
    assert link._socket.dropped_count == 0
