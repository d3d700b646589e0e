"""What the adapters of aioquic and of its descendant qh3 share: both have the same calls, events and packets.

Imports neither of them; what differs is in the adapters, which fill in the rest.
"""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any, ClassVar

from echostream.config import QuicSettings
from echostream.transport.quic.diagnostics import QlogDirectory, QlogFile, key_log, qlog_directory
from echostream.transport.quic.engine import EngineSink, QuicEngine, QuicEngines
from echostream.transport.quic.tickets import Resumption, ServerTickets

__all__ = ("MAX_PROBE_DOUBLINGS", "CommonEngine", "CommonEngines", "EndOfConnection")

MAX_PROBE_DOUBLINGS = 3
"""Times that the wait before the next probe of a silent path doubles before it begins again: up to about 3 s at a round
trip of 100 ms. The engines have no end, and so sleep through the moments in which a bad link is up, until the idle
timeout ends the connection; a wait that stays at its longest lets a link that is gone most of the time carry half."""

EndOfConnection = tuple[Any, bool]
"""The engine's `ConnectionTerminated`, and whether the peer closed."""


class CommonEngine(QuicEngine):
    """One connection of either.

    Args:
        quic: the engine's `QuicConnection`.
        settings: sizes, limits.
        qlog: where its events go, if they are wanted.
    """

    _events: ClassVar[ModuleType]
    """The engine's classes of events."""
    _not_possible: ClassVar[tuple[type[Exception], ...]]
    """Raised for a stream that is finished, reset, stopped by the peer or long forgotten."""

    def __init__(self, quic: Any, settings: QuicSettings, qlog: QlogFile | None) -> None:
        self._quic = quic
        self._settings = settings
        self._qlog = qlog
        self._key_update_packets = settings.key_update_packets
        self._protected_count = 0  # packets since the last update of this side
        self._starved = [False, False]  # whether open_stream failed: bidirectional, unidirectional
        self._closed = False

    @property
    def connection_id(self) -> bytes:
        connection_id: bytes = self._quic.host_cid
        return connection_id

    def deliver(self, sink: EngineSink) -> None:
        events = self._events
        next_event = self._quic.next_event
        while (event := next_event()) is not None:
            match event:  # the most frequent first
                case events.StreamDataReceived():
                    sink.on_stream_data(event.stream_id, event.data, event.end_stream)
                case events.DatagramFrameReceived():
                    sink.on_datagram(event.data)
                case events.StreamReset():
                    sink.on_stream_reset(event.stream_id, event.error_code)
                case events.StopSendingReceived():
                    sink.on_stream_stopped(event.stream_id, event.error_code)
                case events.ConnectionIdIssued():
                    sink.on_connection_id(event.connection_id, issued=True)
                case events.ConnectionIdRetired():
                    sink.on_connection_id(event.connection_id, issued=False)
                case events.HandshakeCompleted():
                    self.resumed = event.session_resumed
                    self._settle_early_data(accepted=event.early_data_accepted)
                    self._widen()
                    sink.on_handshake(event.alpn_protocol)
                case _:
                    pass
        if True in self._starved:
            self._deliver_limits(sink)
        self._deliver_close(sink)

    def open_stream(self, *, unidirectional: bool) -> int | None:
        stream_id: int = self._quic.get_next_available_stream_id(unidirectional)
        if stream_id // 4 >= self._stream_limit(unidirectional=unidirectional):
            self._starved[unidirectional] = True
            return None
        try:
            self._quic.send_stream_data(stream_id, b"")  # takes the id: it is handed out again until the first write
        except self._not_possible:
            return None
        return stream_id

    def reset(self, stream_id: int, code: int) -> None:
        try:
            self._quic.reset_stream(stream_id, code)
        except self._not_possible:
            return

    def stop(self, stream_id: int, code: int) -> None:
        try:
            self._quic.stop_stream(stream_id, code)
        except self._not_possible:
            return

    def change_connection_id(self) -> None:
        with contextlib.suppress(*self._not_possible):
            self._quic.change_connection_id()

    def close(self, code: int, reason: str) -> None:
        self._note_close(code, reason)
        self._quic.close(error_code=code, reason_phrase=reason)

    def update_keys(self) -> bool:
        """Take new keys with the next packet (RFC 9001 section 6); False when it cannot be now.

        Neither engine does it by itself, though a peer's update they both follow. `transmit` sees to the limit.
        """
        try:
            self._quic.request_key_update()
        except AssertionError:  # the handshake is not confirmed
            return False
        except self._not_possible:  # the last update is not
            return False
        self._protected_count = 0
        return True

    def _count_protected(self, packets: int) -> None:
        """Keep within what one key may protect."""
        self._protected_count += packets
        if self._protected_count >= self._key_update_packets and not self._closed:
            self.update_keys()

    def _note_close(self, code: int, reason: str, *, by_peer: bool = False) -> None:
        """Let the end be told once."""
        self._closed = True
        if self._qlog is not None:
            self._qlog.end(owner="remote" if by_peer else "local", code=code, reason=reason)

    def _widen(self) -> None:
        """Send packets as large as the settings say from now on."""

    @abstractmethod
    def _stream_limit(self, *, unidirectional: bool) -> int:
        """Return how many streams of a kind the peer allows since the beginning."""

    def _settle_early_data(self, *, accepted: bool) -> None:  # qh3 does it by itself
        """Send again at once what travelled in early data that the server did not take."""

    @abstractmethod
    def _end(self) -> EndOfConnection | None:
        """Return how the connection ended, at once: the event comes three probe timeouts later."""

    def _deliver_limits(self, sink: EngineSink) -> None:
        for unidirectional in (False, True):
            if self._starved[unidirectional]:
                following = self._quic.get_next_available_stream_id(unidirectional)
                if following // 4 < self._stream_limit(unidirectional=unidirectional):
                    self._starved[unidirectional] = False
                    sink.on_streams_available()

    def _deliver_close(self, sink: EngineSink) -> None:
        end = None if self._closed else self._end()
        if end is not None:
            event, by_peer = end
            self._note_close(event.error_code, event.reason_phrase, by_peer=by_peer)
            sink.on_closed(
                application=by_peer and event.frame_type is None,  # the engine has no reasons of the application's
                code=event.error_code,
                reason=event.reason_phrase,
                by_peer=by_peer,
            )


