"""Serialisation: Python values to msgpack and back, within limits that are checked before anything is allocated.

The one door to msgpack. The forms of values that msgpack does not know are fixed in docs/reference/protocol.md.
"""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import pathlib
import uuid
from typing import Any, Final, NoReturn

import msgpack  # type: ignore[import-untyped]

from echostream.config import Limits
from echostream.errors import ConfigurationError, InvalidArgumentError, ResourceError
from echostream.types import WireValue

__all__ = ("MAX_NAME_BYTES", "PayloadCodec", "check_metadata", "encode_name", "encoded_names", "shown")

MAX_NAME_BYTES: Final = 0xFFFF
"""Longest name of a method, an event or a stream: its length field has 16 bits."""

_MAX_KEPT_NAMES: Final = 1024
_MAX_KEPT_NAME_BYTES: Final = 256
encoded_names: Final[dict[str, bytes]] = {}
"""What `encode_name` has encoded: the same few come again and again."""

_ONE_ARGUMENT: Final = b"\x92\x91"  # an array of two, an array of one
_NO_KEYWORDS: Final = b"\x80"

_BAD_KEY: Final = "payload is not valid msgpack: a key of a map is a list or a map; keys are text, numbers or bytes"

_MAX_SHOWN: Final = 80
"""Characters of a peer's own words in an error: it goes to a log and perhaps back to the peer."""

# First bytes that open an array or a map: fixmap, fixarray, array16/32, map16/32.
_CONTAINER_BYTES: Final = bytes([*range(0x80, 0xA0), 0xDC, 0xDD, 0xDE, 0xDF])
_NOT_CONTAINER_BYTES: Final = bytes(byte for byte in range(256) if byte not in _CONTAINER_BYTES)


class PayloadCodec:
    """Packs and unpacks payloads.

    One per server or client, never one per connection: a used Packer holds 4 KiB. Not for use from several threads.
    """

    __slots__ = ("_harmless_bytes", "_max_depth", "_max_elements", "_packer")

    def __init__(self, limits: Limits | None = None) -> None:
        limits = limits or Limits()
        self._max_elements = limits.max_payload_elements
        self._max_depth = limits.max_payload_depth
        self._harmless_bytes = min(self._max_depth, self._max_elements)
        self._packer = msgpack.Packer(default=_to_wire, buf_size=4096)

    def encode(self, value: WireValue) -> bytes:
        """Return `value` packed.

        Raises:
            InvalidArgumentError: the value holds something that has no form on the wire, or lone surrogates.
        """
        try:
            packed: bytes = self._packer.pack(value)  # resets itself when it raises
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise _not_serialised(error) from None
        return packed

    def encode_argument(self, value: WireValue) -> bytes:
        """Return ``[[value], {}]`` packed: the arguments of a call that has but one. Raises as `encode`."""
        try:
            return _ONE_ARGUMENT + self._packer.pack(value) + _NO_KEYWORDS  # type: ignore[no-any-return]
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise _not_serialised(error) from None

    def decode(self, data: bytes) -> WireValue:
        """Return the value that `data` holds.

        Raises:
            ResourceError: too many elements or too deep.
            InvalidArgumentError: not one whole msgpack value, or an extension type other than -1.
        """
        size = len(data)
        # An element takes at least one byte and a level at least one container byte, so that most payloads are
        # known to be within the limits at the price of one pass in C.
        if size > self._harmless_bytes and (
            size > self._max_elements or len(data.translate(None, _NOT_CONTAINER_BYTES)) > self._max_depth
        ):
            _check_shape(data, self._max_elements, self._max_depth)
        try:
            return msgpack.unpackb(data, raw=False, strict_map_key=False, timestamp=3, ext_hook=_refuse_extension)
        except InvalidArgumentError:
            raise
        except TypeError:
            raise InvalidArgumentError(_BAD_KEY) from None
        # What msgpack documents, and what it lets through: bad UTF-8.
        except (ValueError, OverflowError, RecursionError, msgpack.exceptions.UnpackException) as error:
            raise InvalidArgumentError(f"payload is not valid msgpack: {_one_line(error)}") from None


def _not_serialised(error: Exception) -> InvalidArgumentError:
    reason = "it is nested too deeply, or contains itself" if "recursion" in str(error) else error
    return InvalidArgumentError(f"value cannot be serialised: {reason}")


def encode_name(name: str) -> bytes:
    """Return the name of a method, an event or a stream as it travels.

    Raises:
        InvalidArgumentError: it is too long, or has lone surrogates.
    """
    raw = encoded_names.get(name)
    if raw is None:
        raw = _encode_name(name)
        if len(encoded_names) < _MAX_KEPT_NAMES and len(raw) <= _MAX_KEPT_NAME_BYTES:
            encoded_names[name] = raw
    return raw


def _encode_name(name: str) -> bytes:
    if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance] - functions come here
        what = getattr(name, "__qualname__", repr(name))
        raise ConfigurationError("name", f'{what} is no text: give "service.method", or call it on a proxy')
    try:
        raw = name.encode()
    except UnicodeEncodeError:
        raise InvalidArgumentError(f"name {shown(name)} is not text that can be encoded") from None
    if len(raw) > MAX_NAME_BYTES:
        raise InvalidArgumentError(f"name of {len(raw)} bytes is over the limit of {MAX_NAME_BYTES}")
    return raw


