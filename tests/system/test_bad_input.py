"""What a broken or hostile other side may do to a real server or client: the text and the code of every refusal.

The connection that misbehaves is closed with a code, or only its call fails; a bystander's connection goes on.
"""

from __future__ import annotations

import asyncio
import random
import struct
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from echostream import (
    CertificateError,
    ConfigurationError,
    ConnectError,
    ConnectionLostError,
    InvalidArgumentError,
    Limits,
    ResourceError,
    RpcClient,
    RpcError,
    RpcServer,
    Session,
    Status,
    StreamReceiver,
    handler,
    service,
    stream,
)
from echostream.errors import CloseCode
from echostream.protocol.hello import Hello
from echostream.protocol.payload import PayloadCodec
from echostream.testing import Link, SimNetwork
from echostream.transport.quic import QuicTransport, engine_aioquic
from echostream.transport.tls import ClientTls, ServerTls
from echostream.types import Role
from tests.serving import PATIENCE, QUIC, joined, nothing_left, served, session_of, until
from tests.transport.authority import Issued, issue
from tests.transport.conformance import World
from tests.transport.lab import Pair, both_engines

LANE = 0


@service("files")
class Files:
    @handler
    async def size(self, content: Any = None) -> int:
        return len(content or "")

    @handler
    async def read(self, size: int) -> bytes:
        return bytes(size)

    @handler
    async def hang(self) -> None:
        await asyncio.Event().wait()

    @handler
    async def hoard(self, items: AsyncIterator[bytes]) -> None:
        await asyncio.Event().wait()

    @handler
    async def count(self, items: AsyncIterator[int]) -> AsyncIterator[int]:
        async for item in items:
            yield item

    @stream("upload")
    async def on_upload(self, receiver: StreamReceiver) -> None:
        async for _ in receiver:
            pass


class Scene:
    """A server with a bystander, and one connection whose `attacker` end does what the protocol forbids."""

    def __init__(self, server: RpcServer, bystander: RpcClient, attacker: Session, victim: Session) -> None:
        self.server = server
        self.bystander = bystander
        self.attacker = attacker
        self.victim = victim

    def write(self, data: bytes, *, stream_id: int = LANE, fin: bool = False) -> None:
        connection = self.attacker.peer.connection
        connection.write(stream_id, data, fin=fin)
        connection.flush()

    def open_stream(self) -> int:
        stream_id = self.attacker.peer.connection.open_stream()
        assert stream_id is not None
        return stream_id

    async def verdict(self) -> tuple[int | None, str]:
        """The code that the connection was closed with, and why; both ends agree."""
        lost = await asyncio.wait_for(self.attacker.wait_closed(), PATIENCE)
        own = await asyncio.wait_for(self.victim.wait_closed(), PATIENCE)
        assert lost is not None
        assert own is not None
        assert own.close_code == lost.close_code
        reason = lost.message.removeprefix("connection closed by the peer: ")
        assert own.message == f"peer broke the protocol: {reason}"
        return lost.close_code, reason

    async def others_go_on(self) -> None:
        assert await self.bystander.request("files.size", "abc") == 3


async def set_scene(server: RpcServer, client: RpcClient, bystander: RpcClient, attacker: str) -> Scene:
    ends = [client.session, session_of(server, client)]
    return Scene(server, bystander, *(ends if attacker == "client" else reversed(ends)))


@pytest.fixture(params=["client", "server"])
async def scene(request: pytest.FixtureRequest) -> AsyncIterator[Scene]:
    """The hostile side is the client, then the server."""
    async with served(Files(), url=QUIC) as server, joined(server) as client, joined(server) as bystander:
        client.register(Files())
        yield await set_scene(server, client, bystander, request.param)


def frame(kind: int, frame_id: int, rest: bytes = b"", *, flags: int = 0, length: int | None = None) -> bytes:
    """A frame by its parts, right or wrong."""
    return struct.pack(">IBBQ", 10 + len(rest) if length is None else length, kind, flags, frame_id) + rest


