"""Tests for echostream.transport.quic.engine_aioquic_runs: aioquic's own way leaves behind what the short one does.

These tests are the canaries of all that the module touches of aioquic.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.tls import Epoch

from echostream.transport.quic import engine_aioquic_connection as adapter
from echostream.transport.quic.engine_aioquic_congestion import BatchPacer
from echostream.transport.tls import ServerTls
from tests.transport.lab import CLIENT, SERVER, Lab

Road = Callable[[random.Random, list[bytes]], list[bytes]]
"""What becomes of the packets of a burst."""

DATA = random.Random(1).randbytes(250_000)


@pytest.fixture(scope="module")
def tls() -> ServerTls:
    return ServerTls.load()


def smooth(_: random.Random, packets: list[bytes]) -> list[bytes]:
    return packets


def lossy(chance: random.Random, packets: list[bytes]) -> list[bytes]:
    return [packet for packet in packets if chance.random() > 0.05]


def shuffled(chance: random.Random, packets: list[bytes]) -> list[bytes]:
    return chance.sample(packets, len(packets))


def doubled(_: random.Random, packets: list[bytes]) -> list[bytes]:
    return [packet for packet in packets for _ in range(2)]


def damaged(chance: random.Random, packets: list[bytes]) -> list[bytes]:
    """Each is preceded by one that was changed somewhere behind the id, and one that was cut."""
    broken: list[bytes] = []
    for packet in packets:
        at = chance.randrange(9, len(packet))
        changed = packet[:at] + bytes((packet[at] ^ 1 << chance.randrange(8),)) + packet[at + 1 :]
        broken += [changed, packet[: chance.randrange(9, len(packet))], packet]
    return broken


def transfer(
    tls: ServerTls, road: Road, *, update_keys: bool = False, close_at: int | None = None
) -> tuple[Lab, list[Any]]:
    """Send the data in pieces, some of it back, and note what both sides hold after each burst."""
    lab, chance, states = Lab(tls), random.Random(7), list[Any]()
    lab.run()
    stream, position = lab.client.open_stream(unidirectional=False), 0
    for _ in range(8):  # aioquic writes the first offsets in less than four bytes
        lab.client.send(stream, bytes(2048), fin=False)
        lab.server.send(stream, bytes(2048), fin=False)
        lab.run(4)
    for engine in (lab.client, lab.server):
        engine._quic._network_paths[0].bytes_sent = 0  # a signature's length is by chance
        engine._quic._loss._cc.congestion_window = 20_000
        engine._pacer.packet_time, engine._pacer.bucket_time = None, 0.0
    for turn in range(150):
        lab.now += 0.005
        if position < len(DATA) and lab.client.unsent_bytes(stream) < 100_000:
            piece = DATA[position : position + chance.choice((10, 1000, 65_550))]
            position += len(piece)
            lab.client.send(stream, piece, fin=position == len(DATA))
            lab.server.send(stream, piece[:3000], fin=False)
        if update_keys and turn in (20, 40):
            (lab.client if turn == 20 else lab.server).update_keys()
        if turn == close_at:
            lab.client.transmit(lab.now)
            lab.client.send(stream, b"last words", fin=False)
            last = [data for data, _ in lab.client.transmit(lab.now)]
            lab.client.close(3000, "enough")
            last += [data for data, _ in lab.client.transmit(lab.now)]
            lab.server.receive([*last, *last], CLIENT, lab.now)
        sides = (lab.client, lab.server, CLIENT, lab.at_server), (lab.server, lab.client, SERVER, lab.at_client)
        for engine, peer, address, sink in sides:
            due = engine.timer()
            if due is not None and due <= lab.now:
                engine.handle_timer(lab.now)
            packets: list[bytes] = []
            for _ in range(4):
                packets += [data for data, _ in engine.transmit(lab.now)]
                if not engine.more:
                    break
            timer = engine.timer()
            states.append((turn, len(packets), engine.more, engine.paced, timer, state(engine._quic)))
            if packets:
                peer.receive(road(chance, packets), address, lab.now)
                peer.deliver(sink)
    return lab, states


def state(quic: Any) -> dict[str, Any]:
    """All that a packet may change, but for what is drawn at random."""
    space, path, loss = quic._spaces[Epoch.ONE_RTT], quic._network_paths[0], quic._loss
    streams = {
        number: (
            stream.sender.highest_offset,
            list(stream.sender._pending),
            list(stream.sender._acked),
            bytes(stream.sender._buffer),
            stream.receiver.highest_offset,
            stream.receiver._buffer_start,
            bytes(stream.receiver._buffer),
            list(stream.receiver._ranges),
            stream.is_finished,
            stream.max_stream_data_local,
            stream.max_stream_data_remote,
        )
        for number, stream in quic._streams.items()
    }
    sent = [(item.packet_number, item.sent_bytes, item.sent_time) for item in space.sent_packets.values()]
    return {
        "streams": streams,
        "sent": sent,
        "eliciting": [item.is_ack_eliciting for item in space.sent_packets.values()],
        "in flight": (space.ack_eliciting_in_flight, loss.bytes_in_flight, loss.congestion_window),
        "rtt": (loss._rtt_smoothed, loss._rtt_variance, loss._pto_count),
        "pace": (loss._pacer.packet_time, round(loss._pacer.bucket_time, 9)),
        "times": (quic._close_at, space.ack_at, space.loss_time, loss._time_of_last_sent_ack_eliciting_packet),
        "acks": list(space.ack_queue),
        "numbers": (quic._packet_number, space.expected_packet_number, space.largest_received_packet),
        "received": [number in space.received_packets for number in range(space.largest_received_packet + 2)][-200:],
        "received at": space.largest_received_time,
        "limits": (quic._local_max_data.used, quic._local_max_data.value, quic._remote_max_data_used),
        "spin": (quic._spin_bit, quic._spin_highest_pn),
        "path": (path.bytes_sent, path.is_validated),
        "flags": (quic._ack_eliciting_sent_since_receipt, quic._close_pending, quic._state.name),
        "phase": quic._cryptos[Epoch.ONE_RTT].key_phase,
    }


def data_of(calls: Sequence[tuple[Any, ...]]) -> bytes:
    return b"".join(call[2] for call in calls if call[0] == "data")


def aioquic_only(monkeypatch: pytest.MonkeyPatch, *, sends: bool = True) -> None:
    def receive_none(_quic: Any, _datagrams: Any, index: int, _address: Any, _now: float) -> int:
        return index

    monkeypatch.setattr(adapter, "receive_run", receive_none)
    if sends:
        monkeypatch.setattr(adapter, "bulk_stream", lambda _: None)


@pytest.mark.parametrize("road", [smooth, lossy, shuffled, doubled, damaged])
def test_both_ways_leave_the_same_behind(tls: ServerTls, road: Road, monkeypatch: pytest.MonkeyPatch) -> None:
    lab, states = transfer(tls, road, update_keys=road is lossy)
    assert data_of(lab.at_server.calls) == bytes(1 << 14) + DATA
    aioquic_only(monkeypatch)
    own, own_states = transfer(tls, road, update_keys=road is lossy)
    assert data_of(own.at_server.calls) == data_of(lab.at_server.calls)
    assert data_of(own.at_client.calls) == data_of(lab.at_client.calls)
    for short, long in zip(states, own_states, strict=True):
        assert short == long
    assert lab.client.lost_count == own.client.lost_count


def test_what_came_with_a_close_does_not_put_off_its_end(tls: ServerTls, monkeypatch: pytest.MonkeyPatch) -> None:
    _, states = transfer(tls, smooth, close_at=3)
    aioquic_only(monkeypatch)
    assert transfer(tls, smooth, close_at=3)[1] == states
    assert "DRAINING" in {item[5]["flags"][2] for item in states}


def test_most_packets_of_a_transfer_go_the_short_way(tls: ServerTls, monkeypatch: pytest.MonkeyPatch) -> None:
    long: list[str] = []
    receive, write = QuicConnection.receive_datagram, QuicPacketBuilder.start_packet

    def noted(kind: str, method: Any) -> Any:
        def call(*arguments: Any) -> Any:
            long.append(kind)
            return method(*arguments)

        return call

    monkeypatch.setattr(QuicConnection, "receive_datagram", noted("received", receive))
    monkeypatch.setattr(QuicPacketBuilder, "start_packet", noted("sent", write))
    lab = Lab(tls)
    lab.run()
    stream = lab.client.open_stream(unidirectional=True)
    lab.client._quic._loss._cc.congestion_window, lab.client._pacer.packet_time = 1 << 40, None
    long.clear()
    lab.client.send(stream, DATA, fin=True)
    sizes = [len(lab.client.transmit(lab.now))]
    while lab.client.more:
        sizes.append(len(lab.client.transmit(lab.now)))
    assert sizes[:3] == [44, 44, 44]
    assert long.count("sent") <= 2 * len(sizes)
    lab.client.send(stream, b"", fin=True)
    lab.run()
    assert data_of(lab.at_server.calls) == DATA
    assert long.count("received") == 0


def test_what_a_peer_may_not_send_ends_the_connection_either_way(
    tls: ServerTls, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended(*, over: str) -> tuple[Any, ...]:
        lab = Lab(tls)
        lab.run()
        stream = lab.client.open_stream(unidirectional=False)
        sender: Any = lab.client._quic
        if over == "stream":
            lab.server._quic._get_or_create_stream(8, stream).max_stream_data_local = 20_000
        elif over == "connection":
            lab.server._quic._local_max_data.value = 20_000
        else:
            sender._write_ping_frame = lambda builder, *_: builder.start_frame(0x21)
            lab.client.ping()
        sender._loss._cc.congestion_window, sender._loss._pacer.packet_time = 1 << 40, None
        lab.client.send(stream, DATA[:100_000], fin=False)
        lab.carry(lab.client, lab.server, CLIENT)
        lab.server.deliver(lab.at_server)
        lab.server.transmit(lab.now)
        return lab.at_server.calls[-1], data_of(lab.at_server.calls)

    kinds = ("stream", "connection", "frame")
    short = [ended(over=kind) for kind in kinds]
    aioquic_only(monkeypatch, sends=False)
    assert [ended(over=kind) for kind in kinds] == short
    assert {call[0] for call, _ in short} == {"closed"}


def test_a_run_keeps_the_pace_that_its_packets_would_one_by_one() -> None:
    chance = random.Random(3)
    one, run = (BatchPacer(max_datagram_size=1452, goes_on=lambda: True) for _ in range(2))
    now = 0.0
    for _ in range(300):
        now += chance.random() * 0.003
        if chance.random() < 0.2:
            for pacer in (one, run):
                pacer.update_rate(congestion_window=chance.choice((14_520, 145_200)), smoothed_rtt=0.01)
            run.packet_time = one.packet_time
            run.bucket_max = one.bucket_max
            run.bucket_time = one.bucket_time = min(one.bucket_time, run.bucket_time)
        most, left = chance.randrange(1, 60), 0
        for pacer in (one, run):
            pacer.start_batch(44)
        while left < most and one.next_send_time(now) is None:
            one.update_after_send(now)
            left += 1
        assert run.take(most, now) == left
        assert run.bucket_time == pytest.approx(one.bucket_time, abs=1e-12)


def test_where_pacing_leaves_nothing_to_a_run_its_timer_goes_on(tls: ServerTls) -> None:
    lab = Lab(tls)
    lab.run()
    engine = lab.client
    engine._quic._loss._cc.congestion_window = 1 << 40
    pacer = engine._pacer
    pacer.packet_time, pacer.bucket_time, pacer.bucket_max, pacer.evaluation_time = 0.001, 0.0005, 0.002, lab.now
    engine.send(engine.open_stream(unidirectional=True), DATA, fin=True)
    assert len(engine.transmit(lab.now)) == 1
    assert engine.paced
    assert engine.timer() == pytest.approx(lab.now + 0.001)
    lab.now += 0.0025
    assert len(engine.transmit(lab.now)) == 2  # as much as 2 ms bring
