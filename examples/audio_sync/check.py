"""How far apart the recordings of the receivers really are, and whether that is what they said.

A virtual sound card writes what it plays, and it is known when it played each sample. So two recordings can be laid
side by side in true time, and the lag between them measured by cross-correlation, to a fraction of a sample.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

RATE = 48_000
SAMPLE_NS = 1e9 / RATE
WINDOW = RATE // 2  # samples that are compared at a time
EVERY = 0.5  # seconds
FARTHEST = 480  # samples of lag that are looked for: 10 ms
WAV_HEADER_BYTES = 44
SETTLE_NS = 2e9
"""A receiver must be in step so long after its process began."""
IN_STEP_NS = 1e6

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Recording:
    """What one process of a receiver played, and what it said meanwhile."""

    name: str
    began_ns: float
    """When its process began, or the cast where that was later."""
    started_ns: int
    """When its sound card began."""
    samples_per_second: float
    sound: Numbers
    log: list[dict[str, Any]]

    @property
    def settled_ns(self) -> float:
        """From when on it must be in step."""
        return self.began_ns + SETTLE_NS

    @property
    def end_ns(self) -> float:
        """Until when it plays and tells."""
        return min(self.started_ns + len(self.sound) / self.samples_per_second * 1e9, float(self.times[-1]))

    @property
    def times(self) -> Numbers:
        return np.array([row["session_ns"] for row in self.log], float)

    def told(self, field: str) -> Numbers:
        return np.array([row[field] for row in self.log], float)

    def skew_at(self, when_ns: Numbers) -> Numbers:
        """What it said of itself, at true times."""
        return np.interp(when_ns, self.times, self.told("skew_ns"))

    def sound_at(self, when_ns: Numbers) -> Numbers:
        where = (when_ns - self.started_ns) / 1e9 * self.samples_per_second
        begin, end = max(0, int(where[0]) - 1), int(where[-1]) + 2
        part = self.sound[begin:end]
        return np.interp(where - begin, np.arange(len(part)), part)

    def seconds_to_step(self) -> float | None:
        """How long after the begin it was in step for good, with sound to play; None if it never was."""
        sounding = np.nonzero(self.told("buffer_ns") > 0)[0]  # at the end it runs empty
        if not len(sounding):
            return None
        late = np.nonzero(np.abs(self.told("skew_ns"))[: sounding[-1] + 1] > IN_STEP_NS)[0]
        first = max(int(sounding[0]), int(late[-1]) + 1 if len(late) else 0)
        return None if first > sounding[-1] else max(0.0, float(self.times[first] - self.began_ns) / 1e9)


def load(folder: Path, name: str, cast_began_ns: int) -> Recording:
    """Read what a receiver has left."""
    truth = json.loads((folder / f"{name}.json").read_text())
    lines = (folder / f"{name}.jsonl").read_text().split("\n")[:-1]  # the last one may be cut off
    log = [row for row in map(json.loads, lines) if row["state"] == "playing" and row["session_ns"]]
    raw = (folder / f"{name}.wav").read_bytes()[WAV_HEADER_BYTES:]  # the header of one that was killed is not complete
    samples = np.frombuffer(raw[: len(raw) // 4 * 4], "<i2").reshape(-1, 2)
    began_ns = max(truth["began_ns"], cast_began_ns)
    return Recording(name, began_ns, truth["started_ns"], truth["samples_per_second"], samples.mean(axis=1), log)


def spread(recordings: Sequence[Recording]) -> tuple[Numbers, Numbers]:
    """Return times, and how far the first and the last receiver were apart then, by what they said."""
    begin, end = min(item.settled_ns for item in recordings), max(item.end_ns for item in recordings)
    when = np.arange(begin, end, 0.1e9)
    skews = np.full((len(recordings), len(when)), np.nan)
    for row, item in zip(skews, recordings, strict=True):
        there = (when >= item.settled_ns) & (when <= item.end_ns)
        row[there] = item.skew_at(when[there])
    counts = np.sum(~np.isnan(skews), axis=0)
    skews, when = skews[:, counts > 1], when[counts > 1]
    return when, np.nanmax(skews, axis=0) - np.nanmin(skews, axis=0)


def compare(first: Recording, second: Recording) -> list[tuple[float, float, float]]:
    """Return (true time in ns, lag as recorded, lag as told, in ns) in steps of `EVERY` seconds."""
    begin = max(first.settled_ns, second.settled_ns)
    end = min(first.end_ns, second.end_ns) - (WINDOW + 2 * FARTHEST) * SAMPLE_NS
    found = []
    for at in np.arange(begin, end, EVERY * 1e9):
        wide = at + np.arange(-FARTHEST, WINDOW + FARTHEST) * SAMPLE_NS
        a, b = first.sound_at(wide[FARTHEST:-FARTHEST]), second.sound_at(wide)
        if np.abs(a).max() < 100:
            continue  # nothing to hear
        middle = np.array([at + WINDOW / 2 * SAMPLE_NS])
        told = float((first.skew_at(middle) - second.skew_at(middle))[0])
        found.append((float(middle[0]), lag(a, b) * SAMPLE_NS, told))
    return found


def lag(a: Numbers, b: Numbers) -> float:
    """Return by how many samples `a` is ahead of `b`, which begins and ends `FARTHEST` samples outside it."""
    size = 1 << (len(b) - 1).bit_length()
    both = np.fft.irfft(np.fft.rfft(b, size) * np.conj(np.fft.rfft(a, size)), size)[: 2 * FARTHEST + 1]
    energy = np.cumsum(np.concatenate(([0.0], b**2)))
    loudness = np.sqrt(np.maximum(energy[len(a) : len(a) + 2 * FARTHEST + 1] - energy[: 2 * FARTHEST + 1], 1.0))
    likeness = both / loudness
    peak = int(np.clip(np.argmax(likeness), 1, 2 * FARTHEST - 1))
    left, top, right = likeness[peak - 1 : peak + 2]
    between = 0.5 * (left - right) / (left - 2 * top + right)
    return float(peak - FARTHEST + between)


def judge(recordings: Sequence[Recording]) -> dict[str, Any]:
    """Return the figures, and under ``faults`` what is not as it should be."""
    _, apart = spread(recordings)
    pairs = [pair for first, second in pairwise(recordings) for pair in compare(first, second)]
    recorded = np.abs([pair[1] for pair in pairs]) / 1e3
    off = np.abs([pair[1] - pair[2] for pair in pairs]) / 1e3
    return {
        "skew_p50_us": float(np.percentile(apart, 50)) / 1e3,
        "skew_p99_us": float(np.percentile(apart, 99)) / 1e3,
        "skew_max_us": float(np.max(apart)) / 1e3,
        "recorded_p99_us": float(np.percentile(recorded, 99)),
        "recorded_max_us": float(np.max(recorded)),
        "told_wrong_p50_us": float(np.percentile(off, 50)),
        "told_wrong_p95_us": float(np.percentile(off, 95)),
        "told_wrong_max_us": float(np.max(off)),
        "compared": len(pairs),
    }
