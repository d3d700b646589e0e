"""What a server shows and what a client trusts: `ServerTls` and `ClientTls`, checked when they are loaded.

Owns the ways to trust (system store, own authority, development authority, fingerprint, nothing). The engines only
do the handshake; whether the peer is the right one is decided here, the same for every transport.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import logging
import re
import ssl
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from echostream.errors import CertificateError, ConfigurationError
from echostream.transport.certificates import (
    Certificate,
    PrivateKey,
    Source,
    check_dates,
    check_key,
    der_of,
    fingerprint_of,
    load_certificates,
    load_private_key,
    parse_chain,
    parse_der,
    to_pem,
    verify_chain,
)
from echostream.transport.tls_development import development_authority, development_certificate
from echostream.types import clock

__all__ = ("ClientTls", "ServerTls")

log = logging.getLogger("echostream.transport")


@dataclass(frozen=True, slots=True)
class ServerTls:
    """A certificate chain with its key: what this side shows to the other."""

    chain: tuple[Certificate, ...]
    """Leaf first."""
    private_key: PrivateKey = field(repr=False)
    fingerprint: str
    """Lower-case hexadecimal SHA-256 of the leaf's DER."""

    @classmethod
    def load(
        cls, certificate: Source | None = None, private_key: Source | None = None, *, now: float | None = None
    ) -> ServerTls:
        """Read a certificate and its key, or take this user's development certificate.

        Args:
            certificate: PEM file (path) or PEM content (bytes), leaf first; None for the development certificate.
            private_key: PEM file or content; None when it stands in `certificate`.
            now: the moment in Unix seconds; None for the system's clock.

        Raises:
            ConfigurationError: missing file, no PEM, key that does not match or is encrypted, expired certificate.
        """
        at = clock.wall() if now is None else now
        if certificate is None:
            if private_key is not None:
                raise ConfigurationError("certificate", "is missing: private_key was given without it")
            leaf, key = development_certificate(at)
            return cls((leaf,), key, fingerprint_of(der_of(leaf)))
        chain = load_certificates("certificate", certificate)
        key = load_private_key("private_key", certificate if private_key is None else private_key)
        check_key("private_key", chain, key)
        if wrong := check_dates(chain[0], at):
            raise ConfigurationError("certificate", f"{wrong}, clients would refuse it: have a new one made")
        return cls(chain, key, fingerprint_of(der_of(chain[0])))

    def to_pem(self) -> tuple[bytes, bytes]:
        """Return chain and key as PEM, for an engine that does not take the objects."""
        return to_pem(self.chain, self.private_key)

    def derive_key(self, purpose: str) -> bytes:
        """Return 32 secret bytes that are the same as long as the private key is: for what must survive a restart.

        Args:
            purpose: what they are for; different purposes get keys that tell nothing of each other.
        """
        return hmac.digest(self.to_pem()[1], f"echostream/1 {purpose}".encode(), hashlib.sha256)


