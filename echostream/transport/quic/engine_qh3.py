"""Makes engines of qh3, a sans-IO QUIC with a native packet core; `engine_qh3_connection.py` is one connection.

These two are the only modules that import qh3.

What qh3 does differently, and what becomes of it here:

- A server must see that a client's address is its own before it answers (`QuicEngines.needs_retry`): qh3 leaves the
  padding out when it counts what a client sent (RFC 9000 section 8.1), and once that budget is short it raises at every
  turn for the rest of the connection. A hello of one packet, such as aioquic's, is always too short for it; qh3's own
  fills two packets, until one of them is lost. So each first packet is answered by a Retry: one round trip more.
- The peer may have 100 bidirectional and 103 unidirectional streams open, whatever `QuicSettings.max_streams` says.
- A DATAGRAM that does not fit the path ends the connection, and none waits for the congestion window: both here.
- The path is not probed: `QuicSettings.max_datagram_bytes` is what is sent, as with aioquic, until that gets lost.
- Of a server's connection ids only the one of the handshake has a reset token of ours. A client that uses another one,
  as after a move that it made itself, learns of the server's restart by its idle timeout.
- A client begins a handshake whose first packet was lost with probes that carry no hello, which its servers must not
  take for its beginning (`life.py`); and where much is lost its window may have no room for the end of the handshake
  (`Qh3Engine.transmit`), or later for a probe: such a connection ends with the idle timeout.
- The ids that a server issues after the handshake name no worker (`sharing.py`).
- A server follows three moves of a client and then ends the connection. One of them may be used up by a validation
  whose answer was lost, which is begun again, or by a client that comes back (`paths.py`).
- A client with early data raises when it probes for the second time, for want of a key that comes later; it goes on at
  its next turn.
"""

from __future__ import annotations

import ssl
from copy import copy
from types import ModuleType
from typing import Any, ClassVar

from qh3.quic import packet
from qh3.quic.configuration import QuicConfiguration
from qh3.quic.connection import QuicConnection
from qh3.tls import SignatureAlgorithm

from echostream.config import ALPN
from echostream.errors import ConfigurationError
from echostream.transport.quic.diagnostics import KeyLog
from echostream.transport.quic.engine import AcceptEngine, MarkId, ResetToken
from echostream.transport.quic.engine_common import CommonEngines
from echostream.transport.quic.engine_qh3_connection import CLOCK_START, Qh3Engine
from echostream.transport.quic.engine_qh3_qlog import Qh3Trace
from echostream.transport.quic.engine_qh3_tls import ClientOfOneHello, ServerWithoutEarlyData, derive_reset_token
from echostream.transport.quic.paths import datagram_bytes
from echostream.transport.quic.tickets import Resumption, ServerTickets
from echostream.transport.sockets import SocketAddress
from echostream.transport.tls import ServerTls

__all__ = ("Qh3Engine", "Qh3Engines")

_MAX_DATAGRAM_FRAME_BYTES = 65_535
"""Announced to the peer; the path is what limits."""
_CONNECTION_IDS = 8
"""Own ids in use at a time, as with aioquic; a qh3 client would take two."""
_INITIAL_RTT = 0.1
"""Seconds, as with aioquic: a lost first packet is sent again after three of them."""
_SIGNATURES = [
    int(item) for item in SignatureAlgorithm if item.name.startswith(("ECDSA_SECP", "ED25519", "RSA_PSS_RSAE_"))
]
"""What a server may sign with: Ed25519 too, and neither PKCS #1 nor SHA-1 (RFC 8446 section 4.4.3) as qh3 would."""


