"""One protocol machine that anything may happen to: any bytes and any command, in any order.

The fuzzer and a hypothesis state machine both drive it. What is allowed to go wrong is stated here once, each with the
documented exception; what must hold is checked after every step: nobody who waits is forgotten or told twice, every
table is within its bound, and what the machine sends is well-formed, in place and within the peer's limits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Final

from echostream.config import Limits
from echostream.errors import (
    EchoStreamError,
    InvalidArgumentError,
    LocalProtocolError,
    RemoteProtocolError,
    ResourceError,
)
from echostream.protocol import events as ev
from echostream.protocol.codec import FrameCodec
from echostream.protocol.flow import ITEM_COST_BYTES
from echostream.protocol.frames import FrameKind
from echostream.protocol.hello import FEATURES, Hello, PeerLimits
from echostream.protocol.link import _MAX_REMEMBERED, LANE
from echostream.protocol.payload import PayloadCodec
from echostream.protocol.reader import FrameReader
from echostream.protocol.records import AppStream, Call, IncomingCall, OutgoingCall
from echostream.protocol.states import State
from echostream.types import Role
from tests.protocol.pair import UNIDIRECTIONAL, Half, Side, leftovers

__all__ = ("LIMITS", "Ordeal")

LIMITS: Final = Limits(
    max_payload_bytes=1024,
    max_metadata_bytes=256,
    max_payload_elements=200,
    max_payload_depth=8,
    max_concurrent_calls=4,
    max_streams=3,
    max_unacknowledged_events=4,
    max_reassembly_bytes=1 << 16,
    max_unauthenticated_bytes=1024,
    call_window_bytes=1024,
    stream_window_bytes=1024,
    max_probes_per_second=8,
)
"""Small, so that a few bytes reach them."""

MAX_HELD_BYTES: Final = 1200
"""Below what `Limits` lets a user choose, for the same reason."""

REFUSED: Final = (LocalProtocolError, ResourceError, InvalidArgumentError)
"""What the commands that send something may raise: not now, too large, no form on the wire."""

Record = Call | AppStream

_PAYLOAD = PayloadCodec(LIMITS)
_CODEC = FrameCodec(_PAYLOAD, LIMITS)
_MAX_WORDS = 500
"""Characters of an error's text: it goes to a log and to the peer."""


