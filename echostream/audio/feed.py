"""One codec of a cast: the packets of now, and those that are still to be heard, for receivers that join meanwhile."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from echostream.audio.codec import make_encoder
from echostream.audio.samples import Samples, ns_of

__all__ = ("Feed",)


class Feed:
    """What all receivers with the same codec get.

    Args:
        codec: of the packets.
        recent: stamps and frames that others have been sent.
        keep: packets to remember.

    Raises:
        ConfigurationError: there is no codec of that name.
    """

    def __init__(self, codec: str, recent: Iterable[tuple[int, Samples]], keep: int) -> None:
        self._encoder = make_encoder(codec)
        self._packets: deque[tuple[int, bytes]] = deque(maxlen=keep)
        self.receiver_count = 0
        for stamp_ns, frame in recent:  # of Opus it takes a hundredth of the time that the sound lasts
            self.encode(stamp_ns, frame)

    def encode(self, stamp_ns: int, frame: Samples) -> tuple[int, bytes]:
        """Return the stamp and the packet of one more frame."""
        made = stamp_ns - round(ns_of(self._encoder.delay_samples)), self._encoder.encode(frame)
        self._packets.append(made)
        return made

    def after(self, stamp_ns: int) -> list[tuple[int, bytes]]:
        """Return what is remembered that was stamped later."""
        return [made for made in self._packets if made[0] > stamp_ns]
