"""The caller's side of a unary call, and what every call needs: request, deadline, errors."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterable, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from echostream.errors import (
    ConnectionLostError,
    DeadlineExceededError,
    EchoStreamError,
    LocalProtocolError,
    RpcError,
    Status,
    error_from_wire,
)
from echostream.protocol import frames as f
from echostream.protocol.link import LANE
from echostream.protocol.records import OutgoingCall
from echostream.session.context import deadline_of

if TYPE_CHECKING:
    from echostream.session.chains import Next
    from echostream.session.peer import Peer
    from echostream.session.session import Session
    from echostream.types import Metadata, WireValue

__all__ = (
    "NO_ARGUMENTS",
    "CallRequest",
    "PendingCall",
    "Progress",
    "WireArguments",
    "call_unary",
    "check_status",
    "deadline_error",
    "decode_payload",
    "encode_arguments",
    "encode_payload",
    "error_of",
    "lost_error",
    "seconds_left",
    "start_call",
    "unprocessed",
)

_log = logging.getLogger("echostream.session")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a call is (names of the Model Context Protocol)."""

    progress: float
    total: float | None = None
    message: str | None = None


_OTHER_LOOP: Final = (
    "this session belongs to another event loop, that of the thread or asyncio.run() in which it was opened: connect"
    " once in each, or hand the call over with asyncio.run_coroutine_threadsafe()"
)


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


def encode_payload(peer: Peer, value: WireValue) -> tuple[bytes, bool]:
    """Return (payload, raw?): bytes travel as they are."""
    if type(value) is bytes:
        return value, True
    return peer.runtime.payload.encode(value), False


def decode_payload(peer: Peer, payload: bytes, *, raw: bool) -> WireValue:
    """Return the value of a payload.

    Raises:
        InvalidArgumentError: it is no msgpack, or over a limit.
    """
    return payload if raw else peer.runtime.payload.decode(payload)


def encode_arguments(peer: Peer, arguments: WireArguments) -> tuple[bytes, bool]:
    """Return (payload, raw?) of a call's arguments: a single bytes argument travels as it is."""
    positional, keyword = arguments
    if len(positional) == 1 and not keyword and type(positional[0]) is bytes:
        return positional[0], True
    return peer.runtime.payload.encode(arguments), False


class PendingCall(OutgoingCall):
    """A call whose single response is awaited: what the machine remembers of it, and its handle."""

    progress: deque[Progress] | None = None
    progress_changed: asyncio.Event | None = None

    def __init__(self, peer: Peer, duration: float | None) -> None:
        self.peer = peer
        self.future: asyncio.Future[f.ResponseFrame] = peer.runtime.loop.create_future()
        self.duration = duration

    @property
    def handle(self) -> PendingCall:
        """What hears of frames of this call; no attribute: a cycle would wait for the garbage collector."""
        return self

    def on_response(self, frame: f.ResponseFrame) -> None:
        """The answer."""
        if not self.future.done():
            self.future.set_result(frame)

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
        self.peer.cancel_call(self, status)


