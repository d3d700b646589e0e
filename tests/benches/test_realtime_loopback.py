"""G6 without its processes: which probes count, and what is made of what the receivers say."""

from __future__ import annotations

import pytest

from benches.realtime.g06_loopback import _figures
from benches.realtime.loopback import _best


def test_the_quickest_of_each_eight_probes_tells_the_offset() -> None:
    slow = [(1000 * number, 5000, 5000, 1000 * number + 900) for number in range(8)]
    quick = (500, 5200, 5210, 610)
    burst = [*slow[:3], quick, *slow[3:7]]
    assert _best([*burst, *burst, slow[0]]) == [(555.0, 4650.0)] * 2


def test_errors_of_all_receivers_are_one_figure_and_each_has_its_own_spread() -> None:
    receivers = [
        {
            "errors": [-60.0, *[1.0] * 99],
            "outside": 2,
            "drift_error": -0.5,
            "round_trip": 20.0,
            "best": [1.0, 1.0, 3.0],
        },
        {"errors": [2.0] * 100, "outside": 0, "drift_error": 0.2, "round_trip": 10.0, "best": [101.0, 101.0, 101.0]},
    ]
    error, spread = _figures("qh3, idle", receivers)
    assert (error.value, spread.value) == (2.0, 2.0)
    assert (error.judge().met, spread.judge().met) == (True, True)
    assert error.details == {
        "p50": 2.0, "max": 60.0, "outside_bound": 0.01, "drift_error_ppm": 0.5, "round_trip": pytest.approx(15.0),
    }  # fmt: skip
