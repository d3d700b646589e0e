"""Tests for the command as a whole: starting lightly, help, versions, completion, and doing without its extra."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.cli.running import ROOT, echostream, process

HEAVY = (
    "aioquic",
    "cryptography",
    "echostream.client",
    "echostream.server",
    "pydantic",
    "rich",
    "watchfiles",
    "zeroconf",
)


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=15, check=False
    )


def test_starting_loads_nothing_heavy() -> None:
    done = run(f"import sys, echostream.cli.app; print(*sorted(set({HEAVY}) & set(sys.modules)))")
    assert (done.stdout.strip(), done.stderr) == ("", "")


@pytest.mark.parametrize("missing", ["typer", "rich", "watchfiles", "pydantic_settings"])
def test_without_its_extra_the_command_says_what_to_install(missing: str) -> None:
    code = (
        "import sys, importlib.util as u\n"
        "find = u.find_spec\n"
        f"u.find_spec = lambda name, *a: None if name == {missing!r} else find(name, *a)\n"
        "from echostream.cli import main\n"
        "main()\n"
    )
    done = run(code)
    assert (done.stdout, done.returncode) == ("", 2)
    assert done.stderr == (
        f"echostream: the command line needs {missing}, which comes with an extra. Install it:\n"
        "    pip install 'echostream[cli]'\n"
    )


def test_commands_have_a_help() -> None:
    for command in ("serve", "events", "certs"):
        done = echostream(command, "--help")
        assert (done.code, done.err) == (0, "")
        assert "Usage:" in done.out
        assert "Show this message and exit" in done.out


def test_the_module_is_the_command_and_has_no_colours_without_a_terminal() -> None:
    done = process("--help")
    assert (done.code, done.err) == (0, "")
    assert "Serve, find, call and describe EchoStream programs." in done.out
    assert "\x1b[" not in done.out


def test_the_version_is_printed() -> None:
    assert echostream("--version").out.startswith("echostream ")


def test_an_unknown_command_or_option_is_misuse() -> None:
    assert echostream("srve").code == 2
    assert echostream("serve", "--relaod").code == 2


def test_shells_complete_commands() -> None:
    done = process(_ECHOSTREAM_COMPLETE="complete_bash", COMP_WORDS="echostream de", COMP_CWORD="1")
    assert (done.out, done.err) == ("describe\n", "")