def request_frame(scene: Scene, method: str = "files.size", payload: bytes | None = None, **options: Any) -> bytes:
    link = scene.attacker.peer.protocol.link
    if payload is None:
        payload = scene.attacker.runtime.payload.encode([[], {}])
    return scene.attacker.runtime.codec.request(link.take_id(), method.encode(), payload, **options)


HUGE = 4 << 20


@pytest.mark.parametrize(
    ("data", "code", "text"),
    [
        pytest.param(frame(99, 1), 3500, "unknown frame kind 99", id="unknown kind"),
        pytest.param(frame(0, 1), 3500, "unknown frame kind 0", id="kind 0"),
        pytest.param(struct.pack(">I", 3) + b"abc", 3500, "truncated frame of 3 bytes", id="shorter than a header"),
        pytest.param(struct.pack(">I", 0), 3500, "truncated frame of 0 bytes", id="empty"),
        pytest.param(frame(2, 101, b"\0" * 4), 3500, "truncated REQUEST frame of 14 bytes", id="truncated request"),
        pytest.param(
            frame(2, 101, struct.pack(">QH", 0, 500)),
            3500,
            "truncated frame: a name of 500 bytes does not fit",
            id="name longer than its frame",
        ),
        pytest.param(
            frame(2, 101, struct.pack(">QH", 0, 2) + b"\xff\xff"),
            3500,
            "name in a frame is not UTF-8",
            id="name no text",
        ),
        pytest.param(
            frame(2, 101, struct.pack(">QH", 0, 1) + b"x", flags=1),
            3500,
            "truncated frame: no room for metadata",
            id="no metadata",
        ),
        pytest.param(frame(6, 101, b"\1", flags=4), 3500, "CANCEL frame has unknown flags 0x04", id="unknown flags"),
        pytest.param(frame(1, 0, b"\x80"), 3500, "second hello", id="second hello"),
        pytest.param(
            frame(2, 1, length=1 << 30),
            3502,
            f"frame of {1 << 30} bytes is over the limit of",
            id="oversized frame",
        ),
        pytest.param(
            frame(7, 1, bytes(HUGE + 1)),
            3502,
            f"payload of {HUGE + 1} bytes is over the limit of {HUGE} (max_payload_bytes)",
            id="oversized payload",
        ),
        pytest.param(frame(3, 7777, b"\0"), 3500, "response for id 7777, which was never used", id="answer to nothing"),
        pytest.param(frame(4, 7777), 3500, "item for id 7777, which was never used", id="item for nothing"),
    ],
)
async def test_a_broken_frame_closes_its_connection_only(scene: Scene, data: bytes, code: int, text: str) -> None:
    scene.write(data)
    got = await scene.verdict()
    assert got[0] == code
    assert got[1].startswith(text)
    await scene.others_go_on()


async def test_ids_of_the_wrong_side_close_the_connection(scene: Scene) -> None:
    own = scene.attacker.peer.protocol.link.bit
    wrong = 100 + (1 - own)
    name = struct.pack(">QH", 0, 1) + b"x"
    scene.write(frame(2, wrong, name))
    assert await scene.verdict() == (3500, f"request id {wrong} is not one of the peer's")
    await scene.others_go_on()


async def test_a_streaming_call_on_the_lane_closes_the_connection(scene: Scene) -> None:
    scene.write(request_frame(scene, "files.count", flags=0x30))
    assert await scene.verdict() == (3500, "streaming call on stream 0: it needs a two-way one of its own")


async def test_an_id_that_is_in_use_closes_the_connection(scene: Scene) -> None:
    data = request_frame(scene, "files.hang")
    scene.write(data + data)
    (number,) = struct.unpack(">Q", data[6:14])
    assert await scene.verdict() == (3500, f"request id {number} is in use")
    await scene.others_go_on()


async def test_a_stream_that_ends_inside_a_frame_closes_the_connection(scene: Scene) -> None:
    stream_id = scene.open_stream()
    scene.write(request_frame(scene)[:-1], stream_id=stream_id, fin=True)
    assert await scene.verdict() == (3500, f"stream {stream_id} ended inside a frame")
    await scene.others_go_on()


