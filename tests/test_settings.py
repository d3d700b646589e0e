"""Tests for echostream.settings: who wins, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from echostream import ConfigurationError
from echostream.settings import load_settings


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("LOG_LEVEL", "ECHOSTREAM_LOG_LEVEL", "ECHOSTREAM_BIND", "ECHOSTREAM_APP"):
        monkeypatch.delenv(name, raising=False)


def write(text: str) -> None:
    Path("echostream.toml").write_text(text, "utf-8")


def test_without_anything_the_defaults_hold() -> None:
    settings = load_settings()
    assert (settings.app, settings.bind, settings.grace, settings.log_level) == (None, [], 15.0, "info")


def test_options_win_over_the_environment_and_that_over_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    write('[serve]\napp = "file"\nbind = ["quic://127.0.0.1:1"]\nlog_level = "error"\ngrace = 3\n')
    assert load_settings().app == "file"
    monkeypatch.setenv("ECHOSTREAM_APP", "environment")
    monkeypatch.setenv("ECHOSTREAM_BIND", "quic://127.0.0.1:2, quic://127.0.0.1:3")
    monkeypatch.setenv("LOG_LEVEL", "DEBUG")
    settings = load_settings(app=None)
    assert (settings.app, settings.grace, settings.log_level) == ("environment", 3.0, "debug")
    assert settings.bind == ["quic://127.0.0.1:2", "quic://127.0.0.1:3"]
    monkeypatch.setenv("ECHOSTREAM_LOG_LEVEL", "warning")
    assert load_settings().log_level == "warning"
    settings = load_settings(app="option", bind=["quic://127.0.0.1:4"], log_level="Critical")
    assert (settings.app, settings.bind, settings.log_level) == ("option", ["quic://127.0.0.1:4"], "critical")


def test_another_file_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text('[serve]\napp = "other"\n', "utf-8")
    assert load_settings(tmp_path / "other.toml").app == "other"


@pytest.mark.parametrize(
    ("text", "given", "message"),
    [
        ("[serve]\nap = 1\n", {}, "ap: is no setting, expected one of app, bind, name, factory"),
        ("[serve]\ngrace = -1\n", {}, "grace: -1: input should be greater than or equal to 0"),
        ("[server]\n", {}, "config: echostream.toml has 'server' beside [serve], which nothing reads"),
        ('app = "mine"\n', {}, "has 'app' beside [serve], which nothing reads: write it below [serve]"),
        ("serve = 5\n", {}, "config: echostream.toml: write [serve] as a table"),
        ("[serve\n", {}, "config: echostream.toml cannot be read: "),
        (
            "",
            {"log_level": "loud"},
            "log_level: 'loud': input should be 'debug', 'info', 'warning', 'error' or 'critical'",
        ),
        ("", {"log_format": "xml"}, "log_format: 'xml': input should be 'console' or 'json'"),
        ("", {"file": Path("nowhere.toml")}, "config: there is no file nowhere.toml"),
    ],
)
def test_what_is_wrong_is_named_with_what_would_be_right(text: str, given: dict[str, Any], message: str) -> None:
    if text:
        write(text)
    with pytest.raises(ConfigurationError) as caught:
        load_settings(**given)
    assert message in caught.value.message
