"""Typed proxies: an object that looks like the service and calls it over a session."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn

from echostream.binding import MethodBinding, bind_service
from echostream.config import DEFAULT_CALL_TIMEOUT
from echostream.errors import ConfigurationError
from echostream.session.attempts import ChainedCall, call_through
from echostream.session.calling import call_unary, call_usual
from echostream.session.chains import item_sender, item_taker
from echostream.session.pending import NO_ARGUMENTS, CallRequest, PendingCall, UsualCall, WireArguments
from echostream.session.streaming import StreamingCall, call_with_items
from echostream_derive import CallShape, is_service

if TYPE_CHECKING:
    from echostream.protocol.frames import ResponseFrame
    from echostream.session.session import Session
    from echostream.types import Metadata

__all__ = ("UNSET", "CallOptions", "ItemIterator", "ProxyMethod", "ServiceProxy", "iterate", "make_proxy")

UNSET: Final[Any] = type("Unset", (), {"__repr__": lambda self: "UNSET"})()
"""Nothing was said, where None means something."""


@dataclass(frozen=True, slots=True)
class CallOptions:
    """What a proxy adds to every call."""

    timeout: float | None = UNSET
    """Seconds, None for no deadline, UNSET for the handler's own or the default."""
    metadata: Mapping[str, str | bytes] | None = None


class ServiceProxy:
    """Stands in for a service. Its attributes are the service's methods."""

    def __init__(self, session: Session, service: type, options: CallOptions) -> None:
        binding = bind_service(service)
        self.__dict__.update(
            (attribute, ProxyMethod(session, method, options)) for attribute, method in binding.by_attribute.items()
        )
        self.__dict__["_echostream_name"] = binding.name

    def __getattr__(self, name: str) -> ProxyMethod:
        methods = dict(self.__dict__)
        service = methods.pop("_echostream_name", "?")
        raise AttributeError(f"service {service!r} has no handler {name!r}; it has {', '.join(sorted(methods))}")

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a proxy holds nothing: {name!r} cannot be set; options go to client.proxy(...)")

    def __repr__(self) -> str:
        return f"<proxy of {self.__dict__['_echostream_name']}>"


class ProxyMethod:
    """One method of a proxy: call it."""

    __slots__ = ("_chained", "_peer", "_plain", "_session", "_timeout", "_usual", "binding", "options")

    def __init__(self, session: Session, binding: MethodBinding, options: CallOptions) -> None:
        self._session = session
        self._peer = session.peer
        self._chained = session.chains.outbound_request is not None
        self._timeout = _timeout(binding, options)
        self.binding = binding
        self.options = options
        # All calls share it, but for those with metadata, which are read anew for each.
        plain = binding.shape is CallShape.UNARY and not self._chained and options.metadata is None
        self._plain = self._request(NO_ARGUMENTS) if plain else None
        self._usual: UsualCall | None = None
        if self._plain is not None:
            self._usual = UsualCall.of(self._plain, binding)

    def __repr__(self) -> str:
        return f"<proxy method {self.binding.name}>"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Start the call: a coroutine for one result, an async iterator for many."""
        usual, binding = self._usual, self.binding
        if usual is not None:
            if len(args) == 1 and not kwargs and usual.encode_one is not None:
                value = args[0]
                if type(value) is not usual.one_type:
                    value = usual.encode_one(value)
                return call_usual(self._peer, usual, value)
            return call_usual(self._peer, usual, None, binding.encode_arguments(args, kwargs))
        if self._plain is not None:
            arguments = binding.encode_arguments(args, kwargs)
            return call_unary(self._peer, self._plain, arguments, binding.decode_result)
        shape = binding.shape
        request = self.request(args, kwargs)
        if shape is CallShape.UNARY:
            return self.unary(request)
        if shape is CallShape.CLIENT_STREAMING:
            return self.collect(request)
        return iterate(self._session, request, self.binding.decode_output_item, idempotent=self.idempotent)

    @property
    def idempotent(self) -> bool:
        """Whether a call may be tried again after the handler ran."""
        return self.binding.spec.idempotent or self.binding.spec.safe

    def request(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> CallRequest:
        """Return what to call, with arguments encoded.

        Raises:
            TypeError: the arguments do not fit the signature.
            InvalidArgumentError: a value does not fit its type.
        """
        binding, session = self.binding, self._session
        items: AsyncIterable[Any] | None = None
        if binding.sends_items:
            args, kwargs, items = binding.take_items(args, kwargs)
        request = self._request(binding.encode_arguments(args, kwargs))
        if items is not None:
            request.items = items
            request.encode_item = binding.encode_input_item
            request.send_through = item_sender(session.chains.outbound_item, session, binding.name)
        return request

    def _request(self, arguments: WireArguments) -> CallRequest:
        binding, metadata = self.binding, self.options.metadata
        return CallRequest(
            binding.name,
            arguments,
            self._timeout,
            None if metadata is None else dict(metadata),
            binding.raises,
            self._session,
            binding.spec.safe,
            binding.returns_items,
        )

    def unary(
        self,
        request: CallRequest,
        pending: PendingCall | None = None,
        seen: Callable[[ResponseFrame], None] | None = None,
    ) -> Coroutine[Any, Any, Any]:
        """Return the call in the making, with the validated result; `seen` is shown the response frame."""
        decode = self.binding.decode_result
        if self._chained:
            return call_through(self._session, request, decode, pending, seen, idempotent=self.idempotent)
        return call_unary(self._session.peer, request, request.arguments, decode, pending, seen)

    def collect(
        self,
        request: CallRequest,
        pending: PendingCall | None = None,
        seen: Callable[[ResponseFrame], None] | None = None,
    ) -> Coroutine[Any, Any, Any]:
        """Return the call with a stream of items in the making; as `unary`."""
        decode = self.binding.decode_result
        if self._chained:
            return call_through(self._session, request, decode, pending, seen, idempotent=self.idempotent)
        return call_with_items(self._session.peer, request, decode, pending, seen)


def _timeout(binding: MethodBinding, options: CallOptions) -> float | None:
    """Return the seconds that a call may take: as the proxy says, else the handler, else the default for its shape."""
    if options.timeout is not UNSET:
        return options.timeout
    if binding.spec.timeout_set:
        return binding.spec.timeout
    return DEFAULT_CALL_TIMEOUT if binding.shape is CallShape.UNARY else None


def iterate(
    session: Session, request: CallRequest, decode: Callable[[Any], Any], *, idempotent: bool = False
) -> ItemIterator:
    """Return the iterator over the items of a call's result; the call starts with the first one."""
    chains = session.chains
    call: StreamingCall | ChainedCall
    if chains.outbound_request is not None:
        call = ChainedCall(session, request, idempotent=idempotent)
    else:
        call = StreamingCall(session.peer, request)
    return ItemIterator(call, decode, item_taker(chains.inbound_answer, session, request.method))


