"""How large packets may be with qh3: what a path carries and loses, and what this side takes."""

from __future__ import annotations

from dataclasses import replace

from qh3._hazmat import Buffer
from qh3.quic.connection import QuicConnection
from qh3.quic.packet import pull_quic_transport_parameters, push_quic_transport_parameters
from qh3.quic.tls_bridge import QuicTlsBridge

__all__ = ("ClientOfLargePackets", "cap_path", "fit_path", "lost_count", "outstanding", "path_bytes")


class ClientOfLargePackets(QuicConnection):
    """qh3's client tells servers that it takes no packets above 1,472 bytes, though it does."""

    def _create_tls(self, remote_source_cid: bytes | None) -> QuicTlsBridge:
        bridge = super()._create_tls(remote_source_cid)
        _announce_no_limit(bridge)
        return bridge


# The private attributes of qh3, one function each.
# pyright: reportPrivateUsage=false


def path_bytes(quic: QuicConnection) -> int:
    """Return what the setting, the peer and the path carry in a packet."""
    return 0 if quic._core is None else quic._core.active_path[5]


def cap_path(quic: QuicConnection, size: int) -> None:
    """Say that the peer takes no larger packets, for the rest of the connection; nothing before the handshake."""
    given = quic._applied_transport_parameters
    if quic._core is None or given is None:
        return
    quic._applied_transport_parameters = None
    given.max_udp_payload_size = min(given.max_udp_payload_size or size, size)
    quic._drain_tls()  # applies what it has not yet


def lost_count(quic: QuicConnection) -> int:
    """Return how many packets were lost so far."""
    return 0 if quic._core is None else quic._core.loss_total


def outstanding(quic: QuicConnection) -> list[tuple[int, int, int]]:
    """Return number and size of the packets that wait for an acknowledgement."""
    return [] if quic._core is None else quic._core.outstanding_application_packets


def fit_path(quic: QuicConnection, size: int) -> None:
    """Let a server send packets of another size than its configuration says; before its first packet."""
    if quic.configuration.max_datagram_size != size:
        quic._configuration = replace(quic.configuration, max_datagram_size=size)


def _announce_no_limit(bridge: QuicTlsBridge) -> None:
    extensions = []
    for kind, data in bridge.tls.handshake_extensions:
        parameters = pull_quic_transport_parameters(Buffer(data=data))
        parameters.max_udp_payload_size = None
        room = Buffer(capacity=len(data))
        push_quic_transport_parameters(room, parameters)
        extensions.append((kind, room.data))
    bridge.tls.handshake_extensions = extensions
