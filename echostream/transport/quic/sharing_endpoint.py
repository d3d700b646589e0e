"""A worker's endpoint on a port that several share: packets of another's connections are handed over to it.

An id names its worker (`sharing.py`). Where an engine draws ids that name another one, that one is told where they
live, and again when it was restarted: so a packet takes one hop, or two, and nobody asks around.
"""

from __future__ import annotations

import socket
import struct
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from echostream.config import QuicSettings
from echostream.transport.quic.demux import CONNECTION_ID_BYTES
from echostream.transport.quic.endpoint import Endpoint, Greeter
from echostream.transport.quic.former import Farewell
from echostream.transport.quic.life import ConnectionLife
from echostream.transport.quic.sharing import PortShare
from echostream.transport.sockets import SocketAddress, VirtualPort
from echostream.transport.udp import Packet
from echostream.types import clock

__all__ = ("SharingEndpoint",)

_PACKET: Final = 0
_LIVES: Final = 1
_GONE: Final = 2
_BEGUN: Final = 3
_IDS_PER_MESSAGE: Final = 1000
_HEADER: Final = struct.Struct("!BBBHII")
"""Of a packet that is handed over: kind, lengths of host and own address, port, flow information, scope."""
_MAX_ELSEWHERE: Final = 65_536
"""Ids of others' connections, about 12 MB; above it the oldest are forgotten: a client that moves to one is lost."""


class SharingEndpoint(Endpoint):
    """The owner of one of the sockets.

    Args:
        greeter: answers those that are nobody's.
        share: the socket, and the way to the other workers.
    """

    def __init__(self, greeter: Greeter, share: PortShare) -> None:
        super().__init__(greeter)
        self._share = share
        self._elsewhere: OrderedDict[bytes, int] = OrderedDict()
        self._taking = False

    async def open(self, sock: socket.socket | VirtualPort, settings: QuicSettings, *, connected: bool) -> None:
        await super().open(sock, settings, connected=connected)
        share = self._share
        share.open(self._take)
        for worker in range(len(share.outboxes)):
            if worker != share.number:
                share.send(worker, bytes((_BEGUN, share.number)))

    def close(self) -> None:
        super().close()
        self._share.close()

    def route(self, connection_id: bytes, connection: ConnectionLife) -> None:
        super().route(connection_id, connection)
        self._tell(_LIVES, (connection_id,))

    def unroute(self, connection_id: bytes, connection: ConnectionLife) -> None:
        super().unroute(connection_id, connection)
        self._tell(_GONE, (connection_id,))

    def forget(self, connection: ConnectionLife, farewell: Farewell | None) -> None:
        connection_ids = self.connections.get(connection, set())
        super().forget(connection, farewell)
        self._tell(_GONE, connection_ids)

    def _take_stray(self, packet: Packet, connection_id: bytes, now: float) -> None:
        if self._former.knows(connection_id, now) or not self._pass_on(packet, connection_id):
            super()._take_stray(packet, connection_id, now)

    def _pass_on(self, packet: Packet, connection_id: bytes) -> bool:
        """Hand a packet to the worker whose connection it may be of; False when it is nobody's."""
        worker = self._share.owner(connection_id)
        if worker == self._share.number:
            if connection_id not in self._elsewhere:
                return False
            worker = self._elsewhere[connection_id]
        elif self._taking:  # the connection ended while this was on its way
            self.counters.unknown_connection_ids += 1
            return True
        if self._share.send(worker, _encode(packet)):
            self.counters.packets_handed_over += 1
        else:
            self.counters.packets_not_handed_over += 1
        return True

    def _tell(self, kind: int, connection_ids: Iterable[bytes]) -> None:
        """Say to those that are named by ids of this worker whose they are, or that they are no more."""
        share = self._share
        by_worker: dict[int, list[bytes]] = {}
        for connection_id in connection_ids:
            named = share.owner(connection_id)
            if named != share.number and len(connection_id) == CONNECTION_ID_BYTES:  # a client's own may be longer
                by_worker.setdefault(named, []).append(connection_id)
        for named, its in by_worker.items():
            for start in range(0, len(its), _IDS_PER_MESSAGE):
                share.send(named, b"".join((bytes((kind, share.number)), *its[start : start + _IDS_PER_MESSAGE])))

    def _take(self, messages: list[bytes]) -> None:
        """Take what the other workers sent."""
        packets: list[Packet] = []
        for message in messages:
            if message[0] == _PACKET:
                packets.append(_decode(message))
            else:
                self._note(message[0], message[1], message[2:])
        if packets:
            self._taking = True
            try:
                self.received(packets, clock.monotonic_ns())
            finally:
                self._taking = False

    def _note(self, kind: int, worker: int, connection_ids: bytes) -> None:
        """Remember where ids live that name this worker."""
        elsewhere = self._elsewhere
        if kind == _BEGUN:  # it knows nothing of its former life
            for connection_id in [item for item, owner in elsewhere.items() if owner == worker]:
                del elsewhere[connection_id]
            self._tell(_LIVES, [item for item in self._routes if self._share.owner(item) == worker])
            return
        for start in range(0, len(connection_ids), CONNECTION_ID_BYTES):
            connection_id = connection_ids[start : start + CONNECTION_ID_BYTES]
            if kind == _LIVES:
                elsewhere[connection_id] = worker
            elif elsewhere.get(connection_id) == worker:
                del elsewhere[connection_id]
        while len(elsewhere) > _MAX_ELSEWHERE:
            elsewhere.popitem(last=False)


def _encode(packet: Packet) -> bytes:
    data, address, source = packet
    host, own = address[0].encode(), source or b""
    flow, scope = address[2:] if len(address) == 4 else (0, 0)
    return b"".join((_HEADER.pack(_PACKET, len(host), len(own), address[1], flow, scope), host, own, data))


def _decode(message: bytes) -> Packet:
    _, host_bytes, own_bytes, port, flow, scope = _HEADER.unpack_from(message)
    own_at = _HEADER.size + host_bytes
    host, own = message[_HEADER.size : own_at].decode(), message[own_at : own_at + own_bytes]
    address: SocketAddress = (host, port, flow, scope) if ":" in host else (host, port)
    return message[own_at + own_bytes :], address, own or None
