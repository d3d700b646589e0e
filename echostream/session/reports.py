"""What the protocol machine reports, handed to those whose business it is: one table for all connections."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

from echostream.protocol import events as ev
from echostream.session.timesync import answer, take_answer

__all__ = ("EVENT_HANDLERS",)

_log = logging.getLogger("echostream.session")

EVENT_HANDLERS: Final[dict[type[Any], Callable[[Any, Any], None]]] = {
    ev.HelloReceived: lambda peer, event: peer.owner.on_hello(),
    ev.ItemReceived: lambda peer, event: event.call.handle.on_item(event.frame),
    ev.InputEnded: lambda peer, event: event.call.handle.on_input_ended(),
    ev.CallCancelled: lambda peer, event: event.call.handle.on_cancelled(event.status),
    ev.ProgressReceived: lambda peer, event: event.call.handle.on_progress(event.frame),
    ev.CreditReceived: lambda peer, event: event.target.handle.on_credit(),
    ev.EventReceived: lambda peer, event: peer.owner.on_event(event.frame),
    ev.EventAcknowledged: lambda peer, event: event.handle.on_acknowledged(event.frame),
    ev.StreamOpened: lambda peer, event: peer.owner.on_stream(event),
    ev.StreamAccepted: lambda peer, event: event.stream.handle.on_accepted(),
    ev.StreamItemReceived: lambda peer, event: event.stream.handle.on_item(event.frame),
    ev.DatagramItemReceived: lambda peer, event: event.stream.handle.on_datagram(event.frame, event.arrived_ns),
    ev.StreamEnded: lambda peer, event: event.stream.handle.on_ended(),
    ev.StreamWasReset: lambda peer, event: event.stream.handle.on_reset(event.status, event.payload),
    ev.GoAwayReceived: lambda peer, event: peer.on_go_away(event),
    ev.ProbeAnswered: take_answer,
    ev.ProbeReceived: answer,
    ev.HoldingRefused: lambda peer, event: _log.warning(
        "! %s: %s was refused, too much waits here (max_held_bytes)", peer.connection.peer_address, event.what
    ),
}
"""Event: what to do, given the `Peer` and it."""
