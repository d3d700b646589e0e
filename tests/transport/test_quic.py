"""Tests for echostream.transport.quic: the conformance suite, and what only QUIC has."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from echostream.transport.quic import QuicTransport
from echostream.transport.tls import ClientTls, ServerTls
from tests.transport.conformance import TransportConformance, World


class TestQuic(TransportConformance):
    @pytest.fixture
    async def world(self) -> AsyncIterator[World]:
        world = World(
            QuicTransport(),
            "quic://127.0.0.1:0",
            client_tls=ClientTls.load(ca="dev"),
            server_tls=ServerTls.load(),
        )
        await world.open()
        yield world
        await world.close()
