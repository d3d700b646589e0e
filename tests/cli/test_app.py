"""Tests for the command as a whole: starting lightly, help, versions, completion, and doing without its extra."""

from __future__ import annotations

import subprocess
import sys
from typing import get_type_hints

import pytest

from echostream.cli.app import app
from echostream.cli.certs import certs
from echostream.cli.docs import docs
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


def test_a_help_shows_all_of_its_text() -> None:
    """Help is markup, where [this] would be a style and so vanish."""
    helps = [
        text
        for group in (app, certs, docs)
        for command in group.registered_commands
        if command.callback is not None
        for hint in get_type_hints(command.callback, include_extras=True).values()
        for mark in getattr(hint, "__metadata__", ())
        if isinstance(text := getattr(mark, "help", None), str)
    ]
    assert len(helps) > 40
    assert [text for text in helps if "[" in text] == []


@pytest.mark.parametrize(("word", "here"), [("sub", "events"), ("pub", "emit"), ("request", "call"), ("run", "serve")])
def test_a_command_of_elsewhere_leads_to_the_one_of_here(word: str, here: str) -> None:
    done = echostream(word, "x")
    assert done.code == 2
    assert f"No such command '{word}'. Here it is '{here}'." in done.err


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
