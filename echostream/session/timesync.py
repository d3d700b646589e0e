"""TimeSync between two programs: single probes, and the answers to those of the peer.

Probes and answers travel alone in a datagram where both sides can, so that they wait behind nothing; else on the lane.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from echostream.protocol.datagrams import time_sync
from echostream.protocol.link import LANE
from echostream.types import clock

if TYPE_CHECKING:
    from echostream.errors import ConnectionLostError
    from echostream.protocol import events as ev
    from echostream.session.peer import Peer

__all__ = ("SendDelay", "answer", "probe")


class SendDelay:
    """How long the engine works on a packet before it leaves: what t3, which is inside the packet, must be ahead by.

    The least of late, so that t3 is hardly ever later than the truth: what is left over looks like a longer way, as a
    queue on the network does, and is filtered as such. One for all sessions, which share the engine.
    """

    __slots__ = ("ns",)

    _RISE: Final = 1 / 64
    """Part of the way that a longer one moves it: a machine may become slower."""

    def __init__(self) -> None:
        self.ns = 0

    def learn(self, took_ns: int) -> None:
        """Take one that was measured."""
        self.ns = took_ns if took_ns < self.ns else self.ns + int((took_ns - self.ns) * self._RISE)


def answer(peer: Peer, event: ev.ProbeReceived) -> None:
    """Answer a probe that came in a datagram, at once and in one."""
    delay = peer.runtime.send_delay
    probe, begun_ns = event.frame, clock.monotonic_ns()
    data = time_sync(peer.protocol.link, probe.id, probe.t1_ns, event.arrived_ns, begun_ns + delay.ns, is_answer=True)
    left_ns = peer.connection.send_datagram_now(data)
    if left_ns is not None:
        delay.learn(left_ns - begun_ns)


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
