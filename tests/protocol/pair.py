"""Two protocol machines joined in memory, with transport streams that keep QUIC's promises and no others.

Bytes of one stream arrive in order, streams overtake one another as a test likes, a reset takes back what has not
arrived. A machine that writes on a half that has ended, or on one that it does not own, fails the test.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from echostream.config import Limits
from echostream.protocol import frames as f
from echostream.protocol.codec import FrameCodec
from echostream.protocol.events import ProtocolEvent
from echostream.protocol.hello import Hello, PeerLimits
from echostream.protocol.link import LANE
from echostream.protocol.payload import PayloadCodec
from echostream.protocol.peer import PeerProtocol
from echostream.types import Role

EventT = TypeVar("EventT")

UNIDIRECTIONAL = 2
"""Bit of a stream id (RFC 9000 section 2.1)."""


@dataclass
class Half:
    """What one side sends on one stream and the other has not taken yet."""

    chunks: deque[bytes] = field(default_factory=deque)
    fin: bool = False
    reset_code: int | None = None
    done: bool = False
    """Whether the end, or the reset, has arrived."""
    stopped: bool = False

    @property
    def ended(self) -> bool:
        """Whether the sender may write no more."""
        return self.fin or self.reset_code is not None

    @property
    def deliverable(self) -> bool:
        """Whether something is on its way."""
        return not self.done and (bool(self.chunks) or self.ended)


class Side:
    """One machine, what it was told by the other, and its halves of the streams."""

    def __init__(
        self,
        role: Role,
        limits: Limits | None = None,
        *,
        hello: Hello | None = None,
        clock_ns: Callable[[], int] = lambda: 0,
        codec: FrameCodec | None = None,
    ) -> None:
        self.role = role
        self.limits = limits or Limits()
        self.codec = codec or FrameCodec(PayloadCodec(self.limits), self.limits)
        self.payload = self.codec._payload
        hello = replace(hello or Hello(role=role), limits=PeerLimits.of(self.limits))
        self.protocol = PeerProtocol(hello, self.codec, self.payload, self.limits, clock_ns)
        self.events: list[ProtocolEvent] = []
        self.halves: dict[int, Half] = {}
        self.stops: deque[tuple[int, int]] = deque()
        """Stops of this side that have not arrived: (stream, code)."""
        self.revocable: set[int] = set()
        """Streams of large requests: who cancels one may take it back."""
        self.bit = 0 if role is Role.CLIENT else 1
        self._opened = {0: 0, UNIDIRECTIONAL: 0}
        if role is Role.CLIENT:
            assert self.open_stream() == LANE

    def __repr__(self) -> str:
        return f"<Side {self.protocol!r}>"

    def open_stream(self, *, unidirectional: bool = False) -> int:
        """Return a fresh transport stream."""
        kind = UNIDIRECTIONAL if unidirectional else 0
        number = self._opened[kind]
        self._opened[kind] += 1
        return number << 2 | kind | self.bit

    def may_send_on(self, stream_id: int) -> bool:
        return not stream_id & UNIDIRECTIONAL or stream_id & 1 == self.bit

    def flush(self) -> None:
        """Put what the machine wants sent on its way."""
        for stream_id, data, fin in self.protocol.take_writes():
            self.write(stream_id, data, fin=fin)
        for stream_id, reset, stop, code in self.protocol.take_aborts():
            if reset:
                self._reset(stream_id, code)
            if stop:
                assert not stream_id & UNIDIRECTIONAL or stream_id & 1 != self.bit, f"stop of own stream {stream_id}"
                self.stops.append((stream_id, code))

    def write(self, stream_id: int, data: bytes, *, fin: bool = False) -> None:
        """Write as the driver would, or as a peer would that does not keep to the protocol."""
        assert self.may_send_on(stream_id), f"write on stream {stream_id}, which only the peer sends on"
        half = self.halves.setdefault(stream_id, Half())
        assert not half.ended, f"write of {data!r} on stream {stream_id} after its end"
        if data:
            half.chunks.append(data)
        half.fin = fin

    def send(self, frame: f.Frame, *, on: int = LANE, fin: bool = False) -> None:
        """Send any frame, whatever the machine would say about it, behind what it has queued."""
        self.flush()
        self.write(on, self.codec.encode(frame), fin=fin)

    def _reset(self, stream_id: int, code: int) -> None:
        assert self.may_send_on(stream_id), f"reset of stream {stream_id}, which only the peer sends on"
        half = self.halves.setdefault(stream_id, Half())
        if half.done or half.reset_code is not None:
            return
        assert stream_id in self.revocable or (not half.fin or half.stopped), (
            f"reset of stream {stream_id} takes back what was sent with its end"
        )
        half.chunks.clear()
        half.fin = False
        half.reset_code = code

    def take(self, kind: type[EventT]) -> EventT:
        """Return the only event that came since the last call, and forget it."""
        [event] = self.events
        assert isinstance(event, kind), event
        self.events.clear()
        return event

    def take_all(self, kind: type[EventT]) -> list[EventT]:
        """Return the events of one kind, and forget all."""
        found: list[EventT] = [event for event in self.events if isinstance(event, kind)]
        self.events.clear()
        return found

    @property
    def open_halves(self) -> set[int]:
        """Streams that this side sent something on and did not end."""
        return {stream_id for stream_id, half in self.halves.items() if not half.ended}


class ProtocolPair:
    """A client and a server."""

    def __init__(
        self,
        *,
        client: Limits | None = None,
        server: Limits | None = None,
        client_hello: Hello | None = None,
        server_hello: Hello | None = None,
        byte_at_a_time: bool = False,
        meet: bool = True,
    ) -> None:
        """Make one.

        Args:
            client: limits of the client.
            server: limits of the server.
            client_hello: what the client says of itself; its limits are replaced.
            server_hello: what the server says of itself; its limits are replaced.
            byte_at_a_time: hand over each byte by itself.
            meet: exchange Hellos, and the streams for events.
        """
        self.now_ns = 1_000
        self.client = Side(Role.CLIENT, client, hello=client_hello, clock_ns=self._clock)
        self.server = Side(Role.SERVER, server, hello=server_hello, clock_ns=self._clock)
        self.byte_at_a_time = byte_at_a_time
        self.held: set[int] = set()
        """Streams whose bytes wait until the test lets them go."""
        if meet:
            self.meet()

    @property
    def sides(self) -> tuple[Side, Side]:
        return self.client, self.server

    def other(self, side: Side) -> Side:
        return self.server if side is self.client else self.client

    def _clock(self) -> int:
        self.now_ns += 1
        return self.now_ns

    def meet(self) -> None:
        """Do the Hello exchange and choose the streams for events."""
        self.client.protocol.send_hello()
        self.pump()
        self.server.protocol.send_hello()
        self.server.events += self.server.protocol.take_early()
        self.pump()
        self.client.events += self.client.protocol.take_early()
        for side in self.sides:
            side.events.clear()
            side.protocol.event_stream = side.open_stream(unidirectional=True)

    def pump(self) -> None:
        """Deliver until nothing more is on its way, except on held streams."""
        while self._flush_and_find():
            for side, stream_id in self._flush_and_find():
                self.deliver(side, stream_id)

    def pending(self) -> list[tuple[Side, int]]:
        """Return (sender, stream) wherever something is on its way and not held; -1 stands for a stop."""
        return self._flush_and_find()

    def _flush_and_find(self) -> list[tuple[Side, int]]:
        found = []
        for side in self.sides:
            side.flush()
            found += [(side, number) for number, half in side.halves.items() if half.deliverable]
            if side.stops:
                found.append((side, -1))
        return [(side, number) for side, number in found if number not in self.held]

    def deliver(self, sender: Side, stream_id: int, *, count: int | None = None) -> None:
        """Hand over what is on its way on one stream: all of it, or the next `count` writes."""
        if stream_id == -1:
            self._deliver_stop(sender)
            return
        half, taker = sender.halves[stream_id], self.other(sender)
        if half.reset_code is not None:
            half.done = True
            taker.events += taker.protocol.receive_reset(stream_id, half.reset_code)
            return
        taken = [half.chunks.popleft() for _ in range(len(half.chunks) if count is None else count) if half.chunks]
        half.done = half.fin and not half.chunks
        self._hand_over(taker, stream_id, b"".join(taken), fin=half.done)

    def _hand_over(self, taker: Side, stream_id: int, data: bytes, *, fin: bool) -> None:
        pieces = [data[at : at + 1] for at in range(len(data))] if self.byte_at_a_time and data else [data]
        for number, piece in enumerate(pieces, 1):
            taker.events += taker.protocol.receive_data(stream_id, piece, fin=fin and number == len(pieces))

    def _deliver_stop(self, sender: Side) -> None:
        stream_id, code = sender.stops.popleft()
        taker = self.other(sender)
        half = taker.halves.setdefault(stream_id, Half())
        if half.done or half.reset_code is not None:
            return  # RFC 9000 section 3.5: nothing is left to stop
        half.stopped = True
        taker.events += taker.protocol.receive_stop(stream_id, code)

    def assert_nothing_left(self) -> None:
        """Nothing is on its way, and nobody remembers a call, a stream or a transport stream that has ended."""
        assert self.pending() == []
        for side in self.sides:
            assert leftovers(side.protocol) == {}, side
            other_bit = side.bit ^ 1
            link = side.protocol.link
            assert side.open_halves <= {side.protocol.event_stream} | link.lanes | link.peer_lanes, side
            assert all(number & 1 != other_bit or link.is_lane(number) for number in side.open_halves), side


def leftovers(machine: PeerProtocol) -> dict[str, Any]:
    """Return what a machine still holds that belongs to calls and streams."""
    link = machine.link
    held = {
        "outgoing": machine.calls.outgoing,
        "incoming": machine.calls.incoming,
        "streams": machine.streams.streams,
        "refused streams": machine.streams._remote_count,
        "ended streams": machine.streams._ended,
        "owners": link.owners,
        "claimed": link.claimed,
        "unacknowledged": machine._unacknowledged,
        "owed acks": link.owed_acks,
        "unfinished": machine._readers.buffered_bytes,
        "readers": [
            number
            for number in machine._readers._readers
            if not link.is_lane(number) and not number & UNIDIRECTIONAL
        ],
    }  # fmt: skip
    return {name: value for name, value in held.items() if value}
