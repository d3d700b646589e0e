"""The metrics of quality: what they are called, and how those of one server or client are read.

Counts are told apart by the name of the stream, and never fall. Gauges are told apart by the address of the peer, too;
where several streams would have the same attributes, the worst one is told. Names follow OpenTelemetry's conventions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from echostream.session.ledger import SESSION_COUNTS, STREAM_COUNTS

if TYPE_CHECKING:
    from echostream.realtime import StreamQuality
    from echostream.session.channel import Channel
    from echostream.session.ledger import QualityLedger
    from echostream.session.session import Session

__all__ = ("METRICS", "PEER", "Attributes", "Figures", "Metric", "put", "read_counts", "read_levels")

Attributes: TypeAlias = tuple[tuple[str, str], ...]

ROLE: Final = "echostream.role"
STREAM: Final = "echostream.stream.name"
REASON: Final = "echostream.drop.reason"
DIRECTION: Final = "network.io.direction"
PEER: Final = "network.peer.address"

_BATCH: Final = 16
"""Streams that are looked at in one turn of the loop: each takes 50 us or so."""


@dataclass(frozen=True, slots=True, eq=False)
class Metric:
    """One of them; a dictionary finds it by its identity."""

    name: str
    kind: Literal["counter", "up_down_counter", "gauge"]
    unit: str
    """In UCUM."""
    description: str


Figures: TypeAlias = dict[Metric, dict[Attributes, float]]

_ITEMS: Final = Metric("echostream.stream.items", "counter", "{item}", "Items sent and received on streams.")
_IO: Final = Metric("echostream.stream.io", "counter", "By", "Payload of the items sent and received on streams.")
_LOST: Final = Metric("echostream.stream.lost", "counter", "{item}", "Items of the other side that did not come.")
_REORDERED: Final = Metric("echostream.stream.reordered", "counter", "{item}", "Items that came after a later one.")
_DROPPED: Final = Metric("echostream.dropped", "counter", "{item}", "What was dropped, and why.")
_LATE: Final = Metric("echostream.jitter_buffer.late", "counter", "{item}", "Items that came after their turn.")
_CONCEALED: Final = Metric(
    "echostream.jitter_buffer.concealed", "counter", "{frame}", "Frames that were missing in their turn."
)
_ACTIVE: Final = Metric("echostream.active_streams", "up_down_counter", "{stream}", "Streams that are open.")
_BUFFERED: Final = Metric(
    "echostream.stream.buffered", "up_down_counter", "{item}", "Items that wait: to be sent, or to be read."
)
_SEND_QUEUE: Final = Metric(
    "echostream.send_queue", "up_down_counter", "By", "What sessions have written and the network has not taken."
)
_LATENCY: Final = Metric(
    "echostream.stream.latency", "gauge", "s", "One way, from timestamp to arrival; mean of ten seconds."
)
_JITTER: Final = Metric("echostream.stream.jitter", "gauge", "s", "Interarrival jitter (RFC 3550).")
_SKEW: Final = Metric("echostream.stream.skew", "gauge", "s", "How long after their turn items were handed out.")
_DELAY: Final = Metric("echostream.jitter_buffer.delay", "gauge", "s", "From the timestamp of an item to its turn.")
_DEPTH: Final = Metric("echostream.jitter_buffer.depth", "gauge", "s", "Media that waits for its turn.")
_RTT: Final = Metric("echostream.rtt", "gauge", "s", "Round trip, smoothed by the transport.")
_OFFSET: Final = Metric("echostream.clock.offset", "gauge", "s", "How far session time is ahead of the local clock.")
_ERROR: Final = Metric("echostream.clock.error", "gauge", "s", "How wrong session time can be at the most.")
_DRIFT: Final = Metric("echostream.clock.drift", "gauge", "[ppm]", "How much faster session time runs.")

METRICS: Final = (
    _ITEMS, _IO, _LOST, _REORDERED, _DROPPED, _LATE, _CONCEALED, _ACTIVE, _BUFFERED, _SEND_QUEUE, _LATENCY, _JITTER,
    _SKEW, _DELAY, _DEPTH, _RTT, _OFFSET, _ERROR, _DRIFT,
)  # fmt: skip

_SENT: Final = (DIRECTION, "transmit")
_CAME: Final = (DIRECTION, "receive")

_OF_STREAMS: Final[Mapping[str, tuple[Metric, Attributes]]] = {
    "sent": (_ITEMS, (_SENT,)),
    "sent_bytes": (_IO, (_SENT,)),
    "unsent": (_DROPPED, (_SENT, (REASON, "full"))),
    "stale": (_DROPPED, (_SENT, (REASON, "stale"))),
    "received": (_ITEMS, (_CAME,)),
    "received_bytes": (_IO, (_CAME,)),
    "lost": (_LOST, ()),
    "reordered": (_REORDERED, ()),
    "duplicated": (_DROPPED, (_CAME, (REASON, "duplicate"))),
    "strays": (_DROPPED, (_CAME, (REASON, "stray"))),
    "dropped": (_DROPPED, (_CAME, (REASON, "unread"))),
    "late": (_LATE, ()),
    "concealed": (_CONCEALED, ()),
}
_OF_SESSIONS: Final[Mapping[str, tuple[Metric, Attributes]]] = {
    "dropped_datagrams": (_DROPPED, (_CAME, (REASON, "malformed"))),
    "late_frames": (_DROPPED, (_CAME, (REASON, "ended"))),
    "dropped_events": (_DROPPED, (_CAME, (REASON, "slow_listener"))),
}


def put(figures: Figures, metric: Metric, attributes: Attributes, value: float) -> None:
    """Add a value to what has the same attributes; of gauges the one that is further from 0 is kept."""
    series = figures.setdefault(metric, {})
    before = series.get(attributes, 0)
    series[attributes] = max(before, value, key=abs) if metric.kind == "gauge" else before + value


def read_counts(role: str, streams: Mapping[str, tuple[int, ...]], sessions: tuple[int, ...]) -> Figures:
    """Return the counters of one server or client, from the totals of its ledger."""
    figures: Figures = {}
    for name, counts in streams.items():
        if any(counts):
            for field, count in zip(STREAM_COUNTS, counts, strict=True):
                metric, attributes = _OF_STREAMS[field]
                put(figures, metric, ((ROLE, role), (STREAM, name), *attributes), count)
    for field, count in zip(SESSION_COUNTS, sessions, strict=True):
        metric, attributes = _OF_SESSIONS[field]
        put(figures, metric, ((ROLE, role), *attributes), count)
    return figures


def read_levels(
    role: str, ledger: QualityLedger, apart: Callable[[Attributes, str], Attributes]
) -> Generator[None, None, Figures]:
    """Look at all that is open, and return how high it stands; yields where the loop may go on meanwhile.

    Args:
        role: of the server or client.
        ledger: of the same.
        apart: returns the attributes of a gauge with the address of the peer.
    """
    figures: Figures = {}
    for number, (name, channel, sent, received) in enumerate(ledger.look(), 1):
        named: Attributes = ((ROLE, role), (STREAM, name))
        put(figures, _ACTIVE, named, 1)
        put(figures, _BUFFERED, (*named, _SENT), sent.queued)
        put(figures, _BUFFERED, (*named, _CAME), received.buffered)
        gauges = apart(named, _host(channel.session.peer_address))
        for metric, value in _of_stream(channel, received):
            put(figures, metric, gauges, value)
        if number % _BATCH == 0:
            yield
    own: Attributes = ((ROLE, role),)
    for session in ledger.sessions():
        if session.peer.lost is None:
            peer = session.peer
            put(figures, _SEND_QUEUE, own, sum(map(peer.connection.unsent_bytes, peer.backlog.streams)))
            gauges = apart(own, _host(session.peer_address))
            for metric, value in _of_session(session):
                put(figures, metric, gauges, value)
    return figures


def _of_stream(channel: Channel, received: StreamQuality) -> Generator[tuple[Metric, float]]:
    if channel.stream is not None and channel.stream.timed and received.received:
        yield _JITTER, received.jitter_ns / 1e9
    if received.latency_ns is not None:
        yield _LATENCY, received.latency_ns / 1e9
    if channel.aligner is not None:
        yield _DELAY, received.playout_delay_ns / 1e9
        yield _DEPTH, received.buffered_ns / 1e9
        if channel.aligner.skew_ns is not None:
            yield _SKEW, channel.aligner.skew_ns / 1e9


def _of_session(session: Session) -> Generator[tuple[Metric, float]]:
    if session.peer.connection.rtt is not None:
        yield _RTT, session.peer.connection.rtt
    clock = session.estimated_clock
    if clock is not None and math.isfinite(clock.error_bound_ns):
        yield _OFFSET, clock.offset_ns / 1e9
        yield _ERROR, clock.error_bound_ns / 1e9
        yield _DRIFT, clock.drift_ppm


def _host(address: str) -> str:
    """Return an address without its port, which differs from connection to connection."""
    host, _, port = address.rpartition(":")
    return host.strip("[]") if port.isdigit() else address