async def test_items_beyond_the_credit_close_the_connection(scene: Scene) -> None:
    stream_id = scene.open_stream()
    codec, link = scene.attacker.runtime.codec, scene.attacker.peer.protocol.link
    number = link.next_id
    opening = request_frame(scene, "files.hoard", flags=0x10)
    item = codec.item(number, bytes(100_000), raw=True)
    scene.write(opening + item * 4, stream_id=stream_id)
    code, text = await scene.verdict()
    assert code == CloseCode.LIMIT_EXCEEDED
    assert text.startswith("item sent without credit: ")
    await scene.others_go_on()


async def test_unfinished_frames_are_bounded_together() -> None:
    limits = Limits(max_reassembly_bytes=1 << 16, max_payload_bytes=1 << 16)
    async with (
        served(Files(), url=QUIC, limits=limits) as server,
        joined(server) as client,
        joined(server) as bystander,
    ):
        scene = await set_scene(server, client, bystander, "client")
        for _ in range(3):
            scene.write(request_frame(scene, payload=bytes(40_000))[:-1], stream_id=scene.open_stream())
        code, text = await scene.verdict()
        assert code == CloseCode.LIMIT_EXCEEDED
        assert text.startswith("unfinished frames hold ")
        assert text.endswith(" bytes, limit 65536")
        await scene.others_go_on()


async def test_an_unknown_optional_frame_is_skipped(scene: Scene) -> None:
    scene.write(frame(0x80, 5, b"from the future"))
    assert await scene.attacker.request("files.size", "ab") == 2


# Before the Hello


def hello_frame(**fields: Any) -> bytes:
    return frame(1, 0, Hello(role=Role.CLIENT, **fields).encode(PayloadCodec(Limits())))


PACKED = PayloadCodec(Limits()).encode


@pytest.mark.parametrize(
    ("data", "code", "text"),
    [
        (frame(2, 1, struct.pack(">QH", 0, 1) + b"x"), 3500, "first frame was not a hello"),
        (frame(1, 0, b"\xc1"), 3500, "bad hello: "),
        (frame(1, 0, PACKED([])), 3500, "bad hello: expected a map, got list"),
        (frame(1, 0, PACKED({"role": "spy"})), 3500, "bad hello: role 'spy' is neither client nor server"),
        (frame(1, 0, PACKED({"role": "server"})), 3500, "both sides say that they are the server"),
        (
            hello_frame(version=9),
            3501,
            "peer speaks protocol version 9, this side 1: update the older program",
        ),
        (
            hello_frame(required=frozenset({"telepathy"})),
            3501,
            "peer requires 'telepathy', which this side does not have: update this program",
        ),
        (frame(1, 0, b"", length=1 << 20), 3502, "hello of 1048580 bytes is over the limit of"),
        (b"GET / HTTP/1.1\r\n\r\n", 3502, "hello of 1195725860 bytes is over the limit of"),
    ],
)
async def test_a_wrong_introduction_closes_the_connection(data: bytes, code: int, text: str) -> None:
    async with served(Files(), url=QUIC) as server, joined(server) as bystander:
        world = World(QuicTransport(), server.addresses[0], client_tls=ClientTls.load(ca="dev"))
        stranger = await world.dial()
        lane = stranger.connection.open_stream()
        assert lane == LANE
        stranger.connection.write(lane, data)
        stranger.connection.flush()
        reason = await stranger.ended()
        assert (reason.code, reason.by_peer) == (code, True)
        assert reason.reason.startswith(text)
        assert await bystander.request("files.size", "abc") == 3
        await until(lambda: not server._admission.arriving)


