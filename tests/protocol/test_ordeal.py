"""Whatever a peer sends and an application commands, in any state: it is handled, or fails as documented."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from echostream.errors import RemoteProtocolError
from echostream.protocol import frames as f
from echostream.protocol.link import LANE
from echostream.types import Role
from tests.protocol.ordeal import LIMITS, Ordeal
from tests.protocol.strategies import deterministic, frames, u8, u16, u32, u64

ids = st.integers(0, 9) | u64
streams = st.integers(0, 17)
pick = st.integers(0, 7)
sizes = st.sampled_from([0, 1, 100, 500, 1024, 1025])
metadata = st.sampled_from([None, {"k": "v"}, {"k-bin": b"v"}, {"K": "v"}, {"k": "v" * 300}])
names = st.sampled_from(["m", "", "\udcff", "n" * 70_000])
flags = st.booleans()

answers = st.one_of(
    st.builds(f.ResponseFrame, ids, u8, st.binary(max_size=9)),
    st.builds(f.ItemFrame, ids, st.binary(max_size=300)),
    st.builds(f.CreditFrame, ids, st.sampled_from([0, 1, 1024, 5000, (1 << 64) - 1])),
    st.builds(f.AckFrame, ids, u32, u32),
    st.builds(f.StreamItemFrame, ids, st.binary(max_size=300)),
    st.builds(f.StreamEndFrame, ids, st.none() | st.integers(0, 5)),
    st.builds(f.StreamResetFrame, ids, u8, st.binary(max_size=9)),
    st.builds(f.GoAwayFrame, ids, u16, st.text(max_size=9)),
)
openers = st.one_of(
    st.builds(f.RequestFrame, ids, st.just("m"), st.binary(max_size=9), u64, st.none(), flags, flags),
    st.builds(f.StreamOpenFrame, ids, st.just("s"), st.none(), flags, flags),
    st.builds(f.EventFrame, ids, st.just("e"), st.binary(max_size=9), st.none(), flags),
    st.builds(f.CancelFrame, ids, u8),
    st.builds(f.LaneOpenFrame, st.just(0)),
)


datagrams = st.builds(
    f.DatagramItemFrame, ids, st.integers(0, 4), st.binary(max_size=300), st.integers(0, 1), st.just(2)
)


class AnyInput(RuleBasedStateMachine):
    """One machine of either role; what must hold is in `Ordeal`."""

    ordeal: Ordeal

    @initialize(role=st.sampled_from(Role), met=st.sampled_from([True, True, True, False]), lawful=flags)
    def begin(self, role: Role, met: bool, lawful: bool) -> None:
        self.ordeal = Ordeal(role, lawful=lawful)
        if met:
            self.ordeal.meet()

    @invariant()
    def all_is_as_it_must_be(self) -> None:
        if hasattr(self, "ordeal"):
            self.ordeal.check()

    def teardown(self) -> None:
        if hasattr(self, "ordeal"):
            self.ordeal.check_sent()
            self.ordeal.close()

    # The peer and the transport

    @rule(frame=answers | openers | frames, stream_id=streams, fin=st.sampled_from([False, False, False, True]))
    def receive_a_frame(self, frame: f.Frame, stream_id: int, fin: bool) -> None:
        self.ordeal.receive(stream_id, self.ordeal.side.codec.encode(frame), fin=fin)

    @rule(some=st.lists(answers | openers, min_size=1, max_size=3), number=pick, fin=flags)
    def receive_frames_that_fit(self, some: list[f.Frame], number: int, fin: bool) -> None:
        """Some about what is open, where it is open: else most are refused for their ids."""
        if self.ordeal.live:
            record = sorted(self.ordeal.live, key=lambda each: each.id)[number % len(self.ordeal.live)]
            data = b"".join(self.ordeal.side.codec.encode(replace(frame, id=record.id)) for frame in some)
            self.ordeal.receive(record.stream_id, data, fin=fin and record.stream_id != LANE)

    @rule(frame=openers, number=st.integers(0, 3))
    def receive_an_opener_that_fits(self, frame: f.Frame, number: int) -> None:
        bit = 1 - self.ordeal.side.bit
        number = self.ordeal.machine.link.last_remote_id + 2 * number
        number += number & 1 != self.ordeal.machine.link.bit ^ 1
        stream_id = LANE if number % 3 else (number % 24) << 2 | bit
        self.ordeal.receive(stream_id, self.ordeal.side.codec.encode(replace(frame, id=number)))

    @rule(stream_id=streams, data=st.binary(max_size=40), fin=flags)
    def receive_bytes(self, stream_id: int, data: bytes, fin: bool) -> None:
        self.ordeal.receive(stream_id, data, fin=fin)

    @rule(stream_id=streams, code=u16, stop=flags)
    def lose_a_stream(self, stream_id: int, code: int, stop: bool) -> None:
        if stop:
            self.ordeal.receive_stop(stream_id, code)
        elif stream_id != LANE:
            self.ordeal.receive_reset(stream_id, code)

    @rule(frame=datagrams | answers, number=pick)
    def receive_a_datagram(self, frame: f.Frame, number: int) -> None:
        if self.ordeal.live and number % 3:
            ids = sorted(each.id for each in self.ordeal.live)
            frame = replace(frame, id=ids[number % len(ids)])
        self.ordeal.receive_datagram(self.ordeal.side.codec.encode(frame))

    # The application

    @rule(size=sizes, method=names, meta=metadata, own=flags, large=flags, sends=flags, accepts=flags)
    def call(self, size: int, method: str, meta: Any, own: bool, large: bool, sends: bool, accepts: bool) -> None:
        options = {"own_stream": own, "own_request": large, "sends_items": sends, "accepts_items": accepts}
        self.ordeal.start(size, method=method, metadata=meta, **options)

    @rule(number=pick, size=sizes, initial=metadata)
    def use_a_call(self, number: int, size: int, initial: Any) -> None:
        self.ordeal.send_item(number, size, initial=initial)
        self.ordeal.send_progress(number)
        self.ordeal.consume(number)

    @rule(number=pick, status=u8, size=sizes, meta=metadata, large=flags)
    def respond(self, number: int, status: int, size: int, meta: Any, large: bool) -> None:
        self.ordeal.respond(number, status, size, metadata=meta, own_stream=large)

    @rule(number=pick, status=u8, cancel=flags)
    def end_a_call(self, number: int, status: int, cancel: bool) -> None:
        if cancel:
            self.ordeal.cancel(number, status)
        else:
            self.ordeal.end_input(number)

    @rule(name=names, meta=metadata, timed=flags, datagram=flags)
    def open_a_stream(self, name: str, meta: Any, timed: bool, datagram: bool) -> None:
        self.ordeal.open_stream(name, meta, timed=timed, datagram=datagram)

    @rule(number=pick, size=sizes)
    def use_a_stream(self, number: int, size: int) -> None:
        self.ordeal.accept(number)
        self.ordeal.send_stream_item(number, size)
        self.ordeal.send_datagrams(number, size, 60)
        self.ordeal.consume(number)

    @rule(number=pick, status=u8, reset=flags)
    def end_a_stream(self, number: int, status: int, reset: bool) -> None:
        if not status % 4:
            self.ordeal.forget(number)
        elif reset:
            self.ordeal.reset_stream(number, status, b"why")
        else:
            self.ordeal.end_stream(number)

    @rule(size=sizes, name=names, meta=metadata, ack=flags)
    def emit(self, size: int, name: str, meta: Any, ack: bool) -> None:
        self.ordeal.emit(size, name=name, metadata=meta, ack=ack)
        self.ordeal.acknowledge(size)

    @rule(nonce=u64)
    def probe(self, nonce: int) -> None:
        self.ordeal.probe(nonce)

    @rule()
    def open_a_lane(self) -> None:
        self.ordeal.open_lane()

    @rule(number=st.integers(0, 30))
    def leave(self, number: int) -> None:
        if number == 0:
            self.ordeal.close()
        elif number < 4:
            self.ordeal.go_away(3001, "shutdown")
        elif number < 7:
            self.ordeal.send_hello()

    @rule()
    def flush(self) -> None:
        self.ordeal.flush()


AnyInput.TestCase.settings = settings(deterministic, max_examples=100, stateful_step_count=40)
TestAnyInput = pytest.mark.slow(AnyInput.TestCase)


# What the ordeal itself must see


def met() -> Ordeal:
    ordeal = Ordeal(Role.SERVER)
    ordeal.meet()
    return ordeal


def test_who_waits_and_is_not_told_is_missed() -> None:
    ordeal = met()
    ordeal.start(1)
    ordeal.machine.calls.outgoing.clear()
    with pytest.raises(AssertionError):
        ordeal.close()


def test_who_is_told_twice_is_noticed() -> None:
    ordeal = met()
    ordeal.start(1)
    call = ordeal.machine.calls.outgoing[2]
    ordeal.receive(LANE, ordeal.side.codec.encode(f.ResponseFrame(2, 0, b"")))
    ordeal.machine.calls.outgoing[2] = call
    with pytest.raises(AssertionError, match="nobody waited"):
        ordeal.receive(LANE, ordeal.side.codec.encode(f.ResponseFrame(2, 0, b"")))


def test_a_refusal_closes_and_is_kept() -> None:
    ordeal = met()
    for number in range(LIMITS.max_unacknowledged_events + 1):
        ordeal.receive(LANE, ordeal.side.codec.encode(f.EventFrame(2 * number + 1, "e", b"", None, wants_ack=True)))
    assert isinstance(ordeal.refusal, RemoteProtocolError)
    assert "max_unacknowledged_events" in ordeal.refusal.message
