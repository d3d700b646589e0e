"""The figures of the jitter buffer: the models of the network are what they say, and small runs reach the goals."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest

from benches.realtime import g09_jitter_buffer, g10_order, g13_latency, g17_quality
from benches.realtime.arrivals import FRAME_NS, LEAST_NS, NETWORKS, TAILS, Sent, arrivals
from benches.realtime.order import FRAME_NS as ORDER_FRAME_NS
from benches.realtime.order import Case, faults
from benches.realtime.table import Plan
from benches.realtime.waits import Outcome, fixed, neteq, ours


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("name", NETWORKS)
def test_packets_are_as_slow_as_their_network(name: str, tail: str) -> None:
    network = NETWORKS[name]
    packets = [packet for seed in range(2) for packet in arrivals(network, seed, 20_000, tail=tail)]
    delays_ms = [(packet.arrival_ns - packet.index * FRAME_NS - LEAST_NS) / 1e6 for packet in packets]
    for share, delay_ms in zip(network.shares[1:-2], network.delays_ms[1:-2], strict=True):
        above = sum(each > delay_ms for each in delays_ms) / len(delays_ms)
        assert above == pytest.approx(1 - share, rel=0.7), delay_ms
    assert max(delays_ms) <= network.delays_ms[-1] + 1e-6


def test_scale_loss_and_seed_do_what_they_say() -> None:
    ethernet = NETWORKS["ethernet"]
    slow, quick = (arrivals(ethernet, 1, 1_000, scale=scale) for scale in (3.0, 0.5))
    assert sum(packet.arrival_ns for packet in slow) > sum(packet.arrival_ns for packet in quick)
    assert len(arrivals(ethernet, 1, 1_000, loss=0.1)) == pytest.approx(900, abs=40)
    assert arrivals(ethernet, 1, 100) == arrivals(ethernet, 1, 100) != arrivals(ethernet, 2, 100)


def test_fixed_delays_and_neteq_wait_as_they_should() -> None:
    packets = [Sent(index * FRAME_NS + LEAST_NS + (index % 10 == 9) * 50_000_000, index) for index in range(3_000)]
    packets.sort()
    assert fixed(packets, 49.0) == Outcome(49.0, 10.0)
    assert fixed(packets, 49.0).cost_ms == 2_049.0
    assert fixed(packets, 51.0).late_percent == 0
    found = neteq(packets)
    assert found.late_percent == 0
    assert found.target_ms == pytest.approx(60.0, abs=1.0)  # the bucket of 40 to 60 ms, after 80 at first
    assert ours(packets).target_ms == pytest.approx(51.0, abs=2.0)


@pytest.mark.slow
def test_the_jitter_buffer_beats_neteq_and_fixed_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(g09_jitter_buffer, "_PACKETS", 20_000)
    figures = [figure.judge() for figure in islice(g09_jitter_buffer.measure(Plan(1)), 9)]  # those of scale 1
    assert [figure.name for figure in figures if not figure.met] == []


@pytest.mark.slow
def test_latency_and_reports_reach_their_goals() -> None:
    figures = [figure.judge() for module in (g13_latency, g17_quality) for figure in module.measure(Plan(1))]
    assert [figure.name for figure in figures if figure.met is False] == []


def test_what_comes_at_the_edge_of_its_turn_is_judged_by_the_clock_of_the_receiver(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After each stall a packet comes right before or after its turn: the receiver's clock decides, wrong or not."""

    def edges(_network: object, _seed: int, _count: int, **_options: Any) -> list[Sent]:
        sent = [Sent(index * FRAME_NS + LEAST_NS, index) for index in range(1_500)]
        for begin in range(200, 1_400, 100):
            end_ns = (begin + 28) * FRAME_NS + 120_000_000 + (begin - 800) * 150
            for index in range(begin, begin + 40):
                sent[index] = Sent(max(sent[index].arrival_ns, end_ns), index)
        return sorted(sent)

    monkeypatch.setattr(g17_quality, "arrivals", edges)
    assert [figure.value for figure in g17_quality.measure(Plan(1)) if figure.unit == ""] == [0]


def test_a_wrong_output_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    [right] = g10_order.measure(Plan(1))
    assert (right.value, right.why) == (0, "")
    monkeypatch.setattr(g10_order, "_CASES_PER_SEED", 20)
    monkeypatch.setattr("echostream.realtime.waiting.Waiting.missing", None)
    monkeypatch.setattr("echostream.realtime.jitter.JitterBuffer._conceal", lambda buffer: None)
    [wrong] = g10_order.measure(Plan(1))
    assert wrong.value
    assert wrong.why.startswith("case ")
    assert faults(Case(7, ((0, 0), (0, 2)), ORDER_FRAME_NS)) != []
