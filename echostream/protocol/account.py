"""Memory that several connections share: how much each holds, and who gives way when there is no more."""

from __future__ import annotations

__all__ = ("Account", "Share")


class Account:
    """What all connections of one server or client may hold together.

    Above the limit those give way that hold more than an equal part of it, so that one who hoards costs nobody else
    anything; together they never hold more than twice the limit.
    """

    __slots__ = ("held", "limit", "shares")

    def __init__(self, limit_bytes: int) -> None:
        self.limit = limit_bytes
        self.held = 0
        self.shares = 0

    def __repr__(self) -> str:
        return f"<Account {self.held} of {self.limit} bytes, {self.shares} shares>"

    def open(self, limit_bytes: int) -> Share:
        """Return the share of one more connection, which may hold so much."""
        return Share(self, limit_bytes)


class Share:
    """What one connection holds. `add` bytes and take them off again; `close` gives back the rest."""

    __slots__ = ("_account", "_open", "held", "limit")

    def __init__(self, account: Account, limit_bytes: int) -> None:
        self._account = account
        self._open = True
        self.limit = limit_bytes
        self.held = 0
        account.shares += 1

    def add(self, size: int) -> bool:
        """Hold so many bytes more, or less; return whether that is more than this connection may."""
        if not self._open:
            return False
        self.held += size
        account = self._account
        account.held += size
        return self.held > self.limit or (account.held > account.limit and self.crowded(self.held))

    @property
    def full(self) -> bool:
        """Whether this connection holds more than it may."""
        return self.add(0)

    def crowded(self, size: int) -> bool:
        """Whether all hold more than they may, and so many bytes are more than an equal part of it."""
        account = self._account
        return account.held > account.limit and size * account.shares > account.limit

    def close(self) -> None:
        """Give back what is held; nothing counts any more. Safe to repeat."""
        if self._open:
            self.add(-self.held)
            self._open = False
            self._account.shares -= 1
