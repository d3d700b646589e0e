"""The whole error tree, and the map between errors and what travels in a Response frame.

    EchoStreamError                     code, retryable, retry_after, details, session, operation
    |-- RpcError                        a call ended with a status: raise it in a handler, catch it at a call
    |   |-- (your subclasses)           class OutOfStock(RpcError, code=..., reason="orders.out_of_stock")
    |   |-- DeadlineExceededError       the deadline passed (also a TimeoutError): operation, duration
    |   `-- InvalidArgumentError        a value does not fit its type: violations with JSON pointers
    |-- TransportError                  the link: UNAVAILABLE unless said otherwise
    |   |-- ConnectError                no connection could be made
    |   |-- ConnectionLostError         the connection ended under a call or a stream
    |   `-- CertificateError            the other side could not be trusted (UNAUTHENTICATED)
    |-- ProtocolError                   the frame layer
    |   |-- LocalProtocolError          this side asked for something the protocol does not allow
    |   `-- RemoteProtocolError         the peer broke the protocol; the connection is closed with a code
    |-- ConfigurationError              a setting is wrong: field, reason
    |-- ResourceError                   a limit was reached: current, limit (RESOURCE_EXHAUSTED)
    |-- StreamResetError                the other side reset an application stream
    `-- ServiceNotFoundError            discovery found nothing that fits: what was seen instead

``echostream_derive.SignatureError`` (a TypeError) stands beside the tree: a wrong signature is a bug, not an event.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

__all__ = (
    "CertificateError",
    "CloseCode",
    "ConfigurationError",
    "ConnectError",
    "ConnectionLostError",
    "DeadlineExceededError",
    "EchoStreamError",
    "InvalidArgumentError",
    "LocalProtocolError",
    "ProtocolError",
    "RemoteProtocolError",
    "ResourceError",
    "RpcError",
    "ServiceNotFoundError",
    "Status",
    "StreamResetError",
    "TransportError",
    "error_from_wire",
    "error_to_wire",
    "least_text",
)


class Status(enum.IntEnum):
    """How a call ended: gRPC's numbers and names (https://grpc.io/docs/guides/status-codes/)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16

    def __str__(self) -> str:
        return self.name


class CloseCode(enum.IntEnum):
    """Why a connection ended, in the application close code of the transport.

    3000-3499 ask the peer to reconnect, 3500-3999 are final; 4000-4499 and 4500-4999 are the application's own.
    """

    NORMAL = 3000
    SHUTDOWN = 3001
    SLOW = 3008
    INSUFFICIENT_STATE = 3010
    FORCE_RECONNECT = 3011
    NO_PONG = 3012
    PROTOCOL_ERROR = 3500
    UNSUPPORTED_VERSION = 3501
    LIMIT_EXCEEDED = 3502
    UNAUTHENTICATED = 3503
    HELLO_TIMEOUT = 3504
    INTERNAL = 3505

    @property
    def may_reconnect(self) -> bool:
        """Whether a client should try again."""
        return self < 3500


RETRYABLE_STATUSES = frozenset({Status.UNAVAILABLE, Status.RESOURCE_EXHAUSTED, Status.ABORTED})


class EchoStreamError(Exception):
    """Base of every error that EchoStream raises to its user.

    Attributes:
        code: the status that describes the error best.
        message: the text, lower case, with the offending value and the limit.
        retryable: whether the same operation may succeed when tried again.
        retry_after: seconds to wait before a retry, or None when the other side did not say.
        details: machine-readable facts (google.rpc names: ``reason``, ``field_violations``, ...).
        session: id of the session that it happened on, if any.
        operation: what was being done, such as ``"orders.place"``, if known.
    """

    code: Status = Status.UNKNOWN

    def __init__(
        self,
        message: str = "",
        *,
        code: Status | None = None,
        retryable: bool | None = None,
        retry_after: float | None = None,
        details: Mapping[str, Any] | None = None,
        session: str | None = None,
        operation: str | None = None,
    ) -> None:
        super().__init__(message)
        if code is not None:
            self.code = Status(code)
        self.message = message
        self.retryable = self.code in RETRYABLE_STATUSES if retryable is None else retryable
        self.retry_after = retry_after
        self.details: dict[str, Any] = dict(details or {})
        self.session = session
        self.operation = operation

    @property
    def unprocessed(self) -> bool:
        """Whether it is certain that no handler ran: even a call that is not idempotent may be tried again."""
        return self.details.get("unprocessed") is True

    def __str__(self) -> str:
        text = f"{self.code}: {self.message}" if self.message else str(self.code)
        return f"{self.operation}: {text}" if self.operation else text


