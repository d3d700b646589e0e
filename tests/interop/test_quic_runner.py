"""The cases of the QUIC Interop Runner under their own names, in every pairing of the engines, in virtual time.

https://github.com/quic-interop/quic-interop-runner, testcases_quic.py: links, sizes and checks are its own. Where an
engine, or EchoStream, does something else, the case says what, and docs/topics/engines.md tells users.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
from collections.abc import Awaitable, Callable
from functools import cache, partial
from typing import Any

import pytest
from aioquic.quic.congestion.base import register_congestion_control
from aioquic.quic.congestion.cubic import CubicCongestionControl
from aioquic.quic.packet import QuicFrameType, QuicPacketType
from cryptography import x509

from echostream import ConnectError, RpcClient
from echostream.testing import SimHost, SimNetwork
from echostream.transport.sockets import SocketAddress
from echostream.types import clock
from tests.interop.dissect import Packet
from tests.interop.runner import KB, MB, PATIENCE, SIMPLE, Files, Runner, download_all
from tests.transport.authority import DAY, Issued, issue
from tests.transport.lab import Pair, every_pair

INITIAL, HANDSHAKE, ONE_RTT = QuicPacketType.INITIAL, QuicPacketType.HANDSHAKE, QuicPacketType.ONE_RTT
CERTIFICATE = 11
V1, V2 = 1, 0x6B3343CF
PATIENT = {"handshake_timeout": 60.0}
"""By default it is 10 s, in which about one handshake of a hundred does not get through a loss of 30 %."""


@every_pair
def test_handshake(engines: Pair) -> None:
    """One connection, one small file, and no Retry; a server of qh3 sends one to everybody."""
    runner = Runner(engines)
    runner.run(lambda client: download_all(client, 1 * KB))
    assert runner.handshakes() == 1
    retries = [packet for packet in runner.long_packets() if packet.type is QuicPacketType.RETRY]
    assert bool(retries) == (runner.server_engine == "qh3")


@every_pair
def test_longrtt(engines: Pair) -> None:
    """The handshake survives a round trip of 1.5 s, although the client hello is sent again meanwhile."""
    runner = Runner(engines, SIMPLE.with_(delay=0.75))
    runner.run(lambda client: download_all(client, 1 * KB))
    assert runner.handshakes() == 1
    hellos = [packet for packet in runner.long_packets() if packet.type is INITIAL and _has_hello(packet)]
    assert len(hellos) >= 2


def _has_hello(packet: Packet) -> bool:
    crypto = packet.of(QuicFrameType.CRYPTO)
    return not packet.from_server and any(frame.values[0] == 0 and frame.data[0] == 1 for frame in crypto)


@pytest.mark.slow
@every_pair
def test_transfer(engines: Pair) -> None:
    """Three files at once, with windows that must be raised on the way."""
    windows = {"stream_window_bytes": 64 * KB, "connection_window_bytes": 128 * KB}
    runner = Runner(engines, settings=windows)
    runner.run(lambda client: download_all(client, 2 * MB, 3 * MB, 5 * MB))
    assert runner.handshakes() == 1
    acknowledging = runner.packets(lambda record: record.sender == "client" and len(record.data) < 100)
    raised = {frame.type for packet in acknowledging for frame in packet.frames}
    assert raised >= {QuicFrameType.MAX_DATA, QuicFrameType.MAX_STREAM_DATA}


@pytest.mark.slow
@every_pair
def test_multiplexing(engines: Pair) -> None:
    """1,999 small files, each on a stream of its own, with a limit of at most 1,000 that the server raises."""
    files = [hashlib.shake_128(b"%d" % number).digest(32) for number in range(1999)]
    runner = Runner(engines, settings={"max_streams": 1000})

    async def send(client: RpcClient, data: bytes) -> None:
        async with client.open_stream("files.put", timeout=PATIENCE, close_timeout=PATIENCE) as sender:
            await sender.send(data)

    async def send_all(client: RpcClient) -> None:
        await asyncio.gather(*(send(client, data) for data in files))

    runner.run(send_all)
    assert runner.handshakes() == 1
    assert sorted(runner.files.received) == sorted(files)
    limits = [
        frame.values[0]
        for packet in runner.packets()
        if packet.from_server
        for frame in packet.of(QuicFrameType.MAX_STREAMS_BIDI) + packet.of(QuicFrameType.MAX_STREAMS_UNI)
    ]
    assert limits[0] < len(files) <= max(limits)


@every_pair
def test_retry(engines: Pair) -> None:
    """A Retry, and an Initial that brings its token back, with a packet number that goes on."""
    runner = Runner(engines, settings={"retry_above_handshakes": 0})
    runner.run(lambda client: download_all(client, 10 * KB))
    assert runner.handshakes() == 1
    packets = runner.long_packets()
    tokens = {packet.header.token for packet in packets if packet.type is QuicPacketType.RETRY}
    initials = [packet for packet in packets if packet.type is INITIAL and not packet.from_server]
    assert b"" not in tokens
    [number, *_] = [packet.number for packet in initials if packet.header.token in tokens]
    before = max(packet.number for packet in initials if not packet.header.token)
    assert (number > before) == (runner.client_engine == "aioquic")  # qh3 begins again at 0 (RFC 9000 section 17.2.5.3)


@every_pair
def test_resumption(engines: Pair) -> None:
    """Two connections, of which the second shows no certificate."""
    runner = Runner(engines)
    runner.run(lambda client: download_all(client, 5 * KB, 10 * KB), connections=2)
    assert runner.handshakes() == 2
    said: dict[bytes, dict[int, bytes]] = {}
    for packet in runner.long_packets():
        if packet.from_server and packet.type is HANDSHAKE:
            for frame in packet.of(QuicFrameType.CRYPTO):
                said.setdefault(packet.header.source_cid, {})[frame.values[0]] = frame.data
    first, second = (_tls_messages(parts) for parts in said.values())
    assert CERTIFICATE in first
    assert CERTIFICATE not in second


def _tls_messages(parts: dict[int, bytes]) -> list[int]:
    """Return the kinds of the messages in CRYPTO frames that were neither lost nor repeated (RFC 8446 section 4)."""
    data = b"".join(part for _, part in sorted(parts.items()))
    kinds = []
    while data:
        kinds.append(data[0])
        data = data[4 + int.from_bytes(data[1:4]) :]
    return kinds


@every_pair
def test_zerortt(engines: Pair) -> None:
    """Small files with long names: what asks for them goes out before the second handshake is done.

    Twenty instead of forty: EchoStream sends 8 KB early, and the rest with the end of the handshake.
    """
    names = [hashlib.shake_128(b"%d" % number).hexdigest(125) for number in range(20)]
    runner = Runner(engines, early_data=True)

    async def read_all(client: RpcClient) -> None:
        files = client.proxy(Files, timeout=PATIENCE)
        found = await asyncio.gather(*(files.read(name) for name in names))
        assert found == [hashlib.shake_128(name.encode()).digest(32) for name in names]
        ended.append(runner.network.now)

    ended: list[float] = []
    runner.run(read_all, connections=2)
    assert runner.handshakes() == 2
    sent = [packet for packet in runner.packets() if not packet.from_server and packet.record.at > ended[0]]
    early = sum(len(packet.data) for packet in sent if packet.type is QuicPacketType.ZERO_RTT)
    late = sum(len(packet.data) for packet in sent if packet.type is ONE_RTT)
    assert early > 0
    assert late <= 0.5 * sum(map(len, names))


@pytest.mark.slow
@every_pair
def test_keyupdate(engines: Pair) -> None:
    """A side that has sent many packets takes new keys, and the other follows."""
    runner = Runner(engines, settings={"key_update_packets": 1500})  # millions, by default
    runner.run(lambda client: download_all(client, 3 * MB))
    assert runner.handshakes() == 1
    seen = {(packet.from_server, packet.key_phase) for packet in runner.packets() if packet.type is ONE_RTT}
    assert seen == {(False, 0), (False, 1), (True, 0), (True, 1)}


@pytest.mark.slow
@every_pair
def test_blackhole(engines: Pair) -> None:
    """A transfer outlives an outage of 2 s after every 5 s."""
    runner = Runner(engines)

    async def outages(network: SimNetwork) -> None:
        while True:
            await asyncio.sleep(5)
            network.partition("client")
            await asyncio.sleep(2)
            network.heal()

    runner.run(_with(runner, outages, lambda client: download_all(client, 10 * MB)))
    assert runner.handshakes() == 1
    assert runner.network.now > 10


def _with(
    runner: Runner,
    weather: Callable[[SimNetwork], Awaitable[None]],
    scenario: Callable[[RpcClient], Awaitable[None]],
) -> Callable[[RpcClient], Awaitable[None]]:
    """Let something happen to the network while a scenario runs."""

    async def both(client: RpcClient) -> None:
        changing = asyncio.ensure_future(weather(runner.network))
        try:
            await scenario(client)
        finally:
            changing.cancel()

    return both


@every_pair
def test_amplificationlimit(engines: Pair) -> None:
    """Nine certificates, and a client that is hardly heard: no more than three times what came, until it is known."""
    runner = Runner(engines, certificate=_nine_certificates())
    runner.network.join("client", "server", SIMPLE.with_(drop=(2, 3, 4, 5, 6, 7)), back=SIMPLE)
    runner.run(lambda client: download_all(client, 5 * KB))
    assert runner.handshakes() == 1
    packets = runner.long_packets()
    crypto = [
        frame
        for packet in packets
        if packet.from_server and packet.type is HANDSHAKE
        for frame in packet.of(QuicFrameType.CRYPTO)
    ]
    assert max(frame.values[0] + len(frame.data) for frame in crypto) >= 7500
    allowed = 0
    for packet in sorted(filter(_reached_server, packets), key=_time_at_server):
        size = 0 if _is_coalesced(packet) else len(packet.record.data)
        if packet.from_server:
            allowed -= size
            assert allowed >= 0
        elif packet.type is HANDSHAKE or packet.header.token:  # what only the owner of the address can say
            break
        else:
            allowed += 3 * size
    else:
        pytest.fail("the address was never validated")


def _reached_server(packet: Packet) -> bool:
    return packet.from_server or bool(packet.record.arrivals)


def _time_at_server(packet: Packet) -> float:
    return packet.record.at if packet.from_server else packet.record.arrivals[0].at


def _is_coalesced(packet: Packet) -> bool:
    """Whether it follows another in its UDP packet."""
    return not packet.record.data.startswith(packet.data)


@cache
def _nine_certificates() -> bytes:
    """Make a chain of 8 KB and its key."""
    now = clock.wall()
    make = partial(issue, start=now - DAY, end=now + DAY)
    bulk = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.55555.1"), bytes(600))
    chain: list[Issued] = []
    for number in range(8):
        by = chain[0] if chain else None
        chain.insert(0, make(f"authority {number}", by=by, ca=True, extensions=((bulk, False),)))
    leaf = make("server", "server", by=chain[0])
    return b"".join(item.pem for item in (leaf, *chain)) + leaf.key_pem


@every_pair
def test_handshakeloss(engines: Pair) -> None:
    """Fifty connections, one after the other, where 30 % of all packets are lost."""
    runner = Runner(engines, SIMPLE.with_(loss=0.3), settings=PATIENT, seed=16)
    runner.run(lambda client: download_all(client, 1 * KB), connections=50)
    assert runner.handshakes() == 50


@every_pair
def test_handshakecorruption(engines: Pair) -> None:
    """Fifty connections, one after the other, where 30 % of all packets are damaged."""
    runner = Runner(engines, SIMPLE.with_(corrupt=0.3), settings=PATIENT)
    runner.run(lambda client: download_all(client, 1 * KB), connections=50)
    assert runner.handshakes() == 50


@every_pair
def test_transferloss(engines: Pair) -> None:
    """A file where 2 % of all packets are lost."""
    runner = Runner(engines, SIMPLE.with_(loss=0.02))
    runner.run(lambda client: download_all(client, 2 * MB))
    assert runner.handshakes() == 1


@every_pair
def test_transfercorruption(engines: Pair) -> None:
    """A file where 2 % of all packets are damaged."""
    runner = Runner(engines, SIMPLE.with_(corrupt=0.02))
    runner.run(lambda client: download_all(client, 2 * MB))
    assert runner.handshakes() == 1


@every_pair
def test_ipv6(engines: Pair) -> None:
    """Two files where there is no IPv4."""
    runner = Runner(engines, url="quic://[fd00::1]:4433")
    runner.run(lambda client: download_all(client, 5 * KB, 10 * KB))
    assert runner.handshakes() == 1
    addresses = {ipaddress.ip_address(record.destination[0]) for record in runner.network.packets}
    assert {address.version for address in addresses} == {6}


@every_pair
def test_v2(engines: Pair) -> None:
    """A client that begins with version 1 and prefers version 2 is moved to it by the server (RFC 9368, RFC 9369).

    A client of qh3 does not follow. None of this happens by itself: every client of EchoStream prefers version 1.
    """

    def prefer_version_2(configuration: Any, is_client: bool) -> None:
        if is_client:
            configuration.original_version = V1
            configuration.supported_versions = [V2, V1]

    runner = Runner(engines, configure=prefer_version_2)
    if runner.client_engine == "qh3":
        with pytest.raises(ConnectError, match="idle timeout: no packet from the peer"):
            runner.run(lambda client: download_all(client, 1 * KB))
        return
    runner.run(lambda client: download_all(client, 1 * KB))
    versions = _versions(runner)
    assert V1 in versions[INITIAL, False]
    assert V2 in versions[INITIAL, True]
    assert versions[HANDSHAKE, False] == versions[HANDSHAKE, True] == {V2}


@every_pair
@pytest.mark.parametrize("preferred", [V1, V2])
def test_v2_from_the_start(engines: Pair, preferred: int) -> None:
    """Either version is spoken from the first packet on, Retry included; it is 1 unless something is patched."""

    def prefer(configuration: Any, is_client: bool) -> None:
        if is_client and preferred == V2:
            configuration.supported_versions = [V2, V1]

    runner = Runner(engines, configure=prefer)
    runner.run(lambda client: download_all(client, 1 * KB))
    assert set().union(*_versions(runner).values()) == {preferred}


def _versions(runner: Runner) -> dict[tuple[QuicPacketType, bool], set[int | None]]:
    """The versions of the packets by type and whether they came from the server."""
    found: dict[tuple[QuicPacketType, bool], set[int | None]] = {}
    for packet in runner.long_packets():
        if packet.type is not ONE_RTT:
            found.setdefault((packet.type, packet.from_server), set()).add(packet.header.version)
    return found


@pytest.mark.slow
@every_pair
def test_rebind_port(engines: Pair) -> None:
    """A NAT gives the client another port after 1 s, and then every 5 s."""
    runner = Runner(engines)
    runner.run(_with(runner, _rebinding(SimHost.rebind), lambda client: download_all(client, 10 * MB)))
    assert runner.handshakes() == 1
    assert len(_paths(runner)) > 1
    _check_validation(runner)


@pytest.mark.slow
@every_pair
def test_rebind_addr(engines: Pair) -> None:
    """A NAT gives the client another address and port after 1 s, and then every 5 s."""

    def move(host: SimHost) -> None:
        host.move()
        host.rebind()

    runner = Runner(engines)
    runner.run(_with(runner, _rebinding(move), lambda client: download_all(client, 10 * MB)))
    assert runner.handshakes() == 1
    assert len({address for address, *_ in _paths(runner)}) > 1
    _check_validation(runner)


def _rebinding(change: Callable[[SimHost], None]) -> Callable[[SimNetwork], Awaitable[None]]:
    async def weather(network: SimNetwork) -> None:
        await asyncio.sleep(1)
        while True:
            change(network.host("client"))
            await asyncio.sleep(5)

    return weather


def _paths(runner: Runner) -> dict[SocketAddress, None]:
    """Where the server sent to, in order."""
    return dict.fromkeys(record.destination for record in runner.network.packets if record.sender == "server")


def _check_validation(runner: Runner) -> None:
    """The first packet to each new address asks for a proof, and each that a client can hear of is answered.

    Where nothing more may be under way, a bare acknowledgement goes first: what asks for one has to wait.
    """
    seen: set[SocketAddress] = set()
    challenges: set[bytes] = set()
    responses: set[bytes] = set()
    under_way: list[tuple[float, SocketAddress, set[bytes]]] = []
    for packet in runner.packets():
        record = packet.record
        if packet.from_server:
            asked = {frame.data for frame in packet.of(QuicFrameType.PATH_CHALLENGE)}
            if record.destination not in seen and not _is_bare(packet):
                assert asked or not seen, "a new path is used and not validated"
                seen.add(record.destination)
                under_way += [(arrival.at, record.destination, asked) for arrival in record.arrivals]
            continue
        responses |= {frame.data for frame in packet.of(QuicFrameType.PATH_RESPONSE)}
        for arrived, address, asked in under_way:  # where the client is no longer, it does not arrive
            if record.at >= arrived and record.source == address:
                challenges |= asked
        under_way = [item for item in under_way if record.at < item[0]]
    assert challenges
    assert challenges <= responses


def _is_bare(packet: Packet) -> bool:
    return all(frame.type == QuicFrameType.ACK for frame in packet.frames)


@every_pair
@pytest.mark.parametrize("knows", [False, True], ids=["unnoticed", "by itself"])
def test_connectionmigration(engines: Pair, knows: bool) -> None:
    """The client gets another address in the middle of a transfer, which the server follows.

    The runner's client moves to an address that the server prefers, and neither engine's server names one. Here it
    moves for its own reasons: it takes another socket, and an id that nobody saw at the last one. A client that does
    not know of its move keeps its id.
    """

    async def scenario(client: RpcClient) -> None:
        async def weather(network: SimNetwork) -> None:
            await asyncio.sleep(1)
            network.host("client").move()
            if knows:
                connection: Any = client.session.peer.connection
                with network.host("client"):
                    connection._link.migrate()

        await _with(runner, weather, lambda client: download_all(client, 2 * MB))(client)

    runner = Runner(engines)
    runner.run(scenario)
    assert runner.handshakes() == 1
    assert len(_paths(runner)) == 2
    _check_validation(runner)
    used: dict[SocketAddress, set[bytes]] = {}
    for packet in runner.packets():
        if not packet.from_server and packet.type is ONE_RTT:
            used.setdefault(packet.record.source, set()).add(packet.header.destination_cid)
    before, after = used.values()
    assert before.isdisjoint(after) if knows else before == after


@pytest.mark.slow
@every_pair
def test_goodput(engines: Pair) -> None:
    """How much of 10 Mbit/s reaches the application: measured as the runner does, and held; 5 MB instead of 10."""
    runner = Runner(engines)
    runner.run(lambda client: download_all(client, 5 * MB))
    assert runner.handshakes() == 1
    assert _goodput_kbps(runner, 5 * MB) > 9000


class _Cubic(CubicCongestionControl):
    """aioquic's, with what the adapter looks at in its own."""

    lost_count = large_losses = 0


