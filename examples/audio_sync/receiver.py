"""One receiver of the demo, as a process of its own: its clock is set apart and drifts, and its sound card is made up.

What the card plays goes to NAME.wav. What the receiver knows goes to NAME.jsonl, some of it compared with the truth,
which only this file knows. NAME.json says when the card began and how fast it really ran, so that recordings can be
laid side by side, and when the receiver had come how far on its way to the first sound.
"""

import argparse
import asyncio
import json
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from echostream import RpcClient
from echostream.audio import Player, VirtualSink
from echostream.audio.codec import make_decoder
from echostream.types import Clock, SystemClock, shown_by

LOG_INTERVAL = 0.05
RATE = 48_000


class ClockApart(Clock):
    """A machine's clock: it shows another time than the true one, and runs a little faster or slower."""

    def __init__(self, offset_seconds: float, drift_ppm: float) -> None:
        self.true = SystemClock()
        self.rate = 1 + drift_ppm / 1e6
        self.began_ns = self.true.monotonic_ns()
        self._offset_ns = round(offset_seconds * 1e9)

    def shown_ns(self, true_ns: int) -> int:
        return self.began_ns + self._offset_ns + round((true_ns - self.began_ns) * self.rate)

    def true_ns(self, shown_ns: int) -> int:
        return self.began_ns + round((shown_ns - self.began_ns - self._offset_ns) / self.rate)

    def monotonic_ns(self) -> int:
        return self.shown_ns(self.true.monotonic_ns())

    def monotonic(self) -> float:
        return self.monotonic_ns() / 1e9

    def wall(self) -> float:
        return self.true.wall()


async def receive(arguments: argparse.Namespace, apart: ClockApart) -> None:
    base: Path = arguments.folder / arguments.name
    sink = VirtualSink(base.with_suffix(".wav"), drift_ppm=arguments.card_drift)
    sink.start()
    truth: dict[str, Any] = {
        "name": arguments.name,
        "began_ns": arguments.began_ns or apart.began_ns,
        "loaded_ns": apart.began_ns,
        "started_ns": apart.true_ns(sink.started_ns),
        "samples_per_second": RATE * (1 + arguments.card_drift / 1e6) * apart.rate,
    }

    def note(**reached: float) -> None:
        truth.update(reached)
        base.with_suffix(".json").write_text(json.dumps(truth))

    note()
    loading = asyncio.create_task(asyncio.to_thread(make_decoder, arguments.codec))  # while the network answers
    try:
        async with connect(arguments) as client:
            note(connected_ns=apart.true.monotonic_ns())
            player = Player(client, sink, name=arguments.name, codec=arguments.codec)
            with base.with_suffix(".jsonl").open("w") as file:
                telling = asyncio.create_task(tell(file, player, client, apart, note))
                try:
                    await player.run()
                finally:
                    telling.cancel()
    finally:
        sink.close()
        await loading


def connect(arguments: argparse.Namespace) -> Any:
    # ca="dev": all programs of the demo share a state folder, and with it the development authority.
    if arguments.url:
        return RpcClient.connect(arguments.url, ca="dev")
    metadata: Mapping[str, str] = {"run": arguments.run}
    return RpcClient.discover("cast", metadata=metadata, timeout=10.0, interfaces=["127.0.0.1"], ca="dev")


async def tell(file: TextIO, player: Player, client: RpcClient, apart: ClockApart, note: Callable[..., None]) -> None:
    await client.clock.wait_locked()
    note(locked_ns=apart.true.monotonic_ns(), processor_seconds=time.process_time())
    while True:
        await asyncio.sleep(LOG_INTERVAL)
        if (report := player.report()) is not None:
            # Where it believes to be, and where it is: the server's clock shows true time.
            error_ns = report.session_ns - apart.true_ns(client.clock.to_local_ns(report.session_ns))
            file.write(json.dumps(asdict(report) | {"clock_error_ns": error_ns}) + "\n")
            file.flush()  # this program may be killed


def main() -> None:
    parser = argparse.ArgumentParser(description="One receiver of the demo of audio in step.")
    parser.add_argument("--name", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--run", default="", help="which demo it belongs to, where it is found by name")
    parser.add_argument("--url", help="address of the caster, where names are not to be had")
    parser.add_argument("--began-ns", type=int, help="when this process was started, by the true monotonic clock")
    parser.add_argument("--codec", default="opus")
    parser.add_argument("--clock-offset", type=float, default=0.0, help="seconds")
    parser.add_argument("--clock-drift", type=float, default=0.0, help="ppm")
    parser.add_argument("--card-drift", type=float, default=0.0, help="ppm, against this receiver's clock")
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the demo, which ends its receivers
    apart = ClockApart(arguments.clock_offset, arguments.clock_drift)
    with shown_by(apart), asyncio.Runner() as runner:
        runner.run(receive(arguments, apart))


if __name__ == "__main__":
    main()