class Ordeal:
    """A machine with an application that does whatever it is told."""

    def __init__(self, role: Role, *, lawful: bool = True) -> None:
        """Make one.

        Args:
            role: which side it is.
            lawful: whether the transport keeps QUIC's promises: no bytes after the end of a stream, none on a stream
                that only this side may send on. Without it what is sent is not checked, only that nothing breaks.
        """
        self.now_ns = 0
        self.side = Side(role, LIMITS, clock_ns=self._clock, codec=_CODEC)
        self.machine = self.side.protocol
        self.machine.link.held.limit = MAX_HELD_BYTES
        self.lawful = lawful
        self.records: list[Record] = []
        """Every call and stream that there ever was, those that have ended included."""
        self.live: set[Record] = set()
        """Those that somebody still waits for."""
        self.refusal: RemoteProtocolError | None = None
        self._half_closed: dict[AppStream, set[str]] = {}
        self._unconsumed: list[tuple[Record, int]] = []
        self._to_acknowledge: list[int] = []
        self._waiting_acks: set[object] = set()
        self._ended: set[int] = set()
        self._stopped: set[int] = set()

    def _clock(self) -> int:
        self.now_ns += 1
        return self.now_ns

    # What the network does

    def meet(self, features: frozenset[str] | None = None) -> None:
        """Do the Hello exchange with a peer that has these features."""
        frame = _hello(self.machine.role.other, FEATURES if features is None else features)
        if self.machine.role is Role.CLIENT:
            self.send_hello()
            self.receive(LANE, frame)
        else:
            self.receive(LANE, frame)
            self.send_hello()
        self.take_early()
        self.machine.event_stream = self.side.open_stream(unidirectional=True)

    def receive(self, stream_id: int, data: bytes, *, fin: bool = False) -> None:
        if self.lawful and not self._may_arrive(stream_id):
            return
        if fin:
            self._ended.add(stream_id)
        self._hear(self.machine.receive_data, stream_id, data, fin=fin)

    def receive_reset(self, stream_id: int, code: int) -> None:
        if self.lawful and not self._may_arrive(stream_id):
            return
        self._ended.add(stream_id)
        self._hear(self.machine.receive_reset, stream_id, code)

    def receive_stop(self, stream_id: int, code: int) -> None:
        if self.lawful and (stream_id in self._stopped or not self._may_be_stopped(stream_id)):
            return
        self._stopped.add(stream_id)
        if self.lawful:
            self.side.halves.setdefault(stream_id, Half()).stopped = True
        self._hear(self.machine.receive_stop, stream_id, code)

    def receive_datagram(self, data: bytes) -> None:
        self._hear(self.machine.receive_datagram, data, self._clock())

    def take_early(self) -> None:
        if self.machine.link.ready:  # its driver asks then, and only then
            self._hear(self.machine.take_early)

    def _may_arrive(self, stream_id: int) -> bool:
        own = stream_id & 1 == self.side.bit
        if own and (stream_id & UNIDIRECTIONAL or not self._was_opened(stream_id)):
            return False
        return stream_id not in self._ended

    def _may_be_stopped(self, stream_id: int) -> bool:
        """Whether this side sends on it, and has not said its last (RFC 9000 section 3.5)."""
        half = self.side.halves.get(stream_id)
        if half is not None and (half.reset_code is not None or half.done):
            return False
        own = stream_id & 1 == self.side.bit
        return self._was_opened(stream_id) if own else not stream_id & UNIDIRECTIONAL

    def _was_opened(self, stream_id: int) -> bool:
        return stream_id >> 2 < self.side._opened[stream_id & UNIDIRECTIONAL]

    def _hear(self, receive: Callable[..., Sequence[ev.ProtocolEvent]], *args: Any, **options: Any) -> None:
        was_closed = self.machine.state is State.CLOSED
        try:
            events = receive(*args, **options)
        except RemoteProtocolError as error:
            assert not was_closed, "a closed machine refused something"
            _check_words(error)
            self.refusal = error
            self._note(self.machine.link.unreported)
            self.close()
        else:
            assert not (was_closed and events), "a closed machine reported something"
            self._note(events)

    # What the application hears

    def _note(self, events: Sequence[ev.ProtocolEvent]) -> None:
        for event in events:
            _ON_EVENT[type(event)](self, event)

    def _begin(self, record: Record) -> None:
        self.records.append(record)
        self.live.add(record)

    def _end(self, record: Record) -> None:
        assert record in self.live, f"{record} ended, and nobody waited for it any more"
        self.live.discard(record)

    def _on_item(self, record: Record, size: int) -> None:
        assert record in self.live, f"an item for {record}, which has ended"
        self._unconsumed.append((record, size))

    def _on_datagram(self, stream: AppStream) -> None:
        assert stream in self.live or stream.id in self.machine.streams._ended, (
            f"a datagram for {stream}, which has ended"
        )

    def _on_half_closed(self, stream: AppStream, half: str) -> None:
        halves = self._half_closed.setdefault(stream, set())
        assert half not in halves
        halves.add(half)
        if len(halves) == 2:
            self._end(stream)

    def _on_rejected(self, event: ev.GoAwayReceived) -> None:
        for record in event.rejected:
            self._end(record)

    def _on_event(self, event: ev.EventReceived) -> None:
        if event.frame.wants_ack:
            self._to_acknowledge.append(event.frame.id)

    # What the application does

    def send_hello(self) -> None:
        self._try(self.machine.send_hello, legal=(LocalProtocolError,))

    def start(
        self,
        size: int,
        *,
        method: str = "m",
        own_stream: bool = False,
        own_request: bool = False,
        metadata: Any = None,
        sends_items: bool = False,
        accepts_items: bool = False,
        raw: bool = False,
        lane: int = 0,
    ) -> None:
        own_stream = own_stream or sends_items or accepts_items
        lanes = sorted(self.machine.link.lanes)
        call = self._try(
            self.machine.calls.start,
            method,
            bytes(size),
            handle=None,
            stream_id=self.side.open_stream() if own_stream else LANE if own_request else lanes[lane % len(lanes)],
            request_stream=self._request_stream() if own_request and not own_stream else None,
            metadata=metadata,
            sends_items=sends_items,
            accepts_items=accepts_items,
            raw=raw,
            legal=REFUSED,
        )
        if call is not None:
            self._begin(call)

    def _request_stream(self) -> int:
        stream_id = self.side.open_stream(unidirectional=True)
        self.side.revocable.add(stream_id)
        return stream_id

    def open_lane(self) -> None:
        self._try(self.machine.calls.open_lane, self.side.open_stream(), legal=(LocalProtocolError,))

    def end_input(self, number: int) -> None:
        if (call := self._pick(number, OutgoingCall)) is not None:
            self._try(self.machine.calls.end_input, call)

    def cancel(self, number: int, status: int) -> None:
        if (call := self._pick(number, OutgoingCall)) is not None:
            assert self._try(self.machine.calls.cancel, call, status) is (call in self.live)
            self.live.discard(call)

    def send_item(self, number: int, size: int, *, raw: bool = False, initial: Any = None) -> None:
        if (call := self._pick(number, Call)) is not None:
            self._try(self.machine.calls.send_item, call, bytes(size), raw=raw, initial=initial, legal=REFUSED)

    def consume(self, number: int) -> None:
        if self._unconsumed:
            record, size = self._unconsumed.pop(number % len(self._unconsumed))
            if isinstance(record, AppStream):
                self._try(self.machine.streams.item_consumed, record, size)
            else:
                self._try(self.machine.calls.item_consumed, record, size)

    def respond(
        self,
        number: int,
        status: int,
        size: int,
        *,
        metadata: Any = None,
        initial: Any = None,
        own_stream: bool = False,
        raw: bool = False,
    ) -> None:
        call = self._pick(number, IncomingCall)
        if call is None:
            return
        shared = self.machine.link.is_lane(call.stream_id)
        done = self._try(
            self.machine.calls.respond,
            call,
            status,
            bytes(size),
            metadata=metadata,
            initial=initial,
            raw=raw,
            own_stream=self.side.open_stream(unidirectional=True) if own_stream and shared else None,
            legal=(ResourceError, InvalidArgumentError),
        )
        assert done in (None, call in self.live)
        if done:
            self.live.discard(call)

    def send_progress(self, number: int) -> None:
        if (call := self._pick(number, IncomingCall)) is not None:
            self._try(self.machine.calls.send_progress, call, b"\x93\x01\xc0\xc0")

    def open_stream(
        self, name: str = "s", metadata: Any = None, *, timed: bool = False, datagram: bool = False
    ) -> None:
        stream = self._try(
            self.machine.streams.open,
            name,
            self.side.open_stream(),
            None,
            metadata=metadata,
            timed=timed,
            datagram=datagram,
            legal=REFUSED,
        )
        if stream is not None:
            self._begin(stream)

    def accept(self, number: int) -> None:
        if (stream := self._pick(number, AppStream)) is not None and not self.machine.link.is_local(stream.id):
            self._try(self.machine.streams.accept, stream)
            if stream in self.live:
                self._hear(self.machine.streams.take_early, stream, self.now_ns)

    def send_datagrams(self, number: int, size: int, room: int) -> None:
        """Number an item, and cut it."""
        if (stream := self._pick(number, AppStream)) is None:
            return
        frame = self._try(self.machine.streams.number_item, stream, bytes(size), legal=REFUSED)
        if frame is not None:
            assert stream in self.live
            found = self.machine.streams.cut_item(frame, room)
            assert all(len(data) <= room for data in found)
            assert found or room < 23

    def forget(self, number: int) -> None:
        if (stream := self._pick(number, AppStream)) is not None:
            self._try(self.machine.streams.forget, stream)

    def send_stream_item(self, number: int, size: int, *, raw: bool = False) -> None:
        if (stream := self._pick(number, AppStream)) is not None:
            legal = (LocalProtocolError, ResourceError)
            self._try(self.machine.streams.send_item, stream, bytes(size), raw=raw, legal=legal)

    def end_stream(self, number: int) -> None:
        if (stream := self._pick(number, AppStream)) is not None:
            had_ended = stream not in self.live or not stream.local_open
            self._try(self.machine.streams.end, stream)
            if not had_ended:
                self._on_half_closed(stream, "local")

    def reset_stream(self, number: int, status: int, reason: bytes = b"") -> None:
        if (stream := self._pick(number, AppStream)) is not None:
            done = self._try(self.machine.streams.reset, stream, status, reason, legal=(ResourceError,))
            assert done in (None, stream in self.live)
            if done:
                self.live.discard(stream)

    def emit(self, size: int, *, name: str = "e", metadata: Any = None, ack: bool = False, raw: bool = False) -> None:
        handle = object() if ack else None
        done = self._try(
            self.machine.emit, name, bytes(size), metadata=metadata, raw=raw, ack_handle=handle, legal=REFUSED
        )
        if done is not None and handle is not None:
            self._waiting_acks.add(handle)

    def acknowledge(self, listeners: int) -> None:
        if self._to_acknowledge:
            self._try(self.machine.acknowledge, self._to_acknowledge.pop(0), listeners, 0)

    def probe(self, nonce: int) -> None:
        self._try(self.machine.probe, nonce, legal=(LocalProtocolError,))

    def go_away(self, code: int, reason: str) -> None:
        self._try(self.machine.go_away, code, reason, legal=(LocalProtocolError,))

    def close(self) -> None:
        ended = set(self.machine.streams._ended.values())
        left = self.machine.close()
        # Streams that the application has reset or refused, and calls that it has cancelled, are not told again.
        assert len(left) == len(set(left))
        assert set(left) - ended == self.live, "somebody who waits is not told that the connection ended"
        self.live.clear()
        self._waiting_acks.clear()
        self._to_acknowledge.clear()
        self._unconsumed.clear()
        assert leftovers(self.machine) == {}
        assert self.machine.state is State.CLOSED

    def flush(self) -> None:
        """Send what the machine has to say; `Side` checks that each write is on a half that is open."""
        if self.lawful:
            self.side.flush()
        else:
            self.machine.take_writes()
            self.machine.take_aborts()

    def _pick(self, number: int, kind: type[Any]) -> Any:
        """Return a call or stream, perhaps one that ended long ago: an application may be late."""
        if not self.records:
            return None
        record = self.records[number % len(self.records)]
        return record if isinstance(record, kind) else None

    def _try(
        self, command: Callable[..., Any], *args: Any, legal: tuple[type[EchoStreamError], ...] = (), **options: Any
    ) -> Any:
        next_id = self.machine.link.next_id
        try:
            return command(*args, **options)
        except legal:
            assert self.machine.link.next_id == next_id, "what could not be sent took an id"
            return None

    # What must hold

    def check(self) -> None:
        """Assert what must hold after every step: a driver of this class calls it."""
        self._check_tables()
        self._check_agreement()

    def _check_tables(self) -> None:
        machine, link = self.machine, self.machine.link
        calls, streams = machine.calls, machine.streams
        remote = [number for number in streams.streams if not link.is_local(number)]
        assert len(calls.incoming) <= LIMITS.max_concurrent_calls
        assert len(remote) == streams._remote_count <= LIMITS.max_streams
        assert len(streams._ended) <= 64
        assert len(streams._early or ()) <= 64
        assert len(link.owed_acks) <= LIMITS.max_unacknowledged_events
        assert len(link.cancelled) <= _MAX_REMEMBERED
        assert len(link.stopped) <= _MAX_REMEMBERED
        assert machine._early._total <= LIMITS.max_reassembly_bytes
        assert link.ready is (machine.state is State.OPEN or machine.state is State.DRAINING)
        owned: list[Record] = [*calls.outgoing.values(), *calls.incoming.values(), *streams.streams.values()]
        assert {owner.stream_id: owner for owner in owned if not link.is_lane(owner.stream_id)} == link.owners

    def _check_agreement(self) -> None:
        """The application and the machine agree on what is open."""
        machine = self.machine
        calls = machine.calls
        open_now: set[Any] = {*calls.outgoing.values(), *calls.incoming.values(), *machine.streams.streams.values()}
        assert open_now == self.live
        assert self._waiting_acks == set(machine._unacknowledged.values())
        readers = machine._readers
        assert readers.buffered_bytes == sum(reader.buffered_bytes for reader in readers._readers.values())
        assert readers.buffered_bytes <= LIMITS.max_reassembly_bytes
        held = readers.buffered_bytes + sum(call.held_bytes for call in calls.incoming.values())
        for record in self.live:
            credit = record.receive_credit
            if credit is not None:
                held += credit.received - credit.consumed
                assert credit.consumed <= credit.received
                largest = LIMITS.max_payload_bytes + ITEM_COST_BYTES
                assert credit.received - credit.consumed <= credit.window + largest
        for stream in (*machine.streams.streams.values(), *machine.streams._ended.values()):
            held += 0 if stream.datagrams is None else stream.datagrams.buffered_bytes
        early = machine.streams._early
        held += 0 if early is None else sum(len(frame.payload) for _, frame in early._frames)
        assert machine.link.held.held == (held if machine.state is not State.CLOSED else 0), (
            "what is held is counted wrongly"
        )

    def check_sent(self) -> None:
        """Assert that a peer can read all that was sent."""
        self.flush()
        if not self.lawful:
            return
        for stream_id, half in self.side.halves.items():
            reader = FrameReader(_CODEC)
            frames = reader.feed(b"".join(half.chunks))
            assert not reader.buffered_bytes, f"half a frame was sent on stream {stream_id}"
            assert [frame for frame in frames if type(frame).__name__ == "HelloFrame"] == frames[:1] or stream_id


