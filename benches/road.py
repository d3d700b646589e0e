"""A road between two network namespaces on which packets are delayed and lost, TCP and UDP alike; Linux, as root.

``python -m benches.road`` makes both namespaces, each with a TUN device whose packets this process carries to the
other: 10 ms later, or not at all. Nothing has a name or a file of its own, so all of it ends with the processes that
hold it, however they end. `Road` is what a bench knows of it, `enter` and `Passage` are for the programs on it.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import select
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benches.core import ROOT

if sys.platform == "linux":
    import fcntl

__all__ = ("CLIENT", "DELAY", "SERVER", "NoRoadError", "Passage", "Road", "enter", "make_road")

CLIENT: Final = "198.51.100.1"
SERVER: Final = "198.51.100.2"
DELAY: Final = 0.010
"""Seconds each way."""

_NEW_NETWORK: Final = 0x4000_0000  # CLONE_NEWNET
_SET_DEVICE: Final = 0x4004_54CA  # TUNSETIFF
_TUN_WITHOUT_HEADER: Final = 0x0001 | 0x1000  # IFF_TUN | IFF_NO_PI
_SET_FLAGS, _SET_ADDRESS, _SET_MASK, _SET_MTU = 0x8914, 0x8916, 0x891C, 0x8922  # SIOCSIF...
_UP: Final = 0x1 | 0x40  # IFF_UP | IFF_RUNNING
_MTU: Final = 1500
_IPV4_TCP_UDP: Final = frozenset({socket.IPPROTO_TCP, socket.IPPROTO_UDP})
_START_TIMEOUT: Final = 10.0
_ANSWER_TIMEOUT: Final = 10.0


class NoRoadError(Exception):
    """It cannot be made here; the text says why."""


@dataclass(frozen=True)
class Road:
    """A road that is there."""

    client: str
    """The file of the clients' namespace, for `enter`."""
    server: str
    control: str
    """The socket of `Passage`."""

    @property
    def options(self) -> dict[str, Any]:
        """What its users need to know."""
        return {"namespaces": (self.client, self.server), "control": self.control}


@contextmanager
def make_road() -> Generator[Road]:
    """Make a road.

    Raises:
        NoRoadError: it cannot be made here.
    """
    if sys.platform != "linux":
        raise NoRoadError("packets of TCP can be lost on purpose on Linux only")
    if os.geteuid() != 0:
        raise NoRoadError("only root may make the network namespaces in which packets of TCP get lost")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        control = str(Path(folder) / "control")
        process = subprocess.Popen(
            [sys.executable, "-m", "benches.road", control],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            start_new_session=True,  # Ctrl-C is for the parent, which then ends its children
        )
        try:
            assert process.stdout is not None
            ready, _, _ = select.select([process.stdout], [], [], _START_TIMEOUT)
            said = process.stdout.readline().strip() if ready else "no answer"
            if not said.startswith("{"):
                raise NoRoadError(f"no network namespaces with TUN devices here: {said or 'it ended'}")
            yield Road(control=control, **json.loads(said))
        finally:
            try:
                process.communicate(timeout=5)  # ends with its input
            except (subprocess.TimeoutExpired, ValueError, OSError):
                process.kill()
                process.wait()


def enter(namespace: str) -> None:
    """Let this thread, and those that it starts, use a network namespace from now on."""
    handle = os.open(namespace, os.O_RDONLY)
    try:
        _check(_libc().setns(handle, _NEW_NETWORK), "setns")
    finally:
        os.close(handle)


class Passage:
    """What the packets to and from one port of the server meet, from `begin` to `end`."""

    def __init__(self, control: str, port: int) -> None:
        self._port = port
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(_ANSWER_TIMEOUT)
        self._socket.connect(control)

    def begin(self, *, seed: int, loss: float, burst: float) -> None:
        """Lose packets from now on.

        Args:
            seed: the same seed gives the same fates to the same packets.
            loss: share of packets lost, each way.
            burst: mean seconds for which all packets are lost (Gilbert-Elliott, in time); 0 for losses one by one.
        """
        self._ask(port=self._port, seed=seed, loss=loss, burst=burst)

    def end(self) -> dict[str, float]:
        """Lose no more; returns ``packets``, ``lost`` and ``bytes`` (with IP headers) since `begin`, both ways."""
        counted = self._ask(port=self._port)
        assert counted is not None
        return counted

    def close(self) -> None:
        """Release the socket."""
        self._socket.close()

    def _ask(self, **values: float) -> dict[str, float] | None:
        self._socket.send(json.dumps(values).encode())
        answer: dict[str, float] | None = json.loads(self._socket.recv(4096))
        return answer


# The process.


