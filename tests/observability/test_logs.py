"""Tests for echostream.observability.logs: lines for people, JSON for machines, bound to what they belong to."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from echostream import ConfigurationError, LoggingMiddleware, handler
from echostream.observability.logs import NOISY, configure_logging, configure_logging_from
from tests.serving import linked

log = logging.getLogger("application")


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers = []  # pytest's own stay out of it: the configuration closes what it replaces
    yield
    root.handlers, root.level = handlers, level
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.NOTSET)


def configured(level: str | None, form: str = "json") -> io.StringIO:
    stream = io.StringIO()
    configure_logging(level, form=form, stream=stream)  # type: ignore[arg-type]
    return stream


@handler("speak")
async def speak(text: str) -> str:
    log.info("asked", extra={"length": len(text)})
    return text


async def test_a_record_of_a_handler_says_what_it_belongs_to() -> None:
    stream = configured("info")
    async with linked(speak) as (_, client):
        await client.request("speak", "hello", metadata={"es-request-id": "r-7"})
        session = client.id
    (line,) = [json.loads(line) for line in stream.getvalue().splitlines() if '"application"' in line]
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "info",
        "logger": "application",
        "message": "asked",
        "session": session,
        "method": "speak",
        "request_id": "r-7",
        "length": 5,
    }


async def test_the_id_that_the_middleware_gave_is_bound() -> None:
    stream = configured("info")
    async with linked(speak, middleware=[LoggingMiddleware()]) as (_, client):
        await client.request("speak", "hello")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    ours, theirs = (
        next(line for line in lines if line["logger"] == name) for name in ("application", "echostream.calls")
    )
    assert ours["request_id"] == theirs["request_id"]
    assert (theirs["method"], theirs["status"]) == ("speak", "OK")


async def test_what_a_caller_made_up_breaks_no_line() -> None:
    stream = configured("info", "console")
    async with linked(speak) as (_, client):
        await client.request("speak", "hello", metadata={"es-request-id": "r\n7"})
    log.info("by hand", extra={"name_of": "a\x1b[31m\nb"})
    lines = [line for line in stream.getvalue().splitlines() if "application" in line]
    assert "request_id" not in lines[0]
    assert lines[1].endswith(r"by hand name_of='a\x1b[31m\nb'")


async def test_a_record_of_a_listener_says_it_too() -> None:
    stream = configured("info", "console")
    async with linked() as (server, client):
        server.on("said", lambda payload: log.info("heard"))
        await client.emit("said", 1, ack=True)
        session = client.id
    (line,) = [line for line in stream.getvalue().splitlines() if "application" in line]
    assert line.endswith(f" INFO     application: heard session={session} method=said")


@pytest.mark.parametrize("form", ["json", "console"])
async def test_no_payload_is_logged_at_info(form: str) -> None:
    stream = configured("info", form)
    async with linked(speak) as (server, client):
        server.on("said", lambda payload: None)
        await client.request("speak", "s3cret")
        await client.emit("said", "s3cret", ack=True)
        server.broadcast("said", "s3cret")
        with pytest.raises(Exception, match="speak"):
            await client.request("speak", {"s3cret": "s3cret"})
    assert "opened" in stream.getvalue()
    assert "s3cret" not in stream.getvalue()


def test_json_carries_the_traceback() -> None:
    stream = configured("error")
    try:
        raise ValueError("wrong")
    except ValueError:
        log.exception("! failed for %s", "ann")
    line = json.loads(stream.getvalue())
    assert (line["level"], line["message"]) == ("error", "! failed for ann")
    assert line["error"].endswith("ValueError: wrong")


def test_a_line_for_people_has_its_traceback_below() -> None:
    stream = configured("error", "console")
    try:
        raise ValueError("wrong")
    except ValueError:
        log.exception("! failed")
    first, *rest = stream.getvalue().splitlines()
    assert first.endswith(" ERROR    application: ! failed")
    assert rest[-1] == "ValueError: wrong"


def test_the_level_is_what_is_said_else_of_the_environment_else_info(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_LEVEL", "ERROR")
    configured("debug")
    assert logging.getLogger().level == logging.DEBUG
    configured(None)
    assert logging.getLogger().level == logging.ERROR
    monkeypatch.delenv("LOG_LEVEL")
    configured(None)
    assert logging.getLogger().level == logging.INFO
    assert logging.getLogger("quic").level == logging.WARNING


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ConfigurationError) as caught:
        configure_logging("loud")
    assert caught.value.message == "log level: 'loud' is none, expected debug, info, warning, error, critical"


@pytest.mark.parametrize(("no_colour", "coloured"), [(None, True), ("1", False)])
def test_colours_are_for_terminals_that_want_them(
    no_colour: str | None, coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_colour is not None:
        monkeypatch.setenv("NO_COLOR", no_colour)
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    configure_logging("info", stream=stream)
    log.info("hello")
    assert ("\x1b[32m" in stream.getvalue()) is coloured


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.toml", "[root", "a.toml cannot be used: "),
        ("a.json", "[]", "a.json cannot be used: "),
        ("a.json", '{"root": {"handlers": ["none"]}}', "a.json cannot be used: Unable to configure root logger: "),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text, "utf-8")
    with pytest.raises(ConfigurationError) as caught:
        configure_logging_from(tmp_path / name)
    assert said in caught.value.message


@pytest.mark.parametrize("disable", [None, True])
def test_loggers_that_exist_go_on_unless_a_configuration_says_otherwise(tmp_path: Path, disable: bool | None) -> None:
    existing = logging.getLogger("application.existing")
    file = tmp_path / "log.json"
    file.write_text(
        json.dumps({"incremental": False} | ({"disable_existing_loggers": True} if disable else {})), "utf-8"
    )
    others = [logger for logger in logging.Logger.manager.loggerDict.values() if isinstance(logger, logging.Logger)]
    try:
        configure_logging_from(file)
        assert existing.disabled is bool(disable)
    finally:
        for logger in others:
            logger.disabled = False
