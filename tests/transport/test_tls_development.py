"""The development authority: made once, private, renewed in time, and never quietly replaced."""

from __future__ import annotations

import logging
import multiprocessing
import socket
import stat
import tempfile
import time
from pathlib import Path

import pytest
from cryptography import x509

from echostream.errors import ConfigurationError
from echostream.transport import tls_development as development
from echostream.transport.certificates import check_key, verify_chain
from echostream.transport.state import write_private
from echostream.transport.tls_development import development_authority, development_certificate
from tests.transport.authority import DAY, NOW, issue

YEAR = 365 * DAY


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ECHOSTREAM_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state" / "development"


def names_of(certificate: x509.Certificate) -> x509.SubjectAlternativeName:
    return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value


def test_first_use_makes_private_files_and_says_so_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "echostream.transport"):
        authority = development_authority(NOW)
        assert development_authority(NOW) == authority
    assert [record.getMessage() for record in caplog.records] == [
        f'= made a certificate authority and a certificate FOR DEVELOPMENT ONLY in {folder} (trust: ca="dev")'
    ]
    assert stat.S_IMODE(folder.parent.stat().st_mode) == stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {
        "ca.key": 0o600,
        "ca.pem": 0o600,
        "server.pem": 0o600,
    }
    assert [path.name for path in folder.parent.iterdir()] == ["development"]


def test_certificate_is_for_this_machine_and_lasts_a_year(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "Desk.office.example")
    monkeypatch.setattr(development, "local_addresses", lambda: ("192.0.2.5", "127.0.0.1"))
    leaf, key = development_certificate(NOW)
    check_key("key", [leaf], key)
    names = names_of(leaf)
    assert names.get_values_for_type(x509.DNSName) == ["localhost", "desk.office.example", "desk.local"]
    assert [str(item) for item in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1", "192.0.2.5"]
    assert leaf.not_valid_after_utc.timestamp() == NOW + YEAR
    assert development_authority(NOW).not_valid_after_utc.timestamp() == NOW + 10 * YEAR
    verify_chain([leaf], "desk.local", [development_authority(NOW)], NOW, unknown="")


@pytest.mark.parametrize(
    ("host", "expected"), [("mac.local", ["localhost", "mac.local"]), ("my_host", ["localhost"]), ("", ["localhost"])]
)
def test_odd_host_names_do_no_harm(
    folder: Path, monkeypatch: pytest.MonkeyPatch, host: str, expected: list[str]
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: host)
    leaf, _ = development_certificate(NOW)
    assert names_of(leaf).get_values_for_type(x509.DNSName) == expected


def test_certificate_is_kept_until_seven_days_before_its_end(folder: Path) -> None:
    first, _ = development_certificate(NOW)
    assert development_certificate(NOW + YEAR - 7 * DAY - 1)[0] == first
    renewed, _ = development_certificate(NOW + YEAR - 7 * DAY + 1)
    assert renewed != first
    assert development_certificate(NOW + YEAR)[0] == renewed
    assert development_certificate(NOW + 3 * YEAR)[0] != renewed  # expired long ago
    verify_chain([renewed], "localhost", [development_authority(NOW)], NOW + YEAR, unknown="")


@pytest.mark.parametrize("damage", ["rubbish", "foreign", "missing", "mismatch"])
def test_unusable_certificate_is_made_anew_by_the_same_authority(
    folder: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    before, authority = development_certificate(NOW)[0], development_authority(NOW)
    path, foreign = folder / "server.pem", issue("foreign", "localhost")
    if damage == "missing":
        path.unlink()
    else:
        content = {"rubbish": b"rubbish", "foreign": foreign.pem + foreign.key_pem, "mismatch": None}[damage]
        path.write_bytes(path.read_bytes() + b"" if content is None else content)
        if damage == "mismatch":
            path.write_bytes(foreign.key_pem + path.read_bytes())
    with caplog.at_level(logging.INFO, "echostream.transport"):
        after = development_certificate(NOW)[0]
    assert "= the development certificate is made anew: " in caplog.text
    assert after != before
    verify_chain([after], "localhost", [authority], NOW, unknown="")


@pytest.mark.parametrize("name", ["ca.pem", "ca.key"])
def test_damaged_authority_is_reported_and_not_replaced(folder: Path, name: str) -> None:
    development_authority(NOW)
    (folder / name).write_bytes(b"rubbish")
    (folder / "server.pem").unlink()
    with pytest.raises(ConfigurationError, match=f"development authority: .*; delete {folder} to have a new one made"):
        development_certificate(NOW)
    assert (folder / name).read_bytes() == b"rubbish"


def test_expired_authority_is_reported(folder: Path) -> None:
    development_authority(NOW)
    with pytest.raises(ConfigurationError, match=r"ca.pem expired on .* UTC; delete .* to have a new one made"):
        development_authority(NOW + 10 * YEAR + 1)


@pytest.mark.parametrize(("step", "text"), [("mkdtemp", "cannot write into"), ("rename", "cannot make")])
def test_folder_that_cannot_be_written_is_reported(
    folder: Path, monkeypatch: pytest.MonkeyPatch, step: str, text: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile if step == "mkdtemp" else Path, step, refuse)
    with pytest.raises(ConfigurationError, match=rf"state folder: {text} .* \(Permission denied\)"):
        development_certificate(NOW)
    assert list(folder.parent.iterdir()) == []


def test_of_two_that_start_at_once_one_wins(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second process finished its files while the first one was still writing."""
    original = write_private
    other: list[x509.Certificate] = []

    def interrupted(path: Path, data: bytes) -> None:
        if not other:
            monkeypatch.setattr(development, "write_private", original)
            other.append(development_authority(NOW))
        original(path, data)

    monkeypatch.setattr(development, "write_private", interrupted)
    assert [development_authority(NOW)] == other
    assert [path.name for path in folder.parent.iterdir()] == ["development"]


def _start(barrier: object, results: object) -> None:
    barrier.wait()  # type: ignore[attr-defined]
    leaf, _ = development_certificate(time.time())
    results.put(leaf.serial_number)  # type: ignore[attr-defined]


@pytest.mark.slow
def test_processes_that_start_at_once_share_one_certificate(folder: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(4), context.Queue()
    processes = [context.Process(target=_start, args=(barrier, results)) for _ in range(4)]
    for process in processes:
        process.start()
    serials = {results.get(timeout=15) for _ in processes}
    for process in processes:
        process.join(5)
    assert len(serials) == 1
