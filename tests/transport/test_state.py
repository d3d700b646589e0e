"""The state folder: where it is, who may write to it, and files that are never half written."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest

from echostream.errors import ConfigurationError
from echostream.transport.state import state_folder, write_private


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("ECHOSTREAM_STATE_DIR", "XDG_STATE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("platform", "variable", "expected"),
    [
        ("linux", "", ".local/state/echostream"),
        ("linux", "XDG_STATE_HOME", "x/echostream"),
        ("linux", "ECHOSTREAM_STATE_DIR", "x"),
        ("darwin", "", "Library/Application Support/echostream"),
        ("win32", "", "AppData/Local/echostream"),
        ("win32", "LOCALAPPDATA", "x/echostream"),
    ],
)
def test_folder_is_the_usual_place_of_the_platform(
    home: Path, monkeypatch: pytest.MonkeyPatch, platform: str, variable: str, expected: str
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    if variable:
        monkeypatch.setenv(variable, str(home / "x"))
    assert state_folder() == home / expected
    assert stat.S_IMODE((home / expected).stat().st_mode) == 0o700


def test_folder_that_cannot_be_made_is_refused_with_the_way_out(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "file").touch()
    monkeypatch.setenv("ECHOSTREAM_STATE_DIR", str(home / "file"))
    with pytest.raises(ConfigurationError, match=r"state folder: cannot be made \(.*\), set ECHOSTREAM_STATE_DIR to a"):
        state_folder()


def test_folder_without_a_home_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("could not determine home directory")

    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(ConfigurationError, match=r"cannot be made \(could not determine home directory\)"):
        state_folder()


def test_folder_that_others_may_write_into_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECHOSTREAM_STATE_DIR", str(home / "open"))
    (home / "open").mkdir()
    (home / "open").chmod(0o777)
    with pytest.raises(ConfigurationError, match=f"others may write into {home}/open, run: chmod 700 {home}/open"):
        state_folder()


def test_folder_of_another_user_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: home.stat().st_uid + 1)
    with pytest.raises(
        ConfigurationError, match="belongs to another user, set ECHOSTREAM_STATE_DIR to a folder of your"
    ):
        state_folder()


def test_folder_is_not_checked_where_there_are_no_owners(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "geteuid")
    assert state_folder().is_dir()


def test_file_is_replaced_in_one_step_and_private(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_private(path, b"one")
    with path.open("rb") as reader:
        write_private(path, b"two")
        assert reader.read() == b"one"
    assert path.read_bytes() == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigurationError, match=r"state folder: cannot write .*/folder \(Is a directory\)"):
        write_private(tmp_path / "folder", b"data")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
