"""Audio in step: one server casts, three receivers play, and what they played is laid side by side.

python -m examples.audio_sync                           a minute of the clip that lies here
python -m examples.audio_sync --seconds 10 FILE         of any file with sound; Ctrl-C ends it early

The receivers are processes whose clocks are set seconds apart and drift, and whose sound cards drift, too. One of them
is killed on the way and comes back. At the end the sound that each card played is compared with what the receivers said
of themselves. Exit code 0 when all kept step, 1 when not, 130 after Ctrl-C.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live

from echostream import ConfigurationError, EchoStreamError, RpcClient, RpcServer
from echostream.audio import Caster, FileSource
from echostream.cli.cast import receivers_table

from .check import Recording, compare_all, judge, load
from .pictures import draw, write_page

HERE = Path(__file__).parent
CLIP = HERE / "clip.opus"
LOOPBACK = "127.0.0.1"
LATENCY = 0.3
PATIENCE = 20.0  # seconds until all receivers are there
KILL_FROM = 20.0  # seconds of a run from which on a receiver is killed in it
MOST_SKEW_P99_US = 150.0
MOST_TOLD_WRONG_US = 1e6 / 48_000  # one sample
MOST_SECONDS_TO_STEP = 2.0


@dataclass(frozen=True)
class Machine:
    """A receiver, and how its clock and its sound card are off."""

    name: str
    codec: str
    clock_offset: float  # seconds
    clock_drift: float  # ppm
    card_drift: float  # ppm


MACHINES = (
    Machine("kitchen", "opus", 3.7, 60.0, -20.0),
    Machine("study", "pcm", -11.2, -45.0, 35.0),
    Machine("garden", "opus", 1000.0, 20.0, -60.0),
)


class DemoError(Exception):
    """It did not come as far as to be measured."""


class Receivers:
    """Their processes: each life of one makes a recording."""

    def __init__(self, run: str, url: str | None, folder: Path) -> None:
        self._run = run
        self._url = url
        self._folder = folder
        self._processes: dict[str, Process] = {}
        self.recordings: list[str] = []
        self.failures: list[str] = []

    async def start(self, machine: Machine, *, life: str = "") -> None:
        name = machine.name + life
        where = ["--url", self._url] if self._url else ["--run", self._run]
        self._processes[name] = await asyncio.create_subprocess_exec(
            *(sys.executable, str(HERE / "receiver.py"), "--name", name, "--folder", str(self._folder), *where),
            *("--began-ns", str(time.monotonic_ns())),
            *("--codec", machine.codec, f"--clock-offset={machine.clock_offset}"),
            *(f"--clock-drift={machine.clock_drift}", f"--card-drift={machine.card_drift}"),
            stderr=PIPE,
        )
        self.recordings.append(name)

    async def kill(self, name: str) -> None:
        process = self._processes.pop(name)
        process.kill()
        await process.communicate()

    async def finish(self, seconds: float) -> None:
        """Wait for those that end by themselves, kill the others, and keep what went wrong."""
        for name, process in self._processes.items():
            try:
                _, error = await asyncio.wait_for(process.communicate(), seconds)
            except TimeoutError:
                process.kill()
                await process.wait()
                self.failures.append(f"{name} did not end")
                continue
            if process.returncode:
                last = error.decode(errors="replace").strip().rpartition("\n")[2]
                self.failures.append(f"{name} ended with exit code {process.returncode}: {last}")
        self._processes.clear()


async def run(arguments: argparse.Namespace, folder: Path) -> tuple[list[Recording], list[str]]:
    """Cast to the receivers; return what they recorded, and what went wrong."""
    source = FileSource(arguments.file)
    caster = Caster(source, latency=LATENCY, loop=True, wait_for=len(MACHINES))
    server = RpcServer(f"quic://{LOOPBACK}:0")
    server.register(caster)
    name = os.urandom(4).hex()  # several demos on one machine do not mix
    server.enable_discovery("cast", metadata={"run": name}, interfaces=[LOOPBACK])
    async with AsyncExitStack() as stack:
        stack.callback(source.close)
        await stack.enter_async_context(server)
        by_name = not arguments.by_address and await is_found(name)
        receivers = Receivers(name, None if by_name else server.addresses[0], folder)
        stack.push_async_callback(receivers.finish, 0.0)
        for machine in MACHINES:
            await receivers.start(machine)
        casting = asyncio.create_task(caster.run())
        stack.callback(casting.cancel)
        began_ns = await conduct(arguments, caster, receivers)
        await caster.stop()
        await casting
        await receivers.finish(10.0)
    recordings = [load(folder, name, began_ns) for name in receivers.recordings if (folder / f"{name}.jsonl").exists()]
    silent = [f"{item.name} never played" for item in recordings if not item.log]
    return [item for item in recordings if item.log], receivers.failures + silent


async def is_found(name: str) -> bool:
    """Tell whether mDNS works here: not every network, and not every container, lets it through."""
    try:
        async with RpcClient.discover(
            "cast", metadata={"run": name}, timeout=3.0, interfaces=[LOOPBACK], ca="dev"
        ) as client:
            return client.session.state == "open"
    except EchoStreamError:
        print("names cannot be had on this network: receivers get the address", file=sys.stderr)
        return False


async def conduct(arguments: argparse.Namespace, caster: Caster, receivers: Receivers) -> int:
    """Let it play for its time, show it, and kill a receiver on the way; return when it began."""
    loop, victim = asyncio.get_running_loop(), MACHINES[-1]
    kill_at = arguments.seconds / 3 if arguments.seconds >= KILL_FROM else None
    console = Console(stderr=True)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        live.update(receivers_table([], "waiting for the receivers"), refresh=console.is_terminal)
        await until_begun(caster, receivers)
        began_ns, begin = time.monotonic_ns(), loop.time()
        while (gone := loop.time() - begin) < arguments.seconds:
            if kill_at is not None and gone >= kill_at:
                kill_at = None
                await receivers.kill(victim.name)
                await receivers.start(victim, life="-again")
            if console.is_terminal:
                status = await caster.status()
                live.update(receivers_table(status.receivers, f"{gone:.0f} of {arguments.seconds:g} s"), refresh=True)
            await asyncio.sleep(0.25)
    return began_ns


async def until_begun(caster: Caster, receivers: Receivers) -> None:
    try:
        async with asyncio.timeout(PATIENCE):
            while not (await caster.status()).position:  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.05)
    except TimeoutError:
        await receivers.finish(0.1)
        raise DemoError("the receivers did not all join: " + "; ".join(receivers.failures)) from None


def make_report(
    arguments: argparse.Namespace, recordings: Sequence[Recording], skew: dict[str, Any], failures: list[str]
) -> dict[str, Any]:
    receivers: list[dict[str, Any]] = [
        {
            "name": item.name,
            "codec": item.log[-1]["codec"],
            "seconds_to_step": item.seconds_to_step([other for other in recordings if other is not item]),
            "drift_ppm": item.log[-1]["drift_ppm"],
            "device_ppm": item.log[-1]["device_ppm"],
            "lost": item.log[-1]["lost"],
            "late": item.log[-1]["late"],
            "underruns": item.log[-1]["underruns"],
            "resyncs": item.log[-1]["resyncs"],
        }
        for item in recordings
    ]
    faults = [*failures, *faults_of(skew)]
    faults += [
        f"{item['name']} was not in step within {MOST_SECONDS_TO_STEP:g} s: is the machine busy?"
        for item in receivers
        if item["seconds_to_step"] is None or item["seconds_to_step"] > MOST_SECONDS_TO_STEP
    ]
    return {
        "ok": not faults,
        "faults": faults,
        "file": arguments.file.name,
        "seconds": arguments.seconds,
        "skew": skew,
        "receivers": receivers,
        "joined": [
            {"name": item.name}
            | {f"{step}_seconds": took for step, took in item.seconds_each().items()}
            | {"processor_seconds": item.processor_seconds}
            for item in recordings
            if item.reached_ns
        ],
    }


def faults_of(skew: dict[str, Any]) -> list[str]:
    """Say what is not as it should be; each comparison counts, not most of them."""
    if not skew["compared"]:
        return [
            f"nothing could be compared: the sound is too short, too soft, or repeats itself ({skew['unclear']} tried)"
        ]
    faults: list[str] = []
    for what, name in (("as told", "skew_p99_us"), ("as recorded", "recorded_p99_us")):
        if skew[name] > MOST_SKEW_P99_US:
            faults.append(f"p99 of the skew {what} is {skew[name]:.0f} us, at most {MOST_SKEW_P99_US:.0f}")
    if skew["told_wrong_max_us"] > MOST_TOLD_WRONG_US:
        faults.append(
            f"recordings and reports differ by {skew['told_wrong_max_us']:.1f} us, at most one sample; errors of the"
            f" clocks are {skew['clocks_in_worst_us']:.1f} us of it, and grow when the machine is busy"
        )
    return faults


def show(report: dict[str, Any], folder: Path) -> None:
    skew = report["skew"]
    for title, kind in (("skew", "skew"), ("as recorded", "recorded"), ("difference", "told_wrong")):
        figures = ", ".join(f"{share} {skew[f'{kind}_{share}_us']:.1f}" for share in ("p50", "p99", "max"))
        print(f"{title:13} {figures} us")
    print(f"              in {skew['compared']} windows of two recordings; a sample has 20.8 us")
    if skew["unclear"]:
        print(f"              {skew['unclear']} more were too soft, or alike at more than one place, to tell")
    for item in report["receivers"]:
        after = "never" if item["seconds_to_step"] is None else f"after {item['seconds_to_step']:.2f} s"
        print(
            f"{item['name']:13} in step {after}, clock {item['drift_ppm']:+.1f} ppm,"
            f" card {item['device_ppm']:+.1f} ppm, {item['lost']} lost, {item['late']} late, {item['resyncs']} resyncs"
        )
    for item in report["joined"]:
        took = {key.removesuffix("_seconds"): value for key, value in item.items() if key.endswith("_seconds")}
        busy = took.pop("processor")
        parts = ", ".join(f"{step} {seconds:.2f}" for step, seconds in took.items())
        print(f"{item['name']:13} from its start on: {parts} s, with the processor for {busy:.2f} s of them")
    print(f"{folder / 'index.html'} and {folder / 'skew.png'} show it")
    print("in step" if report["ok"] else "out of step: " + "; ".join(report["faults"]))


def main() -> int:
    parser = argparse.ArgumentParser(description="One cast, three receivers, and how well they keep step.")
    parser.add_argument("file", type=Path, nargs="?", default=CLIP, help="with sound; left out, a short clip")
    parser.add_argument("--seconds", type=float, default=60.0, help="that it plays")
    parser.add_argument("--folder", type=Path, default=Path("build/audio-sync"), help="for pictures and recordings")
    parser.add_argument("--by-address", action="store_true", help="for networks without multicast")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.json*"):
        path.unlink()  # of a run before
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    with tempfile.TemporaryDirectory(prefix="echostream-demo-") as state:
        os.environ["ECHOSTREAM_STATE_DIR"] = state
        try:
            recordings, failures = asyncio.run(run(arguments, folder))
        except KeyboardInterrupt:
            return 130
        except (ConfigurationError, DemoError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    windows, unclear = compare_all(recordings)
    report = make_report(arguments, recordings, judge(recordings, windows, unclear), failures)
    write_page(report, draw(recordings, windows, folder), folder)
    (folder / "report.json").write_text(json.dumps(report, indent=2))
    if arguments.json:
        print(json.dumps(report, indent=2))
    else:
        show(report, folder)
    return 0 if report["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
