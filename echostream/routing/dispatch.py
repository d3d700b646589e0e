"""Running what the peer asked for: find the route, check it, run the handler, answer. Nothing it raises gets away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Final, NoReturn

from echostream.binding import MethodBinding, split_arguments
from echostream.errors import (
    CertificateError,
    ConnectionLostError,
    EchoStreamError,
    InvalidArgumentError,
    LocalProtocolError,
    ResourceError,
    RpcError,
    Status,
)
from echostream.routing.depends import Overrides
from echostream.routing.invocation import Invocation
from echostream.routing.once import Once, request_of
from echostream.routing.router import MethodRoute, Router, StreamRoute
from echostream.routing.running import go_on, run_together
from echostream.session.chained import make_channel
from echostream.session.chains import NO_CHAINS, Chain, Chains, Opening, Request, both, item_sender, item_taker
from echostream.session.channel import Channel
from echostream.session.context import Context, enter_context
from echostream.session.listeners import ListenerTable
from echostream.session.streams import StreamReceiver

if TYPE_CHECKING:
    from echostream.protocol import events as ev
    from echostream.protocol.frames import RequestFrame
    from echostream.session.runtime import Runtime
    from echostream.session.session import Session
    from echostream.types import WireValue

__all__ = ("Dispatcher",)

_log = logging.getLogger("echostream.routing")

_HIDDEN: Final = "internal error; its cause is in the log of the side that serves it"


class Dispatcher:
    """Serves the calls and streams of one session (`Services` of `session.py`)."""

    __slots__ = ("_chain", "_hints", "_router", "_runtime", "_streams", "_withheld")

    def __init__(self, router: Router, runtime: Runtime, *, hints: Callable[[Session], bool]) -> None:
        """Make one.

        Args:
            router: this session's routes; its parent's are common to all sessions.
            runtime: what the sessions share.
            hints: whether a session may be told near names of an unknown method.
        """
        self._router = router
        self._runtime = runtime
        self._chain = runtime.chains.inbound_request
        self._hints = hints
        self._withheld: str | None = None
        self._streams = 0

    @property
    def listeners(self) -> ListenerTable:
        """The listeners of this session's events."""
        return self._router.listeners

    @property
    def overrides(self) -> Overrides:
        """What stands in for the functions of dependencies."""
        return self._router.overrides

    def withhold(self, reason: str) -> None:
        """Let nothing be registered for a peer that is not trusted enough; `reason` says why, and the way out."""
        self._withheld = reason

    def register(self, *targets: object, name: str | None = None, chains: Chains = NO_CHAINS) -> None:
        """Serve more, to this session alone; `chains` are the middleware of these targets alone.

        Raises:
            CertificateError: the peer is not trusted enough.
            SignatureError, ConfigurationError: as `Router.register`.
        """
        if self._withheld is not None:
            raise CertificateError(self._withheld)
        self._router.register(*targets, name=name, chains=chains)

    def is_safe(self, method: str) -> bool:
        """Return whether a method is here and changes nothing, so that it may run before a handshake is done."""
        route = self._router.method(method)
        return route is not None and route.binding.spec.safe

    # Calls

    kind_of_call = Invocation

    def on_calls(self, session: Session, calls: list[Invocation]) -> None:
        """Serve calls that came together; those that never wait are answered before this returns."""
        begin = partial(self._begin, session, session.loop.time())
        run_together(iter(calls), begin, session.tasks, self._runtime.clock.monotonic)

    def _begin(self, session: Session, now: float, call: Invocation) -> Coroutine[Any, Any, None] | None:
        """Serve a call; return what is left to do: nothing as a rule, for most handlers never wait.

        Such a one costs no coroutine but its own.
        """
        call.enter(session, now)
        if call.cancelled:  # before it began
            call.finish()
            return None
        route = self._router.method(call.method)
        if self._chain is not None or route is None or route.chains is not None:
            return self._see_to(call, self._answer(call, self._serve_through(route, call, call.frame)))
        try:
            handler = self._run(route, call, call.frame)
        except BaseException as error:  # noqa: BLE001 - the user's own code: told to the caller
            return self._see_to(call, _raised(error))
        if type(handler) is not CoroutineType:  # something else that can be awaited
            return self._see_to(call, self._answer(call, _encoded(route, handler)))
        try:
            waits_for = handler.send(None)
        except StopIteration as end:
            result = end.value
        except BaseException as error:  # noqa: BLE001
            return self._see_to(call, _raised(error))
        else:
            return self._see_to(call, self._answer(call, _encoded(route, go_on(handler, waits_for))))
        try:
            rest = call.respond(route.encode(result))
        except BaseException as error:  # noqa: BLE001
            return self._see_to(call, _raised(error))
        return None if rest is None else self._see_to(call, rest)

    async def _see_to(self, call: Invocation, answer: Awaitable[None]) -> None:
        """Wait for the answer to a call; whatever goes wrong, its caller hears of it."""
        try:
            await answer
        except asyncio.CancelledError:
            await self._on_cancelled(call)
        except ConnectionLostError:  # of another session, that the handler used, or of this one
            await _fail(call, RpcError(Status.UNAVAILABLE, "a connection behind this handler was lost"))
        except Exception as error:  # noqa: BLE001 - the user's own code
            await _fail(call, self._public(call, error, call.method))
        finally:
            call.finish()

    @staticmethod
    async def _answer(call: Invocation, result: Awaitable[WireValue]) -> None:
        rest = call.respond(await result)
        if rest is not None:
            await rest

    def _wire(self, frame: RequestFrame) -> WireValue:
        """Return what travelled for the arguments."""
        return [[frame.payload], {}] if frame.raw else self._runtime.payload.decode(frame.payload)

    def _run(
        self, route: MethodRoute, invocation: Invocation, frame: RequestFrame, request: Request | None = None
    ) -> Any:
        """Return the handler's run: to be awaited, gives its result, or None when it has sent items.

        Args:
            route: leads to the handler.
            invocation: the call.
            frame: the call as it came.
            request: the call as the middleware left it.
        """
        binding = route.binding
        if not route.is_plain and binding.spec.requires is not None:
            _check_permission(invocation, binding.name, binding.spec.requires)
        if binding.returns_items is not frame.accepts_items or binding.sends_items is not frame.sends_items:
            raise _wrong_shape(binding, frame)
        if request is not None:
            args, kwargs = binding.decode_arguments(request.args, request.kwargs)
        elif route.is_plain:
            return route.call(self._wire(frame))
        else:
            args, kwargs = binding.decode_arguments(*split_arguments(binding.name, self._wire(frame)))
        if binding.items_parameter is not None:
            chain = both(self._runtime.chains.inbound_item, route.chains.inbound_item if route.chains else None)
            take = item_taker(chain, invocation.session, binding.name, invocation)
            kwargs[binding.items_parameter] = invocation.items(binding.decode_item, take)
        if binding.context_parameter is not None:
            kwargs[binding.context_parameter] = invocation
        if binding.returns_items:
            return self._serve_items(route, invocation, args, kwargs)
        if route.thread:
            return self._run_in_thread(route, args, kwargs)
        return route.function(*args, **kwargs)

    async def _run_in_thread(self, route: MethodRoute, args: list[Any], kwargs: dict[str, Any]) -> Any:
        work = partial(copy_context().run, partial(route.function, *args, **kwargs))
        return await self._runtime.loop.run_in_executor(self._runtime.threads, work)

    async def _serve_items(
        self, route: MethodRoute, invocation: Invocation, args: list[Any], kwargs: dict[str, Any]
    ) -> None:
        items: AsyncIterator[Any] = route.function(*args, **kwargs)
        encode, send = route.binding.encode_item, invocation.send_item
        chain = both(route.chains.outbound_answer if route.chains else None, self._runtime.chains.outbound_answer)
        through = item_sender(chain, invocation.session, invocation.method, invocation)
        try:
            async for item in items:
                await (send(encode(item)) if through is None else through(encode(item), send))
        finally:
            close = getattr(items, "aclose", None)
            if close is not None:
                await close()

    async def _serve_through(self, route: MethodRoute | None, invocation: Invocation, frame: RequestFrame) -> WireValue:
        """Run the middleware around a call, the server's and then the service's; return what travels back."""
        session = invocation.session
        if self._chain is None and route is None:
            raise self._unknown_method(session, frame.method)
        positional, keyword = split_arguments(frame.method, self._wire(frame))
        request = request_of(invocation, frame, positional, keyword, route)
        guard = Once(request)

        async def handle(request: Request) -> WireValue:
            found = self._router.method(request.method)
            if found is None:
                raise self._unknown_method(session, request.method)

            async def run(request: Request) -> WireValue:
                guard.enter(request)
                return guard.leave(found.encode(await self._run(found, invocation, frame, request)))

            chain = found.chains.inbound_request if found.chains is not None else None
            return await (run(request) if chain is None else chain(request, run))

        return guard.check(await (handle(request) if self._chain is None else self._chain(request, handle)), route)

    async def _on_cancelled(self, invocation: Invocation) -> None:
        if invocation.is_expired:
            await _fail(
                invocation,
                RpcError(Status.DEADLINE_EXCEEDED, "the deadline passed while the handler ran; timeout= gives it more"),
            )
        elif not invocation.cancelled:  # by the handler's own doing, or because the server stops
            await _fail(invocation, RpcError(Status.CANCELLED, "the handler was cancelled"))

    def _public(self, context: Context, error: Exception, what: str) -> EchoStreamError:
        """Return what the peer may know of an error. What the handler did not mean to say stays here, in the log."""
        if isinstance(error, RpcError | ResourceError):
            if error.code is Status.INTERNAL:  # such as a result that does not fit: a bug of this side
                _log.error("! %s: %s", what, error.message)
            return error
        _log.error("! %s raised %s", what, type(error).__name__, exc_info=error)
        text = f"{type(error).__name__}: {error}" if self._runtime.debug else _HIDDEN
        if self._runtime.on_error is not None:
            self._runtime.on_error(error, context)
        unexpected = context.session.peer.unexpected
        return RpcError(Status.INTERNAL, text, details=unexpected.keep(error) if unexpected is not None else None)

    def _unknown_method(self, session: Session, method: str) -> RpcError:
        return RpcError(Status.UNIMPLEMENTED, self._unknown(session, "method", method, self._router.near))

    def _unknown(self, session: Session, what: str, name: str, near: Callable[[str], list[str]]) -> str:
        text = f"unknown {what} {name!r}"
        if not self._hints(session):
            return text
        if what == "method" and self.listeners.binding(name) is not None:
            return f"{text}; it is an event here: emit() it"
        if what == "method":
            name = name.strip("/").replace("/", ".")  # as gRPC writes it
        if names := near(name):
            return f"{text}; did you mean {' or '.join(names)}?"
        service, dot, _ = name.rpartition(".")
        if what != "method" or not dot:
            return text
        if self._router.serves(service):
            return f"{text}; {service!r} here has nothing like it: are both programs up to date?"
        return f"{text}; no service {service!r} is registered here: was {session.role}.register(...) forgotten?"

    # Application streams

    def on_stream(self, session: Session, event: ev.StreamOpened) -> None:
        """Start serving a stream, or refuse it."""
        route = self._router.stream(event.frame.name)
        context = Context(session, event.frame.name, event.frame.metadata)
        channel = make_channel(session, context.method, NO_CHAINS if route is None else route.chains, context)
        channel.attach(event.stream)
        channel.metadata = event.frame.metadata or {}
        event.stream.handle = channel
        if route is None:
            text = self._unknown(session, "stream", event.frame.name, self._router.near_streams)
            channel.reset(RpcError(Status.UNIMPLEMENTED, text))
            return
        limit = self._runtime.limits.max_streams
        if self._streams >= limit:  # of streams that were reset while their handlers did something else
            channel.reset(
                RpcError(Status.RESOURCE_EXHAUSTED, f"more than {limit} handlers of streams run (max_streams)")
            )
            return
        self._streams += 1
        chain = both(self._runtime.chains.inbound_stream, route.chains.inbound_stream)
        if chain is None:
            channel.accept()
        session.tasks.start(self._serve_stream(route, channel, context, chain), f"stream {event.frame.name}")

    async def _serve_stream(
        self, route: StreamRoute, channel: Channel, context: Context, chain: Chain[Opening] | None
    ) -> None:
        spec = route.binding.spec
        enter_context(context)
        try:
            if chain is None:
                await _run_stream(route, channel, context)
            else:
                opening = Opening(
                    session=context.session, name=context.method, metadata=channel.metadata, context=context
                )
                await chain(opening, lambda changed: _take_stream(route, channel, context, changed))
        except asyncio.CancelledError:
            channel.reset(RpcError(Status.CANCELLED, "the stream's handler was cancelled"))
        except Exception as error:  # noqa: BLE001 - the user's own code
            if error is not channel.error:
                channel.reset(self._public(context, error, f"stream {spec.name}"))
        else:
            if channel.remote_ended or channel.error is not None:
                channel.end()
            else:
                who = (
                    "stream's handler returned before the end of" if channel.accepted else "middleware did not hand on"
                )
                channel.reset(RpcError(Status.CANCELLED, f"the {who} the stream"))
        finally:
            self._streams -= 1


