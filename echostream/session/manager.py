"""The sessions of one server: who is here, and sending an event to all of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from echostream.errors import LocalProtocolError, ResourceError
from echostream.session.calling import encode_payload
from echostream.session.chains import Chain, Notice
from echostream.session.emitter import encode_event

if TYPE_CHECKING:
    from echostream.session.session import Session
    from echostream.types import WireValue

__all__ = ("BroadcastResult", "SessionManager")


@dataclass(frozen=True, slots=True)
class BroadcastResult:
    """What became of a broadcast."""

    sent: int
    """Sessions that it was handed to."""
    failed: int
    """Sessions that could not take it: closing, too slow, or with a smaller payload limit."""


class SessionManager:
    """The open sessions, by id."""

    def __init__(self, chain: Chain[Notice] | None = None) -> None:
        """Make one; `chain` is the middleware around broadcasts."""
        self._chain = chain
        self._sessions: dict[str, Session] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[Session]:
        """Iterate over a copy: sessions may come and go meanwhile."""
        return iter(list(self._sessions.values()))

    def __contains__(self, session: object) -> bool:
        return getattr(session, "id", None) in self._sessions

    def __repr__(self) -> str:
        return f"<SessionManager {len(self)} sessions>"

    def get(self, session_id: str) -> Session | None:
        """Return the session with this id, if it is here."""
        return self._sessions.get(session_id)

    def add(self, session: Session) -> None:
        """A session opened."""
        self._sessions[session.id] = session

    def discard(self, session: Session) -> None:
        """A session ended."""
        if self._sessions.get(session.id) is session:
            del self._sessions[session.id]

    def broadcast(
        self, event: object, *payload: object, where: Callable[[Session], bool] | None = None
    ) -> BroadcastResult:
        """Send an event to every session, or to those that `where` picks. Encoded once, waits for nobody.

        A session whose network is too slow to take it now (more than the high watermark unsent) is counted as failed.

        Raises:
            LocalProtocolError: a middleware waits in its `outbound_event`.
        """
        name, wire = encode_event(event, *payload)
        if self._chain is None:
            return self._send(name, wire, where)
        result = BroadcastResult(0, 0)

        async def send(notice: Notice) -> BroadcastResult:
            nonlocal result
            result = self._send(notice.name, notice.payload, where)
            return result

        _step(self._chain(Notice(session=None, name=name, payload=wire), send), name)
        return result

    def _send(self, name: str, wire: WireValue, where: Callable[[Session], bool] | None) -> BroadcastResult:
        sent = failed = 0
        data: bytes | None = None
        raw = False
        for session in self:
            if where is not None and not where(session):
                continue
            if data is None:
                data, raw = encode_payload(session.peer, wire)
            try:
                taken = session.events.emit_now(name, data, raw=raw)
            except ResourceError:
                taken = False
            sent, failed = (sent + 1, failed) if taken else (sent, failed + 1)
        return BroadcastResult(sent, failed)


def _step(chain: Coroutine[Any, Any, Any], name: str) -> None:
    """Run a chain to its end without waiting, or say who wanted to wait."""
    try:
        chain.send(None)
    except StopIteration:
        return
    waiting: Any = chain
    while inspect.iscoroutine(waiting.cr_await) and ".outbound_event" in waiting.cr_await.__qualname__:
        waiting = waiting.cr_await
    who = waiting.__qualname__
    chain.close()
    raise LocalProtocolError(
        f"{who} waits for something, but a broadcast waits for nobody: await only call_next in it, or use emit()",
        operation=name,
    )
