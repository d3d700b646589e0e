"""The rules for names on the wire, and the one error of this package.

A name is made of letters, digits and underscores, with single dots between. ``echostream.`` is kept for the framework.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from types import FrameType
from typing import Any, cast

__all__ = (
    "SignatureError",
    "check_name",
    "check_pattern",
    "fault",
    "is_reserved",
    "label_of",
    "location_of",
    "user_frame",
)

_WORDS = "letters, digits and _ with single dots between"
_NAME = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")
_WORD = re.compile(r"[A-Za-z0-9_]+")
_PATTERN = re.compile(r"([A-Za-z0-9_]+|\*)(\.([A-Za-z0-9_]+|\*))*")
_RESERVED = "echostream"


class SignatureError(TypeError):
    """A decorated function or class cannot be served as it is written; the text has file:line, name and the fix."""


def fault(location: str, label: str, problem: str) -> SignatureError:
    """Build the error for `problem`, found in the thing called `label` at `location`."""
    return SignatureError(f"{location}: {label}: {problem}")


def check_name(name: object, *, location: str, label: str, dots: bool = True, internal: bool = False) -> str:
    """Return `name` if it may travel as a name.

    Args:
        name: what the user gave.
        location: ``file:line`` for the error text.
        label: what the name is for.
        dots: whether it may have several parts.
        internal: whether the framework itself asks, which alone may use its prefix.

    Raises:
        SignatureError: not text, not of the pattern, or reserved.
    """
    if not isinstance(name, str):
        raise fault(location, label, f"expected a name as text, got {name!r}")
    if not dots and not _WORD.fullmatch(name):
        raise fault(
            location,
            label,
            f"bad name {name!r}; inside a service a name has letters, digits and _ only ([A-Za-z0-9_]+)",
        )
    if not _NAME.fullmatch(name):
        raise fault(location, label, f"bad name {name!r}; write {_WORDS} ({_NAME.pattern})")
    if dots and not internal and name.split(".")[0] == _RESERVED:
        raise fault(location, label, f"the name {name!r} is reserved; start with something else than echostream")
    return name


def check_pattern(name: object, *, location: str, label: str) -> str:
    """Return `name` if it is an event name, or a pattern of them with ``*`` for whole parts.

    Raises:
        SignatureError: neither.
    """
    if not isinstance(name, str) or not _PATTERN.fullmatch(name):
        raise fault(location, label, f"bad event {name!r}; write {_WORDS}, * for a whole part ({_PATTERN.pattern})")
    return name


def is_reserved(module: str | None) -> bool:
    """Whether code of this module belongs to the framework and may use reserved names."""
    return module is not None and module.split(".")[0] == _RESERVED


def location_of(function: Callable[..., Any]) -> str:
    """Return ``file:line`` of a function or class, or its type or module for things that have no source."""
    if isinstance(function, type):
        try:
            return f"{inspect.getsourcefile(function)}:{inspect.getsourcelines(function)[1]}"
        except (OSError, TypeError):  # made at the prompt, or built in
            return f"<{function.__module__}>"
    code = getattr(function, "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code is not None else f"<{type(function).__name__}>"


def label_of(thing: object) -> str:
    """Return the qualified name of a function or class without the functions around it."""
    name = getattr(thing, "__qualname__", None)
    return name.rpartition("<locals>.")[2] if isinstance(name, str) else repr(thing)


def user_frame() -> FrameType:
    """Return the nearest frame outside this package: where a decorator is being applied."""
    frame = inspect.currentframe()
    package = __name__.rpartition(".")[0]
    while frame is not None and frame.f_globals.get("__name__", "").rpartition(".")[0] == package:
        frame = frame.f_back
    return cast("FrameType", frame)  # somebody called
