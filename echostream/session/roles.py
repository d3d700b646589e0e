"""What the driver of a connection needs of others: who waits for a call, whom it reports to, where exceptions pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from echostream.errors import ConnectionLostError, EchoStreamError
    from echostream.protocol import events as ev
    from echostream.protocol import frames as f
    from echostream.protocol.records import IncomingCall

__all__ = ("CLOSED_HERE", "CallHandle", "PeerOwner", "ProbeHandle", "UnexpectedErrors")

CLOSED_HERE: Final = ": its block has ended, or close() was called; connect again"
"""Why a call fails on a connection that its own program has closed; the log needs no such advice."""


class CallHandle(Protocol):
    """What a call or an application stream of the machine has for its `handle`. No method may raise."""

    def on_lost(self, error: EchoStreamError) -> None:
        """The connection ended, or the peer will not see to it."""


class ProbeHandle(Protocol):
    """Who waits for the answer to a TimeSync probe. No method may raise."""

    def on_answered(self, event: ev.ProbeAnswered) -> None:
        """It came: the first one, and the peer knew the nonce."""

    def on_lost(self, error: ConnectionLostError) -> None:
        """The connection ended."""


class PeerOwner(Protocol):
    """What the peer reports to: the session."""

    def on_hello(self) -> None:
        """The peer introduced itself."""

    def on_calls(self, calls: list[IncomingCall]) -> None:
        """The peer calls; all else that came together with these was told before."""

    def on_event(self, frame: f.EventFrame) -> None:
        """The peer's application gave notice."""

    def on_stream(self, event: ev.StreamOpened) -> None:
        """The peer opens an application stream."""

    def on_go_away(self, event: ev.GoAwayReceived) -> None:
        """The peer takes no new calls."""

    def on_closed(self, error: ConnectionLostError) -> None:
        """The connection ended."""


class UnexpectedErrors(Protocol):
    """Takes what a handler did not mean to raise past the wire."""

    def keep(self, error: BaseException | None) -> dict[str, Any]:
        """Keep one; return the details by which `take` finds it."""
        ...

    def take(self, details: Mapping[str, Any]) -> Exception | None:
        """Return what was kept under these details, once."""
        ...
