"""Calls of this side: the commands of the caller, and the frames that answer them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from echostream.errors import LocalProtocolError, Status
from echostream.protocol import events as ev
from echostream.protocol import frames as f
from echostream.protocol.flow import ReceiveCredit, SendCredit
from echostream.protocol.frames import FrameKind
from echostream.protocol.hello import LANES
from echostream.protocol.layout import (
    ACCEPTS,
    HEADER,
    LENGTH_BYTES,
    RAW,
    REQUEST,
    REQUEST_BYTES,
    REQUEST_FIELDS,
    RESPONSE,
    RESPONSE_BYTES,
    SENDS,
    SHORTEST,
)
from echostream.protocol.link import LANE, Link
from echostream.protocol.payload import encode_name, encoded_names
from echostream.protocol.records import Call, IncomingCall, OutgoingCall

if TYPE_CHECKING:
    from echostream.types import Metadata

__all__ = ("OutgoingCalls",)

_RESPONSE: Final = int(FrameKind.RESPONSE)


class OutgoingCalls:
    """The calls that this side made."""

    __slots__ = ("_link", "outgoing")

    def __init__(self, link: Link) -> None:
        self._link = link
        self.outgoing: dict[int, OutgoingCall] = {}

    @staticmethod
    def opening_of(method: str, timeout_ns: int) -> bytes:
        """Return what `begin` puts between id and payload.

        Raises:
            InvalidArgumentError: the method's name has no form on the wire.
        """
        name = encode_name(method)
        return REQUEST_FIELDS.pack(timeout_ns, len(name)) + name

    # Commands of the caller

    def open_lane(self, stream_id: int) -> None:
        """Let unary calls of this side share a fresh two-way transport stream.

        Raises:
            LocalProtocolError: the session is not open, or the peer knows only the first lane.
        """
        link = self._link
        link.require_ready("open a lane")
        if LANES not in link.features:
            raise LocalProtocolError(f"peer has no more lanes (feature {LANES})")
        link.lanes |= {stream_id}
        link.out.write(stream_id, link.codec.plain(FrameKind.LANE_OPEN, 0))

    def start(
        self,
        method: str,
        payload: bytes,
        handle: Any,
        stream_id: int = LANE,
        request_stream: int | None = None,
        timeout_ns: int = 0,
        metadata: Metadata | None = None,
        raw: bool = False,
        sends_items: bool = False,
        accepts_items: bool = False,
    ) -> OutgoingCall:
        """Call the peer.

        Args:
            method: wire name.
            payload: packed [positional, keyword], or the one bytes argument itself with `raw`.
            handle: kept on the call for the driver; or the call itself, where the driver has a kind of its own.
            stream_id: a fresh two-way transport stream for streaming calls, else a lane of this side.
            request_stream: fresh one-way transport stream for a large payload of a call on the lane.
            timeout_ns: nanoseconds left, 0 for no deadline.
            metadata: sent along.
            raw: the payload is not msgpack.
            sends_items: Items follow.
            accepts_items: Items are wanted.

        Raises:
            LocalProtocolError: the session is not open.
            ResourceError: payload or metadata are over the limit.
            InvalidArgumentError: the method's name or the metadata have no form on the wire.
        """
        link = self._link
        if not link.ready:
            link.require_ready("call")
        size = len(payload)
        if size > link.peer_limits.max_payload_bytes:
            link.check_payload(size)
        flags = RAW if raw else 0
        if sends_items or accepts_items:
            flags |= (SENDS if sends_items else 0) | (ACCEPTS if accepts_items else 0)
        call_id = link.next_id
        name = encoded_names.get(method) or encode_name(method)
        if metadata:
            frame = link.codec.request(call_id, name, payload, timeout_ns, metadata, flags)
        else:  # as it does: this is done for every call
            size += REQUEST_BYTES + len(name)
            frame = REQUEST.pack(size, 2, flags, call_id, timeout_ns, len(name)) + name + payload
        link.next_id = call_id + 2
        call = handle if isinstance(handle, OutgoingCall) else OutgoingCall(handle)
        call.id = call_id
        call.stream_id = stream_id
        call.method = method
        self.outgoing[call_id] = call
        if sends_items:
            call.input_open = True
            call.send_credit = SendCredit(link.peer_limits.call_window_bytes)
        if accepts_items:
            call.receive_credit = ReceiveCredit(link.limits.call_window_bytes, held=link.held)
        if stream_id not in link.lanes:
            link.owners[stream_id] = call
        if request_stream is None:
            link.out.write(stream_id, frame)
        else:
            call.request_stream = request_stream
            link.out.write(request_stream, frame, fin=True)
        return call

    def begin(self, call: OutgoingCall, method: str, opening: bytes, payload: bytes, raw: bool) -> None:
        """Start a small call on the first lane: what `start` does for most calls, in the fewest steps.

        Args:
            call: of the driver's own kind.
            method: as in `start`.
            opening: what `opening_of` made of it and of the call's time.
            payload: as in `start`.
            raw: as in `start`.

        Raises:
            LocalProtocolError: the session is not open.
            ResourceError: the payload is over the limit.
        """
        link = self._link
        if not link.ready:
            link.require_ready("call")
        size = len(payload)
        if size > link.peer_limits.max_payload_bytes:
            link.check_payload(size)
        call.id = call_id = link.next_id
        call.method = method
        link.next_id = call_id + 2
        self.outgoing[call_id] = call
        size += len(opening) + SHORTEST
        out = link.out
        out.lane.append(HEADER.pack(size, 2, RAW if raw else 0, call_id) + opening + payload)
        out.frames += 1
        out.size += size

    def end_input(self, call: OutgoingCall) -> None:
        """Say that no more items follow."""
        if call.input_open and call.id in self.outgoing:
            call.input_open = False
            self._link.out.write(call.stream_id, self._link.codec.plain(FrameKind.END, call.id))

    def cancel(self, call: OutgoingCall, status: int = Status.CANCELLED) -> bool:
        """Give a call up; return False when it had ended already."""
        if self.outgoing.get(call.id) is not call:
            return False
        del self.outgoing[call.id]
        self._release(call)
        if call.stream_id in self._link.lanes:
            if call.request_stream is not None:  # what is left of it need not be sent
                self._link.out.abort(call.request_stream, reset=True, stop=False, code=status)
            self._link.out.write(call.stream_id, self._link.codec.encode(f.CancelFrame(call.id, status)))
        else:
            self._link.owners.pop(call.stream_id, None)
            self._link.out.abort(call.stream_id, reset=call.output_open, stop=True, code=status)
        return True

    def reject_above(self, last_id: int) -> list[OutgoingCall]:
        """Forget and return the calls that the peer never saw to."""
        rejected = [call for call in self.outgoing.values() if call.id > last_id]
        for call in rejected:
            del self.outgoing[call.id]
            self._release(call)
            if call.request_stream is not None:
                self._link.out.abort(call.request_stream, reset=True, stop=False, code=Status.CANCELLED)
            if self._link.owners.pop(call.stream_id, None) is not None:
                self._link.out.abort(call.stream_id, reset=call.output_open, stop=True, code=Status.CANCELLED)
        return rejected

    # Frames

    def take_answers(self, data: bytes, events: list[ev.ProtocolEvent]) -> int:
        """End the plain calls whose Responses `data` begins with; return where the rest begins.

        This is most of what a caller hears. All else, and all that is not as it should be, is left to the decoders.
        """
        position, size, running = 0, len(data), self.outgoing
        if size > self._link.codec.max_payload_bytes:
            return 0  # so that none of them is over the limit
        read, last = RESPONSE.unpack_from, size - RESPONSE.size
        while position <= last:
            length, kind, flags, number, status = read(data, position)
            end = position + LENGTH_BYTES + length
            if kind != _RESPONSE or end > size or length < RESPONSE_BYTES or (flags and flags != RAW):
                break
            call = running.get(number)
            if call is None or not call.is_plain:
                break
            del running[number]
            call.status = status
            call.payload = data[position + RESPONSE.size : end]
            if flags:
                call.raw = True
            events.append(call)
            position = end
        return position

    def on_response(self, _stream_id: int, frame: f.ResponseFrame, events: list[ev.ProtocolEvent]) -> None:
        """A call of this side ended."""
        call = self.outgoing.pop(frame.id, None)
        if call is None:
            self._link.late_or_wrong(frame.id, "response", local=True)
            return
        call.status, call.payload, call.raw = frame.status, frame.payload, frame.raw
        call.metadata, call.initial = frame.metadata, frame.initial
        if call.receive_credit is not None or call.stream_id not in self._link.lanes:
            self._end_streams(call)
        events.append(call)

    def _end_streams(self, call: OutgoingCall) -> None:
        """A call with items or with transport streams of its own ended: what is held for it counts no more."""
        link = self._link
        self._release(call)
        if call.stream_id not in link.lanes:
            link.owners.pop(call.stream_id, None)
            if call.input_open:
                link.out.abort(call.stream_id, reset=True, stop=False, code=Status.CANCELLED)
            elif call.output_open:
                link.out.write(call.stream_id, b"", fin=True)

    def on_progress(self, _stream_id: int, frame: f.ProgressFrame, events: list[ev.ProtocolEvent]) -> None:
        """The responder reports."""
        call = self.outgoing.get(frame.id)
        if call is None:
            self._link.late_or_wrong(frame.id, "progress", local=True)
            return
        events.append(ev.ProgressReceived(call, frame))

    def _release(self, call: Call) -> None:
        """A call has ended: what is held for it counts no more."""
        if call.receive_credit is not None:
            call.receive_credit.release()
        if isinstance(call, IncomingCall) and call.held_bytes:
            self._link.held.add(-call.held_bytes)
            call.held_bytes = 0