async def _take_stream(route: StreamRoute, channel: Channel, context: Context, opening: Opening) -> None:
    """Say yes to a stream that the middleware lets through, and run its handler."""
    channel.check()  # the other side may have given up meanwhile
    if channel.accepted:
        raise LocalProtocolError(f"stream {opening.name}: call_next was called twice, but a handler runs once")
    context.metadata = opening.metadata
    channel.accept()
    await _run_stream(route, channel, context)


async def _encoded(route: MethodRoute, handler: Awaitable[Any]) -> WireValue:
    return route.encode(await handler)


async def _raised(error: BaseException) -> NoReturn:
    raise error


async def _run_stream(route: StreamRoute, channel: Channel, context: Context) -> None:
    spec = route.binding.spec
    receiver: StreamReceiver[Any] = StreamReceiver(channel, route.binding.item)
    if not spec.accepts_context:
        await route.function(receiver)
    elif spec.context_keyword is not None:
        await route.function(receiver, **{spec.context_keyword: context})
    else:
        await route.function(receiver, context)


async def _fail(invocation: Invocation, error: EchoStreamError) -> None:
    with suppress(ConnectionLostError):  # nobody is left to be told
        await invocation.fail(error)


def _check_permission(context: Context, method: str, permission: str) -> None:
    """Raise unless who asks has the permission; without a principal nobody has any."""
    principal = context.principal
    if principal is None:
        raise RpcError(Status.UNAUTHENTICATED, f"{method} requires {permission!r}; connect with credentials")
    if permission not in principal.permissions:
        raise RpcError(Status.PERMISSION_DENIED, f"{method} requires {permission!r}, which {principal.name} lacks")


def _wrong_shape(binding: MethodBinding, frame: RequestFrame) -> InvalidArgumentError:
    called = f"{'a stream' if frame.sends_items else 'one value'} in, " + (
        "a stream out" if frame.accepts_items else "one value out"
    )
    by_name = ", or stream() by name" if binding.returns_items else ""
    return InvalidArgumentError(
        f"{binding.name} is {binding.shape.value}, but was called with {called}; use a proxy{by_name}"
    )
