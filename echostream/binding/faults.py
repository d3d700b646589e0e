"""Turns what pydantic says about a value into our errors: JSON pointers and short descriptions.

Arguments are the caller's, so the description may quote its value. A result is the handler's: its errors cross the wire
and name the path and the kind of fault, never the value.
"""

from __future__ import annotations

from typing import Any, Final, cast, get_args

from pydantic import ValidationError
from pydantic_core.core_schema import ErrorType

from echostream.errors import InvalidArgumentError, RpcError, Status

__all__ = ("invalid", "pointer", "unfit_reply", "unfit_result", "violations")

Violations = list[tuple[str, str]]

_LISTED = 5
"""Faults named in the text of an error: enough to see the pattern, short enough to read."""


def invalid(what: str | None, faults: Violations) -> InvalidArgumentError:
    """Build the error for arguments, items or events that do not fit; `what` is the method or event, if any."""
    return InvalidArgumentError.of(what or "value", faults, operation=what)


def unfit_result(method: str, error: ValueError, value: object) -> RpcError:
    """Build the error for a handler whose result does not fit its declared type; it crosses the wire."""
    shown = "; ".join(f"{path or '/'}: {kind}" for path, kind in _kinds(error, value)[:_LISTED])
    return RpcError(Status.INTERNAL, f"{method} returned what does not fit its declared type: {shown}")


def unfit_reply(what: str, error: ValueError, value: object) -> RpcError:
    """Build the error for a reply that does not fit the type it was asked for.

    INTERNAL, as gRPC does where a reply cannot be read: the two programs disagree about the contract, nothing was lost.
    """
    found = violations(error, value)
    shown = "; ".join(f"{path or '/'}: {text}" for path, text in found[:_LISTED])
    details = {"field_violations": [{"field": path, "description": text} for path, text in found[:100]]}
    text = f"the reply does not fit the type it is read as: {shown}; are both programs up to date?"
    return RpcError(Status.INTERNAL, text, details=details, operation=what)


def violations(error: ValueError, value: object, prefix: str = "") -> Violations:
    """Return (pointer, description) pairs.

    Args:
        error: what validating or serialising `value` raised.
        value: the value as it came.
        prefix: pointer of the value itself, such as ``/order``.
    """
    if not isinstance(error, ValidationError):
        return [(prefix, f"cannot be serialised: {_first_line(error)}")]
    return [
        (prefix + _path(item["loc"], item["type"], value), _lower(item["msg"]))
        for item in error.errors(include_url=False, include_context=False, include_input=False)
    ]


def pointer(*keys: object) -> str:
    """Return the RFC 6901 pointer of these keys."""
    return "".join("/" + str(key).replace("~", "~0").replace("/", "~1") for key in keys)


def _kinds(error: ValueError, value: object) -> Violations:
    if not isinstance(error, ValidationError):
        return [("", "cannot be serialised")]
    listed = error.errors(include_url=False, include_context=False, include_input=False)
    return [(_path(item["loc"], item["type"], value), _without_value(item["type"], item["msg"])) for item in listed]


def _without_value(kind: str, message: str) -> str:
    """Return pydantic's sentence, which names what was expected; one of a validator that a user wrote may name more."""
    return kind.replace("_", " ") if kind in _WRITTEN_BY_USERS or kind not in _KNOWN_KINDS else _lower(message)


_WRITTEN_BY_USERS: Final = frozenset(("value_error", "assertion_error"))
_KNOWN_KINDS: Final = frozenset[str](get_args(ErrorType))


def _path(location: tuple[int | str, ...], kind: str, value: object) -> str:
    """Follow pydantic's location through the value; what leads nowhere in it is a branch of a union or a validator."""
    here, keys = value, list[int | str]()
    for index, key in enumerate(location):
        if isinstance(here, dict) and key in here:
            here = cast("dict[Any, object]", here)[key]
        elif isinstance(here, list | tuple) and isinstance(key, int) and key < len(cast("list[object]", here)):
            here = cast("list[object]", here)[key]
        elif index + 1 < len(location) or not kind.startswith("missing"):
            continue
        keys.append(key)
    return pointer(*keys)


def _first_line(error: ValueError) -> str:
    return _lower(str(error).partition("\n")[0])


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
