"""Peers that break QUIC: each is told the code of RFC 9000 section 20.1, and nobody else notices.

The peer that breaks it is always of aioquic, with a frame of our own in its next packet.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Any

import pytest
from aioquic._buffer import Buffer

from tests.transport.conformance import Recorder
from tests.transport.lab import PAIRS, Pair, every_server
from tests.transport.scene import Scene, send, simulated

WINDOW = 1 << 16
"""Bytes of a connection and of a stream."""
MANY = 1 << 20

every_victim = pytest.mark.parametrize("engines", [PAIRS[0], PAIRS[2]])
"""Clients of a server of aioquic."""


def integers(*values: int) -> bytes:
    buffer = Buffer(capacity=64)
    for value in values:
        buffer.push_uint_var(value)
    return bytes(buffer.data)


def stream(stream_id: int, offset: int, data: bytes = b"", *, fin: bool = False) -> tuple[int, bytes]:
    return 0x0E | fin, integers(stream_id, offset, len(data)) + data


def inject(recorder: Recorder, *frames: tuple[int, bytes]) -> None:
    """Let aioquic write frames of ours where it would write a PING."""
    connection: Any = recorder.connection
    quic = connection._engine._quic

    def write(builder: Any, *args: Any, **options: Any) -> None:
        for kind, content in frames:
            buffer = builder.start_frame(kind, capacity=len(content) + 8)
            buffer.push_bytes(content)

    quic._write_ping_frame = write
    connection._pump.dirty = True
    connection._engine.ping()
    connection.flush()
    del quic._write_ping_frame


@dataclass(frozen=True)
class Violation:
    """Frames, and what is to be found."""

    code: str
    frames: tuple[tuple[int, bytes], ...]
    by_server: tuple[tuple[int, bytes], ...] = ()
    """The same from a server, where ids differ."""
    ignored_by: str = ""
    """The engine that lets it pass."""
    by_aioquic: str = ""
    """What aioquic finds, where it is something else."""


VIOLATIONS = {
    "beyond the stream's window": Violation(
        "flow control error", (stream(0, WINDOW, b"x"),), (stream(1, WINDOW, b"x"),)
    ),
    "beyond the connection's window": Violation(
        "flow control error",
        (stream(0, WINDOW - 2, b"x"), stream(4, WINDOW - 2, b"x")),
        (stream(1, WINDOW - 2, b"x"), stream(5, WINDOW - 2, b"x")),
    ),
    "a reset beyond the window": Violation(
        "flow control error", ((0x04, integers(0, 7, MANY)),), ((0x04, integers(1, 7, MANY)),)
    ),
    "a stream too many": Violation(
        "stream limit error", (stream(4 * 5000, 0, b"x"),), (stream(4 * 5000 + 1, 0, b"x"),)
    ),
    "data behind the end": Violation(
        "final size error",
        (stream(0, 0, b"end", fin=True), stream(0, 3, b"more")),
        (stream(1, 0, b"end", fin=True), stream(1, 3, b"more")),
    ),
    "an end before the data": Violation(
        "final size error",
        (stream(0, 0, b"long data"), stream(0, 0, b"end", fin=True)),
        (stream(1, 0, b"long data"), stream(1, 0, b"end", fin=True)),
    ),
    "another end": Violation(
        "final size error",
        (stream(0, 3, b"end", fin=True), stream(0, 0, b"x", fin=True)),
        (stream(1, 3, b"end", fin=True), stream(1, 0, b"x", fin=True)),
    ),
    "a reset with another size": Violation(
        "final size error",
        (stream(0, 3, b"end", fin=True), (0x04, integers(0, 7, 100))),
        (stream(1, 3, b"end", fin=True), (0x04, integers(1, 7, 100))),
    ),
    "data on a stream of the other side": Violation("stream state error", (stream(3, 0, b"x"),), (stream(2, 0, b"x"),)),
    "credit for a stream that only the peer writes": Violation(
        "stream state error", ((0x11, integers(2, MANY)),), ((0x11, integers(3, MANY)),)
    ),
    "an unknown frame": Violation("frame encoding error", ((0x21, b""),)),
    "a cut frame": Violation("frame encoding error", ((0x0A, b"\x00\x7f"),)),
    "more streams than there can be": Violation("frame encoding error", ((0x12, integers((1 << 60) + 1)),)),
    "an id that retires itself": Violation(
        "frame encoding error",
        ((0x18, integers(20, 21) + b"\x08" + bytes(24)),),
        by_aioquic="protocol violation",
    ),
    "more ids than were asked for": Violation(
        "connection id limit error",
        tuple((0x18, integers(20 + number, 0) + b"\x08" + bytes([number]) * 24) for number in range(12)),
    ),
    "an id that was never issued": Violation("protocol violation", ((0x19, integers(1000)),)),
    "an acknowledgement of what was never sent": Violation(
        "protocol violation", ((0x02, integers(100_000, 0, 0, 0)),), ignored_by="aioquic"
    ),
    "a handshake far too large": Violation(
        "crypto buffer exceeded", ((0x06, integers(MANY, 4) + b"high"),), ignored_by="qh3"
    ),
}


@every_server
@pytest.mark.parametrize("name", VIOLATIONS)
def test_a_client_that_breaks_the_protocol_is_told_how(
    engines: Pair, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    violation = VIOLATIONS[name]

    async def scenario(scene: Scene) -> None:
        attacker, victim = await scene.join()
        bystander, _ = await scene.join()
        inject(attacker, *violation.frames)
        await settled(violation, engines[1], attacker, victim)
        await goes_on(scene, bystander)

    with caplog.at_level(logging.INFO):
        simulated(scenario, engines, stream_window_bytes=WINDOW, connection_window_bytes=WINDOW)
    assert [record for record in caplog.records if record.exc_info] == []


@every_victim
@pytest.mark.parametrize("name", VIOLATIONS)
def test_a_server_that_breaks_the_protocol_is_told_how(
    engines: Pair, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    violation = VIOLATIONS[name]

    async def scenario(scene: Scene) -> None:
        victim, attacker = await scene.join()
        bystander, _ = await scene.join()
        inject(attacker, *(violation.by_server or violation.frames))
        await settled(violation, engines[0], attacker, victim)
        await goes_on(scene, bystander)

    with caplog.at_level(logging.INFO):
        simulated(scenario, engines, stream_window_bytes=WINDOW, connection_window_bytes=WINDOW)
    assert [record for record in caplog.records if record.exc_info] == []


async def settled(violation: Violation, engine: str, attacker: Recorder, victim: Recorder) -> None:
    """Wait until both sides know, or that the two go on where the engine lets it pass."""
    await asyncio.sleep(0.2)
    if violation.ignored_by == engine:
        send(attacker)
        await asyncio.sleep(0.1)
        assert victim.datagrams
        attacker.connection.close(0, "")
        await asyncio.sleep(1.0)
        return
    (found,), (heard,) = victim.reasons, attacker.reasons
    assert (found.code, found.by_peer) == (heard.code, not heard.by_peer) == (None, False)
    assert found.reason.startswith((engine == "aioquic" and violation.by_aioquic) or violation.code)
    assert heard.reason == f"the peer found: {found.reason}"


async def goes_on(scene: Scene, bystander: Recorder) -> None:
    send(bystander)
    await asyncio.sleep(0.1)
    assert scene.world.servers[-1].datagrams
    assert bystander.reasons == []
    assert scene.stats()["connections"] == 1
