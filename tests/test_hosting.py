"""Tests for echostream.hosting: the signals that stop a server."""

from __future__ import annotations

import asyncio
import os
import signal
import threading

import pytest

from echostream.hosting import on_stop_signals
from tests.serving import until


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_the_first_signal_stops_and_gives_the_second_its_meaning_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    stops: list[int] = []
    restore = on_stop_signals(asyncio.get_running_loop(), lambda: stops.append(1))
    try:
        os.kill(os.getpid(), number)
        await until(lambda: stops)
        assert signal.getsignal(number) is (signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    finally:
        restore()
        signal.signal(number, before)
    assert stops == [1]


async def test_meaning_is_given_back_without_a_signal() -> None:
    before = signal.getsignal(signal.SIGTERM)
    restore = on_stop_signals(asyncio.get_running_loop(), lambda: None)
    assert signal.getsignal(signal.SIGTERM) is not before
    restore()
    assert signal.getsignal(signal.SIGTERM) is before


async def test_where_signals_cannot_be_handled_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    def impossible(*args: object) -> None:
        raise NotImplementedError

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "add_signal_handler", impossible)
    restore = on_stop_signals(loop, lambda: None)
    restore()


def test_in_another_thread_nothing_changes() -> None:
    before = signal.getsignal(signal.SIGTERM)
    done: list[bool] = []

    async def main() -> None:
        on_stop_signals(asyncio.get_running_loop(), lambda: None)()
        done.append(True)

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    thread.join()
    assert done == [True]
    assert signal.getsignal(signal.SIGTERM) is before
