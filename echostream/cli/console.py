"""What the commands share: output for people and for machines, exit codes, and running to an end or an interrupt."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, Final, TypeVar

import typer

if TYPE_CHECKING:
    from rich.console import Console

__all__ = (
    "FAILED",
    "INTERRUPTED",
    "MISUSED",
    "Misuse",
    "console",
    "fail",
    "failures",
    "print_json",
    "run",
    "stop_signals",
    "to_json",
)

T = TypeVar("T")

FAILED: Final = 1
MISUSED: Final = 2
INTERRUPTED: Final = 130
"""128 and SIGINT, as shells say it."""


_LONGEST: Final = 2000
"""Characters of a line of an error that are shown."""

_OBEYED: Final = re.compile("[\\x7f-\\x9f\\u200b-\\u200f\\u2028-\\u202e\\u2060-\\u206f\\ufeff]")
"""Beyond what JSON escapes anyway: C1 controls, and invisible characters that change the writing direction."""


_WAYS_OUT: Final = (
    ('RpcClient.connect("quic://host:4433")', "--url quic://host:4433"),
    ('say trust="first-use"', "say --first-use"),
    ("name its ca or fingerprint", "name its --ca or --fingerprint"),
    ("'Bearer <token>'", "'Bearer <token>' (--token)"),
    ("listen on port 0 for a free one", "--bind quic://127.0.0.1:0 for a free port"),
    ("timeout= gives", "--timeout gives"),
    ("credentials=...", "--credentials"),
    ('use ca="dev" for your own development servers, ca=, or fingerprint=', "use --ca or --fingerprint "),
    ("use ca=, or fingerprint=", "use --ca or --fingerprint "),
    ("use another ca=, or fingerprint=", "use another --ca, or --fingerprint "),
    ("or use fingerprint=", "or use --fingerprint "),
    ("before you change fingerprint=", "before you change --fingerprint"),
    ("name its ca= or fingerprint=", "name its --ca or --fingerprint"),
)
"""What errors tell programmers to write, and what it is here."""


class Misuse(Exception):  # noqa: N818 - not an error of the program
    """The command was asked for something that makes no sense; the text says what would."""


@cache
def console(*, stderr: bool = False) -> Console:
    """Return the terminal, or what stands in for it; it honours NO_COLOR."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, soft_wrap=True)


def fail(text: str) -> None:
    """Print why a command failed; what a server said in it is only shown by the terminal, never obeyed."""
    from echostream.discovery.service import safe_text

    typer.secho("error: ", fg=None if os.environ.get("NO_COLOR") else "red", bold=True, nl=False, err=True)
    for line in text.splitlines():
        typer.echo(safe_text(line, _LONGEST), err=True)


@contextmanager
def failures(*, as_json: bool = False) -> Generator[None]:
    """Turn what a command raises into a text for people and an exit code.

    Args:
        as_json: print errors of EchoStream as JSON.
    """
    from echostream.errors import ConfigurationError, EchoStreamError, ServiceNotFoundError, Status
    from echostream_derive import SignatureError

    try:
        yield
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    except (Misuse, SignatureError, ConfigurationError) as error:
        text = error.message if isinstance(error, ConfigurationError) else str(error)
        if as_json:
            _fail_as_json(Status.INVALID_ARGUMENT, text)
        else:
            fail(text)
        raise typer.Exit(MISUSED) from None
    except EchoStreamError as error:
        if as_json:
            _fail_as_json(error.code, error.message, error.operation, error.details)
        else:
            fail(_in_options(error.message if isinstance(error, ServiceNotFoundError) else str(error)))
        raise typer.Exit(FAILED) from None


def _fail_as_json(code: object, message: str, operation: str | None = None, details: object = None) -> None:
    facts = {"code": str(code), "message": message, "operation": operation, "details": details or {}}
    typer.echo(to_json(facts), err=True)


def _in_options(text: str) -> str:
    """Return an error's text with the ways out that it names as options of the command."""
    for code, option in _WAYS_OUT:
        text = text.replace(code, option)
    return text


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end; Ctrl-C cancels it, and a second one kills the process at once.

    Raises:
        KeyboardInterrupt: it was interrupted, and has ended.
    """
    interrupted = False

    async def guarded() -> T:
        nonlocal interrupted
        task = asyncio.current_task()

        def stop() -> None:
            nonlocal interrupted
            interrupted = True
            if task is not None:
                task.cancel()

        with stop_signals(stop):
            return await main

    try:
        return asyncio.run(guarded())
    except asyncio.CancelledError:
        if interrupted:
            raise KeyboardInterrupt from None
        raise


@contextmanager
def stop_signals(stop: Callable[[], None]) -> Generator[None]:
    """Call `stop` at the first Ctrl-C or SIGTERM; the next one kills this process at once."""
    from echostream.hosting import on_stop_signals

    def first() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        stop()

    before = signal.getsignal(signal.SIGINT)
    restore = on_stop_signals(asyncio.get_running_loop(), first)
    try:
        yield
    finally:
        restore()
        signal.signal(signal.SIGINT, before)


def print_json(value: Any, *, compact: bool = False) -> None:
    """Print a value as JSON: in colour and indented on a terminal, else, and when `compact`, on one line."""
    if not compact and sys.stdout.isatty():
        from rich.highlighter import JSONHighlighter
        from rich.text import Text

        text = Text(to_json(value, indent=2))
        JSONHighlighter().highlight(text)
        console().print(text)
    else:
        typer.echo(to_json(value))


def to_json(value: Any, *, indent: int | None = None) -> str:
    """Return a value as JSON, on one line unless it is indented; bytes become base64, dates and the like text.

    Characters that a terminal would obey instead of showing are escaped.
    """
    text = json.dumps(value, default=_plain, ensure_ascii=False, indent=indent)
    return _OBEYED.sub(lambda match: json.dumps(match[0])[1:-1], text)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes | bytearray):
        return base64.b64encode(value).decode()
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