class RpcError(EchoStreamError):
    """A call ended with a status other than OK.

    Raise it in a handler as ``RpcError(Status.NOT_FOUND, "no order 7")``, or subclass it with a code and a stable
    reason: ``class OutOfStock(RpcError, code=Status.FAILED_PRECONDITION, reason="orders.out_of_stock")`` and raise
    ``OutOfStock("only 3 left")``. A proxy whose contract lists the class in ``raises=`` raises that class again.
    """

    reason: ClassVar[str | None] = None

    def __init_subclass__(cls, *, code: Status | None = None, reason: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if code is not None:
            if Status(code) is Status.OK:
                raise ConfigurationError("code", f"{cls.__name__} cannot have the code OK: it says that a call failed")
            cls.code = Status(code)
        if reason is not None:
            cls.reason = reason

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        code, rest = _split_code(args)
        if len(rest) > 1:
            problem = f"got {len(args)} arguments" if code else f"{args[0]!r} is no Status: write Status.NOT_FOUND"
            raise TypeError(f"{type(self).__name__} takes (code, message) or (message); {problem}")
        if code is not None:
            kwargs.setdefault("code", code)
        super().__init__(*rest, **kwargs)
        if self.reason is not None:
            self.details.setdefault("reason", self.reason)


class DeadlineExceededError(RpcError, TimeoutError, code=Status.DEADLINE_EXCEEDED):
    """The deadline passed before the call ended.

    Attributes:
        duration: the timeout in seconds that was allowed, or None when only the other side knows it.
    """

    def __init__(self, *args: Any, duration: float | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.duration = duration


class InvalidArgumentError(RpcError, code=Status.INVALID_ARGUMENT):
    """A value does not fit the declared type.

    ``details["field_violations"]`` lists ``{"field": "/order/qty", "description": "..."}`` (RFC 6901 pointers).
    """

    @classmethod
    def of(cls, what: str, violations: Sequence[tuple[str, str]], **kwargs: Any) -> InvalidArgumentError:
        """Build one from (JSON pointer, description) pairs; `what` names the value, such as ``orders.place``."""
        shown = "; ".join(f"{field or '/'}: {description}" for field, description in violations[:5])
        more = f" (and {len(violations) - 5} more)" if len(violations) > 5 else ""
        listed = [{"field": field, "description": description} for field, description in violations[:100]]
        return cls(f"invalid {what}: {shown}{more}", details={"field_violations": listed}, **kwargs)

    @property
    def violations(self) -> list[tuple[str, str]]:
        """The (JSON pointer, description) pairs."""
        return [(item["field"], item["description"]) for item in self.details.get("field_violations", [])]


class TransportError(EchoStreamError):
    """The link between the two programs failed."""

    code = Status.UNAVAILABLE


class ConnectError(TransportError):
    """No connection could be made; the text says to where, why and what to try."""


class ConnectionLostError(TransportError):
    """The connection ended while something still needed it.

    Attributes:
        close_code: the application close code, or None when the link just vanished.
    """

    def __init__(self, message: str = "connection lost", *, close_code: int | None = None, **kwargs: Any) -> None:
        super().__init__(message, **kwargs)
        self.close_code = close_code

    def again(self, *, operation: str | None = None, session: str | None = None) -> ConnectionLostError:
        """Return a fresh copy for one of many that wait, so that tracebacks do not pile up on one object."""
        return ConnectionLostError(self.message, close_code=self.close_code, operation=operation, session=session)


class CertificateError(TransportError):
    """The other side's certificate could not be trusted; the text says which check failed and the way out."""

    code = Status.UNAUTHENTICATED


class ProtocolError(EchoStreamError):
    """Something at the frame layer went against docs/reference/protocol.md."""

    code = Status.INTERNAL


class LocalProtocolError(ProtocolError):
    """This side asked for something that the protocol does not allow in its state."""

    code = Status.FAILED_PRECONDITION


class RemoteProtocolError(ProtocolError):
    """The peer sent something that the protocol does not allow.

    Attributes:
        close_code: the code the connection is closed with.
    """

    def __init__(self, message: str, *, close_code: CloseCode = CloseCode.PROTOCOL_ERROR, **kwargs: Any) -> None:
        super().__init__(message, **kwargs)
        self.close_code = close_code


class ConfigurationError(EchoStreamError, ValueError):
    """A setting is wrong.

    Attributes:
        field: the setting's name.
        reason: what is wrong with its value, and what would be right.
    """

    code = Status.INVALID_ARGUMENT

    def __init__(self, field: str, reason: str, **kwargs: Any) -> None:
        super().__init__(f"{field}: {reason}", **kwargs)
        self.field = field
        self.reason = reason


class ResourceError(EchoStreamError):
    """A limit was reached.

    Attributes:
        current: the value that was asked for or reached.
        limit: the limit it ran into.
    """

    code = Status.RESOURCE_EXHAUSTED

    def __init__(
        self, message: str, *, current: float | None = None, limit: float | None = None, **kwargs: Any
    ) -> None:
        super().__init__(message, **kwargs)
        self.current = current
        self.limit = limit


class StreamResetError(EchoStreamError):
    """The other side reset an application stream; `code` says why."""

    code = Status.ABORTED


class ServiceNotFoundError(EchoStreamError):
    """Discovery found nothing that fits within its time; the text says what was seen and how to name an address."""

    code = Status.NOT_FOUND


_BY_STATUS: Mapping[Status, type[RpcError]] = {
    Status.DEADLINE_EXCEEDED: DeadlineExceededError,
    Status.INVALID_ARGUMENT: InvalidArgumentError,
}


def error_to_wire(error: EchoStreamError) -> tuple[Status, str, dict[str, Any]]:
    """Return (status, message, details) as a Response or StreamReset frame carries them."""
    details = dict(error.details)
    if error.operation is not None:  # of a call that a handler made: that one was not processed, but the handler ran
        details.pop("unprocessed", None)
    if error.retryable is not (error.code in RETRYABLE_STATUSES):
        details["retryable"] = error.retryable
    if error.retry_after is not None:
        details["retry_delay"] = error.retry_after
    if isinstance(error, ResourceError) and error.limit is not None:
        details.setdefault("limit", error.limit)
        if error.current is not None:
            details.setdefault("current", error.current)
    return error.code, error.message, details


def least_text(message: str) -> str:
    """Return the start of an error's text in a form that can always be sent."""
    return message[:_LEAST_TEXT].encode(errors="replace").decode()


_LEAST_TEXT = 200
"""Characters that fit the smallest payload limit, whatever they are."""


def error_from_wire(
    code: int,
    message: str,
    details: Mapping[str, Any],
    *,
    known: Sequence[type[RpcError]] = (),
    session: str | None = None,
    operation: str | None = None,
) -> RpcError:
    """Build the error that a failed call raises.

    Args:
        code: status number from the wire; an unknown one becomes UNKNOWN.
        message: the peer's text.
        details: the peer's details; ``reason`` picks the class out of `known`.
        known: the classes of the method's ``raises=``.
        session: id of the session, kept on the error.
        operation: the method, kept on the error.
    """
    status = Status(code) if code in Status._value2member_map_ and code != Status.OK else Status.UNKNOWN
    reason = details.get("reason")
    cls: type[RpcError] = _BY_STATUS.get(status, RpcError)
    if reason is not None:
        cls = next((item for item in known if item.reason == reason), cls)
    delay = details.get("retry_delay")
    retry_after = float(delay) if isinstance(delay, int | float) else None
    said = details.get("retryable")
    retryable = said if isinstance(said, bool) else None
    error = cls.__new__(cls)
    # Straight to the base: a subclass may have an __init__ of its own that asks for what the wire does not carry.
    EchoStreamError.__init__(
        error,
        message,
        code=status,
        retryable=retryable,
        retry_after=retry_after,
        details=details,
        session=session,
        operation=operation,
    )
    if isinstance(error, DeadlineExceededError):
        error.duration = None
    return error


def _split_code(args: tuple[Any, ...]) -> tuple[Status | None, tuple[Any, ...]]:
    if args and isinstance(args[0], Status):
        return args[0], args[1:]
    return None, args
