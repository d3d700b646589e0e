"""One unary call of this side: record, handle and place in line all in one; and how any call starts."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import AsyncIterable, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from echostream.errors import ConnectionLostError, DeadlineExceededError, EchoStreamError, RpcError, Status
from echostream.protocol import frames as f
from echostream.protocol.calls import CallTable
from echostream.protocol.link import LANE
from echostream.protocol.records import OutgoingCall
from echostream.session.places import InLine

if TYPE_CHECKING:
    from echostream.binding import MethodBinding
    from echostream.session.chains import Next
    from echostream.session.peer import Peer
    from echostream.session.session import Session
    from echostream.types import Metadata, WireValue

__all__ = (
    "NO_ARGUMENTS",
    "CallRequest",
    "PendingCall",
    "Progress",
    "UsualCall",
    "WireArguments",
    "begin_call",
    "deadline_error",
    "lost_error",
    "seconds_left",
    "start_call",
    "unprocessed",
)

_log = logging.getLogger("echostream.session")

_LONGEST: Final = 1e8
"""Seconds of the longest timeout that is usual: three years."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a call is (names of the Model Context Protocol)."""

    progress: float
    total: float | None = None
    message: str | None = None


WireArguments = tuple[list["WireValue"], dict[str, "WireValue"]]
"""Positional and keyword arguments as they travel."""


NO_ARGUMENTS: Final[WireArguments] = ([], {})
"""Of a request that many calls share."""


@dataclass(slots=True)
class CallRequest:
    """What is to be called, ready for the wire."""

    method: str
    arguments: WireArguments
    timeout: float | None
    """Seconds, or None for no deadline but an inherited one."""
    metadata: Metadata | None = None
    raises: Sequence[type[RpcError]] = ()
    session: Session | None = None
    """Whose id errors name."""
    safe: bool = False
    """Whether it may travel in early data."""
    accepts_items: bool = False
    items: AsyncIterable[Any] | None = None
    """Input items, for calls that stream them."""
    encode_item: Callable[[Any], WireValue] | None = None
    send_through: Callable[[WireValue, Next[WireValue]], Awaitable[Any]] | None = None
    """Middleware around each input item: given the item and what sends it."""

    @property
    def session_id(self) -> str:
        """Of the session, which a client learns late where it calls early."""
        return "" if self.session is None else self.session.id


@dataclass(frozen=True, slots=True)
class UsualCall:
    """What all calls of a method have in common, where they have a timeout and no metadata."""

    request: CallRequest
    timeout: float
    """Seconds."""
    opening: bytes
    """What stands between id and payload of their Requests."""
    encode_one: Callable[[Any], WireValue] | None
    """Makes what travels for the first argument, where that may be the only one."""
    one_type: type | None
    """Exact instances of it as that argument travel as they are."""
    decode: Callable[[WireValue], Any]
    result_type: type | None
    """Exact instances of it are the result as they came."""

    @classmethod
    def of(cls, request: CallRequest, binding: MethodBinding) -> UsualCall | None:
        """Return that of a request, or None where its calls are not usual."""
        timeout = request.timeout
        if request.metadata is not None or timeout is None or not 1e-9 <= timeout <= _LONGEST:
            return None
        opening = CallTable.opening_of(request.method, int(timeout * 1e9))
        decode, result_type = binding.decode_result, binding.output_codec.primitive
        return cls(request, timeout, opening, binding.encode_one, binding.one_type, decode, result_type)


class PendingCall(OutgoingCall, InLine):
    """A call whose single response is awaited: what the machine remembers of it, its handle, and its place in line."""

    is_plain = True
    progress: deque[Progress] | None = None
    progress_changed: asyncio.Event | None = None
    _waiting: tuple[CallRequest, bytes, bool, int] | None = None  # while it is in line

    def __init__(self, peer: Peer, duration: float | None) -> None:
        self.peer = peer
        self.future: asyncio.Future[bool] = peer.runtime.loop.create_future()
        self.duration = duration

    @property
    def handle(self) -> PendingCall:
        """What hears of frames of this call; no attribute: a cycle would wait for the garbage collector."""
        return self

    def on_answered(self) -> None:
        """The answer is here."""
        if not self.future.done():
            self.future.set_result(True)

    def on_credit(self) -> None:
        """Nothing waits for credit in a call without items."""

    def on_item(self, frame: f.ItemFrame) -> None:
        """Not reached: the machine refuses items for a call that takes none."""
        raise AssertionError(frame)

    def on_progress(self, frame: f.ProgressFrame) -> None:
        """Keep the newest reports, if anybody reads them."""
        if self.progress is not None and self.progress_changed is not None:
            report = _read_progress(self.peer, frame.payload)
            if report is not None:
                self.progress.append(report)
                self.progress_changed.set()

    def on_lost(self, error: EchoStreamError) -> None:
        """There will be no answer."""
        if not self.future.done():
            self.future.set_exception(lost_error(error, self.method or None))
            self.future.exception()  # seen: who still writes a large request hears of the loss there

    def expire(self) -> None:
        """The deadline passed."""
        if not self.future.done():
            self.give_up(Status.DEADLINE_EXCEEDED)
            self.future.set_exception(deadline_error(self.method or None, self.duration))

    def give_up(self, status: Status) -> None:
        """Tell the peer that nobody waits any more."""
        if self._waiting is None:
            self.peer.cancel_call(self, status)
            return
        self.leave_line()
        if self._is_called:
            self.peer.places.settle()
        else:
            self.peer.places.leave(self)

    # In line

    def line_up(self, request: CallRequest, payload: bytes, raw: bool, lane: int, deadline: float | None) -> None:
        """Wait for a place, without a Task that does: whoever frees it starts the call.

        The future says True when it is answered; False, where the lane is full by that time, and the place is promised.
        """
        self.method = request.method
        self.peer.places.line_up(self, deadline)
        self._waiting = request, payload, raw, lane

    def enter(self) -> bool:
        """Start, now that there is a place."""
        if self._waiting is None or self.future.done():
            return False
        request, payload, raw, lane = self._waiting
        if self.peer.is_blocked(lane):
            self.future.set_result(False)
            return True
        self.leave_line()
        seconds = seconds_left(self.peer, self.deadline) if self.deadline < math.inf else None
        try:
            start_call(self.peer, request, self, payload, raw, seconds, lane)
        except EchoStreamError as error:
            self.future.set_exception(error)
        else:
            self.peer.due.include(self.deadline)
        return False

    def leave_line(self) -> None:
        """It starts, or has failed to."""
        self._waiting = None
        if self.deadline < math.inf:
            self.peer.runtime.deadlines.remove(self)

    def lose(self, error: ConnectionLostError) -> None:
        """The connection ended."""
        self.leave_line()
        self.on_lost(error)

    @property
    def _is_called(self) -> bool:
        return self.future.done() and not self.future.cancelled() and self.future.exception() is None


