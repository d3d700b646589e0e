"""What a server says to strangers: version negotiation, Retry, a new connection, or no.

Owns the limits on half-open handshakes and on what one address may have.
"""

from __future__ import annotations

import logging

from echostream.bucket import TokenBucket
from echostream.config import Limits, QuicSettings
from echostream.transport.base import Accept, Receiver
from echostream.transport.quic.codes import Refusal
from echostream.transport.quic.connection import QuicConnection
from echostream.transport.quic.demux import CONNECTION_ID_BYTES, LongHeader, RetryTokens, version_negotiation_packet
from echostream.transport.quic.endpoint import Endpoint
from echostream.transport.quic.engine import QuicEngines
from echostream.transport.quic.life import ConnectionLife
from echostream.transport.quic.rates import PerNetwork, RatePerNetwork, network_of
from echostream.transport.quic.resets import StatelessResets
from echostream.transport.quic.sharing import PortShare
from echostream.transport.quic.sharing_endpoint import SharingEndpoint
from echostream.transport.quic.tickets import ServerTickets
from echostream.transport.tls import ServerTls
from echostream.transport.udp import Packet
from echostream.types import random_bytes

__all__ = ("Acceptor",)

logger = logging.getLogger("echostream.transport")

_BURST_WITHOUT_RETRY = 4
"""Handshakes that begin at once without a Retry: aioquic needs 6 ms for so many, and everybody else waits meanwhile."""
_ANSWER_BURST_SECONDS = 0.5
"""Of `QuicSettings.max_retries_per_second`, at once."""
_FORGIVEN_AFTER = 8.0
"""Seconds until handshakes that came to nothing count no longer: about as long as one that hangs may take."""
_MIN_INITIAL_BYTES = 1200
"""RFC 9000 section 14.1: a smaller one could make us answer with more than was sent."""


