"""Audio: a server casts a piece of music, and receivers play it in step, each on its own machine.

python examples/audio.py                    server and two receivers in one program, two seconds long
python examples/audio.py server FILE        in one terminal: any file with sound ...
python examples/audio.py client             ... and in others, also on other machines: on the sound card; Ctrl-C ends
"""

import asyncio
import logging
import os
import sys
import tempfile
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

from echostream import RpcClient, RpcServer
from echostream.audio import Caster, DeviceSink, FileSource, Player, Sink, VirtualSink

URL = os.environ.get("URL", "quic://127.0.0.1:4433")
CLIP = Path(__file__).parent / "audio_sync" / "clip.opus"


async def cast(path: Path, receivers: int, begin: float, *playing: Coroutine[Any, Any, None]) -> None:
    source = await asyncio.to_thread(FileSource, path)  # refuses what cannot be decoded
    source.seek(begin)
    caster = Caster(source, latency=0.3, wait_for=receivers)
    server = RpcServer(URL)
    server.register(caster)
    async with server:
        await asyncio.gather(caster.run(), *playing)  # to the end of the file
    source.close()


async def play(name: str, sink: Sink) -> None:
    sink.start()  # refuses a machine without a sound card
    try:
        async with RpcClient.connect(URL, ca="dev") as client:
            player = Player(client, sink, name=name)
            playing = asyncio.create_task(player.run())
            while not playing.done():
                await asyncio.sleep(1.0)
                if report := player.report():
                    print(f"{name}: {report.state}, {report.skew_ns / 1e3:+.0f} us from where it should be", flush=True)
            await playing
    finally:
        sink.close()


async def main(role: str = "both", path: str = str(CLIP)) -> None:
    if role == "server":
        logging.basicConfig(level=logging.INFO)  # shows the address, and clients that come and go
        await cast(Path(path), 1, 0.0)
    elif role == "client":
        await play("this machine", DeviceSink())
    else:
        with tempfile.TemporaryDirectory() as folder:
            rooms = [play(name, VirtualSink(Path(folder) / f"{name}.wav")) for name in ("kitchen", "study")]
            await cast(CLIP, len(rooms), 10.0, *rooms)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main(*sys.argv[1:]))
