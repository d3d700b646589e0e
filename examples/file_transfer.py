"""File transfer: a file goes through an application stream, with a progress bar and a checksum that must match.

python examples/file_transfer.py                  server and client in one program, with a made-up file
python examples/file_transfer.py server           in one terminal: receives into the folder ./received ...
python examples/file_transfer.py client PATH      ... and in another; URL=quic://host:port chooses another address
"""

import asyncio
import hashlib
import logging
import os
import sys
import tempfile
from pathlib import Path

from echostream import Context, RpcClient, RpcServer, StreamReceiver, service, stream

URL = os.environ.get("URL", "quic://127.0.0.1:4433")
CHUNK_BYTES = 256 * 1024


@service("files")
class Files:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    @stream("upload")
    async def receive(self, receiver: StreamReceiver[bytes], ctx: Context) -> None:
        name = Path(str(ctx.metadata["name"])).name  # only the last part: a client must not choose the folder
        partial, digest = self.folder / f"{name}.part", hashlib.sha256()
        with partial.open("wb") as file:
            async for chunk in receiver:  # ends with the client's half; raises when the client gave up
                file.write(chunk)
                digest.update(chunk)
        partial.replace(self.folder / name)
        await receiver.sender.send(digest.hexdigest())  # the way back of the same stream


async def send_file(path: Path) -> None:
    digest = hashlib.sha256()
    async with (
        RpcClient.connect(URL, ca="dev") as client,
        client.open_stream("upload", item=bytes, returns=str, metadata={"name": path.name}) as sender,
    ):
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            while chunk := file.read(CHUNK_BYTES):
                await sender.send(chunk)  # waits while the network, or the server, is slow
                digest.update(chunk)
                show_progress(file.tell(), size)
        sender.end()  # no more from this side; the way back stays open
        received = await sender.receiver.recv()
    if received != digest.hexdigest():
        sys.exit(f"{path.name} was damaged: sent {digest.hexdigest()}, received {received}")
    print(f"{path.name}: {size:,} bytes, SHA-256 {received} on both sides")


def show_progress(done: int, total: int) -> None:
    if sys.stderr.isatty():  # not into files and pipes
        bar = "#" * (40 * done // total)
        print(f"\r[{bar:40}] {done / total:4.0%}", end="\n" if done == total else "", file=sys.stderr, flush=True)


async def main(role: str = "both", path: str = "") -> None:
    if role == "server":
        logging.basicConfig(level=logging.INFO)  # shows the address, and clients that come and go
        server = RpcServer(URL)
        server.register(Files(Path("received")))
        await server.serve()  # until Ctrl-C
    elif role == "client":
        await send_file(Path(path))
    else:
        with tempfile.TemporaryDirectory() as folder:
            made_up = Path(folder) / "made_up.bin"
            made_up.write_bytes(os.urandom(10_000_000))
            server = RpcServer(URL)
            server.register(Files(Path(folder) / "received"))
            async with server:
                await send_file(made_up)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
