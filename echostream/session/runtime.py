"""What all sessions of one server or client share: loop, limits, codecs, deadlines, tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from echostream.config import Limits
from echostream.protocol.account import Account
from echostream.protocol.codec import FrameCodec
from echostream.protocol.frames import Frame
from echostream.protocol.payload import PayloadCodec
from echostream.session.chains import NO_CHAINS, Chains
from echostream.session.context import Context
from echostream.session.deadlines import DeadlineWheel
from echostream.session.resources import Resources
from echostream.session.tasks import TaskSet
from echostream.session.timesync import SendDelay
from echostream.types import Clock, clock

if TYPE_CHECKING:
    from echostream.session.clock import SessionClock
    from echostream.session.ledger import QualityLedger

__all__ = ("Runtime",)


class Runtime:
    """Made on the running loop; `close` ends what it owns."""

    def __init__(self, limits: Limits, *, debug: bool = False, chains: Chains = NO_CHAINS, time: Clock = clock) -> None:
        self.loop = asyncio.get_running_loop()
        self.limits = limits
        self.debug = debug
        """Whether the texts of unexpected errors travel to the peer."""
        self.chains = chains
        """The middleware around everything; that of single services is with their routes."""
        self.on_error: Callable[[BaseException, Context | None], None] | None = None
        """Told of what handlers and listeners did not mean to raise."""
        self.clock = time
        self.observe_frame: Callable[[Frame, FrameCodec], None] | None = getattr(
            getattr(self.loop, "surroundings", None), "observe_frame", None
        )
        """Told of every frame that arrives; a simulated loop brings it along."""
        self.payload = PayloadCodec(limits)
        self.codec = FrameCodec(self.payload, limits)
        self.unsent = Account(limits.max_total_unsent_bytes)
        """What all sessions have written and not sent."""
        self.held = Account(limits.max_total_held_bytes)
        """What all sessions hold for their peers."""
        self.deadlines = DeadlineWheel(self.loop)
        self.tasks = TaskSet(self.loop)
        self.ending = TaskSet(self.loop)
        """Cancelled handlers of sessions that are no more: they may still clean up."""
        self.ledger: QualityLedger | None = None
        """Told of streams and sessions that begin and end, where somebody wants to know."""
        self._own_clock: SessionClock | None = None
        self._send_delay: SendDelay | None = None
        self._resources: Resources | None = None
        self._threads: ThreadPoolExecutor | None = None

    @property
    def resources(self) -> Resources:
        """What lives as long as the server or client; made when it is first needed."""
        if self._resources is None:
            self._resources = Resources(self.loop, "the server or client")
        return self._resources

    @property
    def own_clock(self) -> SessionClock:
        """The clock of a server; made when it is first needed."""
        if self._own_clock is None:
            from echostream.session.clock import OwnClock

            self._own_clock = OwnClock()
        return self._own_clock

    @property
    def send_delay(self) -> SendDelay:
        """How long what leaves now is on its way to the socket; clients answer no probes, and have none."""
        if self._send_delay is None:
            self._send_delay = SendDelay()
        return self._send_delay

    @property
    def threads(self) -> ThreadPoolExecutor:
        """The pool for `@handler(thread=True)`, made when it is first needed."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self.limits.max_threads, thread_name_prefix="echostream")
        return self._threads

    async def close(self) -> None:
        """Cancel the tasks, forget the deadlines, let the threads end. Idempotent."""
        await self.ending.wait()
        if self._resources is not None:
            await self._resources.close()
        await self.tasks.cancel()
        self.deadlines.close()
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._threads = None
