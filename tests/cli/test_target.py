"""Tests for echostream.cli.target: which server the options name, and how it is trusted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from echostream.cli.console import Misuse, failures
from echostream.cli.target import Target
from echostream.client import RpcClient
from echostream.errors import CertificateError, RpcError, Status
from echostream.transport.tls import ClientTls
from tests.transport.authority import NOW, issue

NOTHING: dict[str, Any] = {
    "url": None, "service": None, "ca": None, "fingerprint": [], "insecure": False, "first_use": False,
    "credentials": None, "token": None, "wait": 5.0,
}  # fmt: skip


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[Any, ...], dict[str, Any]]]:
    """What the client was asked for."""
    found: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
    for name in ("connect", "discover"):
        monkeypatch.setattr(RpcClient, name, lambda *args, _name=name, **kwargs: found.append((_name, args, kwargs)))
    return found


@pytest.mark.parametrize(
    ("url", "ca"),
    [
        ("quic://127.0.0.1:1", "dev"),
        ("quic://localhost:1", "dev"),
        ("quic://[::1]:1", "dev"),
        ("quic://orders:1", None),
    ],
)
def test_this_machines_authority_is_trusted_for_loopback(url: str, ca: str | None, asked: list[Any]) -> None:
    Target(**NOTHING | {"url": url}).connect("ignored")
    ((way, args, options),) = asked
    assert (way, args, options["ca"], options["fingerprint"]) == ("connect", (url,), ca, None)


@pytest.mark.parametrize("given", [{"fingerprint": ["ab"]}, {"insecure": True}, {"ca": "mine.pem"}])
def test_other_ways_to_trust_replace_it(given: dict[str, Any], asked: list[Any]) -> None:
    Target(**NOTHING | {"url": "quic://127.0.0.1:1"} | given).connect()
    assert asked[0][2]["ca"] == given.get("ca")


@pytest.mark.parametrize(("given", "name"), [({}, "orders"), ({"service": "mine"}, "mine")])
def test_without_an_address_a_server_is_looked_for(given: dict[str, Any], name: str, asked: list[Any]) -> None:
    Target(**NOTHING | given).connect("orders")
    Target(**NOTHING | given | {"first_use": True}).connect("orders")
    assert [(way, args) for way, args, _ in asked] == [("discover", (name,))] * 2
    assert [options["trust"] for _, _, options in asked] == ["known", "first-use"]


@pytest.mark.parametrize("given", [{"url": "quic://127.0.0.1:1", "service": "x"}, {"insecure": True}])
def test_what_makes_no_sense_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(Misuse):
        Target(**NOTHING | given).connect()


def test_the_way_out_of_an_error_is_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Exception, match="1"), failures():
        raise CertificateError('met for the first time: say trust="first-use", or name its ca or fingerprint')
    assert "say --first-use, or name its --ca or --fingerprint\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("trust", "told"),
    [
        ({"ca": "dev"}, "use --ca or --fingerprint "),
        ({"ca": None}, "use --ca or --fingerprint "),
        ({"ca": "FILE"}, "use another --ca, or --fingerprint "),
        ({"fingerprint": "00" * 32}, "before you change --fingerprint\n"),
    ],
)
def test_so_is_that_of_a_certificate_that_is_not_trusted(
    trust: dict[str, Any], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = issue("server", "localhost", by=issue("root", ca=True))
    (tmp_path / "other.pem").write_bytes(issue("other", ca=True).pem)
    if trust.get("ca") == "FILE":
        trust = {"ca": tmp_path / "other.pem"}
    with pytest.raises(Exception, match="1"), failures():
        ClientTls.load(**trust, now=NOW).verify([server.der], "localhost", now=NOW)
    assert told in capsys.readouterr().err


def test_where_a_token_is_needed_the_option_for_it_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Exception, match="1"), failures():
        raise RpcError(Status.UNAUTHENTICATED, "shop.say needs the metadata 'authorization': 'Bearer <token>'")
    assert capsys.readouterr().err.endswith("'Bearer <token>' (--token)\n")
