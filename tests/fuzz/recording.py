"""Records a conversation of two correct machines as inputs of the fuzz target: one for each side."""

from __future__ import annotations

from typing import Any

from echostream.protocol import events as ev
from echostream.protocol.records import AppStream, IncomingCall
from echostream.types import Role
from tests.fuzz.source import Script
from tests.protocol.conversation import Conversation, talk
from tests.protocol.pair import ProtocolPair, Side

__all__ = ("record",)

_MAX_BYTES = 1500
"""Of an input: the first part of a conversation has it all."""


def record(seed: int, steps: int = 60) -> dict[Role, bytes]:
    """Return what happened to each side of one conversation, as steps of `target_peer`."""
    conversation = Conversation(Recorded)
    talk(seed, steps, conversation)
    pair = conversation.pair
    assert isinstance(pair, Recorded)
    return {side.role: pair.tapes[side].text() for side in pair.sides}


class Recorded(ProtocolPair):
    """A pair that takes down what each side is told, and what it commands."""

    def __init__(self, **options: Any) -> None:
        self.tapes: dict[Side, Tape] = {}
        super().__init__(**options)
        for side in self.sides:
            self.tapes[side] = Tape(side)

    def deliver(self, sender: Side, stream_id: int, *, count: int | None = None) -> None:
        taker = self.other(sender)
        tape, heard = self.tapes.get(taker), len(taker.events)
        if tape is not None and stream_id == -1:
            stopped, code = sender.stops[0]
            half = taker.halves.get(stopped)
            if half is None or not (half.done or half.reset_code is not None):
                tape.step(3, stopped).number(code, 2)
        elif tape is not None and (code_or_none := sender.halves[stream_id].reset_code) is not None:
            tape.step(2, stream_id).number(code_or_none, 2)
        super().deliver(sender, stream_id, count=count)
        if tape is not None:
            tape.note(taker.events[heard:])

    def _hand_over(self, taker: Side, stream_id: int, data: bytes, *, fin: bool) -> None:
        if taker in self.tapes:
            self.tapes[taker].step(0, stream_id).number(fin).piece(data)
        super()._hand_over(taker, stream_id, data, fin=fin)


class Tape:
    """The steps of one side."""

    def __init__(self, side: Side) -> None:
        self._steps: list[Script] = []
        self._records: list[Any] = []
        self._role = side.role
        machine: Any = side.protocol
        self._link = machine.link
        machine.calls = _Ear(machine.calls, self)
        machine.streams = _Ear(machine.streams, self)
        for name in ("emit", "acknowledge", "probe", "go_away"):
            setattr(machine, name, self.hearing(getattr(machine, name)))

    def text(self) -> bytes:
        """Return the input."""
        script = Script([4 | (self._role is Role.SERVER)])
        for step in self._steps:
            if len(script) + len(step) > _MAX_BYTES:
                break
            script += step
        return bytes(script)

    def step(self, number: int, *arguments: int) -> Script:
        self._steps.append(Script([number, *arguments]))
        return self._steps[-1]

    @property
    def _lanes(self) -> list[int]:
        return sorted(self._link.lanes)

    def note(self, events: list[ev.ProtocolEvent]) -> None:
        for event in events:
            if isinstance(event, IncomingCall):
                self._records.append(event)
            elif isinstance(event, ev.StreamOpened):
                self._records.append(event.stream)

    def hearing(self, command: Any) -> Any:
        def heard(*args: Any, **options: Any) -> Any:
            self._take_down(command.__name__, args, options)
            done = command(*args, **options)
            if command.__name__ in {"start", "open"}:
                self._records.append(done)
            return done

        return heard

    def _take_down(self, name: str, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        number = self._records.index(args[0]) if args and args[0] in self._records else 0
        size = len(args[1]) // 5 if len(args) > 1 and isinstance(args[1], bytes) else 0
        flags = sum(
            bit
            for bit, is_set in (
                (1, options.get("stream_id") not in (None, *self._lanes)),
                (2, options.get("request_stream") is not None),
                (4, options.get("sends_items")),
                (8, options.get("accepts_items")),
            )
            if is_set
        )
        lane = self._lanes.index(options["stream_id"]) if options.get("stream_id") in self._lanes else 0
        is_stream = bool(args) and isinstance(args[0], AppStream)
        steps: dict[str, tuple[int, ...]] = {
            "start": (4, flags | lane << 5, size, 0),
            "open_lane": (24,),
            "end_input": (5, number),
            "cancel": (6, number, int(args[1]) if name == "cancel" else 0),
            "send_item": (13, number, size) if is_stream else (7, number, size, 0),
            "item_consumed": (8, 0),
            "respond": (9, number, 0, options.get("own_stream") is not None, 2),
            "send_progress": (10, number),
            "open": (11, 0),
            "accept": (12, number),
            "end": (14, number),
            "reset": (15, number, 10, 0),
            "emit": (16, 1, 80 if options.get("ack_handle") else 0),
            "acknowledge": (17, 0, 0, 0, 1),
            "probe": (18, 0, 0, 0, 0, 0, 0, 0, 7),
            "go_away": (19, 11, 185, 0),
        }
        self.step(*steps[name])


class _Ear:
    """A table of calls or streams whose commands are taken down."""

    def __init__(self, table: Any, tape: Tape) -> None:
        self._table, self._tape = table, tape

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._table, name)
        heard = {"start", "open_lane", "end_input", "cancel", "send_item", "item_consumed", "respond", "send_progress"}
        return self._tape.hearing(found) if name in heard | {"open", "accept", "end", "reset"} else found
