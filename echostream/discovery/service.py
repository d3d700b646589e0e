"""What discovery says about one server: `ServiceInfo`, its TXT record, and text that is safe to print.

Everything in it was said by the network: it is capped and escaped, and trusted for nothing.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Final

from echostream.config import MAX_TXT_BYTES, PROTOCOL_VERSION
from echostream.errors import ConfigurationError
from echostream.types import random_bytes

__all__ = (
    "Arrived",
    "BrowseEvent",
    "Departed",
    "ServiceInfo",
    "check_text",
    "decode_txt",
    "encode_txt",
    "safe_text",
)

TXT_VERSION: Final = "1"
"""``txtvers``: changes when the other keys change their meaning (RFC 6763 section 6.7)."""

MAX_ENTRY_BYTES: Final = 255
"""One ``key=value`` of a TXT record: its length is one byte (RFC 6763 section 6.1)."""

MAX_NAME_BYTES: Final = 54
"""A DNS label has 63 bytes; the short id behind a name takes 9 of them."""

MAX_ADDRESSES: Final = 16
"""Addresses of one server that are looked at."""

_METADATA_PREFIX: Final = "m."
_METADATA_KEY: Final = re.compile(r"[a-z0-9_.-]{1,64}")


@dataclass(frozen=True, slots=True)
class ServiceInfo:
    """One server as it is seen on the network. It stands once, with all the services that it serves."""

    name: str
    """What it is called; usually its main service."""
    instance: str
    """Unique on the network: the name and a short id."""
    addresses: tuple[str, ...]
    """IP addresses; a link-local IPv6 one carries its scope (``fe80::1%eth0``)."""
    port: int
    scheme: str = "quic"
    version: str = ""
    """The application's version, such as ``"1.4.2"``."""
    services: tuple[str, ...] = ()
    """All services that it serves."""
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    fingerprint: str | None = None
    """Lower-case hexadecimal SHA-256 of its certificate: a candidate, not a proof."""
    id: str = ""
    """Identity of the running process."""
    load: int = 0
    """Sessions that it has, as far as it said."""
    given_url: str | None = None
    """Where somebody said it is, a host name perhaps, instead of what the network says."""

    @classmethod
    def create(
        cls,
        name: str,
        *,
        addresses: Sequence[str],
        port: int,
        scheme: str = "quic",
        version: str = "",
        services: Iterable[str] = (),
        metadata: Mapping[str, str] | None = None,
        fingerprint: str | None = None,
        id: str | None = None,
    ) -> ServiceInfo:
        """Describe a server of this process, with an instance name of its own.

        Raises:
            ConfigurationError: something is too large for an announcement or cannot stand in one.
        """
        if not name or not name.isprintable() or len(name.encode()) > MAX_NAME_BYTES:
            raise ConfigurationError(
                "name", f"{name[:80]!r} cannot be announced, expected 1 to {MAX_NAME_BYTES} bytes of printable text"
            )
        check_text("version", version)
        info = cls(
            name=name,
            instance=f"{name}-{random_bytes(4).hex()}",
            addresses=tuple(addresses),
            port=port,
            scheme=scheme,
            version=version,
            services=tuple(services),
            metadata=dict(metadata or {}),
            fingerprint=fingerprint,
            id=id or random_bytes(8).hex(),
        )
        encode_txt(info)
        return info

    @property
    def urls(self) -> tuple[str, ...]:
        """URLs that may be dialled, the best first: loopback, IPv4, IPv6; none when nothing said is usable."""
        if self.given_url is not None:
            return (self.given_url,)
        if not 0 < self.port < 65_536:
            return ()
        parsed = [address for text in self.addresses[:MAX_ADDRESSES] if (address := _usable(text)) is not None]
        if not all(address.is_loopback for address in parsed):
            # A loopback address means this machine only in an answer that never left it.
            parsed = [address for address in parsed if not address.is_loopback]
        parsed.sort(key=lambda address: (address.version, address.is_link_local))
        hosts = (f"[{address}]" if address.version == 6 else str(address) for address in parsed)
        return tuple(f"{self.scheme}://{host}:{self.port}" for host in dict.fromkeys(hosts))

    @property
    def escaped(self) -> str:
        """One line for a terminal."""
        parts = [self.name, self.version, *self.urls[:1]]
        parts += [f"{key}={value}" for key, value in self.metadata.items()]
        return safe_text(" ".join(part for part in parts if part))

    def matches(
        self, name: str | None = None, version: str | None = None, metadata: Mapping[str, str] | None = None
    ) -> bool:
        """Return whether this server is a wanted one.

        Args:
            name: its own name or one of the services that it serves; None for any.
            version: the whole version or its first parts (``"1.4"`` fits ``"1.4.2"``); None for any.
            metadata: entries that it must have; None for any.
        """
        if name is not None and name != self.name and name not in self.services:
            return False
        if version is not None and self.version != version and not self.version.startswith(version + "."):
            return False
        return all(self.metadata.get(key) == value for key, value in (metadata or {}).items())


@dataclass(frozen=True, slots=True)
class Arrived:
    """A server appeared, or changed what it says about itself."""

    service: ServiceInfo


@dataclass(frozen=True, slots=True)
class Departed:
    """A server said goodbye, or was not heard of until its record expired."""

    service: ServiceInfo


BrowseEvent = Arrived | Departed


