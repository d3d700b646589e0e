"""Tests for echostream.transport.quic.engine_aioquic: where aioquic differs, and a canary per private attribute.

A canary that fails after an update of aioquic names the one function of the adapter that has to follow.
"""

from __future__ import annotations

from typing import Any

import pytest
from aioquic.quic import connection
from aioquic.quic.connection import QuicConnectionState
from aioquic.quic.events import ConnectionTerminated
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.tls import Context, Epoch

from echostream.config import ALPN, QuicSettings
from echostream.transport.quic import engine_aioquic_connection as adapter
from echostream.transport.quic import engine_aioquic_runs as runs
from echostream.transport.quic import engine_aioquic_tls as adapter_tls
from echostream.transport.quic.engine_aioquic import AioquicEngines
from echostream.transport.tls import ServerTls
from tests.transport.lab import CLIENT, SERVER, Lab


@pytest.fixture(scope="module")
def tls() -> ServerTls:
    return ServerTls.load()


@pytest.fixture
def lab(tls: ServerTls) -> Lab:
    lab = Lab(tls)
    lab.run()
    assert lab.at_client.protocol == lab.at_server.protocol == ALPN
    return lab


def test_a_batch_is_bounded_and_more_tells(lab: Lab) -> None:
    stream = lab.client.open_stream(unidirectional=True)
    assert stream is not None
    lab.client._quic._loss._cc.congestion_window = 1 << 20
    lab.now += 1.0
    lab.client.send(stream, bytes(300_000), fin=True)
    lab.client._pacer.packet_time = None
    sizes = [len(lab.client.transmit(lab.now))]
    while lab.client.more:
        sizes.append(len(lab.client.transmit(lab.now)))
    assert sizes[0] == 44
    assert len(sizes) == 5
    assert lab.client.unsent_bytes(stream) == 0


def test_pacing_lets_two_milliseconds_go_at_once(lab: Lab) -> None:
    pacer = lab.client._pacer
    pacer.update_rate(congestion_window=14_520, smoothed_rtt=0.001)
    assert pacer.bucket_max == 0.002
    pacer.update_rate(congestion_window=14_520, smoothed_rtt=0.1)
    assert pacer.bucket_max == pytest.approx(0.025)  # aioquic's own: a quarter of the window


def test_packets_that_go_to_and_fro_are_not_acknowledged_each_time(lab: Lab) -> None:
    stream = lab.client.open_stream(unidirectional=False)
    seen = set()
    for _ in range(100):
        for engine, peer, address in ((lab.client, lab.server, CLIENT), (lab.server, lab.client, SERVER)):
            lab.now += 0.0002
            engine.send(stream, b"question or answer", fin=False)
            lab.carry(engine, peer, address)
        seen.add(lab.client.acknowledged())
    assert 15 <= len(seen) <= 30  # one in 2 ms


def test_a_packet_that_nobody_answers_is_acknowledged_within_a_millisecond(lab: Lab) -> None:
    stream = lab.client.open_stream(unidirectional=False)
    for _ in range(3):
        lab.client.send(stream, b"question", fin=False)
        lab.carry(lab.client, lab.server, CLIENT)
        lab.server.send(stream, b"answer", fin=False)
        lab.server.transmit(lab.now)
        assert lab.server.timer() == pytest.approx(lab.now + 0.002)  # with the next answer
    lab.now += 0.0005
    lab.client.send(stream, b"goodbye", fin=False)
    lab.carry(lab.client, lab.server, CLIENT)
    assert lab.server.timer() == pytest.approx(lab.now + 0.001)


def test_many_bytes_are_acknowledged_without_delay_though_there_are_answers(lab: Lab) -> None:
    stream = lab.client.open_stream(unidirectional=False)
    lab.client.send(stream, bytes(5000), fin=False)
    lab.carry(lab.client, lab.server, CLIENT)
    lab.server.send(stream, b"answer", fin=False)
    lab.server.transmit(lab.now)
    assert lab.server.timer() == pytest.approx(lab.now + 0.001)


