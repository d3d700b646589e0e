"""What the kernel says beside a UDP payload, and what it is told: runs of packets, own addresses, times of arrival.

One Linux interface for all three (cmsg(3)); elsewhere none of it is asked for.
"""

from __future__ import annotations

import socket
import struct
import sys
from typing import TYPE_CHECKING, Final

from echostream.types import clock

if TYPE_CHECKING:
    from echostream.transport.sockets import SocketAddress

__all__ = (
    "ANCILLARY_BYTES", "IPV6_RECVPKTINFO", "IP_PKTINFO", "IS_LINUX", "SO_TIMESTAMPNS", "UDP_GRO", "UDP_SEGMENT",
    "Ancillary", "Packet", "on_own_clock", "source_option", "split", "stamp_of",
)  # fmt: skip

Ancillary = list[tuple[int, int, bytes]]

Packet = tuple[bytes, "SocketAddress", bytes | None]
"""Payload, the other side's address, and on a wildcard socket the own address (opaque) that answers must come from."""

IS_LINUX: Final = sys.platform.startswith("linux")

# Not in the socket module before 3.15; the values are Linux's own and fixed for ever.
UDP_SEGMENT: Final = 103
UDP_GRO: Final = 104
IP_PKTINFO: Final = 8
IPV6_RECVPKTINFO: Final = 49
_IPV6_PKTINFO: Final = 50
SO_TIMESTAMPNS: Final = 35

ANCILLARY_BYTES: Final = 128
"""Room for all of it."""

_TIMESPEC: Final = struct.Struct("@ll")
_MAX_STAMP_AGE_NS: Final = 1_000_000_000
"""A packet that seems to have waited longer, or not to have come yet, tells of a calendar that was set."""


def split(packets: list[Packet], data: bytes, address: SocketAddress, ancillary: Ancillary) -> None:
    """Add what one call received to `packets`: a run is cut into the packets that the kernel merged."""
    segment, source = 0, None
    for level, kind, value in ancillary:
        if level == socket.IPPROTO_UDP and kind == UDP_GRO:
            (segment,) = struct.unpack_from("i", value)
        elif level in {socket.IPPROTO_IP, socket.IPPROTO_IPV6}:
            source = value
    if 0 < segment < len(data):
        packets += [(data[start : start + segment], address, source) for start in range(0, len(data), segment)]
    else:
        packets.append((data, address, source))


def source_option(family: int, received: bytes) -> tuple[int, int, bytes]:
    """Turn a received packet-info structure into one that picks the source address only."""
    if family == socket.AF_INET6:
        link_local = received[0] == 0xFE and received[1] & 0xC0 == 0x80
        return socket.IPPROTO_IPV6, _IPV6_PKTINFO, received if link_local else received[:16] + bytes(4)
    return socket.IPPROTO_IP, IP_PKTINFO, bytes(4) + received[4:]


def stamp_of(ancillary: Ancillary) -> int:
    """Return when the kernel took what one call received, in nanoseconds of its calendar; 0 if it does not say."""
    for level, kind, value in ancillary:
        if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS and len(value) == _TIMESPEC.size:
            seconds, nanoseconds = _TIMESPEC.unpack(value)
            return int(seconds) * 1_000_000_000 + int(nanoseconds)
    return 0


def on_own_clock(groups: list[tuple[int, list[Packet]]]) -> list[tuple[int, list[Packet]]]:
    """Turn stamps of the kernel's calendar into those of the monotonic clock, by how long ago they were."""
    calendar_ns, now_ns = int(clock.wall() * 1e9), clock.monotonic_ns()  # in this order: rather late than early
    arrived: list[tuple[int, list[Packet]]] = []
    for stamp, packets in groups:
        age_ns = calendar_ns - stamp
        arrived.append((now_ns - age_ns if 0 <= age_ns <= _MAX_STAMP_AGE_NS else now_ns, packets))
    return arrived
