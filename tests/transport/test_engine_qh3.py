"""Tests for echostream.transport.quic.engine_qh3: where qh3 differs, and a canary per private attribute.

What every engine promises is in test_engine.py. A canary that fails after an update of qh3 names the one function of
the adapter that has to follow.
"""

from __future__ import annotations

import inspect
import logging
import re
from types import SimpleNamespace
from typing import Any

import pytest

from echostream.config import QuicSettings
from echostream.errors import ConfigurationError
from echostream.transport.quic.paths import LargePackets
from echostream.transport.tls import ServerTls
from tests.transport.lab import CLIENT, SERVER, Lab, Sink

pytest.importorskip("qh3")

from qh3.quic.connection import QuicConnection
from qh3.quic.events import ConnectionTerminated
from qh3.tls import Epoch

from echostream.transport.quic import engine_qh3_connection as adapter
from echostream.transport.quic import engine_qh3_inside as inside
from echostream.transport.quic import engine_qh3_path
from echostream.transport.quic.engine_aioquic import AioquicEngines
from echostream.transport.quic.engine_qh3 import Qh3Engines

QH3 = ("qh3", "qh3")


@pytest.fixture(scope="module")
def tls() -> ServerTls:
    return ServerTls.load()


@pytest.fixture
def lab(tls: ServerTls) -> Lab:
    lab = Lab(tls, QH3)
    lab.run()
    return lab


@pytest.fixture
def quic(lab: Lab) -> Any:
    """The client's qh3 connection."""
    return lab.client._quic


def test_a_server_without_retry_raises_for_ever_at_a_short_hello(tls: ServerTls) -> None:
    """Why `needs_retry`: when this fails, qh3 counts padding, and the Retry of every first packet may go."""
    assert Qh3Engines.needs_retry
    name = f"{'a' * 60}.{'b' * 60}"  # with a short one the rest of the answer has no room at all, and merely waits
    client = AioquicEngines(QuicSettings()).connect(SERVER, server_name=name, now=0.0)
    hello = client.transmit(0.0)[0][0]
    server = Qh3Engines(QuicSettings()).acceptor(tls)(hello[6:14], None)
    server.receive([hello], CLIENT, 0.0)
    assert len(server.transmit(0.0)) == 1
    for now in (0.0, 1.0, 2.0):
        with pytest.raises(RuntimeError, match="packet builder capacity exhausted"):
            server.transmit(now)


def test_a_datagram_that_fits_no_packet_would_end_the_connection(lab: Lab, quic: Any) -> None:
    """Why the adapter looks at the size."""
    quic.send_datagram_frame(bytes(1440))
    for _ in range(adapter._PATIENCE - 1):  # about the time of a move it passes
        assert lab.client.transmit(lab.now) == []
    with pytest.raises(RuntimeError, match="packet builder capacity exhausted"):
        lab.client.transmit(lab.now)


def test_qh3_asks_no_congestion_window_for_datagrams(lab: Lab, quic: Any) -> None:
    """Why the adapter does."""
    window = quic._core.congestion_window
    for _ in range(100):
        quic.send_datagram_frame(bytes(1000))
    assert sum(len(data) for data, _ in lab.client.transmit(lab.now)) > 2 * window


def test_streams_are_counted_against_the_limits_of_qh3(lab: Lab) -> None:
    for unidirectional, limit in ((False, 100), (True, 103)):
        opened = [lab.client.open_stream(unidirectional=unidirectional) for _ in range(limit + 1)]
        assert opened.index(None) == limit
        for stream in opened[:limit]:
            assert stream is not None
            lab.client.send(stream, b"x", fin=True)
        lab.run(30)
        if not unidirectional:
            for stream in opened[:limit]:
                assert stream is not None
                lab.server.send(stream, b"", fin=True)
            lab.run(30)
        assert lab.at_client.calls.count(("available",)) == 1 + unidirectional
        assert lab.client.open_stream(unidirectional=unidirectional) is not None


