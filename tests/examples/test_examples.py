"""Each example does what it says, in one program and as two processes."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import pty
import re
import signal
import subprocess
import termios
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.examples.programs import (
    EXAMPLES,
    TIMEOUT,
    command,
    environment,
    free_url,
    module,
    output,
    read_until,
    run,
    serving,
    slowly,
    started,
    until,
)

pytestmark = pytest.mark.xdist_group("examples")  # servers that are found by name would be found by each other's tests

LOOPBACK = "quic://127.0.0.1:0"

LENGTH = 90
"""Lines of an example, about: it must be read at one sitting."""

DEMO = {"demo.py", "demo_report.py"}  # shows everything at once

ECHO = """\
say:    hello
repeat: ['hello', 'hello']
join:   hello out there
talk:   ['HELLO', 'OUT', 'THERE']
"""

CALLBACK = """\
client: what goes with soup? ['salad', 'chips']
served: soup with salad
"""

CONTRACT = """\
Report(city='Oslo', celsius=4.0)
[22.5, 22.5]
weather.report: NOT_FOUND: no thermometer in Atlantis, only in Oslo, Rome
"""

MIDDLEWARE = """\
note 1 is written, dear ann, if you please
counted 7 times: 1
notes.write: PERMISSION_DENIED: notes.write requires 'notes:write', which bob lacks
notes.write: UNAUTHENTICATED: the token for notes.write is not accepted
"""

DEPENDENCIES = """\
ann paid 70 and has 30 left
money.pay: FAILED_PRECONDITION: ann has not got 70
bob paid 90 and has 0 left
money.pay: UNAUTHENTICATED: no account of 'eve'
"""

PRINTED = [
    pytest.param("echo.py", ECHO, id="echo"),
    pytest.param("callback.py", CALLBACK, id="callback"),
    pytest.param("contract.py", CONTRACT, id="contract"),
    pytest.param("dependencies.py", DEPENDENCIES, id="dependencies"),
    pytest.param("middleware.py", MIDDLEWARE, id="middleware"),
]


def test_examples_are_short() -> None:
    lines = {path.name: len(path.read_text("utf-8").splitlines()) for path in EXAMPLES.glob("*.py")}
    assert {"echo.py", "callback.py", "broadcast.py", "chat.py", "file_transfer.py"} <= set(lines)
    assert {"discovery.py", "contract.py"} <= set(lines)
    assert {name: count for name, count in lines.items() if count > LENGTH and name not in DEMO} == {}


def test_the_readme_lists_every_example() -> None:
    listed = set(re.findall(r"\]\(([\w./]+)\)", (EXAMPLES / "README.md").read_text("utf-8")))
    there = {path.name for path in EXAMPLES.glob("[a-z]*.py")}
    there |= {f"{path.parent.name}/" for path in EXAMPLES.glob("*/__init__.py")}
    assert there - listed == {"demo_report.py", "monitoring_table.py"}  # parts of programs that are listed
    assert [name for name in listed if not (EXAMPLES / name).exists()] == []


PROGRAMS = sorted(path for path in EXAMPLES.rglob("*.py") if "asyncio.run(" in path.read_text("utf-8"))


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: str(path.relative_to(EXAMPLES)))
def test_an_example_says_what_to_type_and_ends_at_ctrl_c(path: Path) -> None:
    text = path.read_text("utf-8")
    typed = f"examples/{path.name}" if path.name != "__main__.py" else f"python -m examples.{path.parent.name}"
    assert typed in (ast.get_docstring(ast.parse(text)) or "")
    assert "Ctrl-C" in text
    assert "suppress(KeyboardInterrupt)" in text or "except KeyboardInterrupt" in text


@pytest.mark.parametrize("program", ["chat.py", "broadcast.py"])
def test_ctrl_c_ends_a_program_in_its_midst(program: str, tmp_path: Path) -> None:
    with started(program, folder=tmp_path, url=free_url()) as process:
        read_until(process.stdout, "host meets  host" if program == "chat.py" else "heard by 1 listener")
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT) == 0  # the chat waits for its person at the keyboard
        assert process.stderr is not None
        assert process.stderr.read() == ""


@pytest.mark.parametrize(("program", "printed"), PRINTED)
def test_it_runs_as_one_program(program: str, printed: str, tmp_path: Path) -> None:
    assert output(program, folder=tmp_path, url=free_url()) == printed


@pytest.mark.parametrize(("program", "printed"), PRINTED)
def test_it_runs_as_two_processes(program: str, printed: str, tmp_path: Path) -> None:
    url = free_url()
    with serving(program, folder=tmp_path, url=url):
        assert output(program, "client", folder=tmp_path, url=url) == printed


@pytest.mark.slow
def test_all_readings_of_a_sensor_are_accounted_for(tmp_path: Path) -> None:
    lines = output("sensors.py", folder=tmp_path, url=free_url()).splitlines()
    assert sorted(lines) == [
        "client: 50 readings taken",
        "server: 50 readings accounted for, the highest was above 90 C",
    ]
    url = free_url()
    with serving("sensors.py", folder=tmp_path, url=url):
        assert output("sensors.py", "client", folder=tmp_path, url=url) == "client: 50 readings taken\n"


@pytest.mark.slow
def test_a_broadcast_reaches_all_clients(tmp_path: Path) -> None:
    lines = output("broadcast.py", folder=tmp_path, url=free_url()).splitlines()
    for name in ("anna", "ben", "carl"):
        assert lines.count(f"server: {name} is here") == 1
        assert lines.count(f"{name}: heard by 1 listener") == 1
        prices = [float(line.split()[-1]) for line in lines if line.startswith(f"{name}: ACME costs ")]
        assert prices == [prices[0], prices[0] + 0.25, prices[0] + 0.5]
    assert "server: price sent to 3" in lines


@pytest.mark.slow
def test_a_client_hears_broadcasts_of_another_process(tmp_path: Path) -> None:
    url = free_url()
    with serving("broadcast.py", folder=tmp_path, url=url):
        lines = output("broadcast.py", "client", folder=tmp_path, url=url).splitlines()
    shown = Counter(re.sub(r"^client \d+: |[\d.]+$", "", line) for line in lines)
    assert shown == {"heard by 1 listener": 1, "ACME costs ": 3}


def test_a_made_up_file_arrives_whole(tmp_path: Path) -> None:
    shown = output("file_transfer.py", folder=tmp_path, url=free_url())
    assert re.fullmatch(r"made_up\.bin: 10,000,000 bytes, SHA-256 [0-9a-f]{64} on both sides\n", shown)


@pytest.mark.parametrize("size", [0, 1_000_000])
def test_a_file_goes_to_another_process(size: int, tmp_path: Path) -> None:
    url = free_url()
    content = bytes(index * 7 % 251 for index in range(size))
    (tmp_path / "mine.bin").write_bytes(content)
    with serving("file_transfer.py", folder=tmp_path, url=url):
        shown = output("file_transfer.py", "client", "mine.bin", folder=tmp_path, url=url)
    digest = hashlib.sha256(content).hexdigest()
    assert shown == f"mine.bin: {size:,} bytes, SHA-256 {digest} on both sides\n"
    assert {path.name: path.read_bytes() for path in (tmp_path / "received").iterdir()} == {"mine.bin": content}


@pytest.mark.slow
@pytest.mark.parametrize("killed", ["client", "server"])
def test_a_transfer_goes_on_after_a_kill(killed: str, tmp_path: Path) -> None:
    url = free_url()
    content = os.urandom(1_000_000) * 60
    (tmp_path / "mine.bin").write_bytes(content)
    with ExitStack() as running:
        server = running.enter_context(started("file_transfer.py", "server", folder=tmp_path, url=url))
        client = running.enter_context(
            started("file_transfer.py", "client", "mine.bin", folder=tmp_path, url=url, line=slowly)
        )
        until(lambda: any(path.stat().st_size > 5_000_000 for path in (tmp_path / "received").glob("*.part")))
        (client if killed == "client" else server).kill()
    (partial,) = (tmp_path / "received").iterdir()
    begun = partial.stat().st_size
    assert 0 < begun < len(content)
    with serving("file_transfer.py", folder=tmp_path, url=url):
        shown = output("file_transfer.py", "client", "mine.bin", folder=tmp_path, url=url)
    digest = hashlib.sha256(content).hexdigest()
    goes_on, whole = shown.splitlines()
    assert re.fullmatch(r"mine\.bin: goes on at [\d,]+ bytes", goes_on)
    assert begun <= int(re.sub(r"\D", "", goes_on)) < len(content)
    assert whole == f"mine.bin: {len(content):,} bytes, SHA-256 {digest} on both sides"
    assert {path.name: path.read_bytes() for path in (tmp_path / "received").iterdir()} == {"mine.bin": content}


def test_a_partial_file_that_is_damaged_is_sent_anew(tmp_path: Path) -> None:
    url = free_url()
    content = bytes(300_000)
    digest = hashlib.sha256(content).hexdigest()
    (tmp_path / "mine.bin").write_bytes(content)
    partial = tmp_path / "received" / f"mine.bin.{digest[:16]}.part"
    partial.parent.mkdir()
    partial.write_bytes(b"?" * 1000)
    with serving("file_transfer.py", folder=tmp_path, url=url):
        failed = run("file_transfer.py", "client", "mine.bin", folder=tmp_path, URL=url)
        assert "mine.bin was damaged on its way: send it again" in failed.stderr
        assert not partial.exists()
        assert output("file_transfer.py", "client", "mine.bin", folder=tmp_path, url=url).endswith("on both sides\n")


@pytest.mark.slow
def test_people_in_a_room_read_each_other(tmp_path: Path) -> None:
    url = free_url()
    with serving("chat.py", folder=tmp_path, url=url), ExitStack() as running:
        people = {}
        for name in ("anna", "ben"):
            people[name] = running.enter_context(started("chat.py", "client", name, folder=tmp_path, url=url))
            assert people[name].stdout is not None
            read_until(people[name].stdout, f"{name} came in")
        _type(people["anna"], "hello")
        read_until(people["ben"].stdout, "ben reads  anna: hello")
        read_until(people["anna"].stdout, "anna reads  anna: hello")
        _type(people["ben"], "/quit")
        assert people["ben"].wait(TIMEOUT) == 0
        read_until(people["anna"].stdout, "anna reads  *: ben left")
        taken = run("chat.py", "client", "anna", folder=tmp_path, URL=url)
        assert "anna is here already: choose another name" in taken.stderr
        _type(people["anna"], "/quit")
        assert people["anna"].wait(TIMEOUT) == 0


def test_a_file_to_send_must_be_named(tmp_path: Path) -> None:
    done = run("file_transfer.py", "client", folder=tmp_path)
    assert (done.returncode, done.stderr) == (1, "which file? python examples/file_transfer.py client PATH\n")


@pytest.mark.slow
def test_music_is_played_in_step(tmp_path: Path) -> None:
    printed = output("audio.py", folder=tmp_path, url=free_url()).splitlines()
    found = [re.fullmatch(r"(kitchen|study): playing, [+-]\d+ us from where it should be", line) for line in printed]
    assert {match[1] for match in found if match} == {"kitchen", "study"}


def test_a_chat_begins_with_oneself(tmp_path: Path) -> None:
    done = subprocess.run(
        command("chat.py"), cwd=tmp_path, env=environment(URL=free_url()), input="hi\n", capture_output=True,
        text=True, timeout=TIMEOUT, check=True,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert {"host meets  host", "host reads  host: hi"} <= set(lines)


def _type(person: subprocess.Popen[str], line: str) -> None:
    assert person.stdin is not None
    person.stdin.write(line + "\n")
    person.stdin.flush()


def _check_discovery(shown: str) -> None:
    assert re.search(r"^   thermometer 1\.2\.0 quic://127\.0\.0\.1:\d+ room=kitchen$", shown, re.MULTILINE)
    assert re.search(r"^found at 127\.0\.0\.1:\d+\ntemperature: 21\.5\n\Z", shown, re.MULTILINE)


@pytest.mark.slow
def test_a_server_is_found_without_an_address(tmp_path: Path) -> None:
    _check_discovery(output("discovery.py", folder=tmp_path, url=LOOPBACK))


@pytest.mark.slow
def test_a_server_in_another_process_is_found_without_an_address(tmp_path: Path) -> None:
    with serving("discovery.py", folder=tmp_path, url=LOOPBACK):
        _check_discovery(output("discovery.py", "client", folder=tmp_path, url=LOOPBACK))


@pytest.mark.slow
def test_a_monitor_tells_how_a_server_is_as_lines_of_json(tmp_path: Path) -> None:
    reports = [json.loads(line) for line in output("monitoring.py", folder=tmp_path, url=LOOPBACK).splitlines()]
    ours = [report for report in reports if report["state"] == "up"]
    assert {report["sessions"] for report in ours} == {2}
    assert all(0 < report["round_trip"] < 1 for report in ours)
    calls = [report["methods"].get("tea.brew", {"calls": 0})["calls"] for report in ours]
    assert calls == sorted(set(calls))
    brew = ours[-1]["methods"]["tea.brew"]
    assert 0 < ours[-1]["bugs"] < brew["failed"] < brew["calls"]
    assert 0.03 <= brew["slowest"] < brew["seconds"]


@pytest.mark.slow
def test_a_monitor_draws_a_table_of_servers_that_come_and_go(tmp_path: Path) -> None:
    terminal, other_end = pty.openpty()
    termios.tcsetwinsize(other_end, (40, 140))
    line, env = command("monitoring.py", "watch"), environment(COLUMNS="140")  # a test runner may have set 80
    with subprocess.Popen(line, cwd=tmp_path, env=env, stdout=other_end, stderr=other_end) as watcher:
        os.close(other_end)
        try:
            with serving("monitoring.py", folder=tmp_path, url=LOOPBACK):
                row = r"tea house quic://127\.0\.0\.1:\d+ process=\d+ +up +2 +\d+ +\d+ +\d+ +\d+ +\d+\.\d ms"
                shown = _read_until(terminal, row + r"\s+tea\.brew +\d+ +\d+ +\d+\.\d ms")
            shown = _read_until(terminal, r"process=\d+ +departed")
            watcher.send_signal(signal.SIGINT)
            assert watcher.wait(TIMEOUT) == 0
            assert "Traceback" not in shown
        finally:
            watcher.kill()
            os.close(terminal)


def _read_until(terminal: int, pattern: str) -> str:
    """What a program shows on a terminal, colours and moves left out, up to what fits the pattern."""
    shown = plain = ""
    while not re.search(pattern, plain):
        shown += os.read(terminal, 4096).decode(errors="replace")
        plain = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", shown)
    return plain


SHOP = """\
12 x tea on the shelf
only 2 x cup left
order 1: 18.00
10 x tea on the shelf
5 x cup wanted, 2 left
"""


@pytest.mark.slow
def test_the_services_of_the_shop_find_each_other(tmp_path: Path) -> None:
    done = module("examples.shop", folder=tmp_path)
    assert (done.returncode, done.stdout) == (0, SHOP), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("example", "count"), [("bookings", 8), ("shop", 4)])
def test_an_example_passes_its_own_tests(example: str, count: int, tmp_path: Path) -> None:
    plugins = ("pytest_asyncio.plugin", "pytest_timeout", "echostream.testing.plugin")
    wanted = [part for plugin in plugins for part in ("-p", plugin)]
    folder = str(EXAMPLES / example)
    done = module("pytest", *wanted, folder, folder=tmp_path, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{count} passed" in done.stdout
