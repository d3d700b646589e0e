"""When a cast delays its sound for longer: who asks, how far it goes, and that it waits for silence."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from echostream.audio.delay import GroupDelay

MS = 1_000_000


def report(late: int, wanted_ms: int) -> Any:
    return SimpleNamespace(late=late, wanted_ns=wanted_ms * MS)


def test_who_missed_packets_is_given_what_would_do() -> None:
    delay = GroupDelay(100 * MS)
    delay.consider(None, report(0, 500), 0)  # nothing was missed
    delay.consider(None, report(5, 90), 0)  # what there is would have done
    delay.consider(report(5, 150), report(5, 150), 0)
    assert not delay.is_wanted
    delay.consider(report(5, 150), report(6, 133), 0)
    assert delay.is_wanted
    assert delay.latency_ns == 100 * MS
    delay.grow()
    assert (delay.more_ns, delay.latency_ns, delay.is_wanted) == (40 * MS, 140 * MS, False)


def test_it_grows_to_twice_the_latency_at_the_most() -> None:
    delay = GroupDelay(100 * MS)
    delay.consider(None, report(1, 130), 0)
    delay.grow()
    delay.consider(None, report(1, 10_000), 0)
    delay.grow()
    assert delay.latency_ns == 200 * MS
    delay.consider(None, report(1, 10_000), 0)
    assert not delay.is_wanted


def test_it_waits_ten_seconds_for_silence() -> None:
    delay = GroupDelay(100 * MS)
    assert not delay.is_overdue(10**12)
    delay.consider(None, report(1, 130), 5_000 * MS)
    delay.consider(None, report(1, 140), 9_000 * MS)
    assert not delay.is_overdue(15_000 * MS)
    assert delay.is_overdue(15_001 * MS)
    delay.grow()
    assert not delay.is_overdue(10**12)
