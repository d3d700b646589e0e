"""Tests for echostream.transport.quic.engine: what every engine promises at the seam, in every pairing."""

from __future__ import annotations

import ssl
from itertools import pairwise
from typing import Any

import pytest

from echostream.config import ALPN, QuicSettings
from echostream.transport.tls import ServerTls
from tests.transport import lab as lab_module
from tests.transport.lab import CLIENT, SERVER, Lab, Pair, both_engines, every_pair, make_engines


@pytest.fixture(scope="module")
def tls() -> ServerTls:
    return ServerTls.load()


@pytest.fixture
def lab(tls: ServerTls, engines: Pair) -> Lab:
    lab = Lab(tls, engines)
    lab.run()
    assert lab.at_client.protocol == lab.at_server.protocol == ALPN
    return lab


@every_pair
def test_streams_and_datagrams_cross(lab: Lab) -> None:
    stream = lab.client.open_stream(unidirectional=False)
    assert stream == 0
    assert lab.client.send(stream, b"hello", fin=True) == 5
    assert lab.client.send_datagram(b"quick")
    lab.run()
    assert sorted(lab.at_server.calls) == [("data", 0, b"hello", True), ("datagram", b"quick")]
    assert lab.client.unsent_bytes(stream) == 0


@every_pair
def test_stop_is_answered_by_a_reset(lab: Lab) -> None:
    stream = lab.client.open_stream(unidirectional=False)
    assert stream is not None
    lab.client.send(stream, b"x", fin=False)
    lab.run()
    lab.server.stop(stream, 7)
    lab.run()
    assert lab.at_client.calls == [("stopped", 0, 7)]
    assert lab.at_server.calls[1:] == [("reset", 0, 7)]


@both_engines
def test_calls_on_streams_that_are_not_there_do_nothing(lab: Lab) -> None:
    lab.client.stop(0, 1)
    lab.client.stop(3, 1)
    lab.client.reset(3, 1)
    assert lab.client.send(3, b"x", fin=False) == 0
    assert lab.client.unsent_bytes(0) == 0
    lab.run()
    assert lab.at_server.calls == []


@both_engines
def test_what_the_peer_acknowledges_shows_and_probes_alone_do_not(lab: Lab) -> None:
    stream = lab.client.open_stream(unidirectional=False)
    lab.lost = True
    lab.client.send(stream, bytes(100_000), fin=False)
    lab.run(20)
    before, unsent = lab.client.acknowledged(), lab.client.unsent_bytes(stream)
    lab.run(60)
    assert lab.client.acknowledged() == before
    assert lab.client.unsent_bytes(stream) <= unsent
    lab.lost = False
    lab.run(60)
    assert lab.client.acknowledged() != before


@both_engines
def test_an_open_stream_without_a_byte_says_nothing(lab: Lab) -> None:
    assert [lab.client.open_stream(unidirectional=False) for _ in range(3)] == [0, 4, 8]
    lab.run()
    assert lab.at_server.calls == []


@every_pair
def test_a_close_is_told_at_once_and_once(lab: Lab) -> None:
    lab.client.close(4000, "bye")
    lab.carry(lab.client, lab.server, CLIENT)
    lab.run(40)
    assert lab.at_server.calls == [("closed", True, 4000, "bye", True)]
    assert lab.at_client.calls == []


@every_pair
def test_what_is_said_to_a_connection_that_has_ended_does_nothing(lab: Lab) -> None:
    """An answer to what arrived in one burst with the close."""
    stream = lab.client.open_stream(unidirectional=False)
    assert stream is not None
    lab.client.send(stream, b"last words", fin=False)
    assert lab.server.send_datagram(b"too late")
    lab.carry(lab.client, lab.server, CLIENT)
    lab.client.close(4000, "bye")
    lab.carry(lab.client, lab.server, CLIENT)
    lab.server.send(stream, b"an answer", fin=True)
    lab.server.reset(stream, 1)
    lab.server.stop(stream, 1)
    lab.server.ping()
    lab.server.send_datagram(b"quick")
    opened = lab.server.open_stream(unidirectional=True)
    if opened is not None:
        lab.server.send(opened, b"new", fin=True)
    lab.server.transmit(lab.now)
    assert lab.server.unsent_bytes(stream) in (0, len(b"an answer"))
    lab.server.deliver(lab.at_server)
    assert lab.at_server.calls == [("data", 0, b"last words", False), ("closed", True, 4000, "bye", True)]


