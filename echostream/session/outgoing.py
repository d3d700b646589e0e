"""Sending through a queue: items that may be dropped, or that are paced. Those in datagrams are in datagrams.py.

A stream without such wishes has no queue: its `send` waits for credit and the network, see channel.py.
"""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from echostream.bucket import TokenBucket
from echostream.errors import EchoStreamError, Status, StreamResetError
from echostream.protocol.frames import DatagramItemFrame
from echostream.session.sendqueue import QueuedItem, SendQueue

if TYPE_CHECKING:
    from echostream.protocol.records import AppStream
    from echostream.session.channel import Channel
    from echostream.types import Overflow

__all__ = ("PLAIN", "Outgoing", "ReliableOutgoing", "SendOptions")

_BURST_SECONDS: Final = 0.05
"""What a paced stream may send at once, as seconds of its rate."""


@dataclass(frozen=True, slots=True)
class SendOptions:
    """What a stream does with items that cannot be sent at once."""

    policy: Overflow | None = None
    """None for what fits: ``drop_oldest`` where datagrams were asked for, ``block`` otherwise."""
    max_items: int | None = None
    """Items that wait; None for `Limits.max_queued_items`."""
    max_age: float | None = None
    """Seconds that they wait; None for `Limits.item_max_age` where datagrams were asked for, for any time otherwise."""
    rate: float | None = None
    """Bytes a second; None for what the network takes."""

    @property
    def needs_queue(self) -> bool:
        """Whether a reliable stream cannot do without one."""
        return self.policy not in (None, "block") or self.max_age is not None or self.rate is not None


PLAIN: Final = SendOptions()


