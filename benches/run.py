"""All benches in one command: ``python benches/run.py [--quick] [--only P1,P6] [--json FILE]``.

EchoStream and its peers run in the same run, in alternating rounds; the median of the rounds' ratios counts.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TextIO

from benches import (
    flood,
    layers,
    many_clients,
    p01_unary,
    p02_unary_native,
    p03_latency,
    p04_bytes,
    p05_ceiling,
    p06_bulk,
    p07_memory,
    p08_opening,
    p10_fanout,
    p11_start,
    report,
    slow_reader,
)
from benches.core import BenchError, Plan, Row

BENCHES: dict[str, ModuleType] = {
    module.ID: module
    for module in (
        p01_unary,
        p02_unary_native,
        p03_latency,
        p04_bytes,
        p05_ceiling,
        p06_bulk,
        p07_memory,
        p08_opening,
        p10_fanout,
        p11_start,
        layers,
        slow_reader,
        many_clients,
        flood,
    )
}
FULL = Plan(rounds=7, seconds=2.0)
QUICK = Plan(rounds=3, seconds=0.5)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few and short rounds: a rough picture in a minute")
    parser.add_argument("--only", type=_ids, default=list(BENCHES), metavar="IDS", help="such as P1,P6")
    parser.add_argument("--json", type=_writable, metavar="FILE", help="one object per figure, written as they come")
    options = parser.parse_args()
    rows: list[Row] = []
    print(report.HEADER)
    try:
        with tempfile.TemporaryDirectory() as state:
            os.environ["ECHOSTREAM_STATE_DIR"] = state  # certificates of this run alone
            for row in _measure(options.only, QUICK if options.quick else FULL):
                rows.append(row)
                print(report.line(row), flush=True)
                if options.json is not None:
                    report.write_json(rows, options.json)
    except KeyboardInterrupt:
        print("interrupted: what is above was measured", file=sys.stderr)
        return 130
    return 0 if all(row.met is not False for row in rows) and not any(row.note for row in rows) else 1


def _measure(ids: list[str], plan: Plan) -> Iterator[Row]:
    from echostream.transport.tls import ServerTls

    ServerTls.load()  # makes the certificates, before several processes want them at once
    versions = report.versions()
    for name in ids:
        try:
            for row in BENCHES[name].measure(plan):
                row.versions = versions
                yield row
        except BenchError as error:
            yield Row(name, "failed", note=f"not run: {error}", versions=versions)


def _ids(text: str) -> list[str]:
    names = text.upper().split(",")
    unknown = [name for name in names if name not in BENCHES]
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; there are {', '.join(BENCHES)}")
    return names


def _writable(path: str) -> TextIO:
    try:
        return Path(path).open("w", encoding="utf-8")  # closed with the program
    except OSError as error:
        raise argparse.ArgumentTypeError(f"cannot write {path} ({error.strerror})") from None


if __name__ == "__main__":
    sys.exit(main())