class _Fate:
    """Which packets of one direction are lost."""

    def __init__(self, seed: str, loss: float, burst: float) -> None:
        self._random = random.Random(seed)
        self._loss, self._burst = loss, burst
        self._is_bad = False
        self._until = 0.0

    def is_lost(self, now: float) -> bool:
        if not self._burst or not self._loss:
            return self._random.random() < self._loss
        if not self._until:
            self._until = now + self._draw(is_bad=False)
        while now >= self._until:
            self._is_bad = not self._is_bad
            self._until += self._draw(is_bad=self._is_bad)
        return self._is_bad

    def _draw(self, *, is_bad: bool) -> float:
        mean = self._burst if is_bad else self._burst * (1 - self._loss) / self._loss
        return self._random.expovariate(1 / mean)


@dataclass
class _Flow:
    """All packets of one port of the server."""

    fates: tuple[_Fate, _Fate]
    counted: dict[str, float] = field(default_factory=lambda: {"packets": 0, "lost": 0, "bytes": 0})


class _Carrier:
    """Carries packets between two devices."""

    def __init__(self, devices: tuple[int, int], listener: socket.socket) -> None:
        self._devices = devices
        self._listener = listener
        self._users: dict[int, socket.socket] = {}
        self._flows: dict[int, _Flow] = {}
        self._under_way: tuple[deque[tuple[float, bytes]], deque[tuple[float, bytes]]] = (deque(), deque())

    def run(self) -> None:
        """Carry until standard input ends."""
        own = (0, *self._devices, self._listener.fileno())
        while True:
            due = min((queue[0][0] for queue in self._under_way if queue), default=None)
            timeout = None if due is None else max(0.0, due - time.monotonic())
            ready, _, _ = select.select([*own, *self._users], [], [], timeout)
            for handle in ready:
                if handle == 0:
                    return
                self._serve(handle)
            self._release()

    def _serve(self, handle: int) -> None:
        if handle in self._devices:
            self._take(self._devices.index(handle), os.read(handle, 65_536))
        elif handle == self._listener.fileno():
            user, _ = self._listener.accept()
            self._users[user.fileno()] = user
        elif text := self._users[handle].recv(4096):
            self._users[handle].send(json.dumps(self._command(json.loads(text))).encode())
        else:
            self._users.pop(handle).close()

    def _command(self, command: dict[str, Any]) -> dict[str, float] | None:
        port = command["port"]
        if "seed" not in command:
            return self._flows.pop(port).counted
        fates = (_Fate(f"{command['seed']}/{way}", command["loss"], command["burst"]) for way in ("there", "back"))
        there, back = fates
        self._flows[port] = _Flow((there, back))
        return None

    def _take(self, way: int, packet: bytes) -> None:
        if packet[0] >> 4 != 4 or packet[9] not in _IPV4_TCP_UDP:
            return
        now = time.monotonic()
        start = (packet[0] & 0x0F) * 4 + (0 if way else 2)  # the server's port: where it goes to, or comes from
        flow = self._flows.get(int.from_bytes(packet[start : start + 2]))
        if flow is not None:
            flow.counted["packets"] += 1
            flow.counted["bytes"] += len(packet)
            if flow.fates[way].is_lost(now):
                flow.counted["lost"] += 1
                return
        self._under_way[way].append((now + DELAY, packet))

    def _release(self) -> None:
        now = time.monotonic()
        for way, queue in enumerate(self._under_way):
            while queue and queue[0][0] <= now:
                os.write(self._devices[1 - way], queue.popleft()[1])


def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


def _make_namespace(address: str) -> tuple[int, int]:
    """Go into a new namespace with one device; returns the handles of both."""
    _check(_libc().unshare(_NEW_NETWORK), "unshare")
    device = os.open("/dev/net/tun", os.O_RDWR)
    name = b"bench0"
    fcntl.ioctl(device, _SET_DEVICE, struct.pack("16sH22x", name, _TUN_WITHOUT_HEADER))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for request, host in ((_SET_ADDRESS, address), (_SET_MASK, "255.255.255.0")):
            there = struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton(host))
            fcntl.ioctl(sock, request, struct.pack("16s16s8x", name, there))
        fcntl.ioctl(sock, _SET_MTU, struct.pack("16si20x", name, _MTU))
        for each in (name, b"lo"):
            fcntl.ioctl(sock, _SET_FLAGS, struct.pack("16sH22x", each, _UP))
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY), device


def main() -> None:
    control = Path(sys.argv[1])
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(control))
    listener.listen()
    try:
        client, first = _make_namespace(CLIENT)
        server, second = _make_namespace(SERVER)
        files = {"client": f"/proc/{os.getpid()}/fd/{client}", "server": f"/proc/{os.getpid()}/fd/{server}"}
        print(json.dumps(files), flush=True)
        _Carrier((first, second), listener).run()
    except OSError as error:
        print(error)
    finally:
        shutil.rmtree(control.parent, ignore_errors=True)  # also where the parent was killed


if __name__ == "__main__":
    main()
