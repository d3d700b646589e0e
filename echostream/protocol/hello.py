"""The Hello: what each side says of itself first, and what the two agree on."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Final

from echostream.config import PROTOCOL_VERSION, Limits
from echostream.errors import CloseCode, EchoStreamError, RemoteProtocolError
from echostream.protocol.payload import PayloadCodec, shown
from echostream.types import Role, WireValue

__all__ = (
    "DATAGRAM_ITEMS",
    "EVENT_ACK",
    "FEATURES",
    "LANES",
    "PROGRESS",
    "TIMED_ITEMS",
    "TIME_SYNC",
    "Hello",
    "PeerLimits",
)

DATAGRAM_ITEMS: Final = "datagram-items"
"""Items of application streams may travel in datagrams."""

EVENT_ACK: Final = "event-ack"
"""Events may ask for an Ack."""

LANES: Final = "lanes"
"""Unary calls may share more transport streams than the first."""

PROGRESS: Final = "progress"
"""Progress frames may be sent."""

TIME_SYNC: Final = "time-sync"
"""TimeSync frames may travel in datagrams."""

TIMED_ITEMS: Final = "timed-items"
"""Items of application streams may have timestamps."""

FEATURES: Final[frozenset[str]] = frozenset({DATAGRAM_ITEMS, EVENT_ACK, LANES, PROGRESS, TIME_SYNC, TIMED_ITEMS})
"""What this version can do beyond the base; the two sides use what both have."""

_MAX_TEXT: Final = 4096
_MAX_FEATURES: Final = 64
_MAX_HEARTBEAT_MS: Final = 3_600_000
_MAX_U64: Final = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class PeerLimits:
    """The limits that the side which states them asks the other one to keep. Sizes in bytes."""

    max_concurrent_calls: int = 1024
    max_streams: int = 1024
    max_payload_bytes: int = 4 << 20
    max_unacknowledged_events: int = 256
    call_window_bytes: int = 256 << 10
    stream_window_bytes: int = 1 << 20

    @classmethod
    def of(cls, limits: Limits) -> PeerLimits:
        """Return the part of `limits` that the peer must know."""
        return cls(**{name: getattr(limits, name) for name in cls.__slots__})


_LEAST: Final = {
    item.name: (getattr(PeerLimits(), item.name), item.metadata["low"])
    for item in fields(Limits)
    if item.name in PeerLimits.__slots__
}
"""Default and least value of each. No less than what a side may be configured to: a refusal must always fit in
`max_payload_bytes`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """One side's first words."""

    role: Role
    version: int = PROTOCOL_VERSION
    features: frozenset[str] = FEATURES
    required: frozenset[str] = frozenset()
    """Features without which the sender does not go on."""
    epoch: int = 0
    """Start id of the process: another one means that it was restarted."""
    session: str = ""
    """Session id, given by the server; empty from the client."""
    agent: str = ""
    """Implementation and version, for logs."""
    credentials: str | None = None
    """What the client offers to be known by; only over a secure transport to a trusted peer."""
    heartbeat_ms: int = 0
    """Milliseconds between the probes of a quiet client, as the server wishes; 0 for none."""
    limits: PeerLimits = PeerLimits()

    def encode(self, codec: PayloadCodec) -> bytes:
        """Return the packed map."""
        values: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        values["role"] = self.role.value
        values["limits"] = {name: getattr(self.limits, name) for name in PeerLimits.__slots__}
        values["features"], values["required"] = sorted(self.features), sorted(self.required)
        if self.credentials is None:
            del values["credentials"]
        if not self.heartbeat_ms:
            del values["heartbeat_ms"]
        return codec.encode(values)

    @classmethod
    def decode(cls, payload: bytes, codec: PayloadCodec) -> Hello:
        """Parse a peer's Hello. Unknown keys are skipped.

        Raises:
            RemoteProtocolError: not a map, a field of the wrong type or out of range.
        """
        try:
            values = codec.decode(payload)
        except EchoStreamError as error:
            raise RemoteProtocolError(f"bad hello: {error.message}") from None
        if not isinstance(values, dict):
            raise RemoteProtocolError(f"bad hello: expected a map, got {type(values).__name__}")
        role = _text(values, "role")
        if role not in set(Role):
            raise RemoteProtocolError(f"bad hello: role {shown(role)} is neither client nor server")
        return cls(
            role=Role(role),
            version=_number(values, "version", PROTOCOL_VERSION, 0, 0xFFFF),
            features=_names(values, "features"),
            required=_names(values, "required"),
            epoch=_number(values, "epoch", 0, 0, _MAX_U64),
            session=_text(values, "session"),
            agent=_text(values, "agent"),
            credentials=_text(values, "credentials") if values.get("credentials") is not None else None,
            heartbeat_ms=_number(values, "heartbeat_ms", 0, 0, _MAX_HEARTBEAT_MS),
            limits=_limits(values.get("limits", {})),
        )

    def agree(self, peer: Hello) -> frozenset[str]:
        """Return the features that both sides have.

        Raises:
            RemoteProtocolError: roles or versions do not fit, or the peer requires what this side lacks.
        """
        if peer.role is self.role:
            raise RemoteProtocolError(f"both sides say that they are the {self.role}")
        if peer.version != self.version:
            raise RemoteProtocolError(
                f"peer speaks protocol version {peer.version}, this side {self.version}: update the older program",
                close_code=CloseCode.UNSUPPORTED_VERSION,
            )
        if missing := sorted(peer.required - self.features):
            raise RemoteProtocolError(
                f"peer requires {shown(', '.join(missing))}, which this side does not have: update this program",
                close_code=CloseCode.UNSUPPORTED_VERSION,
            )
        return self.features if self.features == peer.features else self.features & peer.features


def _text(values: dict[str, WireValue], key: str) -> str:
    value = values.get(key, "")
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        raise RemoteProtocolError(f"bad hello: {key} must be text of at most {_MAX_TEXT} characters")
    return value


def _number(values: dict[str, WireValue], key: str, default: int, low: int, high: int) -> int:
    value = values.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise RemoteProtocolError(f"bad hello: {key} must be a number from {low} to {high}")
    return value


def _names(values: dict[str, WireValue], key: str) -> frozenset[str]:
    value = values.get(key, [])
    if not isinstance(value, list) or len(value) > _MAX_FEATURES or not all(isinstance(item, str) for item in value):
        raise RemoteProtocolError(f"bad hello: {key} must be a list of at most {_MAX_FEATURES} names")
    names = frozenset(value)
    return FEATURES if names == FEATURES else names  # the same in each of many sessions


def _limits(values: WireValue) -> PeerLimits:
    if not isinstance(values, dict):
        raise RemoteProtocolError("bad hello: limits must be a map")
    return PeerLimits(
        **{name: _number(values, name, default, low, _MAX_U64) for name, (default, low) in _LEAST.items()}
    )
