"""Tests for echostream.cli.workers and worker: several processes on one port, and what becomes of those that end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from contextlib import AsyncExitStack
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest
import typer

from echostream import ConnectionLostError, RpcClient, RpcServer
from echostream.cli import serve as cli_serve
from echostream.cli import worker, workers
from echostream.cli.worker import Inheritance
from echostream.settings import ServeSettings
from echostream.transport.quic import sharing
from tests.cli.running import TIMEOUT, echostream, environment, read_until, serving

pytestmark = pytest.mark.skipif(not sharing.CAN_SHARE, reason="workers are for Linux")

PROGRAM = """
import os
from echostream import RpcServer, handler

@handler("pid")
async def pid() -> int:
    return os.getpid()

server = RpcServer("quic://127.0.0.1:0")
server.register(pid)
"""


async def one_of_each(url: str, stack: AsyncExitStack) -> dict[int, RpcClient]:
    """Return a client of each of two workers, by process id."""
    found: dict[int, RpcClient] = {}
    for _ in range(40):  # each has the same chance
        client = await stack.enter_async_context(RpcClient.connect(url, ca="dev"))
        found[await client.request("pid", returns=int)] = client
        if len(found) == 2:
            return found
    raise AssertionError(found)


def gone(process: int) -> bool:
    return not Path(f"/proc/{process}").exists()


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_two_workers_serve_one_port_and_one_that_is_killed_comes_back(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PROGRAM, "utf-8")

    async def scenario(url: str, running: subprocess.Popen[str]) -> list[int]:
        async with AsyncExitStack() as stack:
            by_pid = await one_of_each(url, stack)
            victim, survivor = by_pid
            assert running.pid not in by_pid
            os.kill(victim, signal.SIGKILL)
            log = await asyncio.to_thread(read_until, running, "ended by SIGKILL: started again")
            assert log.count("ended") == 1
            with pytest.raises(ConnectionLostError, match="knows this connection no longer"):
                await by_pid[victim].request("pid", returns=int, timeout=TIMEOUT)
            assert await by_pid[survivor].request("pid", returns=int) == survivor
            again = await one_of_each(url, stack)
            assert survivor in again
            assert victim not in again
            return [*again]

    with serving("mine:server", "--workers", "2", folder=tmp_path) as (running, url):
        serving_now = asyncio.run(scenario(url, running))
        running.send_signal(signal.SIGINT)
        _, log = running.communicate(timeout=TIMEOUT)
        assert running.returncode == 0
        assert log.count("= stopped") == 2
        assert all(map(gone, serving_now))


@pytest.mark.slow
def test_a_worker_ends_with_the_process_that_started_it() -> None:
    told: Inheritance = {"number": 0, "ports": {}, "settings": {"app": "tests.cli.app:server"}}
    command = [sys.executable, "-m", "echostream.cli.worker"]
    pipes: Any = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment()}
    with subprocess.Popen(command, **pipes) as running:
        assert running.stdin is not None
        running.stdin.write(json.dumps(told) + "\n")
        running.stdin.flush()
        read_until(running, "= serving at")
        running.stdin.close()
        assert running.wait(TIMEOUT) == -signal.SIGKILL


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--workers", "0"], "workers: 0: input should be greater than or equal to 1"),
        (["--workers", "-3"], "workers: -3: input should be greater than or equal to 1"),
        (["--workers", "65"], "workers: 65: input should be less than or equal to 64"),
        (["--workers", "2", "--reload"], "--reload and --workers cannot be combined"),
        (["--workers", "2", "--bind", "memory://here"], "memory://here exists in one process only"),
        (["--workers", "2", "--bind", "quic://127.0.0.1"], "'quic://127.0.0.1' has no port"),
    ],
)
def test_what_workers_cannot_do_is_refused(arguments: list[str], said: str) -> None:
    done = echostream("serve", "tests.cli.app:server", *arguments)
    assert (done.code, done.out) == (2, "")
    assert said in done.err


def test_where_ports_cannot_be_shared_there_are_no_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "CAN_SHARE", False)
    done = echostream("serve", "tests.cli.app:server", "--workers", "2")
    assert done.code == 2
    assert "--workers needs Linux" in done.err


def test_an_address_that_is_taken_is_a_failure_before_a_worker_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyncio, "create_subprocess_exec", None)

    async def scenario() -> None:
        async with RpcServer("quic://127.0.0.1:0") as server:
            url = server.addresses[0]
            done = await asyncio.to_thread(echostream, "serve", "tests.cli.app:server", "--workers", "2", "-b", url)
            assert done.code == 1
            assert f"{url} is in use by another program" in done.err

    asyncio.run(scenario())


@pytest.mark.parametrize(("number", "announced"), [(0, True), (1, False)])
def test_only_the_first_worker_announces_the_server(
    monkeypatch: pytest.MonkeyPatch, number: int, announced: bool
) -> None:
    ran: list[RpcServer] = []
    monkeypatch.setattr(cli_serve, "run_server", lambda server, _: ran.append(server))
    monkeypatch.setattr(cli_serve, "set_up_logs", lambda _: None)
    told: Inheritance = {
        "number": number,
        "ports": {},
        "settings": {"app": "tests.cli.app:make", "factory": True, "name": "x"},
    }
    copy_context().run(worker._serve, told)
    assert (ran[0]._discovery is not None) is announced


# What becomes of those that end, with a shell in the place of each worker


class Shells:
    """Counts the processes, and says what each of them does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
        self.count = 0
        self.script = script
        self._start = asyncio.create_subprocess_exec
        monkeypatch.setattr(asyncio, "create_subprocess_exec", self._run)
        monkeypatch.setattr(workers, "_FIRST_PAUSE", 0.001)
        monkeypatch.setattr(workers, "_KILL_AFTER", 0.1)

    async def _run(self, *_command: str, **options: Any) -> asyncio.subprocess.Process:
        self.count += 1
        return await self._start("/bin/sh", "-c", self.script, **options)


