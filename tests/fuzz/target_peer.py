"""Fuzz target: one protocol machine of either role, any bytes on any stream, between any commands of its application.

Legal: what `tests.protocol.ordeal` says, which also checks the machine after every step. An input is a byte of options
and then steps, each an operation and its arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from echostream.protocol.codec import FrameCodec
from echostream.protocol.decoders import DECODERS
from echostream.protocol.hello import Hello
from echostream.protocol.payload import PayloadCodec
from echostream.types import Role
from tests.fuzz.recording import record
from tests.fuzz.source import Script, Source
from tests.protocol import page
from tests.protocol.ordeal import Ordeal

__all__ = ("run", "seeds")

SERVER, UNLAWFUL, MEET, PLAIN = 1, 2, 4, 8
"""Options: role; a transport that promises nothing; begin with the Hello exchange; with a peer without features."""

_METADATA: Final[tuple[Any, ...]] = (None, {"k": "v"}, {"k-bin": b"v"}, {"K": "v"}, {"k": "v" * 300})
_NAMES: Final = ("m", "", "orders.place", "\udcff", "n" * 70_000)


def run(data: bytes) -> None:
    """Execute one input."""
    source = Source(data)
    options = source.number()
    ordeal = Ordeal(Role.SERVER if options & SERVER else Role.CLIENT, lawful=not options & UNLAWFUL)
    if options & MEET:
        ordeal.meet(frozenset() if options & PLAIN else None)
    while source.left:
        step = _STEPS.get(source.number() & 0x1F)
        if step is not None:
            step(ordeal, source)
            ordeal.check()
    ordeal.check_sent()
    ordeal.close()
    ordeal.receive(0, b"\0")


def _bytes(ordeal: Ordeal, source: Source) -> None:
    stream_id, fin = source.number(), source.number()
    ordeal.receive(stream_id, source.piece(), fin=bool(fin & 1))


def _frame(ordeal: Ordeal, source: Source) -> None:
    """A frame of any kind, as long as its kind must be, with any id."""
    stream_id, kind, flags, number = source.number(), source.number(), source.number(), source.number()
    number = number if number < 250 else source.number(8)
    fields = source.piece()
    _, shortest, _ = DECODERS.get(kind & 0x7F, (0, 10, None))
    fields = fields.ljust(shortest - 10, b"\0")
    frame = FrameCodec.plain(ordeal.side.codec, kind & 0x7F, number, fields, flags & 0x3F)
    ordeal.receive(stream_id, frame, fin=bool(flags & 0x80))


def _datagram(ordeal: Ordeal, source: Source) -> None:
    """A frame of any kind in a datagram, and perhaps more or less than that."""
    kind, flags, number, more = source.number(), source.number(), source.number(), source.number()
    frame = FrameCodec.plain(ordeal.side.codec, kind & 0x7F, number, source.piece(), flags & 0x3F)
    ordeal.receive_datagram(frame + bytes(more & 3) if more < 128 else frame[: more & 0x3F])


def _start(ordeal: Ordeal, source: Source) -> None:
    flags, size, words = source.number(), source.number() * 5, source.number()
    ordeal.start(
        size,
        method=_NAMES[words % len(_NAMES)],
        own_stream=bool(flags & 1),
        own_request=bool(flags & 2),
        sends_items=bool(flags & 4),
        accepts_items=bool(flags & 8),
        raw=bool(flags & 16),
        lane=flags >> 5,
        metadata=_METADATA[(words >> 4) % len(_METADATA)],
    )


def _respond(ordeal: Ordeal, source: Source) -> None:
    number, status, flags, size = source.number(), source.number(), source.number(), source.number() * 5
    ordeal.respond(
        number,
        status,
        size,
        own_stream=bool(flags & 1),
        raw=bool(flags & 2),
        metadata=_METADATA[(flags >> 2) % len(_METADATA)],
        initial=_METADATA[(flags >> 5) % len(_METADATA)],
    )


def _send_item(ordeal: Ordeal, source: Source) -> None:
    number, size, words = source.number(), source.number() * 5, source.number()
    ordeal.send_item(number, size, raw=bool(words & 1), initial=_METADATA[(words >> 1) % len(_METADATA)])


def _emit(ordeal: Ordeal, source: Source) -> None:
    size, words = source.number() * 5, source.number()
    ordeal.emit(
        size,
        name=_NAMES[words % len(_NAMES)],
        metadata=_METADATA[(words >> 3) % len(_METADATA)],
        ack=bool(words & 64),
        raw=bool(words & 128),
    )


def _open(ordeal: Ordeal, source: Source) -> None:
    words = source.number()
    ordeal.open_stream(_NAMES[words % len(_NAMES)], _METADATA[(words >> 4) % len(_METADATA)])


_Step = Callable[[Ordeal, Source], object]
_STEPS: Final[dict[int, _Step]] = {
    0: _bytes,
    1: _frame,
    2: lambda ordeal, source: ordeal.receive_reset(source.number(), source.number(2)),
    3: lambda ordeal, source: ordeal.receive_stop(source.number(), source.number(2)),
    4: _start,
    5: lambda ordeal, source: ordeal.end_input(source.number()),
    6: lambda ordeal, source: ordeal.cancel(source.number(), source.number()),
    7: _send_item,
    8: lambda ordeal, source: ordeal.consume(source.number()),
    9: _respond,
    10: lambda ordeal, source: ordeal.send_progress(source.number()),
    11: _open,
    12: lambda ordeal, source: ordeal.accept(source.number()),
    13: lambda ordeal, source: ordeal.send_stream_item(source.number(), source.number() * 5, raw=True),
    14: lambda ordeal, source: ordeal.end_stream(source.number()),
    15: lambda ordeal, source: ordeal.reset_stream(source.number(), source.number(), source.piece()),
    16: _emit,
    17: lambda ordeal, source: ordeal.acknowledge(source.number(4)),
    18: lambda ordeal, source: ordeal.probe(source.number(8)),
    19: lambda ordeal, source: ordeal.go_away(source.number(2), source.piece().decode("utf-8", "replace")),
    20: lambda ordeal, source: ordeal.close(),
    21: lambda ordeal, source: ordeal.send_hello(),
    22: lambda ordeal, source: ordeal.take_early(),
    23: lambda ordeal, source: ordeal.flush(),
    24: lambda ordeal, source: ordeal.open_lane(),
    25: _datagram,
    26: lambda ordeal, source: ordeal.send_datagrams(source.number(), source.number() * 5, source.number()),
    27: lambda ordeal, source: ordeal.forget(source.number()),
    28: lambda ordeal, source: ordeal.open_stream(timed=bool((flags := source.number()) & 1), datagram=bool(flags & 2)),
}
"""Operation: step. Numbers stay, so that inputs keep their meaning."""


def seeds() -> Iterator[tuple[str, bytes]]:
    """Yield the first inputs: recorded conversations, every example of the specification, and one for each rule."""
    for seed in (2, 5, 6):
        for role, data in record(seed).items():
            yield f"conversation {seed} of a {role}", data
    for vector in page.vectors("vector"):
        for options in (MEET, MEET | SERVER):
            yield f"{vector.title} to {options}", bytes(Script([options, 0, 0, 0]).piece(vector.data))
    for role in Role:
        for name, steps in _scenes(role).items():
            yield f"{role}: {name}", bytes([MEET | (role is Role.SERVER)]) + steps
    for name, value in _HELLOS.items():
        frame = FrameCodec(PayloadCodec()).plain(1, 0, PayloadCodec().encode(value))
        yield f"hello {name}", bytes(Script([SERVER, 0, 0, 0]).piece(frame) + bytes([21, 22]))
    greeting = FrameCodec(PayloadCodec()).plain(1, 0, Hello(role=Role.CLIENT).encode(PayloadCodec()))
    early: bytearray = Script([SERVER, 0, 2, 0]).piece(b"\0\0\0\x0a").number(0).number(0).number(0).piece(greeting[:50])
    early += Script([0, 0, 0]).piece(greeting[50:]) + Script([0, 6, 1]).piece(b"") + bytes([2, 2, 0, 1, 21, 22])
    yield "hello in pieces, and what overtakes it", bytes(early)
    early = Script([SERVER, 0, 2, 0]).piece(b"\0\0\0\x0a\x05" + bytes(9)) + Script([0, 0, 0]).piece(greeting)
    yield "violation before the hello", bytes(early + bytes([21, 22]))
    yield "hello too long", bytes(Script([SERVER, 0, 0, 0]).piece(b"\0\0\xff\xff"))
    yield "too much before the hello", bytes(Script([SERVER]) + 5 * Script([0, 2, 0]).piece(bytes(250)))
    yield "lane ended before the hello", bytes(Script([SERVER, 0, 0, 1]).piece(b""))
    yield "hello of the same role", bytes(Script([0, 21, 0, 0, 0]).piece(greeting))
    yield "no hello first", bytes(Script([SERVER, 1, 0, 5, 0, 1]).piece(b""))
    yield (
        "peer without features",
        bytes([MEET | PLAIN | SERVER]) + _framed(0, 2, 0, 1) + bytes([10, 0, 16, 1, 80, 24]) + _framed(4, 22, 0, 0),
    )
    yield "unlawful transport", bytes([MEET | UNLAWFUL, 0, 0, 1, 0, 0, 3, 1, 0, 3, 2, 0, 1, 23])


def _framed(stream_id: int, kind: int, flags: int, number: int, fields: bytes = b"") -> bytes:
    return bytes(Script([1, stream_id, kind, flags, number]).piece(fields))


def _sent(kind: int, flags: int, number: int, fields: bytes, more: int = 0) -> bytes:
    return bytes(Script([25, kind, flags, number, more]).piece(fields))


def _item(number: int, sequence: int, pieces: int = 0, *, flags: int = 0, payload: bytes = bytes(10)) -> bytes:
    fields = sequence.to_bytes(4, "big") + bytes([0, pieces >> 4, 0, pieces & 0x0F])
    return _sent(21, flags, number, fields + payload)


def _scenes(role: Role) -> dict[str, bytes]:
    """What makes a machine of this role take each of its ways, by name."""
    own, peer = (1, 2) if role is Role.CLIENT else (2, 1)  # first ids
    mine, theirs = (4, 1) if role is Role.CLIENT else (1, 4)  # first two-way transport streams
    events = 3 if role is Role.CLIENT else 2  # a one-way stream of the peer
    credit, item = (2000).to_bytes(8, "big"), bytes(200)
    opened, offered = bytes([11, 0]) + _framed(mine, 14, 0, own, credit), _framed(theirs, 10, 0, peer) + bytes([12, 0])
    with_datagrams = _framed(theirs, 10, 0x30, peer) + bytes([12, 0])
    items_out, items_in = bytes([4, 12, 1, 0]), _framed(theirs, 2, 48, peer)
    many = b"".join(_framed(theirs, 4, 0, peer, item) for _ in range(4))
    return {
        "calls over the limit": b"".join(_framed(0, 2, 0, peer + 2 * at) for at in range(5)) + bytes([9, 0, 0, 0, 1]),
        "streams over the limit": b"".join(_framed(theirs + 4 * at, 10, 0, peer + 2 * at) for at in range(5)),
        "acks over the limit": b"".join(_framed(0, 8, 8, peer + 2 * at) for at in range(5)),
        "an event twice": 2 * _framed(0, 8, 8, peer),
        "stream used and ended by both": opened + bytes([13, 0, 9]) + 3 * _framed(mine, 11, 0, own, item)
        + bytes([8, 0, 8, 0, 8, 0, 13, 0, 255, 13, 0, 255, 13, 0, 255]) + _framed(mine, 12, 0, own)
        + bytes([14, 0, 23]),
        "stream ended here first": opened + bytes([14, 0, 14, 0, 13, 0, 1]) + _framed(mine, 12, 0, own),
        "stream taken": offered + 4 * _framed(theirs, 11, 0, peer, item)
        + bytes([8, 0, 8, 0, 13, 0, 1, 14, 0, 15, 0, 1, 0]),
        "stream of no credit": offered + 6 * _framed(theirs, 11, 0, peer, item),
        "stream not taken": _framed(theirs, 10, 0, peer) + bytes([13, 0, 1]) + _framed(theirs, 11, 0, peer, item),
        "stream item after its end": offered + _framed(theirs, 12, 0, peer) + _framed(theirs, 11, 0, peer),
        "stream ended twice": offered + 2 * _framed(theirs, 12, 0, peer),
        "stream reset by the peer": opened + _framed(mine, 13, 0, own) + _framed(mine, 11, 0, own),
        "stream reset here": opened + bytes([15, 0, 5, 2, 1, 2, 15, 0, 5, 0, 14, 0, 12, 0]) + _framed(mine, 13, 0, own),
        "stream stopped, then ended": opened + bytes([3, mine, 0, 1, 13, 0, 1, 14, 0]) + _framed(mine, 12, 0, own),
        "stream stopped, then reset": offered + bytes([3, theirs, 0, 1, 15, 0, 1, 0]),
        "stream stopped, then reset by the peer": opened + bytes([3, mine, 0, 1]) + _framed(mine, 13, 0, own),
        "stream stopped, item taken": offered + 4 * _framed(theirs, 11, 0, peer, item)
        + bytes([3, theirs, 0, 1, 8, 0, 8, 0, 8, 0]) + _framed(theirs, 12, 0, peer) + bytes([14, 0]),
        "stream ended here, stopped, ended there": opened + bytes([14, 0, 3, mine, 0, 1]) + _framed(mine, 12, 0, own),
        "stream broken off": opened + bytes([2, mine, 0, 8]),
        "stream in use": offered + _framed(theirs, 10, 0, peer + 2),
        "stream id in use": offered + _framed(theirs + 4, 10, 0, peer),
        "stream on the lane": _framed(0, 10, 0, peer),
        "stream whose stop came first": bytes([3, theirs, 0, 1]) + _framed(theirs, 10, 0, peer),
        "stream that nobody opened": _framed(mine, 10, 0, peer),
        "datagrams of a stream taken": with_datagrams + _item(peer, 0) + _item(peer, 1, 0x01) + _item(peer, 1, 0x11)
        + _item(peer, 2, 0x01) + 2 * _item(peer, 3, 0x02) + _framed(theirs, 12, 0, peer, bytes(8)) + bytes([14, 0])
        + _item(peer, 4) + bytes([27, 0, 27, 0]) + _item(peer, 5),
        "datagrams of a stream opened": bytes([28, 3, 26, 0, 9, 60]) + _framed(mine, 14, 0, own, credit)
        + bytes([26, 0, 9, 60, 26, 0, 9, 10, 26, 0, 250, 60]) + _item(own, 0) + bytes([14, 0, 26, 0, 1, 60])
        + _framed(mine, 12, 0, own) + _item(own, 1, 0x01) + bytes([20]) + _item(own, 1),
        "datagrams before the stream": _item(peer, 0) + _item(peer, 1) + _framed(theirs, 10, 0x30, peer)
        + _item(peer, 2) + bytes([12, 0, 12, 0]) + _item(peer + 2, 0) + 70 * _item(peer + 4, 0),
        "datagrams of a stream without": offered + bytes([26, 0, 1, 60]) + _item(peer, 0),
        "datagrams of a stream that has ended": with_datagrams + _item(peer, 0, 0x01) + bytes([15, 0, 1, 0])
        + _item(peer, 0, 0x11),
        "datagrams of this side's that never was": _item(own, 0),
        "datagrams in pieces that do not fit": with_datagrams + _item(peer, 0, 0x01) + _item(peer, 0, 0x12),
        "datagrams with a piece too many": with_datagrams + _item(peer, 0, 0x21),
        "datagrams in too many pieces": with_datagrams + b"".join(_item(peer, at, 0x01) for at in range(20)),
        "datagrams in too large pieces": with_datagrams
        + b"".join(_item(peer, at, 0x01, payload=bytes(240)) for at in range(6)),
        "datagrams of many streams ended": b"".join(
            _framed(theirs + 4 * at, 10, 0x20, peer + 2 * at) + bytes([12, at, 14, at])
            + _framed(theirs + 4 * at, 12, 0, peer + 2 * at) for at in range(60)
        ),
        "an item of a datagram on a stream": with_datagrams + _framed(theirs, 21, 0, peer),
        "caller streams": items_out + bytes([7, 0, 9, 0, 7, 0, 255, 0, 7, 0, 255, 0])
        + _framed(mine, 14, 0, own, credit) + bytes([7, 0, 9, 0, 5, 0, 7, 0, 1, 0]) + _framed(mine, 4, 0, own, item)
        + bytes([8, 0]) + _framed(mine, 7, 0, own)
        + _framed(mine, 3, 0, own),
        "caller answered early": items_out + _framed(mine, 3, 0, own) + bytes([7, 0, 1, 0]),
        "caller answered": bytes([4, 1, 1, 0]) + _framed(mine, 3, 0, own) + _framed(mine, 3, 0, own),
        "caller answered after a stop": items_out + bytes([3, mine, 0, 1, 7, 0, 1, 0]) + _framed(mine, 3, 0, own),
        "caller answered by nobody": _framed(0, 3, 0, own),
        "caller cancels": items_out + bytes([6, 0, 4, 6, 0, 4]) + _framed(mine, 4, 0, own),
        "caller cancels on the lane": bytes([4, 2, 1, 0, 6, 0, 1, 4, 0, 1, 0, 6, 1, 4]) + _framed(0, 3, 0, own),
        "caller is told of a break": items_out + bytes([2, mine, 0, 0]) + items_out + bytes([0, mine + 4, 1, 0]),
        "caller gets an item that it did not ask for": bytes([4, 1, 1, 0]) + _framed(mine, 4, 0, own),
        "responder streams": items_in + many + bytes([8, 0, 8, 0, 8, 0, 7, 0, 9, 2, 10, 0])
        + _framed(theirs, 5, 0, peer)
        + _framed(theirs, 14, 0, peer, credit) + bytes([9, 0, 0, 4, 1, 7, 0, 1, 0]),
        "responder answers early": items_in + bytes([9, 0, 5, 36, 1, 9, 0, 5, 0, 1]) + _framed(theirs, 4, 0, peer),
        "responder answers largely": _framed(0, 2, 0, peer) + bytes([9, 0, 0, 1, 3, 9, 0, 0, 0, 255]),
        "responder has a request twice": items_in + _framed(theirs + 4, 2, 0, peer),
        "responder is cancelled": _framed(0, 2, 0, peer) + _framed(0, 6, 0, peer, b"\x04") + bytes([9, 0, 0, 0, 1]),
        "responder is cancelled before": _framed(0, 6, 0, peer) + _framed(events, 2, 0, peer),
        "responder is cancelled wrongly": items_in + _framed(0, 6, 0, peer),
        "responder is stopped": items_in + bytes([3, theirs, 0, 4]),
        "responder is stopped before": bytes([3, theirs, 0, 4]) + items_in,
        "responder has no credit left": items_in + 2 * many,
        "responder is given no items": _framed(theirs, 2, 0, peer) + bytes([7, 0, 1, 0]) + _framed(theirs, 4, 0, peer),
        "responder is ended twice": items_in + 2 * _framed(theirs, 5, 0, peer),
        "responder is asked on the lane": _framed(0, 2, 16, peer),
        "responder hears of nothing": _framed(0, 8, 0, 40) + _framed(0, 8, 0, 41) + _framed(0, 4, 0, peer)
        + _framed(0, 5, 0, peer) + _framed(0, 12, 0, peer) + _framed(0, 14, 0, peer) + _framed(0, 7, 0, own),
        "credit for a call without items": _framed(0, 2, 0, peer) + _framed(0, 14, 0, peer),
        "lanes": bytes([24, 24, 4, 32, 1, 0, 4, 64, 1, 0]) + _framed(mine, 3, 0, own) + bytes([6, 1, 1, 3, mine, 0, 1]),
        "lanes of the peer": _framed(theirs, 22, 0, 0) + _framed(theirs, 2, 0, peer) + _framed(theirs, 2, 0, peer + 2)
        + bytes([9, 0, 0, 0, 1]) + _framed(theirs, 6, 0, peer + 2) + _framed(theirs, 2, 16, peer + 4),
        "a lane twice": 2 * _framed(theirs, 22, 0, 0),
        "a lane ended": _framed(theirs, 22, 0x80, 0),
        "a lane reset": _framed(theirs, 22, 0, 0) + bytes([2, theirs, 0, 1]),
        "a lane that was stopped before": bytes([3, theirs, 0, 1]) + _framed(theirs, 22, 0, 0),
        "more held than may be": offered + _framed(theirs + 4, 2, 48, peer + 2)
        + 3 * (_framed(theirs, 11, 0, peer, item) + _framed(theirs + 4, 4, 0, peer + 2, item)),
        "event and its ack": bytes([16, 1, 80]) + 2 * _framed(0, 9, 0, own) + _framed(0, 8, 8, peer)
        + bytes([17, 0, 0, 0, 1]),
        "event that was not acknowledged": bytes([16, 1, 80, 20]),
        "stopped twice over": items_out + bytes([3, mine, 0, 1]) + _framed(mine, 14, 0, own, credit) + bytes([6, 0, 1]),
        "event in vain": bytes([16, 1, 3, 16, 1, 4, 16, 255, 0, 16, 1, 24, 16, 1, 32]),
        "ack of nothing": _framed(0, 9, 0, 251),
        "probes": bytes([18, *range(8)]) + _framed(0, 15, 0, 9) + _framed(0, 15, 8, 9),
        "probes in datagrams": 10 * _sent(15, 0, 9, bytes(24)) + _sent(15, 8, 9, bytes(24)),
        "datagrams that are none": _sent(15, 0, 9, bytes(23)) + _sent(15, 0, 9, bytes(24), 1) + _sent(2, 0, 1, b"")
        + _sent(15, 0, 9, bytes(24), 140),
        "end of the stream for events": _framed(events, 8, 0x80, peer) + bytes([3, events ^ 1, 0, 1]),
        "lane ended": bytes([0, 0, 1, 0]),
        "lane reset": bytes([2, 0, 0, 0]),
        "lane stopped": bytes([3, 0, 0, 0]),
        "stop of nothing": bytes([3, theirs, 0, 0, 2, theirs + 4, 0, 1]),
        "ended inside a frame": bytes([0, theirs, 1, 2, 0, 0]),
        "reset inside a frame": bytes([0, theirs, 0, 2, 0, 0, 2, theirs, 0, 1]),
        "going away": _framed(0, 2, 0, peer) + bytes([19, 11, 185, 0, 19, 11, 185, 0]) + _framed(theirs, 2, 0, peer + 2)
        + _framed(theirs + 4, 10, 0, peer + 4),
        "peer goes away": items_out + bytes([4, 2, 1, 0, 11, 0]) + _framed(0, 16, 0, own) + 2 * _framed(0, 16, 0, 0),
        "peer goes away wrongly": _framed(0, 16, 0, 201),
        "names and sizes without a form": bytes([4, 0, 1, 3, 4, 0, 1, 4, 4, 0, 255, 0, 4, 0, 1, 48, 11, 3, 11, 64]),
        "hello twice": bytes([21]) + _framed(0, 1, 0, 0),
        "after the end": bytes([20, 4, 0, 1, 0, 18, *range(8), 16, 1, 0, 19, 0, 0, 0, 21, 2, 4, 0, 1, 3, 4, 0, 1])
        + _framed(0, 2, 0, peer),
    }  # fmt: skip


_HELLOS: Final[dict[str, Any]] = {
    "no map": 5,
    "of nobody": {"role": "nobody\n" * 300},
    "with a wrong type": {"role": "client", "epoch": "now"},
    "with too many features": {"role": "client", "features": ["f"] * 65},
    "of another version": {"role": "client", "version": 2},
    "that requires more": {"role": "client", "required": ["more\n", "m" * 600]},
    "with credentials": {"role": "client", "credentials": "c"},
    "with a long text": {"role": "client", "agent": "a" * 999},
    "with bad limits": {"role": "client", "limits": {"max_streams": 0}},
    "with no limits": {"role": "client", "limits": []},
    "with limits": {"role": "client", "limits": {"max_payload_bytes": 1024, "call_window_bytes": 1 << 63}},
}
