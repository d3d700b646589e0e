"""How far apart the recordings of the receivers really are, and whether that is what they said.

A virtual sound card writes what it plays, and it is known when it played each sample. So two recordings can be laid
side by side in true time, and the lag between them measured by cross-correlation, to a fraction of a sample.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

RATE = 48_000
SAMPLE_NS = 1e9 / RATE
WINDOW = RATE // 2  # samples that are compared at a time
EVERY = 0.5  # seconds
FARTHEST = 480  # samples of lag that are looked for: 10 ms
SOFTEST = 100
"""Loudest sample, of 32,767, below which a window says nothing."""
LEAST_LIKENESS = 0.8
"""Correlation at the peak: less is not the same sound."""
LEAST_LEAD = 0.01
"""By which the peak must be above all others: a pure tone looks the same after each of its periods."""
MOST_DOUBT = 0.1
"""Samples that the place of the peak may be in doubt by, one standard deviation."""
WAV_HEADER_BYTES = 44
SETTLE_NS = 2e9
"""A receiver must be in step so long after its process began."""
LATE_SETTLE_NS = 1e9
IN_STEP_NS = 1e6
STEPS = ("loaded", "connected", "locked")
"""What a receiver notes on its way to the first sound: its program runs, it is connected, its clock is known."""

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Recording:
    """What one process of a receiver played, and what it said meanwhile."""

    name: str
    began_ns: float
    """When its process was started, or the cast began where that was later."""
    started_ns: int
    """When its sound card began."""
    samples_per_second: float
    sound: Numbers
    log: list[dict[str, Any]]
    reached_ns: dict[str, float]
    """When it had come how far on its way to the first sound; empty for those that waited for the cast."""
    processor_seconds: float = math.nan
    """That its process was given on the way to a clock: much less than it took where the machine is busy."""

    @cached_property
    def settled_ns(self) -> float:
        """From when on it is compared: two seconds after its begin; one that was too late for that is given one."""
        heard_ns = self.heard_from(self.began_ns)
        return max(self.began_ns + SETTLE_NS, heard_ns + LATE_SETTLE_NS if heard_ns < math.inf else 0.0)

    @property
    def end_ns(self) -> float:
        """Until when it plays and tells."""
        return min(self.started_ns + len(self.sound) / self.samples_per_second * 1e9, float(self.times[-1]))

    @property
    def times(self) -> Numbers:
        return np.array([row["session_ns"] for row in self.log], float)

    def told(self, field: str) -> Numbers:
        return np.array([row[field] for row in self.log], float)

    def told_at(self, field: str, when_ns: Numbers) -> Numbers:
        """What it said of itself, at true times."""
        return np.interp(when_ns, self.times, self.told(field))

    def sound_at(self, when_ns: Numbers) -> Numbers:
        where = (when_ns - self.started_ns) / 1e9 * self.samples_per_second
        begin, end = max(0, int(where[0]) - 1), int(where[-1]) + 2
        part = self.sound[begin:end]
        return np.interp(where - begin, np.arange(len(part)), part)

    def heard_from(self, when_ns: float) -> float:
        """When the first sound after a true time was heard; infinity if none was."""
        first = max(0, int((when_ns - self.started_ns) / 1e9 * self.samples_per_second))
        sounding = np.nonzero(self.sound[first:])[0]
        if not len(sounding):
            return math.inf
        return self.started_ns + float(first + sounding[0]) / self.samples_per_second * 1e9

    def seconds_to_step(self, others: Sequence["Recording"]) -> float | None:
        """How long after the begin it was heard, and in step for good; None if it never was.

        Silence that was cast is no delay: what counts is from when on others were heard.
        """
        sounding = np.nonzero(self.told("buffer_ns") > 0)[0]  # at the end it runs empty
        if not len(sounding):
            return None
        late = np.nonzero(np.abs(self.told("skew_ns"))[: sounding[-1] + 1] > IN_STEP_NS)[0]
        first = max(int(sounding[0]), int(late[-1]) + 1 if len(late) else 0)
        if first > sounding[-1]:
            return None
        heard_ns = self.heard_from(self.began_ns)
        if heard_ns < min((other.heard_from(self.began_ns) for other in others), default=math.inf) + IN_STEP_NS:
            heard_ns = self.began_ns
        return max(0.0, float(self.times[first]) - self.began_ns, heard_ns - self.began_ns) / 1e9

    def seconds_each(self) -> dict[str, float]:
        """What the time until its first sound went into."""
        steps = [("", self.began_ns), *self.reached_ns.items(), ("sound", self.heard_from(self.began_ns))]
        return {name: (at - before) / 1e9 for (_, before), (name, at) in pairwise(steps)} if self.reached_ns else {}


def load(folder: Path, name: str, cast_began_ns: int) -> Recording:
    """Read what a receiver has left."""
    truth = json.loads((folder / f"{name}.json").read_text())
    lines = (folder / f"{name}.jsonl").read_text().split("\n")[:-1]  # the last one may be cut off
    log = [row for row in map(json.loads, lines) if row["state"] == "playing" and row["session_ns"]]
    raw = (folder / f"{name}.wav").read_bytes()[WAV_HEADER_BYTES:]  # the header of one that was killed is not complete
    samples = np.frombuffer(raw[: len(raw) // 4 * 4], "<i2").reshape(-1, 2)
    began_ns = max(truth["began_ns"], cast_began_ns)
    joined = {
        step: truth[f"{step}_ns"] for step in STEPS if truth["began_ns"] > cast_began_ns and f"{step}_ns" in truth
    }
    sound = samples.mean(axis=1)
    processor = truth.get("processor_seconds", math.nan)
    return Recording(name, began_ns, truth["started_ns"], truth["samples_per_second"], sound, log, joined, processor)


def spread(recordings: Sequence[Recording]) -> tuple[Numbers, Numbers]:
    """Return times, and how far the first and the last receiver were apart then, by what they said."""
    begin, end = min(item.settled_ns for item in recordings), max(item.end_ns for item in recordings)
    when = np.arange(begin, end, 0.1e9)
    skews = np.full((len(recordings), len(when)), np.nan)
    for row, item in zip(skews, recordings, strict=True):
        there = (when >= item.settled_ns) & (when <= item.end_ns)
        row[there] = item.told_at("skew_ns", when[there])
    counts = np.sum(~np.isnan(skews), axis=0)
    skews, when = skews[:, counts > 1], when[counts > 1]
    return when, np.nanmax(skews, axis=0) - np.nanmin(skews, axis=0)


@dataclass(frozen=True)
class Window:
    """A moment at which two recordings were compared."""

    names: tuple[str, str]
    at_ns: float
    """True time of its middle."""
    recorded_ns: float
    """By how much the first one was ahead, by what was played."""
    told_ns: float
    """The same, by what both said of themselves."""
    clocks_ns: float
    """What of the difference comes from errors of their clocks, which they cannot know."""

    @property
    def off_ns(self) -> float:
        """By how much what they said was wrong."""
        return abs(self.recorded_ns - self.told_ns)


def compare(first: Recording, second: Recording) -> tuple[list[Window], int]:
    """Return what was found in steps of `EVERY` seconds, and how many windows could not tell."""
    begin = max(first.settled_ns, second.settled_ns)
    end = min(first.end_ns, second.end_ns) - (WINDOW + 2 * FARTHEST) * SAMPLE_NS
    found: list[Window] = []
    unclear = 0
    for at in np.arange(begin, end, EVERY * 1e9):
        wide = at + np.arange(-FARTHEST, WINDOW + FARTHEST) * SAMPLE_NS
        shift = lag(first.sound_at(wide[FARTHEST:-FARTHEST]), second.sound_at(wide))
        if shift is None:
            unclear += 1
            continue
        whole = at + np.linspace(0, WINDOW, 11) * SAMPLE_NS
        told, clocks = (
            float(np.mean(first.told_at(field, whole) - second.told_at(field, whole)))
            for field in ("skew_ns", "clock_error_ns")
        )
        middle = at + WINDOW / 2 * SAMPLE_NS
        found.append(Window((first.name, second.name), middle, shift * SAMPLE_NS, told, clocks))
    return found, unclear


def lag(a: Numbers, b: Numbers) -> float | None:
    """Return by how many samples `a` is ahead of `b`, which begins and ends `FARTHEST` samples outside it.

    None where the sound cannot tell: it is too soft, it repeats itself, or the place of the peak is in doubt. The
    doubt is the Cramer-Rao bound of a delay: noise over signal, over the number of samples and the curvature.
    """
    if np.abs(a).max() < SOFTEST:
        return None
    size = 1 << (len(b) - 1).bit_length()
    both = np.fft.irfft(np.fft.rfft(b, size) * np.conj(np.fft.rfft(a, size)), size)[: 2 * FARTHEST + 1]
    energy = np.cumsum(np.concatenate(([0.0], b**2)))
    loudness = energy[len(a) : len(a) + 2 * FARTHEST + 1] - energy[: 2 * FARTHEST + 1]
    likeness = both / np.sqrt(np.maximum(loudness, 1.0) * max(1.0, float(np.dot(a, a))))
    peak = int(np.clip(np.argmax(likeness), 1, 2 * FARTHEST - 1))
    left, top, right = likeness[peak - 1 : peak + 2]
    curvature = 2 * top - left - right
    if top < LEAST_LIKENESS or curvature <= 0:
        return None
    summits = np.nonzero((likeness[1:-1] >= likeness[:-2]) & (likeness[1:-1] > likeness[2:]))[0] + 1
    if any(likeness[summit] > top - LEAST_LEAD for summit in summits if summit != peak):
        return None
    doubt = math.sqrt(max(0.0, 1 - top**2) / (top**2 * len(a) * curvature))
    return float(peak - FARTHEST + 0.5 * (right - left) / curvature) if doubt < MOST_DOUBT else None


def compare_all(recordings: Sequence[Recording]) -> tuple[list[Window], int]:
    """Return the same for each two that played at the same time."""
    compared = [compare(first, second) for first, second in combinations(recordings, 2)]
    return [window for found, _ in compared for window in found], sum(unclear for _, unclear in compared)


def judge(recordings: Sequence[Recording], windows: Sequence[Window], unclear: int) -> dict[str, Any]:
    """Return the figures: what they said, what was recorded, and the difference in each window that can tell."""
    _, apart = spread(recordings)
    recorded = np.abs([window.recorded_ns for window in windows]) / 1e3
    off = np.array([window.off_ns for window in windows]) / 1e3
    worst = max(windows, key=lambda window: window.off_ns, default=None)
    return {
        "skew_p50_us": _percentile(apart / 1e3, 50),
        "skew_p99_us": _percentile(apart / 1e3, 99),
        "skew_max_us": _percentile(apart / 1e3, 100),
        "recorded_p50_us": _percentile(recorded, 50),
        "recorded_p99_us": _percentile(recorded, 99),
        "recorded_max_us": _percentile(recorded, 100),
        "told_wrong_p50_us": _percentile(off, 50),
        "told_wrong_p99_us": _percentile(off, 99),
        "told_wrong_max_us": _percentile(off, 100),
        "clocks_in_worst_us": 0.0 if worst is None else abs(worst.clocks_ns) / 1e3,
        "compared": len(windows),
        "unclear": unclear,
    }


def _percentile(values: Numbers, percent: float) -> float:
    return float(np.percentile(values, percent)) if len(values) else math.nan
