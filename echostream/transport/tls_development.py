"""The development authority: certificates for this user's own servers, made on first use in the state folder.

Layout of ``<state folder>/development``: ``ca.pem`` and ``ca.key`` (10 years), ``server.pem`` (key and certificate of
this user's servers, 1 year). Trust comes from these files only, never from the network.
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import logging
import re
import shutil
import socket
import tempfile
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from echostream.errors import ConfigurationError
from echostream.transport.certificates import (
    Certificate,
    PrivateKey,
    check_dates,
    check_key,
    is_issued,
    load_certificates,
    load_private_key,
)
from echostream.transport.interfaces import local_addresses
from echostream.transport.state import state_folder, write_private
from echostream.types import random_bytes

__all__ = ("development_authority", "development_certificate", "development_folder", "remove_development", "sign_leaf")

log = logging.getLogger("echostream.transport")

CA_LIFETIME: Final = datetime.timedelta(days=3650)
LEAF_LIFETIME: Final = datetime.timedelta(days=365)
RENEW_BEFORE: Final = datetime.timedelta(days=7)
"""A server that starts runs on for days: its certificate is made anew when less than this is left."""

BACKDATED: Final = datetime.timedelta(hours=1)
"""Clocks of machines differ: a new certificate is valid from a little earlier."""


def development_authority(now: float) -> Certificate:
    """Return this user's development authority, made if there is none.

    Args:
        now: Unix seconds.

    Raises:
        ConfigurationError: its files are damaged or expired; says which folder to delete.
    """
    folder = development_folder(now)
    with _way_out(folder):
        authority = load_certificates("ca", folder / "ca.pem")[0]
        if wrong := check_dates(authority, now):
            raise ConfigurationError("ca", f"{folder / 'ca.pem'} {wrong}")
    return authority


def development_certificate(now: float) -> tuple[Certificate, PrivateKey]:
    """Return the certificate and key of this user's development servers, made or renewed if need be.

    Of two processes that renew at once each may use its own: the authority signed both.

    Raises:
        ConfigurationError: the authority's files are damaged or expired; says which folder to delete.
    """
    authority, folder = development_authority(now), development_folder(now)
    try:
        return _load_leaf(folder / "server.pem", authority, now)
    except ConfigurationError as error:
        log.info("= the development certificate is made anew: %s", error.reason)
    with _way_out(folder):
        key = load_private_key("ca", folder / "ca.key")
        check_key("ca", [authority], key)
    write_private(folder / "server.pem", _make_leaf(authority, key, now))
    return _load_leaf(folder / "server.pem", authority, now)


def remove_development() -> None:
    """Delete the development authority and its servers' certificate; programs that run go on with what they have.

    Raises:
        ConfigurationError: the folder cannot be removed.
    """
    folder = state_folder() / "development"
    try:
        old = Path(tempfile.mkdtemp(prefix=".development.", dir=folder.parent))
        if folder.exists():
            folder.rename(old / folder.name)  # in one step: nobody sees half of it
        shutil.rmtree(old)
    except OSError as error:
        raise ConfigurationError("state folder", f"cannot remove {folder} ({error.strerror})") from None


def development_folder(now: float) -> Path:
    """Return the folder of the development authority, made with all that is in it if need be."""
    folder = state_folder() / "development"
    if not folder.exists():
        _make_folder(folder, now)
    return folder


def _make_folder(folder: Path, now: float) -> None:
    """Write everything beside the final place, then rename: of two processes that do it at once, one wins."""
    try:
        draft = Path(tempfile.mkdtemp(prefix=".development.", dir=folder.parent))  # mode 0700
    except OSError as error:
        raise ConfigurationError("state folder", f"cannot write into {folder.parent} ({error.strerror})") from None
    try:
        key = ec.generate_private_key(ec.SECP256R1())
        authority = _make_authority(key, now)
        write_private(draft / "ca.key", _key_pem(key))
        write_private(draft / "ca.pem", authority.public_bytes(serialization.Encoding.PEM))
        write_private(draft / "server.pem", _make_leaf(authority, key, now))
        try:
            draft.rename(folder)
        except OSError as error:
            if folder.exists():  # the other process was first: its authority is the one
                return
            raise ConfigurationError("state folder", f"cannot make {folder} ({error.strerror})") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    log.info('= made a certificate authority and a certificate FOR DEVELOPMENT ONLY in %s (trust: ca="dev")', folder)


def _make_authority(key: ec.EllipticCurvePrivateKey, now: float) -> Certificate:
    # The serial part tells the authorities of several machines apart in an error.
    name = _name(f"EchoStream development authority {socket.gethostname()[:20]} {random_bytes(4).hex()}")
    builder = _builder(name, key, now, CA_LIFETIME, name, key)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    usage = x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    return builder.add_extension(usage, critical=True).sign(key, hashes.SHA256())


def sign_leaf(
    authority: Certificate,
    authority_key: PrivateKey,
    subject: str,
    names: Sequence[x509.GeneralName],
    *,
    now: float,
    lifetime: datetime.timedelta = LEAF_LIFETIME,
    purposes: Sequence[x509.ObjectIdentifier] = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH),
) -> tuple[bytes, Certificate]:
    """Return (PEM of a new key, a certificate for it); `names` are what its owner may be dialled as."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(_name(subject), key, now, lifetime, authority.subject, authority_key)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    return _key_pem(key), builder.sign(authority_key, hashes.SHA256())


