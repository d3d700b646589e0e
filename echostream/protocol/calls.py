"""Calls both ways: what the machine remembers of each, the commands for them and the frames about them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from echostream.errors import LocalProtocolError, RemoteProtocolError, Status
from echostream.protocol import events as ev
from echostream.protocol import frames as f
from echostream.protocol.flow import ReceiveCredit, SendCredit
from echostream.protocol.frames import FrameKind
from echostream.protocol.hello import LANES, PROGRESS
from echostream.protocol.layout import RAW, RESPONSE, RESPONSE_BYTES
from echostream.protocol.link import LANE, Link
from echostream.protocol.outgoing import OutgoingCalls
from echostream.protocol.records import Call, IncomingCall, OutgoingCall

if TYPE_CHECKING:
    from echostream.types import Metadata

__all__ = ("CallTable",)

AnyCall = IncomingCall | OutgoingCall


class CallTable(OutgoingCalls):
    """The calls of one connection, both ways."""

    __slots__ = ("incoming", "kind")

    def __init__(self, link: Link) -> None:
        super().__init__(link)
        self.kind: type[IncomingCall] = IncomingCall
        """What is made of each call of the peer; the driver may have a kind of its own."""
        self.incoming: dict[int, IncomingCall] = {}
        link.in_use.append(self.incoming)

    # Commands of either side

    def send_item(self, call: Call, payload: bytes, *, raw: bool = False, initial: Metadata | None = None) -> None:
        """Send an item of a streaming call. Wait for credit before: `call.send_credit.available`.

        Nothing happens when the call has ended, or the peer stopped reading: the driver is about to hear why.

        Raises:
            ResourceError: payload or metadata are over the limit.
            LocalProtocolError: the call takes no items from this side, or no more of them, or there is no credit.
        """
        if call.send_credit is None:
            raise LocalProtocolError(f"{call.method} takes no items from this side", operation=call.method)
        if not call.output_open or not self.is_open(call):
            return
        if isinstance(call, OutgoingCall) and not call.input_open:
            raise LocalProtocolError(f"{call.method} takes no more items: its input was ended", operation=call.method)
        self._link.check_payload(len(payload))
        frame = self._link.codec.item(call.id, payload, raw=raw, initial=initial)
        call.send_credit.spend(len(payload))
        self._link.out.write(call.stream_id, frame)

    def item_consumed(self, call: Call, payload_bytes: int) -> None:
        """The application took an item; grants credit when it is time."""
        credit = call.receive_credit
        total = None if credit is None else credit.consume(payload_bytes)
        if total is not None and call.output_open and self.is_open(call):
            self._link.out.write(call.stream_id, self._link.codec.encode(f.CreditFrame(call.id, total)))

    def is_open(self, call: Call) -> bool:
        """Whether the call has not ended here."""
        return (self.incoming.get(call.id) or self.outgoing.get(call.id)) is call

    # Commands of the responder

    def respond(
        self,
        call: IncomingCall,
        status: int,
        payload: bytes,
        metadata: Metadata | None = None,
        initial: Metadata | None = None,
        raw: bool = False,
        own_stream: int | None = None,
    ) -> bool:
        """Answer a call; return False when the caller no longer waits.

        Args:
            call: one of the peer's.
            status: OK or the error's status.
            payload: packed result or {"message", "details"}.
            metadata: trailing metadata.
            initial: initial metadata, unless an item carried it.
            raw: the payload is not msgpack.
            own_stream: fresh one-way transport stream for a large payload of a call on the lane.

        Raises:
            ResourceError: payload or metadata are over the limit; the call is still open.
        """
        number = call.id
        if self.incoming.get(number) is not call:
            return False
        link, size = self._link, len(payload)
        if size > link.peer_limits.max_payload_bytes:
            link.check_payload(size)
        if metadata or initial:
            frame = link.codec.response(number, status, payload, metadata, initial, RAW if raw else 0)
        else:  # as it does: this is done for every call
            frame = RESPONSE.pack(RESPONSE_BYTES + size, 3, RAW if raw else 0, number, status) + payload
        del self.incoming[number]
        if call.receive_credit is not None or call.held_bytes:
            self._release(call)
        if call.stream_id in link.peer_lanes:
            if own_stream is None:
                link.out.write(call.stream_id, frame)
            else:
                link.out.write(own_stream, frame, fin=True)
            return True
        link.owners.pop(call.stream_id, None)
        link.out.write(call.stream_id, frame, fin=True)
        if call.input_open:
            link.out.abort(call.stream_id, reset=False, stop=True, code=Status.CANCELLED)
        return True

    def send_progress(self, call: IncomingCall, payload: bytes) -> None:
        """Report how far a call is; nothing happens when the caller no longer waits, or cannot read reports.

        Raises:
            ResourceError: the payload is over the peer's limit.
        """
        self._link.check_payload(len(payload))
        if self.incoming.get(call.id) is call and PROGRESS in self._link.features:
            self._link.out.write(call.stream_id, self._link.codec.plain(FrameKind.PROGRESS, call.id, payload))

    # Frames

    def on_lane_open(self, stream_id: int, _frame: f.LaneOpenFrame, _events: list[ev.ProtocolEvent]) -> None:
        """Calls of the peer will share a transport stream."""
        link = self._link
        if LANES not in link.features:
            raise RemoteProtocolError(f"lane on stream {stream_id}, but feature {LANES} was not agreed")
        if link.claim(stream_id, "lane"):
            link.claimed.pop(stream_id, None)
            link.peer_lanes |= {stream_id}

    def on_request(self, stream_id: int, frame: f.RequestFrame, events: list[ev.ProtocolEvent]) -> None:
        """A call begins."""
        link, number = self._link, frame.id
        if number > link.last_remote_id and number & 1 != link.bit:
            link.last_remote_id = number
        else:  # large requests overtake one another
            link.note_remote_id(number, "request")
        shared = stream_id in link.peer_lanes
        if shared or link.is_remote_one_way(stream_id):
            if frame.sends_items or frame.accepts_items:
                raise RemoteProtocolError(f"streaming call on stream {stream_id}: it needs a two-way one of its own")
            if number in link.cancelled:
                return
            call = self.incoming[number] = self.kind(frame, stream_id if shared else LANE)
        elif link.claim(stream_id, "request"):
            call = self._take_stream(stream_id, frame)
        else:
            return
        limits, size = link.limits, len(frame.payload)
        if size > limits.large_payload_bytes:
            call.held_bytes = size
        if call.held_bytes and link.held.add(size):
            self.respond(call, Status.RESOURCE_EXHAUSTED, link.no_room(call.method, events))
        elif link.go_away_id is not None and number > link.go_away_id:
            text = "this side takes no new calls: it is shutting down"
            self.respond(call, Status.UNAVAILABLE, link.failure(text))
        elif len(self.incoming) > limits.max_concurrent_calls:
            text = f"more than {limits.max_concurrent_calls} calls at once (max_concurrent_calls)"
            self.respond(call, Status.RESOURCE_EXHAUSTED, link.failure(text))
        else:
            events.append(call)

    def _take_stream(self, stream_id: int, frame: f.RequestFrame) -> IncomingCall:
        """Note a call that has a two-way transport stream of its own."""
        link = self._link
        call = self.incoming[frame.id] = self.kind(frame, stream_id)
        link.owners[stream_id] = call
        if frame.sends_items:
            call.input_open = True
            call.receive_credit = ReceiveCredit(link.limits.call_window_bytes, held=link.held)
        if frame.accepts_items:
            call.send_credit = SendCredit(link.peer_limits.call_window_bytes)
        return call

    def on_item(self, _stream_id: int, frame: f.ItemFrame, events: list[ev.ProtocolEvent]) -> None:
        """An item of a streaming call."""
        local = self._link.is_local(frame.id)
        call: AnyCall | None = self.outgoing.get(frame.id) if local else self.incoming.get(frame.id)
        if call is None:
            self._link.late_or_wrong(frame.id, "item", local=local)
            return
        if call.receive_credit is None or not (local or call.input_open):
            raise RemoteProtocolError(f"item for call {frame.id}, which takes none")
        if call.receive_credit.receive(len(frame.payload)):
            self._refuse_item(call, events)
        else:
            events.append(ev.ItemReceived(call, frame))

    def on_end(self, _stream_id: int, frame: f.EndFrame, events: list[ev.ProtocolEvent]) -> None:
        """The caller's input is complete."""
        call = self.incoming.get(frame.id)
        if call is None:
            self._link.late_or_wrong(frame.id, "end", local=False)
        elif not call.input_open:
            raise RemoteProtocolError(f"end for call {frame.id}, whose input is not open")
        else:
            call.input_open = False
            events.append(ev.InputEnded(call))

    def on_cancel(self, _stream_id: int, frame: f.CancelFrame, events: list[ev.ProtocolEvent]) -> None:
        """The caller gave up a call on a lane."""
        call = self.incoming.get(frame.id)
        if call is None:
            self._link.note_cancel(frame.id)
            return
        if call.stream_id not in self._link.peer_lanes:
            raise RemoteProtocolError(f"cancel for call {frame.id}, which has a stream of its own to be reset")
        del self.incoming[frame.id]
        self._release(call)
        events.append(ev.CallCancelled(call, frame.status))

    def _refuse_item(self, call: AnyCall, events: list[ev.ProtocolEvent]) -> None:
        """An item came that this side has no room for: end its call on both sides."""
        failure, status = self._link.no_room(call.method, events), Status.RESOURCE_EXHAUSTED
        if isinstance(call, IncomingCall):
            self.respond(call, status, failure)
            events.append(ev.CallCancelled(call, status))
        else:
            self.cancel(call)
            call.status, call.payload = status, failure
            events.append(call)

    # The transport stream of a call broke off

    def abandon(self, call: IncomingCall | OutgoingCall, status: Status) -> ev.ProtocolEvent:
        """Forget a call whose transport stream ended early; return what to tell."""
        self._release(call)
        if isinstance(call, OutgoingCall):
            self.outgoing.pop(call.id, None)
            call.status, call.payload = Status.UNAVAILABLE, self._link.failure("the peer broke the call off")
            return call
        self.incoming.pop(call.id, None)
        return ev.CallCancelled(call, status)

    def clear(self) -> list[Call]:
        """Forget all calls, and return them."""
        forgotten: list[Call] = [*self.outgoing.values(), *self.incoming.values()]
        self.outgoing.clear()
        self.incoming.clear()
        return forgotten
