"""`Caster`: sends one source to many receivers, each packet with the session time at which it is played everywhere."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from echostream.audio.codec import Encoder, make_encoder
from echostream.audio.delay import GroupDelay
from echostream.audio.jobs import in_thread, until_first
from echostream.audio.messages import CAST_SERVICE, CAST_STREAM, CastFormat, CastStatus, PlayReport
from echostream.audio.samples import Samples, faded, ns_of
from echostream.audio.settings import (
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
    codec: str
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
        self._encoders: dict[str, Encoder] = {}
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
        codec = str(receiver.metadata.get("codec", "opus"))
        if len(self._receivers) >= MAX_CAST_RECEIVERS:
            raise RpcError(Status.RESOURCE_EXHAUSTED, f"{MAX_CAST_RECEIVERS} receivers are listening already")
        try:
            if codec not in self._encoders:
                self._encoders[codec] = make_encoder(codec)
        except ConfigurationError as error:
            raise RpcError(Status.INVALID_ARGUMENT, error.reason) from None
        # Whatever the receiver has opened: who is slow loses packets, and holds up nobody else.
        receiver.sender.set_policy("drop_oldest", max_age=self._latency_ns / 1e9)
        joined = _Receiver(receiver.sender, codec)
        self._receivers.append(joined)
        self._joined.set()
        try:
            async for report in receiver:
                self._delay.consider(joined.report, report, clock.monotonic_ns())
                joined.report, joined.reported_ns = report, clock.monotonic_ns()
        finally:
            self._receivers.remove(joined)
            if not any(other.codec == codec for other in self._receivers):
                del self._encoders[codec]  # the next one to join begins with a fresh state

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
        packets = {
            codec: (encoder.encode(frame), stamp_ns - round(ns_of(encoder.delay_samples)))
            for codec, encoder in self._encoders.items()
        }
        for receiver in tuple(self._receivers):
            await self._send_to(receiver, *packets[receiver.codec])

    def _is_silent_next(self) -> bool:
        return bool(self._frames) and float(abs(self._frames[0]).max()) < AUDIO_SILENCE

    async def _send_to(self, receiver: _Receiver, packet: bytes, stamp_ns: int) -> None:
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
