"""What travels in datagrams: one whole frame in each, of a kind that may be lost.

All else that comes in one is dropped and counted: a datagram is no place to say that the peer broke the protocol, since
it may have overtaken what would explain it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from echostream.protocol import events as ev
from echostream.protocol import frames as f
from echostream.protocol.hello import DATAGRAM_ITEMS, TIME_SYNC

if TYPE_CHECKING:
    from echostream.protocol.link import Link
    from echostream.protocol.peer import PeerProtocol

__all__ = ("receive_datagram", "time_sync")

_NS_PER_SECOND: Final = 1_000_000_000


def receive_datagram(machine: PeerProtocol, data: bytes, arrived_ns: int) -> list[ev.ProtocolEvent]:
    """Take a datagram; return what it gives rise to."""
    events: list[ev.ProtocolEvent] = []
    link = machine.link
    frame = link.codec.single(data) if link.ready else None
    if machine.observe is not None and frame is not None:
        machine.observe(frame, link.codec)
    if isinstance(frame, f.TimeSyncFrame) and TIME_SYNC in link.features:
        _take_time_sync(link, frame, arrived_ns, events)
    elif isinstance(frame, f.DatagramItemFrame) and DATAGRAM_ITEMS in link.features:
        machine.streams.on_datagram(frame, arrived_ns, events)
    else:
        link.dropped_datagrams += 1
    return events


def time_sync(link: Link, nonce: int, t1_ns: int, t2_ns: int = 0, t3_ns: int = 0, *, is_answer: bool = False) -> bytes:
    """Return a TimeSync frame, for a datagram of its own."""
    return link.codec.encode(f.TimeSyncFrame(nonce, t1_ns, t2_ns, t3_ns, is_answer))


def _take_time_sync(link: Link, frame: f.TimeSyncFrame, arrived_ns: int, events: list[ev.ProtocolEvent]) -> None:
    if frame.is_answer:
        events.append(ev.ProbeAnswered(frame, arrived_ns))
        return
    in_burst = arrived_ns - link.next_probe_ns < _NS_PER_SECOND
    if _may_ask(link, arrived_ns):
        events.append(ev.ProbeReceived(frame, arrived_ns, in_burst))
    else:
        link.refused_probes += 1


def _may_ask(link: Link, now_ns: int) -> bool:
    """Whether the peer keeps to `max_probes_per_second`; it may use those of a second at once.

    The cell rate algorithm (ITU-T I.371, annex A): one number says when the probes so far would have come evenly.
    """
    following_ns = max(link.next_probe_ns, now_ns) + _NS_PER_SECOND // link.limits.max_probes_per_second
    if following_ns - now_ns > _NS_PER_SECOND:
        return False
    link.next_probe_ns = following_ns
    return True
