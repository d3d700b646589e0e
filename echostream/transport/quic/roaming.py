"""A client's endpoint: one connection, and a socket that follows the machine into another network.

A connected socket keeps the source address that it began with, even when the machine has it no longer: what it sends
then is lost, mostly without an error. So when nothing came for a while, or the kernel reports an error, the address is
looked up that a new socket would have. Where it is another one, the connection goes on from there, with a connection
id of its own (RFC 9000 sections 9.2 and 9.5).
"""

from __future__ import annotations

import asyncio
import logging
import socket

from echostream.config import QuicSettings
from echostream.transport.quic.endpoint import Endpoint
from echostream.transport.sockets import SocketAddress, VirtualPort, dial_udp, format_address
from echostream.types import clock

__all__ = ("RoamingEndpoint",)

logger = logging.getLogger("echostream.transport")

_LOOK_EVERY = 1.0
"""Seconds: a look takes some system calls, and a new network some time until it has a route."""


class RoamingEndpoint(Endpoint):
    """Dials from where the machine is.

    Args:
        family: of the server's address.
        target: the server's address.
        settings: sizes of buffers.
    """

    def __init__(self, family: int, target: SocketAddress, settings: QuicSettings) -> None:
        super().__init__()
        self._family = family
        self._target = target
        self._settings = settings
        self._bound: socket.socket | VirtualPort | None = None
        self._looked_at: float | None = None
        self._move: asyncio.Task[None] | None = None

    async def dial(self) -> SocketAddress:
        """Open a socket, instead of one that there may be; returns the server's address as received packets have it.

        Raises:
            OSError: there is no way.
        """
        sock = dial_udp(self._family, self._target, buffer_bytes=self._settings.socket_buffer_bytes)
        before = self._socket
        try:
            await self.open(sock, self._settings, connected=True)
        except BaseException:
            sock.close()
            raise
        if before is not None:
            before.close()
        self._bound = sock
        return sock.getpeername()

    def migrate(self) -> None:
        """Go on from a new socket."""
        if self._move is None:
            self._move = asyncio.get_running_loop().create_task(self._go_on(always=True))

    def close(self) -> None:
        super().close()
        if self._move is not None:
            self._move.cancel()

    def failed(self, error: OSError) -> None:
        super().failed(error)
        self.look_around(clock.monotonic())

    def look_around(self, now: float) -> None:
        """Move if the machine is in another network now."""
        if self._move is None and (self._looked_at is None or now >= self._looked_at + _LOOK_EVERY):
            self._looked_at = now
            self._move = asyncio.get_running_loop().create_task(self._go_on(always=False))

    async def _go_on(self, *, always: bool) -> None:
        try:
            may_move = any(connection.may_move for connection in self.connections)
            if not may_move or not (always or self._is_elsewhere()):
                return
            await self.dial()
        except OSError as error:
            logger.debug("! no way to %s now: %r", format_address(self._target), error)
            return
        finally:
            self._move = None
        if not self.connections and self._socket is not None:
            self._socket.close()  # it ended meanwhile
        for connection in tuple(self.connections):
            connection.moved()
        logger.debug("> %s is reached by another way now", format_address(self._target))

    def _is_elsewhere(self) -> bool:
        """Whether a new socket would have another address."""
        sock = dial_udp(self._family, self._target, buffer_bytes=self._settings.socket_buffer_bytes)
        try:
            return self._bound is not None and sock.getsockname()[0] != self._bound.getsockname()[0]
        finally:
            sock.close()