def test_a_datagram_that_is_too_large_or_not_wanted_is_refused(lab: Lab) -> None:
    limit = lab.client.max_datagram_payload_bytes
    assert limit == 1452 - 40
    assert not lab.client.send_datagram(bytes(limit + 1))
    assert lab.client.send_datagram(bytes(limit))
    lab.run()
    assert lab.at_server.calls == [("datagram", bytes(limit))]
    lab.client._quic._remote_max_datagram_frame_size = 100
    assert lab.client.max_datagram_payload_bytes == 97
    lab.client._quic._remote_max_datagram_frame_size = None
    assert lab.client.max_datagram_payload_bytes == 0
    assert not lab.client.send_datagram(b"")


def test_streams_are_counted_against_the_peers_limit(tls: ServerTls) -> None:
    lab = Lab(tls, max_streams=16)
    assert lab.client.open_stream(unidirectional=False) is None  # nothing is known yet
    lab.run()
    assert lab.at_client.calls == [("available",)]
    opened = [lab.client.open_stream(unidirectional=True) for _ in range(17)]
    assert opened == [*range(2, 66, 4), None]
    for stream in opened[:16]:
        assert stream is not None
        lab.client.send(stream, b"x", fin=True)
    lab.run(30)
    assert lab.at_client.calls == [("available",)] * 2
    assert lab.client.open_stream(unidirectional=True) == 66


def retried(tls: ServerTls) -> tuple[Any, bytes]:
    """A client that was told to come back, and the hello that it said first."""
    engines = AioquicEngines(QuicSettings())
    client: Any = engines.connect(SERVER, server_name="localhost", now=0.0)
    original = client.transmit(0.0)[0][0][6:14]
    _, hello = adapter_tls._hello(client._quic)
    answer = engines.retry_packet(
        version=1, source=b"retrying", destination=client.connection_id, original_destination=original, token=b"token"
    )
    client.receive([answer], SERVER, 0.0)
    return client, hello


def test_a_client_says_the_same_hello_after_a_retry(tls: ServerTls) -> None:
    client, hello = retried(tls)
    _, again = adapter_tls._hello(client._quic)
    assert hello[:1] == b"\x01"
    assert len(hello) > 300
    assert again == hello
    assert client._quic.tls.handle_message.__func__ is Context.handle_message  # what follows is its business again


def test_canary_may_repeat_hello(tls: ServerTls) -> None:
    client, _ = retried(tls)
    version = adapter_tls._version(client._quic)
    assert adapter_tls._may_repeat_hello(client._quic, version)
    assert not adapter_tls._may_repeat_hello(client._quic, 0)
    client._quic.configuration.session_ticket = object()
    assert not adapter_tls._may_repeat_hello(client._quic, version)
    fresh: Any = AioquicEngines(QuicSettings()).connect(SERVER, server_name="localhost", now=0.0)
    assert not adapter_tls._may_repeat_hello(fresh._quic, version)


# Canaries: one per function that touches something private


def test_canary_install_pacer(lab: Lab) -> None:
    assert lab.client._quic._loss._pacer is lab.client._pacer
    assert lab.client._pacer.packet_time is not None  # aioquic has told it the rate


def test_canary_set_stream_limits(tls: ServerTls) -> None:
    lab = Lab(tls, max_streams=500)
    lab.run()
    assert adapter._peer_stream_limit(lab.client._quic, unidirectional=False) == 500
    assert adapter._peer_stream_limit(lab.client._quic, unidirectional=True) == 500
    assert adapter._peer_stream_limit(lab.server._quic, unidirectional=False) == 500


