"""What a server of qh3 shall say otherwise in its handshake: no early data, its own reset token."""

from __future__ import annotations

from qh3.quic.connection import QuicConnection
from qh3.quic.tls_bridge import QuicTlsBridge

from echostream.transport.quic.engine import ResetToken

__all__ = ("ServerWithoutEarlyData", "derive_reset_token")


class ServerWithoutEarlyData(QuicConnection):
    """qh3's server invites everybody who gets a ticket to send early data with it."""

    def _create_tls(self, remote_source_cid: bytes | None) -> QuicTlsBridge:
        bridge = super()._create_tls(remote_source_cid)
        _withhold_early_data(bridge)
        return bridge


# The private attributes of qh3, one function each.
# pyright: reportPrivateUsage=false


def _withhold_early_data(bridge: QuicTlsBridge) -> None:
    bridge.tls._max_early_data = None


def derive_reset_token(quic: QuicConnection, reset_token: ResetToken) -> None:
    """Give the id of a server's handshake a token of ours; qh3 draws it at random."""
    create = quic._create_tls

    def create_with_token(remote_source_cid: bytes | None) -> QuicTlsBridge:
        bridge = create(remote_source_cid)
        bridge.stateless_reset_token = reset_token(quic.host_cid)
        extensions = bridge.tls.handshake_extensions  # already made, with the one that was drawn
        bridge.tls.handshake_extensions = [(kind, bridge.serialize_transport_parameters()) for kind, _ in extensions]
        return bridge

    quic._create_tls = create_with_token  # type: ignore[method-assign]