@every_pair
def test_a_failure_is_told_with_its_code(lab: Lab) -> None:
    lab.client.fail(0x12A, "no")
    lab.carry(lab.client, lab.server, CLIENT)
    lab.run(1)
    assert lab.at_server.calls == [("closed", False, 0x12A, "no", True)]


@every_pair
def test_a_server_that_refuses_the_first_packet_is_heard(tls: ServerTls, engines: Pair) -> None:
    lab = Lab(tls, engines)
    lab.server.fail(2, "full")
    lab.run(2)
    assert lab.at_client.calls == [("closed", False, 2, "full", True)]
    assert lab.at_client.protocol is None


@every_pair
def test_a_client_that_refuses_the_certificate_is_heard_before_the_server_takes_it_in(
    tls: ServerTls, engines: Pair
) -> None:
    lab = Lab(tls, engines)
    for _ in range(5):
        lab.carry(lab.server, lab.client, SERVER)
        lab.client.deliver(lab.at_client)
        if lab.at_client.protocol is not None:
            break
        lab.carry(lab.client, lab.server, CLIENT)
    lab.client.fail(0x12A, "not trusted")
    lab.carry(lab.client, lab.server, CLIENT)
    lab.run(3)
    assert lab.at_server.calls == [("closed", False, 0x12A, "not trusted", True)]
    assert lab.at_server.protocol is None


@both_engines
def test_a_silent_peer_is_given_up_after_the_idle_timeout(tls: ServerTls, engines: Pair) -> None:
    lab = Lab(tls, engines, idle_timeout=1.0)
    lab.run()
    lab.lost = True
    lab.run(120)
    for sink in (lab.at_client, lab.at_server):
        [(kind, application, _, reason, by_peer)] = sink.calls
        assert (kind, application, reason.lower(), by_peer) == ("closed", False, "idle timeout", False)


@both_engines
def test_a_silent_peer_is_given_up_also_while_something_waits_for_it(tls: ServerTls, engines: Pair) -> None:
    lab = Lab(tls, engines, idle_timeout=4.0)
    lab.run()
    stream = lab.client.open_stream(unidirectional=True)
    assert stream is not None
    lab.client.send(stream, b"is anybody there?", fin=True)
    lab.lost = True
    lab.run(350)
    assert lab.at_client.calls == []
    lab.run(250)
    [(kind, application, _, reason, by_peer)] = lab.at_client.calls
    assert (kind, application, reason.lower(), by_peer) == ("closed", False, "idle timeout", False)


@both_engines
def test_a_silent_path_is_probed_again_and_again(lab: Lab) -> None:
    """A bad link is up for moments only: who waits ever longer sleeps through them."""
    stream = lab.client.open_stream(unidirectional=True)
    assert stream is not None
    lab.client.send(stream, b"is anybody there?", fin=True)
    sent_at = []
    for _ in range(2000):
        lab.now += 0.01
        due = lab.client.timer()
        if due is not None and due <= lab.now:
            lab.client.handle_timer(lab.now)
        if lab.client.transmit(lab.now):
            sent_at.append(lab.now)
    pauses = [later - earlier for earlier, later in pairwise([*sent_at, lab.now])]
    assert max(pauses) < 1.0  # at a round trip of 20 ms
    assert 80 < len(sent_at) < 150


