"""Tests for echostream.cli.certs."""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path

import pytest

from echostream.transport.certificates import load_certificates, verify_chain
from echostream.transport.tls_development import development_authority
from echostream.transport.trust import KnownServers
from echostream.types import clock
from tests.cli.running import echostream


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ECHOSTREAM_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


def test_init_makes_the_authority_once(state: Path) -> None:
    first = echostream("certs", "init")
    assert first.code == 0
    assert str(state / "development" / "ca.pem") in first.out
    assert re.search(r"^fingerprint  [0-9a-f]{64}$", first.out, re.MULTILINE)
    assert echostream("certs", "init").out == first.out
    told = json.loads(echostream("certs", "init", "--json").out)
    assert told["certificate"] == str(state / "development" / "ca.pem")
    assert told["fingerprint"] in first.out


def test_rotate_makes_a_new_authority(state: Path) -> None:
    before = json.loads(echostream("certs", "init", "--json").out)
    done = echostream("certs", "rotate", "--json")
    assert (done.code, done.err) == (0, "")
    after = json.loads(done.out)
    assert after["fingerprint"] != before["fingerprint"]
    assert json.loads(echostream("certs", "init", "--json").out) == after
    assert [path.name for path in state.iterdir()] == ["development"]
    assert "start development servers anew" in echostream("certs", "rotate").out


def test_a_certificate_for_a_server_is_trusted_for_its_hosts(tmp_path: Path) -> None:
    done = echostream("certs", "server", "orders.example", "192.0.2.7", "--out", str(tmp_path / "out"))
    assert done.code == 0
    assert 'certificate="' in done.out
    chain = load_certificates("certificate", tmp_path / "out" / "server.pem")
    authority = development_authority(clock.wall())
    for host in ("orders.example", "192.0.2.7"):
        verify_chain(chain, host, [authority], clock.wall(), unknown="is unknown")
    assert stat.S_IMODE((tmp_path / "out" / "server.key").stat().st_mode) == 0o600


def test_a_certificate_for_a_client_has_its_name(tmp_path: Path) -> None:
    made = json.loads(echostream("certs", "client", "ann", "--out", str(tmp_path), "--json").out)
    assert made["private_key"] == str(tmp_path / "ann.key")
    (leaf,) = load_certificates("certificate", tmp_path / "ann.pem")
    assert leaf.subject.rfc4514_string() == "CN=ann"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["server", "not a host"], "error: host: 'not a host' is neither a DNS name nor an IP address\n"),
        (["client", "../ann"], "error: name: '../ann' is no name for a file, expected letters, digits and . _ @ -\n"),
    ],
)
def test_what_cannot_be_made_is_refused(arguments: list[str], said: str, tmp_path: Path) -> None:
    done = echostream("certs", *arguments, "--out", str(tmp_path / "out"))
    assert (done.code, done.err) == (2, said)
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    assert echostream("certs", "client", "ann", "--out", str(tmp_path)).code == 0
    done = echostream("certs", "client", "ann", "--out", str(tmp_path))
    assert done.code == 2
    assert "is there already" in done.err


def test_remembered_servers_are_listed_and_forgotten() -> None:
    assert echostream("certs", "list") == (0, "", "no server is remembered\n")
    KnownServers().remember("orders", "ab" * 32)
    assert echostream("certs", "list").out == f"{'ab' * 32}  orders\n"
    assert json.loads(echostream("certs", "list", "--json").out) == {"orders": "ab" * 32}
    done = echostream("certs", "forget", "order")
    assert (done.code, done.err) == (2, "error: no server 'order' is remembered; did you mean orders?\n")
    assert echostream("certs", "forget", "orders").out == (
        "forgot orders: its certificate is trusted anew at the next contact\n"
    )
    assert KnownServers().items() == []
