"""What the protocol machine remembers of one call or one application stream."""

from __future__ import annotations

from typing import Any

from echostream.protocol.flow import ReceiveCredit, SendCredit

__all__ = ("AppStream", "Call", "IncomingCall", "OutgoingCall")


class Call:
    """One call that has not ended."""

    __slots__ = (
        "accepts_items",
        "handle",
        "id",
        "input_open",
        "method",
        "output_open",
        "receive_credit",
        "send_credit",
        "stream_id",
    )

    def __init__(
        self,
        call_id: int,
        stream_id: int,
        method: str,
        *,
        sends_items: bool,
        accepts_items: bool,
        handle: Any = None,
    ) -> None:
        self.id = call_id
        self.stream_id = stream_id
        """Transport stream that its frames travel on."""
        self.method = method
        self.input_open = sends_items
        """Whether the caller may still send items."""
        self.accepts_items = accepts_items
        """Whether the responder may send items before its response."""
        self.output_open = True
        """Whether the transport stream still takes frames of this side: the peer may have stopped it."""
        self.handle = handle
        """Whatever the driver wants to find again when frames of this call arrive."""
        self.send_credit: SendCredit | None = None
        """For the items of this side, where the call has any."""
        self.receive_credit: ReceiveCredit | None = None
        """For the items of the other side, where the call has any."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} {self.method} on stream {self.stream_id}>"


class OutgoingCall(Call):
    """A call that this side made.

    Attributes:
        request_stream: one-way transport stream that a large request travels on by itself, or None.
    """

    __slots__ = ("request_stream",)
    request_stream: int | None


class IncomingCall(Call):
    """A call that the peer made.

    Attributes:
        held_bytes: of its arguments, where they are large.
    """

    __slots__ = ("held_bytes",)
    held_bytes: int


class AppStream:
    """A named stream of items in both directions."""

    __slots__ = (
        "accepted",
        "handle",
        "id",
        "local_open",
        "name",
        "output_open",
        "receive_credit",
        "remote_open",
        "send_credit",
        "stream_id",
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

    def __repr__(self) -> str:
        halves = f"{'>' if self.local_open else '-'}{'<' if self.remote_open else '-'}"
        return f"<AppStream {self.id} {self.name!r} {halves} on stream {self.stream_id}>"
