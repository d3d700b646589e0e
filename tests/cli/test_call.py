"""Tests for echostream.cli.call: JSON in, JSON out, and errors that teach."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys

import pytest

from tests.cli.running import ROOT, TIMEOUT, echostream, environment, serving, started


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (["ping"], "pong"),
        (["shop.say", "hello there"], "hello there"),
        (["shop.say", "5"], "5"),  # text where text is wanted
        (["shop.say", '"quoted"'], "quoted"),
        (["shop.say", "text=a=b"], "a=b"),
        (["shop.say", "a=b"], "a=b"),
        (["shop.add", "2", "3"], 5),
        (["shop.add", "2", "b=3"], 5),
        (["shop.add", "a=2"], 2),
        (["shop.place", '{"symbol": "ACME", "qty": 5}'], {"symbol": "ACME", "qty": 5, "due": None}),
        (
            ["shop.place", 'order={"symbol": "A", "due": "2026-01-02"}', "urgent=true"],
            {"symbol": "A", "qty": 1, "due": "2026-01-02"},
        ),
        (["shop.raw"], "AP8="),
        (["shop.size_of", "AP8="], 2),  # bytes go as they come
        (["shop.label", "ann"], "'ann' SMALL"),  # text may be left out of its quotes where it may be nothing, too
        (["shop.label", "5", "2"], "'5' LARGE"),
        (["shop.label", "null"], "None SMALL"),
        (["shop.told", "--meta", "tenant=a", "--meta", "x=y=z"], {"tenant": "a", "x": "y=z"}),
    ],
)
def test_a_call_prints_its_answer_as_json(url: str, arguments: list[str], answer: object) -> None:
    done = echostream("call", "-u", url, *arguments)
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out) == answer
    assert done.out.count("\n") == 1


@pytest.mark.parametrize(("stdin", "answer"), [('{"a": 1, "b": 2}', "3\n"), ("[4, 5]", "9\n"), ('{"a":\n 1}', "1\n")])
def test_arguments_come_from_standard_input(url: str, stdin: str, answer: str) -> None:
    assert echostream("call", "-u", url, "shop.add", "-", stdin=stdin) == (0, answer, "")


def test_a_stream_of_answers_is_lines(url: str) -> None:
    assert echostream("call", "-u", url, "shop.count", "3") == (0, "1\n2\n3\n", "")
    assert echostream("call", "-u", url, "shop.count", "0") == (0, "", "")


def test_items_are_lines_of_standard_input(url: str) -> None:
    assert echostream("call", "-u", url, "shop.total", stdin="1\n2\n\n3") == (0, "6\n", "")
    assert echostream("call", "-u", url, "shop.scale", "by=10", stdin="1\n2\n") == (0, "10\n20\n", "")
    assert echostream("call", "-u", url, "shop.total", stdin="") == (0, "0\n", "")
    assert echostream("call", "-u", url, "shop.upper", stdin='one\n"two"\n3\n') == (0, '"ONE"\n"TWO"\n"3"\n', "")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (
            ["shop.ad", "1"],
            1,
            "error: shop.ad: UNIMPLEMENTED: unknown method 'shop.ad'; did you mean shop.add?",
        ),
        (
            ["shop.add"],
            2,
            "error: shop.add() missing 1 required positional argument: 'a'\nexpected: add(a: int, b: int = 0)",
        ),
        (
            ["shop.add", "1", "2", "3"],
            2,
            "error: shop.add() takes 2 positional arguments but 3 were given\nexpected: add(",
        ),
        (["shop.add", "1", "a=2"], 2, "error: shop.add() got multiple values for argument 'a'"),
        (["shop.add", "bb=1"], 2, "error: shop.add has no argument 'bb'; did you mean b?\nexpected: add(a: int"),
        (["shop.add", "one"], 2, "error: a: expected int as JSON, got 'one'\nexpected: add(a: int, b: int = 0) -> int"),
        (
            ["shop.place", "{symbol: 1}"],
            2,
            "error: order: expected Order as JSON, got '{symbol: 1}' (Expecting property",
        ),
        (
            ["shop.place", '{"symbol": "A", "qty": "many"}'],
            1,
            "/order/qty: input should be a valid integer, unable to parse string as an integer\nexpected: place(order",
        ),
        (["shop.place", "{}"], 1, "/order/symbol: field required\nexpected: place(order: Order"),
        (["shop.refuse"], 1, "error: shop.refuse: NOT_FOUND: there is no such thing\n"),
        (["shop.hang", "--timeout", "0.05"], 1, "error: shop.hang: DEADLINE_EXCEEDED"),
        (["shop.hang", "--timeout", "0.05"], 1, "--timeout gives it more"),
        (["shop.add", "1", "--meta", "tenant"], 2, "error: --meta 'tenant': expected key=value\n"),
        (["shop.add", "1", "--meta", "Te=a"], 2, "error: --meta 'Te=a': keys are lower-case, write te=a\n"),
        (["shop.size_of", "h!"], 2, "error: data: expected bytes as base64, got 'h!'\nexpected: size_of(data: bytes"),
        (["shop.label", "a", "large"], 2, "error: size: expected Size as JSON, got 'large'\nexpected: label("),
        (
            ["shop.label", "a", "3"],
            1,
            "/size: input should be 1 or 2\nexpected: label(text: str | None, size: Size = 1)",
        ),
        (["shop.label", "a", "3"], 1, "\n  Size: 1 | 2\n"),
    ],
)
def test_what_does_not_fit_is_told_with_what_was_expected(url: str, arguments: list[str], code: int, said: str) -> None:
    done = echostream("call", "-u", url, *arguments)
    assert (done.code, done.out) == (code, "")
    assert said in done.err


def test_the_fields_of_a_model_are_listed(url: str) -> None:
    done = echostream("call", "-u", url, "shop.place", "{}")
    assert "  Order: symbol: str, qty: int, due: date | None\n" in done.err


@pytest.mark.parametrize(
    ("method", "stdin", "said"),
    [
        ("shop.add", "{", "standard input: '{' is not JSON: Expecting property name"),
        ("shop.add", "", "standard input: expected JSON, got nothing"),
        ("shop.add", "5", "standard input: expected an object of arguments by name, or an array of them, got int"),
    ],
)
def test_standard_input_that_is_no_json_is_refused(url: str, method: str, stdin: str, said: str) -> None:
    done = echostream("call", "-u", url, method, "-", stdin=stdin)
    assert done.code == 2
    assert said in done.err


def test_a_line_that_is_no_json_is_named(url: str) -> None:
    done = echostream("call", "-u", url, "shop.total", stdin="1\ntwo\n")
    assert done.code == 2
    assert done.err.splitlines() == [
        "error: standard input, line 2: expected int as JSON, got 'two'",
        "expected: total(items: stream of int) -> int",
    ]


def test_items_and_arguments_cannot_both_come_from_standard_input(url: str) -> None:
    done = echostream("call", "-u", url, "shop.scale", "-", stdin="{}")
    assert (done.code, done.err) == (
        2,
        "error: shop.scale takes its items from standard input: give the arguments as words\n",
    )


def test_a_terminal_never_obeys_what_a_server_says(url: str) -> None:
    assert echostream("call", "-u", url, "shop.shout").out == '"\\u009b31m\\u202ered"\n'
    done = echostream("call", "-u", url, "shop.shout_no")
    assert done.err == "error: shop.shout_no: NOT_FOUND: \\x1b[31mred\n"


def test_a_method_without_a_service_is_not_called_on_whoever_is_found_first() -> None:
    done = echostream("call", "ping")
    assert done.code == 2
    assert "error: say which server: --url quic://host:port, or --service NAME" in done.err


def test_what_was_asked_wrongly_is_json_for_machines_too(url: str) -> None:
    done = echostream("call", "-u", url, "shop.add", "one", "--json")
    assert done.code == 2
    said = json.loads(done.err)
    assert (said["code"], said["operation"], said["details"]) == ("INVALID_ARGUMENT", None, {})
    assert said["message"].startswith("a: expected int as JSON, got 'one'")


def test_errors_are_json_for_machines(url: str) -> None:
    done = echostream("call", "-u", url, "shop.refuse", "--json")
    assert done.code == 1
    assert json.loads(done.err) == {
        "code": "NOT_FOUND",
        "message": "there is no such thing",
        "operation": "shop.refuse",
        "details": {},
    }


def test_a_server_that_is_not_there_is_named() -> None:
    done = echostream("call", "-u", "quic://127.0.0.1:9", "--wait", "0.3", "ping")
    assert (done.code, done.out) == (1, "")
    assert "127.0.0.1:9" in done.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["-u", "quic://127.0.0.1:9", "-s", "shop"], "give --url or --service"),
        (["--insecure"], "--insecure goes with --url"),
        (["-u", "http://x"], "error: url: "),
        (["-u", "quic://127.0.0.1:9", "--ca", "nowhere.pem"], "nowhere.pem"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: list[str], said: str) -> None:
    done = echostream("call", *options, "shop.ping")
    assert done.code == 2
    assert said in done.err


@pytest.mark.slow
def test_credentials_come_from_an_option_or_the_environment() -> None:
    with serving("tests.cli.app:closed") as (_, url):
        assert echostream("call", "-u", url, "ping", "--credentials", "secret").out == '"pong"\n'
        assert echostream("call", "ping", ECHOSTREAM_CREDENTIALS="secret", ECHOSTREAM_URL=url).out == '"pong"\n'
        done = echostream("call", "-u", url, "ping")
        assert done.code == 1
        assert "UNAUTHENTICATED" in done.err


@pytest.mark.slow
def test_a_token_goes_along_with_the_call_and_with_the_question_what_it_takes() -> None:
    with serving("tests.cli.app:guarded") as (_, url):
        assert echostream("call", "-u", url, "shop.count", "2", "--token", "key").out == "1\n2\n"
        assert "count(upto: int)" in echostream("describe", ECHOSTREAM_TOKEN="key", ECHOSTREAM_URL=url).out
        done = echostream("describe", "-u", url)
        assert (done.code, done.out) == (1, "")
        assert "(--token)" in done.err


@pytest.mark.slow
def test_ctrl_c_cancels_the_call_and_exits_with_130(url: str) -> None:
    with started("call", "-u", url, "shop.count", "1000000000") as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "1\n"
        running.send_signal(signal.SIGINT)
        running.communicate(timeout=TIMEOUT)
    assert running.returncode == 130


@pytest.mark.slow
@pytest.mark.parametrize(("stdin", "total"), [("<&-", 0), ("", 33)], ids=["closed", "a pipe"])
def test_items_come_from_whatever_standard_input_is(url: str, stdin: str, total: int) -> None:
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" -m echostream call -u {url} shop.total {stdin}', sys.executable],
        cwd=ROOT,
        env=environment(),
        input="11\n\n22",
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{total}\n", "")


@pytest.mark.slow
def test_progress_is_shown_on_a_terminal_only(url: str) -> None:
    command = [sys.executable, "-m", "echostream", "call", "-u", url, "shop.work"]
    plain = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=TIMEOUT, check=True
    )
    assert (plain.stdout, plain.stderr) == ('"done"\n', "")
    terminal, ours = pty.openpty()
    with subprocess.Popen(
        command, cwd=ROOT, env=environment(TERM="xterm"), stdout=subprocess.PIPE, stderr=ours, text=True
    ) as run:
        os.close(ours)
        shown = b""
        try:
            while chunk := os.read(terminal, 4096):
                shown += chunk
        except OSError:  # Linux says so at the end of a terminal
            pass
        assert run.stdout is not None
        assert (run.stdout.read(), run.wait(TIMEOUT)) == ('"done"\n', 0)
    os.close(terminal)
    assert b"step 1" in shown
    assert re.search(rb"50%", shown)
