"""The memory of known servers."""

from __future__ import annotations

import logging
import stat
from pathlib import Path

import pytest

from echostream.errors import CertificateError, ConfigurationError
from echostream.transport.trust import KnownServers

ONE, TWO = "1" * 64, "2" * 64


@pytest.fixture
def known(tmp_path: Path) -> KnownServers:
    return KnownServers(tmp_path / "known_servers.json")


def test_first_contact_is_new_and_logged_when_remembered(known: KnownServers, caplog: pytest.LogCaptureFixture) -> None:
    assert known.check("orders", ONE) == "new"
    assert known.check("orders", ONE) == "new"
    known.remember("orders", ONE)
    assert known.check("orders", ONE) == "known"
    known.remember("orders", ONE)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"= first contact with service 'orders': its certificate {ONE} is trusted from now on" in record.getMessage()


def test_change_is_refused_with_both_fingerprints_and_the_way_out(known: KnownServers) -> None:
    known.remember("my orders", ONE)
    for attempt in (known.check, known.remember):
        with pytest.raises(CertificateError) as caught:
            attempt("my orders", TWO)
        assert f"of service 'my orders' has changed: it was {ONE}, it is {TWO};" in caught.value.message
        assert "echostream certs forget 'my orders'" in caught.value.message
    assert known.items() == [("my orders", ONE)]


def test_forgotten_service_is_new_again(known: KnownServers) -> None:
    known.remember("b", ONE)
    known.remember("a", TWO)
    assert known.items() == [("a", TWO), ("b", ONE)]
    assert known.forget("b") is True
    assert known.forget("b") is False
    assert known.check("b", TWO) == "new"


def test_memory_is_private_and_survives(known: KnownServers, tmp_path: Path) -> None:
    known.remember("orders", ONE)
    path = tmp_path / "known_servers.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert KnownServers(path).check("orders", ONE) == "known"
    assert repr(known) == f"<KnownServers {path}>"


def test_memory_lives_in_the_state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECHOSTREAM_STATE_DIR", str(tmp_path / "state"))
    KnownServers().remember("orders", ONE)
    assert (tmp_path / "state" / "known_servers.json").exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"a": 1}', b'{"a": "short"}', b"\xff", b"[" * 100_000])
def test_damaged_memory_is_never_taken_for_an_empty_one(known: KnownServers, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "known_servers.json"
    path.write_bytes(content)
    for attempt in (
        lambda: known.check("a", ONE),
        lambda: known.remember("a", ONE),
        lambda: known.forget("a"),
        known.items,
    ):
        with pytest.raises(ConfigurationError, match=f"known servers: {path} is damaged .*, repair or delete it"):
            attempt()
    assert path.read_bytes() == content


def test_memory_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    known = KnownServers(tmp_path / "none" / "known.json")
    with pytest.raises(ConfigurationError, match=r"state folder: cannot write .* \(No such file or directory\)"):
        known.remember("a", ONE)


def test_what_is_no_fingerprint_is_not_remembered(known: KnownServers) -> None:
    with pytest.raises(ConfigurationError, match="fingerprint: 'AB' is not a SHA-256 in lower-case hexadecimal"):
        known.remember("a", "AB")
