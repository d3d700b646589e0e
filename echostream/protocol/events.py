"""What the protocol machine reports after it was given bytes: past participles, one dataclass each.

Only calls are told by themselves, as the machine remembers them, and no more is made for each: a call of the peer that
begins is its `IncomingCall`; a call of this side that ended, and is already forgotten, its `OutgoingCall` with what was
answered.
"""

from __future__ import annotations

from dataclasses import dataclass

from echostream.protocol import frames as f
from echostream.protocol.hello import Hello
from echostream.protocol.records import AppStream, Call, IncomingCall, OutgoingCall

__all__ = (
    "CallCancelled",
    "CreditReceived",
    "DatagramItemReceived",
    "EventAcknowledged",
    "EventReceived",
    "GoAwayReceived",
    "HelloReceived",
    "HoldingRefused",
    "InputEnded",
    "ItemReceived",
    "ProbeAnswered",
    "ProbeReceived",
    "ProgressReceived",
    "ProtocolEvent",
    "StreamAccepted",
    "StreamEnded",
    "StreamItemReceived",
    "StreamOpened",
    "StreamWasReset",
)


@dataclass(slots=True)
class HelloReceived:
    """The peer introduced itself. A server now checks it and calls `send_hello`."""

    hello: Hello


@dataclass(slots=True)
class ItemReceived:
    """An item of a streaming call. Call `item_consumed` when the application took it."""

    call: Call
    frame: f.ItemFrame


@dataclass(slots=True)
class InputEnded:
    """The caller sends no more items."""

    call: IncomingCall


@dataclass(slots=True)
class CallCancelled:
    """The caller no longer wants the answer; the call is already forgotten here."""

    call: IncomingCall
    status: int


@dataclass(slots=True)
class ProgressReceived:
    """The responder reports how far it is."""

    call: OutgoingCall
    frame: f.ProgressFrame


@dataclass(slots=True)
class CreditReceived:
    """More may be sent."""

    target: Call | AppStream


@dataclass(slots=True)
class EventReceived:
    """The peer's application gave notice. If `frame.wants_ack`, call `acknowledge` when the listeners ran."""

    frame: f.EventFrame


@dataclass(slots=True)
class EventAcknowledged:
    """The listeners of an event that this side emitted have run."""

    handle: object
    frame: f.AckFrame


@dataclass(slots=True)
class StreamOpened:
    """The peer opens an application stream. Call `accept_stream` or `reset_stream`."""

    stream: AppStream
    frame: f.StreamOpenFrame


@dataclass(slots=True)
class StreamAccepted:
    """The peer took a stream that this side opened."""

    stream: AppStream


@dataclass(slots=True)
class StreamItemReceived:
    """An item of an application stream. Call `stream_item_consumed` when the application took it."""

    stream: AppStream
    frame: f.StreamItemFrame


@dataclass(slots=True)
class DatagramItemReceived:
    """An item of an application stream came in datagrams: perhaps not in order, perhaps twice."""

    stream: AppStream
    frame: f.DatagramItemFrame
    """The whole item."""
    arrived_ns: int
    """When its last piece came, on the local clock."""


@dataclass(slots=True)
class StreamEnded:
    """The peer sends no more on this stream; items in datagrams may still be on their way, see `StreamTable.forget`."""

    stream: AppStream


@dataclass(slots=True)
class StreamWasReset:
    """The peer ended, or refused, a stream; it is already forgotten here."""

    stream: AppStream
    status: int
    payload: bytes
    """Packed {"message", "details"}, or empty."""


@dataclass(slots=True)
class GoAwayReceived:
    """The peer takes no new calls and streams; those in `rejected` it never saw to."""

    code: int
    reason: str
    rejected: list[OutgoingCall | AppStream]


@dataclass(slots=True)
class ProbeAnswered:
    """The answer to a TimeSync probe, as it says: nothing shows yet that this side asked."""

    frame: f.TimeSyncFrame
    arrived_ns: int


@dataclass(slots=True)
class ProbeReceived:
    """A TimeSync probe came in a datagram. Answer it in one, once."""

    frame: f.TimeSyncFrame
    arrived_ns: int
    in_burst: bool
    """Whether the one before it came within a second."""


@dataclass(slots=True)
class HoldingRefused:
    """What the peer sent was refused, because this side would have held too much for it. Only the first is reported."""

    what: str
    """The call or stream, in words for a log."""


ProtocolEvent = (
    HelloReceived
    | IncomingCall
    | OutgoingCall
    | ItemReceived
    | InputEnded
    | CallCancelled
    | ProgressReceived
    | CreditReceived
    | EventReceived
    | EventAcknowledged
    | StreamOpened
    | StreamAccepted
    | StreamItemReceived
    | DatagramItemReceived
    | StreamEnded
    | StreamWasReset
    | GoAwayReceived
    | ProbeAnswered
    | ProbeReceived
    | HoldingRefused
)
