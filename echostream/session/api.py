"""What a user does with a connection, on either side: call, stream, emit, listen, serve.

`Session` is one such conversation; `RpcClient` forwards to the session that it has now.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, overload

from echostream.binding import TypeCodec, codec_for, dump_any
from echostream.config import (
    DEFAULT_CALL_TIMEOUT,
    DEFAULT_CONNECT_TIMEOUT,
    DEFAULT_STREAM_CLOSE_TIMEOUT,
    checked_seconds,
)
from echostream.errors import ConfigurationError, DeadlineExceededError
from echostream.habits import OF_SESSIONS, Habits, refuse_keywords
from echostream.session.attempts import call_through
from echostream.session.call import Call
from echostream.session.calling import call_unary
from echostream.session.chains import item_sender
from echostream.session.emitter import EventAck, encode_event
from echostream.session.listeners import LEFT_OUT, CallbackT
from echostream.session.opening import StreamMode, StreamOptions, checked_sending, open_channel
from echostream.session.pending import CallRequest
from echostream.session.proxy import UNSET, CallOptions, ItemBlock, ItemIterator, ProxyMethod, iterate, make_proxy
from echostream.session.quality import SessionQuality, session_quality
from echostream.session.streams import OpenStream, StreamSender
from echostream.session.timesync import fresh_nonce, probe
from echostream.session.timing import TIMING

if TYPE_CHECKING:
    from echostream.session.clock import SessionClock
    from echostream.session.session import Session
    from echostream.types import Overflow

__all__ = ("Conversation",)

T = TypeVar("T")
P = ParamSpec("P")

_Block = AbstractAsyncContextManager[AsyncIterator[T]]


class Conversation(Habits, ABC):
    """The user's verbs, carried out on one session."""

    _habits = OF_SESSIONS

    @property
    @abstractmethod
    def _session(self) -> Session:
        """The session that they go to."""

    @property
    def clock(self) -> SessionClock:
        """The time that all sessions of the server share: its clock. On a client it is estimated while it is read."""
        return self._session.clock

    # Calls

    @overload
    async def request(
        self,
        method: str,
        /,
        *args: Any,
        returns: type[T],
        timeout: float | None = ...,
        metadata: Mapping[str, str | bytes] | None = ...,
        **kwargs: Any,
    ) -> T: ...
    @overload
    async def request(
        self,
        method: str,
        /,
        *args: Any,
        returns: Any = ...,
        timeout: float | None = ...,
        metadata: Mapping[str, str | bytes] | None = ...,
        **kwargs: Any,
    ) -> Any: ...
    async def request(
        self,
        method: str,
        /,
        *args: Any,
        returns: Any = None,
        timeout: float | None = DEFAULT_CALL_TIMEOUT,
        metadata: Mapping[str, str | bytes] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Call a unary method by name.

        Args:
            method: wire name, ``"orders.place"``.
            *args: positional arguments.
            returns: type that the result is validated as; None takes it as it comes.
            timeout: seconds, or None for no deadline.
            metadata: short strings sent along.
            **kwargs: keyword arguments.

        Raises:
            RpcError: the call failed; `code` says how.
            DeadlineExceededError: no answer in time.
            ConnectionLostError: the connection ended first.
        """
        arguments = [dump_any(value) for value in args], {key: dump_any(value) for key, value in kwargs.items()}
        request = CallRequest(method, arguments, _checked_timeout(timeout), _plain(metadata), session=self._session)
        decode = _decoder(returns, method)
        if self._session.chains.outbound_request is not None:
            return await call_through(self._session, request, decode)
        return await call_unary(self._session.peer, request, arguments, decode)

    def proxy(
        self,
        service: Callable[..., T],
        *,
        timeout: float | None = UNSET,
        metadata: Mapping[str, str | bytes] | None = None,
        timing: bool = False,
    ) -> T:
        """Return an object that looks like the service and calls it here.

        Args:
            service: the service class, or a contract (Protocol, ABC).
            timeout: seconds for every call, None for no deadline; left out, each handler's own or 10 s.
            metadata: sent along with every call.
            timing: ask the other side when each call came, began and ended: `Call.timing` tells where its time went.

        Raises:
            SignatureError: the class is no service, or a type in it cannot be validated.
        """
        if timeout is not UNSET:
            timeout = _checked_timeout(timeout)
        if timing:
            metadata = {**(metadata or {}), TIMING: "1"}
        made: T = make_proxy(self._session, service, CallOptions(timeout, metadata))
        return made

    def call(self, method: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs) -> Call[T]:
        """Start a call of a proxy's method as an object: progress, cancel, metadata.

        Raises:
            ConfigurationError: `method` is no method of a proxy, or it returns a stream.
        """
        bound = _proxy_method(method)
        if bound.binding.shape.returns_items:
            raise ConfigurationError("method", f"{bound.binding.name} returns a stream: use stream() for it")
        return Call(self._session, bound, args, kwargs)

    @overload
    def stream(self, method: Callable[P, AsyncIterator[T]], /, *args: P.args, **kwargs: P.kwargs) -> _Block[T]: ...
    @overload
    def stream(self, method: str, /, *args: Any, returns: type[T], **kwargs: Any) -> _Block[T]: ...
    @overload
    def stream(self, method: str, /, *args: Any, returns: Any = ..., **kwargs: Any) -> _Block[Any]: ...
    def stream(self, method: Any, /, *args: Any, **kwargs: Any) -> _Block[Any]:
        """Call a method that returns a stream, as a block: ``async with client.stream(orders.watch, "A") as ticks``.

        At the end of the block the remote generator is closed. A method may be given by name, with the type of the
        items as ``returns=``, ``timeout=`` and ``metadata=``; an async iterator among the arguments is its input.
        """
        if isinstance(method, str):
            return ItemBlock(self._iterate_by_name(method, args, **kwargs))
        bound = _proxy_method(method)
        if not bound.binding.shape.returns_items:
            raise ConfigurationError("method", f"{bound.binding.name} returns one value: await it, or use call()")
        return ItemBlock(bound(*args, **kwargs))

    def _iterate_by_name(
        self,
        method: str,
        args: tuple[Any, ...],
        *,
        returns: Any = None,
        timeout: float | None = None,
        metadata: Mapping[str, str | bytes] | None = None,
        **kwargs: Any,
    ) -> ItemIterator:
        items: AsyncIterable[Any] | None = next((item for item in args if isinstance(item, AsyncIterable)), None)
        arguments = (
            [dump_any(value) for value in args if value is not items],
            {key: dump_any(value) for key, value in kwargs.items()},
        )
        request = CallRequest(
            method,
            arguments,
            _checked_timeout(timeout),
            _plain(metadata),
            items=items,
            encode_item=dump_any,
            accepts_items=True,
            session=self._session,
            send_through=item_sender(self._session.chains.outbound_item, self._session, method),
        )
        return iterate(self._session, request, _decoder(returns, method))

    # Events

    @overload
    async def emit(
        self,
        event: object,
        *payload: object,
        ack: Literal[True],
        timeout: float | None = ...,
        metadata: Mapping[str, str | bytes] | None = ...,
    ) -> EventAck: ...
    @overload
    async def emit(
        self,
        event: object,
        *payload: object,
        ack: Literal[False] = ...,
        timeout: float | None = ...,
        metadata: Mapping[str, str | bytes] | None = ...,
    ) -> None: ...
    async def emit(
        self,
        event: object,
        *payload: object,
        ack: bool = False,
        timeout: float | None = DEFAULT_CALL_TIMEOUT,
        metadata: Mapping[str, str | bytes] | None = None,
        **unknown: object,
    ) -> EventAck | None:
        """Send an event to the peer: ``emit(PriceChanged(...))`` or ``emit("price.changed", {...})``.

        Waits while the network is slow. With `ack` it also waits, for up to `timeout` seconds, until the other
        side's listeners ran, and tells how many did and how many of them raised.

        Raises:
            DeadlineExceededError: not sent, or with `ack` not acknowledged, in time.
            ConnectionLostError: the connection ended.
        """
        if unknown:
            refuse_keywords("emit", unknown)
        name, wire = encode_event(event, *payload)
        session, known = self._session, _plain(metadata)
        _checked_timeout(timeout)
        if session.chains.outbound_event is not None:
            return await session.events.emit_through(
                session.chains.outbound_event, name, wire, ack=ack, timeout=timeout, metadata=known
            )
        return await session.events.emit(name, wire, ack=ack, timeout=timeout, metadata=known)

    @overload
    def on(self, event: type | str) -> Callable[[CallbackT], CallbackT]: ...
    @overload
    def on(self, event: type | str, callback: Callable[..., Any]) -> Callable[[], None]: ...
    def on(self, event: type | str, callback: Callable[..., Any] = LEFT_OUT) -> Callable[..., Any]:
        """Listen to an event of the peer; return the function that unsubscribes.

        Without a callback it is a decorator: ``@client.on(PriceChanged)`` above the function, which stays as it is
        and listens for as long as the session lives.

        Args:
            event: an event class, a name, or a pattern in which ``*`` stands for any characters (``price.*``).
            callback: plain or async, ``(payload)`` or ``(payload, ctx)``.

        Raises:
            ConfigurationError: `event` is no event, or `callback` takes neither one nor two arguments.
        """
        return self._session.listeners.subscribe(event, callback)

    @overload
    def once(self, event: type | str) -> Callable[[CallbackT], CallbackT]: ...
    @overload
    def once(self, event: type | str, callback: Callable[..., Any]) -> Callable[[], None]: ...
    def once(self, event: type | str, callback: Callable[..., Any] = LEFT_OUT) -> Callable[..., Any]:
        """Listen to the next such event only; a decorator without a callback, like `on`."""
        return self._session.listeners.subscribe(event, callback, once=True)

    # Services of this side

    def register(self, *targets: object, name: str | None = None) -> None:
        """Serve objects of ``@service`` classes and ``@handler`` functions to this peer.

        Args:
            *targets: what to serve; bound methods too.
            name: wire name of the one function given.

        Raises:
            SignatureError: a type cannot be validated.
            ConfigurationError: a name is taken, or a target is neither.
        """
        self._session.services.register(*targets, name=name)

    # Streams

    def open_stream(
        self,
        name: str,
        *,
        item: Any = None,
        returns: Any = None,
        mode: StreamMode = "reliable",
        time_sync: bool = False,
        policy: Overflow | None = None,
        max_items: int | None = None,
        max_age: float | None = None,
        rate: float | None = None,
        metadata: Mapping[str, str | bytes] | None = None,
        timeout: float | None = DEFAULT_CONNECT_TIMEOUT,
        close_timeout: float | None = DEFAULT_STREAM_CLOSE_TIMEOUT,
    ) -> OpenStream:
        """Open a named application stream: ``async with client.open_stream("microphone") as sender``.

        Args:
            name: what the other side's ``@stream(name)`` says.
            item: type of the items sent; None takes bytes, plain values and models as they are.
            returns: type of the items that come back.
            mode: ``reliable``, or ``datagram`` for items that are of no use when they are late: they may be lost and
                overtake one another, and nothing waits for them. Where datagrams cannot be had they travel reliably,
                and old ones are dropped before they are sent.
            time_sync: give each item a timestamp in session time, see `StreamReceiver.recv_aligned`.
            policy: what happens to items that cannot be sent at once: ``block`` (`send` waits, the default of reliable
                streams), ``drop_oldest`` (that of datagrams), ``drop_newest`` or ``disconnect`` (the stream is reset).
            max_items: items that may wait to be sent, where they do; None for `Limits.max_queued_items`.
            max_age: seconds that they may wait; None for `Limits.item_max_age` in datagram mode, else for any time.
            rate: payload bytes a second that are sent at the most; None for as many as the network takes.
            metadata: sent along.
            timeout: seconds for the other side's yes, None for any time.
            close_timeout: seconds that the end of the block waits for the other side's handler, None for any time.

        Raises:
            SignatureError: a type cannot be validated.
            ConfigurationError: an option is unknown or out of range.
        """
        session, codec, back = self._session, _codec_or_none(item), _codec_or_none(returns)
        _checked_timeout(timeout)
        _checked_timeout(close_timeout, "close_timeout")

        async def opened(options: StreamOptions) -> StreamSender[Any]:
            channel = await open_channel(session, name, _plain(metadata), timeout, options)
            return StreamSender(channel, codec, back=back, close_timeout=close_timeout)

        return OpenStream(opened, StreamOptions(mode, time_sync, checked_sending(policy, max_items, max_age, rate)))

    def quality(self) -> SessionQuality:
        """Return how the session and its streams do, in figures."""
        return session_quality(self._session)

    async def ping(self, *, timeout: float = DEFAULT_CALL_TIMEOUT) -> float:
        """Measure one round trip in seconds with a TimeSync probe, the peer's own time taken off (RFC 5905 section 8).

        Raises:
            DeadlineExceededError: no answer in time.
            ConnectionLostError: the connection ended.
        """
        try:
            async with asyncio.timeout(timeout):
                event = await probe(self._session.peer, fresh_nonce())
        except TimeoutError:
            raise DeadlineExceededError(f"no answer to a probe within {timeout:.3g} s", duration=timeout) from None
        frame = event.frame
        return max(0, (event.arrived_ns - frame.t1_ns) - (frame.t3_ns - frame.t2_ns)) / 1e9


def _proxy_method(method: Any) -> ProxyMethod:
    if not isinstance(method, ProxyMethod):
        shown = getattr(method, "__qualname__", repr(method))
        by_name = f", or call by name with request({method!r}, ...)" if isinstance(method, str) else ""
        raise ConfigurationError(
            "method", f"{shown} is no method of a proxy: make one with client.proxy(Service){by_name}"
        )
    return method


def _checked_timeout(timeout: float | None, field: str = "timeout") -> float | None:
    return None if timeout is None else checked_seconds(field, timeout, ", or None for no deadline")


def _plain(metadata: Mapping[str, str | bytes] | None) -> dict[str, str | bytes] | None:
    return None if metadata is None else dict(metadata)


def _decoder(returns: Any, method: str) -> Callable[[Any], Any]:
    """Return what makes a result of a wire value."""
    if returns is None:
        return _same
    return codec_for(returns).reply_reader(method)


def _same(value: Any) -> Any:
    return value


def _codec_or_none(item_type: Any) -> TypeCodec | None:
    """Return the codec of an item type; None for any type."""
    return None if item_type is None else codec_for(item_type)
