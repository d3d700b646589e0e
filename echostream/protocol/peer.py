"""The protocol machine of one connection: frames in, protocol events out; commands in, bytes out. No I/O, no clock.

Use it like this, in any order after the Hello exchange:

A. Tell it what came: `receive_data`, `receive_datagram`, `receive_reset`, ... Each returns the events to act on.
B. Command it: `calls.start`, `calls.respond`, `streams.open`, `emit`, ... They only queue bytes.
C. Then take what is to be sent, `take_writes` and `take_aborts`, and give it down.

Transport streams: stream 0 is the first lane. It carries the Hello, small unary calls, acknowledgements and probes;
each side may open more lanes for calls of its own. Events travel on a one-way stream of each side; streaming calls,
application streams and large payloads each on their own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from echostream.errors import LocalProtocolError, RemoteProtocolError, Status
from echostream.protocol import events as ev
from echostream.protocol import frames as f
from echostream.protocol.account import Account
from echostream.protocol.calls import CallTable
from echostream.protocol.codec import FrameCodec
from echostream.protocol.datagrams import receive_datagram, time_sync
from echostream.protocol.early import EarlyData
from echostream.protocol.hello import EVENT_ACK, Hello
from echostream.protocol.link import LANE, Link
from echostream.protocol.payload import PayloadCodec, encode_name
from echostream.protocol.reader import StreamReaders
from echostream.protocol.records import AppStream, Call, IncomingCall, OutgoingCall
from echostream.protocol.states import TRANSITIONS, Input, State
from echostream.protocol.streams import StreamTable
from echostream.types import Role

if TYPE_CHECKING:
    from echostream.config import Limits
    from echostream.types import Metadata

__all__ = ("PeerProtocol",)

_REASONS: Final = frozenset(Status) - {Status.OK}
_OPEN: Final = State.OPEN
_READY: Final = frozenset({State.OPEN, State.DRAINING})


class PeerProtocol:
    """One side of one connection."""

    def __init__(
        self,
        hello: Hello,
        codec: FrameCodec,
        payload: PayloadCodec,
        limits: Limits,
        clock_ns: Callable[[], int],
        held: Account | None = None,
    ) -> None:
        """Make one.

        Args:
            hello: what this side says of itself; a server may replace it until `send_hello`.
            codec: shared with other connections.
            payload: shared with other connections.
            limits: what this side keeps the peer to.
            clock_ns: monotonic nanoseconds, for TimeSync frames.
            held: shared with other connections, for what they hold for their peers; None for an own one.
        """
        self.hello = hello
        self.role = hello.role
        self.state = State.NEW
        self.peer_hello: Hello | None = None
        self.event_stream: int = LANE
        """Transport stream for events; the driver sets it before the first one."""
        self.observe: Callable[[f.Frame, FrameCodec], None] | None = None
        """Told of every frame that arrived, before it is acted on: for traces."""
        self.peer_gone_away = False
        """Whether the peer asked for no more calls and streams."""
        share = (held or Account(limits.max_total_held_bytes)).open(limits.max_held_bytes)
        self.link = Link(self.role, codec, payload, limits, share)
        self.calls = CallTable(self.link)
        self.streams = StreamTable(self.link)
        self._clock_ns = clock_ns
        self._readers = StreamReaders(codec, limits.max_reassembly_bytes, share)
        # A client has checked the server's certificate, and the Hello may be the packet that was lost.
        early_bytes = limits.max_reassembly_bytes if self.role is Role.CLIENT else limits.max_unauthenticated_bytes
        self._early = EarlyData(early_bytes, limits.max_unauthenticated_bytes)
        self._unacknowledged: dict[int, object] = {}

    def __repr__(self) -> str:
        return (
            f"<PeerProtocol {self.role} {self.state.name} {len(self.calls.outgoing)} out"
            f" {len(self.calls.incoming)} in {len(self.streams.streams)} streams>"
        )

    @property
    def features(self) -> frozenset[str]:
        """What both sides can do; empty before the peer's Hello."""
        return self.link.features

    # A. What came

    def receive_data(self, stream_id: int, data: bytes, *, fin: bool = False) -> list[ev.ProtocolEvent]:
        """Take bytes of a transport stream.

        Raises:
            RemoteProtocolError: the peer broke the protocol: close the connection with its `close_code`.
        """
        events: list[ev.ProtocolEvent] = []
        try:
            if self.state is _OPEN or self.state in _READY:
                self._read(stream_id, data, fin, events)
            elif self.state is not State.CLOSED:
                self._read_before_ready(stream_id, data, fin, events)
        except RemoteProtocolError:
            self.link.unreported = events
            raise
        return events

    def receive_reset(self, stream_id: int, code: int = Status.CANCELLED) -> list[ev.ProtocolEvent]:
        """The peer abandoned its sending side of a transport stream; `code` is what the transport says about it.

        Raises:
            RemoteProtocolError: it was a lane.
        """
        if self.state is State.CLOSED:
            return []
        if self.link.is_lane(stream_id):
            raise RemoteProtocolError("peer reset the lane")
        self._early.drop(stream_id)
        self._readers.drop(stream_id)
        self._half_ended(stream_id)
        owner = self.link.owners.get(stream_id)
        return [] if owner is None else [self._abandon(owner, code, stop=False)]

    def receive_stop(self, stream_id: int, code: int = Status.CANCELLED) -> list[ev.ProtocolEvent]:
        """The peer reads no more of what this side sends on a transport stream; `code` as in `receive_reset`.

        Raises:
            RemoteProtocolError: it was a lane, or the stream of events.
        """
        if self.state is State.CLOSED:
            return []
        if self.link.is_lane(stream_id) or stream_id == self.event_stream:
            what = "the lane" if self.link.is_lane(stream_id) else "events"
            raise RemoteProtocolError(f"peer stopped reading {what}")
        owner = self.link.owners.get(stream_id)
        if isinstance(owner, IncomingCall):
            return [self._abandon(owner, code, stop=True)]
        if owner is None:
            self.link.note_stop(stream_id)
            self.link.out.abort(stream_id, reset=True, stop=False, code=Status.CANCELLED)
        elif owner.output_open:
            # The response or StreamReset that explains it is on its way: this may have overtaken it.
            owner.output_open = False
            if isinstance(owner, OutgoingCall):
                owner.input_open = False
            self.link.out.abort(stream_id, reset=True, stop=False, code=Status.CANCELLED)
        return []

    def receive_datagram(self, data: bytes, arrived_ns: int) -> list[ev.ProtocolEvent]:
        """Take a datagram, and when it came on the clock of `clock_ns`; what is not expected is dropped and counted."""
        return receive_datagram(self, data, arrived_ns)

    # C. What is to be sent

    def take_writes(self) -> list[tuple[int, bytes, bool]]:
        """Return (transport stream, bytes, fin) to be written, in order, and forget them."""
        return self.link.out.take_writes()

    def take_aborts(self) -> list[tuple[int, bool, bool, int]]:
        """Return (transport stream, reset?, stop?, code) to be done after the writes, and forget them."""
        return self.link.out.take_aborts()

    # B. Commands

    def send_hello(self) -> None:
        """Introduce this side: the client at once, the server after `HelloReceived`."""
        self._move(Input.SEND_HELLO)
        self.link.out.write(LANE, self.link.codec.plain(f.FrameKind.HELLO, 0, self.hello.encode(self.link.payload)))

    def presume(self, hello: Hello) -> None:
        """Let a client call before the server's Hello is here: by the one of a former connection, see early data."""
        self.link.features, self.link.peer_limits = self.hello.agree(hello), hello.limits
        self.link.ready = self.state is State.HELLO_SENT

    def take_early(self) -> list[ev.ProtocolEvent]:
        """Return the events of what came before the Hello exchange was over. Call it once, right after.

        Raises:
            RemoteProtocolError: as `receive_data`.
        """
        events: list[ev.ProtocolEvent] = []
        try:
            for stream_id, data, fin in self._early.take():
                self._read(stream_id, data, fin, events)
        except RemoteProtocolError:
            self.link.unreported = events
            raise
        return events

    def emit(
        self,
        name: str,
        payload: bytes,
        *,
        metadata: Metadata | None = None,
        raw: bool = False,
        ack_handle: object | None = None,
    ) -> int:
        """Send an event; with `ack_handle`, `EventAcknowledged` brings it back. Return the event's id.

        Raises:
            LocalProtocolError: the session is not open, or the peer does not acknowledge events.
            ResourceError: payload or metadata are over the limit.
            InvalidArgumentError: the name or the metadata have no form on the wire.
        """
        link = self.link
        link.require_ready("emit")
        if ack_handle is not None and EVENT_ACK not in link.features:
            raise LocalProtocolError(f"peer does not acknowledge events (feature {EVENT_ACK}); emit without ack")
        link.check_payload(len(payload))
        frame = link.codec.event(
            link.next_id, encode_name(name), payload, metadata=metadata, wants_ack=ack_handle is not None, raw=raw
        )
        event_id = link.take_id()
        if ack_handle is not None:
            self._unacknowledged[event_id] = ack_handle
        link.out.write(self.event_stream, frame)
        return event_id

    def acknowledge(self, event_id: int, listeners: int, failed: int) -> None:
        """Report that the listeners of an event ran."""
        self.link.owed_acks.pop(event_id, None)
        if self.state in _READY:
            self.link.out.write(LANE, self.link.codec.encode(f.AckFrame(event_id, listeners, failed)))

    def probe(self, nonce: int) -> int:
        """Send a TimeSync probe on the lane, and return its t1; `ProbeAnswered` carries the nonce again."""
        self.link.require_ready("probe")
        self.link.out.write(LANE, time_sync(self.link, nonce, t1_ns := self._clock_ns()))
        return t1_ns

    def go_away(self, code: int, reason: str = "") -> None:
        """Take no new calls and streams from now on; those that run go on."""
        if self.link.go_away_id is not None:
            return
        self._move(Input.SEND_GO_AWAY)
        self.link.go_away_id = self.link.last_remote_id
        self.link.out.write(LANE, self.link.codec.encode(f.GoAwayFrame(self.link.go_away_id, code, reason)))

    def close(self) -> list[Call | AppStream]:
        """Forget everything; return what was still open, so that whoever waits for it can be told."""
        self._move(Input.CLOSE)
        left: list[Call | AppStream] = [*self.calls.clear(), *self.streams.clear()]
        self.link.clear()
        self._readers.clear()
        self._unacknowledged.clear()
        self._early.take()
        return left

    # Inside: bytes to frames

    def _read_before_ready(self, stream_id: int, data: bytes, fin: bool, events: list[ev.ProtocolEvent]) -> None:
        """Take the Hello; hold back, within a limit, what overtook it or stands behind it."""
        self._early.add(stream_id, data, fin=fin)
        awaited = self.state is (State.HELLO_SENT if self.role is Role.CLIENT else State.NEW)
        frame = self._early.cut_hello(self.link.codec) if awaited and stream_id == LANE else None
        if frame is None:
            return
        hello = Hello.decode(frame.payload, self.link.payload)
        self.link.features = self.hello.agree(hello)
        self.peer_hello, self.link.peer_limits = hello, hello.limits
        self._move(Input.RECEIVE_HELLO)
        events.append(ev.HelloReceived(hello))

    def _read(self, stream_id: int, data: bytes, fin: bool, events: list[ev.ProtocolEvent]) -> None:
        calls, observe = self.calls, self.observe
        take = None if observe is not None else lambda data: calls.take_answers(data, events)
        for frame in self._readers.feed(stream_id, data, take):
            kind = type(frame)
            if observe is not None:
                observe(frame, self.link.codec)
            if (act := _OF_CALLS.get(kind)) is not None:
                act(calls, stream_id, frame, events)
            elif (act := _OF_STREAMS.get(kind)) is not None:
                act(self.streams, stream_id, frame, events)
            else:
                _OF_ALL[kind](self, stream_id, frame, events)
        if not fin:
            return
        if self.link.is_lane(stream_id):
            raise RemoteProtocolError("peer ended the lane")
        self._readers.end(stream_id)
        self._half_ended(stream_id)
        owner = self.link.owners.get(stream_id)
        # Only a caller with nothing more to say may end its half before the answer.
        if owner is not None and not (isinstance(owner, IncomingCall) and not owner.input_open):
            events.append(self._abandon(owner, Status.CANCELLED, stop=False))

    def _half_ended(self, stream_id: int) -> None:
        """The peer sends no more on a transport stream: end this side's half too, if nothing was ever opened there.

        If something was, that half ends with it, and a reset now would take back what is still on its way.
        """
        if stream_id & 3 == self.link.bit and stream_id not in self.link.claimed:
            self.link.out.abort(stream_id, reset=True, stop=False, code=Status.CANCELLED)
        self.link.claimed.pop(stream_id, None)

    def _abandon(self, owner: IncomingCall | OutgoingCall | AppStream, code: int, *, stop: bool) -> ev.ProtocolEvent:
        """The transport stream of a call or an application stream broke off before its end."""
        self.link.owners.pop(owner.stream_id)
        if owner.output_open or stop:
            self.link.out.abort(owner.stream_id, reset=owner.output_open, stop=stop, code=Status.CANCELLED)
        table: Any = self.streams if isinstance(owner, AppStream) else self.calls
        event: ev.ProtocolEvent = table.abandon(owner, Status(code) if code in _REASONS else Status.CANCELLED)
        return event

    # Inside: frames about neither calls nor streams

    def _on_hello(self, _stream_id: int, _frame: f.HelloFrame, _events: list[ev.ProtocolEvent]) -> None:
        raise RemoteProtocolError("second hello")

    def _on_event(self, _stream_id: int, frame: f.EventFrame, events: list[ev.ProtocolEvent]) -> None:
        self.link.note_event(frame.id, wants_ack=frame.wants_ack)
        events.append(ev.EventReceived(frame))

    def _on_ack(self, _stream_id: int, frame: f.AckFrame, events: list[ev.ProtocolEvent]) -> None:
        handle = self._unacknowledged.pop(frame.id, None)
        if handle is None:
            self.link.late_or_wrong(frame.id, "ack", local=True)
            return
        events.append(ev.EventAcknowledged(handle, frame))

    def _on_credit(self, _stream_id: int, frame: f.CreditFrame, events: list[ev.ProtocolEvent]) -> None:
        number, local = frame.id, self.link.is_local(frame.id)
        table: dict[int, Any] = self.calls.outgoing if local else self.calls.incoming
        target: Call | AppStream | None = table.get(number) or self.streams.streams.get(number)
        if target is None:
            self.link.late_or_wrong(number, "credit", local=local)
            return
        if target.send_credit is None:
            raise RemoteProtocolError(f"credit for call {number}, which sends nothing")
        raised = target.send_credit.raise_to(frame.total_bytes)
        if isinstance(target, AppStream):
            self.streams.on_accepted(target, events)
        if raised:
            events.append(ev.CreditReceived(target))

    def _on_time_sync(self, _stream_id: int, frame: f.TimeSyncFrame, events: list[ev.ProtocolEvent]) -> None:
        if frame.is_answer:
            events.append(ev.ProbeAnswered(frame, self._clock_ns()))
            return
        times = frame.t1_ns, self._clock_ns(), self._clock_ns()
        self.link.out.write(LANE, time_sync(self.link, frame.id, *times, is_answer=True))

    def _on_go_away(self, _stream_id: int, frame: f.GoAwayFrame, events: list[ev.ProtocolEvent]) -> None:
        if frame.id and not (self.link.is_local(frame.id) and frame.id < self.link.next_id):
            raise RemoteProtocolError(f"go-away after id {frame.id}, which was never used")
        self._move(Input.RECEIVE_GO_AWAY)
        self.peer_gone_away = True
        calls, streams = self.calls.reject_above(frame.id), self.streams.reject_above(frame.id)
        events.append(ev.GoAwayReceived(frame.code, frame.reason, [*calls, *streams]))

    def _move(self, event: Input) -> None:
        after = TRANSITIONS.get((self.role, self.state, event))
        if after is None:
            text = f"{self.role} cannot {event.value} when {self.state.value}"
            raise (RemoteProtocolError if event.value.startswith("receive") else LocalProtocolError)(text)
        self.state = after
        self.link.ready = after in _READY


