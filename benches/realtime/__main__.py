"""All figures of real time in one command: ``python -m benches.realtime`` (``--help`` tells the options).

All but G6 is simulated from seeds, in virtual time; the filters of others get the same samples as ours in the same run.
G6 takes real sockets and real time.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Final

from benches import report
from benches.realtime import (
    g01_offset,
    g02_chrony,
    g03_convergence,
    g04_drift,
    g05_step,
    g06_loopback,
    g07_skew,
    g08_road,
    g08_speed,
    g09_jitter_buffer,
    g10_order,
    g13_latency,
    g13_road,
    g16_clock_cost,
    g16_jitter_cost,
    g16_path_cost,
    g17_clock_bound,
    g17_quality,
    g17_skew,
    table,
)
from benches.realtime.table import Figure, Plan

MODULES: Final[tuple[ModuleType, ...]] = (
    g01_offset, g02_chrony, g03_convergence, g04_drift, g05_step, g06_loopback, g07_skew, g08_speed, g08_road,
    g09_jitter_buffer, g10_order, g13_latency, g13_road, g16_clock_cost, g16_jitter_cost, g16_path_cost,
    g17_clock_bound, g17_quality, g17_skew,
)  # fmt: skip
"""In the order of the table. Each has an `ID`, which several may share, and `measure(plan)`, which yields figures."""
IDS: Final = tuple(dict.fromkeys(str(module.ID) for module in MODULES))

FULL: Final = Plan(seeds=20)
QUICK: Final = Plan(seeds=3)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    modules = [module for module in MODULES if module.ID in options.only]
    progress = report.Progress(sys.stderr, len(modules))
    seeds = options.seeds or (QUICK if options.quick else FULL).seeds
    plan = Plan(seeds, is_long=options.long, tell=progress.tell)
    versions = report.versions()
    figures: list[Figure] = []
    interrupted = False
    print(table.HEADER, flush=True)
    try:
        for figure in _measure(modules, plan, progress):
            figures.append(figure.judge())
            progress.clear()
            print(table.line(figure), flush=True)
            if options.json is not None:
                table.write_json(figures, versions, options.json)
    except KeyboardInterrupt:
        interrupted = True
    progress.clear()
    print(table.summary(figures), flush=True)
    if interrupted:
        print("interrupted: what is above was measured", file=sys.stderr)
        return 130
    return 0 if all(figure.met is not False and figure.value is not None for figure in figures) else 1


def _measure(modules: Sequence[ModuleType], plan: Plan, progress: report.Progress) -> Iterator[Figure]:
    for module in modules:
        progress.begin(module.ID)
        try:
            yield from module.measure(plan)
        except Exception as error:  # noqa: BLE001  # the others can go on
            yield Figure(module.ID, "failed", why=f"not run: {str(error) or type(error).__name__}")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Refuse before anything runs what could not be done in the end."""
    parser = argparse.ArgumentParser(
        prog="python -m benches.realtime", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help=f"{QUICK.seeds} seeds: a rough picture in half a minute")
    parser.add_argument("--seeds", type=_count, metavar="N", help=f"runs of each scenario; {FULL.seeds} if not given")
    parser.add_argument("--long", action="store_true", help="the slow rows, too: a simulated day")
    parser.add_argument(
        "--only", type=_ids, default=IDS, metavar="IDS", help=f"such as G1,G5; there are {', '.join(IDS)}"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="one object per figure, written as they come")
    options = parser.parse_args(arguments)
    if options.json is not None:
        try:
            options.json.open("a").close()  # leaves what is there until the first figure is
        except OSError as error:
            parser.error(f"argument --json: cannot write {options.json} ({error.strerror})")
    return options


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no count of seeds; give 1 or more")
    return int(text)


def _ids(text: str) -> list[str]:
    return report.names_among(text, IDS)


if __name__ == "__main__":
    sys.exit(main())