def test_a_client_says_that_it_takes_packets_of_any_size(tls: ServerTls) -> None:
    """qh3 would say 1,472 bytes."""
    lab = Lab(tls, QH3, max_datagram_bytes=8952)
    lab.run()
    assert lab.client.max_datagram_payload_bytes == lab.server.max_datagram_payload_bytes == 8952 - 40


def test_a_peer_without_datagrams_gets_none(lab: Lab, quic: Any) -> None:
    quic._remote_max_datagram_frame_size = 100
    assert lab.client.max_datagram_payload_bytes == 97
    quic._remote_max_datagram_frame_size = None
    assert lab.client.max_datagram_payload_bytes == 0
    assert not lab.client.send_datagram(b"")


def test_a_datagram_that_outgrew_the_path_while_it_waited_is_dropped(lab: Lab, quic: Any) -> None:
    assert lab.client.send_datagram(bytes(1000))
    assert lab.client.send_datagram(b"small")
    quic._remote_max_datagram_frame_size = 100
    lab.run()
    assert lab.at_server.calls == [("datagram", b"small")]


def test_a_server_before_its_first_packet_is_silent(tls: ServerTls) -> None:
    server = Qh3Engines(QuicSettings()).acceptor(tls)(b"12345678", None)
    server.receive([b"\xc0garbage"], CLIENT, 1.0)
    assert server.transmit(1.0) == []
    assert server.timer() is None
    assert server.peer_address is None
    assert server.peer_chain == ()
    assert server.rtt is None
    assert server.max_datagram_payload_bytes == 0
    assert not server.has_undelivered()
    server.handle_timer(1.0)
    server.fail(1, "no")
    assert server.transmit(1.0) == []


