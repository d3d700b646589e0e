"""The packets of the flood bench are what they claim to be; a flood is counted in transport/test_limits.py."""

from __future__ import annotations

import pytest

from benches import flood
from tests.transport.scene import Scene, simulated


@pytest.mark.parametrize(("kind", "open_after"), [("hellos", 3), ("garbage", 0)])
def test_hellos_open_connections_and_garbage_only_looks_like_it(
    monkeypatch: pytest.MonkeyPatch, kind: str, open_after: int
) -> None:
    monkeypatch.setattr(flood, "_PACKETS", 3)
    packets = flood._hellos() if kind == "hellos" else flood._garbage()

    async def scenario(scene: Scene) -> None:
        scene.receive(*packets)
        assert scene.stats()["handshakes_started"] == 3
        assert scene.stats()["connections"] == open_after
        assert scene.stats()["malformed_packets"] == 3 - open_after

    simulated(scenario, ("aioquic", "aioquic"))
    assert {len(packet) for packet in packets} == {1200}
