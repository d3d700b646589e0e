"""Makes UDP sockets, and says their addresses and errors in our words."""

from __future__ import annotations

import contextlib
import socket

__all__ = ("SocketAddress", "bind_udp", "connect_udp", "describe_error", "format_address")

SocketAddress = tuple[str, int] | tuple[str, int, int, int]
"""As the socket module has it: (host, port), for IPv6 also flow information and scope."""


def bind_udp(family: int, address: SocketAddress, *, buffer_bytes: int) -> socket.socket:
    """Make a server's socket; raises OSError."""
    return _make(family, buffer_bytes, bind=address)


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


def _make(
    family: int, buffer_bytes: int, *, bind: SocketAddress | None = None, connect: SocketAddress | None = None
) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            with contextlib.suppress(OSError):  # some kernels refuse what others cut down
                sock.setsockopt(socket.SOL_SOCKET, option, buffer_bytes)
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