class Acceptor:
    """The greeter of a listener's endpoint.

    Args:
        engines: makes the server engines.
        accept: called once per connection whose handshake is done.
        tls: what the server shows.
        settings: limits on handshakes and connections.
        limits: watermarks.
        reset_key: of stateless resets, see `StatelessResets`.
        early_data: whether clients with a ticket may send data before the handshake is done.
        share: of a port that several processes have; None for a port of its own.
        token_key: of Retry tokens, see `RetryTokens`.
    """

    def __init__(
        self,
        engines: QuicEngines,
        *,
        accept: Accept,
        tls: ServerTls,
        settings: QuicSettings,
        limits: Limits,
        reset_key: bytes,
        early_data: bool = False,
        share: PortShare | None = None,
        token_key: bytes | None = None,
    ) -> None:
        self.endpoint = Endpoint(self) if share is None else SharingEndpoint(self, share)
        self._mark_id = None if share is None else share.mark
        self.is_accepting = True
        self._engines = engines
        self._early_data = early_data
        self.tickets = ServerTickets(settings, early_data=early_data) if settings.max_server_tickets else None
        self._resets = StatelessResets(reset_key, per_second=settings.max_resets_per_second)
        self._make_engine = engines.acceptor(tls, self._resets.token, self.tickets, self._mark_id)
        self._accept = accept
        self._settings = settings
        self._limits = limits
        self._tokens = RetryTokens(token_key)
        self._unproven = TokenBucket(
            settings.retry_above_rate, burst=_BURST_WITHOUT_RETRY, debt=settings.retry_above_rate
        )
        self._answers = TokenBucket(
            settings.max_retries_per_second, burst=settings.max_retries_per_second * _ANSWER_BURST_SECONDS
        )
        most = settings.max_handshakes_per_address
        self._attempts = RatePerNetwork(most / _FORGIVEN_AFTER, burst=most)
        self._networks: dict[ConnectionLife, int] = {}
        self._per_network = PerNetwork()
        self._half_open: set[ConnectionLife] = set()
        self._half_open_per_network = PerNetwork()

    def greet(self, header: LongHeader, packet: Packet, now: float) -> QuicConnection | None:
        """Answer the first packet of a stranger, see `Greeter`."""
        counters = self.endpoint.counters
        if len(packet[0]) < _MIN_INITIAL_BYTES:
            if header.is_initial:
                counters.small_initials += 1
            else:
                counters.unknown_connection_ids += 1
            return None
        if header.version not in self._engines.versions:
            if header.version != 0:  # never answer a version negotiation: two servers would not stop
                self._negotiate_version(header, packet, now)
            return None
        if not header.is_initial or len(header.destination) < CONNECTION_ID_BYTES:
            counters.unknown_connection_ids += 1
            return None
        if len(self._half_open) >= self._settings.max_handshakes:
            counters.handshakes_refused += 1
            return None
        if header.token:
            return self._return(header, packet, now)
        if self._must_prove_address(now):
            self._retry(header, packet, now)
            return None
        return self._open(packet, header.destination, original=header.destination, retry_source=None)

    def reset(self, packet: Packet, connection_id: bytes, now: float) -> None:
        """Tell a peer whose connection is unknown, see `Greeter`."""
        data, address, source = packet
        answer = self._resets.answer(data, connection_id, now)
        if answer is not None:
            self.endpoint.counters.stateless_resets_sent += 1
            self.endpoint.send([(answer, address)], source)

    def forget(self, connection: ConnectionLife) -> None:
        """Make room, see `Greeter`."""
        self._leave_handshake(connection)
        network = self._networks.pop(connection, None)
        if network is not None:
            self._per_network.remove(network)

    def _must_prove_address(self, now: float) -> bool:
        return (
            self._engines.needs_retry
            or len(self._half_open) >= self._settings.retry_above_handshakes
            or not self._unproven.take(now)
        )

    def _negotiate_version(self, header: LongHeader, packet: Packet, now: float) -> None:
        if self._answers.take(now):
            self.endpoint.counters.version_negotiations += 1
            answer = version_negotiation_packet(header, self._engines.versions)
            self.endpoint.send([(answer, packet[1])], packet[2])

    def _retry(self, header: LongHeader, packet: Packet, now: float) -> None:
        if not self._answers.take(now):
            self.endpoint.counters.handshakes_refused += 1
            return
        _, address, source = packet
        retry_source = random_bytes(CONNECTION_ID_BYTES)
        if self._mark_id is not None:
            retry_source = self._mark_id(retry_source)
        answer = self._engines.retry_packet(
            version=header.version,
            source=retry_source,
            destination=header.source,
            original_destination=header.destination,
            token=self._tokens.make(address, original=header.destination, retry_source=retry_source, now=now),
        )
        self.endpoint.counters.retries += 1
        self.endpoint.send([(answer, address)], source)

    def _return(self, header: LongHeader, packet: Packet, now: float) -> QuicConnection | None:
        """Open for a client that came back with a token."""
        original = self._tokens.check(header.token, packet[1], destination=header.destination, now=now)
        if original is None:
            self.endpoint.counters.invalid_tokens += 1
            return None
        if not self._attempts.take(network_of(packet[1][0]), now):  # one token and garbage would cost an engine each
            self.endpoint.counters.handshakes_refused += 1
            return None
        return self._open(packet, header.destination, original=original, retry_source=header.destination)

    def _open(
        self, packet: Packet, destination: bytes, *, original: bytes, retry_source: bytes | None
    ) -> QuicConnection | None:
        counters = self.endpoint.counters
        network = network_of(packet[1][0])
        if self._half_open_per_network[network] >= self._settings.max_handshakes_per_address:
            counters.handshakes_refused += 1
            return None
        try:
            engine = self._make_engine(original, retry_source)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # the panic of a native engine is no Exception
            logger.warning("! no engine for %s: %r", packet[1], error, exc_info=error)
            counters.handshakes_refused += 1
            return None
        refusal = self._find_refusal(network)
        connection = QuicConnection(
            engine,
            self.endpoint,
            address=packet[1],
            settings=self._settings,
            limits=self._limits,
            keepalive=False,
            admit=self._admit,
            refused=self._refused,
            refusal=refusal,
            early_data=self._early_data,
        )
        counters.handshakes_started += 1
        counters.handshakes_refused += refusal is not None
        self._networks[connection] = network
        self._per_network.add(network)
        self._half_open.add(connection)
        self._half_open_per_network.add(network)
        self.endpoint.add(connection, destination, engine.connection_id)
        return connection

    def _find_refusal(self, network: int) -> str | None:
        """Return why a new connection is turned away, if it is."""
        if not self.is_accepting:
            return "shutting down"
        if len(self.endpoint.connections) >= self._settings.max_connections:
            return f"has its {self._settings.max_connections} connections"
        if self._per_network[network] >= self._settings.max_connections_per_address:
            return f"has its {self._settings.max_connections_per_address} connections from your address"
        return None

    def _leave_handshake(self, connection: ConnectionLife) -> None:
        if connection in self._half_open:
            self._half_open.remove(connection)
            self._half_open_per_network.remove(self._networks[connection])

    def _admit(self, connection: ConnectionLife, chain: tuple[bytes, ...]) -> Receiver:
        if connection.early:
            self.endpoint.counters.early_connections += 1
        else:
            self._leave_handshake(connection)
            self._attempts.give_back(self._networks[connection])
            self.endpoint.counters.handshakes_resumed += connection.resumed
        return connection.receiver or self._accept(connection)

    def _refused(self, connection: ConnectionLife, refusal: Refusal) -> None:
        logger.debug("x %s was not admitted: %s", connection.peer_address, refusal.reason)
