"""DATAGRAM: bulk over one stream against the size of the UDP datagrams that carry it."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Final

from benches.core import Contender, Plan, Row, contest, engines

ID = "DATAGRAM"

_SIZES: Final = (1200, 1452, 2048, 4096, 8952, 16_384)
"""UDP payloads in bytes: the least of QUIC, Ethernet, on to what only the loopback interface carries."""


def measure(plan: Plan) -> Iterator[Row]:
    for engine in engines():
        row = Row(ID, f"bulk at {_SIZES[-1]} bytes a datagram, {engine}", unit="MB/s")
        for size in _SIZES:
            options = {"engine": engine, "datagram_bytes": size}
            contender = Contender(
                f"{engine}, {size} bytes", "benches.p06_bulk:serve", "benches.p06_bulk:connect", plan.loops[-1], options
            )
            rates = [figures["rate"] for figures in contest([contender], plan)[contender.name]]
            row.points.append({"x": size, "y": statistics.median(rates)})
        row.value = row.points[-1]["y"]
        yield row
