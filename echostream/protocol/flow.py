"""Credit: how many bytes of items one side may send, so that a slow reader bounds a fast writer.

Totals, not differences, travel in Credit frames, so that one that is repeated does no harm. An item may start while
the total sent is below the total granted; so a receiver holds at most its window and one item more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from echostream.errors import CloseCode, LocalProtocolError, RemoteProtocolError

if TYPE_CHECKING:
    from echostream.protocol.account import Share

__all__ = ("ITEM_COST_BYTES", "ReceiveCredit", "SendCredit")

ITEM_COST_BYTES: Final = 16
"""What an item costs besides its payload: without it empty items would be free."""


class SendCredit:
    """The sending side of one direction."""

    __slots__ = ("granted", "sent")

    def __init__(self, granted: int) -> None:
        self.granted = granted
        self.sent = 0

    @property
    def available(self) -> bool:
        """Whether an item may start now."""
        return self.sent < self.granted

    def spend(self, payload_bytes: int) -> None:
        """Count an item that was sent.

        Raises:
            LocalProtocolError: it may not start: the peer would close the connection.
        """
        if self.sent >= self.granted:
            raise LocalProtocolError(f"no credit for an item: {self.sent} bytes sent, {self.granted} granted")
        self.sent += payload_bytes + ITEM_COST_BYTES

    def raise_to(self, total: int) -> bool:
        """Take a Credit frame; return whether it raised the total."""
        if total <= self.granted:
            return False
        self.granted = total
        return True


class ReceiveCredit:
    """The receiving side of one direction."""

    __slots__ = ("_held", "consumed", "granted", "received", "window")

    def __init__(self, window: int, *, granted: int | None = None, held: Share | None = None) -> None:
        """Make one; what came and was not taken counts in `held` until `release`."""
        self._held = held
        self.window = window
        self.granted = window if granted is None else granted
        self.received = 0
        self.consumed = 0

    def receive(self, payload_bytes: int) -> bool:
        """Count an item that came; return whether the connection now holds more than it may.

        Raises:
            RemoteProtocolError: it started without credit.
        """
        if self.received >= self.granted:
            raise RemoteProtocolError(
                f"item sent without credit: {self.received} bytes came, {self.granted} were granted",
                close_code=CloseCode.LIMIT_EXCEEDED,
            )
        cost = payload_bytes + ITEM_COST_BYTES
        self.received += cost
        return self._held is not None and self._held.add(cost)

    def release(self) -> None:
        """The call or stream has ended: what nobody took belongs to whoever still reads it."""
        if self._held is not None:
            self._held.add(self.consumed - self.received)
            self._held = None

    def consume(self, payload_bytes: int) -> int | None:
        """Count an item that the application took; return the new total to grant, or None while half is left."""
        cost = payload_bytes + ITEM_COST_BYTES
        self.consumed += cost
        if self._held is not None:
            self._held.add(-cost)
        total = self.consumed + self.window
        if total - self.granted < self.window // 2:
            return None
        self.granted = total
        return total