def test_canary_streams_take_turns_in_the_same_order_each_time(tls: ServerTls) -> None:
    """Or a simulation would not repeat: by their addresses, so many hardly ever come in the same order twice."""

    def order() -> list[int]:
        lab = Lab(tls)
        lab.run()
        streams = [lab.client.open_stream(unidirectional=True) for _ in range(12)]
        for _ in range(3):
            for stream in streams:
                lab.client.send(stream, b"x", fin=False)
            lab.run(2)
        return [call[1] for call in lab.at_server.calls]

    assert len(order()) == 36
    assert order() == order()


def test_canary_has_more(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[object] = []
    begin = QuicPacketBuilder.start_packet

    def start_packet(builder: QuicPacketBuilder, *arguments: Any) -> None:
        begun.append(arguments)
        begin(builder, *arguments)

    monkeypatch.setattr(QuicPacketBuilder, "start_packet", start_packet)
    quic, stream = lab.client._quic, lab.client.open_stream(unidirectional=True)
    lab.client.transmit(lab.now)
    begun.clear()
    assert not runs.has_more(quic)
    lab.client.send(stream, b"x", fin=False)
    assert runs.has_more(quic)
    assert len(lab.client.transmit(lab.now)) == 1
    assert not runs.has_more(quic)
    assert len(begun) == 1  # no second packet, to find out that it stays empty
    lab.client.send(stream, b"", fin=True)
    assert runs.has_more(quic)
    lab.client.transmit(lab.now)
    assert lab.client.send_datagram(b"x")
    assert runs.has_more(quic)
    lab.run()
    assert not runs.has_more(quic)
    quic._local_max_streams_uni.value += 1
    assert runs.has_more(quic)


def test_what_is_larger_than_a_packet_leaves_at_once(lab: Lab) -> None:
    lab.client._quic._loss._cc.congestion_window = 1 << 20
    lab.client._pacer.packet_time = None
    lab.client.send(lab.client.open_stream(unidirectional=True), bytes(5000), fin=True)
    assert lab.client.send_datagram(bytes(1000))
    assert sum(len(data) for data, _ in lab.client.transmit(lab.now)) > 6000


def test_canary_hash_by_identity() -> None:
    assert Epoch.__hash__ is QuicConnectionState.__hash__ is object.__hash__
    ended = {state for state in QuicConnectionState if state in connection.END_STATES}
    assert {state.name for state in ended} == {"CLOSING", "DRAINING", "TERMINATED"}


def test_canary_peer_stream_limit(lab: Lab) -> None:
    assert adapter._peer_stream_limit(lab.client._quic, unidirectional=False) == QuicSettings().max_streams


def test_canary_stream(lab: Lab) -> None:
    stream = lab.client.open_stream(unidirectional=False)
    assert stream is not None
    found = adapter._stream(lab.client._quic, stream)
    assert found is not None
    assert found.stream_id == stream
    assert adapter._stream(lab.client._quic, 400) is None


def test_canary_unsent_bytes(lab: Lab) -> None:
    stream = lab.client.open_stream(unidirectional=False)
    assert stream is not None
    assert lab.client.send(stream, bytes(100_000), fin=False) == 100_000
    first = sum(len(data) for data, _ in lab.client.transmit(lab.now))
    unsent = adapter._unsent_bytes(lab.client._quic, stream)
    assert 100_000 - first <= unsent < 100_000
    lab.client.reset(stream, 1)
    assert adapter._unsent_bytes(lab.client._quic, stream) == 0


def test_canary_has_undelivered(lab: Lab) -> None:
    quic = lab.client._quic
    assert not adapter._has_undelivered(quic)
    data, fin, reset = (lab.client.open_stream(unidirectional=True) for _ in range(3))
    assert data is not None
    assert fin is not None
    assert reset is not None
    assert not adapter._has_undelivered(quic)
    lab.client.send(data, b"x", fin=False)
    assert adapter._has_undelivered(quic)
    lab.client.transmit(lab.now)
    assert adapter._has_undelivered(quic)  # sent is not delivered
    lab.lost = True
    lab.run(3)
    assert adapter._has_undelivered(quic)
    lab.lost = False
    lab.run(40)
    assert not adapter._has_undelivered(quic)
    lab.client.send(fin, b"", fin=True)
    assert adapter._has_undelivered(quic)
    lab.run()
    assert not adapter._has_undelivered(quic)
    lab.client.send(reset, b"x", fin=False)
    lab.client.reset(reset, 1)
    assert not adapter._has_undelivered(quic)


def test_canary_peer_datagram_limit(lab: Lab) -> None:
    assert adapter._peer_datagram_limit(lab.client._quic) == 65_535


def test_canary_datagram_queue(lab: Lab) -> None:
    for index in range(QuicSettings().max_queued_datagrams):
        assert lab.client.send_datagram(b"%d" % index)
        assert len(adapter._datagram_queue(lab.client._quic)) == index + 1
    assert not lab.client.send_datagram(b"one more")
    lab.run()
    assert len(adapter._datagram_queue(lab.client._quic)) == 0
    assert len(lab.at_server.calls) == QuicSettings().max_queued_datagrams


def test_canary_close_event(lab: Lab) -> None:
    assert adapter._close_event(lab.client._quic) is None
    lab.client._quic.close(error_code=5, reason_phrase="inside")
    assert adapter._close_event(lab.client._quic) == ConnectionTerminated(5, None, "inside")
    lab.run(1)
    assert lab.at_client.calls == [("closed", False, 5, "inside", False)]


def test_canary_is_draining(lab: Lab) -> None:
    lab.client.close(5, "")
    lab.run(1)
    assert adapter._is_draining(lab.server._quic)
    assert not adapter._is_draining(lab.client._quic)


def test_canary_largest_acknowledged(lab: Lab) -> None:
    before = adapter._largest_acknowledged(lab.client._quic)
    lab.client.ping()
    lab.run(3)
    assert adapter._largest_acknowledged(lab.client._quic) > before > 0


def test_canary_smoothed_rtt(tls: ServerTls) -> None:
    lab = Lab(tls)
    assert adapter._smoothed_rtt(lab.client._quic) is None
    lab.run()
    measured = lab.client.rtt
    assert measured is not None
    assert 0 < measured < 0.1


def test_canary_peer_reset_tokens(lab: Lab) -> None:
    lab.run()
    (first,) = adapter._peer_reset_tokens(lab.client._quic)
    assert len(first) == 16
    assert lab.client.receive_reset(bytes(9) + first, SERVER, lab.now)
    assert not lab.client.receive_reset(first + bytes(9), SERVER, lab.now)
    lab.client._quic.change_connection_id()
    assert not lab.client.receive_reset(bytes(9) + first, SERVER, lab.now)


def test_canary_derive_reset_tokens(tls: ServerTls) -> None:
    make = AioquicEngines(QuicSettings()).acceptor(tls, lambda connection_id: connection_id * 2)
    quic = make(b"12345678", None)._quic  # type: ignore[attr-defined]
    quic._remote_active_connection_id_limit = 8
    quic._replenish_connection_ids()
    ids = quic._host_cids
    assert len(ids) == 8
    assert [item.stateless_reset_token for item in ids] == [item.cid * 2 for item in ids]


def test_canary_mark_connection_ids(tls: ServerTls) -> None:
    def mark(connection_id: bytes) -> bytes:
        return b"\x07" + connection_id[1:]

    make = AioquicEngines(QuicSettings()).acceptor(tls, lambda connection_id: connection_id * 2, None, mark)
    quic = make(b"12345678", None)._quic  # type: ignore[attr-defined]
    quic._remote_active_connection_id_limit = 8
    quic._replenish_connection_ids()
    ids = quic._host_cids
    assert {item.cid[0] for item in ids} == {7}
    assert len({item.cid for item in ids}) == 8
    assert [item.stateless_reset_token for item in ids] == [item.cid * 2 for item in ids]
    assert quic.host_cid == quic._local_initial_source_connection_id == ids[0].cid


def test_canary_keep_groups(tls: ServerTls) -> None:
    lab = Lab(tls)
    lab.run()
    keys = lab.client._quic.tls
    assert len(keys._ec_private_keys) == 1
    assert keys._x25519_private_key is not None
    assert keys._x448_private_key is None


def test_packets_stay_within_what_aioquic_can_write(tls: ServerTls) -> None:
    lab = Lab(tls, max_datagram_bytes=60_000)
    lab.run()
    assert lab.client.max_datagram_payload_bytes == 16_384 - 40
    stream = lab.client.open_stream(unidirectional=True)
    assert stream is not None
    lab.client.send(stream, bytes(200_000), fin=True)
    lab.run(50)
    assert sum(len(call[2]) for call in lab.at_server.calls) == 200_000


def test_packets_stay_within_what_the_peer_takes(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    assert adapter_tls.peer_payload_limit(lab.client._quic) == 65_527  # it named none
    monkeypatch.setattr(adapter, "peer_payload_limit", lambda quic: 1300)
    lab.client._widen()
    assert lab.client.max_datagram_payload_bytes == 1300 - 40


def test_the_limit_that_a_peer_names_is_read(tls: ServerTls) -> None:
    pytest.importorskip("qh3")
    from qh3.quic.connection import QuicConnection

    from echostream.transport.quic import engine_qh3

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_qh3, "ClientOfOneHello", QuicConnection)
        lab = Lab(tls, ("qh3", "aioquic"), max_datagram_bytes=8952)
    lab.run()
    assert adapter_tls.peer_payload_limit(lab.server._quic) == 1472
    assert lab.server.max_datagram_payload_bytes == 1472 - 40


def test_a_path_that_carried_less_is_tried_again_after_ten_minutes(lab: Lab) -> None:
    lab.mtu = 1300
    stream = lab.client.open_stream(unidirectional=True)
    assert stream is not None
    lab.client.send(stream, bytes(50_000), fin=True)
    lab.client.send_datagram(bytes(1400))
    lab.run(200)
    assert lab.client.max_datagram_payload_bytes == 1160
    lab.mtu = 65_535
    lab.now += 600
    lab.client.ping()
    lab.carry(lab.client, lab.server, CLIENT)
    assert lab.client.max_datagram_payload_bytes == 1412


def test_a_datagram_that_is_too_large_for_a_narrow_path_stands_in_nobodys_way(lab: Lab) -> None:
    for size in (1400, 100, 1300):
        assert lab.client.send_datagram(bytes(size))
    lab.client._narrow(lab.now)
    lab.run()
    assert lab.at_server.calls == [("datagram", bytes(100))]


def test_canary_congestion(lab: Lab) -> None:
    control = adapter._congestion(lab.client._quic)
    assert control.large_losses == 0
    lab.mtu = 1300
    stream = lab.client.open_stream(unidirectional=True)
    assert stream is not None
    lab.client.send(stream, bytes(5000), fin=True)
    while control.large_losses < 2:
        lab.run(1)
    assert control.bytes_in_flight > 0
    lab.mtu = 65_535
    lab.run(100)
    assert control.large_losses == 0
    assert len(lab.at_server.calls) > 0


def test_canary_datagram_bytes(lab: Lab) -> None:
    assert adapter._datagram_bytes(lab.client._quic) == 1452
    adapter._set_datagram_bytes(lab.client._quic, 1300)
    stream = lab.client.open_stream(unidirectional=True)
    assert stream is not None
    lab.client.send(stream, bytes(5000), fin=True)
    assert max(len(data) for data, _ in lab.client.transmit(lab.now)) == 1300


def test_canary_no_private_attribute_is_touched_elsewhere() -> None:
    """Above the marker the adapter keeps to the public surface."""
    import inspect
    import re

    public, marker, _ = inspect.getsource(adapter).partition("# The private attributes of aioquic")
    assert marker
    assert re.findall(r"_quic\._\w+|\bquic\._\w+", public) == []
