"""Application streams: the commands for them and the frames about them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from echostream.errors import LocalProtocolError, RemoteProtocolError, Status
from echostream.protocol import events as ev
from echostream.protocol import frames as f
from echostream.protocol.flow import ReceiveCredit, SendCredit
from echostream.protocol.frames import Flag, FrameKind
from echostream.protocol.link import LANE, Link
from echostream.protocol.records import AppStream

if TYPE_CHECKING:
    from echostream.types import Metadata

__all__ = ("StreamTable",)


class StreamTable:
    """The application streams of one connection, both ways."""

    __slots__ = ("_link", "_remote_count", "streams")

    def __init__(self, link: Link) -> None:
        self._link = link
        self.streams: dict[int, AppStream] = {}
        link.in_use.append(self.streams)
        self._remote_count = 0

    # Commands

    def open(self, name: str, stream_id: int, handle: Any, metadata: Metadata | None = None) -> AppStream:
        """Offer a stream to the peer on a fresh transport stream; `StreamAccepted` or `StreamWasReset` follows.

        Raises:
            LocalProtocolError: the session is not open.
            ResourceError: the metadata are over the limit.
            InvalidArgumentError: the name or the metadata have no form on the wire.
        """
        link = self._link
        link.require_ready("open a stream")
        frame = link.codec.encode(f.StreamOpenFrame(link.next_id, name, metadata))
        stream = AppStream(
            link.take_id(),
            stream_id,
            name,
            send_credit=SendCredit(0),
            receive_credit=ReceiveCredit(link.limits.stream_window_bytes, held=link.held),
            handle=handle,
        )
        self._add(stream)
        link.out.write(stream_id, frame)
        return stream

    def accept(self, stream: AppStream) -> None:
        """Take a stream that the peer opened: its first credit is the yes."""
        if self._is_open(stream) and not stream.accepted:
            stream.accepted = True
            self._grant(stream, stream.receive_credit.granted)

    def send_item(self, stream: AppStream, payload: bytes, *, raw: bool = False) -> None:
        """Send an item. Wait for credit before: `stream.send_credit.available`.

        Raises:
            ResourceError: the payload is over the peer's limit.
            LocalProtocolError: this side ended its half, the stream is gone or not accepted, or there is no credit.
        """
        if not self._is_open(stream) or not stream.local_open:
            raise LocalProtocolError(f"stream {stream.name!r} takes no more items", operation=stream.name)
        if not stream.accepted:
            raise LocalProtocolError(f"stream {stream.name!r} was not accepted yet", operation=stream.name)
        self._link.check_payload(len(payload))
        stream.send_credit.spend(len(payload))
        if stream.output_open:  # else the peer has stopped reading, and its StreamReset is on the way
            flags = Flag.RAW if raw else 0
            frame = self._link.codec.plain(FrameKind.STREAM_ITEM, stream.id, payload, flags)
            self._link.out.write(stream.stream_id, frame)

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
                frame = self._link.codec.plain(FrameKind.STREAM_END, stream.id)
                self._link.out.write(stream.stream_id, frame, fin=done)
            if done:
                self._remove(stream)

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

    def on_end(self, _stream_id: int, frame: f.StreamEndFrame, events: list[ev.ProtocolEvent]) -> None:
        """The peer half-closes."""
        stream = self._find(frame.id, "stream end")
        if stream is None:
            return
        if not stream.remote_open:
            raise RemoteProtocolError(f"second end of stream {frame.id}")
        stream.remote_open = False
        if not stream.local_open:
            if stream.output_open:
                self._link.out.write(stream.stream_id, b"", fin=True)
            self._remove(stream)
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
        """Forget all streams, and return them."""
        forgotten = [*self.streams.values()]
        self.streams.clear()
        self._remote_count = 0
        return forgotten

    def _find(self, number: int, what: str) -> AppStream | None:
        stream = self.streams.get(number)
        if stream is None:
            self._link.late_or_wrong(number, what, local=self._link.is_local(number))
        return stream

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

    def _remove(self, stream: AppStream) -> bool:
        if not self._is_open(stream):
            return False
        del self.streams[stream.id]
        stream.receive_credit.release()
        self._link.owners.pop(stream.stream_id, None)
        if not self._link.is_local(stream.id):
            self._remote_count -= 1
        return True