@both_engines
def test_a_batch_is_bounded_and_more_tells(lab: Lab) -> None:
    first, second = (lab.client.open_stream(unidirectional=True) for _ in range(2))
    assert first is not None
    assert second is not None
    lab.client.send(first, bytes(3_000_000), fin=True)  # opens the congestion window
    for _ in range(200):
        lab.run(1)
    assert sum(len(call[2]) for call in lab.at_server.calls) == 3_000_000
    lab.now += 1.0  # and the pacer
    lab.client.send(second, bytes(150_000), fin=True)
    sizes = [len(lab.client.transmit(lab.now))]
    while lab.client.more:
        sizes.append(len(lab.client.transmit(lab.now)))
    assert max(sizes) <= 44


@both_engines
def test_a_datagram_that_is_too_large_is_refused(lab: Lab) -> None:
    limit = lab.client.max_datagram_payload_bytes
    assert limit == 1452 - 40
    assert not lab.client.send_datagram(bytes(limit + 1))
    assert lab.client.send_datagram(bytes(limit))
    lab.run()
    assert lab.at_server.calls == [("datagram", bytes(limit))]


@both_engines
@pytest.mark.parametrize("size", [1200, 1452, 8952])
def test_the_largest_datagram_passes_whatever_the_size_of_packets(tls: ServerTls, engines: Pair, size: int) -> None:
    lab = Lab(tls, engines, max_datagram_bytes=size)
    lab.run()
    for near, far in ((lab.client, lab.at_server), (lab.server, lab.at_client)):
        limit = near.max_datagram_payload_bytes
        assert 1160 <= limit <= size - 40
        assert near.send_datagram(bytes(limit))
        lab.run()
        assert far.calls == [("datagram", bytes(limit))]


@both_engines
def test_datagrams_wait_for_the_congestion_window_in_a_bounded_queue(lab: Lab) -> None:
    count = QuicSettings().max_queued_datagrams
    for index in range(count):
        assert lab.client.send_datagram(index.to_bytes(1000))
    assert not lab.client.send_datagram(b"one more")
    lab.now += 1.0
    at_once = sum(len(data) for data, _ in lab.client.transmit(lab.now))
    assert at_once < 30_000  # ten packets, and what the handshake added (RFC 9002 section 7.2)
    lab.run(60)
    arrived = {int.from_bytes(call[1]) for call in lab.at_server.calls}
    assert arrived <= set(range(count))
    assert len(arrived) >= count - 30  # the first batch went nowhere
    assert lab.client.send_datagram(b"one more")


@both_engines
def test_what_is_not_acknowledged_is_undelivered(lab: Lab) -> None:
    client = lab.client
    assert not client.has_undelivered()
    data, end = (client.open_stream(unidirectional=True) for _ in range(2))
    assert data is not None
    assert end is not None
    for stream, content, fin in ((data, b"x", False), (end, b"", True)):
        client.send(stream, content, fin=fin)
        assert client.has_undelivered()
        client.transmit(lab.now)  # lost
        assert client.has_undelivered()
        lab.run(100)
        assert not client.has_undelivered()
    assert lab.at_server.calls == [("data", data, b"x", False), ("data", end, b"", True)]


@both_engines
def test_unsent_bytes_are_those_that_never_left(lab: Lab) -> None:
    stream = lab.client.open_stream(unidirectional=False)
    assert stream is not None
    assert lab.client.send(stream, bytes(100_000), fin=False) == 100_000
    left = sum(len(data) for data, _ in lab.client.transmit(lab.now))
    assert 100_000 - left <= lab.client.unsent_bytes(stream) < 100_000
    lab.client.reset(stream, 1)
    assert lab.client.unsent_bytes(stream) == 0


@both_engines
def test_a_ping_is_answered(lab: Lab) -> None:
    assert lab.client.transmit(lab.now) == []
    lab.client.ping()
    sent = [data for data, _ in lab.client.transmit(lab.now)]
    assert len(sent) == 1
    lab.server.receive(sent, CLIENT, lab.now)
    lab.run(5)
    assert not lab.client.has_undelivered()


