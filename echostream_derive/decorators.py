"""The decorators: each checks the shape, leaves a mark and returns the same object.

Nothing is registered anywhere and nothing is wrapped: a decorated function is called in a unit test as it stands.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any, Final, TypeVar, overload

from echostream_derive.names import (
    SignatureError,
    check_name,
    fault,
    is_reserved,
    label_of,
    location_of,
    user_frame,
)
from echostream_derive.services import (
    EVENT_MARK,
    MARKS,
    SERVICE_MARK,
    Mark,
    event_name,
    listener_spec,
    marks_of,
    read_service,
    stream_spec,
)
from echostream_derive.signature import Scope, read_handler
from echostream_derive.spec import EventSpec, HandlerOptions, HandlerSpec, ServiceOptions

__all__ = ("event", "handler", "listener", "service", "stream")

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])
ClassT = TypeVar("ClassT", bound=type)

_UNSET: Final[Any] = object()
_VERSION = re.compile(r"\d+\.\d+\.\d+([-+][0-9A-Za-z.+-]+)?")


@overload
def service(name: ClassT, /) -> ClassT: ...
@overload
def service(
    name: str | None = None, *, version: str = "1.0.0", strict: bool = False, emits: Sequence[type] | None = None
) -> Callable[[ClassT], ClassT]: ...
def service(
    name: Any = None, *, version: str = "1.0.0", strict: bool = False, emits: Sequence[type] | None = None
) -> Any:
    """Make a class a service: its marked methods are called as ``name.method``.

    Args:
        name: wire name; by default the name of the class.
        version: SemVer of the service, shown in discovery and reflection.
        strict: whether arguments must have their declared type (no ``"5"`` for an int).
        emits: event classes that it sends, for its description; by default those that its module defines or imports
            and nobody here listens to.

    Raises:
        SignatureError: a bad name or version, or a method that cannot be served.
    """

    def decorate(cls: ClassT) -> ClassT:
        location, label = _here(), label_of(cls)
        if not isinstance(cls, type):  # pyright: ignore[reportUnnecessaryIsInstance] - who does not check types
            raise fault(location, label, '@service marks a class; for a function write @handler("name")')
        wire = cls.__name__ if name is None or name is cls else name
        check_name(wire, location=location, label=label, internal=is_reserved(cls.__module__))
        if not _VERSION.fullmatch(version):
            raise fault(location, label, f'bad version {version!r}; write SemVer such as "1.0.0"')
        for item in emits or ():
            if not isinstance(item, type) or event_name(item) is None:  # pyright: ignore[reportUnnecessaryIsInstance]
                shown = getattr(item, "__name__", repr(item))
                raise fault(location, label, f'emits= lists {shown}, which is no event; decorate it with @event("...")')
        sent = tuple(emits) if emits is not None else None
        options = ServiceOptions(name=wire, version=version, strict=strict, emits=sent, location=location)
        setattr(cls, SERVICE_MARK, read_service(cls, options, Scope.of(user_frame())))
        return cls

    return decorate(name) if isinstance(name, type) else decorate


@overload
def handler(name: FunctionT, /) -> FunctionT: ...
@overload
def handler(
    name: str | None = None,
    *,
    timeout: float | None = _UNSET,
    idempotent: bool = False,
    safe: bool = False,
    requires: str | None = None,
    raises: Sequence[type[Exception]] = (),
    thread: bool = False,
) -> Callable[[FunctionT], FunctionT]: ...
def handler(
    name: Any = None,
    *,
    timeout: float | None = _UNSET,
    idempotent: bool = False,
    safe: bool = False,
    requires: str | None = None,
    raises: Sequence[type[Exception]] = (),
    thread: bool = False,
) -> Any:
    """Make a method of a service, or a free function, callable from the other side.

    Args:
        name: wire name; by default the name of the function. Inside a service without the service's name.
        timeout: seconds until the call is given up, None for never; by default what the caller says.
        idempotent: whether running it twice is as good as once, so that a call may be tried again.
        safe: whether it changes nothing, however often it runs, so that it may travel in early data, which somebody
            else can send again (RFC 9110 section 9.2.1, RFC 8446 section 8). What is safe is idempotent, too.
        requires: permission without which the call is refused.
        raises: errors that a proxy raises again as the same class; each a subclass of RpcError with a reason.
        thread: whether it is a plain function to run in a thread.

    Raises:
        SignatureError: the function cannot be served as it is written.
    """

    def decorate(func: FunctionT) -> FunctionT:
        _check_function(func, "handler")
        location, label = location_of(func), label_of(func)
        if any(isinstance(item, HandlerSpec) for item in marks_of(func)):
            raise fault(location, label, "has two @handler; keep one")
        free = "." not in label
        wire = func.__name__ if name is None or name is func else name
        check_name(wire, location=location, label=label, dots=free, internal=is_reserved(func.__module__))
        options = HandlerOptions(
            name=wire,
            timeout=None if timeout is _UNSET else timeout,
            timeout_set=timeout is not _UNSET,
            idempotent=idempotent or safe,
            safe=safe,
            requires=requires,
            raises=tuple(raises),
            thread=thread,
        )
        _check_options(options, location, label)
        _mark(func, read_handler(func, options, attribute=func.__name__, scope=Scope.of(user_frame())))
        return func

    return decorate(name) if callable(name) else decorate


def event(name: str) -> Callable[[ClassT], ClassT]:
    """Make a class (model, dataclass, TypedDict, ...) an event with that name.

    Raises:
        SignatureError: a bad name, or not a class.
    """

    def decorate(cls: ClassT) -> ClassT:
        location, label = _here(), label_of(cls)
        if not isinstance(cls, type):  # pyright: ignore[reportUnnecessaryIsInstance] - who does not check types
            raise fault(location, label, "@event marks a class; write a model or a dataclass")
        check_name(name, location=location, label=label, internal=is_reserved(cls.__module__))
        setattr(cls, EVENT_MARK, EventSpec(name, cls, location))
        return cls

    return _expecting("event", name, decorate, example='@event("price.changed")')


def listener(event: type | str) -> Callable[[FunctionT], FunctionT]:
    """Make a method a listener of an event, given by class, by name, or by a pattern such as ``price.*``.

    A method may listen to several events.

    Raises:
        SignatureError: not an event, or the method takes something else than (payload) or (payload, ctx).
    """

    def decorate(func: FunctionT) -> FunctionT:
        _check_function(func, "listener")
        _mark(func, listener_spec(func, event, scope=Scope.of(user_frame())))
        return func

    return _expecting("listener", event, decorate, example='@listener(PriceChanged) or @listener("price.*")')


def stream(name: str) -> Callable[[FunctionT], FunctionT]:
    """Make a method the handler of a named application stream: ``async def (receiver)`` or ``(receiver, ctx)``.

    Raises:
        SignatureError: a bad name, or the method is not async or takes something else.
    """

    def decorate(func: FunctionT) -> FunctionT:
        _check_function(func, "stream")
        _mark(func, stream_spec(func, name, scope=Scope.of(user_frame())))
        return func

    return _expecting("stream", name, decorate, example='@stream("microphone")')


def _expecting(word: str, given: object, decorate: Callable[[Any], Any], *, example: str) -> Callable[[Any], Any]:
    """Return `decorate`, unless the decorator was used without what it needs."""
    if isinstance(given, FunctionType) or (word in {"event", "stream"} and isinstance(given, type)):
        label, location = label_of(given), location_of(given) if isinstance(given, FunctionType) else _here()
        raise fault(location, label, f"@{word} is missing its argument; write {example}")
    return decorate


def _check_function(func: object, word: str) -> None:
    kind = type(func).__name__
    if kind in {"staticmethod", "classmethod"}:
        raise fault(_here(), label_of(func), f"@{word} is above @{kind}; make it a plain method with self")
    if not isinstance(func, FunctionType):
        raise fault(_here(), label_of(func), f"@{word} marks a function, not a {kind}")


def _check_options(options: HandlerOptions, location: str, label: str) -> None:
    def refuse(problem: str) -> SignatureError:
        return fault(location, label, problem)

    timeout = options.timeout
    if timeout is not None:
        number = isinstance(timeout, int | float) and not isinstance(timeout, bool)  # pyright: ignore[reportUnnecessaryIsInstance]
        if not number or not math.isfinite(timeout) or timeout <= 0:
            raise refuse(f"bad timeout {timeout!r}; write seconds above 0, or None for no deadline")
    if options.requires is not None and not (isinstance(options.requires, str) and options.requires):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise refuse(f'bad requires={options.requires!r}; write a permission such as "orders:write"')
    reasons: dict[str, object] = {}
    for item in options.raises:
        reason, code = getattr(item, "reason", None), getattr(item, "code", None)
        if not (isinstance(item, type) and issubclass(item, Exception)) or reason is None or code is None:  # pyright: ignore[reportUnnecessaryIsInstance]
            shown = getattr(item, "__name__", repr(item))
            raise refuse(
                f"raises= lists {shown}, which the other side could not tell from others; "
                f'write class {shown}(RpcError, code=..., reason="...")'
            )
        if reasons.setdefault(reason, item) is not item:
            raise refuse(f"raises= lists two classes with the reason {reason!r}; give one of them another")


def _mark(func: Callable[..., Any], mark: Mark) -> None:
    setattr(func, MARKS, (*getattr(func, MARKS, ()), mark))


def _here() -> str:
    frame = user_frame()
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
