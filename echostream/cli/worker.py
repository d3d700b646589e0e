"""``python -m echostream.cli.worker``: one of several processes that serve on the same port; `workers.py` starts it.

It reads one line of JSON, and ends at once when its input ends: then whoever started it is no more.
"""

from __future__ import annotations

import json
import signal
import sys
from typing import Any, Final, TypedDict

import typer

from echostream.cli.console import failures
from echostream.cli.parent import end_with_parent

__all__ = ("Inheritance", "main")

_STDIN: Final = 0


class Inheritance(TypedDict):
    """What a worker is told."""

    number: int
    """From 0; the first one announces the server."""
    ports: dict[str, list[int]]
    """The descriptors of its shares by URL, see `PortShare.descriptors`."""
    settings: dict[str, Any]
    """Those of ``echostream serve``."""


def main() -> None:
    """Serve until SIGTERM, or until the input ends."""
    told: Inheritance = json.loads(sys.stdin.buffer.readline())
    end_with_parent(_STDIN, signal.SIGKILL)
    try:
        with failures():
            _serve(told)
    except typer.Exit as ended:
        sys.exit(ended.exit_code)


def _serve(told: Inheritance) -> None:
    from echostream.cli.serve import load, run_server, set_up_logs
    from echostream.settings import ServeSettings
    from echostream.transport.quic.sharing import SHARES, PortShare

    settings = ServeSettings(**told["settings"])
    set_up_logs(settings)
    shares = {url: PortShare.adopt(told["number"], descriptors) for url, descriptors in told["ports"].items()}
    server = load(settings)
    server.bind(*shares)
    if told["number"]:
        server.disable_discovery()
    SHARES.set(shares)
    run_server(server, settings)


if __name__ == "__main__":
    main()
