"""All benches in one command: ``python benches/run.py`` (``--help`` tells the options).

EchoStream and its peers run in the same run, in alternating rounds; the median of the rounds' ratios counts.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from benches import (
    churn,
    concurrency,
    datagram_sizes,
    flood,
    handler_counts,
    latency,
    layers,
    loss,
    many_clients,
    p01_unary,
    p02_unary_native,
    p03_latency,
    p04_bytes,
    p05_ceiling,
    p06_bulk,
    p07_memory,
    p08_opening,
    p09_loss,
    p10_fanout,
    p11_start,
    payload_sizes,
    plots,
    report,
    session_counts,
    slow_reader,
    workers,
)
from benches.core import Plan, Row, loops, missing

FIGURES: Final = (
    p01_unary, p02_unary_native, p03_latency, p04_bytes, p05_ceiling, p06_bulk, p07_memory, p08_opening, p09_loss,
    p10_fanout, p11_start,
)  # fmt: skip
"""What is promised; the others run only when they are asked for."""
GROWTH: Final = (latency, concurrency, session_counts, payload_sizes, datagram_sizes, handler_counts, churn, loss)
"""Curves: what must be flat or linear; `make bench-growth`."""
OTHERS: Final = (layers, slow_reader, many_clients, flood, workers)

BENCHES: Final[dict[str, ModuleType]] = {module.ID: module for module in (*FIGURES, *GROWTH, *OTHERS)}

FULL: Final = Plan(rounds=5, seconds=1.5)
QUICK: Final = Plan(rounds=2, seconds=0.25, loops=loops()[-1:])


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    ids: list[str] = options.only
    rows: list[Row] = []
    progress = report.Progress(sys.stderr, len(ids))
    plan = dataclasses.replace(QUICK if options.quick else FULL, tell=progress.tell)
    print(report.HEADER, flush=True)
    interrupted = False
    try:
        with tempfile.TemporaryDirectory() as state:
            os.environ["ECHOSTREAM_STATE_DIR"] = state  # certificates of this run alone
            for row in _measure(ids, plan, progress):
                rows.append(row)
                progress.clear()
                print(report.line(row), flush=True)
                if options.json is not None:
                    report.write_json(rows, options.json)
    except KeyboardInterrupt:
        interrupted = True
    progress.clear()
    if options.json is not None:
        report.write_json(rows, options.json)
    print(report.summary(rows), flush=True)
    if options.plots is not None:
        for file in plots.draw(rows, options.plots):
            print(f"drawn: {file}", flush=True)
    if interrupted:
        print("interrupted: what is above was measured", file=sys.stderr)
        return 130
    regressions = report.worse(rows, options.against or ())
    for text in regressions:
        print(f"worse than before: {text}", flush=True)
    return (
        0 if not regressions and all(row.met is not False for row in rows) and not any(row.note for row in rows) else 1
    )


def _measure(ids: Sequence[str], plan: Plan, progress: report.Progress) -> Iterator[Row]:
    from echostream.transport.tls import ServerTls

    ServerTls.load()  # makes the certificates, before several processes want them at once
    versions = report.versions()
    for name in ids:
        progress.begin(name)
        try:
            for row in BENCHES[name].measure(plan):
                row.versions = versions
                yield row
        except Exception as error:  # noqa: BLE001  # the others can go on
            yield Row(name, "failed", note=f"not run: {str(error) or type(error).__name__}", versions=versions)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Refuse before anything runs what could not be done in the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    figures, others = (", ".join(module.ID for module in modules) for modules in (FIGURES, (*GROWTH, *OTHERS)))
    parser.add_argument("--quick", action="store_true", help="few and short rounds: a rough picture in a minute")
    parser.add_argument(
        "--only",
        type=_ids,
        metavar="IDS",
        help=f"such as P1,P6; there are {figures}, and, only by name, {others}",
    )
    parser.add_argument("--growth", action="store_true", help="the curves instead, with ten minutes of CHURN")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="draw the curves that were measured, SVG and PNG")
    parser.add_argument("--json", type=Path, metavar="FILE", help="one object per figure, written as they come")
    parser.add_argument("--against", type=_former, metavar="FILE", help="the JSON of a former run: name what is worse")
    options = parser.parse_args(arguments)
    if options.only is None:
        options.only = [module.ID for module in (GROWTH if options.growth else FIGURES)]
    elif options.growth:
        parser.error("give --only or --growth, not both")
    if options.plots is not None:
        if absent := missing("matplotlib"):
            parser.error(f"argument --plots: {absent}")
        try:
            options.plots.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=options.plots).close()
        except OSError as error:
            parser.error(f"argument --plots: cannot write into {options.plots} ({error.strerror})")
    if options.json is not None:
        try:
            options.json.open("a").close()  # leaves what is there until the first figure is
        except OSError as error:
            parser.error(f"argument --json: cannot write {options.json} ({error.strerror})")
    return options


def _former(path: str) -> list[dict[str, Any]]:
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8"))
        if all({"id", "name", "value", "ratio"} <= row.keys() for row in rows):
            return list(rows)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"cannot read {path} ({error.strerror})") from None
    except (ValueError, TypeError, AttributeError):
        pass
    raise argparse.ArgumentTypeError(f"{path} is not what --json writes")


def _ids(text: str) -> list[str]:
    return report.names_among(text, BENCHES)


if __name__ == "__main__":
    sys.exit(main())
