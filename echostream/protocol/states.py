"""Where a connection is, and every legal move."""

from __future__ import annotations

import enum
from typing import Final

from echostream.types import Role

__all__ = ("TRANSITIONS", "Input", "State")


class State(enum.Enum):
    """Where a connection is."""

    NEW = "new"
    HELLO_SENT = "hello sent"
    HELLO_RECEIVED = "hello received"
    OPEN = "open"
    DRAINING = "draining"
    CLOSED = "closed"


class Input(enum.Enum):
    """What moves it."""

    SEND_HELLO = "send hello"
    RECEIVE_HELLO = "receive hello"
    SEND_GO_AWAY = "send go-away"
    RECEIVE_GO_AWAY = "receive go-away"
    CLOSE = "close"


TRANSITIONS: Final[dict[tuple[Role, State, Input], State]] = {
    (Role.CLIENT, State.NEW, Input.SEND_HELLO): State.HELLO_SENT,
    (Role.CLIENT, State.HELLO_SENT, Input.RECEIVE_HELLO): State.OPEN,
    (Role.SERVER, State.NEW, Input.RECEIVE_HELLO): State.HELLO_RECEIVED,
    (Role.SERVER, State.HELLO_RECEIVED, Input.SEND_HELLO): State.OPEN,
} | {
    (role, before, event): after
    for role in Role
    for before, event, after in (
        (State.OPEN, Input.SEND_GO_AWAY, State.DRAINING),
        (State.OPEN, Input.RECEIVE_GO_AWAY, State.DRAINING),
        (State.DRAINING, Input.SEND_GO_AWAY, State.DRAINING),
        (State.DRAINING, Input.RECEIVE_GO_AWAY, State.DRAINING),
        *((state, Input.CLOSE, State.CLOSED) for state in State),
    )
}
"""Every legal move. docs/reference/protocol.md draws its diagram from this table."""