class CommonEngines(QuicEngines):
    """Makes engines of either; their session tickets are alike, too.

    Keys and events are written where the environment says, see diagnostics.py.
    """

    _name: ClassVar[str]
    _packets: ClassVar[ModuleType]
    """The engine's functions for packets."""
    _qlog_kind: ClassVar[type[QlogFile]]
    """The engine's trace of events, into a file."""

    def __init__(self, settings: QuicSettings) -> None:
        self._settings = settings
        self._key_log: Any = key_log()
        directory = qlog_directory()
        self._qlogs: Any = None if directory is None else QlogDirectory(directory, self._qlog_kind, engine=self._name)

    def retry_packet(
        self, *, version: int, source: bytes, destination: bytes, original_destination: bytes, token: bytes
    ) -> bytes:
        packet: bytes = self._packets.encode_quic_retry(
            version=version,
            source_cid=source,
            destination_cid=destination,
            original_destination_cid=original_destination,
            retry_token=token,
        )
        return packet

    @staticmethod
    def _ticket_to_offer(resumption: Resumption | None) -> Any:
        """Return the ticket for a client's configuration: with one that allows early data it would offer some."""
        if resumption is None or resumption.ticket is None:
            return None
        if not resumption.ticket.is_valid:  # by the calendar, which may have been set, and the server's word
            resumption.decline()
            return None
        return resumption.ticket if resumption.early_data else replace(resumption.ticket, max_early_data_size=None)

    @staticmethod
    def _keeper(resumption: Resumption | None) -> Callable[[Any], None] | None:
        """Return what takes a client's new tickets."""
        if resumption is None:
            return None

        def keep(ticket: Any) -> None:
            allowed = ticket.max_early_data_size is not None
            resumption.keep(ticket, ticket.ticket, allows_early_data=allowed)

        return keep

    @staticmethod
    def _issuer(tickets: ServerTickets | None) -> tuple[Callable[[bytes], Any] | None, Callable[[Any], None] | None]:
        """Return what finds a server's tickets, and what takes new ones."""
        if tickets is None:
            return None, None
        return tickets.redeem, lambda ticket: tickets.issue(ticket.ticket, ticket)