@both_engines
def test_own_connection_ids_are_told_as_they_are_issued(lab: Lab) -> None:
    for sink in (lab.at_client, lab.at_server):
        issued = [connection_id for connection_id, is_issued in sink.ids if is_issued]
        assert len(issued) == len(set(issued)) == 7  # and the one of the handshake
        assert {len(connection_id) for connection_id in issued} == {8}


@every_pair
def test_only_the_server_shows_a_certificate(lab: Lab, tls: ServerTls) -> None:
    from cryptography.hazmat.primitives.serialization import Encoding

    assert lab.client.peer_chain == tuple(item.public_bytes(Encoding.DER) for item in tls.chain)
    assert lab.server.peer_chain == ()


@every_pair
def test_the_key_behind_the_certificate_is_checked_without_verification(tls: ServerTls, engines: Pair) -> None:
    """CERT_NONE leaves out the chain only: who shows another's certificate without its key does not get in."""
    from cryptography.hazmat.primitives.asymmetric import ec

    thief = ServerTls(tls.chain, ec.generate_private_key(ec.SECP256R1()), tls.fingerprint)
    lab = Lab(thief, engines)
    lab.run()
    assert lab.at_client.protocol is None
    assert lab.at_server.protocol is None
    [(kind, application, code, _, by_peer)] = lab.at_client.calls
    assert (kind, application, code, by_peer) == ("closed", False, 0x100 + 51, False)  # decrypt_error


@both_engines
def test_the_round_trip_is_known_after_the_first(tls: ServerTls, engines: Pair) -> None:
    lab = Lab(tls, engines)
    lab.run()
    measured = lab.client.rtt
    assert measured is not None
    assert 0 < measured < 0.1


@both_engines
def test_warming_up_leaves_the_engines_as_they_were(tls: ServerTls, engines: Pair) -> None:
    make_engines(engines[1], QuicSettings()).warm_up(tls)
    lab = Lab(tls, engines)
    lab.run()
    assert lab.at_server.protocol == ALPN


def talk(lab: Lab) -> None:
    """Both sides send; everything arrives."""
    for near, far in ((lab.client, lab.at_server), (lab.server, lab.at_client)):
        far.calls.clear()
        stream = near.open_stream(unidirectional=True)
        assert stream is not None
        near.send(stream, bytes(5000), fin=True)
        lab.run()
        assert b"".join(call[2] for call in far.calls) == bytes(5000)


@both_engines
def test_no_packet_of_a_handshake_is_large(tls: ServerTls, engines: Pair) -> None:
    """RFC 9000 section 14.1: it must pass where the packets of the settings would not."""
    lab = Lab(tls, engines)
    lab.mtu = {"aioquic": 1200, "qh3": 1280}[engines[0]]
    lab.run(8)
    assert lab.at_client.protocol == lab.at_server.protocol == ALPN


@every_pair
@pytest.mark.parametrize("sender", ["client", "server"])
def test_a_path_that_large_packets_do_not_pass_gets_small_ones(lab: Lab, sender: str) -> None:
    near, far = (lab.client, lab.at_server) if sender == "client" else (lab.server, lab.at_client)
    assert near.max_datagram_payload_bytes == 1452 - 40
    lab.mtu = 1300
    stream = near.open_stream(unidirectional=True)
    assert stream is not None
    near.send(stream, bytes(100_000), fin=True)
    near.send_datagram(bytes(1400))
    lab.run(400)
    assert sum(len(call[2]) for call in far.calls if call[0] == "data") == 100_000
    limit = near.max_datagram_payload_bytes
    assert limit == 1200 - 40
    assert not near.send_datagram(bytes(limit + 1))
    assert near.send_datagram(bytes(limit))
    lab.run()
    assert [call for call in far.calls if call[0] == "datagram"] == [("datagram", bytes(limit))]


