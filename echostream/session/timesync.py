"""TimeSync between two programs: probes, alone, as a heartbeat or in bursts, and the answers to those of the peer.

Probes and answers travel alone in a datagram where both sides can, so that they wait behind nothing; else on the lane.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from echostream.config import PROBE_TIMEOUT, STAMPS_REST
from echostream.protocol.datagrams import time_sync
from echostream.protocol.hello import TIME_SYNC
from echostream.protocol.link import LANE
from echostream.realtime import ProbeCadence
from echostream.session.deadlines import Entry
from echostream.types import clock, random_bytes, random_source

if TYPE_CHECKING:
    from echostream.errors import ConnectionLostError
    from echostream.protocol import events as ev
    from echostream.session.clock_quality import ProbeCounts
    from echostream.session.peer import Peer

__all__ = ("Prober", "SendDelay", "Stamping", "answer", "beat", "fresh_nonce", "probe", "take_answer")

_FORGET: Final = 1 / 64
"""Part that the worst lateness of the loop loses at each probe: of late is a minute."""
_NOT_OPEN: Final = 0.05
"""Seconds until a connection that is not open yet is looked at again."""


class SendDelay:
    """How long the engine works on a packet before it leaves: what t3, which is inside the packet, must be ahead by.

    The least of late, so that t3 is hardly ever later than the truth: what is left over looks like a longer way, as a
    queue on the network does, and is filtered as such. One for all sessions, which share the engine.
    """

    __slots__ = ("_before", "_count", "_now")

    _WINDOW: Final = 64
    """Packets after which an earlier least one is forgotten, at the most twice as many: a machine may become slower."""
    _FEWEST: Final = 8
    """Packets before which nothing is said: the first ones are slow, and t3 must not lie after the truth."""

    def __init__(self) -> None:
        self._before: int | None = None
        self._now: int | None = None
        self._count = 0

    @property
    def ns(self) -> int:
        """The least of late; 0 while too few are known."""
        if self._now is None or (self._before is None and self._count < self._FEWEST):
            return 0
        return self._now if self._before is None else min(self._before, self._now)

    def learn(self, took_ns: int) -> None:
        """Take one that was measured."""
        if self._count == self._WINDOW:
            self._before, self._now, self._count = self._now, None, 0
        self._now = took_ns if self._now is None else min(self._now, took_ns)
        self._count += 1


def take_answer(peer: Peer, event: ev.ProbeAnswered) -> None:
    """Take an answer to a probe of this side, or to none."""
    waiting = peer.probes.pop(event.frame.id, None)
    if not peer.probes:
        peer.probes = {}  # a dict that once held something stays larger, and most sessions only have heartbeats
    if waiting is None:
        peer.protocol.link.stray_answers += 1
    else:
        waiting.on_answered(event)


def answer(peer: Peer, event: ev.ProbeReceived) -> None:
    """Answer a probe that came in a datagram, at once and in one."""
    delay = peer.runtime.send_delay
    probe, begun_ns = event.frame, clock.monotonic_ns()
    data = time_sync(peer.protocol.link, probe.id, probe.t1_ns, event.arrived_ns, begun_ns + delay.ns, is_answer=True)
    left_ns = peer.connection.send_datagram_now(data)
    if left_ns is not None:
        delay.learn(left_ns - begun_ns)
    if event.in_burst:
        peer.stamping = peer.stamping or Stamping(peer)
        peer.stamping.probed_ns = begun_ns


class Stamping(Entry):
    """Lets the kernel stamp what arrives, as long as a peer probes in bursts: it costs each packet a little."""

    __slots__ = ("_peer", "probed_ns")

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self.probed_ns = 0
        """When the peer probed last."""
        peer.connection.stamp_arrivals(True)
        self._look_later()

    def expire(self) -> None:
        if clock.monotonic_ns() - self.probed_ns < STAMPS_REST * 1e9:
            self._look_later()
        else:
            self._peer.stamping = None
            self._peer.connection.stamp_arrivals(False)

    def close(self) -> None:
        """Look no more: the connection ended, and its stamps with it."""
        self._peer.runtime.deadlines.remove(self)

    def _look_later(self) -> None:
        runtime = self._peer.runtime
        runtime.deadlines.put(runtime.loop.time() + STAMPS_REST, self)


class Prober:
    """Sends bursts of probes, and hands up the stamps of those that are answered.

    Args:
        peer: to whom.
        counts: where it is noted what becomes of them.
        take: called with t1, t2, t3 and t4 of each.
        is_wanted: asked before each; when it says no, nothing more is done.
    """

    def __init__(
        self,
        peer: Peer,
        counts: ProbeCounts,
        take: Callable[[int, int, int, int], None],
        is_wanted: Callable[[], bool],
    ) -> None:
        self.late_ns = 0
        """How late the loop came to a probe that was due: the worst of late."""
        self._unheard_ns = 0  # when the first probe left that nothing came after; 0 for none
        self._peer = peer
        self._counts = counts
        self._take = take
        self._is_wanted = is_wanted
        self._asked: deque[tuple[int, int]] = deque()  # when, nonce: at most those of `PROBE_TIMEOUT`
        now_ns = clock.monotonic_ns()
        self._cadence = ProbeCadence(now_ns, random_source.random)
        self._cadence.sync(now_ns)
        self._is_stamping = False
        self._timer = peer.runtime.loop.call_soon(self._fire)

    @property
    def in_datagrams(self) -> bool:
        """Whether probes travel alone."""
        return _in_datagrams(self._peer)

    @property
    def silent_ns(self) -> int:
        """How long ago the first probe left of those that nothing came after."""
        return clock.monotonic_ns() - self._unheard_ns if self._unheard_ns else 0

    def hurry(self) -> None:
        """Begin with fast bursts again."""
        self._cadence.hurry(clock.monotonic_ns())
        self._arm()

    def stop(self) -> None:
        """Send no more; answers that are on their way count for nothing."""
        self._timer.cancel()
        for _, nonce in self._asked:
            self._counts.lost += self._peer.probes.pop(nonce, None) is not None
        self._asked.clear()
        self._peer.connection.stamp_arrivals(False)

    def answered(self, asked: _Asked, event: ev.ProbeAnswered) -> None:
        """Take an answer; one that repeats another t1 than it was given is none."""
        frame, self._unheard_ns = event.frame, 0
        if frame.t1_ns != asked.told_ns:
            self._counts.ignored += 1
        else:
            self._take(asked.left_ns, frame.t2_ns, frame.t3_ns, event.arrived_ns)

    def _fire(self) -> None:
        if not self._peer.open:
            self._timer = self._peer.runtime.loop.call_later(_NOT_OPEN, self._fire)
            self._cadence.hurry(clock.monotonic_ns())
            return
        if not self._is_wanted():
            return
        now_ns = clock.monotonic_ns()
        self.late_ns = max(now_ns - self._cadence.next_ns, int(self.late_ns * (1 - _FORGET)))
        self._give_up_on(now_ns - int(PROBE_TIMEOUT * 1e9))
        if self._send():
            self._counts.sent += 1
            self._unheard_ns = self._unheard_ns or now_ns
        else:
            self._counts.unsent += 1
        self._cadence.sent(clock.monotonic_ns())
        self._arm()

    def _arm(self) -> None:
        self._timer.cancel()
        wait_ns = max(0, self._cadence.next_ns - clock.monotonic_ns())
        self._timer = self._peer.runtime.loop.call_later(wait_ns / 1e9, self._fire)

    def _send(self) -> bool:
        peer, nonce = self._peer, fresh_nonce()
        asked = _Asked(self)
        if self.in_datagrams:
            if not self._is_stamping:
                self._is_stamping = True
                peer.connection.stamp_arrivals(True)
            asked.told_ns = clock.monotonic_ns()
            left_ns = peer.connection.send_datagram_now(time_sync(peer.protocol.link, nonce, asked.told_ns))
            if left_ns is None:
                return False
            asked.left_ns = left_ns
        else:
            if peer.is_blocked(LANE):
                return False
            peer.flush()
            asked.told_ns = asked.left_ns = peer.protocol.probe(nonce)
            peer.flush()
        peer.probes[nonce] = asked
        self._asked.append((asked.left_ns, nonce))
        return True

    def _give_up_on(self, before_ns: int) -> None:
        """Wait no longer for answers to what was asked before a time."""
        while self._asked and self._asked[0][0] < before_ns:
            _, nonce = self._asked.popleft()
            self._counts.lost += self._peer.probes.pop(nonce, None) is not None


class _Asked:
    """A probe that waits for its answer."""

    __slots__ = ("_prober", "left_ns", "told_ns")

    def __init__(self, prober: Prober) -> None:
        self._prober = prober
        self.told_ns = 0
        """The t1 that the peer was told."""
        self.left_ns = 0
        """When it left."""

    def on_answered(self, event: ev.ProbeAnswered) -> None:
        self._prober.answered(self, event)

    def on_lost(self, error: ConnectionLostError) -> None:
        """Nobody waits."""


class _Beat:
    """Whoever waits for the answer to a heartbeat: nobody; that anything came is what counts."""

    def on_answered(self, event: ev.ProbeAnswered) -> None:
        """It did."""

    def on_lost(self, error: ConnectionLostError) -> None:
        """Others are told."""


_BEAT: Final = _Beat()


def beat(peer: Peer) -> bool:
    """Send one probe, because nothing came for a while; returns whether one left."""
    if not peer.open or not _in_datagrams(peer):
        return False
    for nonce in [nonce for nonce, waiting in peer.probes.items() if waiting is _BEAT]:
        del peer.probes[nonce]
    nonce = fresh_nonce()
    peer.probes[nonce] = _BEAT
    return peer.connection.send_datagram_now(time_sync(peer.protocol.link, nonce, clock.monotonic_ns())) is not None


def fresh_nonce() -> int:
    """Return 64 random bits: who did not see a probe cannot answer it."""
    return int.from_bytes(random_bytes(8), "big")


def _in_datagrams(peer: Peer) -> bool:
    return TIME_SYNC in peer.protocol.link.features and peer.connection.max_datagram_payload_bytes > 0


async def probe(peer: Peer, nonce: int) -> ev.ProbeAnswered:
    """Send a probe on the lane, which loses none, and wait for its answer. The caller bounds the wait.

    Raises:
        ConnectionLostError: the connection ended meanwhile.
    """
    peer.check_alive()
    await peer.drain(LANE)
    waiting = peer.probes[nonce] = _Waiting(peer.runtime.loop)
    try:
        peer.protocol.probe(nonce)
        peer.touch()
        return await waiting.answer
    finally:
        peer.probes.pop(nonce, None)


class _Waiting:
    """Somebody who waits for one answer."""

    __slots__ = ("answer",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.answer: asyncio.Future[ev.ProbeAnswered] = loop.create_future()

    def on_answered(self, event: ev.ProbeAnswered) -> None:
        if not self.answer.done():
            self.answer.set_result(event)

    def on_lost(self, error: ConnectionLostError) -> None:
        if not self.answer.done():
            self.answer.set_exception(error.again())
