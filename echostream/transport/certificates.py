"""Certificates: read them, take their fingerprint, and check a chain with an error that shows the way out.

With tls_development.py the only module that imports cryptography.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import ipaddress
import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.x509 import verification

from echostream.config import MAX_CERTIFICATE_CHAIN
from echostream.errors import CertificateError, ConfigurationError

__all__ = (
    "Certificate",
    "PrivateKey",
    "Source",
    "check_dates",
    "check_key",
    "der_of",
    "fingerprint_of",
    "is_issued",
    "load_certificates",
    "load_private_key",
    "parse_chain",
    "parse_der",
    "verify_chain",
)

Certificate = x509.Certificate
PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey | rsa.RSAPrivateKey
"""The kinds of key that a TLS 1.3 handshake can sign with."""

Source = str | os.PathLike[str] | bytes
"""A path to a PEM file, or its content as bytes."""

MAX_SHOWN = 10
"""Names of a certificate that an error lists."""


def load_certificates(field: str, source: Source) -> tuple[Certificate, ...]:
    """Read one or more PEM certificates.

    Raises:
        ConfigurationError: no such file, or no certificate in it; names `field`.
    """
    data, where = _read(field, source)
    try:
        return tuple(x509.load_pem_x509_certificates(data))
    except ValueError:
        raise ConfigurationError(
            field, f"{where} holds no PEM certificate, expected -----BEGIN CERTIFICATE-----"
        ) from None


def load_private_key(field: str, source: Source) -> PrivateKey:
    """Read one PEM private key without a password.

    Raises:
        ConfigurationError: no such file, no key in it, an encrypted key, or a kind that TLS 1.3 does not use.
    """
    data, where = _read(field, source)
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except TypeError:
        hint = "decrypt it first: openssl pkey -in KEY -out PLAIN"
        raise ConfigurationError(field, f"{where} is an encrypted key, {hint}") from None
    except ValueError:
        hint = "expected -----BEGIN PRIVATE KEY-----"
        raise ConfigurationError(field, f"{where} holds no PEM private key, {hint}") from None
    if not isinstance(key, PrivateKey):
        raise ConfigurationError(field, f"{where} is a {type(key).__name__}, expected an EC, Ed25519, Ed448 or RSA key")
    return key


def check_key(field: str, chain: Sequence[Certificate], key: PrivateKey) -> None:
    """Check that `key` belongs to the first certificate of `chain`.

    Raises:
        ConfigurationError: it does not; says so when it belongs to a later one.
    """
    own = _public_bytes(key.public_key())
    matching = [index for index, certificate in enumerate(chain) if _public_bytes(certificate.public_key()) == own]
    if not matching:
        raise ConfigurationError(field, f"does not match the certificate of {_subject(chain[0])}")
    if matching[0] != 0:
        raise ConfigurationError(
            field, f"belongs to certificate {matching[0] + 1} of the chain, put the server's own certificate first"
        )


def check_dates(certificate: Certificate, at: float) -> str | None:
    """Return what is wrong with the validity of `certificate` at `at` (Unix seconds), or None."""
    moment = _moment(at)
    if moment > certificate.not_valid_after_utc:
        return f"expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
    if moment < certificate.not_valid_before_utc:
        return f"is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
    return None


def der_of(certificate: Certificate) -> bytes:
    """Return the DER form of a certificate."""
    return certificate.public_bytes(serialization.Encoding.DER)


def to_pem(chain: Sequence[Certificate], key: PrivateKey) -> tuple[bytes, bytes]:
    """Return a chain and its key (PKCS #8, not encrypted) as PEM."""
    pem = serialization.Encoding.PEM
    encoded = b"".join(certificate.public_bytes(pem) for certificate in chain)
    return encoded, key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def fingerprint_of(der: bytes) -> str:
    """Return the lower-case hexadecimal SHA-256 of a certificate's DER."""
    return hashlib.sha256(der).hexdigest()


def is_issued(certificate: Certificate, *, by: Certificate) -> bool:
    """Return whether `by` signed `certificate` (dates are not looked at)."""
    try:
        certificate.verify_directly_issued_by(by)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def parse_der(encoded: Iterable[bytes]) -> tuple[Certificate, ...]:
    """Parse what can be parsed; old stores hold certificates that no verifier takes any more."""
    found: list[Certificate] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about their serial numbers
        for der in encoded:
            with contextlib.suppress(ValueError):
                found.append(x509.load_der_x509_certificate(der))
    return tuple(found)


def parse_chain(chain_der: Sequence[bytes]) -> tuple[Certificate, ...]:
    """Parse what a peer sent, leaf first.

    Raises:
        CertificateError: too many, or not certificates.
    """
    if len(chain_der) > MAX_CERTIFICATE_CHAIN:
        raise CertificateError(f"the server sent {len(chain_der)} certificates, the limit is {MAX_CERTIFICATE_CHAIN}")
    try:
        chain = tuple(x509.load_der_x509_certificate(der) for der in chain_der)
        for certificate in chain:  # these parts are only parsed when they are read
            _ = certificate.extensions, certificate.subject, certificate.issuer
            _public_bytes(certificate.public_key())
    except Exception as error:  # noqa: BLE001 - the parser's errors have no common base, and the input is hostile
        raise CertificateError(f"the server sent a certificate that cannot be parsed ({error!s:.200})") from None
    return chain


def verify_chain(
    chain: Sequence[Certificate], server_name: str, anchors: Sequence[Certificate], at: float, *, unknown: str
) -> None:
    """Check dates, name and chain of a server's certificate.

    Args:
        chain: what the server sent, leaf first.
        server_name: DNS name or IP address that was dialled.
        anchors: the trusted certificates; the leaf may be one of them.
        at: the moment in Unix seconds.
        unknown: what to say, after the issuer's name, when no anchor signed the chain.

    Raises:
        CertificateError: says which check failed and what to do.
    """
    leaf, *intermediates = chain
    if wrong := check_dates(leaf, at):
        raise CertificateError(
            f"certificate of {server_name!r} {wrong}: renew it on the server, and check the clocks of both machines"
        )
    subject = _check_name(leaf, server_name)
    if leaf in anchors:  # a self-signed certificate, given as its own authority
        return
    policy = verification.PolicyBuilder().store(verification.Store(list(anchors))).time(_moment(at))
    policy = policy.extension_policies(ca_policy=_ca_policy(), ee_policy=_leaf_policy())
    try:
        policy.build_server_verifier(subject).verify(leaf, intermediates)
    except (verification.VerificationError, ValueError) as error:  # ValueError: a name like "my_host"
        raise CertificateError(
            f"certificate of {server_name!r} {_why(chain, anchors, at, unknown) or f'is refused: {error}'}"
        ) from None


def _check_name(leaf: Certificate, server_name: str) -> x509.DNSName | x509.IPAddress:
    """Return `server_name` as the verifier wants it, if the certificate is for it."""
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = x509.SubjectAlternativeName([])
    domains = names.get_values_for_type(x509.DNSName)
    addresses = names.get_values_for_type(x509.IPAddress)
    host = server_name.partition("%")[0].rstrip(".")  # a scope ("%eth0") is local to this machine
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        host = _to_ascii(server_name, host)
        if any(_matches(pattern.lower(), host) for pattern in domains):
            return x509.DNSName(host)
    else:
        if address in addresses:
            return x509.IPAddress(address)
    listed = [repr(name) for name in domains] + [str(item) for item in addresses]
    shown = ", ".join(listed[:MAX_SHOWN]) + (f" and {len(listed) - MAX_SHOWN} more" if len(listed) > MAX_SHOWN else "")
    raise CertificateError(
        f"certificate is not for {server_name!r} but for {shown or 'no name at all'}: dial one of its names, "
        f'have one made that lists {server_name!r}, or use fingerprint="{_fingerprint(leaf)}"'
    )


def _to_ascii(server_name: str, host: str) -> str:
    try:
        return host.encode("idna").decode().lower()
    except UnicodeError:
        raise CertificateError(f"{server_name!r} is not a DNS name, so no certificate can be for it") from None


def _matches(pattern: str, host: str) -> bool:
    """RFC 6125 section 6.4: a wildcard stands for exactly the leftmost label."""
    if pattern.startswith("*."):
        first, _, rest = host.partition(".")
        return bool(first) and rest == pattern[2:] and "." in rest
    return pattern == host


def _why(chain: Sequence[Certificate], anchors: Sequence[Certificate], at: float, unknown: str) -> str | None:
    """Follow the issuers from the leaf up, and say where trust ends; None when every signature holds."""
    current = chain[0]
    for _ in range(MAX_CERTIFICATE_CHAIN):
        issuer = next((item for item in (*anchors, *chain[1:]) if is_issued(current, by=item)), None)
        if issuer is None or issuer is current:
            name, fingerprint = _shown(current.issuer.rfc4514_string()), _fingerprint(chain[0])
            return f'is signed by {name}, {unknown}, or fingerprint="{fingerprint}"'
        if wrong := check_dates(issuer, at):
            return f"is signed by {_subject(issuer)}, which {wrong}: renew it, and check the clocks of both machines"
        if issuer in anchors:
            return None
        current = issuer
    return None


def _leaf_policy() -> verification.ExtensionPolicy:
    """Web PKI, but authorities made by hand often leave the key identifiers out."""
    return verification.ExtensionPolicy.webpki_defaults_ee().may_be_present(
        x509.AuthorityKeyIdentifier, verification.Criticality.AGNOSTIC, None
    )


def _ca_policy() -> verification.ExtensionPolicy:
    agnostic = verification.Criticality.AGNOSTIC
    return (
        verification.ExtensionPolicy.webpki_defaults_ca()
        .require_present(x509.BasicConstraints, agnostic, None)
        .may_be_present(x509.AuthorityKeyIdentifier, agnostic, None)
        .may_be_present(x509.SubjectKeyIdentifier, agnostic, None)
        .may_be_present(x509.KeyUsage, agnostic, _may_sign)
    )


def _may_sign(policy: verification.Policy, certificate: Certificate, usage: x509.KeyUsage | None) -> None:
    if usage is not None and not usage.key_cert_sign:
        raise ValueError(f"{_subject(certificate)} may not sign certificates")


def _read(field: str, source: Source) -> tuple[bytes, str]:
    """Return the content, and how to call it in an error."""
    if isinstance(source, bytes):
        return source, "the given PEM"
    try:
        path = os.fspath(source)
    except TypeError:
        raise ConfigurationError(
            field, f"is {type(source).__name__} where a path, or PEM as bytes, was expected"
        ) from None
    if "-----BEGIN" in path:  # never repeat it: it may be a private key
        raise ConfigurationError(field, "is PEM text where a path was expected, pass the text as bytes")
    try:
        return Path(path).expanduser().read_bytes(), path
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigurationError(field, f"cannot read {path!r} ({getattr(error, 'strerror', None) or error})") from None


def _public_bytes(key: object) -> bytes:
    encoding, layout = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_bytes(encoding, layout)  # type: ignore[attr-defined, no-any-return]


def _moment(at: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(at, datetime.UTC)


def _fingerprint(certificate: Certificate) -> str:
    return fingerprint_of(der_of(certificate))


def _subject(certificate: Certificate) -> str:
    return _shown(certificate.subject.rfc4514_string())


def _shown(name: str) -> str:
    """A name out of a certificate is the peer's text: escaped and cut."""
    return repr(name[:200])
