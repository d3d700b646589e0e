"""What a jitter buffer must give for any order of arrivals, told by a model that is nothing but sets and sorting.

Shared by the property tests and by G10.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from echostream.realtime import JitterBuffer, Played

__all__ = ("FRAME_NS", "Case", "faults", "random_case")

FRAME_NS: Final = 10_000_000
_EPOCH_NS: Final = 1_000 * FRAME_NS  # of the first frame
_WRAP: Final = 1 << 32


@dataclass(frozen=True, slots=True)
class Case:
    """Frames 0, 1, 2, ... of a stream, and when each arrives: late, twice, or never."""

    first: int
    """Sequence number of frame 0."""
    arrivals: tuple[tuple[int, int], ...]
    """How long after its timestamp a frame arrives, and which."""
    latency_ns: int


def random_case(source: random.Random) -> Case:
    """Make a case: jitter of up to 30 frames, losses of up to a half, copies, and a wrap in every other."""
    count = source.randrange(1, 120)
    spread_ns = source.choice((0, FRAME_NS, 5 * FRAME_NS, 30 * FRAME_NS))
    lost, copied = source.choice((0.0, 0.02, 0.5)), source.choice((0.0, 0.1))
    arrivals = []
    for frame in range(count):
        if source.random() < lost:
            continue
        arrivals.append((source.randrange(spread_ns + 1), frame))
        while source.random() < copied:
            arrivals.append((source.randrange(2 * spread_ns + 1), frame))
    first = source.choice((source.randrange(_WRAP), _WRAP - source.randrange(1, count + 1)))
    return Case(first, tuple(arrivals), source.choice((0, spread_ns // 2, spread_ns)) or FRAME_NS)


def faults(case: Case) -> list[str]:
    """Run a case, and say what differs from the model."""
    buffer = JitterBuffer(FRAME_NS, latency_ns=case.latency_ns, late_ns=0, rebuffer_ns=1 << 60, capacity=1 << 20)
    arrivals = sorted((_EPOCH_NS + frame * FRAME_NS + delay_ns, frame) for delay_ns, frame in case.arrivals)
    on_time, wanted = _model(case, arrivals)
    last = max((frame for _, frame in arrivals), default=-1)
    given = list(_run(buffer, case, arrivals, last))
    stats = buffer.stats()
    found = []
    frames = range(min(on_time, default=last + 1), last + 1)
    if given != [(frame, frame in on_time) for frame in frames]:
        found.append(f"gave {given}, on time are {sorted(on_time)}")
    told = {name: getattr(stats, name) for name in wanted}
    return found + ([f"counts {told} instead of {wanted}"] if told != wanted else [])


def _model(case: Case, arrivals: list[tuple[int, int]]) -> tuple[set[int], dict[str, int]]:
    """Return the frames that must be played, and the counts."""
    seen: list[int] = []
    duplicated = reordered = 0
    on_time: set[int] = set()
    for at_ns, frame in arrivals:
        if frame in seen:
            duplicated += 1
            continue
        reordered += frame < max(seen, default=frame)
        seen.append(frame)
        if at_ns <= _turn_ns(case, frame):
            on_time.add(frame)
    span = max(seen) - min(seen) + 1 if seen else 0
    gaps = max(on_time) - min(on_time) + 1 - len(on_time) if on_time else 0
    return on_time, {
        "received": len(seen), "lost": span - len(seen), "duplicated": duplicated, "reordered": reordered,
        "late": len(seen) - len(on_time), "played": len(on_time), "concealed": gaps, "skipped": 0, "dropped": 0,
        "strays": 0, "restarts": 0, "bad_timestamps": 0, "invalid": 0, "buffered": 0,
    }  # fmt: skip


def _turn_ns(case: Case, frame: int) -> int:
    return _EPOCH_NS + frame * FRAME_NS + case.latency_ns


def _run(buffer: JitterBuffer, case: Case, arrivals: list[tuple[int, int]], last: int) -> Iterator[tuple[int, bool]]:
    """Push and pop at every instant; yield frames in their turns, and whether they are there."""
    turns = [(_turn_ns(case, frame), 1, frame) for frame in range(last + 1)]
    for at_ns, is_turn, sent in sorted([(at_ns, 0, frame) for at_ns, frame in arrivals] + turns):
        if not is_turn:
            buffer.push((case.first + sent) % _WRAP, _EPOCH_NS + sent * FRAME_NS, at_ns, sent.to_bytes(4, "big"))
            continue
        while (given := buffer.pop(at_ns)) is not None:
            frame = (given.timestamp_ns - _EPOCH_NS) // FRAME_NS
            if isinstance(given, Played):
                assert (given.index - case.first) % _WRAP == frame == int.from_bytes(given.payload, "big")
            yield frame, isinstance(given, Played)
