"""A hypothesis state machine: two correct sides do anything that is legal, in any order, over streams that overtake.

Each side's driver is modelled here: it answers, cancels, consumes and ends when the rules say so. What must hold at
every step is asserted when an event arrives; what must hold at the end, in `teardown`. `talk` goes deeper than
hypothesis does: long conversations, most of whose steps keep calls and streams busy.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from inspect import signature
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from echostream.config import Limits
from echostream.errors import Status
from echostream.protocol import events as ev
from echostream.protocol.link import LANE
from echostream.protocol.records import AppStream, IncomingCall, OutgoingCall
from tests.protocol.pair import ProtocolPair, Side, leftovers

T = TypeVar("T")

LIMITS = Limits(max_concurrent_calls=4, max_streams=3, call_window_bytes=1024, stream_window_bytes=1024)
REFUSALS = (Status.RESOURCE_EXHAUSTED, Status.UNAVAILABLE)

ENDINGS = ("orderly", "one closes", "both close")

which = st.booleans()
pick = st.integers(0, 1 << 16)
sizes = st.integers(4, 700)


@dataclass(eq=False)
class Flow:
    """Items of one direction: each begins with its number."""

    sent: int = 0
    got: int = 0
    unconsumed: list[int] = field(default_factory=list)

    def next_item(self, size: int) -> bytes:
        self.sent += 1
        return self.sent.to_bytes(4, "big").ljust(size, b".")

    def take(self, payload: bytes) -> None:
        self.got += 1
        assert int.from_bytes(payload[:4], "big") == self.got, "an item was lost, doubled or out of order"
        self.unconsumed.append(len(payload))


@dataclass(eq=False)
class CallModel:
    caller: Side
    call: OutgoingCall
    incoming: IncomingCall | None = None
    up: Flow = field(default_factory=Flow)
    down: Flow = field(default_factory=Flow)
    outcome: str | None = None
    """What the caller knows: response, cancelled, rejected."""
    answer: bytes | None = None
    """What the responder answered."""
    over: bool = False
    """Whether the responder has answered or was told of the cancellation."""


@dataclass(eq=False)
class StreamModel:
    opener: Side
    ends: dict[Side, AppStream]
    flows: dict[Side, Flow]
    """By sender."""
    reset_by: dict[Side, bytes] = field(default_factory=dict)
    refused: bool = False


class Conversation(RuleBasedStateMachine):
    def __init__(self, make_pair: type[ProtocolPair] = ProtocolPair) -> None:
        super().__init__()
        self.pair = make_pair(client=LIMITS, server=LIMITS)
        self.calls: dict[tuple[Side, int], CallModel] = {}
        self.streams: dict[int, StreamModel] = {}
        self.emitted: dict[Side, list[bytes]] = {side: [] for side in self.pair.sides}
        self.noticed: dict[Side, int] = dict.fromkeys(self.pair.sides, 0)
        self.to_acknowledge: dict[Side, list[int]] = {side: [] for side in self.pair.sides}
        self.unacknowledged: dict[Side, set[object]] = {side: set() for side in self.pair.sides}
        self.ending = "orderly"

    @initialize(ending=st.sampled_from(ENDINGS))
    def choose_ending(self, ending: str) -> None:
        self.ending = ending

    def side(self, client: bool) -> Side:
        return self.pair.client if client else self.pair.server

    # What the network does

    @rule(number=pick, count=st.integers(1, 3))
    def deliver_some(self, number: int, count: int) -> None:
        if pending := self.pair.pending():
            self.pair.deliver(*_pick(pending, number), count=count)
            self.take_events()

    @rule()
    def deliver_all(self) -> None:
        self.pair.pump()
        self.take_events()

    # What callers do

    @rule(client=which, own_stream=which, size=sizes)
    def call(self, client: bool, own_stream: bool, size: int) -> None:
        self._start(client, own_stream=own_stream, size=size, sends_items=False, accepts_items=False)

    @rule(client=which)
    def open_lane(self, client: bool) -> None:
        side = self.side(client)
        if len(side.protocol.link.lanes) < 4:
            side.protocol.calls.open_lane(side.open_stream())

    @rule(client=which, sends_items=which, size=sizes)
    def call_with_items(self, client: bool, sends_items: bool, size: int) -> None:
        self._start(
            client, own_stream=True, size=size, sends_items=sends_items, accepts_items=not sends_items or size > 300
        )

    def _start(self, client: bool, *, own_stream: bool, size: int, sends_items: bool, accepts_items: bool) -> None:
        side = self.side(client)
        call = side.protocol.calls.start(
            "method",
            b"." * size,
            handle=None,
            stream_id=side.open_stream() if own_stream else LANE if size > 300 else _pick(self.lanes(side), size),
            request_stream=self._request_stream(side, size) if not own_stream else None,
            sends_items=sends_items,
            accepts_items=accepts_items,
        )
        call.handle = self.calls[side, call.id] = CallModel(side, call)

    def lanes(self, side: Side) -> list[int]:
        return sorted(side.protocol.link.lanes)

    def _request_stream(self, side: Side, size: int) -> int | None:
        """Let larger requests travel by themselves."""
        if size <= 300:
            return None
        stream_id = side.open_stream(unidirectional=True)
        side.revocable.add(stream_id)
        return stream_id

    @rule(number=pick)
    def cancel(self, number: int) -> None:
        if waiting := [model for model in self.calls.values() if model.outcome is None]:
            model = _pick(waiting, number)
            assert model.caller.protocol.calls.cancel(model.call, Status.DEADLINE_EXCEEDED)
            model.outcome = "cancelled"

    @rule(number=pick)
    def end_input(self, number: int) -> None:
        if waiting := [model for model in self.calls.values() if model.outcome is None]:
            model = _pick(waiting, number)
            model.caller.protocol.calls.end_input(model.call)

    @rule(number=pick, size=sizes)
    def send_item_up(self, number: int, size: int) -> None:
        able = [
            model
            for model in self.calls.values()
            if model.outcome is None
            and model.call.input_open
            and model.call.send_credit is not None
            and model.call.send_credit.available
        ]
        if able:
            model = _pick(able, number)
            model.caller.protocol.calls.send_item(model.call, model.up.next_item(size))

    # What responders do

    def _answerable(self) -> list[tuple[CallModel, IncomingCall]]:
        return [(model, model.incoming) for model in self.calls.values() if model.incoming and not model.over]

    @rule(number=pick, size=sizes, own_stream=which)
    def respond(self, number: int, size: int, own_stream: bool) -> None:
        if able := self._answerable():
            model, call = _pick(able, number)
            side = self.pair.other(model.caller)
            model.answer, model.over = b"=" * size, True
            stream_id = (
                side.open_stream(unidirectional=True)
                if own_stream and side.protocol.link.is_lane(call.stream_id)
                else None
            )
            assert side.protocol.calls.respond(call, Status.OK, model.answer, own_stream=stream_id)

    @rule(number=pick, size=sizes)
    def send_item_down(self, number: int, size: int) -> None:
        able = [
            (model, call)
            for model, call in self._answerable()
            if call.send_credit is not None and call.send_credit.available
        ]
        if able:
            model, call = _pick(able, number)
            self.pair.other(model.caller).protocol.calls.send_item(call, model.down.next_item(size))

    @rule(number=pick)
    def send_progress(self, number: int) -> None:
        if able := self._answerable():
            model, call = _pick(able, number)
            self.pair.other(model.caller).protocol.calls.send_progress(call, b"\x93\x01\xc0\xc0")

    @rule(number=pick, up=which)
    def consume_item(self, number: int, up: bool) -> None:
        models = [model for model in self.calls.values() if (model.up if up else model.down).unconsumed]
        if models:
            model = _pick(models, number)
            flow = model.up if up else model.down
            reader: Any = model.incoming if up else model.call
            side = self.pair.other(model.caller) if up else model.caller
            side.protocol.calls.item_consumed(reader, flow.unconsumed.pop(0))

    # What applications do with streams

    @rule(client=which)
    def open_stream(self, client: bool) -> None:
        side = self.side(client)
        stream = side.protocol.streams.open("stream", side.open_stream(), None)
        self.streams[stream.id] = StreamModel(side, {side: stream}, {each: Flow() for each in self.pair.sides})

    def _ends(self) -> list[tuple[StreamModel, Side, AppStream]]:
        return [
            (model, side, stream)
            for model in self.streams.values()
            for side, stream in model.ends.items()
            if stream.id in side.protocol.streams.streams
        ]

    @rule(number=pick)
    def accept_stream(self, number: int) -> None:
        if offered := [item for item in self._ends() if item[1] is not item[0].opener]:
            _, side, stream = _pick(offered, number)
            side.protocol.streams.accept(stream)

    @rule(number=pick, size=sizes)
    def send_stream_item(self, number: int, size: int) -> None:
        able = [
            item for item in self._ends() if item[2].accepted and item[2].local_open and item[2].send_credit.available
        ]
        if able:
            model, side, stream = _pick(able, number)
            side.protocol.streams.send_item(stream, model.flows[side].next_item(size))

    @rule(number=pick)
    def consume_stream_item(self, number: int) -> None:
        able = [item for item in self._ends() if item[0].flows[self.pair.other(item[1])].unconsumed]
        if able:
            model, side, stream = _pick(able, number)
            side.protocol.streams.item_consumed(stream, model.flows[self.pair.other(side)].unconsumed.pop(0))

    @rule(number=pick)
    def end_stream(self, number: int) -> None:
        if ends := self._ends():
            _, side, stream = _pick(ends, number)
            side.protocol.streams.end(stream)

    @rule(number=pick, reason=st.binary(max_size=8))
    def reset_stream(self, number: int, reason: bytes) -> None:
        if ends := self._ends():
            model, side, stream = _pick(ends, number)
            assert side.protocol.streams.reset(stream, Status.ABORTED, reason)
            model.reset_by[side] = reason

    # Events, probes and leaving

    @rule(client=which, ack=which)
    def emit(self, client: bool, ack: bool) -> None:
        side = self.side(client)
        payload = len(self.emitted[side]).to_bytes(4, "big")
        handle = object() if ack else None
        side.protocol.emit("event", payload, ack_handle=handle)
        self.emitted[side].append(payload)
        if handle is not None:
            self.unacknowledged[side].add(handle)

    @rule(client=which)
    def acknowledge(self, client: bool) -> None:
        side = self.side(client)
        if self.to_acknowledge[side]:
            side.protocol.acknowledge(self.to_acknowledge[side].pop(0), 1, 0)

    @rule(client=which)
    def probe(self, client: bool) -> None:
        self.side(client).protocol.probe(7)

    @rule(client=which, number=pick)
    def go_away(self, client: bool, number: int) -> None:
        if number % 20 == 0:  # not too often: nothing begins after it
            self.side(client).protocol.go_away(3001, "shutdown")

    # What arrives

    def take_events(self) -> None:
        for side in self.pair.sides:
            events, side.events[:] = list(side.events), []
            for event in events:
                name = re.sub(r"(?<!^)(?=[A-Z])", "_", type(event).__name__).lower()
                getattr(self, f"_on_{name}")(side, event)

    def _on_incoming_call(self, side: Side, call: IncomingCall) -> None:
        model = self.calls[self.pair.other(side), call.id]
        assert model.incoming is None
        assert model.outcome in (None, "cancelled")
        model.incoming = call

    def _on_item_received(self, side: Side, event: ev.ItemReceived) -> None:
        if isinstance(event.call, OutgoingCall):
            event.call.handle.down.take(event.frame.payload)
        else:
            self.calls[self.pair.other(side), event.call.id].up.take(event.frame.payload)

    def _on_input_ended(self, side: Side, event: ev.InputEnded) -> None:
        model = self.calls[self.pair.other(side), event.call.id]
        assert model.up.got == model.up.sent

    def _on_call_cancelled(self, side: Side, event: ev.CallCancelled) -> None:
        model = self.calls[self.pair.other(side), event.call.id]
        assert (model.outcome, model.over) == ("cancelled", False)
        assert event.status == Status.DEADLINE_EXCEEDED
        model.over = True

    def _on_outgoing_call(self, side: Side, event: OutgoingCall) -> None:
        model: CallModel = event.handle
        assert model.outcome is None
        model.outcome = "response"
        if model.answer is None:
            assert event.frame.status in REFUSALS
            assert b"broke" not in event.frame.payload
            assert model.incoming is None
        else:
            assert (event.frame.status, event.frame.payload) == (Status.OK, model.answer)
            assert model.down.got == model.down.sent

    def _on_progress_received(self, side: Side, event: ev.ProgressReceived) -> None:
        assert event.call.handle.outcome is None

    def _on_credit_received(self, side: Side, event: ev.CreditReceived) -> None:
        assert event.target.send_credit is not None
        assert event.target.send_credit.granted <= event.target.send_credit.sent + LIMITS.stream_window_bytes

    def _on_stream_opened(self, side: Side, event: ev.StreamOpened) -> None:
        model = self.streams[event.stream.id]
        assert model.opener is not side
        model.ends[side] = event.stream

    def _on_stream_accepted(self, side: Side, event: ev.StreamAccepted) -> None:
        assert self.streams[event.stream.id].opener is side

    def _on_stream_item_received(self, side: Side, event: ev.StreamItemReceived) -> None:
        self.streams[event.stream.id].flows[self.pair.other(side)].take(event.frame.payload)

    def _on_stream_ended(self, side: Side, event: ev.StreamEnded) -> None:
        flow = self.streams[event.stream.id].flows[self.pair.other(side)]
        assert flow.got == flow.sent

    def _on_stream_was_reset(self, side: Side, event: ev.StreamWasReset) -> None:
        model, other = self.streams[event.stream.id], self.pair.other(side)
        if other in model.reset_by:
            assert (event.status, event.payload) == (Status.ABORTED, model.reset_by[other]), "the reason was lost"
        else:
            assert (model.opener is side, event.status in REFUSALS, event.payload != b"") == (True, True, True)

    def _on_event_received(self, side: Side, event: ev.EventReceived) -> None:
        assert event.frame.payload == self.emitted[self.pair.other(side)][self.noticed[side]], "events out of order"
        self.noticed[side] += 1
        if event.frame.wants_ack:
            self.to_acknowledge[side].append(event.frame.id)

    def _on_event_acknowledged(self, side: Side, event: ev.EventAcknowledged) -> None:
        self.unacknowledged[side].remove(event.handle)

    def _on_probe_answered(self, side: Side, event: ev.ProbeAnswered) -> None:
        assert event.frame.t1_ns < event.frame.t2_ns <= event.frame.t3_ns

    def _on_go_away_received(self, side: Side, event: ev.GoAwayReceived) -> None:
        for item in event.rejected:
            if isinstance(item, OutgoingCall):
                assert (item.handle.outcome, item.handle.incoming) == (None, None)
                item.handle.outcome = "rejected"
            else:
                assert set(self.streams[item.id].ends) == {side}

    # The end

    def teardown(self) -> None:
        if self.ending == "orderly":
            self.end_in_order()
        else:
            self.break_off(*(self.pair.sides if len(self.calls) % 2 else reversed(self.pair.sides)))

    def break_off(self, first: Side, last: Side) -> None:
        """End the connection in the middle: who waits is told, nothing is left, and what comes late changes nothing."""
        self._close(first)
        if self.ending == "one closes":  # what it had said before arrives; else it is lost
            self.pair.pump()
            self.take_events()
        self._close(last)
        self.pair.pump()
        assert [side.events for side in self.pair.sides] == [[], []]
        assert [side.protocol.take_early() for side in self.pair.sides] == [[], []]

    def _close(self, side: Side) -> None:
        waiting = {model.call for model in self.calls.values() if model.caller is side and model.outcome is None}
        serving = {model.incoming for model in self.calls.values() if model.caller is not side and not model.over}
        open_here = set(side.protocol.streams.streams.values())
        left = side.protocol.close()
        assert len(left) == len(set(left))
        assert set(left) == waiting | (serving - {None}) | open_here
        assert leftovers(side.protocol) == {}

    def end_in_order(self) -> None:
        self.deliver_all()
        for model in self.calls.values():
            if model.outcome is None and model.incoming is not None and model.call.id % 3:
                model.over, model.answer = True, b"the end"
                assert self.pair.other(model.caller).protocol.calls.respond(model.incoming, Status.OK, model.answer)
            elif model.outcome is None:
                assert model.caller.protocol.calls.cancel(model.call, Status.DEADLINE_EXCEEDED)
                model.outcome = "cancelled"
        for opened, side, stream in self._ends():
            if stream.id % 3:
                side.protocol.streams.end(stream)
            else:
                side.protocol.streams.reset(stream, Status.ABORTED, b"the end")
                opened.reset_by[side] = b"the end"
        for side in self.pair.sides:
            while self.to_acknowledge[side]:
                self.acknowledge(side is self.pair.client)
        self.deliver_all()
        for side in self.pair.sides:
            while self.to_acknowledge[side]:
                self.acknowledge(side is self.pair.client)
        self.deliver_all()
        assert all(model.outcome for model in self.calls.values())
        assert all(model.over for model in self.calls.values() if model.incoming)
        assert self.unacknowledged == {side: set() for side in self.pair.sides}
        self.pair.assert_nothing_left()
        assert [side.protocol.close() for side in self.pair.sides] == [[], []]


def _pick(items: list[T], number: int) -> T:
    return items[number % len(items)]


WEIGHTS = {
    "deliver_some": 30, "deliver_all": 2, "call": 2, "call_with_items": 4, "cancel": 1, "end_input": 2,
    "send_item_up": 8, "respond": 3, "send_item_down": 8, "send_progress": 2, "consume_item": 10, "open_stream": 2,
    "accept_stream": 4, "send_stream_item": 10, "consume_stream_item": 8, "end_stream": 1, "reset_stream": 1, "emit": 1,
    "acknowledge": 2, "probe": 1, "go_away": 1,
}  # fmt: skip


def talk(seed: int, steps: int, conversation: Conversation | None = None) -> None:
    """Have one long conversation."""
    source = random.Random(seed)
    if conversation is None:
        conversation = Conversation()
        conversation.ending = ENDINGS[seed % len(ENDINGS)]
    for name in source.choices(list(WEIGHTS), list(WEIGHTS.values()), k=steps):
        step = getattr(conversation, name)
        step(**{argument: VALUES[argument](source) for argument in ARGUMENTS[name]})
    conversation.teardown()


# In order: a set's order differs from process to process, and a seed would not say the same twice.
ARGUMENTS = {name: sorted(signature(getattr(Conversation, name)).parameters.keys() - {"self"}) for name in WEIGHTS}
VALUES: dict[str, Callable[[random.Random], Any]] = {
    "client": lambda source: source.random() < 0.5,
    "up": lambda source: source.random() < 0.5,
    "ack": lambda source: source.random() < 0.5,
    "own_stream": lambda source: source.random() < 0.5,
    "sends_items": lambda source: source.random() < 0.7,
    "number": lambda source: source.randrange(1 << 16),
    "count": lambda source: source.randint(1, 3),
    "size": lambda source: source.randint(4, 700),
    "reason": lambda source: source.randbytes(source.randrange(8)),
}