# One table for all connections: bound methods of each would be 2 KB for every idle one.
_Take = Callable[[Any, int, Any, list[ev.ProtocolEvent]], None]

_OF_CALLS: Final[dict[type[Any], _Take]] = {
    f.RequestFrame: CallTable.on_request,
    f.ResponseFrame: CallTable.on_response,
    f.ItemFrame: CallTable.on_item,
    f.EndFrame: CallTable.on_end,
    f.CancelFrame: CallTable.on_cancel,
    f.ProgressFrame: CallTable.on_progress,
    f.LaneOpenFrame: CallTable.on_lane_open,
}
_OF_STREAMS: Final[dict[type[Any], _Take]] = {
    f.StreamOpenFrame: StreamTable.on_open,
    f.StreamItemFrame: StreamTable.on_item,
    f.DatagramItemFrame: StreamTable.on_stray,
    f.StreamEndFrame: StreamTable.on_end,
    f.StreamResetFrame: StreamTable.on_reset,
}
_OF_ALL: Final[dict[type[Any], _Take]] = {
    f.HelloFrame: PeerProtocol._on_hello,
    f.EventFrame: PeerProtocol._on_event,
    f.AckFrame: PeerProtocol._on_ack,
    f.CreditFrame: PeerProtocol._on_credit,
    f.TimeSyncFrame: PeerProtocol._on_time_sync,
    f.GoAwayFrame: PeerProtocol._on_go_away,
}