class Qh3Engines(CommonEngines):
    """Makes `Qh3Engine`s."""

    _name = "qh3"
    _packets: ClassVar[ModuleType] = packet
    _qlog_kind = Qh3Trace
    versions = (int(packet.QuicProtocolVersion.VERSION_1), int(packet.QuicProtocolVersion.VERSION_2))
    needs_retry = True

    def connect(
        self, address: SocketAddress, *, server_name: str, now: float, resumption: Resumption | None = None
    ) -> Qh3Engine:
        configuration = self._configuration(is_client=True)
        configuration.server_name = server_name
        configuration.verify_mode = ssl.CERT_NONE  # the chain only: that the peer owns the key is always checked
        configuration.signature_algorithms = _SIGNATURES
        keys: Any = None if self._key_log is None else _HelloKeyLog(self._key_log)
        configuration.secrets_log_file = keys
        configuration.session_ticket = self._ticket_to_offer(resumption)
        configuration.max_datagram_size = datagram_bytes(self._settings, address)
        quic = ClientOfOneHello(configuration=configuration, session_ticket_handler=self._keeper(resumption))
        engine = Qh3Engine(quic, self._settings)
        quic.connect(address, now + CLOCK_START)
        if resumption is not None and resumption.early_data:
            engine.expect_early_data()
        if keys is not None and quic.tls is not None and quic.tls.client_random is not None:
            keys.first_random = quic.tls.client_random.hex()
        return engine

    def can_serve(self, tls: ServerTls) -> bool:
        return self._server_configuration(tls) is not None

    def acceptor(
        self,
        tls: ServerTls,
        reset_token: ResetToken | None = None,
        tickets: ServerTickets | None = None,
        mark_id: MarkId | None = None,
    ) -> AcceptEngine:
        configuration = self._server_configuration(tls)
        if configuration is None:
            raise ConfigurationError("engine", "qh3 cannot sign with this kind of key, choose aioquic or another key")

        fetch, issue = self._issuer(tickets)
        make = QuicConnection if tickets is None or tickets.early_data else ServerWithoutEarlyData

        def accept(original_destination: bytes, retry_source: bytes | None) -> Qh3Engine:
            quic = make(
                configuration=configuration,
                original_destination_connection_id=original_destination,
                retry_source_connection_id=retry_source,
                session_ticket_fetcher=fetch,
                session_ticket_handler=issue,
            )
            if mark_id is not None:
                quic.host_cid = mark_id(quic.host_cid)
            if reset_token is not None:
                derive_reset_token(quic, reset_token)
            return Qh3Engine(quic, self._settings)

        return accept

    def warm_up(self, tls: ServerTls) -> None:
        # The first key exchange of a process takes 25 ms and holds the interpreter meanwhile.
        silent = copy(self)
        silent._key_log = silent._qlogs = None
        hello = silent.connect(("127.0.0.1", 1), server_name="localhost", now=0.0).transmit(0.0)
        first = hello[0][0]
        server = silent.acceptor(tls)(first[6 : 6 + first[5]], None)
        server.receive([data for data, _ in hello], ("127.0.0.1", 2), 0.0)

    def _server_configuration(self, tls: ServerTls) -> QuicConfiguration | None:
        configuration = self._configuration(is_client=False)
        try:
            configuration.load_cert_chain(*tls.to_pem())
        except Exception:  # noqa: BLE001  # its own kinds, of the native part
            return None
        return configuration

    def _configuration(self, *, is_client: bool) -> QuicConfiguration:
        settings = self._settings
        return QuicConfiguration(
            is_client=is_client,
            active_connection_id_limit=_CONNECTION_IDS,
            alpn_protocols=[ALPN],
            idle_timeout=settings.idle_timeout,
            initial_rtt=_INITIAL_RTT,
            max_data=settings.connection_window_bytes,
            max_stream_data=settings.stream_window_bytes,
            max_datagram_size=settings.max_datagram_bytes,
            max_datagram_frame_size=_MAX_DATAGRAM_FRAME_BYTES,
            quic_logger=self._qlogs,
            secrets_log_file=self._key_log,
            probe_datagram_size=is_client,  # see `Qh3Engine._widen`
            supported_versions=list(self.versions),
        )


class _HelloKeyLog:
    """The key log of a client: each secret also under the random of its first hello.

    After a Retry a client with a ticket says another (`ClientOfOneHello`), and wireshark keeps to the first.
    """

    def __init__(self, log: KeyLog) -> None:
        self.first_random = ""
        self._log = log

    def write(self, line: str) -> None:
        """Append."""
        self._log.write(line)
        label, random, secret = line.split()
        if self.first_random not in ("", random):
            self._log.write(f"{label} {self.first_random} {secret}\n")

    def flush(self) -> None:
        """Do nothing: a line is written at once."""
