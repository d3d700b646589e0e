"""File transfer: a file goes through a stream, with a progress bar and a checksum, and goes on after a kill.

python examples/file_transfer.py                  server and client in one program, with a made-up file
python examples/file_transfer.py server           in one terminal: receives into the folder ./received ...
python examples/file_transfer.py client PATH      ... and in another; kill either, start it again, and it goes on
"""

import asyncio
import hashlib
import logging
import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from echostream import Context, RpcClient, RpcError, RpcServer, Status, StreamReceiver, service, stream

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
        wanted = str(ctx.metadata["sha256"])
        partial = self.folder / f"{name}.{wanted[:16]}.part"  # of this content: another version starts anew
        with partial.open("ab") as file:
            await receiver.sender.send(file.tell())  # the way back of the same stream: what is here already
            async for chunk in receiver:  # ends with the client's half; raises when the client gave up
                file.write(chunk)
        if checksum(partial) != wanted:
            partial.unlink()
            raise RpcError(Status.DATA_LOSS, f"{name} was damaged on its way: send it again")
        partial.replace(self.folder / name)


async def send_file(path: Path) -> None:
    said = {"name": path.name, "sha256": checksum(path)}
    async with (
        RpcClient.connect(URL, ca="dev") as client,
        client.open_stream("upload", returns=int, metadata=said) as sender,
    ):
        with path.open("rb") as file:
            if begin := file.seek(await sender.receiver.recv()):
                print(f"{path.name}: goes on at {begin:,} bytes")
            size = os.fstat(file.fileno()).st_size
            while chunk := file.read(CHUNK_BYTES):
                await sender.send(chunk)  # waits while the network, or the server, is slow
                show_progress(file.tell(), size)
    print(f"{path.name}: {size:,} bytes, SHA-256 {said['sha256']} on both sides")  # compared by the server


def checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def show_progress(done: int, total: int) -> None:
    if sys.stderr.isatty():  # not into files and pipes
        end = "\n" if done == total else ""
        print(f"\r[{'#' * (40 * done // total):40}] {done / total:4.0%}", end=end, file=sys.stderr, flush=True)


async def main(role: str = "both", path: str = "") -> None:
    server = RpcServer(URL)
    if role == "server":
        logging.basicConfig(level=logging.INFO)  # shows the address, and clients that come and go
        server.register(Files(Path("received")))
        await server.serve()  # until Ctrl-C
    elif role == "client":
        await send_file(Path(path or sys.exit("which file? python examples/file_transfer.py client PATH")))
    else:
        with tempfile.TemporaryDirectory() as folder:
            made_up = Path(folder) / "made_up.bin"
            made_up.write_bytes(os.urandom(10_000_000))
            server.register(Files(Path(folder) / "received"))
            async with server:
                await send_file(made_up)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main(*sys.argv[1:]))
