"""Makes UDP sockets, and says their addresses and errors in our words."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from echostream.transport.udp import UdpHandler, UdpSocket

__all__ = (
    "SocketAddress",
    "UdpNetwork",
    "VirtualPort",
    "bind_udp",
    "connect_udp",
    "describe_error",
    "dial_udp",
    "format_address",
    "listen_udp",
)

SocketAddress = tuple[str, int] | tuple[str, int, int, int]
"""As the socket module has it: (host, port), for IPv6 also flow information and scope."""


@runtime_checkable
class VirtualPort(Protocol):
    """A socket of a network that is not the system's; `udp.open_udp` attaches it."""

    def getsockname(self) -> SocketAddress:
        """Where it is bound."""
        ...

    def getpeername(self) -> SocketAddress:
        """Where it is connected to."""
        ...

    def close(self) -> None:
        """Release it before it was attached."""

    def attach(self, handler: UdpHandler, *, max_pending: int) -> UdpSocket:
        """Begin to read."""
        ...


class UdpNetwork(Protocol):
    """A network that the running loop brings along in ``loop.surroundings``: the simulator's."""

    def bind(self, family: int, address: SocketAddress) -> VirtualPort:
        """Make a server's socket; raises OSError."""
        ...

    def connect(self, family: int, address: SocketAddress) -> VirtualPort:
        """Make a client's socket; raises OSError."""
        ...


def listen_udp(family: int, address: SocketAddress, *, buffer_bytes: int) -> socket.socket | VirtualPort:
    """Make a server's socket on the network of the running loop; raises OSError."""
    network = _network_of_loop()
    return bind_udp(family, address, buffer_bytes=buffer_bytes) if network is None else network.bind(family, address)


def dial_udp(family: int, address: SocketAddress, *, buffer_bytes: int) -> socket.socket | VirtualPort:
    """Make a client's socket on the network of the running loop; raises OSError."""
    network = _network_of_loop()
    if network is None:
        return connect_udp(family, address, buffer_bytes=buffer_bytes)
    return network.connect(family, address)


def bind_udp(family: int, address: SocketAddress, *, buffer_bytes: int, shared: bool = False) -> socket.socket:
    """Make a server's socket, shared with others that say so; raises OSError."""
    return _make(family, buffer_bytes, bind=address, shared=shared)


def connect_udp(family: int, address: SocketAddress, *, buffer_bytes: int) -> socket.socket:
    """Make a client's socket: connected, so that the kernel reports a refusal and drops strangers; raises OSError."""
    return _make(family, buffer_bytes, connect=address)


def format_address(address: SocketAddress) -> str:
    """Return ``"192.0.2.1:4433"`` or ``"[2001:db8::1]:4433"``; IPv4 that came through an IPv6 socket reads as IPv4."""
    host = address[0].removeprefix("::ffff:") if "." in address[0] else address[0]
    return f"[{host}]:{address[1]}" if ":" in host else f"{host}:{address[1]}"


def describe_error(error: OSError) -> str:
    """Return the operating system's text in our style, such as ``"connection refused"``."""
    return (error.strerror or str(error)).lower()


def _network_of_loop() -> UdpNetwork | None:
    surroundings = getattr(asyncio.get_running_loop(), "surroundings", None)
    network: UdpNetwork | None = None if surroundings is None else surroundings.udp_network
    return network


def _make(
    family: int,
    buffer_bytes: int,
    *,
    bind: SocketAddress | None = None,
    connect: SocketAddress | None = None,
    shared: bool = False,
) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            with contextlib.suppress(OSError):  # some kernels refuse what others cut down
                sock.setsockopt(socket.SOL_SOCKET, option, buffer_bytes)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if bind is not None:
            if bind[0] == "::":
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # IPv4 comes in as ::ffff:192.0.2.1
            sock.bind(bind)
        if connect is not None:
            sock.connect(connect)
    except OSError:
        sock.close()
        raise
    return sock
