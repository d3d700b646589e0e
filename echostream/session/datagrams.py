"""Sending items in datagrams, no faster than the connection can: engines queue datagrams without bound, or drop them.

Calls and events go first: while any of them wait for the congestion window, no datagram is given to it. Where bulk
waits, it is left a part of the window. Streams take turns, item by item.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

from echostream.session.outgoing import Outgoing

if TYPE_CHECKING:
    from echostream.protocol.frames import DatagramItemFrame
    from echostream.protocol.records import AppStream
    from echostream.session.channel import Channel
    from echostream.session.outgoing import SendOptions
    from echostream.session.peer import Peer
    from echostream.session.sendqueue import QueuedItem

__all__ = ("DatagramOutgoing", "DatagramPump")

_LOOK: Final = 0.005
"""Seconds after which to look again where no packet came that would give rise to it."""
_MEDIA_SHARE: Final = 7 / 8
"""Of the congestion window's room, while reliable streams want some: without theirs they would count as stalled."""


class DatagramPump:
    """Gives the datagrams of all streams of one connection to the transport."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._loop = peer.runtime.loop
        self._waiting: dict[DatagramOutgoing, None] = {}  # in order of their turns
        self._soon: asyncio.Handle | None = None
        self._look: asyncio.TimerHandle | None = None

    def add(self, outgoing: DatagramOutgoing) -> None:
        """A stream has something to send: soon, together with what else is said in this turn of the loop."""
        self._waiting[outgoing] = None
        if self._soon is None:
            self._soon = self._loop.call_soon(self._begin)

    def remove(self, outgoing: DatagramOutgoing) -> None:
        """It has nothing any more."""
        self._waiting.pop(outgoing, None)

    def push(self) -> None:
        """Send what can be sent now. Called whenever packets came, for they make room."""
        if self._look is not None:
            self._look.cancel()
            self._look = None
        peer = self._peer
        if self._waiting and not self._is_urgent_waiting() and self._send():
            peer.connection.flush()
        if self._waiting:
            self._look = self._loop.call_later(_LOOK, self._look_again)

    def close(self) -> None:
        """The connection has ended."""
        self._waiting.clear()
        for handle in (self._soon, self._look):
            if handle is not None:
                handle.cancel()
        self._soon = self._look = None

    def _begin(self) -> None:
        self._soon = None
        self.push()

    def _look_again(self) -> None:
        self._look = None
        self.push()

    def _send(self) -> bool:
        connection, now, sent = self._peer.connection, self._loop.time(), False
        room = connection.datagram_room_bytes * (_MEDIA_SHARE if self._is_bulk_waiting() else 1)
        while self._waiting and room > 0:
            outgoing = next(iter(self._waiting))
            data = outgoing.following(now, connection.max_datagram_payload_bytes)
            if data is None:
                del self._waiting[outgoing]
                outgoing.look_for_end()
                continue
            if not connection.send_datagram(data):
                break
            room -= len(data)
            sent = True
            if outgoing.taken():  # an item is through: it is the turn of another stream
                del self._waiting[outgoing]
                self._waiting[outgoing] = None
        return sent

    def _is_urgent_waiting(self) -> bool:
        """Whether calls or events wait for the network."""
        peer = self._peer
        link, unsent = peer.protocol.link, peer.connection.unsent_bytes
        if link.out.pending:
            peer.flush()
        return any(unsent(stream_id) for stream_id in {*link.lanes, *link.peer_lanes, peer.protocol.event_stream})

    def _is_bulk_waiting(self) -> bool:
        unsent = self._peer.connection.unsent_bytes
        return any(unsent(stream_id) for stream_id in self._peer.backlog.streams)


class DatagramOutgoing(Outgoing):
    """The sending side of a stream whose items travel in datagrams."""

    def __init__(self, channel: Channel, options: SendOptions) -> None:
        super().__init__(channel, options, may_drop=True)
        peer = channel.peer
        if peer.datagrams is None:
            peer.datagrams = DatagramPump(peer)
        self._pump = peer.datagrams
        self._pieces: deque[bytes] = deque()  # of the item that is being sent
        self._sending: QueuedItem | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_idle(self) -> bool:
        return not self.queue and not self._pieces

    def frame(self, stream: AppStream, payload: bytes, *, raw: bool, timestamp_ns: int | None) -> DatagramItemFrame:
        return self.channel.peer.protocol.streams.number_item(stream, payload, raw=raw, timestamp_ns=timestamp_ns)

    def start(self) -> None:
        if self._timer is None:
            self._pump.add(self)

    def stop(self) -> None:
        super().stop()
        self._pieces.clear()
        self._pump.remove(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # For the pump

    def following(self, now: float, room: int) -> bytes | None:
        """Return the next datagram, of at most `room` bytes; None when there is none now."""
        if self._pieces and self._sending is not None and self._sending.expires <= now:
            self._pieces.clear()
            self.queue.stale += 1
        elif self._pieces and len(self._pieces[0]) > room:  # the path carries less than when it was cut
            self._pieces.clear()
            self.queue.dropped += 1
        while not self._pieces:
            item = self.queue.peek(now)
            if item is None:
                self.made_room()  # what was stale is gone
                return None
            if self._is_too_soon(now, item.frame):
                return None
            self.queue.take(now)
            self._sending = item
            self._pieces.extend(self.channel.peer.protocol.streams.cut_item(item.frame, room))
            if self._pieces:
                self.begun(item.frame)
            else:
                self.queue.dropped += 1
        return self._pieces[0]

    def taken(self) -> bool:
        """The transport took it; return whether its item is through."""
        self._pieces.popleft()
        if not self._pieces and self._sending is not None:
            self.done(self._sending.frame)
        return not self._pieces

    def _is_too_soon(self, now: float, frame: DatagramItemFrame) -> bool:
        """Whether the rate of the stream forbids it now; then it comes back when it does not."""
        seconds = 0.0 if self.bucket is None else self.bucket.wait(now, len(frame.payload))
        if seconds:
            self._timer = self.loop.call_later(seconds, self._go_on)
        return seconds > 0

    def _go_on(self) -> None:
        self._timer = None
        self._pump.add(self)