def encode_txt(info: ServiceInfo) -> dict[str, str]:
    """Return the entries of the TXT record.

    Raises:
        ConfigurationError: an entry, or all together, are too large; names the field, its size and the limit.
    """
    for service in info.services:
        if "," in service or not service.isprintable():
            raise ConfigurationError("services", f"{service[:80]!r} cannot be announced: a comma, or not printable")
    entries = {
        "txtvers": TXT_VERSION,
        "v": str(PROTOCOL_VERSION),
        "id": info.id,
        "name": info.name,
        "ver": info.version,
        **_service_entries(info.services),
        "fp": info.fingerprint or "",
        "load": str(info.load) if info.load else "",
    }
    for key, value in info.metadata.items():
        if not _METADATA_KEY.fullmatch(key):
            raise ConfigurationError(
                "metadata", f"key {key[:80]!r} cannot be announced, expected 1 to 64 of a-z, 0-9, '_', '.', '-'"
            )
        check_text("metadata", value, f"the value of {key!r}")
        if any("\ud800" <= char <= "\udfff" for char in value):
            raise ConfigurationError("metadata", f"the value of {key!r} is no text: {value[:80]!r}")
        entries[_METADATA_PREFIX + key] = value
    entries = {key: value for key, value in entries.items() if value or key.startswith(_METADATA_PREFIX)}
    sizes = {key: len(key.encode()) + 1 + len(value.encode()) for key, value in entries.items()}
    for key, size in sizes.items():
        if size > MAX_ENTRY_BYTES:
            raise ConfigurationError(
                _field_of(key),
                f"takes {size} bytes with its key {key!r}, an announcement has room for {MAX_ENTRY_BYTES}",
            )
    total = sum(sizes.values()) + len(sizes)  # each with a length byte
    if total > MAX_TXT_BYTES:
        largest = max(sizes, key=lambda key: sizes[key])
        raise ConfigurationError(
            _field_of(largest),
            f"the announcement takes {total} bytes, the limit is {MAX_TXT_BYTES}; its largest entry is {largest!r} "
            f"({sizes[largest]} bytes)",
        )
    return entries


def decode_txt(
    instance: str, addresses: Sequence[str], port: int, scheme: str, txt: Mapping[bytes, bytes | None]
) -> ServiceInfo | None:
    """Read what a server announced; None when it is of a version that this program does not know.

    Never raises: what is not text is replaced, what is too large is left out, what is missing is empty.
    """
    entries: dict[str, str] = {}
    total = 0
    for raw_key, raw_value in txt.items():
        value = raw_value or b""
        size = len(raw_key) + 1 + len(value)
        total += size + 1
        if size > MAX_ENTRY_BYTES or total > MAX_TXT_BYTES:
            continue
        entries.setdefault(raw_key.decode("ascii", "replace").lower(), value.decode("utf-8", "replace"))
    if entries.get("txtvers", TXT_VERSION) != TXT_VERSION:
        return None
    fingerprint = entries.get("fp", "").lower()
    return ServiceInfo(
        name=entries.get("name") or instance,
        instance=instance,
        addresses=tuple(addresses[:MAX_ADDRESSES]),
        port=port,
        scheme=scheme,
        version=entries.get("ver", ""),
        services=_services_of(entries),
        metadata={
            key.removeprefix(_METADATA_PREFIX): value
            for key, value in entries.items()
            if key.startswith(_METADATA_PREFIX)
        },
        fingerprint=fingerprint if re.fullmatch("[0-9a-f]{64}", fingerprint) else None,
        id=entries.get("id", ""),
        load=_count(entries.get("load", "")),
    )


def check_text(field: str, value: object, what: str = "this") -> None:
    """Raise ConfigurationError where a value that somebody gave is no text: a version of 1.4, say."""
    if not isinstance(value, str):
        raise ConfigurationError(field, f"{what} must be a text, got {value!r}: put it in quotes")


def safe_text(text: str, limit: int = 500) -> str:
    """Return text of unknown origin so that a terminal only shows it.

    Control characters, invisible ones and those that change the writing direction are escaped; the rest is cut at
    `limit` characters.
    """
    cut = text[:limit]
    shown = "".join(char if char == " " or char.isprintable() else _escape(char) for char in cut)
    return shown + ("..." if len(text) > limit else "")


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def _service_entries(services: Iterable[str]) -> dict[str, str]:
    """Return the entries ``svc``, ``svc2``, ... that list services, as many as are needed."""
    lines = [""]
    for service in services:
        longer = f"{lines[-1]},{service}" if lines[-1] else service
        if lines[-1] and len(f"svc99={longer}".encode()) > MAX_ENTRY_BYTES:
            lines.append(service)
        else:
            lines[-1] = longer
    return {_service_key(number): line for number, line in enumerate(lines, 1)}


def _services_of(entries: Mapping[str, str]) -> tuple[str, ...]:
    lines = (entries.get(_service_key(number), "") for number in range(1, len(entries) + 1))
    return tuple(item for line in takewhile(bool, lines) for item in line.split(",") if item)


def _service_key(number: int) -> str:
    return "svc" if number == 1 else f"svc{number}"


def _usable(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if address.is_unspecified or address.is_multicast:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.is_link_local and not address.scope_id:
        return None
    return address


def _count(text: str) -> int:
    """Read a number that anybody may have written."""
    return int(text) if re.fullmatch("[0-9]{1,9}", text) else 0


def _field_of(key: str) -> str:
    if key.startswith("svc"):
        return "services"
    names = {"ver": "version", "fp": "fingerprint"}
    return "metadata" if key.startswith(_METADATA_PREFIX) else names.get(key, key)
