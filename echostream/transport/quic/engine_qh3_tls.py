"""What qh3 shall say otherwise in a handshake: a server no early data, and its own reset token; a client one hello."""

from __future__ import annotations

from functools import partial

from qh3.quic.connection import QuicConnection
from qh3.quic.tls_bridge import QuicTlsBridge, QuicTlsCryptoData

from echostream.transport.quic.engine import ResetToken
from echostream.transport.quic.engine_qh3_path import ClientOfLargePackets

__all__ = ("ClientOfOneHello", "ServerWithoutEarlyData", "derive_reset_token")

_Hello = tuple[QuicTlsBridge, int, tuple[QuicTlsCryptoData, ...]]


class ClientOfOneHello(ClientOfLargePackets):
    """After a Retry qh3's client says another hello, with new keys; RFC 9000 section 17.2.5.2 wants the same."""

    _hello: _Hello | None = None

    def _create_tls(self, remote_source_cid: bytes | None) -> QuicTlsBridge:
        hello, self._hello = self._hello, None
        if hello is not None and _may_repeat_hello(self, hello):
            return _repeat_hello(self, hello)
        bridge = super()._create_tls(remote_source_cid)
        start = bridge.start

        def start_and_note() -> None:
            start()
            self._hello = _hello(bridge)

        bridge.start = start_and_note  # type: ignore[method-assign]
        return bridge


class ServerWithoutEarlyData(QuicConnection):
    """qh3's server invites everybody who gets a ticket to send early data with it."""

    def _create_tls(self, remote_source_cid: bytes | None) -> QuicTlsBridge:
        bridge = super()._create_tls(remote_source_cid)
        _withhold_early_data(bridge)
        return bridge


# The private attributes of qh3, one function each.
# pyright: reportPrivateUsage=false


def _hello(bridge: QuicTlsBridge) -> _Hello:
    """Return the hello that is to be sent, its version, and who says it."""
    return bridge, bridge.version, tuple(bridge._outbound)


def _may_repeat_hello(quic: QuicConnection, hello: _Hello) -> bool:
    """Return whether this is a Retry; with a ticket the hello brings keys for early data, which would be missed."""
    is_retry = quic._retry_source_connection_id is not None and hello[1] == quic._version
    return is_retry and quic.configuration.session_ticket is None


def _repeat_hello(quic: QuicConnection, hello: _Hello) -> QuicTlsBridge:
    """Let the next thing that is said be a hello that was said before."""
    bridge, _, said = hello
    bridge.retry_source_connection_id = quic._retry_source_connection_id
    bridge.start = partial(bridge._outbound.extend, said)  # type: ignore[method-assign]
    quic._tls = bridge
    return bridge


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
