"""The memory of known servers: trust on first use, per service name, in the state folder.

Owns the file ``known_servers.json``. A fingerprint heard over mDNS proves nothing; that it is the same as last time
does. Files are read and written while the caller waits: from an event loop, use `asyncio.to_thread`.
"""

from __future__ import annotations

import hmac
import json
import logging
import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal, cast

from echostream.errors import CertificateError, ConfigurationError
from echostream.transport.state import state_folder, write_private

__all__ = ("KnownServers",)

log = logging.getLogger("echostream.transport")

_FINGERPRINT: Final = re.compile("[0-9a-f]{64}")


class KnownServers:
    """Which certificate each service name had when it was first met.

    Of two processes that remember at the same moment the later one wins; what is lost is met again as new.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        """Use the file `path`; None for ``known_servers.json`` in the state folder. It need not exist."""
        self._path = state_folder() / "known_servers.json" if path is None else Path(path)

    def __repr__(self) -> str:
        return f"<KnownServers {self._path}>"

    def check(self, service: str, fingerprint: str) -> Literal["new", "known"]:
        """Compare a certificate with what is remembered; nothing is written.

        Args:
            service: the service's name.
            fingerprint: lower-case hexadecimal SHA-256 of the leaf's DER.

        Raises:
            CertificateError: the service had another certificate before.
            ConfigurationError: the file is damaged.
        """
        before = self._read().get(service)
        if before is None:
            return "new"
        if hmac.compare_digest(before.encode(), fingerprint.encode()):
            return "known"
        raise CertificateError(
            f"the certificate of service {service!r} has changed: it was {before}, it is {fingerprint}; "
            f"somebody may be in between, or its owner renewed it (then run: echostream certs forget "
            f"{shlex.quote(service)})",
        )

    def remember(self, service: str, fingerprint: str) -> None:
        """Trust `fingerprint` for `service` from now on, unless another one is remembered.

        Raises:
            CertificateError: the service had another certificate before.
            ConfigurationError: the file is damaged or cannot be written, or `fingerprint` is none.
        """
        if not _FINGERPRINT.fullmatch(fingerprint):
            raise ConfigurationError("fingerprint", f"{fingerprint[:80]!r} is not a SHA-256 in lower-case hexadecimal")
        if self.check(service, fingerprint) == "known":
            return
        self._write({**self._read(), service: fingerprint})
        log.warning(
            "= first contact with service %r: its certificate %s is trusted from now on (kept in %s)",
            service,
            fingerprint,
            self._path,
        )

    def forget(self, service: str) -> bool:
        """Forget a service, so that its next contact is the first one; False when it was not known.

        Raises:
            ConfigurationError: the file is damaged or cannot be written.
        """
        known = self._read()
        if known.pop(service, None) is None:
            return False
        self._write(known)
        return True

    def items(self) -> list[tuple[str, str]]:
        """Return (service, fingerprint) pairs, sorted by name.

        Raises:
            ConfigurationError: the file is damaged.
        """
        return sorted(self._read().items())

    def _read(self) -> dict[str, str]:
        try:
            content = json.loads(self._path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as error:
            raise self._damaged(str(error)) from None
        if not isinstance(content, dict):
            raise self._damaged("expected an object of service names and fingerprints")
        known: dict[str, str] = {}
        for service, fingerprint in cast("dict[str, object]", content).items():
            if not isinstance(fingerprint, str) or not _FINGERPRINT.fullmatch(fingerprint):
                raise self._damaged(f"the entry of {service!r} is no fingerprint")
            known[service] = fingerprint
        return known

    def _write(self, known: Mapping[str, str]) -> None:
        write_private(self._path, (json.dumps(known, indent=2, sort_keys=True) + "\n").encode())

    def _damaged(self, why: str) -> ConfigurationError:
        return ConfigurationError(
            "known servers",
            f"{self._path} is damaged ({why}), repair or delete it: without it every server is met as a new one",
        )
