"""Delivery of one session's events to their listeners: in order per (event, listener), bounded, acknowledged."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import deque
from collections.abc import Coroutine
from contextvars import copy_context
from inspect import isawaitable
from typing import TYPE_CHECKING, Any

from echostream.errors import EchoStreamError, LocalProtocolError
from echostream.session.calling import decode_payload
from echostream.session.chains import Notice, both
from echostream.session.context import Context, enter_context
from echostream.session.listeners import Listener, ListenerTable

if TYPE_CHECKING:
    from echostream.protocol.frames import EventFrame
    from echostream.session.peer import Peer
    from echostream.session.session import Session
    from echostream.session.tasks import TaskSet
    from echostream.types import WireValue

__all__ = ("EventInbox",)

_log = logging.getLogger("echostream.session")


class _Arrival:
    """One event on its way to its listeners."""

    __slots__ = ("failed", "frame", "listeners", "open", "payload")

    def __init__(self, frame: EventFrame, payload: object, listeners: int) -> None:
        self.frame = frame
        self.payload = payload
        self.listeners = listeners
        self.open = listeners
        self.failed = 0


class _Delivery:
    """One event for one listener."""

    __slots__ = ("arrival",)

    def __init__(self, arrival: _Arrival) -> None:
        self.arrival = arrival


class EventInbox:
    """The events that one session received.

    One call at a time for each (event name, listener), in order of arrival; others run concurrently. At most
    `max_queued_events` wait: above it the oldest plain event is dropped and counted, as it is when all that is held for
    the peer is too much (`max_held_bytes`). Acknowledged events are never dropped: the peer waits for their
    acknowledgements before it sends more; where there is no room for one, its listener has failed.
    """

    def __init__(self, session: Session, peer: Peer, table: ListenerTable, tasks: TaskSet) -> None:
        self._session = session
        self._peer = peer
        self._table = table
        self._tasks = tasks
        self._chain = session.chains.inbound_event
        self._limit = peer.runtime.limits.max_queued_events
        self._held = peer.protocol.link.held
        self._busy: dict[tuple[str, Listener], deque[_Delivery]] = {}
        self._plain: dict[_Delivery, deque[_Delivery]] = {}  # the oldest first, each with the line that it is in
        self._acknowledged = 0
        self.dropped = 0
        """Plain events dropped because listeners were too slow."""
        self.refused = 0
        """Acknowledged events that found no room."""

    @property
    def queued(self) -> int:
        """Deliveries that wait for their listener."""
        return len(self._plain) + self._acknowledged

    def receive(self, frame: EventFrame) -> None:
        """Hand an event to its listeners, or queue it behind what they are busy with."""
        listeners = self._table.match(frame.name)
        if not listeners:
            self._acknowledge(frame, 0, 0)
            return
        try:
            # Middleware gets the event as it travels, and may change it.
            payload = self._decode(frame) if self._chain is None else None
        except EchoStreamError as error:
            bound = {"session": self._session.id, "method": frame.name}
            _log.warning("! event %s dropped: %s", frame.name, error.message, extra=bound)
            self._acknowledge(frame, len(listeners), len(listeners))
            return
        arrival = _Arrival(frame, payload, len(listeners))
        for listener in listeners:
            if not listener.active:  # unsubscribed by a listener before it
                self._skipped(arrival)
                continue
            if listener.once:
                listener.remove()
            self._deliver(listener, arrival)

    def _decode(self, frame: EventFrame) -> object:
        return self._understood(frame.name, decode_payload(self._peer, frame.payload, raw=frame.raw))

    def _understood(self, name: str, value: WireValue) -> object:
        """Return the event of its class, where that is known."""
        binding = self._table.binding(name)
        return value if binding is None else binding.decode(value)

    def _deliver(self, listener: Listener, arrival: _Arrival) -> None:
        key = (arrival.frame.name, listener)
        waiting = self._busy.get(key)
        if waiting is not None:
            self._queue(waiting, arrival)
            return
        rest = self._run(listener, arrival)
        if rest is not None:
            self._busy[key] = deque()
            self._tasks.start(self._work(key, rest, arrival), f"event {arrival.frame.name}")

    def _queue(self, waiting: deque[_Delivery], arrival: _Arrival) -> None:
        delivery = _Delivery(arrival)
        waiting.append(delivery)
        if arrival.frame.wants_ack:
            self._acknowledged += 1
        else:
            self._plain[delivery] = waiting
        too_much = self._held.add(len(arrival.frame.payload))
        while self._plain and (too_much or self.queued > self._limit):
            self._drop_oldest()
            too_much = self._held.full
        if too_much and arrival.frame.wants_ack:
            self._taken(waiting.pop())
            if not self.refused:
                _log.warning(
                    "! session %s: no room for event %s (max_held_bytes)", self._session.id, arrival.frame.name
                )
            self.refused += 1
            arrival.failed += 1
            self._done(arrival)

    def _drop_oldest(self) -> None:
        oldest, line = next(iter(self._plain.items()))
        line.remove(oldest)  # near the front: only acknowledged ones, which are few, can be before it
        self._taken(oldest)
        if not self.dropped:
            _log.warning(
                "! session %s: listeners of %s are too slow, the oldest of %d queued events is dropped",
                self._session.id,
                oldest.arrival.frame.name,
                self._limit,
            )
        self.dropped += 1

    def _taken(self, delivery: _Delivery) -> None:
        """A delivery waits no longer."""
        frame = delivery.arrival.frame
        self._held.add(-len(frame.payload))
        if frame.wants_ack:
            self._acknowledged -= 1
        else:
            del self._plain[delivery]

    def _run(self, listener: Listener, arrival: _Arrival) -> Coroutine[Any, Any, Any] | None:
        """Call a listener; return what is left to await, or None when it is through."""
        context = Context(self._session, arrival.frame.name, arrival.frame.metadata)
        if self._chain is not None or listener.chain is not None:
            return self._run_through(listener, arrival, context)
        try:
            result = copy_context().run(_call, listener, arrival.payload, context)
        except (Exception, asyncio.CancelledError):  # noqa: BLE001 - the user's own code, `future.result()` too
            self._failed(listener, arrival)
            return None
        if isawaitable(result):
            return _in_context(context, result)
        self._done(arrival)
        return None

    async def _run_through(self, listener: Listener, arrival: _Arrival, context: Context) -> None:
        """Run the middleware around a listener."""
        enter_context(context)
        frame, ran = arrival.frame, False

        async def listen(notice: Notice) -> None:
            nonlocal ran
            if ran:
                raise LocalProtocolError(f"event {frame.name}: call_next was called twice, but a listener runs once")
            ran = True
            context.metadata = notice.metadata
            result = listener.call(self._understood(frame.name, notice.payload), context)
            if isawaitable(result):
                await result

        notice = Notice(
            session=self._session,
            name=frame.name,
            payload=decode_payload(self._peer, frame.payload, raw=frame.raw),
            metadata=frame.metadata or {},
            ack=frame.wants_ack,
            context=context,
        )
        chain = both(self._chain, listener.chain)
        await (listen(notice) if chain is None else chain(notice, listen))

    async def _work(self, key: tuple[str, Listener], first: Coroutine[Any, Any, Any], arrival: _Arrival) -> None:
        """Run what a listener has to do until nothing waits for it."""
        listener = key[1]
        waiting = self._busy[key]
        clean = copy_context()
        try:
            await self._finish(listener, arrival, first)
            while waiting:
                delivery = waiting.popleft()
                arrival = delivery.arrival
                self._taken(delivery)
                if listener.active:
                    # A task for each, whose context variables are its own.
                    await self._session.loop.create_task(self._turn(listener, arrival), context=clean.copy())
                else:
                    self._skipped(arrival)
        finally:
            self._busy.pop(key, None)

    async def _turn(self, listener: Listener, arrival: _Arrival) -> None:
        rest = self._run(listener, arrival)
        if rest is not None:
            await self._finish(listener, arrival, rest)

    async def _finish(self, listener: Listener, arrival: _Arrival, rest: Coroutine[Any, Any, Any]) -> None:
        try:
            await rest
        except Exception:  # noqa: BLE001 - the user's own code
            self._failed(listener, arrival)
        except asyncio.CancelledError:
            if self._peer.lost is not None:
                raise
            self._failed(listener, arrival)  # its own doing: others still wait for their turn
        else:
            self._done(arrival)

    def _failed(self, listener: Listener, arrival: _Arrival) -> None:
        _log.exception("! listener %s of event %s raised", listener.name, arrival.frame.name)
        error = sys.exception()
        if error is not None and self._session.runtime.on_error is not None:
            name, metadata = arrival.frame.name, arrival.frame.metadata
            self._session.runtime.on_error(error, Context(self._session, name, metadata))
        if self._peer.unexpected is not None:
            self._peer.unexpected.keep(error)
        arrival.failed += 1
        self._done(arrival)

    def _skipped(self, arrival: _Arrival) -> None:
        arrival.listeners -= 1
        self._done(arrival)

    def _done(self, arrival: _Arrival) -> None:
        arrival.open -= 1
        if arrival.open == 0:
            self._acknowledge(arrival.frame, arrival.listeners, arrival.failed)

    def _acknowledge(self, frame: EventFrame, listeners: int, failed: int) -> None:
        if frame.wants_ack:
            self._peer.protocol.acknowledge(frame.id, listeners, failed)
            self._peer.touch()


def _call(listener: Listener, payload: object, context: Context) -> Any:
    enter_context(context)
    return listener.call(payload, context)


async def _in_context(context: Context, awaitable: Any) -> None:
    enter_context(context)
    await awaitable