async def test_what_comes_before_the_hello_is_bounded() -> None:
    async with served(Files(), url=QUIC, limits=Limits(max_unauthenticated_bytes=2000)) as server:
        world = World(QuicTransport(), server.addresses[0], client_tls=ClientTls.load(ca="dev"))
        stranger = await world.dial()
        for _ in range(2):
            stream_id = stranger.connection.open_stream(unidirectional=True)
            assert stream_id is not None
            stranger.connection.write(stream_id, bytes(1500))
        stranger.connection.flush()
        reason = await stranger.ended()
        assert (reason.code, reason.reason) == (3502, "more than 2000 bytes before the hello was accepted")


# Random and mutated frames


async def attack(make: Callable[[Scene], list[bytes]], *, own_stream: bool) -> None:
    """Write bytes on the lane, or on a stream of their own, and end it: only documented ends are fine."""
    async with served(Files()) as server, joined(server) as client, joined(server) as bystander:
        scene = await set_scene(server, client, bystander, "client")
        if own_stream:
            stream_id = scene.open_stream()
            scene.write(b"".join(make(scene)), stream_id=stream_id, fin=True)
            client.session.peer.protocol.link.next_id = (1 << 40) + 1  # an answer to the attack is not taken for ours
            try:
                assert await asyncio.wait_for(client.request("files.size", "ab"), PATIENCE) == 2
            except ConnectionLostError as error:
                assert error.close_code in (CloseCode.PROTOCOL_ERROR, CloseCode.LIMIT_EXCEEDED)  # noqa: PT017
        else:
            scene.write(b"".join(make(scene)), fin=True)
            lost = await asyncio.wait_for(client.session.wait_closed(), PATIENCE)
            assert lost is not None
            assert lost.close_code in (CloseCode.PROTOCOL_ERROR, CloseCode.LIMIT_EXCEEDED)
        await scene.others_go_on()


def valid_frames(scene: Scene) -> list[bytes]:
    codec, payload = scene.attacker.runtime.codec, scene.attacker.runtime.payload.encode
    return [
        request_frame(scene, "files.size", payload([["abc"], {}])),
        request_frame(scene, "files.count", flags=0x30, metadata={"a": "b"}),
        codec.event(11, b"note", payload({"a": 1}), wants_ack=True),
        codec.item(1, b"abc", raw=True),
        codec.response(2, 0, payload(None)),
        frame(5, 1),
        frame(6, 1, b"\1"),
        frame(10, 21, struct.pack(">H", 6) + b"upload"),
        frame(14, 1, struct.pack(">Q", 1 << 40)),
        frame(15, 77, struct.pack(">qqq", 0, 0, 0)),
    ]


def mutated(rng: random.Random, frames: list[bytes]) -> list[bytes]:
    chosen = rng.choices(frames, k=rng.randint(1, 6))
    data = bytearray(b"".join(chosen))
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(data) or 1)
        what = rng.randrange(4)
        if what == 0:
            data[place : place + 1] = bytes([rng.randrange(256)])
        elif what == 1:
            del data[place : place + rng.randint(1, 8)]
        elif what == 2:
            data[place:place] = rng.randbytes(rng.randint(1, 8))
        else:
            data[place : place + 1] = bytes([data[place] ^ (1 << rng.randrange(8))] if data else b"")
    return [bytes(data)]


fuzzing = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@fuzzing
@given(data=st.binary(max_size=200), own_stream=st.booleans())
def test_random_bytes_have_documented_ends_only(data: bytes, own_stream: bool) -> None:
    asyncio.run(attack(lambda _: [data], own_stream=own_stream))


@fuzzing
@given(kind=st.integers(0, 255), flags=st.integers(0, 255), number=st.integers(0, 1 << 20), rest=st.binary(max_size=60))
def test_random_frames_have_documented_ends_only(kind: int, flags: int, number: int, rest: bytes) -> None:
    for own_stream in (False, True):
        asyncio.run(attack(lambda _: [frame(kind, number, rest, flags=flags)], own_stream=own_stream))


