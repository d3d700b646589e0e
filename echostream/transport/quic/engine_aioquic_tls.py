"""What of aioquic's TLS is other than we want it: needless keys, two hellos, early data for all, random tokens."""

from __future__ import annotations

from typing import Final

from aioquic.buffer import Buffer  # type: ignore[attr-defined]
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet import pull_quic_transport_parameters
from aioquic.tls import Context, Epoch, ExtensionType, Group

from echostream.transport.quic.engine import MarkId, ResetToken
from echostream.transport.quic.paths import BASE_DATAGRAM_BYTES

__all__ = (
    "ClientOfOneHello",
    "ServerWithoutEarlyData",
    "derive_reset_tokens",
    "mark_connection_ids",
    "peer_payload_limit",
)

_GROUPS: Final = (Group.SECP256R1, Group.X25519)
"""Whose keys a client makes: every server has one of them (RFC 8446 section 9.1 demands the first). aioquic would make
four; P-384 and X448 take 0.25 ms each, a sixth of all that a handshake costs a client."""
_NO_LIMIT: Final = 65_527
"""Bytes of a UDP payload that a peer takes who says nothing (RFC 9000 section 18.2)."""


class ClientOfOneHello(QuicConnection):
    """A client that makes keys which are likely to be used, and makes them once.

    After a Retry aioquic says another hello, with new keys, where RFC 9000 section 17.2.5.2 wants the same.
    """

    _hello_version: int | None = None

    def _initialize(self, peer_cid: bytes) -> None:
        hello = _hello(self) if _may_repeat_hello(self, self._hello_version) else None
        self._hello_version = _version(self)
        super()._initialize(peer_cid)
        if hello is None:
            _keep_groups(self)
        else:
            _repeat_hello(self, *hello)


class ServerWithoutEarlyData(QuicConnection):
    """aioquic's server invites everybody who gets a ticket to send early data with it."""

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        _withhold_early_data(self)


def peer_payload_limit(quic: QuicConnection) -> int:
    """Return what the peer takes in a packet, which aioquic reads and forgets."""
    for kind, data in quic.tls.received_extensions or ():
        if kind == ExtensionType.QUIC_TRANSPORT_PARAMETERS:
            return pull_quic_transport_parameters(Buffer(data=data)).max_udp_payload_size or _NO_LIMIT
    return BASE_DATAGRAM_BYTES


# The private attributes of aioquic, one function each.
# pyright: reportPrivateUsage=false


def _version(quic: QuicConnection) -> int | None:
    return quic._version


def _may_repeat_hello(quic: QuicConnection, version: int | None) -> bool:
    """Return whether this is a Retry; with a ticket the hello brings keys for early data, which would be missed."""
    is_retry = quic._retry_source_connection_id is not None and version == quic._version
    return is_retry and quic.configuration.session_ticket is None


def _hello(quic: QuicConnection) -> tuple[Context, bytes]:
    """Return the hello that was said, and who said it."""
    return quic.tls, bytes(quic._crypto_streams[Epoch.INITIAL].sender._buffer)


def _repeat_hello(quic: QuicConnection, tls: Context, hello: bytes) -> None:
    """Let the next thing that is said be a hello that was said before."""

    def repeat(_: bytes, output: dict[Epoch, Buffer]) -> None:
        del tls.handle_message
        output[Epoch.INITIAL].push_bytes(hello)

    tls.handle_message = repeat  # type: ignore[method-assign, assignment]
    quic.tls = tls


def _keep_groups(quic: QuicConnection) -> None:
    quic.tls._supported_groups = [group for group in quic.tls._supported_groups if group in _GROUPS]


def _withhold_early_data(quic: QuicConnection) -> None:
    quic.tls._max_early_data = None


def derive_reset_tokens(quic: QuicConnection, reset_token: ResetToken) -> None:
    """Give the own ids tokens of ours, now and whenever more are issued; aioquic draws them at random."""
    replenish = quic._replenish_connection_ids

    def replenish_and_derive() -> None:
        replenish()
        for item in quic._host_cids:
            if not item.was_sent:
                item.stateless_reset_token = reset_token(item.cid)

    quic._replenish_connection_ids = replenish_and_derive  # type: ignore[method-assign]
    first = quic._host_cids[0]
    first.stateless_reset_token = reset_token(first.cid)


def mark_connection_ids(quic: QuicConnection, mark_id: MarkId) -> None:
    """Mark the own ids, now and whenever more are issued; before their tokens are derived."""
    replenish = quic._replenish_connection_ids

    def replenish_and_mark() -> None:
        replenish()
        for item in quic._host_cids:
            if not item.was_sent:
                item.cid = mark_id(item.cid)

    quic._replenish_connection_ids = replenish_and_mark  # type: ignore[method-assign]
    first = quic._host_cids[0]
    first.cid = quic.host_cid = quic._local_initial_source_connection_id = mark_id(first.cid)