def begin_call(peer: Peer, usual: UsualCall, payload: bytes, raw: bool) -> PendingCall | None:
    """Start a small call on the first lane, in the fewest steps; None where it has to wait, or to be refused."""
    if peer.blocked or peer.backlog.full or peer.protocol.peer_gone_away or peer.lost is not None:
        return None
    if not peer.places.free or len(payload) >= peer.lanes.small_bytes:
        return None
    timeout = usual.timeout
    call = PendingCall(peer, timeout)
    call.deadline = deadline = peer.runtime.loop.time() + timeout
    peer.protocol.calls.begin(call, usual.request.method, usual.opening, payload, raw)
    peer.touch()
    if deadline < peer.due.at:
        peer.due.look_at(deadline)
    return call


def start_call(
    peer: Peer,
    request: CallRequest,
    handle: Any,
    payload: bytes,
    raw: bool,
    seconds: float | None,
    stream_id: int = LANE,
    request_stream: int | None = None,
) -> OutgoingCall:
    """Send the request of a call, and return it. Gives the transport streams back when it raises.

    Args:
        peer: the connection.
        request: what is called.
        handle: hears of what comes for the call.
        payload: its arguments.
        raw: whether they are bytes as they are.
        seconds: left of its time now; what waited on this side is gone already. None for no deadline.
        stream_id: its lane, or a two-way stream of its own.
        request_stream: a one-way stream for a large request.

    Raises:
        RpcError: UNAVAILABLE, the peer is shutting down.
        ResourceError: the payload is over the peer's limit.
    """
    timeout_ns = 0 if seconds is None else max(1, int(seconds * 1e9))
    try:
        if peer.protocol.peer_gone_away:
            raise unprocessed(
                "the peer is shutting down and takes no new calls",
                operation=request.method,
                session=request.session_id,
            )
        call = peer.protocol.calls.start(
            request.method,
            payload,
            handle,
            stream_id,
            request_stream,
            timeout_ns,
            request.metadata,
            raw,
            request.items is not None,
            request.accepts_items,
        )
    except EchoStreamError:
        for unused in (stream_id, request_stream):
            if unused is not None and unused not in peer.protocol.link.lanes:
                peer.give_back(unused)
        raise
    peer.touch()
    return call


def seconds_left(peer: Peer, deadline: float | None) -> float | None:
    """Return the time that is left now, which may be below 0."""
    return None if deadline is None else deadline - peer.runtime.loop.time()


def deadline_error(method: str | None, duration: float | None) -> DeadlineExceededError:
    """Build the error of a call whose deadline passed on this side."""
    within = f" within {duration:.3g} s; timeout= gives it more" if duration is not None else ""
    return DeadlineExceededError(f"no answer{within}", duration=duration, operation=method)


def unprocessed(message: str, **kwargs: Any) -> RpcError:
    """Build the error of a call that the other side will not see to: no handler ran, and another try may be better."""
    return RpcError(Status.UNAVAILABLE, message, details={"unprocessed": True}, **kwargs)


def lost_error(error: EchoStreamError, method: str | None) -> EchoStreamError:
    """Return the error of one call, out of the one of the whole connection."""
    if isinstance(error, ConnectionLostError):
        return error.again(operation=method)
    return RpcError(error.code, error.message, retryable=error.retryable, details=error.details, operation=method)


def _read_progress(peer: Peer, payload: bytes) -> Progress | None:
    try:
        progress, total, message = peer.runtime.payload.decode(payload)
        return Progress(float(progress), None if total is None else float(total), message and str(message))
    except (EchoStreamError, TypeError, ValueError):
        _log.debug("< progress report of the wrong form dropped")
        return None
