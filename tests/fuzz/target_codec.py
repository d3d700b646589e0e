"""Fuzz target: bytes to frames and back, payloads, metadata and the Hello.

Legal: `RemoteProtocolError` from reading frames and the Hello; `ResourceError` and `InvalidArgumentError` from
payloads, metadata and names. Anything else is a fault.
"""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import math
import pathlib
import uuid
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from echostream.config import Limits
from echostream.errors import (
    ConfigurationError,
    EchoStreamError,
    InvalidArgumentError,
    RemoteProtocolError,
    ResourceError,
)
from echostream.protocol import frames as f
from echostream.protocol.account import Account
from echostream.protocol.codec import _MAX_INTERNED, FrameCodec
from echostream.protocol.hello import Hello
from echostream.protocol.payload import PayloadCodec, check_metadata, encode_name
from echostream.protocol.reader import FrameReader, StreamReaders
from tests.fuzz.source import Script, Source
from tests.protocol import page

__all__ = ("run", "seeds")

LIMITS = Limits(
    max_payload_bytes=1024,
    max_metadata_bytes=128,
    max_payload_elements=64,
    max_payload_depth=6,
    max_reassembly_bytes=1 << 16,
    large_payload_bytes=1024,
)
"""Small, so that inputs of 4 KiB reach them."""

PAYLOAD = PayloadCodec(LIMITS)
CODEC = FrameCodec(PAYLOAD, LIMITS)
UNFIT = (ResourceError, InvalidArgumentError)
MAX_WORDS = 600
"""Characters of an error's text: it goes to a log and to the peer."""

FRAMES, PAYLOADS, VALUES, HELLO, STREAMS, NAMES = range(6)


def run(data: bytes) -> None:
    """Execute one input."""
    source = Source(data)
    [_frames, _payload, _values, _hello, _streams, _names][source.number() % 6](source)


def _frames(source: Source) -> None:
    """Bytes cut in pieces give the frames that they give as a whole; each frame survives another trip."""
    cut, stream = source.number(), source.rest()
    pieces = [stream[at : at + cut] for at in range(0, len(stream), cut)] if cut else [stream]
    whole, first = _read([stream])
    cut_up, second = _read(pieces)
    # A reader that refuses gives nothing of what it was fed last, so that smaller pieces may give more.
    assert cut_up[: len(whole)] == whole if second else cut_up == whole, "how bytes are cut changes what they say"
    assert first == second, (first, second)
    for frame in cut_up:
        _again(frame)
    assert len(CODEC.names) <= _MAX_INTERNED


def _read(pieces: list[bytes]) -> tuple[list[f.Frame], str | None]:
    reader, frames = FrameReader(CODEC), list[f.Frame]()
    for piece in pieces:
        try:
            frames += reader.feed(piece)
        except RemoteProtocolError as error:
            _check_words(error)
            return frames, error.message
        assert reader.buffered_bytes == len(reader._rest) <= CODEC.max_frame_bytes + 4
    return frames, None


def _again(frame: f.Frame) -> None:
    encoded = CODEC.encode(frame)
    again = CODEC.decode(encoded, 0, len(encoded))
    if getattr(frame, "metadata", None) == {} or getattr(frame, "initial", None) == {}:
        return  # an empty map is sent as no section
    assert again == frame, "a frame changes on its way"
    payload = getattr(frame, "payload", b"")
    assert len(payload) <= LIMITS.max_payload_bytes
    if payload and not getattr(frame, "raw", False):
        _payload(Source(payload))


def _payload(source: Source) -> None:
    """A payload gives a value within the limits, or an error that names what is wrong."""
    data = source.rest()
    try:
        value = PAYLOAD.decode(data)
    except UNFIT as error:
        _check_words(error)
        return
    elements, depth = _measure(value)
    assert elements <= LIMITS.max_payload_elements, "more elements than the limit were unpacked"
    assert depth <= LIMITS.max_payload_depth, "deeper than the limit was unpacked"
    try:
        check_metadata(value)
    except InvalidArgumentError as error:
        _check_words(error)
    assert _same(PAYLOAD.decode(PAYLOAD.encode(value)), _as_sent(value)), "a value changes on its way"


def _measure(value: Any) -> tuple[int, int]:
    """Return elements and depth, as the limits count them; keys that came twice are one."""
    if isinstance(value, dict):
        inner = [_measure(item) for pair in value.items() for item in pair]
    elif isinstance(value, list | tuple):
        inner = [_measure(item) for item in value]
    else:
        return 1, 0
    return 1 + sum(count for count, _ in inner), (1 if inner else 0) + max((depth for _, depth in inner), default=0)


