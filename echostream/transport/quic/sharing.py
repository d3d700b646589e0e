"""One UDP port for several processes of this machine: their sockets, and what they tell one another. Linux only.

The first byte of a connection id says whose it is, modulo their number. The kernel follows it where it can: a classic
BPF program on the group of sockets (SO_ATTACH_REUSEPORT_CBPF) reads that byte, also of the ids that clients choose,
which spreads them. Where it cannot it spreads by addresses, and whoever gets a packet of another's hands it over.

Whoever makes the shares, a supervisor, keeps them open: a worker that died leaves no gap in the group, and what comes
for it waits in its socket until there is another one.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final, Self

from echostream.transport.sockets import SocketAddress, bind_udp

__all__ = ("CAN_SHARE", "SHARES", "PortShare", "steer", "steering")

CAN_SHARE: Final = sys.platform.startswith("linux")
"""Elsewhere SO_REUSEPORT is missing, or gives every packet to one socket."""

_SO_ATTACH_REUSEPORT_CBPF: Final = 51
_BURST: Final = 128
"""Messages taken at one wake-up."""

Instruction = tuple[int, int, int, int]
"""Of classic BPF: code, jump if true, jump if false, operand."""


@dataclass(slots=True)
class PortShare:
    """What one worker has of a port."""

    number: int
    """Of the worker, from 0."""
    sock: socket.socket = field(repr=False)
    """Bound to the port."""
    inbox: socket.socket = field(repr=False)
    outboxes: Sequence[socket.socket] = field(repr=False)
    """To each worker, itself included."""

    @classmethod
    def make(cls, family: int, address: SocketAddress, count: int, *, buffer_bytes: int) -> list[Self]:
        """Bind an address once for each worker; raises OSError."""
        with contextlib.ExitStack() as undo:

            def keep(sock: socket.socket) -> socket.socket:
                undo.enter_context(contextlib.closing(sock))
                return sock

            socks = [keep(bind_udp(family, address, buffer_bytes=buffer_bytes, shared=True)) for _ in range(count)]
            pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(count)]
            for end in (end for pair in pairs for end in pair):
                keep(end).setblocking(False)
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer_bytes)
            with contextlib.suppress(OSError):  # a sandbox may have no BPF; then they hand over
                steer(socks[0], steering(count))
            outboxes = [near for near, _ in pairs]
            undo.pop_all()
        return [cls(number, socks[number], pairs[number][1], outboxes) for number in range(count)]

    @classmethod
    def adopt(cls, number: int, descriptors: Sequence[int]) -> Self:
        """Take over what `descriptors` returned in the process that made it."""
        sock, inbox, *outboxes = (socket.socket(fileno=descriptor) for descriptor in descriptors)
        return cls(number, sock, inbox, outboxes)

    @property
    def descriptors(self) -> list[int]:
        """What a worker's process must inherit."""
        return [item.fileno() for item in (self.sock, self.inbox, *self.outboxes)]

    def owner(self, connection_id: bytes) -> int:
        """Return the number of the worker that a connection id names."""
        return connection_id[0] % len(self.outboxes)

    def mark(self, connection_id: bytes) -> bytes:
        """Return an id that names this worker."""
        return bytes((self.number,)) + connection_id[1:]

    def send(self, worker: int, message: bytes) -> bool:
        """Tell another worker; False when it has no room: what a packet may always meet."""
        try:
            self.outboxes[worker].send(message)
        except OSError:
            return False
        return True

    def open(self, take: Callable[[list[bytes]], None]) -> None:
        """Read what the others send from now on."""

        def read() -> None:
            messages: list[bytes] = []
            with contextlib.suppress(BlockingIOError, InterruptedError):
                while len(messages) < _BURST:
                    messages.append(self.inbox.recv(65_535))
            if messages:
                take(messages)

        asyncio.get_running_loop().add_reader(self.inbox, read)

    def close(self) -> None:
        """Release the sockets; those of the process that made them stay. Idempotent."""
        if self.inbox.fileno() >= 0:
            with contextlib.suppress(RuntimeError):  # a supervisor's was never read, and needs no loop
                asyncio.get_running_loop().remove_reader(self.inbox)
        for item in (self.sock, self.inbox, *self.outboxes):
            item.close()


SHARES: Final[ContextVar[Mapping[str, PortShare] | None]] = ContextVar("shares", default=None)
"""In a worker: what it has of each URL that it listens at."""


def steering(count: int) -> list[Instruction]:
    """Return the program that reads a packet's first byte of the destination id, modulo the number of sockets."""
    return [
        (0x30, 0, 0, 0),  # load byte 0
        (0x45, 0, 2, 0x80),  # a long header?
        (0x30, 0, 0, 6),  # its id, after version and length
        (0x05, 0, 0, 1),
        (0x30, 0, 0, 1),  # a short header's id
        (0x94, 0, 0, count),  # modulo
        (0x16, 0, 0, 0),  # is the socket's place in the group
    ]


def steer(sock: socket.socket, program: Sequence[Instruction]) -> None:
    """Let a program choose the socket of a packet, for the whole group of one; raises OSError.

    A packet that the program cannot read, or a place that is none, falls back to the spreading by addresses.
    """
    import ctypes  # a supervisor's alone

    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *instruction) for instruction in program))
    sock.setsockopt(
        socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, struct.pack("HP", len(program), ctypes.addressof(code))
    )
