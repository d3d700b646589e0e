"""Tests for echostream.cli.serve and reload: starting, stopping, configuration, and sources that change."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.cli.running import TIMEOUT, echostream, process, read_until, serving, started
from tests.examples.programs import free_url

PROGRAM = """
from echostream import RpcServer, handler

@handler("version")
async def version() -> int:
    return {version}

server = RpcServer("quic://127.0.0.1:0")
server.register(version)
"""


@pytest.mark.slow
def test_several_addresses_are_served_and_ctrl_c_stops_in_order() -> None:
    first, second = free_url(), free_url()
    with serving("tests.cli.app:server", "--bind", first, "-b", second) as (running, _):
        for url in (first, second):
            assert echostream("call", "-u", url, "ping").out == '"pong"\n'
        running.send_signal(signal.SIGINT)
        _, log = running.communicate(timeout=TIMEOUT)
        assert running.returncode == 0
        assert log.endswith("echostream.server: = stopped\n")


@pytest.mark.slow
def test_a_second_ctrl_c_kills_at_once() -> None:
    with serving("tests.cli.app:server") as (running, url):
        with started("call", "-u", url, "shop.hang", "--timeout", "60") as calling:
            read_until(running, "hanging")
            running.send_signal(signal.SIGINT)
            assert running.poll() is None
            while running.poll() is None:
                running.send_signal(signal.SIGINT)
                try:
                    running.wait(0.2)
                except subprocess.TimeoutExpired:
                    continue
            calling.kill()  # in order it would wait for an answer to its goodbye
        assert running.returncode == -signal.SIGINT


@pytest.mark.slow
def test_logs_are_json_for_machines() -> None:
    with started("serve", "tests.cli.app:server", "--log-format", "json") as running:
        line = json.loads(read_until(running, "serving at"))
        running.send_signal(signal.SIGTERM)
        running.communicate(timeout=TIMEOUT)
    assert running.returncode == 0
    assert (line["level"], line["logger"]) == ("info", "echostream.server")


def test_settings_come_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "echostream.toml").write_text('[serve]\napp = "tests.cli.app:server"\nlog_format = "json"\n', "utf-8")
    assert echostream("serve", "--check") == (0, "", "")
    (tmp_path / "echostream.toml").write_text('[serve]\nap = "mine"\n', "utf-8")
    done = echostream("serve", "--check")
    assert done.code == 2
    assert "error: ap: is no setting, expected one of app, bind," in done.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "say what to serve: echostream serve MODULE:OBJECT"),
        (["tests.cli.app:servr"], "tests.cli.app has no 'servr'; did you mean server"),
        (["tests.cli.app:server", "--bind", "http://x"], "url: "),
        (["tests.cli.app:server", "--log-level", "loud"], "log_level: 'loud': input should be 'debug', 'info'"),
        (["tests.cli.app:server", "--config", "nowhere.toml"], "config: there is no file nowhere.toml"),
        (
            ["tests.cli.app:server", "-b", "quic://localhost:1", "-b", "quic://localhost:1"],
            "localhost:1 is given twice",
        ),
        (["tests.cli.app:server", "--loop", "trio"], "loop: 'trio': input should be 'asyncio' or 'uvloop'"),
        (["tests.cli.app:server", "--log-config", "nowhere.toml"], "log_config: cannot read nowhere.toml (No such"),
        (["tests.cli.app:make_for", "--factory"], "make_for is called without arguments as a factory: missing a requ"),
        (["tests.cli.app:server", "--grace", "-1"], "grace: -1.0: input should be greater than or equal to 0"),
    ],
)
def test_what_cannot_be_served_is_refused(arguments: list[str], said: str) -> None:
    done = echostream("serve", *arguments)
    assert (done.code, done.out) == (2, "")
    assert said in done.err


def test_an_error_of_the_module_is_shown_from_its_own_first_line_on(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import json\n\nvalue = 1 / 0\n", "utf-8")
    done = process("serve", "broken:server", folder=tmp_path)
    assert done.code == 1
    assert "line 3, in <module>\n    value = 1 / 0\n" in done.err
    assert done.err.endswith("ZeroDivisionError: division by zero\nerror: broken:server cannot be loaded\n")
    assert "echostream/cli" not in done.err


def test_an_error_of_an_async_factory_is_shown_without_the_frames_of_the_loop(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("async def make():\n    return 1 / 0\n", "utf-8")
    done = process("serve", "broken:make", "--factory", folder=tmp_path)
    assert done.code == 1
    assert "line 2, in make\n    return 1 / 0\n" in done.err
    assert "asyncio" not in done.err


def test_a_loop_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    done = echostream("serve", "tests.cli.app:server", "--check", "--loop", "uvloop")
    assert (done.code, done.out) == (2, "")
    assert "uvloop is not installed: pip install 'echostream[fast]', or leave out --loop" in done.err


LOGGING = """
[formatters.mine]
format = "MINE %(message)s"
[handlers.mine]
class = "logging.StreamHandler"
formatter = "mine"
[root]
level = "INFO"
handlers = ["mine"]
"""


@pytest.mark.slow
def test_the_log_and_the_loop_are_those_that_were_asked_for(tmp_path: Path) -> None:
    (tmp_path / "logging.toml").write_text(LOGGING, "utf-8")
    (tmp_path / "mine.py").write_text(
        "import asyncio\nfrom echostream import RpcServer, handler\n\n"
        "@handler('loop')\nasync def loop() -> str:\n    return type(asyncio.get_running_loop()).__module__\n\n"
        "server = RpcServer('quic://127.0.0.1:0')\nserver.register(loop)\n",
        "utf-8",
    )
    options = ("--log-config", "logging.toml", "--loop", "uvloop" if find_spec("uvloop") else "asyncio")
    with serving("mine:server", *options, folder=tmp_path) as (running, url):
        done = echostream("call", "-u", url, "loop")
        assert done.out.startswith('"uvloop' if find_spec("uvloop") else '"asyncio')
        running.send_signal(signal.SIGINT)
        _, log = running.communicate(timeout=TIMEOUT)
        assert log.endswith("\nMINE = stopped\n")
        assert running.returncode == 0


@pytest.mark.slow
def test_an_address_that_is_taken_is_a_failure(url: str) -> None:
    done = process("serve", "tests.cli.app:server", "--bind", url)
    assert done.code == 1
    assert f"{url} is in use by another program; stop it or --bind quic://127.0.0.1:0 for a free port\n" in done.err


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_changed_sources_are_served_and_broken_ones_are_not(tmp_path: Path) -> None:
    source = tmp_path / "mine.py"

    def write(text: str) -> None:
        draft = tmp_path / "draft.txt"
        draft.write_text(text, "utf-8")
        draft.replace(source)  # in one step: a half-written file is a broken one

    write(PROGRAM.format(version=1))
    url = free_url()

    def version() -> str:
        return echostream("call", "-u", url, "version").out.strip()

    with serving("mine:server", "--reload", "--bind", url, folder=tmp_path) as (running, _):
        assert version() == "1"
        write(PROGRAM.format(version=2))
        read_until(running, "= serving at ")
        assert version() == "2"
        write("this is no Python")
        log = read_until(running, "the old one goes on serving")
        assert "SyntaxError" in log
        assert version() == "2"
        write(PROGRAM.format(version=3))
        read_until(running, "= serving at ")
        assert version() == "3"
        write(PROGRAM.format(version=3) + "server.enable_discovery()\n")  # it loads, and cannot start: it has no name
        assert "exit code 2: nothing is served until a source changes" in read_until(running, "nothing is served")
        write(PROGRAM.format(version=4))
        read_until(running, "= serving at ")
        children = _children(running.pid)
        assert len(children) == 1
        running.send_signal(signal.SIGINT)
        running.communicate(timeout=TIMEOUT)
        assert running.returncode == 0
        assert not any(Path(f"/proc/{child}").exists() for child in children)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks at processes as Linux shows them")
def test_a_reloaded_server_ends_with_the_parent_that_was_killed(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PROGRAM.format(version=1), "utf-8")
    with serving("mine:server", "--reload", "--bind", free_url(), folder=tmp_path) as (running, _):
        (child,) = _children(running.pid)
        ended = os.pidfd_open(child)
        running.kill()
        assert select.select([ended], [], [], TIMEOUT)[0] == [ended]
        os.close(ended)
        running.communicate(timeout=TIMEOUT)


def _children(pid: int) -> list[int]:
    """The servers that a reloading parent runs."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = re.sub(r"\(.*\)", "x", path.read_text("utf-8")).split()
        except OSError:
            continue
        if int(fields[3]) == pid:
            found.append(int(path.parent.name))
    return [item for item in found if os.getpid() != item]
