"""Packets to frames in their order: the jitter buffer, and the decoder behind it."""

from __future__ import annotations

from echostream.audio.codec import Decoder
from echostream.audio.render import Piece
from echostream.audio.settings import AUDIO_FRAME_NS, AUDIO_RATE
from echostream.realtime import Gap, JitterBuffer, StreamQuality

__all__ = ("Intake",)

_HALF_SAMPLE_NS = 500_000_000 // AUDIO_RATE


class Intake:
    """Holds what arrived until the renderer asks for it.

    Its time is read off the play head, which runs ahead of the present by what the sink holds.

    Args:
        decoder: of the packets.
        latency_ns: of the whole group, from stamp to ear.
    """

    def __init__(self, decoder: Decoder, latency_ns: int) -> None:
        self._decoder = decoder
        self._latency_ns = latency_ns
        # A whole frame of patience: each is asked for while the one before it is played.
        self._buffer = JitterBuffer(AUDIO_FRAME_NS, latency_ns=latency_ns, late_ns=AUDIO_FRAME_NS)
        self._joined_ns: int | None = None
        self.end_ns: int | None = None
        """Stamp of the end of what has arrived."""
        self.damaged_count = 0
        """Packets that the decoder refused."""
        self.passed_count = 0
        """Packets that were there, and a little too late to be heard."""

    def push(self, sequence: int, stamp_ns: int, arrival_ns: int, packet: bytes) -> None:
        """Take a packet; stamp and arrival are in session time."""
        if self._joined_ns is None:
            self._joined_ns = arrival_ns
        if stamp_ns < self._joined_ns:  # others had it before: how late it comes says nothing of the network
            arrival_ns = stamp_ns
        self._buffer.push(sequence, stamp_ns, arrival_ns, packet)
        if self.end_ns is None or stamp_ns + AUDIO_FRAME_NS > self.end_ns:
            self.end_ns = stamp_ns + AUDIO_FRAME_NS

    def take(self, head_ns: int) -> Piece | None:
        """Return the frame in which `head_ns` lies, or begins less than a frame later; None where there is none."""
        due_ns = head_ns + self._latency_ns + AUDIO_FRAME_NS - _HALF_SAMPLE_NS
        while (found := self._buffer.pop(due_ns)) is not None:
            if isinstance(found, Gap):
                continue  # the hole shows itself in the stamps
            frame = self._decoder.decode(found.payload)
            if frame is None:
                self.damaged_count += 1
            elif found.timestamp_ns + AUDIO_FRAME_NS > head_ns + _HALF_SAMPLE_NS:
                return found.timestamp_ns, frame
            else:  # its turn is over; that it was decoded keeps the decoder's state
                self.passed_count += found.timestamp_ns >= (self._joined_ns or 0)
        return None

    def ahead_ns(self, head_ns: int) -> int:
        """Return how much sound there is after `head_ns`."""
        return 0 if self.end_ns is None else max(0, self.end_ns - head_ns)

    @property
    def wanted_latency_ns(self) -> int:
        """The least latency that would do if each frame could be played when it comes."""
        return self._buffer.wanted_latency_ns

    @property
    def missed_ns(self) -> int:
        """How much sound was not there when its time came; what nobody sent, as in a pause, is none."""
        at = self._buffer.stats()
        return (at.concealed + at.skipped + self.passed_count + self.damaged_count) * AUDIO_FRAME_NS

    def quality(self) -> StreamQuality:
        """Tell what was lost, late, reordered."""
        return self._buffer.stats()
