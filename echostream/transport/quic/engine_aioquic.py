"""Makes engines of aioquic, a sans-IO QUIC in Python; `engine_aioquic_connection.py` is one connection.

The modules `engine_aioquic*.py` are the only ones that import aioquic.
"""

from __future__ import annotations

import ssl
from types import ModuleType
from typing import ClassVar

from aioquic.quic import packet
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection

from echostream.config import ALPN
from echostream.transport.quic.engine import AcceptEngine, MarkId, ResetToken
from echostream.transport.quic.engine_aioquic_congestion import CONGESTION_CONTROL
from echostream.transport.quic.engine_aioquic_connection import AioquicEngine, AioquicTrace
from echostream.transport.quic.engine_aioquic_tls import (
    ClientOfOneHello,
    ServerWithoutEarlyData,
    derive_reset_tokens,
    mark_connection_ids,
)
from echostream.transport.quic.engine_common import CommonEngines
from echostream.transport.quic.tickets import Resumption, ServerTickets
from echostream.transport.sockets import SocketAddress
from echostream.transport.tls import ServerTls

__all__ = ("AioquicEngine", "AioquicEngines")

_MAX_DATAGRAM_FRAME_BYTES = 65_535
"""Announced to the peer; the path is what limits."""


class AioquicEngines(CommonEngines):
    """Makes `AioquicEngine`s."""

    _name = "aioquic"
    _packets: ClassVar[ModuleType] = packet
    _qlog_kind = AioquicTrace
    versions = (int(packet.QuicProtocolVersion.VERSION_1), int(packet.QuicProtocolVersion.VERSION_2))

    def connect(
        self, address: SocketAddress, *, server_name: str, now: float, resumption: Resumption | None = None
    ) -> AioquicEngine:
        configuration = self._configuration(is_client=True)
        configuration.server_name = server_name
        configuration.verify_mode = ssl.CERT_NONE  # the chain only: that the peer owns the key is always checked
        configuration.session_ticket = self._ticket_to_offer(resumption)
        quic = ClientOfOneHello(configuration=configuration, session_ticket_handler=self._keeper(resumption))
        engine = AioquicEngine(quic, self._settings)
        quic.connect(address, now)
        if resumption is not None and resumption.early_data:
            engine.expect_early_data()
        return engine

    def acceptor(
        self,
        tls: ServerTls,
        reset_token: ResetToken | None = None,
        tickets: ServerTickets | None = None,
        mark_id: MarkId | None = None,
    ) -> AcceptEngine:
        configuration = self._configuration(is_client=False)
        configuration.certificate = tls.chain[0]
        configuration.certificate_chain = list(tls.chain[1:])
        configuration.private_key = tls.private_key

        fetch, issue = self._issuer(tickets)
        make = QuicConnection if tickets is None or tickets.early_data else ServerWithoutEarlyData

        def accept(original_destination: bytes, retry_source: bytes | None) -> AioquicEngine:
            quic = make(
                configuration=configuration,
                original_destination_connection_id=original_destination,
                retry_source_connection_id=retry_source,
                session_ticket_fetcher=fetch,
                session_ticket_handler=issue,
            )
            if mark_id is not None:
                mark_connection_ids(quic, mark_id)
            if reset_token is not None:
                derive_reset_tokens(quic, reset_token)
            return AioquicEngine(quic, self._settings)

        return accept

    def _configuration(self, *, is_client: bool) -> QuicConfiguration:
        settings = self._settings
        return QuicConfiguration(
            is_client=is_client,
            alpn_protocols=[ALPN],
            idle_timeout=settings.idle_timeout,
            max_data=settings.connection_window_bytes,
            max_stream_data=settings.stream_window_bytes,
            max_datagram_size=settings.max_datagram_bytes,
            congestion_control_algorithm=CONGESTION_CONTROL,
            max_datagram_frame_size=_MAX_DATAGRAM_FRAME_BYTES,
            quic_logger=self._qlogs,
            secrets_log_file=self._key_log,
            supported_versions=list(self.versions),
        )