@lru_cache
def _hello(role: Role, features: frozenset[str]) -> bytes:
    hello = Hello(role=role, features=features, limits=PeerLimits.of(LIMITS))
    return _CODEC.plain(FrameKind.HELLO, 0, hello.encode(_PAYLOAD))


def _check_words(error: EchoStreamError) -> None:
    """Assert that a text may be logged and sent: one short line, nothing that moves a cursor."""
    assert len(error.message) <= _MAX_WORDS, f"a text of {len(error.message)} characters"
    assert error.message.isprintable(), f"unprintable text {error.message!r}"


_ON_EVENT: Final[dict[type[Any], Callable[[Ordeal, Any], object]]] = {
    ev.HelloReceived: lambda ordeal, event: None,
    ev.HoldingRefused: lambda ordeal, event: None,
    IncomingCall: lambda ordeal, event: ordeal._begin(event),
    ev.ItemReceived: lambda ordeal, event: ordeal._on_item(event.call, len(event.frame.payload)),
    ev.InputEnded: lambda ordeal, event: None,
    ev.CallCancelled: lambda ordeal, event: ordeal._end(event.call),
    OutgoingCall: lambda ordeal, event: ordeal._end(event),
    ev.ProgressReceived: lambda ordeal, event: None,
    ev.CreditReceived: lambda ordeal, event: None,
    ev.EventReceived: Ordeal._on_event,
    ev.EventAcknowledged: lambda ordeal, event: ordeal._waiting_acks.remove(event.handle),
    ev.StreamOpened: lambda ordeal, event: ordeal._begin(event.stream),
    ev.StreamAccepted: lambda ordeal, event: None,
    ev.StreamItemReceived: lambda ordeal, event: ordeal._on_item(event.stream, len(event.frame.payload)),
    ev.DatagramItemReceived: lambda ordeal, event: ordeal._on_datagram(event.stream),
    ev.StreamEnded: lambda ordeal, event: ordeal._on_half_closed(event.stream, "remote"),
    ev.StreamWasReset: lambda ordeal, event: ordeal._end(event.stream),
    ev.GoAwayReceived: Ordeal._on_rejected,
    ev.ProbeAnswered: lambda ordeal, event: None,
    ev.ProbeReceived: lambda ordeal, event: None,
}
