"""The clock of a sound device, as it shows itself in what the device reports; and a device that is only arithmetic.

A device plays frames by a crystal of its own, which runs up to some 100 ppm off the computer's clock. All that is known
of it are reports, each wrong by a fraction of a millisecond: at this local time that frame is heard.
"""

from __future__ import annotations

from typing import Final

from echostream.errors import ConfigurationError

__all__ = ("DeviceClock", "VirtualDevice")

_NS: Final = 1_000_000_000
_PPM: Final = 1e6
_BIN_NS: Final = 500_000_000
"""Reports are averaged over so long: 150 us of noise become 20 us at 50 reports in a second."""
_LOCK_COUNT: Final = 12
"""Reports until their mean may be used: it is off by less than a third of what one of them is."""
_MEMORY: Final = 64
"""Averages that count, 32 s of them: of a crystal that warms up by 1 ppm in a minute the line is 3 us behind."""
_GATE_NS: Final = 5e6
"""A report that is off by more (by four times what is usual, where that is more) counts only..."""
_GATE_COUNT: Final = 8
"""...when so many in a row agree: then the device stood still for a moment."""
_USUAL_OF: Final = 64
"""Reports that tell how far off is usual."""
_FARTHEST: Final = 1 << 62
"""Times and frames beyond it come from no device; a comparison with it refuses NaN too."""
_RATES_HZ: Final = (1000, 1_000_000)


class DeviceClock:
    """Tells when a frame of a device is heard, on the local clock.

    It lays a line through averages of the reports: least squares at first, then with ever weaker weights for what is
    old (a g-h filter whose memory grows). Its state is a dozen numbers.

    Args:
        rate_hz: nominal frames per second, 1,000 to 1,000,000.

    Raises:
        ConfigurationError: the rate is out of its range.
    """

    __slots__ = (
        "_bin_count", "_bin_from", "_bin_sum", "_bin_x", "_count", "_far_count", "_far_sum", "_line_x", "_line_y",
        "_origin_frame", "_origin_ns", "_rate_hz", "_slope", "_usual", "ignored_count", "step_count",
    )  # fmt: skip

    def __init__(self, rate_hz: int) -> None:
        self._rate_hz = _checked_rate(rate_hz)
        self._origin_ns = self._origin_frame = 0
        self._line_x = self._line_y = self._slope = 0.0  # y: how much later than nominal the frame of nominal time x is
        self._count = 0
        self._bin_from = self._bin_x = self._bin_sum = 0.0
        self._bin_count = 0
        self._usual = 0.0
        self._far_sum = 0.0
        self._far_count = 0
        self.step_count = 0
        """How often the device stood still for a moment, or jumped."""
        self.ignored_count = 0
        """Reports that were off by too much, or made no sense."""

    def __repr__(self) -> str:
        return f"<DeviceClock {self._rate_hz} Hz {self.drift_ppm:+.1f} ppm>"

    @property
    def drift_ppm(self) -> float:
        """How much faster than nominal the device plays, by the local clock; 0 until it is known, after a second."""
        return -self._slope * _PPM

    @property
    def locked(self) -> bool:
        """Whether there are enough reports to begin to play by them."""
        return self._count > 0 or self._bin_count >= _LOCK_COUNT

    def add(self, local_ns: int, frame: int) -> None:
        """Take a report: that frame is heard at this local time (it may lie ahead)."""
        if not (-_FARTHEST < local_ns < _FARTHEST and -_FARTHEST < frame < _FARTHEST):
            self.ignored_count += 1
            return
        if not self._count and not self._bin_count:
            self._origin_ns, self._origin_frame = local_ns, frame
        x = self._nominal(frame)
        if x < self._bin_from:
            self.ignored_count += 1
            return
        residual = local_ns - self._origin_ns - x - self._later(x)
        gate = max(_GATE_NS, 4 * self._usual)
        self._usual += (min(abs(residual), 2 * gate) - self._usual) / _USUAL_OF
        if abs(residual) > gate:
            self._far(x, residual)
            return
        self._far_sum, self._far_count = 0.0, 0
        self._bin_count += 1
        self._bin_x += x
        if self._count:
            self._bin_sum += residual
        else:  # nothing better is known yet than the mean of what came
            self._line_y += residual / self._bin_count
        if x - self._bin_from >= _BIN_NS:
            self._close_bin(x)

    def local_ns(self, frame: int) -> int:
        """Return when a frame is heard."""
        x = self._nominal(frame)
        return self._origin_ns + round(x + self._later(x))

    def _nominal(self, frame: int) -> float:
        return (frame - self._origin_frame) * _NS / self._rate_hz

    def _later(self, x: float) -> float:
        return self._line_y + self._slope * (x - self._line_x)

    def _close_bin(self, x: float) -> None:
        """Move the line by the average of a bin."""
        mean_x, residual = self._bin_x / self._bin_count, self._bin_sum / self._bin_count
        self._count = min(self._count + 1, _MEMORY)
        n = self._count
        gain, slope_gain = (4 * n - 2) / (n * (n + 1)), 6 / (n * (n + 1))
        later = self._later(mean_x)
        if n > 1:
            self._slope += slope_gain * residual / (mean_x - self._line_x)
        self._line_x, self._line_y = mean_x, later + gain * residual
        self._bin_from, self._bin_x, self._bin_sum, self._bin_count = x, 0.0, 0.0, 0

    def _far(self, x: float, residual: float) -> None:
        """Leave a report out; move the line when many in a row say the same."""
        if residual * self._far_sum < 0:
            self._far_sum, self._far_count = 0.0, 0
        self.ignored_count += 1
        self._far_sum += residual
        self._far_count += 1
        if self._far_count == _GATE_COUNT:
            self._line_y += self._far_sum / self._far_count
            self._far_sum, self._far_count = 0.0, 0
            self._bin_from, self._bin_x, self._bin_sum, self._bin_count = x, 0.0, 0.0, 0
            self.step_count += 1


