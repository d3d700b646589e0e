"""ServerTls and ClientTls: ways to trust, and options that cannot be combined."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

import pytest

from echostream.errors import CertificateError, ConfigurationError, Status
from echostream.transport import tls
from echostream.transport.tls import ClientTls, ServerTls
from tests.transport.authority import DAY, NOW, issue

ROOT = issue("root", ca=True)
SERVER = issue("server", "localhost", "127.0.0.1", by=ROOT)


@pytest.fixture(autouse=True)
def _own_state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECHOSTREAM_STATE_DIR", str(tmp_path / "state"))


def load(certificate: bytes, key: bytes | None = None) -> ServerTls:
    return ServerTls.load(certificate, key, now=NOW)


def test_server_reads_chain_and_key_from_files(tmp_path: Path) -> None:
    (tmp_path / "chain.pem").write_bytes(SERVER.pem + ROOT.pem)
    (tmp_path / "key.pem").write_bytes(SERVER.key_pem)
    loaded = ServerTls.load(tmp_path / "chain.pem", str(tmp_path / "key.pem"), now=NOW)
    assert loaded.chain == (SERVER.certificate, ROOT.certificate)
    assert loaded.fingerprint == SERVER.fingerprint
    assert "PRIVATE" not in repr(loaded)
    assert "private_key" not in repr(loaded)


def test_server_finds_the_key_in_the_same_pem() -> None:
    assert load(SERVER.key_pem + SERVER.pem).private_key.private_numbers() == SERVER.key.private_numbers()  # type: ignore[union-attr]


def test_server_without_files_uses_the_development_certificate() -> None:
    first, second = ServerTls.load(), ServerTls.load()
    assert first.fingerprint == second.fingerprint
    assert len(first.chain) == 1


def test_server_refuses_a_key_without_a_certificate() -> None:
    with pytest.raises(ConfigurationError, match="certificate: is missing: private_key was given without it"):
        ServerTls.load(None, SERVER.key_pem)


def test_server_refuses_an_expired_certificate() -> None:
    with pytest.raises(
        ConfigurationError, match=r"certificate: expired on 2027-\d\d-\d\d .* UTC, clients would refuse it"
    ):
        ServerTls.load(SERVER.pem, SERVER.key_pem, now=NOW + 31 * DAY)


def test_client_trusts_a_given_authority() -> None:
    client = ClientTls.load(ca=ROOT.pem, now=NOW)
    client.verify([SERVER.der], "localhost", now=NOW)
    client.verify([SERVER.der, ROOT.der], "127.0.0.1", now=NOW)


def test_client_trusts_a_self_signed_server_given_as_ca(tmp_path: Path) -> None:
    alone = issue("alone", "localhost", ca=True)
    (tmp_path / "alone.pem").write_bytes(alone.pem)
    ClientTls.load(ca=tmp_path / "alone.pem", now=NOW).verify([alone.der], "localhost", now=NOW)


def test_client_checks_the_name_of_a_self_signed_server_given_as_ca() -> None:
    alone = issue("alone", "localhost")
    with pytest.raises(CertificateError, match="certificate is not for 'other' but for 'localhost'"):
        ClientTls.load(ca=alone.pem, now=NOW).verify([alone.der], "other", now=NOW)


def test_client_error_for_an_unknown_authority_names_issuer_and_ways_out() -> None:
    client = ClientTls.load(ca=issue("another", ca=True).pem, now=NOW)
    with pytest.raises(CertificateError) as caught:
        client.verify([SERVER.der], "localhost", now=NOW)
    assert caught.value.code is Status.UNAUTHENTICATED
    assert caught.value.message == (
        "certificate of 'localhost' is signed by 'CN=root', which is not in ca='the given PEM': use another ca=, "
        f'or fingerprint="{SERVER.fingerprint}"'
    )


def test_client_uses_the_system_store_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "_system_anchors", lambda: (ROOT.certificate,))
    ClientTls.load(now=NOW).verify([SERVER.der], "localhost", now=NOW)


def test_client_error_without_ca_offers_the_development_authority() -> None:
    with pytest.raises(CertificateError, match=r'which the system does not know: use ca="dev" for your own dev'):
        ClientTls.load(now=NOW).verify([SERVER.der], "localhost", now=NOW)


def test_system_store_is_read_from_a_file_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bundle.pem").write_bytes(ROOT.pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "bundle.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    tls._system_anchors.cache_clear()
    try:
        assert ROOT.certificate in tls._system_anchors()
        monkeypatch.delattr(ssl, "create_default_context")
        assert ROOT.certificate in tls._system_anchors()
    finally:
        tls._system_anchors.cache_clear()


def test_system_store_is_read_from_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "0a1b2c3d.0").write_bytes(ROOT.pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    tls._system_anchors.cache_clear()
    try:
        assert tls._system_anchors() == (ROOT.certificate,)
    finally:
        tls._system_anchors.cache_clear()


def test_dev_client_trusts_a_server_of_the_same_user_that_starts_later() -> None:
    client = ClientTls.load(ca="dev")
    server = ServerTls.load()
    client.verify([_der(server)], "localhost")
    client.verify([_der(server)], "127.0.0.1")
    client.verify([_der(server)], "::1")


def test_dev_client_refuses_the_development_server_of_another_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = ClientTls.load(ca="dev")
    monkeypatch.setenv("ECHOSTREAM_STATE_DIR", str(tmp_path / "another"))
    server = ServerTls.load()
    with pytest.raises(CertificateError) as caught:
        client.verify([_der(server)], "localhost")
    assert "is signed by 'CN=EchoStream development authority" in caught.value.message
    assert "which is not this user's development authority: for servers of other users and machines use ca=" in (
        caught.value.message
    )


@pytest.mark.parametrize("change", [str, str.upper, lambda text: ":".join(text[i : i + 2] for i in range(0, 64, 2))])
def test_client_accepts_a_pinned_leaf_without_looking_at_anything_else(change: object) -> None:
    expired = issue("old", end=NOW - 1)
    client = ClientTls.load(fingerprint=["0" * 64, change(expired.fingerprint)])  # type: ignore[operator]
    client.verify([expired.der], "anything", now=NOW)


def test_client_refuses_another_leaf_and_shows_both_fingerprints() -> None:
    client = ClientTls.load(fingerprint="a" * 64)
    with pytest.raises(CertificateError) as caught:
        client.verify([SERVER.der], "localhost", now=NOW)
    assert f"is {SERVER.fingerprint}, expected {'a' * 64}: it is another server" in caught.value.message


@pytest.mark.parametrize("wrong", ["", "abc", "g" * 64, "a" * 63, "a" * 65])
def test_client_refuses_what_is_no_fingerprint(wrong: str) -> None:
    with pytest.raises(ConfigurationError, match=r"fingerprint: .* is not a SHA-256, expected 64 hexadecimal digits"):
        ClientTls.load(fingerprint=wrong)


def test_client_refuses_an_empty_list_of_fingerprints() -> None:
    with pytest.raises(ConfigurationError, match="fingerprint: is an empty list, expected at least one SHA-256"):
        ClientTls.load(fingerprint=[])


def test_insecure_client_accepts_anything_and_says_so_each_time(caplog: pytest.LogCaptureFixture) -> None:
    client = ClientTls.load(insecure=True)
    with caplog.at_level(logging.WARNING, "echostream.transport"):
        client.verify([b"rubbish"], "one")
        client.verify([], "two")
    assert [record.getMessage() for record in caplog.records] == [
        "! INSECURE: one is not verified, anybody may read and change what is said",
        "! INSECURE: two is not verified, anybody may read and change what is said",
    ]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"ca": "dev", "fingerprint": "a" * 64}, "fingerprint: cannot be combined with ca, choose one way"),
        ({"ca": "dev", "insecure": True}, "insecure: cannot be combined with ca, choose one way"),
        ({"fingerprint": "a" * 64, "insecure": True}, "insecure: cannot be combined with fingerprint, choose one"),
    ],
)
def test_client_refuses_two_ways_to_trust(options: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        ClientTls.load(**options)  # type: ignore[arg-type]


def test_client_checks_the_name_that_it_was_told() -> None:
    client = ClientTls.load(ca=ROOT.pem, server_name="localhost", now=NOW)
    client.verify([SERVER.der], "192.0.2.7", now=NOW)


@pytest.mark.parametrize("options", [{"ca": ROOT.pem}, {"fingerprint": "a" * 64}])
def test_client_refuses_a_server_without_certificate(options: dict[str, object]) -> None:
    with pytest.raises(CertificateError, match="the server at 'localhost' sent no certificate"):
        ClientTls.load(**options, now=NOW).verify([], "localhost", now=NOW)  # type: ignore[arg-type]


def test_client_may_show_a_certificate_of_its_own() -> None:
    client = ClientTls.load(insecure=True, certificate=SERVER.pem, private_key=SERVER.key_pem, now=NOW)
    assert client.identity is not None
    assert client.identity.fingerprint == SERVER.fingerprint
    with pytest.raises(ConfigurationError, match="certificate: is missing"):
        ClientTls.load(insecure=True, private_key=SERVER.key_pem, now=NOW)


def test_client_refuses_a_missing_authority_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"ca: cannot read '.*none.pem' \(No such file or directory\)"):
        ClientTls.load(ca=tmp_path / "none.pem")


def _der(server: ServerTls) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return server.chain[0].public_bytes(Encoding.DER)
