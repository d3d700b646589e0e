"""The real classes together, in virtual time: clock, jitter buffer and playout keep receivers in step."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from random import Random

import pytest

from benches.realtime.delays import PATHS
from benches.realtime.outputs import run
from benches.realtime.studio import Listener, Network, play_together

SECOND = 1_000_000_000
MS = 1_000_000


def listener(path: str, seed: int, *, loss: float = 0.0, joins_ns: int = 0) -> Listener:
    random = Random(f"{path} {seed}")
    frames = Network(random, PATHS[path].delays(random)[0], 10 * MS, loss=loss, first=(1 << 32) - 300)
    of_itself = {"frame_ns": 10 * MS, "latency_ns": 150 * MS, "joins_ns": joins_ns}
    return Listener(f"{path} {seed}", PATHS[path], frames, **of_itself)


def skews(
    listeners: list[Listener], seconds: float, *, after: float, during: Callable[[int], None] = lambda _: None
) -> list[float]:
    """Play; return the microseconds between each two listeners at each second after a time."""
    found = list[float]()

    def look(at: float) -> None:
        during(round(at))
        if at > after:
            found.extend(abs(a.error_ns - b.error_ns) / 1e3 for a, b in combinations(listeners, 2))

    play_together(listeners, seconds, look)
    return found


@pytest.mark.parametrize(("path", "most"), [("ethernet", 150), ("Wi-Fi", 400), ("bad Wi-Fi", 700)])
def test_receivers_keep_step_and_play_all_that_came(path: str, most: float) -> None:
    listeners = [listener(path, seed, loss=0.01) for seed in (1, 2)]
    assert max(skews(listeners, 15, after=2)) < most
    for one in listeners:
        quality = one.buffer.stats()
        assert (quality.duplicated, quality.strays, quality.dropped, one.device.underrun_count) == (0, 0, 0, 0)
        assert one.silent_ns == pytest.approx(quality.concealed * 10 * MS, abs=20 * MS)
        assert one.controller.stats().resync_count == 0


def test_who_joins_late_is_in_step_within_two_seconds() -> None:
    listeners = [listener("Wi-Fi", 1), listener("Wi-Fi", 2, joins_ns=6 * SECOND)]
    assert max(skews(listeners, 12, after=7.5)) < 500
    assert listeners[1].controller.stats().resync_count == 0


def test_a_machine_that_slept_is_in_step_again_within_five_seconds() -> None:
    listeners = [listener("Wi-Fi", 1), listener("Wi-Fi", 2)]

    def sleep(at: int) -> None:
        if at == 6:
            listeners[1].clock.step(-600 * SECOND)

    assert max(skews(listeners, 20, after=11, during=sleep)) < 1000
    assert listeners[1].session.filter.step_count == 1


def test_a_pause_of_one_receiver_changes_nothing_for_it_or_the_others() -> None:
    listeners = [listener("ethernet", 1), listener("ethernet", 2)]

    def pause(at: int) -> None:
        if at == 5:
            listeners[0].controller.pause()
        if at == 8:
            listeners[0].controller.resume()

    found = skews(listeners, 12, after=8.5, during=pause)
    assert max(found) < 200
    assert [one.controller.stats().resync_count for one in listeners] == [0, 0]


def test_other_clocks_with_the_same_samples_are_worse() -> None:
    result = run(PATHS["Wi-Fi"], 1, count=2, seconds=60)
    most = {name: max(result.skews(name, 40)) for name in result.errors}
    assert most["EchoStream"] < 150
    assert most["Snapcast"] > 5 * most["EchoStream"]
    assert result.skews("EchoStream", 40, 41) == run.__wrapped__(PATHS["Wi-Fi"], 1, count=2, seconds=41).skews(
        "EchoStream", 40
    )  # the same seed, the same world
