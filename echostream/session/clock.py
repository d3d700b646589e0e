"""The time that all programs of one server share: its monotonic clock, and every client's estimate of it.

On the server session time is local time. A client estimates how far apart the two clocks are and how fast they part,
from probes that are sent while somebody reads its clock (`tracking.py`); what it publishes is corrected gently and
never goes back.
"""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

from echostream.config import DEFAULT_LOCK_TIMEOUT, checked_seconds
from echostream.errors import DeadlineExceededError, LocalProtocolError
from echostream.realtime import ClockMapping
from echostream.session.clock_quality import ClockQuality, ProbeCounts
from echostream.session.tracking import Resting, Tracking
from echostream.types import clock

if TYPE_CHECKING:
    from echostream.session.clock_quality import ClockStep
    from echostream.session.peer import Peer

__all__ = ("EstimatedClock", "OwnClock", "SessionClock")


class SessionClock(ABC):
    """Session time: the server's monotonic clock in integer nanoseconds. All clients of a server share it.

    Reading costs about a microsecond. Who reads from another thread than the event loop's holds the clock meanwhile.
    """

    @abstractmethod
    def to_session_ns(self, local_ns: int) -> int:
        """Return the session time at a time of this machine's monotonic clock.

        Raises:
            LocalProtocolError: nothing is known yet: `wait_locked` before.
        """

    @abstractmethod
    def to_local_ns(self, session_ns: int) -> int:
        """Return when this machine's monotonic clock shows a session time.

        Raises:
            LocalProtocolError: nothing is known yet: `wait_locked` before.
        """

    def now_ns(self) -> int:
        """Return session time. It never goes back.

        Raises:
            LocalProtocolError: nothing is known yet: `wait_locked` before.
        """
        return self.to_session_ns(clock.monotonic_ns())

    @property
    @abstractmethod
    def locked(self) -> bool:
        """Whether session time is known and kept up to date."""

    @property
    @abstractmethod
    def offset_ns(self) -> int:
        """How far session time is ahead of this machine's monotonic clock now; 0 while nothing is known."""

    @property
    @abstractmethod
    def drift_ppm(self) -> float:
        """How much faster session time runs than this machine's clock, in parts per million."""

    @property
    @abstractmethod
    def error_bound_ns(self) -> float:
        """How wrong session time can be now, in nanoseconds: half the shortest round trip and more; ``inf`` if unknown.

        No exchange of stamps tells how a round trip divides into its two ways: the bound holds for any division.
        """

    @property
    @abstractmethod
    def quality(self) -> ClockQuality:
        """How good the clock is, what became of its probes, and what is wrong."""

    @abstractmethod
    async def wait_locked(self, *, timeout: float | None = DEFAULT_LOCK_TIMEOUT) -> None:
        """Wait until session time is known: a round trip and 40 ms, as a rule.

        Args:
            timeout: seconds, None for as long as the session lasts.

        Raises:
            DeadlineExceededError: too few answers in time.
            ConnectionLostError: the session ended.
            ConfigurationError: `timeout` is not above 0.
        """

    @abstractmethod
    def hold(self) -> Callable[[], None]:
        """Keep the clock up to date, whether it is read or not; the function that comes back ends it."""

    def _shown(self, *, locked: bool) -> str:
        state, bound = "locked" if locked else "not locked", self.error_bound_ns / 1e3
        ahead = f"{self.offset_ns / 1e6:+.3f} ms {self.drift_ppm:+.2f} ppm"
        return f"<{type(self).__name__} {state} {ahead} ±{bound:.0f} us>"


class OwnClock(SessionClock):
    """The server's: session time is its own."""

    def __repr__(self) -> str:
        return self._shown(locked=True)

    @property
    def locked(self) -> bool:
        return True

    @property
    def offset_ns(self) -> int:
        return 0

    @property
    def drift_ppm(self) -> float:
        return 0.0

    @property
    def error_bound_ns(self) -> float:
        return 0.0

    @property
    def quality(self) -> ClockQuality:
        return ClockQuality(locked=True, error_bound_ns=0.0)

    def to_session_ns(self, local_ns: int) -> int:
        return local_ns

    def to_local_ns(self, session_ns: int) -> int:
        return session_ns

    async def wait_locked(self, *, timeout: float | None = DEFAULT_LOCK_TIMEOUT) -> None:
        """Return: it is."""

    def hold(self) -> Callable[[], None]:
        return _nothing


