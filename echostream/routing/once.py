"""A call seen by inbound middleware: what it is handed, and that its handler runs once and its answer is not lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from echostream.errors import LocalProtocolError, RpcError
from echostream.session.attempts import swallowed
from echostream.session.chains import Request

if TYPE_CHECKING:
    from echostream.protocol.frames import RequestFrame
    from echostream.routing.router import MethodRoute
    from echostream.session.context import Context
    from echostream.types import WireValue

__all__ = ("Once", "request_of")


def request_of(
    context: Context,
    frame: RequestFrame,
    positional: list[WireValue],
    keyword: dict[str, WireValue],
    route: MethodRoute | None,
) -> Request:
    """Return what the middleware around a handler is handed; metadata and state are those of the context."""
    spec = route.binding.spec if route is not None else None
    metadata = frame.metadata if frame.metadata is not None else {}
    context.metadata = metadata
    return Request(
        session=context.session,
        method=frame.method,
        args=positional,
        kwargs=keyword,
        metadata=metadata,
        timeout=context.time_left,
        sends_items=frame.sends_items,
        returns_items=frame.accepts_items,
        idempotent=spec is not None and (spec.idempotent or spec.safe),
        context=context,
        state=context.state,
    )


class Once:
    """The run of one handler inside its middleware."""

    __slots__ = ("_answer", "_ran", "_request")

    def __init__(self, request: Request) -> None:
        self._request = request
        self._ran = False
        self._answer: WireValue = None

    def enter(self, request: Request) -> None:
        """Begin.

        Raises:
            LocalProtocolError: it ran already.
        """
        if self._ran:
            raise LocalProtocolError(
                f"{request.method}: call_next was called twice, but a handler runs once; let the caller retry",
                operation=request.method,
            )
        self._ran = True
        if request.context is not None:
            request.context.metadata = request.metadata

    def leave(self, answer: WireValue) -> WireValue:
        """Note the handler's answer; return it."""
        self._answer = answer
        return answer

    def check(self, reply: WireValue, route: MethodRoute | None) -> WireValue:
        """Return what the chain answers.

        Raises:
            LocalProtocolError: a value for a handler that returns items, or nothing where the handler's answer was
                something and must be.
        """
        method = self._request.method
        if reply is None and self._answer is not None and route is not None:
            try:
                route.binding.decode_result(None)
            except RpcError:
                raise swallowed(method) from None
        if reply is not None and self._request.returns_items:
            raise LocalProtocolError(
                f"{method} returns items, but a middleware returned {type(reply).__name__}: see outbound_item",
                operation=method,
            )
        return reply