class VirtualDevice:
    """A sound device without sound: a buffer that empties by a clock that is off.

    Times are those of whoever drives it, true time in a simulation. What it plays when its buffer is empty is silence.

    Args:
        rate_hz: nominal frames per second, 1,000 to 1,000,000.
        started_ns: when it plays its frame 0.
        drift_ppm: how much faster than nominal it plays, -10,000 to 10,000.
        buffer_frames: that it takes ahead, at least 1.

    Raises:
        ConfigurationError: an argument is out of its range.
    """

    __slots__ = ("_buffer_frames", "_per_ns", "_started_ns", "_written", "underrun_count", "underrun_frames")

    def __init__(self, rate_hz: int, *, started_ns: int, drift_ppm: float = 0.0, buffer_frames: int = 4800) -> None:
        if not abs(drift_ppm) <= 10_000:
            raise ConfigurationError("drift_ppm", f"{drift_ppm!r} must be in -10000 to 10000")
        if buffer_frames < 1:
            raise ConfigurationError("buffer_frames", f"{buffer_frames!r} must be at least 1")
        self._per_ns = _checked_rate(rate_hz) * (1 + drift_ppm / _PPM) / _NS
        self._started_ns = started_ns
        self._buffer_frames = buffer_frames
        self._written = 0
        self.underrun_count = 0
        """How often it had nothing to play."""
        self.underrun_frames = 0
        """Frames of silence that it played for that."""

    def played(self, now_ns: int) -> int:
        """Return how many frames it has begun to play."""
        return max(0, int((now_ns - self._started_ns) * self._per_ns))

    def heard_ns(self, frame: int) -> int:
        """Return when it plays a frame."""
        return self._started_ns + round(frame / self._per_ns)

    def buffered(self, now_ns: int) -> int:
        """Return how many written frames it has not played."""
        return max(0, self._written - self.played(now_ns))

    def room(self, now_ns: int) -> int:
        """Return how many frames it takes now."""
        return self._buffer_frames - self.buffered(now_ns)

    def next_frame(self, now_ns: int) -> int:
        """Return the number of the frame that is written next; after an underrun the silence has been counted."""
        missing = self.played(now_ns) - self._written
        if missing > 0:
            self.underrun_count += self._written > 0
            self.underrun_frames += missing if self._written else 0
            self._written += missing
        return self._written

    def write(self, count: int, now_ns: int) -> int:
        """Take frames, those that fit; return how many."""
        self.next_frame(now_ns)
        taken = max(0, min(count, self.room(now_ns)))
        self._written += taken
        return taken


def _checked_rate(rate_hz: int) -> int:
    low, high = _RATES_HZ
    if not low <= rate_hz <= high:
        raise ConfigurationError("rate_hz", f"{rate_hz!r} must be in {low} to {high}")
    return rate_hz