def _make_leaf(authority: Certificate, authority_key: PrivateKey, now: float) -> bytes:
    """Return key and certificate as one PEM, so that they are replaced together."""
    names = _alternative_names()
    key, certificate = sign_leaf(authority, authority_key, "EchoStream development server", names, now=now)
    return key + certificate.public_bytes(serialization.Encoding.PEM)


def _load_leaf(path: Path, authority: Certificate, now: float) -> tuple[Certificate, PrivateKey]:
    leaf, key = load_certificates("certificate", path)[0], load_private_key("private_key", path)
    check_key("private_key", [leaf], key)
    if wrong := check_dates(leaf, now):
        raise ConfigurationError("certificate", f"{path} {wrong}")
    if check_dates(leaf, now + RENEW_BEFORE.total_seconds()):
        raise ConfigurationError("certificate", f"{path} expires within {RENEW_BEFORE.days} days")
    if not is_issued(leaf, by=authority):
        raise ConfigurationError("certificate", f"{path} is not of this development authority")
    return leaf, key


def _builder(
    subject: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    now: float,
    lifetime: datetime.timedelta,
    issuer: x509.Name,
    issuer_key: PrivateKey,
) -> x509.CertificateBuilder:
    moment = datetime.datetime.fromtimestamp(int(now), datetime.UTC)
    return x509.CertificateBuilder(
        issuer_name=issuer,
        subject_name=subject,
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=moment - BACKDATED,
        not_valid_after=moment + lifetime,
        extensions=[
            x509.Extension(kind.oid, False, kind)
            for kind in (
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()),
                x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            )
        ],
    )


def _alternative_names() -> list[x509.GeneralName]:
    """What this machine may be dialled as."""
    host = socket.gethostname().lower()
    domains = ["localhost"]
    # x509 takes only what DNS allows; other host names are dialled by address.
    if re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*", host):
        domains += [host] if host.endswith(".local") else [host, f"{host.partition('.')[0]}.local"]
    addresses = ["127.0.0.1", "::1", *local_addresses()]
    return [
        *(x509.DNSName(item) for item in dict.fromkeys(domains)),
        *(x509.IPAddress(ipaddress.ip_address(item)) for item in dict.fromkeys(addresses)),
    ]


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    encoding, layout = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(encoding, layout, serialization.NoEncryption())


@contextlib.contextmanager
def _way_out(folder: Path) -> Generator[None]:
    try:
        yield
    except ConfigurationError as error:
        raise ConfigurationError(
            "development authority", f"{error.reason}; delete {folder} to have a new one made"
        ) from None