class Outgoing(ABC):
    """The sending side of one stream, with a queue.

    Attributes:
        queue: what waits, and what was dropped.
        sent: items sent.
        sent_bytes: their payloads.
        ending: whether this half of the stream ends when all was sent.
    """

    def __init__(self, channel: Channel, options: SendOptions, *, may_drop: bool) -> None:
        """Make one; `may_drop` says that datagrams were asked for, on which old items are dropped unless told."""
        limits = channel.peer.runtime.limits
        self.channel = channel
        self.loop = channel.peer.runtime.loop
        self.queue = SendQueue(
            max_items=limits.max_queued_items,
            max_bytes=limits.max_queued_item_bytes,
            max_age=limits.item_max_age if may_drop else math.inf,
        )
        self.policy: Overflow = "drop_oldest" if may_drop else "block"
        self.bucket: TokenBucket | None = None
        self.configure(options)
        self.sent = 0
        self.sent_bytes = 0
        self.ending = False
        self._room = asyncio.Event()

    def configure(self, options: SendOptions) -> None:
        """Do as the options say from now on; what they leave open stays."""
        self.policy = options.policy or self.policy
        if options.max_items is not None:
            self.queue.max_items = options.max_items
        if options.max_age is not None:
            self.queue.max_age = options.max_age
        if options.rate is not None:
            self.bucket = TokenBucket(options.rate, burst=options.rate * _BURST_SECONDS)

    async def put(self, stream: AppStream, payload: bytes, *, raw: bool, timestamp_ns: int | None) -> None:
        """Queue an item. It may drop older ones, be dropped itself, or wait, as the policy says."""
        size = len(payload)
        self._check_open(stream)
        while self.policy == "block" and not self.queue.has_room(size):
            self._room.clear()
            await self._room.wait()  # ends: what waits is sent, becomes stale, or its stream is given up
            self._check_open(stream)
        item = QueuedItem(self.frame(stream, payload, raw=raw, timestamp_ns=timestamp_ns))
        is_crowded = not self.queue.has_room(size)
        if is_crowded:
            self._make_room(size)
        if self.queue.has_room(size):
            self.queue.put(item, self.loop.time())
            self.start()
        if is_crowded:
            await asyncio.sleep(0)  # who sends in a loop without waiting would keep the rest from being sent at all

    def end(self) -> None:
        """End this half of the stream once all was sent."""
        self.ending = True
        self.look_for_end()

    def look_for_end(self) -> None:
        """Call where something may have been the last."""
        if self.ending and self.is_idle:
            self.channel.finish_end()

    def begun(self, frame: DatagramItemFrame) -> None:
        """An item left the queue, to be sent."""
        if self.bucket is not None:
            self.bucket.spend(len(frame.payload))
        self.made_room()

    def done(self, frame: DatagramItemFrame) -> None:
        """It was sent."""
        self.sent += 1
        self.sent_bytes += len(frame.payload)

    def made_room(self) -> None:
        """Wake who waits for room in the queue."""
        self._room.set()

    def stop(self) -> None:
        """The stream has ended: forget what waits."""
        self.queue.clear()
        self.made_room()

    @property
    @abstractmethod
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing is being sent."""

    @abstractmethod
    def frame(self, stream: AppStream, payload: bytes, *, raw: bool, timestamp_ns: int | None) -> DatagramItemFrame:
        """Return an item as it will be sent; raises where it is too large."""

    @abstractmethod
    def start(self) -> None:
        """Something waits."""

    def _check_open(self, stream: AppStream) -> None:
        self.channel.may_send(stream)
        if self.ending:
            raise self.channel.ended_error()

    def _make_room(self, size: int) -> None:
        if self.policy == "drop_oldest":
            while not self.queue.has_room(size):
                self.queue.drop_oldest()
        elif self.policy == "drop_newest":
            self.queue.dropped += 1
        else:
            text = f"{len(self.queue)} items wait to be sent: the other side, or the network, is too slow"
            self.channel.reset(StreamResetError(text, code=Status.RESOURCE_EXHAUSTED))
            self.channel.check()


class ReliableOutgoing(Outgoing):
    """On the stream's own transport stream: a task sends what waits, while something does."""

    def __init__(self, channel: Channel, options: SendOptions, *, may_drop: bool) -> None:
        super().__init__(channel, options, may_drop=may_drop)
        self._task: asyncio.Task[None] | None = None

    @property
    def is_idle(self) -> bool:
        return self._task is None

    def frame(self, stream: AppStream, payload: bytes, *, raw: bool, timestamp_ns: int | None) -> DatagramItemFrame:
        self.channel.peer.protocol.link.check_payload(len(payload))
        return DatagramItemFrame(stream.id, 0, payload, raw=raw, timestamp_ns=timestamp_ns)

    def start(self) -> None:
        if self._task is None:
            task = self.loop.create_task(self._send_all(), name=f"items of stream {self.channel.name}")
            self.channel.peer.runtime.tasks.own(task)
            self._task = task

    def stop(self) -> None:
        super().stop()
        if self._task is not None and self._task is not asyncio.current_task(self.loop):
            self._task.cancel()

    async def _send_all(self) -> None:
        try:
            with suppress(EchoStreamError):  # the channel has it for all who use the stream
                while self.queue:
                    await self._send_next()
                    self.made_room()  # also where it was stale
        finally:
            self._task = None
        self.look_for_end()

    async def _send_next(self) -> None:
        item = self.queue.peek(self.loop.time())
        if item is None:
            return
        seconds = 0.0 if self.bucket is None else self.bucket.wait(self.loop.time(), len(item.frame.payload))
        if seconds:
            await asyncio.sleep(seconds)
            return
        stream = self.channel.require_stream()
        await self.channel.credit(stream)
        item = self.queue.take(self.loop.time())  # the newest that may be sent now, not before it waited
        if item is None:
            return
        self.begun(item.frame)
        frame = item.frame
        await self.channel.send_payload(stream, frame.payload, raw=frame.raw, timestamp_ns=frame.timestamp_ns)
        self.done(frame)
        if self.policy != "block":  # what the transport holds cannot be dropped any more
            await self.channel.peer.drain_whole(stream.stream_id)
