"""Context: what a handler or listener may ask about the call or event that it serves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from echostream.errors import ConfigurationError

if TYPE_CHECKING:
    from echostream.session.clock import SessionClock
    from echostream.session.session import Principal, Session
    from echostream.types import Metadata

__all__ = ("Context", "current_context", "current_deadline", "deadline_of", "enter_context", "leave_context")

_PROGRESS_INTERVAL: Final = 0.1
"""Seconds between two progress reports of one call: more than ten a second nobody can read (MCP's advice)."""

_LONGEST: Final = 1e9
"""Seconds beyond which a timeout is the same as none: 31 years, which fit in the nanoseconds of a Request frame."""


class Context:
    """One call, event or stream, seen from inside its handler.

    Attributes:
        session: the session that it came on; call back, emit or open streams there.
        method: wire name of the method, event or stream.
        metadata: what the other side sent along.
    """

    __echostream_role__ = "context"
    is_call = False
    """Whether this is a call, and not an event or an application stream."""

    # What most of them never have is a default of the class.
    cancelled = False
    """Whether the caller gave up, or the deadline passed."""
    initial: Metadata | None = None
    """The initial metadata that has not been sent; for the dispatcher."""
    trailing: Metadata | None = None
    """The trailing metadata so far; for the dispatcher."""
    _progress = 0.0
    _reported: float | None = None

    def __init__(
        self,
        session: Session,
        method: str,
        metadata: Mapping[str, str | bytes] | None = None,
        deadline: float | None = None,
    ) -> None:
        self.session = session
        self.method = method
        self.metadata: Mapping[str, str | bytes] = metadata if metadata is not None else {}
        self._deadline = deadline

    def __repr__(self) -> str:
        return f"<Context {self.method} of session {self.session.id}>"

    @staticmethod
    def current() -> Context:
        """Return the context of the handler that runs now.

        Raises:
            LookupError: no handler runs here.
        """
        context = _current.get()
        if context is None:
            raise LookupError("no EchoStream handler runs here: Context.current() works inside handlers and listeners")
        return context

    # Not set before somebody asks: most calls have neither.

    @property
    def state(self) -> dict[str, Any]:
        """Data that the middlewares, dependencies and the handler of this exchange share."""
        try:
            return self._state
        except AttributeError:
            self._state: dict[str, Any] = {}
            return self._state

    @property
    def principal(self) -> Principal | None:
        """Who asks: the session's principal, unless a middleware found another one for this exchange."""
        try:
            return self._principal
        except AttributeError:
            return self.session.principal

    @principal.setter
    def principal(self, principal: Principal | None) -> None:
        self._principal: Principal | None = principal

    @property
    def clock(self) -> SessionClock:
        """The time that all sessions of the server share: ``ctx.clock.now_ns()``."""
        return self.session.clock

    @property
    def deadline(self) -> float | None:
        """Instant on the event loop's clock (seconds) at which the caller stops waiting; None without, or after it."""
        return self._deadline

    @property
    def time_left(self) -> float | None:
        """Seconds until the deadline, never below 0, or None without one."""
        if self._deadline is None:
            return None
        return max(0.0, self._deadline - self.session.loop.time())

    def shorten(self, deadline: float) -> None:
        """Bring the deadline forward for the calls that this one gives rise to; for middleware, which keeps it."""
        if self._deadline is None or deadline < self._deadline:
            self._deadline = deadline

    def set_initial_metadata(self, **metadata: str | bytes) -> None:
        """Add metadata that travels with the first item of a stream, or with the response. ``_`` stands for ``-``."""
        self.initial = {**(self.initial or {}), **_keys(metadata)}

    def set_trailing_metadata(self, **metadata: str | bytes) -> None:
        """Add metadata that travels with the end of the call. ``_`` stands for ``-``."""
        self.trailing = {**(self.trailing or {}), **_keys(metadata)}

    def take_initial(self) -> Metadata | None:
        """Return the initial metadata once; for the dispatcher."""
        initial, self.initial = self.initial, None
        return initial

    def drop_metadata(self) -> None:
        """Forget what was to travel, because it cannot; for the dispatcher."""
        self.initial = self.trailing = None

    async def progress(self, progress: float, *, total: float | None = None, message: str | None = None) -> None:
        """Tell the caller how far this call is; it reads ``call.progress()``.

        Reports less than 0.1 s after the one before are dropped, except the last one (``progress == total``).

        Raises:
            ConfigurationError: this is no call (an event or a stream), or progress falls.
            ResourceError: the message is over the peer's payload limit.
            InvalidArgumentError: the message has lone surrogates.
        """
        if not self.is_call:
            raise ConfigurationError("progress", f"{self.method} is not a call: only calls report progress")
        if not progress >= self._progress:  # nor is it no number
            raise ConfigurationError("progress", f"{progress:g} falls behind {self._progress:g}: progress only rises")
        self._progress = progress
        now = self.session.loop.time()
        if self._reported is not None and now - self._reported < _PROGRESS_INTERVAL and progress != total:
            return
        self._reported = now
        self._report(progress, total, message)

    def _report(self, progress: float, total: float | None, message: str | None) -> None:
        """Send a report, where this is a call."""
        raise NotImplementedError


_current: ContextVar[Context | None] = ContextVar("echostream_context", default=None)


enter_context: Final[Callable[[Context], object]] = _current.set
"""Make a context the current one of the running task, whose context variables are its own."""


current_context: Final[Callable[[], Context | None]] = _current.get
"""Return the context of the running task, if it is a handler's."""


def leave_context() -> None:
    """Let the running task be no handler's: it has no deadline to inherit."""
    _current.set(None)


def current_deadline() -> float | None:
    """Return the deadline that nested calls inherit, or None."""
    context = _current.get()
    return None if context is None else context._deadline


def deadline_of(now: float, timeout: float | None) -> tuple[float | None, float | None]:
    """Return (deadline, seconds allowed): the nearer of the timeout and what a running handler has left."""
    context = _current.get()
    inherited = None if context is None else context._deadline
    if timeout is not None:
        timeout = timeout if timeout < _LONGEST else _LONGEST  # noqa: FURB136 - a call of min costs
        if inherited is None or now + timeout <= inherited:
            return now + timeout, timeout
    return inherited, None if inherited is None else max(0.0, inherited - now)


def _keys(metadata: Mapping[str, str | bytes]) -> Metadata:
    return {key.replace("_", "-"): value for key, value in metadata.items()}
