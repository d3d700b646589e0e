"""What a server needs around it: the signals that stop it, and what it listens with."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from echostream.config import MAX_EARLY_BYTES, Limits
from echostream.errors import ConfigurationError
from echostream.transport.base import Accept, Address, Listener, Transport
from echostream.wiring import make_transport

if TYPE_CHECKING:
    from os import PathLike

    from echostream.transport.tls import ServerTls

__all__ = ("Doors", "on_stop_signals", "until_stopped")


async def until_stopped(stopped: asyncio.Event) -> None:
    """Wait for SIGINT, SIGTERM or the event, whichever comes first."""
    interrupted = asyncio.Event()
    restore = on_stop_signals(asyncio.get_running_loop(), interrupted.set)
    waits = [asyncio.ensure_future(event.wait()) for event in (interrupted, stopped)]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        restore()
        for wait in waits:
            wait.cancel()


def on_stop_signals(loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> Callable[[], None]:
    """Call `stop` at the first SIGINT or SIGTERM; a second one gets its usual, sudden meaning back.

    Returns:
        What puts the usual meaning back at once. Where signals cannot be handled (Windows, another thread) nothing
        changes and SIGINT cancels the running task as ever.
    """
    numbers = (signal.SIGINT, signal.SIGTERM)

    def restore() -> None:
        for number in numbers:
            loop.remove_signal_handler(number)

    def first() -> None:
        restore()
        stop()

    try:
        for number in numbers:
            loop.add_signal_handler(number, first)
    except (NotImplementedError, ValueError, RuntimeError):
        return lambda: None
    return restore


class Doors:
    """What a server listens with: a transport for each scheme, and its certificate."""

    def __init__(
        self,
        engine: str,
        limits: Limits,
        *,
        early_data: bool,
        certificate: str | PathLike[str] | bytes | None,
        private_key: str | PathLike[str] | bytes | None,
    ) -> None:
        """Prepare; nothing is opened or read yet. The arguments are those of `RpcServer`.

        Raises:
            ConfigurationError: early data would be over the limit of what an unknown peer may send.
        """
        _check_early_data(limits, early_data=early_data)
        self._engine = engine
        self._limits = limits
        self._early_data = early_data
        self._certificate = certificate
        self._private_key = private_key
        self._transports: dict[str, Transport[Any, Any]] = {}
        self._tls: ServerTls | None = None

    def transport(self, scheme: str) -> Transport[Any, Any]:
        """Return the transport of a scheme.

        Raises:
            ConfigurationError: there is none, or the engine does not exist.
        """
        if scheme not in self._transports:
            self._transports[scheme] = make_transport(scheme, self._engine, self._limits, early_data=self._early_data)
        return self._transports[scheme]

    def tls(self) -> ServerTls:
        """Return the certificate with its key; reads files, and may make them."""
        from echostream.transport.tls import ServerTls

        if self._tls is None:
            self._tls = ServerTls.load(self._certificate, self._private_key)
        return self._tls

    async def open(self, address: Address, accept: Accept) -> Listener:
        """Listen at an address.

        Raises:
            ConnectError: it cannot be bound.
        """
        tls = None if address.is_in_process else await asyncio.to_thread(self.tls)
        return await self.transport(address.scheme).listen(address, accept=accept, tls=tls)


def _check_early_data(limits: Limits, *, early_data: bool) -> None:
    if early_data and limits.max_unauthenticated_bytes < MAX_EARLY_BYTES:
        raise ConfigurationError(
            "early_data",
            f"takes up to {MAX_EARLY_BYTES} bytes before a Hello is accepted: raise max_unauthenticated_bytes from"
            f" {limits.max_unauthenticated_bytes}",
        )