def test_warming_up_does_the_first_key_exchange_of_the_process(tls: ServerTls, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes 25 ms and holds the interpreter meanwhile, which no client shall wait for."""
    answers: list[Any] = []

    def receive(self: Any, *args: Any) -> None:
        original(self, *args)
        answers.append(self.transmit(0.0))

    original = adapter.Qh3Engine.receive
    monkeypatch.setattr(adapter.Qh3Engine, "receive", receive)
    Qh3Engines(QuicSettings()).warm_up(tls)
    [answer] = answers
    assert len(answer) >= 1
    assert answer[0][0][0] & 0x80  # a handshake packet: the shared secret is there


def test_a_malformed_hello_is_refused_in_words(tls: ServerTls) -> None:
    client = AioquicEngines(QuicSettings()).connect(SERVER, server_name="localhost", now=0.0)
    hello = next(iter(client._quic._crypto_streams.values())).sender._buffer
    start = hello.index(b"localhost")
    hello[start : start + 1] = b"\x80"  # no character of a host name
    packets = [data for data, _ in client.transmit(0.0)]
    server, sink = Qh3Engines(QuicSettings()).acceptor(tls)(packets[0][6:14], b"retrying"), Sink()
    server.receive(packets, CLIENT, 0.0)
    server.deliver(sink)
    assert sink.calls == [("closed", False, 0x100 + 50, "malformed", False)]
    client.receive([data for data, _ in server.transmit(0.0)], SERVER, 0.0)
    client.deliver(sink)
    assert sink.calls[1:] == [("closed", False, 0x100 + 50, "malformed", True)]


def test_a_client_says_the_same_hello_after_a_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[Any] = []
    drain = QuicConnection._drain_tls

    def drain_and_note(quic: Any) -> None:
        said.append(list(quic._tls._outbound))
        drain(quic)

    monkeypatch.setattr(QuicConnection, "_drain_tls", drain_and_note)

    def retry(ticket: object = None) -> None:
        said.clear()
        engines = Qh3Engines(QuicSettings())
        client: Any = engines.connect(SERVER, server_name="localhost", now=0.0)
        client._quic._configuration.session_ticket = ticket
        original = client.transmit(0.0)[0][0][6:14]
        source, own = b"retrying", client.connection_id
        answer = engines.retry_packet(
            version=1, source=source, destination=own, original_destination=original, token=b"token"
        )
        client.receive([answer], SERVER, 0.0)
        assert client._quic._tls.retry_source_connection_id == source
        assert client._quic._hello is None or ticket is not None

    retry()
    first, again = said
    assert len(first[0].data) > 1200
    assert again == first
    monkeypatch.setattr(QuicConnection, "_remembered_transport_parameters", lambda _: None)
    ticket = SimpleNamespace(is_valid=False, server_name="elsewhere")
    retry(ticket)  # its keys for early data must be made once more
    assert said[1] != said[0]


def test_an_error_of_qh3_after_the_handshake_comes_out(lab: Lab, quic: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("inconsistent inside")

    monkeypatch.setattr(quic, "_drain_core", fail)
    with pytest.raises(RuntimeError, match="inconsistent inside"):
        lab.client.receive([b"packet"], SERVER, lab.now)


def test_qh3_follows_three_moves_and_the_fourth_ends_the_connection_in_words(lab: Lab) -> None:
    for port in (2000, 2001, 2002):
        lab.client_address = (CLIENT[0], port)
        lab.client.ping()
        lab.run(5)
        assert lab.server.peer_address == lab.client_address
    lab.client_address = (CLIENT[0], 2003)
    for _ in range(8):
        lab.client.ping()
        lab.run(50)
    text = "the peer moved again, and qh3 follows 3 times"
    assert lab.at_server.calls == [("closed", False, 0x10, text, False)]
    assert lab.at_client.calls == [("closed", False, 0x10, text, True)]


def test_a_path_whose_validation_got_lost_is_validated_again(lab: Lab) -> None:
    lab.client_address = moved = (CLIENT[0], 2000)
    lab.client.ping()
    lab.carry(lab.client, lab.server, moved)
    lab.carry(lab.server, lab.client, SERVER)
    answer, *rest = [data for data, _ in lab.client.transmit(lab.now)]
    assert rest == [] or len(answer) == 36  # PATH_RESPONSE in a packet of its own, which nobody sends again
    if rest:
        lab.server.receive(rest, moved, lab.now)
    for _ in range(6):
        lab.client.ping()
        lab.run(20)
    assert lab.server.peer_address == moved
    stream = lab.server.open_stream(unidirectional=True)
    assert stream is not None
    lab.server.send(stream, b"found you", fin=True)
    assert {to for _, to in lab.server.transmit(lab.now)} == {moved}


def test_a_kind_of_key_that_qh3_lacks_is_refused(tls: ServerTls) -> None:
    from cryptography.hazmat.primitives.asymmetric import ed448

    engines = Qh3Engines(QuicSettings())
    assert engines.can_serve(tls)
    unusual = ServerTls(tls.chain, ed448.Ed448PrivateKey.generate(), tls.fingerprint)
    assert not engines.can_serve(unusual)
    with pytest.raises(ConfigurationError) as caught:
        engines.acceptor(unusual)
    assert caught.value.message == "engine: qh3 cannot sign with this kind of key, choose aioquic or another key"


def test_closes_of_the_peer_are_no_warnings(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        lab.client.close(3000, "bye")
        lab.carry(lab.client, lab.server, CLIENT)
        lab.run(2)
    assert lab.at_server.calls == [("closed", True, 3000, "bye", True)]
    assert [record for record in caplog.records if record.name == "quic"] == []


# Canaries: one per function that touches something private


def test_canary_take_packets(lab: Lab, quic: Any) -> None:
    assert inside.take_packets(quic, lab.now + 1e6, 5) == []
    stream = lab.client.open_stream(unidirectional=True)
    assert stream is not None
    lab.client.send(stream, bytes(10_000), fin=False)
    packets = inside.take_packets(quic, lab.now + 1e6, 3)
    assert [(type(data), to) for data, to in packets] == [(bytes, SERVER)] * 3
    assert len(inside.take_packets(quic, lab.now + 1e6, 50)) in range(4, 8)


def test_what_was_taken_before_qh3_raised_is_sent(lab: Lab, quic: Any) -> None:
    stream = lab.client.open_stream(unidirectional=True)
    assert stream is not None
    lab.client.send(stream, bytes(3000), fin=True)
    taken = inside.take_packets(quic, lab.now + 1e6, 1)
    left = list(taken)

    class Raising:
        loss_total = 0

        def poll_transmit(self, now: float) -> Any:
            if not left:
                raise RuntimeError("exhausted")
            return left.pop()

    quic._core = Raising()
    assert lab.client.transmit(lab.now) == taken
    with pytest.raises(RuntimeError, match="exhausted"):
        lab.client.transmit(lab.now)


def test_canary_receive_authentic(lab: Lab, quic: Any) -> None:
    lab.server.ping()
    packets = [data for data, _ in lab.server.transmit(lab.now)]
    now = lab.now + 1e6
    assert not inside.receive_authentic(quic, [packets[0][:9] + bytes(30)], SERVER, now)
    assert inside.receive_authentic(quic, packets, SERVER, now)
    assert not inside.receive_authentic(quic, packets, SERVER, now)  # a replay
    quic._core = None
    assert not inside.receive_authentic(quic, packets, SERVER, now)


def test_canary_queue_data(lab: Lab, quic: Any) -> None:
    stream = quic.get_next_available_stream_id(is_unidirectional=True)
    assert inside.queue_data(quic, stream, bytes(100_000), fin=False) == 100_000
    assert quic.get_next_available_stream_id(is_unidirectional=True) == stream + 4
    first = sum(len(data) for data, _ in lab.client.transmit(lab.now))
    assert 100_000 - first <= inside.queue_data(quic, stream, b"", fin=True) < 100_000
    with pytest.raises((RuntimeError, ValueError)):
        inside.queue_data(quic, stream, b"more", fin=False)
    lab.client.close(5, "")
    assert lab.client.send(stream, b"more", fin=False) == 0


def test_canary_handshake_complete(tls: ServerTls) -> None:
    lab = Lab(tls, QH3)
    assert not inside.handshake_complete(lab.server._quic)
    lab.run()
    assert inside.handshake_complete(lab.server._quic)


@pytest.mark.parametrize(("epochs", "first_byte"), [((Epoch.ONE_RTT,), 0xE0), ((Epoch.ONE_RTT, Epoch.HANDSHAKE), 0xC0)])
def test_canary_discard_keys(tls: ServerTls, epochs: tuple[Epoch, ...], first_byte: int) -> None:
    lab = Lab(tls, QH3)
    for epoch in epochs:
        inside.discard_keys(lab.server._quic, epoch)
    lab.server._quic.close(error_code=2, frame_type=0)
    [(packet, _)] = lab.server.transmit(lab.now)
    assert packet[0] & 0xF0 == first_byte


def test_canary_peer_address(lab: Lab, quic: Any) -> None:
    assert inside.peer_address(quic) == lab.client.peer_address == SERVER
    lab.client.ping()
    lab.client_address = ("192.0.2.9", 9999)
    lab.run()
    assert lab.server.peer_address == lab.client_address


@pytest.mark.parametrize("address", [("::1", 4433, 0, 0), ("fe80::1", 4433, 0, 3), ("::ffff:192.0.2.2", 4433, 0, 0)])
def test_canary_addresses_come_back_as_they_were_given(address: tuple[str, int, int, int]) -> None:
    client = Qh3Engines(QuicSettings()).connect(address, server_name="localhost", now=0.0)
    assert {to for _, to in client.transmit(0.0)} == {address}
    assert client.peer_address == address


def test_canary_path_datagram_bytes(lab: Lab, quic: Any) -> None:
    assert engine_qh3_path.path_bytes(quic) == 1452


def test_canary_peer_datagram_limit(quic: Any) -> None:
    assert inside.peer_datagram_limit(quic) == 65_535


def test_canary_bytes_in_flight_and_congestion_window(lab: Lab, quic: Any) -> None:
    assert inside.bytes_in_flight(quic) == 0
    window = inside.congestion_window(quic)
    assert 12_000 <= window <= 100_000
    stream = lab.client.open_stream(unidirectional=True)
    assert stream is not None
    lab.client.send(stream, bytes(200_000), fin=False)
    sent = sum(len(data) for data, _ in lab.client.transmit(lab.now))
    assert inside.bytes_in_flight(quic) == sent <= window


def test_canary_unanswered_probes_and_latest_rtt(lab: Lab, quic: Any) -> None:
    measured = inside.latest_rtt(quic)
    assert measured is not None
    assert 0 < measured < 0.1
    assert inside.unanswered_probes(quic) == 0
    lab.lost = True
    lab.client.ping()
    lab.run(40)
    assert inside.unanswered_probes(quic) > 0
    assert inside.latest_rtt(quic) == measured


def test_canary_smoothed_rtt(quic: Any) -> None:
    measured = inside.smoothed_rtt(quic)
    assert measured is not None
    assert 0 < measured < 0.1


def test_canary_close_event(lab: Lab, quic: Any) -> None:
    assert inside.close_event(quic) is None
    quic.close(error_code=5, frame_type=0, reason_phrase="inside")
    assert inside.close_event(quic) == ConnectionTerminated(5, 0, "inside")
    lab.client.deliver(lab.at_client)
    assert lab.at_client.calls == [("closed", False, 5, "inside", False)]


def test_canary_is_draining(lab: Lab, quic: Any) -> None:
    lab.client.close(5, "")
    lab.carry(lab.client, lab.server, CLIENT)
    assert inside.is_draining(lab.server._quic)
    assert not inside.is_draining(quic)


def test_canary_a_reset_ends_the_native_connection(lab: Lab, quic: Any) -> None:
    token = lab.client._quic._tls.remote_transport_parameters.stateless_reset_token
    for forged in (bytes(30), token + bytes(9), bytes(9) + token[:-1] + bytes([token[-1] ^ 1])):
        assert not lab.client.receive_reset(b"\x40" + forged, SERVER, lab.now)
        assert not inside.is_terminated(lab.client._quic)
    assert lab.client.receive_reset(b"\x40" + bytes(9) + token, SERVER, lab.now)
    assert inside.is_terminated(lab.client._quic)
    assert not lab.client.receive_reset(b"\x40" + bytes(9) + token, SERVER, lab.now)


def test_canary_derive_reset_token(tls: ServerTls) -> None:
    server = Qh3Engines(QuicSettings()).acceptor(tls, lambda connection_id: connection_id * 2)(b"12345678", None)
    quic: Any = server._quic  # type: ignore[attr-defined]
    quic._version = 1
    quic._create_tls(remote_source_cid=None)
    assert quic._tls.stateless_reset_token == server.connection_id * 2
    ((_, parameters),) = quic._tls.tls.handshake_extensions
    assert server.connection_id * 2 in parameters


def test_canary_the_id_of_the_handshake_can_be_marked(tls: ServerTls) -> None:
    marked = Qh3Engines(QuicSettings()).acceptor(
        tls, lambda connection_id: connection_id * 2, None, lambda _: b"marked!!"
    )
    server: Any = marked(b"12345678", None)
    server._quic._version = 1
    server._quic._create_tls(remote_source_cid=None)
    ((_, parameters),) = server._quic._tls.tls.handshake_extensions
    assert server.connection_id == b"marked!!"
    assert parameters.count(b"marked!!") == 3  # as the id, and in its token


def test_canary_no_private_attribute_is_touched_elsewhere() -> None:
    """The adapter keeps to the public surface."""
    assert re.findall(r"_quic\._\w+|\bquic\._\w+", inspect.getsource(adapter)) == []


def test_nothing_is_acknowledged_in_silence_though_probes_begin_again(lab: Lab) -> None:
    lab.client.ping()
    lab.lost = True
    lab.run(30)
    answers = set()
    for _ in range(200):
        lab.run(1)
        answers.add(lab.client.acknowledged())
    assert len(answers) == 1
    lab.lost = False
    lab.run(100)
    assert lab.client.acknowledged() not in answers


def test_canary_begin_probes_again(lab: Lab, quic: Any) -> None:
    lab.client.ping()
    lab.lost = True
    while inside.unanswered_probes(quic) < 2:
        lab.run(1)
    inside.begin_probes_again(quic)
    assert inside.unanswered_probes(quic) == 0
    lab.lost = False
    lab.run(30)
    assert not lab.client.has_undelivered()


def test_frames_that_were_made_for_larger_packets_go_first(
    lab: Lab, quic: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In smaller packets qh3 would raise for ever."""
    monkeypatch.setattr(LargePackets, "are_lost", True)
    streams = [lab.client.open_stream(unidirectional=True) for _ in range(20)]
    for stream in streams:
        assert stream is not None
        lab.client.send(stream, bytes(20_000), fin=True)
    lab.client.transmit(lab.now)  # lost; the congestion window is full, and frames of other streams wait
    lab.client._is_doubtful = True
    lab.carry(lab.client, lab.server, CLIENT)
    assert engine_qh3_path.path_bytes(quic) == 1452
    for _ in range(100):
        lab.client._is_doubtful = True
        lab.run(1)
    assert engine_qh3_path.path_bytes(quic) == 1200
    lab.run(200)
    assert sum(len(call[2]) for call in lab.at_server.calls) == 400_000


def test_a_move_on_a_path_that_carries_little_ends_the_connection_in_words(lab: Lab) -> None:
    """Where qh3 would raise."""
    lab.mtu = 1300
    stream = lab.server.open_stream(unidirectional=True)
    lab.server.send(stream, bytes(50_000), fin=True)
    lab.run(400)
    assert lab.server.max_datagram_payload_bytes == 1160
    lab.client_address = (CLIENT[0], 2000)
    lab.server.receive([bytes(100)], lab.client_address, lab.now)  # somebody else's
    lab.run()
    assert lab.at_server.calls == []
    lab.client.ping()
    lab.run()
    text = "the peer moved, and qh3 follows none to whom the path carried less than usual"
    assert lab.at_server.calls == [("closed", False, 0x10, text, False)]


def test_silence_alone_is_no_proof_of_a_narrow_path_for_a_server(lab: Lab) -> None:
    """It would be the end of a client that moves because of the silence."""
    stream = lab.server.open_stream(unidirectional=True)
    lab.server.send(stream, bytes(50_000), fin=True)
    lab.lost = True
    lab.run(500)
    lab.lost = False
    lab.client_address = (CLIENT[0], 2000)
    lab.client.ping()
    lab.run(300)
    assert lab.server.peer_address == lab.client_address
    assert sum(len(call[2]) for call in lab.at_client.calls) == 50_000


def test_a_client_whose_first_packets_were_lost_finds_what_the_path_carries(tls: ServerTls) -> None:
    client = Qh3Engines(QuicSettings()).connect(SERVER, server_name="localhost", now=1000.0)
    first = client.transmit(1000.0)  # lost
    lab = Lab(tls)
    lab.now, lab.client = 1000.5, client
    client.handle_timer(lab.now)
    lab.server = AioquicEngines(QuicSettings()).acceptor(tls)(first[0][0][6:14], None)
    lab.server.receive([data for data, _ in client.transmit(lab.now)], CLIENT, lab.now)
    assert engine_qh3_path.path_bytes(client._quic) == 1200
    lab.run(60)
    assert lab.at_client.protocol is not None
    assert engine_qh3_path.path_bytes(client._quic) == 1452  # and not qh3's 1,472


def test_canary_fit_path(tls: ServerTls) -> None:
    lab = Lab(tls, QH3)
    quic = Qh3Engines(QuicSettings()).acceptor(tls)(b"12345678", None)._quic  # type: ignore[attr-defined]
    shared = quic.configuration
    engine_qh3_path.fit_path(quic, 8952)
    assert (quic.configuration.max_datagram_size, shared.max_datagram_size) == (8952, 1452)
    engine_qh3_path.fit_path(lab.server._quic, 1452)
    assert lab.server._quic.configuration.max_datagram_size == 1452


def test_canary_cap_path_datagram_bytes(tls: ServerTls, lab: Lab, quic: Any) -> None:
    engine_qh3_path.cap_path(quic, 1200)
    assert engine_qh3_path.path_bytes(quic) == 1200
    stream = lab.client.open_stream(unidirectional=True)
    assert stream is not None
    lab.client.send(stream, bytes(5000), fin=True)
    lab.run()
    assert sum(len(call[2]) for call in lab.at_server.calls) == 5000
    fresh = Lab(tls, QH3).client._quic
    engine_qh3_path.cap_path(fresh, 1200)  # before the handshake it does nothing
    assert engine_qh3_path.path_bytes(fresh) == 1452


def test_canary_lost_count_and_outstanding(lab: Lab, quic: Any) -> None:
    assert engine_qh3_path.outstanding(quic) == []
    before = engine_qh3_path.lost_count(quic)
    stream = lab.client.open_stream(unidirectional=True)
    assert stream is not None
    lab.client.send(stream, bytes(5000), fin=True)
    sizes = [len(data) for data, _ in lab.client.transmit(lab.now)]  # lost
    outstanding = engine_qh3_path.outstanding(quic)
    assert [size for _, size, _ in outstanding] == sizes
    numbers = [number for number, _, _ in outstanding]
    assert numbers == sorted(set(numbers))
    lab.run(60)
    assert not {number for number, _, _ in engine_qh3_path.outstanding(quic)} & set(numbers)
    assert engine_qh3_path.lost_count(quic) - before >= len(sizes)


def test_canary_version(tls: ServerTls, lab: Lab, quic: Any) -> None:
    assert inside.version(quic) == 1
    assert inside.version(Qh3Engines(QuicSettings()).acceptor(tls)(b"12345678", None)._quic) == 0  # type: ignore[attr-defined]


def test_keys_of_version_2_stay_because_qh3_would_derive_others(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "version", lambda quic: 0x6B3343CF)
    assert not lab.client.update_keys()


def test_lost_data_of_a_stream_that_is_through_is_passed_over() -> None:
    first, second = (b"1", SERVER), (b"2", SERVER)
    gone = ValueError("reserved stream is missing")
    polled = iter([first, gone, second, None, gone, gone])

    def poll_transmit(_now: float) -> tuple[bytes, tuple[str, int]] | None:
        found = next(polled)
        if isinstance(found, ValueError):
            raise found
        return found

    quic: Any = SimpleNamespace(_core=SimpleNamespace(poll_transmit=poll_transmit))
    assert inside.take_packets(quic, 0.0, 10) == [first, second]
    with pytest.raises(ValueError, match="reserved stream"):
        inside.take_packets(quic, 0.0, 10)


def test_probes_begin_again_only_when_one_has_left(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[object] = []
    monkeypatch.setattr(adapter, "unanswered_probes", lambda _: 99)
    monkeypatch.setattr(adapter, "begin_probes_again", begun.append)
    for expected in (1, 1, 1):
        lab.client.handle_timer(lab.now)
        assert len(begun) == expected
    lab.client.ping()
    assert lab.client.transmit(lab.now)
    lab.client.handle_timer(lab.now)
    assert len(begun) == 2
