"""The command line, ``echostream``. It needs the extra ``cli``; the rest of EchoStream does not."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import Final

__all__ = ("main",)

_NEEDED: Final = ("pydantic_settings", "rich", "typer", "watchfiles")


def main() -> None:
    """Run the command line; exits with 0 (done), 1 (failed), 2 (asked wrongly) or 130 (interrupted)."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        sys.stderr.write(
            f"echostream: the command line needs {', '.join(missing)}, which comes with an extra. Install it:\n"
            "    pip install 'echostream[cli]'\n"
        )
        sys.exit(2)
    from echostream.cli.app import app

    app(prog_name="echostream")
