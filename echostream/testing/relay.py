"""A bad network on real sockets: a relay on loopback whose two directions behave as `Link` says.

``with ImpairmentRelay("127.0.0.1:4433", link=Link(delay=0.02, loss=0.05)) as relay:`` and connect to `relay.address`
instead. It takes UDP and TCP on one port number. TCP gets what an application sees of a bad network: delay, jitter,
bandwidth, stalls and cut connections; loss, order and damage are the kernel's work to mend, so they are left out.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from echostream.errors import ConfigurationError
from echostream.testing.link import Link, LinkState
from echostream.testing.relay_loop import RelayLoop
from echostream.testing.relay_tcp import TcpSide
from echostream.testing.relay_udp import UdpSide

__all__ = ("ImpairmentRelay", "Passage")

_MAX_LOG: Final = 100_000
"""Passages that the log keeps, the newest."""
_PORT_TRIES: Final = 20
_STOP_TIMEOUT: Final = 10.0


@dataclass(frozen=True, slots=True)
class Passage:
    """One packet, or one piece of a TCP stream, that the relay passed on. Times in seconds."""

    to_server: bool
    """Its direction."""
    planned: float
    """How long it had to take."""
    applied: float
    """How long it took: judge by this one."""


class ImpairmentRelay:
    """Stands between clients and a server, in a thread of its own so that its times are kept.

    What waits in it is bounded: packets by a number (the rest is lost and counted), TCP by not reading.

    Attributes:
        forward, back: counts of the UDP packets of each direction, see `LinkState`.
        log: what passed, and how long it really took; the newest 100,000.
    """

    def __init__(
        self,
        target: str | tuple[str, int],
        *,
        link: Link | None = None,
        back: Link | None = None,
        seed: int = 0,
        steps: Sequence[tuple[float, Callable[[ImpairmentRelay], None]]] = (),
        host: str = "127.0.0.1",
    ) -> None:
        """Prepare; nothing is opened yet.

        Args:
            target: where the server is, ``"127.0.0.1:4433"``; a URL of `RpcServer.addresses` will do.
            link: from the clients to the server.
            back: the other way; left out, as `link`.
            seed: the same seed gives the same fate to packet n of a direction.
            steps: what changes when: (seconds after the start, what to call with this relay).
            host: the address to listen on.

        Raises:
            ConfigurationError: the target is no address.
        """
        self._target = _parse(target)
        self._host = host
        link = link or Link(delay=0.0)
        self.forward = LinkState(link, f"{seed}/forward")
        self.back = LinkState(back or link, f"{seed}/back")
        self._seed = seed
        self.log: deque[Passage] = deque(maxlen=_MAX_LOG)
        self._steps = steps
        self._loop: RelayLoop | None = None
        self._udp: UdpSide | None = None
        self._tcp: TcpSide | None = None

    def __repr__(self) -> str:
        where = self.address if self._loop is not None else "stopped"
        return f"<ImpairmentRelay {where} to {self._target[0]}:{self._target[1]}>"

    @property
    def port(self) -> int:
        """The port to connect to instead of the server's."""
        if self._udp is None:
            raise RuntimeError("the relay does not run: start it first")
        return self._udp.port

    @property
    def address(self) -> str:
        """Where to connect to, as ``host:port``."""
        return f"[{self._host}]:{self.port}" if ":" in self._host else f"{self._host}:{self.port}"

    # Life

    def start(self) -> None:
        """Open the ports and begin.

        Raises:
            RuntimeError: it runs already.
        """
        if self._loop is not None:
            raise RuntimeError("the relay runs already")
        udp, tcp = _bind_both(self._host)
        self._loop = loop = RelayLoop()
        self._udp = UdpSide(loop, udp, self._target, self.forward, self.back, self._note)
        self._tcp = TcpSide(loop, tcp, self._target, self.forward, self.back, self._note, seed=self._seed)
        for after, step in self._steps:
            loop.call_later(after, lambda step=step: step(self))  # type: ignore[misc]
        loop.start()

    def stop(self) -> None:
        """End the thread and close every socket; what was on the way is lost. Idempotent.

        Raises:
            Exception: what a step raised.
        """
        loop, self._loop = self._loop, None
        if loop is None:
            return
        loop.stop(timeout=_STOP_TIMEOUT)
        for side in (self._udp, self._tcp):
            if side is not None:
                side.close()
        self._udp = self._tcp = None
        loop.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    # While it runs; also for steps

    def join(self, link: Link, *, back: Link | None = None) -> None:
        """Change what the relay does, from now on: `link` to the server, `back` (left out: the same) the other way."""

        def change() -> None:
            self.forward.link, self.back.link = link, back or link
            if self._tcp is not None:
                self._tcp.changed()

        self._do(change)

    def cut(self, *, forward: bool = True, back: bool = True) -> None:
        """Let nothing pass until `heal`: packets are lost, TCP stands still."""

        def change() -> None:
            self.forward.is_cut, self.back.is_cut = forward, back
            if self._tcp is not None:
                self._tcp.changed()

        self._do(change)

    def heal(self) -> None:
        """Let everything pass again."""
        self.cut(forward=False, back=False)

    def rebind(self) -> None:
        """Reach the server from other UDP ports, as behind a NAT that forgot; answers to the old ones are lost."""
        self._do(lambda: self._udp.rebind() if self._udp is not None else None)

    def drop_connections(self) -> None:
        """Reset every TCP connection, on both sides."""
        self._do(lambda: self._tcp.drop() if self._tcp is not None else None)

    def _do(self, change: Callable[[], None]) -> None:
        """Run in the relay's thread, and wait for it."""
        loop = self._loop
        if loop is None or loop.is_own_thread:
            change()
            return
        done: Future[None] = Future()

        def run() -> None:
            change()
            done.set_result(None)

        loop.call_from_outside(run)
        done.result(_STOP_TIMEOUT)

    def _note(self, to_server: bool, planned: float, applied: float) -> None:
        self.log.append(Passage(to_server, planned, applied))


def _parse(target: str | tuple[str, int]) -> tuple[str, int]:
    if isinstance(target, tuple):
        return target
    host, _, port = target.rpartition("://")[2].rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigurationError("target", f"{target!r} is no address, expected like 127.0.0.1:4433")
    return host.strip("[]"), int(port)


def _bind_both(host: str) -> tuple[socket.socket, socket.socket]:
    """Bind UDP and TCP to one port number that is free for both."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    left = _PORT_TRIES
    while True:
        left -= 1
        tcp = socket.create_server((host, 0), family=family)
        udp = socket.socket(family, socket.SOCK_DGRAM)
        try:
            udp.bind(tcp.getsockname())
        except OSError:
            tcp.close()
            udp.close()
            if not left:
                raise
        else:
            return udp, tcp