class ItemBlock(AbstractAsyncContextManager[AsyncIterator[Any]]):
    """What `stream` returns: the block begins the call, and closes the remote generator at its end."""

    __slots__ = ("_items",)

    def __init__(self, items: ItemIterator) -> None:
        self._items = items

    async def __aenter__(self) -> ItemIterator:
        try:
            await self._items.start()
        except BaseException:
            await self._items.aclose()
            raise
        return self._items

    async def __aexit__(self, *_: object) -> None:
        await self._items.aclose()

    if not TYPE_CHECKING:  # checkers find this slip by themselves, unless somebody defines what is missing

        def __aiter__(self) -> NoReturn:
            """Say what was meant."""
            raise TypeError("stream() is a block: write `async with client.stream(...) as items:`, then `async for`")


class ItemIterator(AsyncIterator[Any]):
    """Items of a streaming call. Closing it, or dropping it, ends the remote generator."""

    __slots__ = ("_call", "_decode", "_take")

    def __init__(
        self,
        call: StreamingCall | ChainedCall,
        decode: Callable[[Any], Any],
        take: Callable[[Any], Awaitable[Any]] | None = None,
    ) -> None:
        self._call = call
        self._decode = decode
        self._take = take

    def __repr__(self) -> str:
        return f"<items of {self._call.request.method}>"

    @property
    def initial_metadata(self) -> Metadata:
        """What came with the first item."""
        return self._call.initial_metadata

    @property
    def trailing_metadata(self) -> Metadata:
        """What came with the end."""
        return self._call.trailing_metadata

    async def start(self) -> None:
        """Send the request now instead of with the first item."""
        if not self._call.started:
            await self._call.start()

    async def __anext__(self) -> Any:
        call = self._call
        if not call.started:
            await call.start()
        frame = await call.next_item()
        peer = call.peer
        try:
            value = frame.payload if frame.raw else peer.runtime.payload.decode(frame.payload)
            if self._take is not None:
                value = await self._take(value)
            return self._decode(value)
        except BaseException:
            call.cancel()
            raise

    async def aclose(self) -> None:
        """End the remote generator, if it has not ended."""
        await self._call.aclose()

    if not TYPE_CHECKING:  # checkers find this slip by themselves, unless somebody defines what is missing

        def __await__(self) -> NoReturn:
            """Say what was meant."""
            method = self._call.request.method
            raise TypeError(f"{method} returns a stream, so it is not awaited: write `async for item in {method}(...)`")

        def __iter__(self) -> NoReturn:
            """Say what was meant."""
            method = self._call.request.method
            raise TypeError(f"{method} returns a stream that comes by and by: write `async for item in {method}(...)`")

    def __del__(self) -> None:
        # `break` in `async for` leaves the iterator to the garbage collector: do not leave the other side running.
        call: StreamingCall | ChainedCall | None = getattr(self, "_call", None)
        if call is not None and call.running and not call.peer.runtime.loop.is_closed():
            call.peer.runtime.loop.call_soon_threadsafe(call.cancel)  # the collector runs in any thread


def make_proxy(session: Session, service: Any, options: CallOptions) -> Any:
    """Return a proxy for a service class or contract.

    Raises:
        SignatureError: the class is no service, or a type in it cannot be validated.
        ConfigurationError: an object was given instead of its class.
    """
    if not isinstance(service, type):
        name = type(service).__name__
        if is_service(type(service)):
            raise ConfigurationError("service", f"{name} object given: give the class, client.proxy({name})")
        raise ConfigurationError("service", f"{service!r} is no class: give that of the service, or use request()")
    return ServiceProxy(session, service, options)
