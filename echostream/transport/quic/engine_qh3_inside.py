"""The private attributes of qh3, one function each.

Each has a canary test, so that a new qh3 that moves one fails in one obvious place. Those about the path are in
`engine_qh3_path.py`.
"""

from __future__ import annotations

from qh3.quic.connection import QuicConnection
from qh3.quic.events import ConnectionTerminated
from qh3.tls import Epoch

from echostream.transport.sockets import SocketAddress

__all__ = (
    "begin_probes_again",
    "bytes_in_flight",
    "close_event",
    "congestion_window",
    "discard_keys",
    "handshake_complete",
    "has_events",
    "is_draining",
    "is_terminated",
    "latest_rtt",
    "peer_address",
    "peer_datagram_limit",
    "queue_data",
    "receive_authentic",
    "smoothed_rtt",
    "take_packets",
    "unanswered_probes",
    "version",
)

# pyright: reportPrivateUsage=false


def take_packets(quic: QuicConnection, now: float, most: int, again: bool = True) -> list[tuple[bytes, SocketAddress]]:
    """Return packets up to a number: `datagrams_to_send` has no limit, and loses what it had when it raises."""
    packets: list[tuple[bytes, SocketAddress]] = []
    if quic._core is None:  # a server before its first packet
        return packets
    poll = quic._core.poll_transmit
    try:
        while len(packets) < most and (packet := poll(now)) is not None:
            packets.append(packet[:2])
    except (RuntimeError, ValueError) as error:
        if again and "reserved stream is missing" in str(error):  # lost data of a stream that is through was due: once
            return packets + take_packets(quic, now, most - len(packets), again=False)
        if not packets:  # else it raises again when they are sent
            raise
    return packets


def receive_authentic(quic: QuicConnection, datagrams: list[bytes], path: SocketAddress, now: float) -> bool:
    """Take packets after the handshake; returns whether any was the peer's, which the public method keeps back."""
    if quic._core is None:
        return False
    report = quic._core.receive_many_datagrams(datagrams, path, now)
    quic._drain_core()
    return report[2] > 0


def queue_data(quic: QuicConnection, stream_id: int, data: bytes, *, fin: bool) -> int:
    """Queue data of a stream and return its unsent bytes, past what the public methods see to before the handshake."""
    core = quic._core
    if core is None or not quic._handshake_complete or quic._close_event is not None:
        quic.send_stream_data(stream_id, data, fin)
        return quic.get_send_buffer_size(stream_id)
    quic._record_local_stream(stream_id)
    core.send_stream(stream_id, data, fin)
    return core.get_send_buffer_size(stream_id)


def begin_probes_again(quic: QuicConnection) -> None:
    """Set that count to zero, which comes with a discard of keys (RFC 9002 section 6.2.2); these went long ago."""
    discard_keys(quic, Epoch.INITIAL)


def version(quic: QuicConnection) -> int:
    """Return the protocol version in use; 0 before a server's first packet."""
    return 0 if quic._core is None else quic._core.version


def handshake_complete(quic: QuicConnection) -> bool:
    """Return whether the handshake is done on this side."""
    return quic._handshake_complete


def discard_keys(quic: QuicConnection, epoch: Epoch) -> None:
    """Forget the keys of an epoch."""
    if quic._core is not None:
        quic._core.discard_keys(int(epoch))


def peer_address(quic: QuicConnection) -> SocketAddress | None:
    """Return the address of the path in use, as qh3 knows it."""
    return None if quic._core is None else quic._core.active_path[2]


def peer_datagram_limit(quic: QuicConnection) -> int:
    """Return how large a DATAGRAM frame the peer takes; 0 for none."""
    return quic._remote_max_datagram_frame_size or 0


def bytes_in_flight(quic: QuicConnection) -> int:
    """Return the bytes that left and are neither acknowledged nor lost."""
    return 0 if quic._core is None else quic._core.bytes_in_flight


def congestion_window(quic: QuicConnection) -> int:
    """Return how many bytes may be in flight."""
    return 0 if quic._core is None else quic._core.congestion_window


def unanswered_probes(quic: QuicConnection) -> int:
    """Return the probes since the last acknowledgement (RFC 9002 section 6.2.1)."""
    return 0 if quic._core is None else quic._core.pto_count


def latest_rtt(quic: QuicConnection) -> float | None:
    """Return the last sample of the round-trip time in seconds."""
    return None if quic._core is None else quic._core.latest_rtt


def smoothed_rtt(quic: QuicConnection) -> float | None:
    """Return the smoothed round-trip time in seconds."""
    return None if quic._core is None else quic._core.smoothed_rtt


def close_event(quic: QuicConnection) -> ConnectionTerminated | None:
    """Return how the connection ended, if it has."""
    return quic._close_event


def has_events(quic: QuicConnection) -> bool:
    """Return whether it would tell something, or has ended, which it tells later."""
    return bool(quic._events) or quic._close_event is not None


def is_draining(quic: QuicConnection) -> bool:
    """Whether the peer closed: qh3 enters this state for nothing else."""
    return quic._core is not None and quic._core.state == "draining"


def is_terminated(quic: QuicConnection) -> bool:
    """Whether nothing more is sent or expected; packets of unknown ids lead there by a stateless reset only."""
    return quic._core is not None and quic._core.state == "terminated"
