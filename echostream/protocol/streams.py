"""Application streams: the commands for them and the frames about them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from echostream.errors import LocalProtocolError, RemoteProtocolError, ResourceError, Status
from echostream.protocol import events as ev
from echostream.protocol import frames as f
from echostream.protocol.flow import ReceiveCredit, SendCredit
from echostream.protocol.hello import DATAGRAM_ITEMS, TIMED_ITEMS
from echostream.protocol.link import LANE, Link
from echostream.protocol.pieces import DatagramHalves, EarlyItems, cut_item
from echostream.protocol.records import AppStream

if TYPE_CHECKING:
    from echostream.types import Metadata

__all__ = ("StreamTable",)

_MAX_ENDED: Final = 64
"""Streams that have ended and whose last datagrams may still come: remembered until the driver forgets them."""


class StreamTable:
    """The application streams of one connection, both ways."""

    __slots__ = ("_early", "_ended", "_link", "_remote_count", "streams")

    def __init__(self, link: Link) -> None:
        self._link = link
        self.streams: dict[int, AppStream] = {}
        link.in_use.append(self.streams)
        self._remote_count = 0
        self._early: EarlyItems | None = None  # most connections have no datagrams
        self._ended: dict[int, AppStream] = {}

    # Commands

    def open(
        self,
        name: str,
        stream_id: int,
        handle: Any,
        metadata: Metadata | None = None,
        *,
        timed: bool = False,
        datagram: bool = False,
    ) -> AppStream:
        """Offer a stream to the peer on a fresh transport stream; `StreamAccepted` or `StreamWasReset` follows.

        Args:
            name: of the stream.
            stream_id: the transport stream.
            handle: the driver's own.
            metadata: sent along.
            timed: whether its items have timestamps.
            datagram: whether they may travel in datagrams.

        Raises:
            LocalProtocolError: the session is not open, or the peer lacks the feature.
            ResourceError: the metadata are over the limit.
            InvalidArgumentError: the name or the metadata have no form on the wire.
        """
        link = self._link
        link.require_ready("open a stream")
        for wanted, feature in ((timed, TIMED_ITEMS), (datagram, DATAGRAM_ITEMS)):
            if wanted and feature not in link.features:
                raise LocalProtocolError(f"the peer does not have the feature {feature}", operation=name)
        frame = link.codec.encode(f.StreamOpenFrame(link.next_id, name, metadata, timed, datagram))
        stream = AppStream(
            link.take_id(),
            stream_id,
            name,
            send_credit=SendCredit(0),
            receive_credit=ReceiveCredit(link.limits.stream_window_bytes, held=link.held),
            handle=handle,
            timed=timed,
            datagrams=self._halves(datagram=datagram),
        )
        self._add(stream)
        link.out.write(stream_id, frame)
        return stream

    def accept(self, stream: AppStream) -> None:
        """Take a stream that the peer opened: its first credit is the yes."""
        if self._is_open(stream) and not stream.accepted:
            stream.accepted = True
            self._grant(stream, stream.receive_credit.granted)

    def send_item(
        self, stream: AppStream, payload: bytes, *, raw: bool = False, timestamp_ns: int | None = None
    ) -> None:
        """Send an item. Wait for credit before: `stream.send_credit.available`.

        Raises:
            ResourceError: the payload is over the peer's limit.
            LocalProtocolError: this side ended its half, the stream is gone or not accepted, or there is no credit.
        """
        self._require_taking(stream)
        self._link.check_payload(len(payload))
        stream.send_credit.spend(len(payload))
        if stream.output_open:  # else the peer has stopped reading, and its StreamReset is on the way
            frame = self._link.codec.stream_item(stream.id, payload, raw=raw, timestamp_ns=timestamp_ns)
            self._link.out.write(stream.stream_id, frame)

    def number_item(
        self, stream: AppStream, payload: bytes, *, raw: bool = False, timestamp_ns: int | None = None
    ) -> f.DatagramItemFrame:
        """Give an item of a stream with datagrams its number; `cut_item` makes datagrams of it.

        Raises:
            ResourceError: the payload is over what the peer takes in datagrams.
            LocalProtocolError: as `send_item`.
        """
        self._require_taking(stream)
        if stream.datagrams is None:
            raise LocalProtocolError(f"stream {stream.name!r} has no datagrams", operation=stream.name)
        self._link.check_payload(len(payload))
        if len(payload) > self._link.peer_limits.stream_window_bytes:
            raise ResourceError(
                f"item of {len(payload)} bytes is over the {self._link.peer_limits.stream_window_bytes} that the peer"
                " joins of datagrams (stream_window_bytes); send it on a reliable stream",
                current=len(payload),
                limit=self._link.peer_limits.stream_window_bytes,
                retryable=False,
            )
        return f.DatagramItemFrame(
            stream.id, stream.datagrams.next_sequence(), payload, raw=raw, timestamp_ns=timestamp_ns
        )

    def cut_item(self, frame: f.DatagramItemFrame, room: int) -> list[bytes]:
        """Return an item in datagrams of at most `room` bytes; empty where no number of them holds it."""
        return [self._link.codec.datagram_item(piece) for piece in cut_item(frame, room)]

    def take_early(self, stream: AppStream, now_ns: int) -> list[ev.DatagramItemReceived]:
        """Return the items of a stream that came before it was taken. Call it once, right after `accept`."""
        events: list[ev.ProtocolEvent] = []
        for arrived_ns, frame in self._early.take(stream.id, now_ns) if self._early is not None else ():
            self.on_datagram(frame, arrived_ns, events)
        return [event for event in events if isinstance(event, ev.DatagramItemReceived)]

    @property
    def dropped_early(self) -> int:
        """Datagrams of streams that nobody took in time."""
        return 0 if self._early is None else self._early.dropped

    def forget(self, stream: AppStream) -> None:
        """Its last datagrams have come, or will not: what still does is late. Safe to repeat."""
        if self._ended.pop(stream.id, None) is not None and stream.datagrams is not None:
            stream.datagrams.release()

    def item_consumed(self, stream: AppStream, payload_bytes: int) -> None:
        """The application took an item; grants credit when it is time."""
        total = stream.receive_credit.consume(payload_bytes)
        if total is not None and stream.remote_open and self._is_open(stream):
            self._grant(stream, total)

    def end(self, stream: AppStream) -> None:
        """Half-close: this side sends no more items."""
        if self._is_open(stream) and stream.local_open:
            stream.local_open = False
            done = not stream.remote_open
            if stream.output_open:
                count = None if stream.datagrams is None else stream.datagrams.numbered
                frame = self._link.codec.encode(f.StreamEndFrame(stream.id, count))
                self._link.out.write(stream.stream_id, frame, fin=done)
            if done:
                self._remove(stream, ended=True)

    def reset(self, stream: AppStream, status: int, payload: bytes = b"") -> bool:
        """End a stream in both directions now, or refuse it; return False when it was gone already.

        Raises:
            ResourceError: the payload is over the peer's limit; the stream is still open.
        """
        self._link.check_payload(len(payload))
        if not self._remove(stream):
            return False
        if stream.output_open:
            frame = self._link.codec.encode(f.StreamResetFrame(stream.id, status, payload))
            self._link.out.write(stream.stream_id, frame, fin=True)
        self._link.out.abort(stream.stream_id, reset=False, stop=True, code=status)
        return True

    # Frames

    def on_open(self, stream_id: int, frame: f.StreamOpenFrame, events: list[ev.ProtocolEvent]) -> None:
        """The peer opens a stream."""
        link = self._link
        for asked, feature in ((frame.timed, TIMED_ITEMS), (frame.datagram, DATAGRAM_ITEMS)):
            if asked and feature not in link.features:
                raise RemoteProtocolError(f"stream {frame.id} without the feature {feature}")
        link.note_remote_id(frame.id, "stream")
        if stream_id == LANE:
            raise RemoteProtocolError(f"stream {frame.id} needs a transport stream of its own")
        if not link.claim(stream_id, "stream"):
            return
        stream = AppStream(
            frame.id,
            stream_id,
            frame.name,
            send_credit=SendCredit(link.peer_limits.stream_window_bytes),
            receive_credit=ReceiveCredit(link.limits.stream_window_bytes, held=link.held),
            timed=frame.timed,
            datagrams=self._halves(datagram=frame.datagram),
        )
        self._add(stream)
        limit = link.limits.max_streams
        if link.is_refused(frame.id):
            self.reset(stream, Status.UNAVAILABLE, link.failure("this side takes no new streams: it is shutting down"))
        elif self._remote_count > limit:
            text = f"more than {limit} streams at once (max_streams)"
            self.reset(stream, Status.RESOURCE_EXHAUSTED, link.failure(text))
        else:
            events.append(ev.StreamOpened(stream, frame))

    def on_item(self, _stream_id: int, frame: f.StreamItemFrame, events: list[ev.ProtocolEvent]) -> None:
        """An item."""
        stream = self._find(frame.id, "stream item")
        if stream is None:
            return
        if not stream.remote_open or not stream.accepted:
            when = "after its end" if stream.accepted else "before it was accepted"
            raise RemoteProtocolError(f"item on stream {frame.id} {when}")
        if not stream.receive_credit.receive(len(frame.payload)):
            events.append(ev.StreamItemReceived(stream, frame))
            return
        failure = self._link.no_room(f"stream {stream.name!r}", events)
        self.reset(stream, Status.RESOURCE_EXHAUSTED, failure)
        events.append(ev.StreamWasReset(stream, Status.RESOURCE_EXHAUSTED, failure))

    def on_datagram(self, frame: f.DatagramItemFrame, arrived_ns: int, events: list[ev.ProtocolEvent]) -> None:
        """An item, or a piece of one, that came in a datagram: nothing says that it comes in time, or in order."""
        link, number = self._link, frame.id
        stream = self.streams.get(number) or self._ended.get(number)
        if stream is None and link.is_local(number):
            link.late_frames += 1
        elif stream is None or not (stream.accepted or link.is_local(number)):
            if self._early is None:
                self._early = EarlyItems(link.held)
            self._early.add(frame, arrived_ns)
        elif stream.datagrams is None:
            link.dropped_datagrams += 1
        elif (whole := stream.datagrams.join(frame)) is not None:
            events.append(ev.DatagramItemReceived(stream, whole, arrived_ns))

    def on_stray(self, stream_id: int, frame: f.DatagramItemFrame, _events: list[ev.ProtocolEvent]) -> None:
        """One that came on a transport stream."""
        raise RemoteProtocolError(f"datagram for stream {frame.id} on transport stream {stream_id}")

    def on_end(self, _stream_id: int, frame: f.StreamEndFrame, events: list[ev.ProtocolEvent]) -> None:
        """The peer half-closes."""
        stream = self._find(frame.id, "stream end")
        if stream is None:
            return
        if not stream.remote_open:
            raise RemoteProtocolError(f"second end of stream {frame.id}")
        stream.remote_open = False
        if stream.datagrams is not None:
            stream.datagrams.remote_items = frame.items
        if not stream.local_open:
            if stream.output_open:
                self._link.out.write(stream.stream_id, b"", fin=True)
            self._remove(stream, ended=True)
        events.append(ev.StreamEnded(stream))

    def on_reset(self, _stream_id: int, frame: f.StreamResetFrame, events: list[ev.ProtocolEvent]) -> None:
        """The peer ends the stream, or refuses it."""
        stream = self._find(frame.id, "stream reset")
        if stream is None:
            return
        self._remove(stream)
        if stream.output_open:
            self._link.out.abort(stream.stream_id, reset=True, stop=False, code=Status.CANCELLED)
        events.append(ev.StreamWasReset(stream, frame.status, frame.payload))

    def on_accepted(self, stream: AppStream, events: list[ev.ProtocolEvent]) -> None:
        """The peer gave credit: the first time this means that it takes the stream."""
        if not stream.accepted and self._link.is_local(stream.id):
            stream.accepted = True
            events.append(ev.StreamAccepted(stream))

    # The transport stream broke off, or the peer goes away

    def abandon(self, stream: AppStream, status: Status) -> ev.ProtocolEvent:
        """Forget a stream whose transport stream ended early; return what to tell."""
        self._remove(stream)
        return ev.StreamWasReset(stream, status, b"")

    def reject_above(self, last_id: int) -> list[AppStream]:
        """Forget and return the streams of this side that the peer never saw to."""
        rejected = [item for item in self.streams.values() if self._link.is_local(item.id) and item.id > last_id]
        for stream in rejected:
            self._remove(stream)
            self._link.out.abort(stream.stream_id, reset=stream.output_open, stop=True, code=Status.CANCELLED)
        return rejected

    def clear(self) -> list[AppStream]:
        """Forget all streams, and return them: also those that have ended and may still get datagrams."""
        forgotten = [*self.streams.values(), *self._ended.values()]
        for stream in forgotten:
            if stream.datagrams is not None:
                stream.datagrams.release()
        self.streams.clear()
        self._ended.clear()
        self._early = None
        self._remote_count = 0
        return forgotten

    def _find(self, number: int, what: str) -> AppStream | None:
        stream = self.streams.get(number)
        if stream is None:
            self._link.late_or_wrong(number, what, local=self._link.is_local(number))
        return stream

    def _halves(self, *, datagram: bool) -> DatagramHalves | None:
        link = self._link
        return DatagramHalves(link.limits.stream_window_bytes, link.held) if datagram else None

    def _require_taking(self, stream: AppStream) -> None:
        if not self._is_open(stream) or not stream.local_open:
            raise LocalProtocolError(f"stream {stream.name!r} takes no more items", operation=stream.name)
        if not stream.accepted:
            raise LocalProtocolError(f"stream {stream.name!r} was not accepted yet", operation=stream.name)

    def _is_open(self, stream: AppStream) -> bool:
        return self.streams.get(stream.id) is stream

    def _grant(self, stream: AppStream, total: int) -> None:
        if stream.output_open:
            self._link.out.write(stream.stream_id, self._link.codec.encode(f.CreditFrame(stream.id, total)))

    def _add(self, stream: AppStream) -> None:
        self.streams[stream.id] = stream
        self._link.owners[stream.stream_id] = stream
        if not self._link.is_local(stream.id):
            self._remote_count += 1

    def _remove(self, stream: AppStream, *, ended: bool = False) -> bool:
        if not self._is_open(stream):
            return False
        del self.streams[stream.id]
        if ended and stream.datagrams is not None:
            self._ended[stream.id] = stream
            if len(self._ended) > _MAX_ENDED:
                self.forget(next(iter(self._ended.values())))
        elif stream.datagrams is not None:
            stream.datagrams.release()
        stream.receive_credit.release()
        self._link.owners.pop(stream.stream_id, None)
        if not self._link.is_local(stream.id):
            self._remote_count -= 1
        return True
