"""``echostream play``: hear a cast, in step with everybody else who hears it."""

from __future__ import annotations

import asyncio
import socket
import sys
from contextlib import suppress
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from echostream.cli.cast import must_have_audio
from echostream.cli.console import Misuse, failures, print_json, run
from echostream.cli.target import Target, with_target

if TYPE_CHECKING:
    from echostream.audio import Player, PlayReport, Sink

__all__ = ("keep_playing", "play")

_INTERVAL: Final = 1.0
_RETRY: Final = 1.0
"""Seconds until a cast that is gone is looked for again."""


class Codec(StrEnum):
    """How the sound travels."""

    OPUS = "opus"
    PCM = "pcm"


@with_target
def play(
    discover: Annotated[
        bool, typer.Option("--discover", help="Look for a cast on the local network; so it does without --url, too.")
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write a WAV file instead of playing.")] = None,
    device: Annotated[
        str | None, typer.Option(help="Sound device: its number or a part of its name, see python -m sounddevice.")
    ] = None,
    device_latency: Annotated[
        float, typer.Option(min=-1000.0, max=1000.0, help="ms that an amplifier or Bluetooth adds: played earlier.")
    ] = 0.0,
    codec: Annotated[Codec, typer.Option(help="pcm is a perfect copy, at twelve times the rate of opus.")] = Codec.OPUS,
    volume: Annotated[float, typer.Option(min=0.0, max=100.0, help="Percent, of this receiver alone.")] = 100.0,
    name: Annotated[str | None, typer.Option("--name", "-n", help="What the caster calls this receiver.")] = None,
    seconds: Annotated[float | None, typer.Option(min=0.1, help="End after so many; else with the cast.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A line of JSON each second.")] = False,
    *,
    target: Target,
) -> None:
    """Play a cast in step with all its receivers, until it ends."""
    with failures():
        must_have_audio()
        if discover and target.url is not None:
            raise Misuse("give --discover or --url: a cast that is looked for, or an address")
        if out is not None and device is not None:
            raise Misuse("give --out or --device: a file, or a sound device")
        options = {
            "name": name or socket.gethostname(),
            "codec": codec.value,
            "device_latency": device_latency / 1e3,
            "volume": volume / 100,
        }
        run(keep_playing(target, _sink(out, device), options, seconds, as_json=as_json))


def _sink(out: Path | None, device: str | None) -> Sink:
    from echostream.audio import DeviceSink, VirtualSink

    return DeviceSink(device) if out is None else VirtualSink(out)


async def keep_playing(
    target: Target, sink: Sink, options: dict[str, Any], seconds: float | None, *, as_json: bool
) -> None:
    """Play until the cast ends, or so many seconds; a cast that was lost on the way is looked for again."""
    from echostream.audio.codec import make_decoder
    from echostream.errors import ConnectError, ConnectionLostError, ServiceNotFoundError

    sink.start()
    loading = asyncio.create_task(asyncio.to_thread(make_decoder, options["codec"]))  # while the network answers
    played = False
    try:
        async with asyncio.timeout(seconds):
            while True:
                try:
                    await _play_one(target, sink, options, as_json=as_json)
                except ConnectionLostError as error:
                    played = True
                    typer.echo(f"{error.message}; looking for it again", err=True)
                except (ConnectError, ServiceNotFoundError):
                    if not played:
                        raise
                else:
                    return
                await asyncio.sleep(_RETRY)
    except TimeoutError:
        if seconds is None:
            raise
    finally:
        sink.close()
        await loading


async def _play_one(target: Target, sink: Sink, options: dict[str, Any], *, as_json: bool) -> None:
    from echostream.audio import Player
    from echostream.audio.messages import CAST_SERVICE

    async with target.connect(CAST_SERVICE) as client:
        typer.echo(f"playing the cast of {client.peer_address}", err=True)
        player = Player(client, sink, **options)
        showing = asyncio.create_task(_show(player, as_json=as_json))
        try:
            await player.run()
        finally:
            showing.cancel()
            with suppress(asyncio.CancelledError):
                await showing


async def _show(player: Player, *, as_json: bool) -> None:
    """Tell how it goes: one line that changes on a terminal, lines of JSON elsewhere if they are wanted."""
    on_terminal = sys.stderr.isatty()
    try:
        while as_json or on_terminal:
            await asyncio.sleep(_INTERVAL)
            if (report := player.report()) is None:
                continue
            if as_json:
                print_json(asdict(report), compact=True)
            else:
                typer.echo(f"\r{_line(report):78}", nl=False, err=True)
    finally:
        if on_terminal and not as_json:
            typer.echo(err=True)


def _line(at: PlayReport) -> str:
    return (
        f"{at.state}  skew {at.skew_ns / 1e3:+.0f} us  drift {at.drift_ppm:+.1f} ppm"
        f"  buffer {at.buffer_ns / 1e6:.0f} ms  lost {at.lost}  late {at.late}"
    )
