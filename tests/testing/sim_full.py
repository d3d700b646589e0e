"""Large storms, outside of CI: 10,000 calls and a stream of 10 MB for each seed. `make sim-full` runs it.

python -m tests.testing.sim_full --seeds 3 --engines aioquic-aioquic,qh3-qh3 --json figures.json
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

from echostream.testing import SimNetwork
from tests.testing.storm import STORM, Load, storm
from tests.transport.lab import Pair

FULL = Load(calls=10_000, items=1_000, events=250, chunks=10 * 256, patience=36_000.0)
PROGRESS_EVERY = 10.0
"""Seconds."""


def run(seed: int, engines: Pair, load: Load) -> dict[str, Any]:
    """Run one seed; what goes wrong is in the figures, with the way to see it again."""
    network = SimNetwork(seed=seed, link=STORM, limit=None)
    began = time.monotonic()

    async def scenario(network: SimNetwork) -> None:
        telling = asyncio.create_task(tell(network))
        try:
            await storm(network, engines, load=load)
        finally:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)
        assert network.leaks() == []

    async def tell(network: SimNetwork) -> None:
        told = began
        while True:
            await asyncio.sleep(0.1)
            if time.monotonic() - told > PROGRESS_EVERY:
                told = time.monotonic()
                note = f"{network.now:,.0f} virtual seconds, {len(network.trace):,} frames"
                print(f"    {told - began:,.0f} s: {note}", file=sys.stderr, flush=True)

    failure = None
    try:
        network.run(scenario)
    except Exception as error:  # noqa: BLE001 - the other seeds go on
        failure = " | ".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())])
    states = [network.link_state(*ends) for ends in (("client", "server"), ("server", "client"))]
    return {
        "engines": "-".join(engines),
        "seed": seed,
        "failure": failure,
        "seconds": round(time.monotonic() - began, 1),
        "virtual_seconds": round(network.now, 1),
        "frames": len(network.trace),
        "packets": sum(state.sent for state in states),
        "packets_lost": sum(state.lost for state in states),
    }


def main() -> int:
    """Run what the arguments say; 1 where a seed failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="how many, from --first on")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--engines", default="aioquic-aioquic,qh3-qh3", help="client-server, several with commas")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    options = parser.parse_args()
    pairs = [tuple(name.split("-")) for name in options.engines.split(",")]
    runs = [(pair, seed) for pair in pairs for seed in range(options.first, options.first + options.seeds)]
    found = []
    for number, ((client, server), seed) in enumerate(runs, 1):
        print(f"{number} of {len(runs)}: {client}-{server}, seed {seed}", file=sys.stderr, flush=True)
        found.append(run(seed, (client, server), FULL))
        print(f"    {found[-1]['failure'] or 'all arrived'}, {found[-1]['seconds']} s", file=sys.stderr, flush=True)
    failed = sum(figure["failure"] is not None for figure in found)
    figures = {
        "load": {"calls": FULL.calls, "events": FULL.events, "stream_bytes": FULL.chunks * 4096},
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "failed": failed,
        "runs": found,
    }
    text = json.dumps(figures, indent=2)
    print(text)
    if options.json is not None:
        options.json.write_text(text + "\n")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