register_congestion_control("tests-cubic", _Cubic)


@pytest.mark.slow
@every_pair
def test_crosstraffic(engines: Pair) -> None:
    """The same beside a transfer that fills the link with the congestion control of TCP (CUBIC).

    That one is QUIC, too: a simulation has no TCP. 3 MB instead of 25, which tell as much.
    """
    is_rival = False

    def use_cubic(configuration: Any, is_client: bool) -> None:
        if is_rival:
            configuration.congestion_control_algorithm = "tests-cubic"

    runner = Runner(engines, configure=use_cubic)

    async def both(client: RpcClient) -> None:
        nonlocal is_rival
        is_rival = True
        server = await runner.serve("quic://10.0.0.1:5201", "aioquic")
        async with runner.dial(server, "aioquic") as rival:
            other = asyncio.ensure_future(download_all(rival, 25 * MB))
            await download_all(client, 3 * MB)
            assert not other.done()
            other.cancel()
        await server.stop()

    runner.run(both)
    assert 2000 < _goodput_kbps(runner, 3 * MB) < 8000


def _goodput_kbps(runner: Runner, size: int) -> float:
    """Measure from the first to the last packet of the application's that the server of the case sends."""
    times = [
        record.at
        for record in runner.network.packets
        if record.source == ("10.0.0.1", 4433) and not record.data[0] & 0x80
    ]
    return 8 * size / (times[-1] - times[0]) / 1000