class EstimatedClock(SessionClock):
    """A client's. Probes are sent only while somebody reads it or holds it, and it is small meanwhile."""

    def __init__(self, peer: Peer) -> None:
        self.mapping = ClockMapping()
        """From local to session time, once `is_known`."""
        self.is_known = False
        self.is_read = True
        """Whether somebody read it since the last probe."""
        self.holders = 0
        self.counts = ProbeCounts()
        self.last_step: ClockStep | None = None
        self.resting = Resting()
        """What the bound is while no probes are sent."""
        self._peer = peer
        self._tracking: Tracking | None = None
        self._changed: asyncio.Event | None = None
        self._begin()

    def __repr__(self) -> str:
        return self._shown(locked=self._is_locked)  # to show it is not to read it

    # Reading

    def to_session_ns(self, local_ns: int) -> int:
        self._note_reading()
        return self.mapping.to_session_ns(local_ns)

    def to_local_ns(self, session_ns: int) -> int:
        self._note_reading()
        return self.mapping.to_local_ns(session_ns)

    @property
    def locked(self) -> bool:
        if self._tracking is None:
            self._begin()
        return self._is_locked

    @property
    def offset_ns(self) -> int:
        local_ns = clock.monotonic_ns()
        return self.mapping.to_session_ns(local_ns) - local_ns if self.is_known else 0

    @property
    def drift_ppm(self) -> float:
        tracking = self._tracking
        if tracking is None or not tracking.estimate.locked:
            return self.resting.drift_ppm
        return tracking.estimate.drift_ppm

    @property
    def error_bound_ns(self) -> float:
        if not self.is_known:
            return math.inf
        local_ns, tracking = clock.monotonic_ns(), self._tracking
        if tracking is None or not tracking.estimate.locked:
            return self.resting.bound_ns(local_ns)
        return tracking.bound_ns(local_ns)

    @property
    def quality(self) -> ClockQuality:
        return ClockQuality(
            at_ns=clock.monotonic_ns(),
            locked=self.locked,
            offset_ns=self.offset_ns,
            drift_ppm=self.drift_ppm,
            error_bound_ns=self.error_bound_ns,
            sent=self.counts.sent,
            unsent=self.counts.unsent,
            answered=self.counts.answered,
            lost=self.counts.lost,
            ignored=self.counts.ignored,
            outliers=self.counts.outliers,
            steps=self.counts.steps,
            stray=self._peer.protocol.link.stray_answers,
            jumps=self.mapping.jump_count,
            last_step=self.last_step,
            **(self._tracking.measured() if self._tracking is not None else {}),
        )

    async def wait_locked(self, *, timeout: float | None = DEFAULT_LOCK_TIMEOUT) -> None:
        if timeout is not None:
            checked_seconds("timeout", timeout, ", or None for as long as the session lasts")
        release = self.hold()
        try:
            async with asyncio.timeout(timeout):
                while not self.locked:
                    self._peer.check_alive()
                    self._changed = self._changed or asyncio.Event()
                    await self._changed.wait()
        except TimeoutError:
            raise DeadlineExceededError(
                f"the clock is not locked after {timeout:.3g} s: {self.counts.answered} of {self.counts.sent} probes"
                " were answered",
                duration=timeout,
            ) from None
        finally:
            release()

    def hold(self) -> Callable[[], None]:
        self.holders += 1
        is_held = True

        def release() -> None:
            nonlocal is_held
            self.holders -= is_held
            is_held = False

        if self._tracking is None:
            self._begin()
        return release

    # For what tracks it, and for the session

    def tell(self) -> None:
        """Wake those who wait: something changed."""
        changed, self._changed = self._changed, None
        if changed is not None:
            changed.set()

    def rest(self) -> None:
        """Send no probes until somebody reads it again, and give their memory back."""
        tracking, self._tracking = self._tracking, None
        if tracking is not None:
            tracking.close()

    def close(self) -> None:
        """The session ended: what is known stays, and grows old."""
        self.rest()
        self.tell()

    # Inside

    def _note_reading(self) -> None:
        if not self.is_known:
            raise LocalProtocolError(
                "nothing is known of the server's clock yet: await session.clock.wait_locked() before you read it"
            )
        self.is_read = True
        if self._tracking is None:
            self._begin()

    @property
    def _is_locked(self) -> bool:
        return self.is_known and self._tracking is not None and self._tracking.estimate.locked

    def _begin(self) -> None:
        """Send probes from now on."""
        if self._peer.lost is None:
            self.is_read = True
            self._tracking = Tracking(self, self._peer)


def _nothing() -> None:
    """Release what needs no holding."""
