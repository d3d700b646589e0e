"""What people call things in other libraries, and what those are here: the text of an AttributeError."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Final, NoReturn

__all__ = ("OF_SERVERS", "OF_SESSIONS", "Habits", "refuse_keywords")

_NO_ROOMS: Final = "there are no rooms yet: broadcast(event, where=...) picks sessions"
_KEPT: Final = 'what lives as long as a session is a dependency: Annotated[T, Depends(T, scope="session")]'

_SERVERS: Final = {
    "delete get handler method post put route subscriber websocket": (
        'mark the function with @handler("name"), and give it to server.register'
    ),
    "add_rpc add_service include_router mount register_namespace": "server.register(Orders()) serves an object",
    "event listener": "mark classes with @event(name), and listen with server.on(event, callback)",
    "emit publish send": "server.broadcast(event) goes to all, session.emit(event) to one of server.sessions",
    "call proxy request": "a server has many clients: take one of server.sessions, session.proxy(Service)",
    "close_room enter_room leave_room room rooms": _NO_ROOMS,
    "get_session save_session session": _KEPT,
    "add_middleware middleware use": "layers are given when it is made, RpcServer(middleware=[...])",
    "add_exception_handler exception_handler": "raise RpcError to answer, and see the rest with @server.on_error",
    "on_event on_startup on_shutdown after_startup": "@server.on_start and @server.on_stop, or RpcServer(lifespan=...)",
    "add_insecure_port add_secure_port listen": "addresses are given when it is made, RpcServer(url), or to bind(url)",
    "clock": (
        "session time is this machine's time.monotonic_ns(); handlers have ctx.clock, and each of server.sessions has "
        "session.clock"
    ),
    "run run_forever wait_for_termination": "await server.serve() runs until Ctrl-C",
    "close shutdown": "await server.stop()",
}

_SESSIONS: Final = {
    "publish send": "emit(event) says that something happened, and proxy(Service) calls",
    "add_listener event handler subscribe subscriber": "on(event, callback) listens, and register(Service()) serves",
    "off remove_listener unsubscribe": "on(event, callback) returns the function that ends it",
    "broadcast": "only a server reaches all, server.broadcast(event); emit(event) goes to the other side",
    "close_room enter_room join leave leave_room rooms": _NO_ROOMS,
    "get_session save_session": _KEPT,
    "get post stub unary_unary": 'proxy(Service) is typed, and request("service.method", ...) calls by name',
    "datagram send_datagram send_datagrams": 'open_stream(name, mode="datagram") sends items that may be lost',
    "sync sync_time time_sync": "clock has session time: await clock.wait_locked(), then clock.now_ns()",
    "reconnect": "there is no reconnection yet: connect again",
    "wait": "await session.wait_closed(); a client has client.session",
    "aclose disconnect shutdown stop": "await close()",
}


def _by_name(table: Mapping[str, str]) -> dict[str, str]:
    return {name: hint for names, hint in table.items() for name in names.split()}


_ONE: Final = "emit goes to the other end of one session; a server's broadcast(event, where=...) picks sessions"
_PAYLOAD: Final = 'the payload has no name: emit(PriceChanged(...)), or emit("price.changed", payload)'

_KEYWORDS: Final = {
    "include_self namespace room rooms sid skip_sid to": _ONE,
    "args body data message payload": _PAYLOAD,
    "callback wait": "await emit(event, ack=True) waits for the listeners",
}

OF_SERVERS: Final = _by_name(_SERVERS)
OF_SESSIONS: Final = _by_name(_SESSIONS)
_OF_EVENTS: Final = _by_name(_KEYWORDS)


def refuse_keywords(verb: str, unknown: Mapping[str, object]) -> NoReturn:
    """Say that a keyword for an event is not there, and what it is here if it was brought along."""
    name = next(iter(unknown))
    hint = _OF_EVENTS.get(name)
    text = f"{verb}() got an unexpected keyword argument {name!r}"
    raise TypeError(f"{text}: {hint}" if hint else text)


class Habits:
    """Says what an attribute that is not there is called here, if somebody brought its name along."""

    __slots__ = ()
    _habits: ClassVar[Mapping[str, str]] = {}

    if not TYPE_CHECKING:  # checkers find this slip by themselves, unless somebody defines what is missing

        def __getattr__(self, name: str) -> NoReturn:
            """Say what it is called here."""
            hint = self._habits.get(name)
            text = f"{type(self).__name__!r} object has no attribute {name!r}"
            raise AttributeError(f"{text}: {hint}" if hint else text, name=name, obj=self)