def _as_sent(value: Any) -> Any:
    """Timestamps are received as such, and sent as text; tuples as keys come back as tuples, elsewhere as lists."""
    if isinstance(value, dt.datetime):
        return value.isoformat()
    if isinstance(value, dict):
        return {_as_sent(key): _as_sent(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_sent(item) for item in value]
    if isinstance(value, tuple):
        return tuple(_as_sent(item) for item in value)
    return value


def _same(one: Any, other: Any) -> bool:
    """Compare, NaN being equal to itself."""
    return bool(one == other) or repr(one) == repr(other) or (one != one and other != other)  # noqa: PLR0124


class _Colour(enum.Enum):
    RED = "red"


def _values(source: Source) -> None:
    """Values of any kind, nested at will, are packed or refused."""
    value = _build(source, 12)
    try:
        packed = PAYLOAD.encode(value)
    except InvalidArgumentError as error:
        _check_words(error)
        return
    try:
        PAYLOAD.decode(packed)
    except UNFIT as error:
        _check_words(error)


def _build(source: Source, depth: int) -> Any:
    kind = source.number() % 24
    if kind >= 22 and depth:
        count = source.number() % 6
        if kind == 22:
            return [_build(source, depth - 1) for _ in range(count)]
        return {str(_build(source, 0)): _build(source, depth - 1) for _ in range(count)}
    made: list[Any] = [
        None,
        True,
        source.number(),
        -source.number(8),
        source.number(12),
        source.number(8) / 7.0,
        math.nan,
        source.piece().decode("utf-8", "surrogateescape"),
        source.piece(),
        dt.timedelta(microseconds=source.number(7) - (1 << 55)),
        dt.datetime.fromtimestamp(source.number(4), tz=dt.UTC),
        dt.date.fromordinal(1 + source.number(2)),
        dt.time(source.number() % 24),
        decimal.Decimal(source.number(4)).scaleb(-3),
        uuid.UUID(int=source.number(16)),
        {source.number()},
        frozenset({source.number()}),
        pathlib.PurePosixPath("a/b"),
        _Colour.RED,
        object(),
        {(1, 2): 3},
        memoryview(source.piece()),
    ]
    return made[min(kind, 21)]


def _hello(source: Source) -> None:
    """The Hello of a peer is understood or refused."""
    data = source.rest()
    try:
        hello = Hello.decode(data, PAYLOAD)
    except RemoteProtocolError as error:
        _check_words(error)
        return
    assert Hello.decode(hello.encode(PayloadCodec()), PayloadCodec()) == hello
    mine = Hello(role=hello.role.other)
    try:
        assert mine.agree(hello) <= mine.features
    except RemoteProtocolError as error:
        _check_words(error)


def _streams(source: Source) -> None:
    """Pieces of many transport streams, which end, are dropped or forgotten: what is held is counted."""
    account = Account(1500)
    account.open(2048)  # of a connection that holds nothing
    readers = StreamReaders(CODEC, 2048, account.open(2048) if source.left % 2 else None)
    while source.left:
        what, stream_id = source.number(), source.number() % 8
        try:
            if what < 200:
                readers.feed(stream_id, source.piece())
            elif what < 225:
                readers.feed(stream_id, b"")
                readers.end(stream_id)
            elif what < 250:
                readers.drop(stream_id)
            else:
                readers.clear()
        except RemoteProtocolError as error:
            _check_words(error)
            return
        held = sum(reader.buffered_bytes for reader in readers._readers.values())
        assert held == readers.buffered_bytes <= 2048
        assert len(readers) <= 8


def _names(source: Source) -> None:
    """Names and metadata of an application are encoded, and come back as they were, or are refused."""
    repeat = 1 + source.number(2)
    with suppress(ConfigurationError):
        raise AssertionError(encode_name(repeat))  # type: ignore[arg-type]  # no text
    text = source.piece().decode("utf-8", "surrogateescape")
    metadata: Any = {}
    while source.left:
        key, kind = source.piece().decode("utf-8", "surrogateescape"), source.number()
        metadata[key if kind < 250 else kind] = (
            source.piece().decode("utf-8", "replace") if kind & 1 else source.piece()
        )
    try:
        encode_name(text * repeat)
        encoded = CODEC.encode(f.StreamOpenFrame(7, text * repeat, metadata or None))
    except UNFIT as error:
        _check_words(error)
        return
    frame = CODEC.decode(encoded, 0, len(encoded))
    assert frame == f.StreamOpenFrame(7, text * repeat, metadata or None)


def _check_words(error: EchoStreamError) -> None:
    assert len(error.message) <= MAX_WORDS, f"a text of {len(error.message)} characters: {error.message[:80]}"
    assert error.message.isprintable(), f"unprintable text {error.message!r}"


def seeds() -> Iterator[tuple[str, bytes]]:
    """Yield the first inputs: the examples of the specification, and what reaches every check."""
    for kind in ("vector", "skipped", "refused"):
        for vector in page.vectors(kind):
            yield f"{kind} {vector.title}", bytes(Script([FRAMES, 3]) + vector.data)
    everything = b"".join(vector.data for vector in page.vectors("vector") if len(vector.data) < 120)
    yield "conversation", bytes(Script([FRAMES, 0]) + everything)
    yield "conversation in pieces", bytes(Script([FRAMES, 7]) + everything)
    yield "payload over the limit", bytes(Script([FRAMES, 0]) + CODEC.plain(f.FrameKind.ITEM, 3, bytes(1100)))
    yield "long name", bytes(Script([FRAMES, 0]) + CODEC.encode(f.StreamOpenFrame(3, "n" * 1100)))
    for row in page.rows("value"):
        yield f"payload {row[0]}", bytes([PAYLOADS]) + bytes.fromhex(row[3])
    for name, packed in _PAYLOADS.items():
        yield f"payload {name}", bytes([PAYLOADS]) + bytes.fromhex(packed)
    for form in range(22):
        yield f"value {form}", bytes([VALUES, form, *range(1, 40)])
    yield "value nested", bytes([VALUES, 22, 3, 23, 2, 2, 9, 4, 22, 1, 22, 1, 22, 1, 0])
    hello = next(iter(page.vectors("vector"))).data[14:]
    yield "hello", bytes([HELLO]) + hello
    for name, changed in _HELLOS.items():
        yield f"hello {name}", bytes([HELLO]) + PayloadCodec().encode(changed)
    frame = CODEC.encode(f.EndFrame(1))
    script = (
        Script([STREAMS]).number(0).number(1).piece(frame[:5]).number(0).number(2).piece(frame).number(210).number(2)
    )
    yield "streams dropped", bytes(script.number(230).number(1).number(255).number(0))
    yield "stream dropped that never was", bytes(Script([STREAMS]).number(230).number(5))
    yield "streams ended inside", bytes(Script([STREAMS]).number(0).number(1).piece(frame[:5]).number(210).number(1))
    long = CODEC.plain(f.FrameKind.ITEM, 1, bytes(900))[:900]
    yield (
        "streams over the limit",
        bytes(Script([STREAMS]) + b"".join(Script([0, number]).piece(long) for number in range(3))),
    )
    yield (
        "streams over what all may hold",
        bytes(Script([STREAMS]) + b"".join(Script([0, number]).piece(long) for number in range(2)) + b"\0"),
    )
    yield (
        "names",
        bytes(
            Script([NAMES, 0, 0])
            .piece(b"caf\xc3\xa9")
            .piece(b"a")
            .number(1)
            .piece(b"b")
            .piece(b"b-bin")
            .number(2)
            .piece(b"c")
        ),
    )
    yield "names too long", bytes(Script([NAMES, 255, 255]).piece(b"abcdefgh"))
    yield "names that are no text", bytes(Script([NAMES, 0, 0]).piece(b"\xff"))
    yield "metadata too long", bytes(Script([NAMES, 0, 0]).piece(b"n").piece(b"k").number(1).piece(b"v" * 200))
    yield "metadata of a wrong type", bytes(Script([NAMES, 0, 0]).piece(b"n").piece(b"k-bin").number(1).piece(b"v"))


_PAYLOADS = {
    "nothing": "", "two values": "c0c0", "never used": "c1", "cut": "92c0", "depth": "91" * 7 + "c0",
    "elements": "dc0080" + "c0" * 128, "elements announced": "ddffffffff" + "c0" * 60,
    "map announced": "dfffffffff" + "c0" * 60,
    "map16": "de0001a16101" + "c0" * 60, "extension": "d405ff", "extension8": "c70105ff", "bin16": "c5000101",
    "bin32": "c60000000101", "str8": "d90161", "str16": "da000161", "str32": "db0000000161",
    "float": "cb3ff0000000000000",
    "bad text": "a1ff", "unhashable key": "819001",
    "deep with all forms": "919192cc01cd0001ce0000000191d0ff81a16ac40100"
    "9191c1" + "c0" * 40, "fixext": "9" + "9" + "d8ff" + "00" * 16 + "c0" * 60, "ext32": "98c900000001ff00" + "80" * 70,
    "array32": "dd00000002" + "80" * 70, "timestamp out of range": "c70cff00000000ffffffffffffffff",
}  # fmt: skip

_HELLOS: dict[str, Any] = {
    "is no map": 5,
    "of nobody": {"role": "nobody"},
    "with a wrong type": {"role": "client", "epoch": "now"},
    "with too many features": {"role": "client", "features": ["f"] * 65},
    "of another version": {"role": "client", "version": 2},
    "that requires more": {"role": "server", "required": ["more"], "credentials": "c"},
    "with bad limits": {"role": "client", "limits": {"max_streams": 0}},
    "with no limits": {"role": "client", "limits": []},
}
