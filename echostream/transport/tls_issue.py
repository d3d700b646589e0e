"""Certificates that the development authority signs for other machines and for clients, as files to carry there."""

from __future__ import annotations

import datetime
import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from echostream.errors import ConfigurationError
from echostream.transport.certificates import check_key, der_of, fingerprint_of, load_private_key
from echostream.transport.state import write_private
from echostream.transport.tls_development import (
    development_authority,
    development_folder,
    remove_development,
    sign_leaf,
)

__all__ = ("Authority", "Issued", "authority", "issue", "rotate")

_FILE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


@dataclass(frozen=True, slots=True)
class Authority:
    """This user's development authority."""

    certificate: Path
    name: str
    fingerprint: str
    expires: datetime.datetime


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate that was made, and its key."""

    certificate: Path
    private_key: Path
    fingerprint: str


def authority(now: float) -> Authority:
    """Return the development authority, made if there is none; `now` is in Unix seconds."""
    found = development_authority(now)
    path = development_folder(now) / "ca.pem"
    return Authority(path, found.subject.rfc4514_string(), fingerprint_of(der_of(found)), found.not_valid_after_utc)


def rotate(now: float) -> Authority:
    """Replace the development authority by a new one; what the old one signed is trusted no more."""
    remove_development()
    return authority(now)


def issue(name: str, hosts: Sequence[str], folder: Path, *, now: float, days: int) -> Issued:
    """Make a key and a certificate for it.

    Args:
        name: the certificate's owner, and what the files are called.
        hosts: names and addresses that a server is dialled as; none for a client.
        folder: where the files go; made if need be.
        now: Unix seconds.
        days: how long it is valid.

    Raises:
        ConfigurationError: a host or name is none, a file is there already, or the folder cannot be written.
    """
    if not _FILE_NAME.fullmatch(name):
        raise ConfigurationError("name", f"{name[:80]!r} is no name for a file, expected letters, digits and . _ @ -")
    certificate, private_key = folder / f"{name}.pem", folder / f"{name}.key"
    for path in (certificate, private_key):
        if path.exists():
            raise ConfigurationError("certificate", f"{path} is there already: move it away, or choose another folder")
    names = [_alternative(host) for host in hosts]
    signer = development_authority(now)
    signer_key = load_private_key("ca", development_folder(now) / "ca.key")
    check_key("ca", [signer], signer_key)
    purpose = ExtendedKeyUsageOID.SERVER_AUTH if names else ExtendedKeyUsageOID.CLIENT_AUTH
    lifetime = datetime.timedelta(days=days)
    key, leaf = sign_leaf(signer, signer_key, name, names, now=now, lifetime=lifetime, purposes=[purpose])
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError("certificate", f"cannot make the folder {folder} ({error.strerror})") from None
    write_private(private_key, key)
    write_private(certificate, leaf.public_bytes(serialization.Encoding.PEM))
    return Issued(certificate, private_key, fingerprint_of(der_of(leaf)))


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    if re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*", host.lower()):
        return x509.DNSName(host.lower())
    raise ConfigurationError("host", f"{host[:80]!r} is neither a DNS name nor an IP address")