@fuzzing
@given(seed=st.integers(0, 1 << 32), own_stream=st.booleans())
def test_mutated_frames_have_documented_ends_only(seed: int, own_stream: bool) -> None:
    asyncio.run(attack(lambda scene: mutated(random.Random(seed), valid_frames(scene)), own_stream=own_stream))


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_many_mutated_frames_have_documented_ends_only() -> None:
    for seed in range(1500):
        asyncio.run(
            attack(lambda scene, seed=seed: mutated(random.Random(seed), valid_frames(scene)), own_stream=seed % 2 == 0)  # type: ignore[misc]
        )


# Payloads


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


TOO_MUCH = [
    (nested(100), "payload is nested deeper than 32 levels (max_payload_depth)"),
    ([0] * 200_000, "payload has more than 100000 elements (max_payload_elements)"),
]


@pytest.mark.parametrize(("value", "text"), TOO_MUCH, ids=["deep", "many"])
async def test_payloads_beyond_the_limits_fail_their_call_only(scene: Scene, value: Any, text: str) -> None:
    with pytest.raises(RpcError) as caught:
        await scene.attacker.request("files.size", value)
    assert (caught.value.code, caught.value.message) == (Status.RESOURCE_EXHAUSTED, text)
    assert not caught.value.retryable
    assert await scene.attacker.request("files.size", "ab") == 2


@pytest.mark.parametrize(
    "payload", [b"\xc1", b"\x92\x90", b"\x92\x90\x80\x00", b"\xd4\x05\x00", b"\xdf\xff\xff\xff\xff"]
)
async def test_a_payload_that_is_no_msgpack_fails_its_call_only(scene: Scene, payload: bytes) -> None:
    answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    class Handle:
        def on_response(self, frame: Any) -> None:
            answer.set_result(frame)

        def on_lost(self, error: Any) -> None:
            answer.set_exception(error)

    peer = scene.attacker.peer
    peer.protocol.calls.start("files.size", payload, handle=Handle(), stream_id=LANE, timeout_ns=0)
    peer.touch()
    response = await asyncio.wait_for(answer, PATIENCE)
    assert response.status in (Status.INVALID_ARGUMENT, Status.RESOURCE_EXHAUSTED)
    assert peer.runtime.payload.decode(response.payload)["message"]
    assert await scene.attacker.request("files.size", "ab") == 2


async def test_a_request_over_the_limit_is_not_sent(scene: Scene) -> None:
    with pytest.raises(ResourceError) as caught:
        await scene.attacker.request("files.size", bytes(HUGE + 1))
    assert caught.value.code is Status.RESOURCE_EXHAUSTED
    assert caught.value.message == (
        f"payload of {HUGE + 1} bytes is over the peer's limit of {HUGE} (max_payload_bytes); send it in pieces over a"
        " stream, or raise the limit there"
    )
    assert not caught.value.retryable
    assert await scene.attacker.request("files.size", bytes(HUGE)) == HUGE


async def test_a_result_over_the_limit_is_not_sent(scene: Scene) -> None:
    with pytest.raises(RpcError) as caught:
        await scene.attacker.request("files.read", HUGE + 1)
    assert caught.value.code is Status.RESOURCE_EXHAUSTED
    assert caught.value.message.startswith(f"payload of {HUGE + 1} bytes is over the peer's limit of {HUGE} (max_pay")
    assert len(await scene.attacker.request("files.read", HUGE)) == HUGE


async def test_a_reply_of_another_type_is_refused(scene: Scene) -> None:
    with pytest.raises(RpcError) as caught:
        await scene.attacker.request("files.read", 3, returns=int)
    assert caught.value.code is Status.INTERNAL
    assert caught.value.message.startswith("the reply does not fit the type it is read as: /: input should be a valid")


async def test_an_argument_that_nothing_can_carry_is_refused(scene: Scene) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        await scene.attacker.request("files.size", object())
    assert caught.value.message.endswith(
        "object cannot be serialised; use a pydantic model, a dataclass or plain values"
    )


# Too many


