"""What the protocol machine remembers of one call or one application stream."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from echostream.protocol.flow import ReceiveCredit, SendCredit
from echostream.protocol.frames import RequestFrame, ResponseFrame
from echostream.protocol.pieces import DatagramHalves

if TYPE_CHECKING:
    from echostream.types import Metadata

__all__ = ("AppStream", "Call", "IncomingCall", "OutgoingCall")


class Call:
    """One call that has not ended.

    One is made for every call, and most are plain: what only some calls have is a default of the class.
    """

    input_open = False
    """Whether the caller may still send items."""
    accepts_items = False
    """Whether the responder may send items before its response."""
    output_open = True
    """Whether the transport stream still takes frames of this side: the peer may have stopped it."""
    send_credit: SendCredit | None = None
    """For the items of this side, where the call has any."""
    receive_credit: ReceiveCredit | None = None
    """For the items of the other side, where the call has any."""
    id: int
    stream_id: int
    """Transport stream that its frames travel on."""
    method: str

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} {self.method} on stream {self.stream_id}>"


class OutgoingCall(Call):
    """A call that this side made. The driver may have its own kind of it, which then is its own handle.

    It is an event, too: that it ended.
    """

    id = 0  # until it starts
    method = ""
    stream_id = 0
    is_plain = False
    """Whether it is on a lane and takes no items: then its Response is its end, and leaves nothing to be tidied up."""
    handle: Any = None
    """Whatever the driver wants to find again when frames of this call arrive."""
    deadline = math.inf
    """When the driver gives it up, on the driver's clock."""
    request_stream: int | None = None
    """One-way transport stream that a large request travels on by itself, or None."""
    # The answer, once it is here.
    status: int
    payload: bytes
    raw = False
    metadata: Metadata | None = None
    initial: Metadata | None = None

    def __init__(self, handle: Any = None) -> None:
        self.handle = handle

    @property
    def frame(self) -> ResponseFrame:
        """The answer, as it came."""
        return ResponseFrame(self.id, self.status, self.payload, self.metadata, self.initial, self.raw)

    def on_answered(self) -> None:
        """Hand over the answer."""
        self.handle.on_response(self.frame)


class IncomingCall(Call):
    """A call that the peer made. Answer with `respond`, sooner or later, once.

    It is an event, too, and the driver may have its own kind of it made: one object is all that a call is.
    """

    held_bytes = 0
    """Of its arguments, where they are large."""

    def __init__(self, frame: RequestFrame, stream_id: int) -> None:
        self.id = frame.id
        self.stream_id = stream_id
        self.method = frame.method
        self.frame = frame

    @property
    def handle(self) -> Any:
        """What hears of frames of this call: the driver's own kind of it."""
        return self


class AppStream:
    """A named stream of items in both directions."""

    __slots__ = (
        "accepted",
        "datagrams",
        "handle",
        "id",
        "local_open",
        "name",
        "output_open",
        "receive_credit",
        "remote_open",
        "send_credit",
        "stream_id",
        "timed",
    )

    def __init__(
        self,
        number: int,
        stream_id: int,
        name: str,
        *,
        send_credit: SendCredit,
        receive_credit: ReceiveCredit,
        handle: Any = None,
        timed: bool = False,
        datagrams: DatagramHalves | None = None,
    ) -> None:
        self.id = number
        self.stream_id = stream_id
        """Transport stream that its frames travel on."""
        self.name = name
        self.handle = handle
        """Whatever the driver wants to find again when frames of this stream arrive."""
        self.accepted = False
        """Whether the side that did not open it took it; the first Credit frame says so."""
        self.local_open = True
        """Whether this side may still send."""
        self.remote_open = True
        """Whether the other side may still send."""
        self.output_open = True
        """Whether the transport stream still takes frames of this side: the peer may have stopped it."""
        self.send_credit = send_credit
        self.receive_credit = receive_credit
        self.timed = timed
        """Whether its items have timestamps."""
        self.datagrams = datagrams
        """What is remembered of its items in datagrams, where they may travel so."""

    def __repr__(self) -> str:
        halves = f"{'>' if self.local_open else '-'}{'<' if self.remote_open else '-'}"
        return f"<AppStream {self.id} {self.name!r} {halves} on stream {self.stream_id}>"
