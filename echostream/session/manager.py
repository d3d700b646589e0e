"""The sessions of one server: who is here, and sending an event to all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from echostream.errors import ResourceError
from echostream.session.calling import encode_payload
from echostream.session.emitter import encode_event

if TYPE_CHECKING:
    from echostream.session.session import Session

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

    def __init__(self) -> None:
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
        """
        name, wire = encode_event(event, *payload)
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