def check_metadata(metadata: WireValue) -> None:
    """Raise InvalidArgumentError unless this is a map of proper keys to values of the right type."""
    if not isinstance(metadata, dict):
        raise InvalidArgumentError(f"metadata must be a map, got {type(metadata).__name__}")
    for key, value in metadata.items():
        if not isinstance(key, str) or not key or not key.isascii() or key != key.lower() or not key.isprintable():
            raise InvalidArgumentError(f"metadata key {shown(key)} must be lower-case printable ASCII")
        wanted = bytes if key.endswith("-bin") else str
        if not isinstance(value, wanted):
            raise InvalidArgumentError(
                f"metadata value of {shown(key)} must be {wanted.__name__}, got {type(value).__name__}"
                + ("" if wanted is bytes else "; binary values have keys that end in -bin")
            )


def shown(value: object) -> str:
    """Return what a peer said as an error may repeat it: in quotes, on one line, not too long."""
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 3]}..."


def _to_wire(value: object) -> WireValue:
    """Turn what msgpack does not know into something that it does."""
    for kind, convert in _FORMS:
        if isinstance(value, kind):
            return convert(value)
    raise InvalidArgumentError(
        f"{type(value).__name__} cannot be serialised; use a pydantic model, a dataclass or plain values"
    )


def _iso_duration(value: Any) -> str:
    """ISO 8601 duration of a timedelta, exact to the microsecond."""
    total = (value.days * 86_400 + value.seconds) * 1_000_000 + value.microseconds
    seconds, micros = divmod(abs(total), 1_000_000)
    fraction = f".{micros:06d}".rstrip("0") if micros else ""
    return f"{'-' if total < 0 else ''}PT{seconds}{fraction}S"


_FORMS: Final[tuple[tuple[type, Any], ...]] = (
    (enum.Enum, lambda value: value.value),
    (int, str),  # beyond 64 bits: msgpack asks only then
    (dt.datetime, lambda value: value.isoformat()),
    (dt.date, lambda value: value.isoformat()),
    (dt.time, lambda value: value.isoformat()),
    (dt.timedelta, _iso_duration),
    (decimal.Decimal, str),
    (uuid.UUID, str),
    (set, list),
    (frozenset, list),
    (pathlib.PurePath, str),
)


def _refuse_extension(code: int, _data: bytes) -> NoReturn:
    raise InvalidArgumentError(f"extension type {code} is not allowed, only -1 (timestamp)")


def _one_line(error: Exception) -> str:
    text = str(error) or type(error).__name__
    return text.splitlines()[0][:120]


def _check_shape(data: bytes, max_elements: int, max_depth: int) -> None:
    """Walk the first bytes of every element, building nothing.

    Elements count when their container announces them: unpacking makes room for them then. Truncated input passes:
    unpacking reports it.
    """
    position, size, elements = 0, len(data), 1
    open_counts = [1]  # elements still to come at each level
    while open_counts and position < size:
        if open_counts[-1] == 0:
            open_counts.pop()
            continue
        open_counts[-1] -= 1
        position, children = _step(data, position)
        if children:
            elements += children
            if elements > max_elements:
                raise ResourceError(
                    f"payload has more than {max_elements} elements (max_payload_elements)",
                    current=elements,
                    limit=max_elements,
                    retryable=False,
                )
            open_counts.append(children)
            if len(open_counts) - 1 > max_depth:
                raise ResourceError(
                    f"payload is nested deeper than {max_depth} levels (max_payload_depth)",
                    current=len(open_counts) - 1,
                    limit=max_depth,
                    retryable=False,
                )


def _step(data: bytes, position: int) -> tuple[int, int]:
    """Return (position after this element's own bytes, number of elements inside it)."""
    byte = data[position]
    if byte < 0x80 or byte >= 0xE0:
        return position + 1, 0
    if byte < 0x90:
        return position + 1, 2 * (byte & 0x0F)
    if byte < 0xA0:
        return position + 1, byte & 0x0F
    if byte < 0xC0:
        return position + 1 + (byte & 0x1F), 0
    fixed = _FIXED_SIZES.get(byte)
    if fixed is not None:
        return position + 1 + fixed, 0
    width, kind = _LENGTH_FORMS.get(byte, (0, ""))
    length = int.from_bytes(data[position + 1 : position + 1 + width], "big")
    if kind == "bytes":
        return position + 1 + width + length, 0
    if kind == "ext":
        return position + 2 + width + length, 0
    if kind == "array":
        return position + 1 + width, length
    if kind == "map":
        return position + 1 + width, 2 * length
    return position + 1, 0  # 0xC1, never used: unpacking refuses it


# msgpack specification, "Formats": bytes after the first one.
_FIXED_SIZES: Final = {
    0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4,
    0xD3: 8, 0xD4: 2, 0xD5: 3, 0xD6: 5, 0xD7: 9, 0xD8: 17,
}  # fmt: skip
_LENGTH_FORMS: Final = {
    0xC4: (1, "bytes"), 0xC5: (2, "bytes"), 0xC6: (4, "bytes"), 0xD9: (1, "bytes"), 0xDA: (2, "bytes"),
    0xDB: (4, "bytes"), 0xC7: (1, "ext"), 0xC8: (2, "ext"), 0xC9: (4, "ext"), 0xDC: (2, "array"), 0xDD: (4, "array"),
    0xDE: (2, "map"), 0xDF: (4, "map"),
}  # fmt: skip