@dataclass(frozen=True, slots=True)
class ClientTls:
    """How a client decides whether a server is the right one."""

    anchors: tuple[Certificate, ...] = field(default=(), repr=False)
    """Trusted authorities, or the trusted server certificates themselves."""
    fingerprints: frozenset[str] = frozenset()
    """Accepted leaves (lower-case hexadecimal SHA-256 of the DER); when given, nothing else is looked at."""
    insecure: bool = False
    """Accept anybody."""
    server_name: str | None = None
    """Name to ask for (SNI) and to check, instead of the one that is dialled."""
    identity: ServerTls | None = None
    """Certificate to show to a server that asks for one."""
    hint: str = ""
    """End of the error about an unknown authority: who was trusted, and the way out."""
    shows_again: bool = False
    """Whether the server has to show its certificate, whatever was resumed before."""

    @property
    def decision(self) -> Hashable:
        """What tells this way to trust from any other: a session is resumed under the same one only."""
        identity = None if self.identity is None else self.identity.fingerprint
        return self._anchors_mark, self.fingerprints, self.insecure, self.server_name, identity

    @property
    def _anchors_mark(self) -> Hashable:
        # To hash a system's store takes 1 ms, and it is one object. Of others the hash is enough: nothing is taken for
        # trusted by it, because the server's certificates are checked again.
        is_system = _system_anchors.cache_info().currsize and self.anchors is _system_anchors()
        return "system" if is_system else hash(self.anchors)

    @classmethod
    def load(
        cls,
        *,
        ca: Source | None = None,
        fingerprint: str | Iterable[str] | None = None,
        insecure: bool = False,
        server_name: str | None = None,
        certificate: Source | None = None,
        private_key: Source | None = None,
        now: float | None = None,
    ) -> ClientTls:
        """Choose one way to trust; without any, the system's store.

        Args:
            ca: ``"dev"`` for this user's development authority (made if there is none yet, so that a server that
                starts later is trusted), or the PEM of an authority or of the server's own certificate: a path
                (``"./dev"`` for a file of that name) or bytes.
            fingerprint: one or several SHA-256 of the leaf, hexadecimal; colons and upper case are fine.
            insecure: trust anybody; says so at every connection.
            server_name: name to check instead of the one that is dialled.
            certificate: certificate to show to the server, as in `ServerTls.load`.
            private_key: its key.
            now: the moment in Unix seconds; None for the system's clock.

        Raises:
            ConfigurationError: more than one way, an unusable file, or a fingerprint that is none.
        """
        given = [name for name, value in (("ca", ca), ("fingerprint", fingerprint)) if value is not None]
        given += ["insecure"] if insecure else []
        if len(given) > 1:
            raise ConfigurationError(given[1], f"cannot be combined with {given[0]}, choose one way to trust a server")
        at = clock.wall() if now is None else now
        identity = None
        if certificate is not None or private_key is not None:
            identity = ServerTls.load(certificate, private_key, now=at)
        fingerprints = frozenset[str]() if fingerprint is None else _parse_fingerprints(fingerprint)
        anchors, hint = ((), "") if fingerprints or insecure else _anchors(ca, at)
        return cls(anchors, fingerprints, insecure, server_name, identity, hint)

    def verify(self, chain_der: Sequence[bytes], server_name: str, *, now: float | None = None) -> None:
        """Decide whether a server may be trusted.

        Args:
            chain_der: the certificates that it sent, leaf first.
            server_name: the DNS name or IP address that was dialled.
            now: the moment in Unix seconds; None for the system's clock.

        Raises:
            CertificateError: it may not; says which check failed and the way out.
        """
        if self.insecure:
            log.warning("! INSECURE: %s is not verified, anybody may read and change what is said", server_name)
            return
        if not chain_der:
            raise CertificateError(f"the server at {server_name!r} sent no certificate")
        if self.fingerprints:
            self._verify_fingerprint(fingerprint_of(chain_der[0]))
            return
        at = clock.wall() if now is None else now
        verify_chain(parse_chain(chain_der), self.server_name or server_name, self.anchors, at, unknown=self.hint)

    def _verify_fingerprint(self, actual: str) -> None:
        if not any(hmac.compare_digest(actual, expected) for expected in self.fingerprints):
            expected = " or ".join(sorted(self.fingerprints))
            raise CertificateError(
                f"fingerprint of the server's certificate is {actual}, expected {expected}: it is another "
                "server, or its certificate was renewed; ask its owner before you change fingerprint="
            )


def _anchors(ca: Source | None, at: float) -> tuple[tuple[Certificate, ...], str]:
    """Return the trusted certificates, and the hint for an error."""
    if ca is None:
        return _system_anchors(), 'which the system does not know: use ca="dev" for your own development servers, ca='
    if ca == "dev":
        return (development_authority(at),), (
            "which is not this user's development authority: for servers of other users and machines use ca="
        )
    shown = "the given PEM" if isinstance(ca, bytes) else f"{ca}"
    return load_certificates("ca", ca), f"which is not in ca={shown!r}: use another ca="


@functools.cache
def _system_anchors() -> tuple[Certificate, ...]:
    """The system's trusted authorities; reading them takes tens of milliseconds, so once per process."""
    context = ssl.create_default_context()
    found = context.get_ca_certs(binary_form=True)
    if not found and (folder := ssl.get_default_verify_paths().capath):
        # OpenSSL looks into the folder form of the store only when it needs a certificate.
        for path in sorted(Path(folder).glob("*.[0-9]")):
            context.load_verify_locations(path)
        found = context.get_ca_certs(binary_form=True)
    return parse_der(found)


def _parse_fingerprints(given: str | Iterable[str]) -> frozenset[str]:
    parsed = frozenset(item.replace(":", "").strip().lower() for item in ([given] if isinstance(given, str) else given))
    for item in parsed:
        if not re.fullmatch("[0-9a-f]{64}", item):
            raise ConfigurationError("fingerprint", f"{item[:80]!r} is not a SHA-256, expected 64 hexadecimal digits")
    if not parsed:
        raise ConfigurationError("fingerprint", "is an empty list, expected at least one SHA-256")
    return parsed
