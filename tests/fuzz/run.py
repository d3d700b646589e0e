"""Fuzzes one target, or all: ``python tests/fuzz/run.py codec --runs 1000000 --json FILE``.

Guided by coverage where atheris is installed (the extra ``fuzz``; Linux), else with seeded chance. Begins with what
`corpus.py` keeps, prints how far it is, and at the end executions, time, memory and the branches that the final corpus
reaches. Fails on a crash, a hang (10 s), growth (1 GiB), and below the least share of branches. An input that failed is
printed as a line for ``crashes/``, where it stays as a regression test.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
sys.path[0] = str(ROOT)

from tests.fuzz import corpus  # noqa: E402

LEAST_PERCENT: Final = 95.0
_EXECUTE: Final = ROOT / "tests" / "fuzz" / "execute.py"
_STATUS: Final = re.compile(r"^#(\d+)\s")
_TAIL: Final = 40
"""Lines of a failure that are shown."""


def main() -> int:
    """Run, and return the exit code."""
    options = _options()
    reports = []
    for name in options.targets or corpus.TARGETS:
        folder = options.corpus or ROOT / "build" / "fuzz" / name
        report = fuzz(
            name, runs=options.runs, engine=options.engine, seed=options.seed, folder=folder, quiet=options.quiet
        )
        reports.append(report)
        print(describe(report), flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(reports, indent=2) + "\n", "utf-8")
    return 0 if all(passed(report, options.least) for report in reports) else 1


def fuzz(name: str, *, runs: int, engine: str, seed: int, folder: Path, quiet: bool = False) -> dict[str, Any]:
    """Fuzz one target; the corpus grows in `folder`, from one run to the next."""
    fill(folder, name)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as artifacts:
        command = [engine, name, str(folder), f"--runs={runs}", f"--seed={seed}", f"--artifacts={artifacts}"]
        watch = Watch(name, runs, quiet=quiet)
        code = watch.follow([sys.executable, str(_EXECUTE), *command])
        crashes = [path.read_bytes() for path in sorted(Path(artifacts).iterdir())]
    report = {
        "target": name,
        "engine": engine,
        "executions": watch.executions,
        "seconds": round(time.monotonic() - began, 1),
        "crashes": [data.hex() for data in crashes],
        "exit_code": code,
        "peak_memory_mib": watch.peak_mib,
        "corpus_inputs": len(list(folder.iterdir())),
        "seed": seed,
        "python": sys.version.split()[0],
    }
    if code:
        report["output"] = watch.tail
    return report | {"modules": {} if code else measure(name, folder)}


def fill(folder: Path, name: str) -> None:
    """Put what is kept into the folder of a corpus, a file each."""
    folder.mkdir(parents=True, exist_ok=True)
    for _, data in corpus.kept(name):
        (folder / hashlib.sha1(data, usedforsecurity=False).hexdigest()).write_bytes(data)


def measure(name: str, folder: Path) -> dict[str, Any]:
    """Return the branches that a corpus reaches, by module; none without the package coverage."""
    if find_spec("coverage") is None:
        return {}
    done = subprocess.run(
        [sys.executable, str(_EXECUTE), "coverage", name, str(folder)], capture_output=True, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


class Watch:
    """Follows a process, and shows how far it is."""

    def __init__(self, name: str, runs: int, *, quiet: bool) -> None:
        self._name, self._runs, self._quiet = name, runs, quiet
        self.executions = 0
        self.peak_mib: int | None = None
        self.tail: list[str] = []
        self._began = self._shown = time.monotonic()

    def follow(self, command: list[str]) -> int:
        """Run a command to its end, and return its exit code."""
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
        assert process.stdout is not None
        memory = threading.Thread(target=self._sample, args=(process,), daemon=True)
        memory.start()
        try:
            for line in process.stdout:
                self._read(line.rstrip())
        finally:
            if process.poll() is None and sys.exc_info()[0] is not None:
                process.kill()
        code = process.wait()
        memory.join()
        self._show(end="\n")
        return code

    def _read(self, line: str) -> None:
        if status := _STATUS.match(line):
            self.executions = int(status[1])
        elif line.startswith("stat::number_of_executed_units:"):
            self.executions = int(line.rsplit(maxsplit=1)[-1])
        elif not line.startswith(("INFO:", "stat::", "\tNEW_FUNC")):
            self.tail = [*self.tail[1 - _TAIL :], line]
        if time.monotonic() - self._shown >= 1:
            self._show(end="\r" if sys.stdout.isatty() else "\n")

    def _show(self, *, end: str) -> None:
        self._shown = now = time.monotonic()
        rate = self.executions / max(0.001, now - self._began)
        if not self._quiet:
            share = 100 * self.executions / max(1, self._runs)
            text = f"{self._name}: {self.executions:,} of {self._runs:,} ({share:.0f} %), {rate:,.0f} a second"
            print(f"{text}, {self.peak_mib or '?'} MiB", end=end, flush=True)

    def _sample(self, process: subprocess.Popen[str]) -> None:
        """Note the most memory that the process ever had, where the system tells."""
        status = Path(f"/proc/{process.pid}/status")
        while process.poll() is None:
            try:
                peak = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
            except OSError:
                return
            if peak is not None:
                self.peak_mib = max(self.peak_mib or 0, int(peak[1]) // 1024)
            time.sleep(0.2)


def percent(report: dict[str, Any]) -> float | None:
    """Return the share of branches reached, or None when it was not measured."""
    modules = report["modules"].values()
    total = sum(each["branches"] for each in modules)
    return 100 * sum(each["reached"] for each in modules) / total if total else None


def passed(report: dict[str, Any], least: float) -> bool:
    """Return whether nothing failed and enough was reached."""
    share = percent(report)
    return not report["exit_code"] and (share is None or share >= least)


def describe(report: dict[str, Any]) -> str:
    """Return a report for people."""
    memory, inputs = report["peak_memory_mib"] or "?", report["corpus_inputs"]
    what = f"{report['executions']:,} executions in {report['seconds']} s, {len(report['crashes'])} crashes"
    lines = [
        f"{report['target']} ({report['engine']}): {what}, peak memory {memory} MiB, {inputs} inputs in the corpus"
    ]
    lines += report.get("output", [])
    lines += [f"keep it in crashes/{report['target']}.txt:\n<what it showed>: {data}" for data in report["crashes"]]
    for name, found in report["modules"].items():
        missed = f", not all at line {', '.join(map(str, found['missed_at']))}" if found["missed_at"] else ""
        lines.append(f"  {name}: {found['reached']} of {found['branches']} branches{missed}")
    share = percent(report)
    if share is not None:
        lines.append(f"  branch coverage {share:.1f} %")
    return "\n".join(lines)


def _options() -> argparse.Namespace:
    has_atheris = find_spec("atheris") is not None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "targets",
        nargs="*",
        choices=[*corpus.TARGETS, []],
        metavar="target",
        help="codec, peer or demux; all without one",
    )
    parser.add_argument("--runs", type=int, default=100_000, help="executions of each target")
    parser.add_argument("--engine", choices=("atheris", "mutator"), default="atheris" if has_atheris else "mutator")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--corpus", type=Path, help="folder that the corpus of one target grows in (build/fuzz/TARGET)")
    parser.add_argument("--least", type=float, default=LEAST_PERCENT, help="per cent of branches below which it fails")
    parser.add_argument("--json", type=Path, help="where the report goes")
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