async def call_unary(
    peer: Peer,
    request: CallRequest,
    arguments: WireArguments,
    decode: Callable[[WireValue], Any],
    pending: PendingCall | None = None,
    seen: Callable[[f.ResponseFrame], None] | None = None,
) -> Any:
    """Call, wait for the response and return what `decode` makes of it.

    Args:
        peer: the connection.
        request: what is called; many calls may share it.
        arguments: of this call; those of the request are not looked at.
        decode: turns the wire value into the result.
        pending: the call's handle, where somebody else needs it too.
        seen: shown the response, whatever its status.

    Raises:
        RpcError: the response carries an error status.
        DeadlineExceededError: the deadline passed first.
        ConnectionLostError: the connection ended first.
        ResourceError: the payload is too large, or too many calls wait.
    """
    runtime = peer.runtime
    deadline, duration = deadline_of(runtime.loop.time(), request.timeout)
    if pending is None:
        pending = PendingCall(peer, duration)
    else:
        pending.duration = duration
    payload, raw = encode_arguments(peer, arguments)
    if peer.lost is not None:
        raise peer.lost.again(operation=request.method, session=request.session_id)
    try:
        large = (size := len(payload)) > runtime.limits.large_payload_bytes
        lane = LANE if large or size < peer.lanes.from_bytes else peer.lanes.take()
        if large or not peer.is_clear(lane):
            start = _start_large if large else _start_slowly
            await start(peer, request, pending, payload, raw, lane, deadline)
        else:
            timeout_ns = 0 if duration is None else max(1, int(duration * 1e9))
            peer.protocol.calls.start(request.method, payload, pending, lane, None, timeout_ns, request.metadata, raw)
            peer.touch()
        if deadline is not None:
            pending.deadline = deadline
            if deadline < peer.due.at:
                peer.due.look_at(deadline)
        frame = await pending.future
    except TimeoutError as error:
        if isinstance(error, DeadlineExceededError):
            raise
        pending.give_up(Status.DEADLINE_EXCEEDED)
        raise deadline_error(request.method, duration) from None
    except asyncio.CancelledError:
        pending.give_up(Status.CANCELLED)
        raise
    except RuntimeError:
        if asyncio.get_running_loop() is runtime.loop:
            raise
        raise LocalProtocolError(_OTHER_LOOP, operation=request.method) from None
    if seen is not None:
        seen(frame)
    if frame.status:
        check_status(peer, frame, request)
    return decode(frame.payload if frame.raw else runtime.payload.decode(frame.payload))


call_unary.__qualname__ = (
    "call of a remote method (write `await` in front of it)"  # what is shown when `await` was forgotten
)


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


async def _start_slowly(
    peer: Peer, request: CallRequest, handle: Any, payload: bytes, raw: bool, lane: int, deadline: float | None
) -> None:
    """Start a call that has to wait for a place or its lane."""
    if request.safe and peer.early is not None and peer.places.free and peer.early.admit(request, payload):
        start_call(peer, request, handle, payload, raw, seconds_left(peer, deadline), lane)
        return
    await peer.places.take(deadline)
    try:
        if peer.is_blocked(lane):
            async with asyncio.timeout_at(deadline):
                await peer.drain(lane)
        start_call(peer, request, handle, payload, raw, seconds_left(peer, deadline), lane)
    finally:
        peer.places.settle()


async def _start_large(
    peer: Peer, request: CallRequest, handle: Any, payload: bytes, raw: bool, _lane: int, deadline: float | None
) -> None:
    """Send a large request when its turn comes, on a stream of its own."""
    size = len(payload)
    async with asyncio.timeout_at(deadline):
        async with peer.places.one():
            await peer.large.claim(size)
            try:
                stream_id = await peer.open_transport_stream(unidirectional=True)
                start_call(peer, request, handle, payload, raw, seconds_left(peer, deadline), request_stream=stream_id)
            except BaseException:
                peer.large.release(size)
                raise
        try:
            await peer.drain_whole(stream_id)
        finally:
            peer.large.release(size)


def check_status(peer: Peer, frame: f.ResponseFrame, request: CallRequest) -> None:
    """Raise what a status other than OK says."""
    if frame.status != Status.OK:
        error = error_of(peer, frame.status, frame.payload, request.method, request.session_id, request.raises)
        original = peer.unexpected.take(error.details) if peer.unexpected is not None else None
        raise original or error


def error_of(
    peer: Peer, status: int, payload: bytes, operation: str, session: str, known: Sequence[type[RpcError]] = ()
) -> RpcError:
    """Build the error that a status and a packed {"message", "details"} stand for; tolerant to a bad payload."""
    message, details = "", dict[str, Any]()
    if payload:
        try:
            values = peer.runtime.payload.decode(payload)
        except EchoStreamError:
            values = {}
        if isinstance(values, dict):
            message = values["message"] if isinstance(values.get("message"), str) else ""
            details = values["details"] if isinstance(values.get("details"), dict) else {}
    return error_from_wire(status, message, details, known=known, session=session, operation=operation)


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