@every_pair
@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def test_packets_to_the_same_machine_are_larger(
    tls: ServerTls, engines: Pair, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CLIENT", "SERVER"):
        monkeypatch.setattr(lab_module, name, (host, 1000, 0, 0) if ":" in host else (host, 1000))
    lab = Lab(tls, engines)
    lab.run()
    for near, far in ((lab.client, lab.at_server), (lab.server, lab.at_client)):
        assert near.max_datagram_payload_bytes == 8952 - 40
        stream = near.open_stream(unidirectional=True)
        assert stream is not None
        near.send(stream, bytes(30_000), fin=True)
        sizes = [len(data) for data, _ in near.transmit(lab.now)]
        assert max(sizes) > 8900
        lab.run(60)
        assert sum(len(call[2]) for call in far.calls) == 30_000


@both_engines
def test_large_packets_that_are_lost_now_and_then_stay_large(lab: Lab) -> None:
    stream = lab.client.open_stream(unidirectional=True)
    assert stream is not None
    lab.client.send(stream, bytes(300_000), fin=True)
    for turn in range(300):
        lab.lost = turn * 7 % 11 in (0, 3)
        lab.run(1)
    assert lab.client.max_datagram_payload_bytes == 1452 - 40


@every_pair
@pytest.mark.parametrize("first", ["client", "server"])
def test_both_sides_follow_new_keys_again_and_again(lab: Lab, first: str) -> None:
    updating = getattr(lab, first)
    for phase in (1, 0, 1):
        assert updating.update_keys()
        talk(lab)
        assert {key_phase(lab.client), key_phase(lab.server)} == {phase}


@every_pair
def test_new_keys_of_both_sides_at_once_are_one_update(lab: Lab) -> None:
    assert lab.client.update_keys()
    assert lab.server.update_keys()
    talk(lab)
    assert key_phase(lab.client) == key_phase(lab.server) == 1


@every_pair
def test_what_was_under_way_with_old_keys_arrives(lab: Lab) -> None:
    stream = lab.server.open_stream(unidirectional=True)
    assert stream is not None
    lab.server.send(stream, bytes(8000), fin=True)
    under_way = [data for data, _ in lab.server.transmit(lab.now)]
    assert len(under_way) >= 3
    assert lab.client.update_keys()
    lab.client.ping()
    lab.carry(lab.client, lab.server, CLIENT)
    lab.client.receive(under_way, SERVER, lab.now)
    lab.run(60)
    assert b"".join(call[2] for call in lab.at_client.calls) == bytes(8000)


@every_pair
def test_keys_are_renewed_before_they_have_protected_too_much(lab: Lab) -> None:
    """RFC 9001 section 6.6; the real limit is millions of packets."""
    lab.client._key_update_packets = 50
    phases = set()
    for _ in range(20):
        stream = lab.client.open_stream(unidirectional=True)
        assert stream is not None
        lab.client.send(stream, bytes(10_000), fin=True)
        lab.run()
        phases.add(key_phase(lab.server))
        assert lab.client._protected_count < 50 + 44
    assert phases == {0, 1}
    talk(lab)


@both_engines
def test_keys_are_not_renewed_before_the_handshake_is_confirmed(tls: ServerTls, engines: Pair) -> None:
    """RFC 9001 section 6.1: at once with one engine, later with the other."""
    lab = Lab(tls, engines)
    lab.client.update_keys()
    lab.run()
    assert lab.at_client.protocol == ALPN
    talk(lab)


def key_phase(engine: Any) -> int:
    """The bit that packets sent now carry."""
    quic = engine._quic
    if hasattr(quic, "_core"):
        return int(quic._core.send_key_phase)
    from aioquic.tls import Epoch

    return int(quic._cryptos[Epoch.ONE_RTT].send.key_phase)


@both_engines
def test_no_handshake_reads_the_certificates_of_the_system(tls: ServerTls, engines: Pair) -> None:
    """An engine that verifies chains would load them each time, 4 to 46 ms; ours are checked elsewhere."""
    configuration = Lab(tls, engines).client._quic.configuration
    assert configuration.verify_mode == ssl.CERT_NONE
    assert (configuration.cadata, configuration.cafile, configuration.capath) == (None, None, None)
