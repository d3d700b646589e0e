"""Reading certificates and keys, and checking chains: each fault has its own text."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID

from echostream.errors import CertificateError, ConfigurationError
from echostream.transport.certificates import (
    check_key,
    fingerprint_of,
    load_certificates,
    load_private_key,
    parse_chain,
    parse_der,
    verify_chain,
)
from tests.transport.authority import DAY, NOW, Issued, issue, key_pem

ROOT = issue("root", ca=True)
MIDDLE = issue("middle", by=ROOT, ca=True)
LEAF = issue("leaf", "localhost", "*.lan.example", "127.0.0.1", "fe80::1", by=MIDDLE)


def verify(*chain: Issued, name: str = "localhost", ca: Issued = ROOT, at: float = NOW) -> None:
    parsed = parse_chain([item.der for item in chain])
    verify_chain(parsed, name, [ca.certificate], at, unknown="which is unknown: use ca=")


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST", "localhost.", "a.lan.example", "127.0.0.1", "fe80::1%eth0"])
def test_chain_and_name_pass(name: str) -> None:
    verify(LEAF, MIDDLE, name=name)
    verify(LEAF, MIDDLE, ROOT, name=name)
    verify(LEAF, name=name, ca=MIDDLE)


@pytest.mark.parametrize("name", ["other", "lan.example", "a.b.lan.example", ".lan.example.x", "127.0.0.2", "::1"])
def test_wrong_name_lists_the_names_of_the_certificate(name: str) -> None:
    with pytest.raises(CertificateError) as caught:
        verify(LEAF, MIDDLE, name=name)
    assert (
        f"is not for {name!r} but for 'localhost', '*.lan.example', 127.0.0.1, fe80::1: dial one of its names, "
        f'have one made that lists {name!r}, or use fingerprint="{LEAF.fingerprint}"'
    ) in caught.value.message or "is not a DNS name" in caught.value.message


def test_names_are_capped_and_escaped() -> None:
    leaf = issue("leaf", "bad\x1b[2Jname", *(f"n{index}.example" for index in range(20)), by=ROOT)
    with pytest.raises(CertificateError) as caught:
        verify(leaf)
    assert r"for 'bad\x1b[2Jname', 'n0.example'" in caught.value.message
    assert "'n8.example' and 11 more: dial" in caught.value.message


def test_certificate_without_names_is_for_nobody() -> None:
    with pytest.raises(CertificateError, match="is not for 'localhost' but for no name at all"):
        verify(issue("localhost", by=ROOT))


@pytest.mark.parametrize("name", ["a..b", "x" * 64])
def test_what_is_no_dns_name_is_said_to_be_none(name: str) -> None:
    with pytest.raises(CertificateError, match="is not a DNS name, so no certificate can be for it"):
        verify(LEAF, MIDDLE, name=name)


def test_a_name_that_the_verifier_does_not_take_is_refused_in_its_words() -> None:
    with pytest.raises(CertificateError, match="certificate of 'my_host' is refused: invalid domain name"):
        verify(issue("leaf", "my_host", by=ROOT), name="my_host")


def test_expired_leaf_names_the_date() -> None:
    with pytest.raises(
        CertificateError, match=r"of 'localhost' expired on 2027-02-14 08:00 UTC: renew it on the server"
    ):
        verify(LEAF, MIDDLE, at=NOW + 31 * DAY)


def test_leaf_of_the_future_names_the_date() -> None:
    with pytest.raises(CertificateError, match=r"of 'localhost' is not valid before 2027-01-14 08:00 UTC: renew"):
        verify(LEAF, MIDDLE, at=NOW - 2 * DAY)


def test_missing_intermediate_names_the_issuer() -> None:
    with pytest.raises(CertificateError) as caught:
        verify(LEAF)
    assert caught.value.message == (
        "certificate of 'localhost' is signed by 'CN=middle', which is unknown: use ca=, "
        f'or fingerprint="{LEAF.fingerprint}"'
    )


def test_self_signed_certificate_of_a_stranger_is_an_unknown_authority() -> None:
    with pytest.raises(CertificateError, match="is signed by 'CN=alone', which is unknown"):
        verify(issue("alone", "localhost"))


def test_same_name_with_another_key_is_an_unknown_authority() -> None:
    with pytest.raises(CertificateError, match="is signed by 'CN=root', which is unknown"):
        verify(issue("leaf", "localhost", by=issue("root", ca=True)))


def test_expired_intermediate_is_named() -> None:
    old = issue("old", by=ROOT, ca=True, end=NOW - 1)
    with pytest.raises(
        CertificateError, match="is signed by 'CN=old', which expired on 2027-01-15 07:59 UTC: renew it"
    ):
        verify(issue("leaf", "localhost", by=old), old)


def test_issuer_that_may_not_issue_is_refused() -> None:
    with pytest.raises(CertificateError, match=r"certificate of 'localhost' .*basicConstraints"):
        verify(issue("evil", "localhost", by=LEAF), LEAF, MIDDLE)


def test_authority_that_may_not_sign_is_refused() -> None:
    usage = x509.KeyUsage(True, False, False, False, False, False, True, False, False)
    root = issue("root", ca=True, extensions=((usage, True),))
    with pytest.raises(CertificateError, match="'CN=root' may not sign certificates"):
        verify(issue("leaf", "localhost", by=root), ca=root)


def test_authority_with_key_usage_for_signing_passes() -> None:
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    root = issue("root", ca=True, extensions=((usage, True),))
    verify(issue("leaf", "localhost", by=root), ca=root)


def test_certificate_for_clients_only_is_refused() -> None:
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    with pytest.raises(CertificateError, match=r"certificate of 'localhost' .*EKU"):
        verify(issue("leaf", "localhost", by=ROOT, extensions=((usage, False),)))


def test_loop_of_issuers_ends() -> None:
    start = issue("first", ca=True)
    second = issue("second", by=start, ca=True)
    first = issue("first", by=second, ca=True, key=start.key)
    with pytest.raises(CertificateError, match=r"certificate of 'localhost' is refused: .*candidates exhausted"):
        verify(issue("leaf", "localhost", by=first), first, second)


def test_too_long_chain_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(CertificateError, match="the server sent 11 certificates, the limit is 10"):
        parse_chain([b""] * 11)


@pytest.mark.parametrize("garbage", [b"", b"\x30\x03\x02\x01\x01", LEAF.der[:-1], LEAF.der + b"\x00"])
def test_unparsable_certificate_is_refused(garbage: bytes) -> None:
    with pytest.raises(CertificateError, match="the server sent a certificate that cannot be parsed"):
        parse_chain([garbage])


def test_store_skips_what_cannot_be_parsed() -> None:
    assert parse_der([b"old", ROOT.der]) == (ROOT.certificate,)


def test_fingerprint_is_the_sha256_of_the_der() -> None:
    assert fingerprint_of(LEAF.der) == LEAF.fingerprint


def test_file_without_certificate_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.pem"
    path.write_bytes(LEAF.key_pem)
    with pytest.raises(ConfigurationError, match=r"ca: .*empty.pem holds no PEM certificate, expected -----BEGIN CERT"):
        load_certificates("ca", path)


def test_pem_text_given_as_a_path_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_private_key("private_key", LEAF.key_pem.decode())
    assert caught.value.message == "private_key: is PEM text where a path was expected, pass the text as bytes"


def test_what_is_neither_path_nor_pem_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="ca: is bool where a path, or PEM as bytes, was expected"):
        load_certificates("ca", True)  # type: ignore[arg-type]


@pytest.mark.parametrize("path", ["/nowhere/at/all.pem", "nul\0byte", "~nobody-of-this-name/x.pem"])
def test_unreadable_file_is_refused(path: str) -> None:
    with pytest.raises(ConfigurationError, match="certificate: cannot read '"):
        load_certificates("certificate", path)


def test_file_without_key_is_refused() -> None:
    with pytest.raises(
        ConfigurationError, match="key: the given PEM holds no PEM private key, expected -----BEGIN PRIV"
    ):
        load_private_key("key", LEAF.pem)


def test_encrypted_key_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="key: the given PEM is an encrypted key, decrypt it first: openssl"):
        load_private_key("key", key_pem(LEAF.key, b"secret"))


def test_key_that_tls_cannot_use_is_refused() -> None:
    key = dsa.generate_private_key(1024).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with pytest.raises(ConfigurationError, match="key: the given PEM is a DSAPrivateKey, expected an EC, Ed25519"):
        load_private_key("key", key)


def test_key_of_another_certificate_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="private_key: does not match the certificate of 'CN=leaf'"):
        check_key("private_key", [LEAF.certificate], ed25519.Ed25519PrivateKey.generate())


def test_chain_in_the_wrong_order_is_refused() -> None:
    with pytest.raises(
        ConfigurationError, match="belongs to certificate 2 of the chain, put the server's own certific"
    ):
        check_key("private_key", [ROOT.certificate, LEAF.certificate], LEAF.key)
