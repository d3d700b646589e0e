"""Tests for echostream.cli.console: output on a terminal and elsewhere, and running to an end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from datetime import date

import pytest

from echostream.cli.console import console, print_json, run, to_json


def test_bytes_and_dates_have_a_json_form() -> None:
    assert json.loads(to_json({"b": b"\x00\xff", "d": date(2026, 1, 2), "s": {1}})) == {
        "b": "AP8=",
        "d": "2026-01-02",
        "s": "{1}",
    }


@pytest.mark.parametrize("no_colour", [True, False])
def test_on_a_terminal_json_is_indented_and_never_obeyed(
    no_colour: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1") if no_colour else monkeypatch.delenv("NO_COLOR", raising=False)
    console.cache_clear()  # one is made at its first use, as the environment is then
    print_json({"a": "\x9b31m\u202e[red]x"})
    shown = capsys.readouterr().out
    assert r"\u009b31m\u202e[red]x" in shown
    assert "\n  " in shown
    assert ("\x1b[32m" in shown) is not no_colour  # bold is no colour
    print_json([1, 2], compact=True)
    assert capsys.readouterr().out == "[1, 2]\n"
    console.cache_clear()


def test_what_is_run_gives_its_result() -> None:
    async def main() -> int:
        return 7

    assert run(main()) == 7


def test_an_interrupt_lets_it_end_in_order() -> None:
    ended: list[str] = []

    async def main() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("in order")

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(main())
    assert ended == ["in order"]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_cancellation_of_its_own_is_no_interrupt() -> None:
    async def main() -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        run(main())
