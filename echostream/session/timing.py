"""Where the time of a call went: on the way there, in line, in the handler, on the way back; with an error bound.

The caller asks with a key in the metadata, the responder answers with three stamps in session time among the trailing
ones. Nobody who does not ask pays for it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from echostream.errors import LocalProtocolError
from echostream.session.pending import PendingCall
from echostream.types import clock

if TYPE_CHECKING:
    from echostream.session.clock import SessionClock
    from echostream.session.peer import Peer
    from echostream.types import Metadata

__all__ = ("TIMING", "CallTiming", "TimedCall", "stamps", "timing_of")

TIMING: Final = "es-timing"
"""Metadata: the caller wants to know."""

_STAMPS_KEY: Final = "es-timing-bin"
_STAMPS: Final = struct.Struct(">qqqQ")
_MAX_BOUND_NS: Final = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class CallTiming:
    """Seconds. Each way includes the work of both programs on its packets, and waiting for a free place."""

    network_out: float
    """From the call to the arrival of the request: of its packet, where the kernel says when that came, as it does on
    Linux while a clock is synchronised; else until the other program read it."""
    queue: float
    """Until the handler began: other calls, the event loop."""
    handler: float
    """Until it had the answer, middleware included."""
    network_back: float
    """Until the answer was here."""
    error_bound: float
    """How wrong each of the two ways can be, one too long by as much as the other is too short: that of the clocks."""

    @property
    def total(self) -> float:
        """All of it, as the caller's clock says."""
        return self.network_out + self.queue + self.handler + self.network_back


class TimedCall(PendingCall):
    """A call that notes when its answer comes."""

    answered_ns: int | None = None

    def on_answered(self) -> None:
        """The answer is here."""
        self.answered_ns = clock.monotonic_ns()
        super().on_answered()

    @classmethod
    def make(cls, peer: Peer, *, timed: bool) -> PendingCall:
        """Return one that does, or a plain one."""
        return (cls if timed else PendingCall)(peer, None)


def stamps(session_clock: SessionClock, received_ns: int, started_ns: int, finished_ns: int) -> Metadata:
    """Return the responder's answer: its stamps, local ones, in session time; nothing where that is not known."""
    if not session_clock.locked:
        return {}
    bound_ns = min(int(session_clock.error_bound_ns), _MAX_BOUND_NS)
    times = [session_clock.to_session_ns(at_ns) for at_ns in (received_ns, started_ns, finished_ns)]
    return {_STAMPS_KEY: _STAMPS.pack(*times, bound_ns)}


def timing_of(trailing: Metadata, session_clock: SessionClock, sent_ns: int, answered_ns: int) -> CallTiming:
    """Return where the time went, by the responder's stamps and the caller's own, local ones.

    Raises:
        LocalProtocolError: the responder sent none, or they make no sense.
    """
    found = trailing.get(_STAMPS_KEY)
    try:
        received_ns, started_ns, finished_ns, bound_ns = _STAMPS.unpack(found if isinstance(found, bytes) else b"")
    except struct.error:
        raise LocalProtocolError(
            "the other side did not time this call: ask with client.proxy(Service, timing=True); a client can answer"
            " once its clock is locked"
        ) from None
    if not received_ns <= started_ns <= finished_ns:
        raise LocalProtocolError("the other side timed this call backwards")
    return CallTiming(
        network_out=(received_ns - session_clock.to_session_ns(sent_ns)) / 1e9,
        queue=(started_ns - received_ns) / 1e9,
        handler=(finished_ns - started_ns) / 1e9,
        network_back=(session_clock.to_session_ns(answered_ns) - finished_ns) / 1e9,
        error_bound=(bound_ns + session_clock.error_bound_ns) / 1e9,
    )
