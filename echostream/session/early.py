"""Early data (0-RTT): what a client may say before the handshake is done, and what a server does about it until then.

What arrives early may be a replay: somebody else may send a client's first packets again. So only calls of methods that
are marked safe are run at once, at most within one Hello that brings no credentials. Whoever finishes the handshake was
there; then all else goes on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from echostream.config import MAX_EARLY_BYTES
from echostream.errors import RemoteProtocolError

if TYPE_CHECKING:
    from echostream.errors import ConnectionLostError, EchoStreamError
    from echostream.protocol import events as ev
    from echostream.protocol import frames as f
    from echostream.protocol.hello import Hello
    from echostream.protocol.peer import PeerProtocol
    from echostream.protocol.records import IncomingCall
    from echostream.session.lanes import Lanes
    from echostream.session.pending import CallRequest
    from echostream.session.session import Session

__all__ = ("EarlyCalls", "EarlyGate")

_HELLO_BYTES: Final = 512
"""Room for the client's own Hello."""
_FRAME_BYTES: Final = 64
"""Room for the header of a Request, and for its Cancel."""


class EarlyCalls:
    """The client's side, until the server's Hello comes: how much may still be said."""

    __slots__ = ("_lanes", "_lanes_from_bytes", "_left")

    def __init__(self, protocol: PeerProtocol, lanes: Lanes, greeting: Hello) -> None:
        """Begin.

        Args:
            protocol: the machine, which sent its Hello.
            lanes: early calls keep to the first.
            greeting: the server's Hello on the connection that this one continues.
        """
        self._left = MAX_EARLY_BYTES - _HELLO_BYTES
        self._lanes = lanes
        self._lanes_from_bytes = lanes.from_bytes
        lanes.from_bytes = sys.maxsize
        protocol.presume(greeting)

    def admit(self, request: CallRequest, payload: bytes) -> bool:
        """Return whether there is room for a safe call, and take it."""
        size = len(payload) + 4 * len(request.method) + _FRAME_BYTES
        if request.metadata:
            size += sum(4 * len(key) + 4 * len(value) + 10 for key, value in request.metadata.items())
        if size > self._left:
            return False
        self._left -= size
        return True

    def end(self) -> None:
        """Put the lanes back."""
        self._lanes.from_bytes = self._lanes_from_bytes


class EarlyGate:
    """The server's side (`PeerOwner`): stands between the driver and its session until the client has proved itself.

    Calls of methods that are not safe, and a Hello with credentials, wait behind it. What a client never sends early
    ends the connection.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._held: list[Callable[[], None]] = []

    def release(self) -> None:
        """The handshake is done: let in what waits, and stand aside."""
        self._session.peer.owner = self._session
        for enter in self._held:
            enter()

    def on_hello(self) -> None:
        """Let the client introduce itself."""
        hello = self._session.peer.protocol.peer_hello
        if hello is not None and hello.credentials is not None:
            self._held.append(self._session.on_hello)
        else:
            self._session.on_hello()

    def on_calls(self, calls: list[IncomingCall]) -> None:
        """Run safe calls, hold others."""
        session = self._session
        if any(call.stream_id not in session.peer.protocol.link.peer_lanes for call in calls):
            self._refuse("streaming call")
            return
        safe = [call for call in calls if session.services.is_safe(call.method)]
        if safe:
            session.on_calls(safe)
        held = [call for call in calls if call not in safe]
        if held:
            self._held.append(lambda: session.on_calls(held))

    def on_event(self, frame: f.EventFrame) -> None:
        """Events do not travel early."""
        self._refuse(f"event {frame.name!r}"[:100])

    def on_stream(self, event: ev.StreamOpened) -> None:
        """Application streams do not travel early."""
        event.stream.handle = _Refused()
        self._refuse("application stream")

    def on_go_away(self, event: ev.GoAwayReceived) -> None:
        """Nothing can be replayed by it."""
        self._session.on_go_away(event)

    def on_closed(self, error: ConnectionLostError) -> None:
        """The client did not prove itself, or went."""
        self._held.clear()
        self._session.on_closed(error)

    def _refuse(self, what: str) -> None:
        self._session.peer.refuse(RemoteProtocolError(f"{what} in early data"))


class _Refused:
    """The handle of a stream that is not seen to: the connection is about to end."""

    __slots__ = ()

    def on_lost(self, _error: EchoStreamError) -> None: ...
    def on_item(self, _frame: f.StreamItemFrame) -> None: ...
    def on_ended(self) -> None: ...
    def on_reset(self, _status: int, _payload: bytes) -> None: ...
    def on_credit(self) -> None: ...