async def test_streams_above_the_limit_are_refused() -> None:
    async with (
        served(Files(), url=QUIC, limits=Limits(max_streams=2)) as server,
        joined(server) as client,
        joined(server) as bystander,
    ):
        senders = [await client.open_stream("upload") for _ in range(2)]
        with pytest.raises(RpcError) as caught:
            await client.open_stream("upload")
        assert (caught.value.code, caught.value.message) == (
            Status.RESOURCE_EXHAUSTED,
            "more than 2 streams at once (max_streams)",
        )
        await senders[0].close()
        async with client.open_stream("upload") as again, bystander.open_stream("upload") as other:
            await again.send(b"x")
            await other.send(b"x")
        await senders[1].close()


async def test_calls_above_the_limit_are_refused() -> None:
    """A fair caller waits on its own side; this one does not."""
    async with served(Files(), url=QUIC, limits=Limits(max_concurrent_calls=2)) as server, joined(server) as client:
        client.session.peer.protocol.link.peer_limits = type(client.session.peer.protocol.link.peer_limits)()
        hanging = [asyncio.ensure_future(client.request("files.hang")) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(RpcError) as caught:
            await client.request("files.size", "ab")
        assert (caught.value.code, caught.value.message) == (
            Status.RESOURCE_EXHAUSTED,
            "more than 2 calls at once (max_concurrent_calls)",
        )
        for call in hanging:
            call.cancel()
        await asyncio.wait(hanging)
        assert await client.request("files.size", "ab") == 2


# A server that was killed


@both_engines
def test_a_call_learns_at_once_that_its_server_was_restarted(engines: Pair) -> None:
    async def scenario(network: SimNetwork) -> None:
        url = "quic://server:4433"
        with network.host("server"):
            first, second = (RpcServer(url, engine=engines[1]) for _ in range(2))
            await first.start()
        with network.host("client"):
            client = await RpcClient.connect(url, fingerprint=first.fingerprint, engine=engines[0])
            call = asyncio.ensure_future(client.request("files.hang", timeout=None))
        network.partition("server")
        with network.host("server"):
            await first.stop(grace=0.0)
            network.heal()
            second.register(Files())
            await second.start()
        restarted = network.now
        with pytest.raises(ConnectionLostError) as caught:
            await call
        assert network.now - restarted < 6.0  # the next heartbeat, and long before the idle timeout
        assert caught.value.message == (
            "connection closed by the peer: it knows this connection no longer, as after a restart (stateless reset)"
        )
        await second.stop()

    SimNetwork(seed=1, link=Link(delay=0.02)).run(scenario)


# Another protocol


async def test_another_application_protocol_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async with served(Files(), url=QUIC) as server, joined(server) as bystander:
        monkeypatch.setattr(engine_aioquic, "ALPN", "other/1")
        with pytest.raises(ConnectError) as caught:
            await RpcClient.connect(server.addresses[0], ca="dev", engine="aioquic")
        assert caught.value.code is Status.UNAVAILABLE
        assert caught.value.message == (
            f"{server.addresses[0]} does not speak echostream/1: another program or version listens there"
        )
        assert await bystander.request("files.size", "abc") == 3


# Servers that cannot be trusted


async def untrusted(server: RpcServer, url: str | None = None, **trust: Any) -> str:
    with nothing_left(but_timers=True):
        with pytest.raises(CertificateError) as caught:
            await RpcClient.connect(url or server.addresses[0], **trust)
        await until(lambda: not server._admission.arriving)
    assert caught.value.code is Status.UNAUTHENTICATED
    assert not caught.value.retryable
    assert not len(server.sessions)
    return caught.value.message


@asynccontextmanager
async def showing(issued: Issued, *, now: float | None = None) -> AsyncGenerator[RpcServer]:
    """A server that shows a certificate, even one that it would refuse to load today."""
    server = RpcServer(QUIC)
    server._doors._tls = ServerTls.load(issued.pem, issued.key_pem, now=now)
    server.register(Files())
    async with server:
        yield server


NOW = time.time()
HOUR = 3600.0


async def test_a_certificate_of_an_unknown_authority_is_refused() -> None:
    authority = issue("Some authority", ca=True, start=NOW - HOUR, end=NOW + HOUR)
    leaf = issue("leaf", "127.0.0.1", by=authority, start=NOW - HOUR, end=NOW + HOUR)
    async with showing(leaf) as server:
        assert await untrusted(server, ca="dev") == (
            "certificate of '127.0.0.1' is signed by 'CN=Some authority', which is not this user's development"
            f' authority: for servers of other users and machines use ca=, or fingerprint="{leaf.fingerprint}"'
        )
        assert "which the system does not know" in await untrusted(server)
        async with RpcClient.connect(server.addresses[0], ca=authority.pem) as client:
            assert await client.request("files.size", "ab") == 2


async def test_a_certificate_for_another_name_is_refused() -> None:
    leaf = issue("leaf", "other.example", start=NOW - HOUR, end=NOW + HOUR)
    async with showing(leaf) as server:
        assert await untrusted(server, ca=leaf.pem) == (
            "certificate is not for '127.0.0.1' but for 'other.example': dial one of its names, have one made that"
            f" lists '127.0.0.1', or use fingerprint=\"{leaf.fingerprint}\""
        )


async def test_an_expired_certificate_is_refused_on_both_sides() -> None:
    leaf = issue("leaf", "127.0.0.1", start=NOW - 2 * HOUR, end=NOW - HOUR)
    async with showing(leaf, now=NOW - 1.5 * HOUR) as server:
        text = await untrusted(server, ca=leaf.pem)
        assert text.startswith("certificate of '127.0.0.1' expired on ")
        assert text.endswith(" UTC: renew it on the server, and check the clocks of both machines")
    with pytest.raises(ConfigurationError) as caught:
        await RpcServer(QUIC, certificate=leaf.pem, private_key=leaf.key_pem).start()
    assert caught.value.message.startswith("certificate: expired on ")
    assert caught.value.message.endswith(" UTC, clients would refuse it: have a new one made")


async def test_another_fingerprint_is_refused() -> None:
    async with served(Files(), url=QUIC) as server:
        wrong = "ab" * 32
        assert await untrusted(server, fingerprint=wrong) == (
            f"fingerprint of the server's certificate is {server.fingerprint}, expected {wrong}: it is another server,"
            " or its certificate was renewed; ask its owner before you change fingerprint="
        )
        async with RpcClient.connect(server.addresses[0], fingerprint=[wrong, server.fingerprint.upper()]) as client:
            assert await client.request("files.size", "ab") == 2


async def test_trusting_anybody_is_said_loudly(caplog: pytest.LogCaptureFixture) -> None:
    async with served(Files(), url=QUIC) as server, RpcClient.connect(server.addresses[0], insecure=True) as client:
        assert await client.request("files.size", "ab") == 2
    assert "! INSECURE: 127.0.0.1 is not verified, anybody may read and change what is said" in caplog.text


@pytest.mark.parametrize(
    ("trust", "text"),
    [
        (
            {"ca": "dev", "insecure": True},
            "insecure: cannot be combined with ca, choose one way to trust a server",
        ),
        (
            {"ca": "dev", "fingerprint": "ab" * 32},
            "fingerprint: cannot be combined with ca, choose one way to trust a server",
        ),
        ({"fingerprint": "7"}, "fingerprint: '7' is not a SHA-256, expected 64 hexadecimal digits"),
        ({"ca": "/nowhere.pem"}, "ca: cannot read '/nowhere.pem' (No such file or directory)"),
    ],
)
async def test_trust_that_makes_no_sense_is_refused(trust: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        await RpcClient.connect("quic://127.0.0.1:4433", **trust)
    assert caught.value.message == text


# Ports


async def test_a_port_in_use_says_what_to_do() -> None:
    async with served(url=QUIC) as first:
        url = first.addresses[0]
        with nothing_left(but_timers=True), pytest.raises(ConnectError) as caught:
            await RpcServer(url).start()
        assert caught.value.code is Status.UNAVAILABLE
        assert caught.value.message == (
            f"{url} is in use by another program; stop it or listen on port 0 for a free one"
        )
