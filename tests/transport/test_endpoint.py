"""Tests for echostream.transport.quic.endpoint: every packet of a burst finds its connection by its id."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from echostream.transport.quic.endpoint import Endpoint

ADDRESS, ELSEWHERE = ("192.0.2.1", 1000), ("192.0.2.9", 1000)


class Spy:
    """Stands for a connection and notes what it is given."""

    is_mute = False

    def __init__(self, log: list[Any], name: str) -> None:
        self._log = log
        self._name = name

    def receive(self, datagrams: list[bytes], address: Any, source: bytes | None, now: float, arrived_ns: int) -> None:
        self._arrived_ns = arrived_ns
        self._log.append((self._name, [data[9:] for data in datagrams], address))

    def hand_up(self) -> None:
        self._log.append((self._name, f"up to {self._arrived_ns}"))

    def receive_reset(self, data: bytes, address: Any, now: float) -> bool:
        return False

    def finish(self) -> None:
        self._log.append((self._name, "end"))


def packet(connection_id: bytes, content: bytes, address: Any = ADDRESS) -> tuple[bytes, Any, None]:
    """With a short header."""
    return (b"\x40" + connection_id + content, address, None)


def make(log: list[Any]) -> tuple[Endpoint, Any, Any]:
    endpoint = Endpoint()
    first: Any = Spy(log, "first")
    second: Any = Spy(log, "second")
    endpoint.add(first, b"1" * 8)
    endpoint.add(second, b"2" * 8)
    return endpoint, first, second


def test_one_burst_may_hold_packets_of_several_connections() -> None:
    """Also one buffer that the kernel merged: a client's socket may have several, and a router one port for many."""
    log: list[Any] = []
    endpoint, _, _ = make(log)
    one, two = b"1" * 8, b"2" * 8
    endpoint.received(
        [packet(one, b"a"), packet(one, b"b"), packet(two, b"c"), packet(b"3" * 8, b"?"), packet(one, b"d")],
        0,
    )
    assert log == [
        ("first", [b"a", b"b"], ADDRESS),
        ("second", [b"c"], ADDRESS),
        ("first", [b"d"], ADDRESS),
        ("first", "end"),
        ("second", "end"),
    ]
    assert endpoint.counters.unknown_connection_ids == 1


def test_what_the_kernel_stamped_is_handed_up_before_what_came_at_another_time() -> None:
    """All of it in one burst nevertheless: connections answer at its end, once."""
    log: list[Any] = []
    endpoint, _, _ = make(log)
    one, two = b"1" * 8, b"2" * 8
    endpoint.received_stamped(
        [
            (5, [packet(one, b"a"), packet(one, b"b"), packet(two, b"c")]),
            (7, [packet(one, b"d")]),
            (9, [packet(b"3" * 8, b"?")]),
        ]
    )
    assert log == [
        ("first", [b"a", b"b"], ADDRESS),
        ("second", [b"c"], ADDRESS),
        ("first", "up to 5"),
        ("second", "up to 5"),
        ("first", [b"d"], ADDRESS),
        ("first", "up to 7"),
        ("first", "end"),
        ("second", "end"),
    ]


def test_the_kernel_stamps_packets_while_any_connection_wants_it() -> None:
    endpoint, _, _ = make([])
    wanted: list[bool] = []
    endpoint._socket = SimpleNamespace(stamp=wanted.append)  # type: ignore[assignment]
    for wish in (True, True, False, False, True):
        endpoint.stamp(wish)
    assert wanted == [True, False, True]


def test_packets_of_a_connection_from_two_addresses_are_two_runs() -> None:
    log: list[Any] = []
    endpoint, _, _ = make(log)
    one = b"1" * 8
    endpoint.received([packet(one, b"a"), packet(one, b"b", ELSEWHERE), packet(one, b"c", ELSEWHERE)], 0)
    assert log == [("first", [b"a"], ADDRESS), ("first", [b"b", b"c"], ELSEWHERE), ("first", "end")]


def test_ids_that_are_issued_and_retired_in_a_connections_life_are_followed() -> None:
    log: list[Any] = []
    endpoint, first, _ = make(log)
    endpoint.route(b"5" * 8, first)
    endpoint.unroute(b"1" * 8, first)
    endpoint.received([packet(b"5" * 8, b"new"), packet(b"1" * 8, b"old")], 0)
    assert log == [("first", [b"new"], ADDRESS), ("first", "end")]
