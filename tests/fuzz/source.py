"""Reads choices from the bytes of a fuzzer, and writes them for seeds. What is missing at the end counts as zero."""

from __future__ import annotations

__all__ = ("Script", "Source")


class Source:
    """An input, taken from the front."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        """Bytes that were not taken."""
        return max(0, len(self._data) - self._at)

    def number(self, width: int = 1) -> int:
        """Take a big-endian unsigned number of some bytes."""
        at = self._at
        if width == 1:  # nearly always
            self._at = at + 1
            return self._data[at] if at < len(self._data) else 0
        return int.from_bytes(self.take(width).ljust(width, b"\0"), "big")

    def take(self, count: int) -> bytes:
        """Take bytes, as many as there are."""
        taken = self._data[self._at : self._at + count]
        self._at += len(taken)
        return taken

    def piece(self) -> bytes:
        """Take bytes behind their length: one byte up to 254, or 255 and two bytes."""
        size = self.number()
        return self.take(size if size < 255 else self.number(2))

    def rest(self) -> bytes:
        """Take all that is left."""
        return self.take(self.left)


class Script(bytearray):
    """What a `Source` reads, put together."""

    def number(self, value: int, width: int = 1) -> Script:
        """Append a number."""
        self.extend(value.to_bytes(width, "big"))
        return self

    def piece(self, data: bytes) -> Script:
        """Append bytes behind their length."""
        self.extend(bytes([len(data)]) if len(data) < 255 else b"\xff" + len(data).to_bytes(2, "big"))
        self.extend(data)
        return self
