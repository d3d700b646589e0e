"""`Player`: joins a cast, and plays each sample when its time has come by the session's clock."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from echostream.audio.caster import Caster
from echostream.audio.jobs import until_first
from echostream.audio.messages import CAST_STREAM, PlayReport, check_format
from echostream.audio.playback import Playback
from echostream.audio.settings import AUDIO_RATE, PLAY_INTERVAL, PLAY_REPORT_INTERVAL
from echostream.realtime import DeviceClock

if TYPE_CHECKING:
    from echostream.audio.sink import Sink
    from echostream.client import RpcClient
    from echostream.session.streams import StreamReceiver, StreamSender

__all__ = ("Player",)


class Player:
    """Plays the cast of a server on a sink, in step with all its other receivers.

    Args:
        client: connected to the caster.
        sink: to play on; its owner has started it, and closes it.
        name: what the caster shows for this receiver.
        codec: ``opus`` or ``pcm``.
        device_latency: seconds from what the sink reports until it is heard, -1 to 1: of an amplifier, or of Bluetooth.
        volume: 0 to 1, of this receiver alone.
    """

    def __init__(
        self,
        client: RpcClient,
        sink: Sink,
        *,
        name: str = "receiver",
        codec: str = "opus",
        device_latency: float = 0.0,
        volume: float = 1.0,
    ) -> None:
        self._client = client
        self._sink = sink
        self._name = name
        self._codec = codec
        self._device_latency = device_latency
        self._volume = volume
        self._device = DeviceClock(AUDIO_RATE)
        self._playback: Playback | None = None

    def report(self) -> PlayReport | None:
        """Tell how it goes; None before it has joined."""
        return None if self._playback is None else self._playback.report(self._name)

    async def run(self) -> None:
        """Join, and play until the cast ends or the connection does.

        Raises:
            ConfigurationError: an argument is out of its range, or the cast has a form that this version does not know.
            DeadlineExceededError: the clocks could not be compared in time.
            RpcError: the server casts nothing, or takes no more receivers.
            ConnectionLostError: the connection ended.
        """
        release = self._client.clock.hold()  # which begins to find out what time it is there
        try:
            await until_first(self._join(), self._attend())
        finally:
            release()

    async def _join(self) -> None:
        """Get to know what is cast and what time it is, then open the stream and play it."""
        told = await self._client.proxy(Caster).format()
        check_format(told)
        playback = Playback(
            self._client.clock,
            self._sink,
            self._device,
            codec=self._codec,
            latency_ns=told.latency_ns,
            device_latency=self._device_latency,
            volume=self._volume,
        )
        await self._client.clock.wait_locked()  # what comes first is to be heard soonest
        async with self._client.open_stream(
            CAST_STREAM,
            mode="datagram",
            time_sync=True,
            item=PlayReport,
            returns=bytes,
            metadata={"codec": self._codec},
        ) as sender:
            self._playback = playback
            await until_first(
                self._hear(playback, sender.receiver, told.latency_ns / 1e9), self._tell(playback, sender)
            )

    async def _attend(self) -> None:
        """Look after the sink all the time, at first only to get to know its clock."""
        while True:
            if self._playback is not None:
                self._playback.fill()
            elif (report := self._sink.report()) is not None:
                self._device.add(*report)
            await asyncio.sleep(PLAY_INTERVAL)

    async def _hear(self, playback: Playback, receiver: StreamReceiver[bytes], latency: float) -> None:
        async for timed in receiver.timed():
            if timed.timestamp_ns is not None:
                playback.push(timed.sequence, timed.timestamp_ns, timed.arrived_ns, timed.item)
        # What has arrived is played to its end; a stamp may lie as far ahead again as the latency.
        left_ns = playback.end_ns - self._client.clock.now_ns()
        await asyncio.sleep(min(max(0.0, left_ns / 1e9), 2 * latency))

    async def _tell(self, playback: Playback, sender: StreamSender[PlayReport]) -> None:
        while True:
            await asyncio.sleep(PLAY_REPORT_INTERVAL)
            await sender.send(playback.report(self._name))
