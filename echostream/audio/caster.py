"""`Caster`: sends one source to many receivers, each packet with the session time at which it is played everywhere."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from echostream.audio.delay import GroupDelay
from echostream.audio.feed import Feed
from echostream.audio.jobs import in_thread, until_first
from echostream.audio.messages import CAST_SERVICE, CAST_STREAM, CastFormat, CastStatus, PlayReport
from echostream.audio.samples import Samples, faded, ns_of
from echostream.audio.settings import (
    AUDIO_BUFFER_SAMPLES,
    AUDIO_FRAME_NS,
    AUDIO_READ_AHEAD_FRAMES,
    AUDIO_SILENCE,
    DEFAULT_CAST_LATENCY,
    MAX_CAST_LATENCY,
    MAX_CAST_RECEIVERS,
    MIN_CAST_LATENCY,
    PLAY_REPORT_LIFE,
)
from echostream.config import checked_seconds
from echostream.errors import ConfigurationError, EchoStreamError, LocalProtocolError, RpcError, Status
from echostream.session.streams import StreamReceiver, StreamSender
from echostream.types import clock
from echostream_derive import handler, service, stream

if TYPE_CHECKING:
    from echostream.audio.source import AudioSource

__all__ = ("Caster",)


@dataclass(eq=False, slots=True)
class _Receiver:
    """One who listens."""

    sender: StreamSender[bytes]
    feed: Feed
    report: PlayReport | None = None
    reported_ns: int = 0

    @property
    def is_there(self) -> bool:
        """Whether it has reported of late."""
        return clock.monotonic_ns() - self.reported_ns < PLAY_REPORT_LIFE * 1e9


@service(CAST_SERVICE)
class Caster:
    """Casts a source. Register it with a server, and keep `run` running.

    Whoever joins later hears what all others hear at that time. Pause, seek and volume reach all at the same sample,
    because they happen here.

    Args:
        source: of the sound; the caster does not close it.
        latency: seconds from the stamp of a sample until it is heard, 0.06 to 10.
        loop: begin again at the end.
        wait_for: receivers that must be there before it begins, 0 for none.

    Raises:
        ConfigurationError: an argument is out of its range.
    """

    def __init__(
        self, source: AudioSource, *, latency: float = DEFAULT_CAST_LATENCY, loop: bool = False, wait_for: int = 1
    ) -> None:
        checked_seconds("latency", latency)
        low, high = MIN_CAST_LATENCY, MAX_CAST_LATENCY
        if not low <= latency <= high:
            raise ConfigurationError("latency", f"{latency:g} s must be in {low:g} to {high:g}")
        if not 0 <= wait_for <= MAX_CAST_RECEIVERS:
            raise ConfigurationError("wait_for", f"{wait_for!r} must be in 0 to {MAX_CAST_RECEIVERS}")
        self._source = source
        self._latency_ns = round(latency * 1e9)
        self._delay = GroupDelay(self._latency_ns)
        self._loop = loop
        self._wait_for = wait_for
        self._receivers: list[_Receiver] = []
        self._joined = asyncio.Event()
        self._feeds: dict[str, Feed] = {}
        self._recent: deque[tuple[int, Samples]] = deque(maxlen=self._latency_ns // AUDIO_FRAME_NS)
        self._frames: deque[Samples] = deque()
        self._reading = asyncio.Lock()
        self._read_all = False
        self._position_ns = 0.0
        self._paused = False
        self._stopped = False
        self._over = False
        self._volume = 1.0
        self._gain = 0.0  # of the last frame sent: what begins fades in
        self.skipped_count = 0
        """Frames that were not sent, because the program stood still or the source was too slow."""

    # What receivers and people ask for

    @handler
    async def format(self) -> CastFormat:
        """Tell what is cast."""
        return CastFormat(latency_ns=self._latency_ns)

    @handler
    async def status(self) -> CastStatus:
        """Tell how it stands."""
        position, duration = self._position_ns / 1e9, self._source.duration
        return CastStatus(
            position=position % duration if self._loop and duration else position,
            duration=duration,
            paused=self._paused,
            volume=self._volume,
            receivers=[receiver.report for receiver in self._receivers if receiver.report and receiver.is_there],
            latency=self._delay.latency_ns / 1e9,
        )

    @handler
    async def pause(self) -> None:
        """Fall silent everywhere at once, after the latency of the cast."""
        self._paused = True

    @handler
    async def resume(self) -> None:
        """Go on where it was paused."""
        self._paused = False

    @handler
    async def stop(self) -> None:
        """End the cast: receivers play what has been sent, then they end, too."""
        self._stopped = True

    @handler
    async def seek(self, seconds: float) -> None:
        """Go on at so many seconds after the begin of the source.

        Raises:
            RpcError: INVALID_ARGUMENT, the source cannot be searched, or there is no such place.
        """
        if not 0 <= seconds < (self._source.duration or float("inf")):
            raise RpcError(Status.INVALID_ARGUMENT, f"{seconds!r} s is no place in {self._source.duration or 0:g} s")
        try:
            async with self._reading:
                await in_thread(self._source.seek, seconds)
                self._frames.clear()
                self._read_all = False
        except ConfigurationError as error:
            raise RpcError(Status.INVALID_ARGUMENT, error.reason) from None
        self._position_ns = seconds * 1e9
        self._gain = 0.0

    @handler
    async def volume(self, level: float) -> None:
        """Set the loudness of all, 0 to 1.

        Raises:
            RpcError: INVALID_ARGUMENT, it is another number.
        """
        if not 0 <= level <= 1:
            raise RpcError(Status.INVALID_ARGUMENT, f"a volume of {level!r} is not in 0 to 1")
        self._volume = level

    @stream(CAST_STREAM)
    async def on_receiver(self, receiver: StreamReceiver[PlayReport]) -> None:
        """Send to one more receiver until it leaves."""
        if self._over:
            raise RpcError(Status.FAILED_PRECONDITION, "the cast is over")
        if sum(feed.receiver_count for feed in self._feeds.values()) >= MAX_CAST_RECEIVERS:
            raise RpcError(Status.RESOURCE_EXHAUSTED, f"{MAX_CAST_RECEIVERS} receivers are listening already")
        codec = str(receiver.metadata.get("codec", "opus"))
        try:
            if codec not in self._feeds:
                self._feeds[codec] = Feed(codec, self._recent, self._recent.maxlen or 0)
        except ConfigurationError as error:
            raise RpcError(Status.INVALID_ARGUMENT, error.reason) from None
        joined = _Receiver(receiver.sender, self._feeds[codec])
        joined.feed.receiver_count += 1
        try:
            await self._catch_up(joined)
            self._receivers.append(joined)
            self._joined.set()
            if self._over:  # it ended meanwhile
                receiver.sender.end()
            async for report in receiver:
                self._delay.consider(joined.report, report, clock.monotonic_ns())
                joined.report, joined.reported_ns = report, clock.monotonic_ns()
        finally:
            if joined in self._receivers:
                self._receivers.remove(joined)
            joined.feed.receiver_count -= 1
            if not joined.feed.receiver_count:
                del self._feeds[codec]  # the next one to join begins with a fresh state

    async def _catch_up(self, joined: _Receiver) -> None:
        """Send what others have been sent and is not heard yet: who joins is heard at once, whatever the latency is."""
        ahead_ns = min(ns_of(AUDIO_BUFFER_SAMPLES), self._latency_ns / 2)  # what is in the sink by then is too late
        last_ns = clock.monotonic_ns() - self._latency_ns + round(ahead_ns)
        # Once, as fast as it takes them. From then on, whatever it has opened: who is slow loses packets, and holds up
        # nobody else.
        for policy in ("block", "drop_oldest"):
            joined.sender.set_policy(policy, max_age=self._latency_ns / 1e9)
            while packets := joined.feed.after(last_ns):
                for last_ns, packet in packets:
                    await self._send_to(joined, last_ns, packet)
                if policy == "block":
                    break

    # Sending

    async def run(self) -> None:
        """Cast to the end of the source, then end all streams; receivers play what they have.

        Raises:
            ConfigurationError: the rest of the source cannot be decoded.
        """
        await until_first(self._cast(), self._read_ahead())
        self._over = True
        for receiver in self._receivers:
            receiver.sender.end()

    async def _cast(self) -> None:
        while len(self._receivers) < self._wait_for:
            self._joined.clear()
            await self._joined.wait()
        while not (self._frames or self._read_all):  # noqa: ASYNC110 - the first frames come in milliseconds
            await asyncio.sleep(AUDIO_FRAME_NS / 1e9)
        await self._send_all(clock.monotonic_ns())

    async def _send_all(self, origin_ns: int) -> None:
        """Send a frame every 10 ms; stamps lie on one grid for the whole cast, so that holes are whole frames."""
        due_ns = origin_ns
        while not (self._stopped or (self._read_all and not self._frames)):
            behind_ns = clock.monotonic_ns() - due_ns
            if behind_ns < 0:
                await asyncio.sleep(-behind_ns / 1e9)
            elif behind_ns > self._latency_ns:  # all that would be sent now is too late
                missed = behind_ns // AUDIO_FRAME_NS
                self.skipped_count += missed
                due_ns += missed * AUDIO_FRAME_NS
            await self._send_one(due_ns)
            due_ns += AUDIO_FRAME_NS

    async def _send_one(self, stamp_ns: int) -> None:
        before = self._gain
        if self._delay.is_wanted and (before == 0.0 or self._is_silent_next()):
            self._delay.grow()
        after = 0.0 if self._paused or self._delay.is_overdue(stamp_ns) else self._volume
        if self._paused and before == 0.0:
            return
        if not self._frames:
            self.skipped_count += 1
            self._gain = 0.0
            return
        frame = self._frames.popleft()
        self._position_ns += ns_of(len(frame))
        self._gain = after
        frame = faded(frame, before, after)
        stamp_ns += self._delay.more_ns
        self._recent.append((stamp_ns, frame))
        packets = {feed: feed.encode(stamp_ns, frame) for feed in self._feeds.values()}
        for receiver in tuple(self._receivers):
            await self._send_to(receiver, *packets[receiver.feed])

    def _is_silent_next(self) -> bool:
        return bool(self._frames) and float(abs(self._frames[0]).max()) < AUDIO_SILENCE

    async def _send_to(self, receiver: _Receiver, stamp_ns: int, packet: bytes) -> None:
        try:
            await receiver.sender.send_with_timestamp(packet, at_ns=stamp_ns)
        except LocalProtocolError as error:  # it has opened the stream without time_sync
            receiver.sender.reset(error.message, code=Status.FAILED_PRECONDITION)
        except EchoStreamError:
            pass  # it has left: its handler ends by itself

    async def _read_ahead(self) -> None:
        """Keep frames ready: reading a file may block, so a thread does it."""
        while True:
            async with self._reading:
                wanted = 0 if self._read_all else AUDIO_READ_AHEAD_FRAMES - len(self._frames)
                if wanted > AUDIO_READ_AHEAD_FRAMES // 2:
                    self._frames += await in_thread(self._read, wanted)
            await asyncio.sleep(AUDIO_FRAME_NS / 1e9)

    def _read(self, count: int) -> list[Samples]:
        frames: list[Samples] = []
        is_rewound = False
        while len(frames) < count:
            frame = self._source.read()
            if frame is not None:
                frames.append(frame)
                is_rewound = False
            elif self._loop and not is_rewound:
                self._source.seek(0.0)
                is_rewound = True
            else:  # the end, or a source that has nothing at its begin either
                self._read_all = True
                break
        return frames
