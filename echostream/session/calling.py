"""The caller's side of a unary call; payloads and the errors of answers for all kinds of calls."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from echostream.errors import (
    DeadlineExceededError,
    EchoStreamError,
    LocalProtocolError,
    RpcError,
    Status,
    error_from_wire,
)
from echostream.protocol import frames as f
from echostream.protocol.link import LANE
from echostream.session.context import current_context, deadline_of
from echostream.session.pending import (
    CallRequest,
    PendingCall,
    UsualCall,
    WireArguments,
    begin_call,
    deadline_error,
    seconds_left,
    start_call,
)

if TYPE_CHECKING:
    from echostream.session.peer import Peer
    from echostream.types import WireValue

__all__ = (
    "call_unary",
    "call_usual",
    "check_status",
    "decode_payload",
    "encode_arguments",
    "encode_payload",
    "error_of",
)

_log = logging.getLogger("echostream.session")


_OTHER_LOOP: Final = (
    "this session belongs to another event loop, that of the thread or asyncio.run() in which it was opened: connect"
    " once in each, or hand the call over with asyncio.run_coroutine_threadsafe()"
)


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
    payload, raw = encode_arguments(peer, arguments)
    return await _call(peer, request, payload, raw, decode, pending, seen)


async def _call(
    peer: Peer,
    request: CallRequest,
    payload: bytes,
    raw: bool,
    decode: Callable[[WireValue], Any],
    pending: PendingCall | None = None,
    seen: Callable[[f.ResponseFrame], None] | None = None,
) -> Any:
    runtime = peer.runtime
    deadline, duration = deadline_of(runtime.loop.time(), request.timeout)
    if pending is None:
        pending = PendingCall(peer, duration)
    else:
        pending.duration = duration
    if peer.lost is not None:
        raise peer.lost.again(operation=request.method, session=request.session_id)
    if duration == 0.0:  # none of the handler's time is left: nobody is asked
        raise deadline_error(request.method, duration)
    try:
        large = (size := len(payload)) > runtime.limits.large_payload_bytes
        lane = LANE if large or size < peer.lanes.from_bytes else peer.lanes.take()
        if deadline is not None:
            pending.deadline = deadline
        if large or not peer.is_clear(lane):
            start = _start_large if large else _start_slowly
            await start(peer, request, pending, payload, raw, lane, deadline)
        else:
            timeout_ns = 0 if duration is None else int(duration * 1e9) or 1
            peer.protocol.calls.start(request.method, payload, pending, lane, None, timeout_ns, request.metadata, raw)
            peer.touch()
        if deadline is not None and deadline < peer.due.at:
            peer.due.look_at(deadline)
        while not await pending.future:  # called while its lane was full
            await _start_late(peer, request, pending, payload, raw, lane, deadline)
    except TimeoutError as error:
        if isinstance(error, DeadlineExceededError):
            raise
        pending.give_up(Status.DEADLINE_EXCEEDED)
        raise deadline_error(request.method, duration) from None
    except asyncio.CancelledError:
        pending.give_up(Status.CANCELLED)
        raise
    except RuntimeError:
        _check_loop(peer, request)
        raise
    if seen is not None:
        seen(pending.frame)
    if pending.status:
        check_status(peer, pending.frame, request)
    return decode(pending.payload if pending.raw else runtime.payload.decode(pending.payload))


async def call_usual(peer: Peer, usual: UsualCall, value: WireValue, arguments: WireArguments | None = None) -> Any:
    """Do for a usual call what `call_unary` does, in the fewest steps, and leave to that what is not as it mostly is.

    Args:
        peer: the connection.
        usual: what is called.
        value: its one positional argument as it travels.
        arguments: all of them, where it has others.
    """
    if arguments is not None:
        payload, raw = encode_arguments(peer, arguments)
    elif raw := type(value) is bytes:
        payload = value
    else:
        payload = peer.runtime.payload.encode_argument(value)
    call = begin_call(peer, usual, payload, raw) if current_context() is None else None  # it may inherit a deadline
    if call is None:
        return await _call(peer, usual.request, payload, raw, usual.decode)
    try:
        await call.future
    except asyncio.CancelledError:
        call.give_up(Status.CANCELLED)
        raise
    except RuntimeError:
        _check_loop(peer, usual.request)
        raise
    if call.status:
        check_status(peer, call.frame, usual.request)
    wire = call.payload if call.raw else peer.runtime.payload.decode(call.payload)
    return wire if type(wire) is usual.result_type else usual.decode(wire)


# What is shown when `await` was forgotten.
call_unary.__qualname__ = call_usual.__qualname__ = "call of a remote method (write `await` in front of it)"


def _check_loop(peer: Peer, request: CallRequest) -> None:
    """Raise LocalProtocolError when a session is used where it does not live."""
    if asyncio.get_running_loop() is not peer.runtime.loop:
        raise LocalProtocolError(_OTHER_LOOP, operation=request.method) from None


async def _start_slowly(
    peer: Peer, request: CallRequest, pending: PendingCall, payload: bytes, raw: bool, lane: int, deadline: float | None
) -> None:
    """Start a call that has to wait for a place or its lane."""
    if request.safe and peer.early is not None and peer.places.free and peer.early.admit(request, payload):
        start_call(peer, request, pending, payload, raw, seconds_left(peer, deadline), lane)
        return
    if not (peer.places.free or peer.is_blocked(lane)):
        pending.line_up(request, payload, raw, lane, deadline)
        return
    await peer.places.take(deadline)
    await _start_in_place(peer, request, pending, payload, raw, lane, deadline)


async def _start_late(
    peer: Peer, request: CallRequest, pending: PendingCall, payload: bytes, raw: bool, lane: int, deadline: float | None
) -> None:
    """Start a call that waited in line and was called while its lane was full."""
    pending.leave_line()
    pending.future = peer.runtime.loop.create_future()
    await _start_in_place(peer, request, pending, payload, raw, lane, deadline)
    peer.due.include(pending.deadline)


async def _start_in_place(
    peer: Peer, request: CallRequest, pending: PendingCall, payload: bytes, raw: bool, lane: int, deadline: float | None
) -> None:
    """Start a call to which a place was promised, when its lane takes more."""
    try:
        if peer.is_blocked(lane):
            async with asyncio.timeout_at(deadline):
                await peer.drain(lane)
        start_call(peer, request, pending, payload, raw, seconds_left(peer, deadline), lane)
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
