"""A thousand clients in one process at one server: all is right, and the server stops cleanly while all are there."""

from __future__ import annotations

import asyncio

import pytest

from benches import many_clients
from benches.load import allow_files
from echostream.errors import CloseCode
from tests.serving import ENGINE, QUIC, nothing_left, served, until

GRACE = 5.0


async def all_take_part(engine: str, count: int) -> None:
    if not allow_files(count):
        pytest.skip("the system allows fewer files")
    with nothing_left(but_timers=True):
        async with (
            served(many_clients.Crowd(), url=QUIC, engine=engine) as server,
            many_clients.crowd(server.addresses[0], engine, count) as clients,
        ):
            assert len(server.sessions) == count
            await asyncio.gather(*map(many_clients.take_part, clients, range(count)))
            async with asyncio.timeout(GRACE + 2 * GRACE):  # what it may take, and the closes of all clients
                await server.stop(grace=GRACE)
            await until(lambda: all(client.session.state == "closed" for client in clients))
            assert not len(server.sessions)
            codes = {client.session.peer.lost and client.session.peer.lost.close_code for client in clients}
            assert codes == {CloseCode.SHUTDOWN}


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_50_clients_at_one_server_on_aioquic() -> None:
    await all_take_part("aioquic", 50)


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_1000_clients_at_one_server() -> None:
    await all_take_part(ENGINE, many_clients.CLIENTS)
