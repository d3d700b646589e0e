"""Items that take turns: the peer holds the unfinished item of every stream in memory, and its memory is bounded."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from echostream.session.peer import Peer

__all__ = ("turn", "wants_turn")


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