def told_to(count: int) -> ServeSettings:
    return ServeSettings(app="tests.cli.app:server", workers=count, grace=0.0)


def test_workers_that_never_get_going_end_the_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shells = Shells(monkeypatch, "exit 3")
    with pytest.raises(typer.Exit) as ended:
        asyncio.run(workers.serve_with_workers(RpcServer("quic://127.0.0.1:0"), told_to(1)))
    assert ended.value.exit_code == 1
    assert shells.count == 5
    assert "worker 0 ended 5 times right after its start, the last time with exit code 3" in capsys.readouterr().err


def test_a_system_without_room_for_a_process_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def refuse(*_command: str, **_options: Any) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    Shells(monkeypatch, "")
    monkeypatch.setattr(asyncio, "create_subprocess_exec", refuse)
    with pytest.raises(typer.Exit):
        asyncio.run(workers.serve_with_workers(RpcServer("quic://127.0.0.1:0"), told_to(1)))
    assert "the last time before it began (resource temporarily unavailable)" in capsys.readouterr().err


def test_one_that_never_gets_going_ends_the_others_in_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    note = tmp_path / "note"
    script = f"""read told; case "$told" in *'"number": 1'*) exit 3;; esac; trap 'echo ended >> {note}; exit 0' TERM
        while :; do sleep 0.01; done"""
    shells = Shells(monkeypatch, script)
    with pytest.raises(typer.Exit):
        asyncio.run(workers.serve_with_workers(RpcServer("quic://127.0.0.1:0"), told_to(3)))
    assert shells.count == 7
    assert note.read_text("utf-8") == "ended\nended\n"


def test_one_that_was_steady_may_end_any_number_of_times(monkeypatch: pytest.MonkeyPatch) -> None:
    shells = Shells(monkeypatch, "exit 0")
    monkeypatch.setattr(workers, "_STEADY", 0.0)

    async def scenario() -> None:
        stop = asyncio.Event()
        keeping = asyncio.ensure_future(workers._Worker(0, {}, told_to(1), stop).keep())
        while shells.count < 12:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        stop.set()
        assert await keeping is None

    asyncio.run(scenario())


def test_one_that_does_not_stop_is_killed(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    Shells(monkeypatch, "trap '' TERM; echo $$; while :; do sleep 0.01; done")

    async def scenario() -> None:
        stop = asyncio.Event()
        keeper = workers._Worker(0, {}, told_to(1), stop)
        process = await keeper._start()
        await asyncio.sleep(0.05)  # until it is deaf
        stop.set()
        await keeper._watch(process)
        assert process.returncode == -signal.SIGKILL

    asyncio.run(scenario())
    assert "worker 0 did not stop within 0.1 s and is killed" in caplog.text
