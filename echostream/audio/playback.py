"""`Playback`: everything between packets that arrive and a sink, without a network and without waiting."""

from __future__ import annotations

from typing import Protocol

from echostream.audio.codec import make_decoder
from echostream.audio.intake import Intake
from echostream.audio.messages import PlayReport
from echostream.audio.render import Renderer
from echostream.audio.samples import FRAME_SAMPLES, Samples, ns_of, samples_of, silence
from echostream.audio.settings import AUDIO_BUFFER_SAMPLES, AUDIO_FRAME_NS
from echostream.audio.sink import Sink
from echostream.errors import ConfigurationError
from echostream.realtime import DeviceClock, PlayoutController, PlayoutSettings, PlayoutState

__all__ = ("Playback", "SessionTime")


_SETTINGS = PlayoutSettings(acquire_rate=0.7)
"""Faster at the begin than what suits the worst of networks: receivers of opposite drifts start less apart."""


class SessionTime(Protocol):
    """What is needed of a session's clock."""

    @property
    def locked(self) -> bool:
        """Whether session time is known."""
        ...

    @property
    def offset_ns(self) -> float:
        """Session time minus local time."""
        ...

    @property
    def drift_ppm(self) -> float:
        """How much faster than the local clock it runs."""
        ...

    @property
    def error_bound_ns(self) -> float:
        """Farthest that it may be off."""
        ...

    def to_session_ns(self, local_ns: int, /) -> int:
        """Return the session time of a local time."""
        ...


class Playback:
    """Keeps a sink filled with what has to be heard.

    Args:
        time: of the session.
        sink: to play on; started by its owner.
        device: the clock of the sink, as far as it is known.
        codec: of the packets.
        latency_ns: of the whole group, from stamp to ear.
        device_latency: seconds from what the sink reports until it is heard, -1 to 1.
        volume: 0 to 1.

    Raises:
        ConfigurationError: an argument is out of its range.
    """

    def __init__(
        self,
        time: SessionTime,
        sink: Sink,
        device: DeviceClock,
        *,
        codec: str,
        latency_ns: int,
        device_latency: float = 0.0,
        volume: float = 1.0,
    ) -> None:
        if not -1 <= device_latency <= 1:
            raise ConfigurationError("device_latency", f"{device_latency!r} s is not in -1 to 1")
        if not 0 <= volume <= 1:
            raise ConfigurationError("volume", f"{volume!r} is not in 0 to 1")
        self._time = time
        self._sink = sink
        self._codec = codec
        self._latency_ns = latency_ns
        self._intake = Intake(make_decoder(codec), latency_ns)
        self._renderer = Renderer(self._intake.take)
        self._renderer.volume = volume
        self._device = device
        self._controller = PlayoutController(
            latency_ns, device_latency_ns=round(device_latency * 1e9), settings=_SETTINGS
        )
        # Half of the latency for a program that stands still, half for a network that does.
        self._ahead_samples = min(AUDIO_BUFFER_SAMPLES, samples_of(latency_ns / 2))
        self._session_ns = 0

    def push(self, sequence: int, stamp_ns: int, arrived_ns: int, packet: bytes) -> None:
        """Take a packet that arrived at a local time; its stamp is session time, without which it says nothing."""
        if self._time.locked:
            self._intake.push(sequence, stamp_ns, self._time.to_session_ns(arrived_ns), packet)

    def fill(self) -> None:
        """Write as many blocks as the sink should have. To be called every 10 ms or so."""
        report = self._sink.report()
        if report is None:
            return  # nobody knows yet when a sample would be heard
        self._device.add(*report)
        while self._sink.buffered() + FRAME_SAMPLES <= self._ahead_samples:
            self._sink.write(self._next_block())

    @property
    def end_ns(self) -> int:
        """Session time at which the last sample that has arrived is heard; 0 while none has."""
        return 0 if self._intake.end_ns is None else self._intake.end_ns + self._latency_ns

    def report(self, name: str) -> PlayReport:
        """Tell how it goes."""
        at, quality = self._controller.stats(), self._intake.quality()
        return PlayReport(
            name=name,
            codec=self._codec,
            state=at.state.value,
            session_ns=self._session_ns,
            offset_ns=self._time.offset_ns,
            drift_ppm=self._time.drift_ppm,
            bound_ns=self._time.error_bound_ns,
            skew_ns=at.error_ns,
            speed_ppm=at.speed_ppm,
            device_ppm=self._device.drift_ppm,
            buffer_ns=self._intake.ahead_ns(self._renderer.position_ns),
            lost=quality.lost,
            late=quality.late + self._intake.passed_count,
            concealed_ns=self._intake.missed_ns,
            underruns=self._sink.underrun_count,
            resyncs=at.resync_count,
            # A frame is read so much before it is heard.
            wanted_ns=self._intake.wanted_latency_ns + round(ns_of(self._ahead_samples)) + AUDIO_FRAME_NS,
        )

    def _next_block(self) -> Samples:
        heard_ns = self._device.local_ns(self._sink.next_frame())
        session_ns = self._time.to_session_ns(heard_ns) if self._time.locked and self._device.locked else None
        if self._renderer.is_silent:
            self._controller.restart()  # nobody hears it: what begins to sound begins exactly in step
        step = self._controller.update(session_ns, self._renderer.position_ns, bound_ns=self._time.error_bound_ns)
        if self._controller.state is not PlayoutState.PLAYING:
            return silence(FRAME_SAMPLES)
        if step.jump_ns:
            self._renderer.jump(step.jump_ns, step.crossfade_ns)
        if session_ns is not None:
            self._session_ns = session_ns
        return self._renderer.read(FRAME_SAMPLES, step.speed)
