"""Executes one target in a process of its own, for `run.py`: with atheris, with the mutator, or under coverage.

A line to standard error tells how far it is, in libFuzzer's form: ``#4096 pulse cov: ... corp: ... rss: ...``.
"""

from __future__ import annotations

import argparse
import faulthandler
import hashlib
import itertools
import json
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

sys.path[0] = str(Path(__file__).parents[2])  # this folder's modules are tests.fuzz.*, whoever runs it

from tests.fuzz import corpus, mutator  # noqa: E402

SECONDS_PER_INPUT: Final = 10
"""Longer is a hang; an input takes about a millisecond."""
MAX_BYTES: Final = 4096
MAX_MEMORY_MIB: Final = 1024
_PULSE: Final = 2048


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("engine", choices=("atheris", "mutator", "coverage"))
    parser.add_argument("target", choices=sorted(corpus.TARGETS))
    parser.add_argument("folder", type=Path, help="of the corpus, a file each")
    parser.add_argument("--runs", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--artifacts", type=Path, default=Path())
    options = parser.parse_args()
    {"atheris": with_atheris, "mutator": with_mutator, "coverage": under_coverage}[options.engine](options)


def with_atheris(options: argparse.Namespace) -> None:
    """Fuzz guided by coverage; does not return."""
    import atheris  # type: ignore[import-not-found, import-untyped, unused-ignore]

    with atheris.instrument_imports(include=list(corpus.TARGETS[options.target])):
        run = corpus.target(options.target).run
    flags = [
        f"-runs={options.runs}",
        f"-seed={options.seed}",
        f"-max_len={MAX_BYTES}",
        f"-timeout={SECONDS_PER_INPUT}",
        f"-rss_limit_mb={MAX_MEMORY_MIB}",
        f"-artifact_prefix={options.artifacts}/",
        "-print_final_stats=1",
        "-reload=0",
    ]
    atheris.Setup([sys.argv[0], *flags, str(options.folder)], run)
    atheris.Fuzz()


def with_mutator(options: argparse.Namespace) -> None:
    """Execute the corpus and then what chance makes of it."""
    run: Callable[[bytes], object] = corpus.target(options.target).run
    inputs = [path.read_bytes() for path in sorted(options.folder.iterdir())]
    changed = itertools.chain(inputs, mutator.mutations(inputs, seed=options.seed, max_bytes=MAX_BYTES))
    for number, data in enumerate(itertools.islice(changed, options.runs), 1):
        if number % _PULSE == 1:
            faulthandler.dump_traceback_later(SECONDS_PER_INPUT * 6, exit=True)
            print(f"#{number} pulse corp: {len(inputs)}", file=sys.stderr, flush=True)
        began = time.process_time()
        try:
            run(data)
            assert time.process_time() - began < SECONDS_PER_INPUT, "a hang"
        except Exception:  # noqa: BLE001  # any is a finding
            traceback.print_exc()
            path = options.artifacts / f"crash-{hashlib.sha1(data, usedforsecurity=False).hexdigest()}"
            path.write_bytes(data)
            raise SystemExit(77) from None
    print(f"stat::number_of_executed_units: {options.runs}", file=sys.stderr)


def under_coverage(options: argparse.Namespace) -> None:
    """Execute the corpus and print, as JSON, the branches of each module that it reaches."""
    import coverage

    names = corpus.TARGETS[options.target]
    measured = coverage.Coverage(branch=True, source_pkgs=list(names), data_file=None, config_file=False)
    measured.set_option("report:exclude_lines", ["if TYPE_CHECKING:", r"^\s*\.\.\.$"])
    with measured.collect():
        run = corpus.target(options.target).run
        for path in sorted(options.folder.iterdir()):
            run(path.read_bytes())
    found: dict[str, Any] = {}
    for name in names:
        exits = measured.branch_stats(sys.modules[name].__file__ or "")
        found[name] = {
            "branches": sum(total for total, _ in exits.values()),
            "reached": sum(taken for _, taken in exits.values()),
            "missed_at": sorted(line for line, (total, taken) in exits.items() if taken < total),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
