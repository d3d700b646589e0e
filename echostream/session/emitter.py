"""Sending events: at once where the way is free, waiting where it is not, acknowledged on request."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from echostream.binding import dump_any
from echostream.errors import ConfigurationError, ConnectionLostError, DeadlineExceededError
from echostream.session.calling import encode_payload
from echostream.session.chains import Chain, Notice
from echostream.session.listeners import event_key
from echostream.session.turns import Turns

if TYPE_CHECKING:
    from echostream.protocol import frames as f
    from echostream.session.session import Session
    from echostream.types import Metadata, WireValue

__all__ = ("Emitter", "EventAck", "encode_event")

_NOTHING: Any = object()


@dataclass(frozen=True, slots=True)
class EventAck:
    """What became of an acknowledged event on the other side."""

    listeners: int
    """Listeners that ran."""
    failed: int
    """How many of them raised."""


class _AckWaiter:
    """The machine's handle for an acknowledged event."""

    __slots__ = ("future",)

    def __init__(self, future: asyncio.Future[EventAck]) -> None:
        self.future = future

    def on_acknowledged(self, frame: f.AckFrame) -> None:
        """The listeners ran."""
        if not self.future.done():
            self.future.set_result(EventAck(frame.listeners, frame.failed))


class Emitter:
    """The events that one session sends."""

    __slots__ = ("_acks", "_session", "_turns")

    def __init__(self, session: Session) -> None:
        self._session = session
        self._acks: dict[asyncio.Future[EventAck], None] = {}  # no set: they fail in order
        self._turns: Turns | None = None

    async def emit(
        self, name: str, wire: WireValue, *, ack: bool, timeout: float | None, metadata: Metadata | None
    ) -> EventAck | None:
        """Send one event; with `ack` wait for its listeners. See `Conversation.emit`."""
        peer = self._session.peer
        data, raw = encode_payload(peer, wire)
        if not ack and not peer.is_blocked(peer.choose_event_stream()):
            self._send(name, data, raw=raw, metadata=metadata)
            return None
        try:
            async with asyncio.timeout(timeout):
                if ack:
                    return await self._send_acknowledged(name, data, raw=raw, metadata=metadata)
                await peer.drain(peer.choose_event_stream())
                self._send(name, data, raw=raw, metadata=metadata)
                return None
        except TimeoutError:
            raise self._late(name, ack=ack, timeout=timeout) from None

    async def emit_through(
        self,
        chain: Chain[Notice],
        name: str,
        wire: WireValue,
        *,
        ack: bool,
        timeout: float | None,
        metadata: Metadata | None,
    ) -> EventAck | None:
        """Send one event with middleware around it; the timeout is for all of it."""
        loop = self._session.loop
        deadline = None if timeout is None else loop.time() + timeout
        scope = asyncio.timeout_at(deadline)
        answer: EventAck | None = None

        async def send(notice: Notice) -> EventAck | None:
            nonlocal answer
            left = None if deadline is None else max(0.0, deadline - loop.time())
            _arm(scope, None)  # meanwhile the timeout of the sending counts
            try:
                answer = await self.emit(
                    notice.name, notice.payload, ack=ack, timeout=left, metadata=notice.metadata or None
                )
            finally:
                _arm(scope, deadline)
            return answer

        notice = Notice(session=self._session, name=name, payload=wire, metadata=metadata or {}, ack=ack)
        try:
            async with scope:
                result = await chain(notice, send)
        except TimeoutError:
            if not scope.expired():
                raise
            raise self._late(name, ack=ack, timeout=timeout) from None
        if not ack:
            return None
        return result if isinstance(result, EventAck) else answer or EventAck(0, 0)

    def emit_now(self, name: str, data: bytes, *, raw: bool) -> bool:
        """Send an encoded event without waiting, for broadcasts; False when the session is closed or too slow."""
        peer = self._session.peer
        if not peer.open or peer.is_blocked(peer.choose_event_stream()):
            return False
        self._send(name, data, raw=raw, metadata=None)
        return True

    def lost(self, error: ConnectionLostError) -> None:
        """No acknowledgement will come any more."""
        for answer in list(self._acks):
            if not answer.done():
                answer.set_exception(error.again(session=self._session.id))
                answer.exception()  # seen: perhaps nobody waits for it any more

    def _send(
        self, name: str, data: bytes, *, raw: bool, metadata: Metadata | None, ack: _AckWaiter | None = None
    ) -> None:
        peer = self._session.peer
        if peer.lost is not None:
            raise peer.lost.again(operation=name, session=self._session.id)
        peer.protocol.emit(name, data, raw=raw, metadata=metadata, ack_handle=ack)
        peer.touch()

    async def _send_acknowledged(self, name: str, data: bytes, *, raw: bool, metadata: Metadata | None) -> EventAck:
        peer = self._session.peer
        if self._turns is None:  # how many there are is known since the peer's Hello
            self._turns = Turns(self._session.loop, peer.protocol.link.peer_limits.max_unacknowledged_events)
        await self._turns.claim(1)
        answer: asyncio.Future[EventAck] = self._session.loop.create_future()
        answer.add_done_callback(self._answered)
        try:
            await peer.drain(peer.choose_event_stream())
            self._send(name, data, raw=raw, metadata=metadata, ack=_AckWaiter(answer))
        except BaseException:
            answer.cancel()
            raise
        self._acks[answer] = None
        # Shielded: the event counts until the other side is through with it, even when nobody waits here any more.
        return await asyncio.shield(answer)

    def _late(self, name: str, *, ack: bool, timeout: float | None) -> DeadlineExceededError:
        within = f" within {timeout:.3g} s" if timeout is not None else ""
        return DeadlineExceededError(
            f"event not {'acknowledged' if ack else 'sent'}{within}",
            duration=timeout,
            operation=name,
            session=self._session.id,
        )

    def _answered(self, answer: asyncio.Future[EventAck]) -> None:
        self._acks.pop(answer, None)
        if self._turns is not None:
            self._turns.release(1)


def _arm(scope: asyncio.Timeout, when: float | None) -> None:
    if not scope.expired():
        scope.reschedule(when)


def encode_event(event: object, payload: object = _NOTHING, *more: object) -> tuple[str, WireValue]:
    """Return (name, wire value) of an event object, or of a name and a payload.

    Raises:
        ConfigurationError: neither an object of an event class nor a name with or without a payload.
    """
    if more:
        raise ConfigurationError("event", f"{event!r} takes one payload, got {1 + len(more)}: put them into a list")
    if isinstance(event, str):
        return event, None if payload is _NOTHING else dump_any(payload)
    if isinstance(event, type):
        raise ConfigurationError("event", f"{event.__name__} is a class: give an object, {event.__name__}(...)")
    name, binding = event_key(type(event))
    if payload is not _NOTHING or binding is None:
        raise ConfigurationError("event", f"give an event object or a name and a payload, not both ({name!r})")
    return name, binding.encode(event)
