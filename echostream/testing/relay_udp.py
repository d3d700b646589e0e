"""The packets of a relay: from each client's address through a socket of its own to the server, and back."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, Final

from echostream.testing.link import LinkState
from echostream.testing.relay_loop import RelayLoop
from echostream.types import clock

__all__ = ("Note", "UdpSide")

Note = Callable[[bool, float, float], None]
"""Told of what passed: to the server?, planned and applied seconds."""

_READ_BYTES: Final = 65_535
_BURST: Final = 64
_BUFFER_BYTES: Final = 4 << 20
_MAX_CLIENTS: Final = 256
"""The one that came first is forgotten when another comes."""
_MAX_FLYING: Final = 65_536
"""Packets on the way; the next ones are lost."""


class UdpSide:
    """Runs in the relay's thread; `close` when that has ended."""

    def __init__(
        self,
        loop: RelayLoop,
        front: socket.socket,
        target: tuple[str, int],
        forward: LinkState,
        back: LinkState,
        note: Note,
    ) -> None:
        self.port: int = front.getsockname()[1]
        self._loop = loop
        self._front = front
        self._target = target
        self._forward = forward
        self._back = back
        self._note = note
        self._flying = 0
        self._clients: dict[Any, socket.socket] = {}
        _prepare(front)
        loop.watch(front, self._read_front)

    def rebind(self) -> None:
        """Take another port towards the server for every client."""
        for address, old in list(self._clients.items()):
            self._clients[address] = self._open_back(address)
            self._close_back(old)

    def close(self) -> None:
        """Close the sockets."""
        self._front.close()
        for sock in self._clients.values():
            sock.close()

    def _read_front(self) -> None:
        for data, address in _read(self._front):
            back = self._clients.get(address)
            if back is None:
                if len(self._clients) >= _MAX_CLIENTS:
                    self._close_back(self._clients.pop(next(iter(self._clients))))
                back = self._clients[address] = self._open_back(address)
            # By the client's address: the socket may be another one when it arrives.
            self._carry(self._forward, data, lambda got, who=address: self._to_server(who, got))  # type: ignore[misc]

    def _open_back(self, address: Any) -> socket.socket:
        back = socket.socket(socket.AF_INET6 if ":" in self._target[0] else socket.AF_INET, socket.SOCK_DGRAM)
        _prepare(back)
        back.connect(self._target)
        self._loop.watch(back, lambda: self._read_back(back, address))
        return back

    def _close_back(self, back: socket.socket) -> None:
        self._loop.watch(back, None)
        back.close()

    def _read_back(self, back: socket.socket, address: Any) -> None:
        for data, _ in _read(back):
            self._carry(self._back, data, lambda got: _send(self._front, got, address))

    def _to_server(self, address: Any, data: bytes) -> None:
        back = self._clients.get(address)
        if back is not None:
            _send(back, data, None)

    def _carry(self, state: LinkState, data: bytes, land: Callable[[bytes], None]) -> None:
        now = clock.monotonic()
        if self._flying >= _MAX_FLYING:
            state.refuse()
            return
        for arrival in state.carry(data, now):
            self._flying += 1
            self._loop.call_at(arrival.at, lambda got=arrival: self._land(state, now, got.at, got.data, land))  # type: ignore[misc]

    def _land(self, state: LinkState, since: float, due: float, data: bytes, land: Callable[[bytes], None]) -> None:
        self._flying -= 1
        land(data)
        self._note(state is self._forward, due - since, clock.monotonic() - since)


def _prepare(sock: socket.socket) -> None:
    sock.setblocking(False)
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, _BUFFER_BYTES)


def _read(sock: socket.socket) -> list[tuple[bytes, Any]]:
    packets: list[tuple[bytes, Any]] = []
    while len(packets) < _BURST:
        try:
            packets.append(sock.recvfrom(_READ_BYTES))
        except OSError:  # nothing more, or nobody listens at the other end
            break
    return packets


def _send(sock: socket.socket, data: bytes, address: Any) -> None:
    try:
        if address is None:
            sock.send(data)
        else:
            sock.sendto(data, address)
    except OSError:  # no room or nobody there: lost, as on any network
        pass
