"""What items wait for: credit, and their turn, because the peer holds the unfinished item of every stream in memory."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from echostream.session.peer import Peer

__all__ = ("NO_CREDIT", "credit_came", "turn", "wants_turn")

_log = logging.getLogger("echostream.session")

NO_CREDIT: Final = "the other side reads nothing any more (credit_timeout)"


async def credit_came(peer: Peer, sendable: asyncio.Event) -> bool:
    """Wait until more items may be sent; return False when the reader gave no credit for `credit_timeout` seconds."""
    try:
        async with asyncio.timeout(peer.runtime.limits.credit_timeout):
            await sendable.wait()
    except TimeoutError:
        _log.warning("! %s: %s", peer.connection.peer_address, NO_CREDIT)
        return False
    return True


def wants_turn(peer: Peer, payload_bytes: int) -> bool:
    """Whether an item on a transport stream of its own has to wait for its turn.

    A large one has to, and a small one where so many streams are open that one on each would be too much.
    """
    limits = peer.runtime.limits
    streams = len(peer.protocol.link.owners)
    return payload_bytes > limits.large_payload_bytes or payload_bytes * streams > limits.max_large_bytes


@asynccontextmanager
async def turn(peer: Peer, stream_id: int, payload_bytes: int) -> AsyncGenerator[None, None]:
    """Wait for the turn of an item; send it in the block. The turn ends when all of the transport stream was sent.

    Wait for credit before, never inside: the others would wait for a reader that is not theirs.

    Raises:
        ConnectionLostError: the connection ended meanwhile.
    """
    await peer.large.claim(payload_bytes)
    try:
        yield
        await peer.drain_whole(stream_id)
    finally:
        peer.large.release(payload_bytes)
