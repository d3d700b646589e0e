"""Which transport stream a unary call takes."""

from __future__ import annotations

from typing import Any

from echostream import Limits, handler, service
from echostream.protocol.hello import FEATURES, LANES
from echostream.protocol.link import LANE
from echostream.protocol.records import OutgoingCall
from echostream.session.lanes import Lanes
from tests.session.world import ALL_WAYS, Duo, duo


@service("desk")
class Desk:
    @handler
    async def size(self, content: bytes) -> int:
        return len(content)


async def taken(ends: Duo, sizes: list[int]) -> list[int]:
    """Make calls one after the other; return the streams that their requests took."""
    streams: list[int] = []
    calls = ends.here.peer.protocol.calls

    class Noting:
        def __getattr__(self, name: str) -> object:
            return getattr(calls, name)

        def start(self, *args: Any) -> OutgoingCall:
            call = calls.start(*args)
            streams.append(call.stream_id)
            return call

        def begin(self, call: OutgoingCall, *args: Any) -> None:
            calls.begin(call, *args)
            streams.append(call.stream_id)

    ends.here.peer.protocol.calls = Noting()  # type: ignore[assignment]
    try:
        for size in sizes:
            assert await ends.here.proxy(Desk).size(bytes(size)) == size
    finally:
        ends.here.peer.protocol.calls = calls
    return streams


@ALL_WAYS
async def test_calls_of_about_a_packet_take_turns_and_small_ones_stay_together(scheme: str, way: str) -> None:
    async with duo(Desk(), scheme=scheme, way=way, limits=Limits(lanes=3)) as ends:
        assert await taken(ends, [10, 400, 10]) == [LANE] * 3
        assert ends.here.peer.protocol.link.lanes == {LANE}, "opened before it was wanted"
        streams = await taken(ends, [1000] * 6)
        assert len(set(streams)) == 3
        assert streams[:3] == streams[3:]
        assert set(streams) == ends.here.peer.protocol.link.lanes == ends.there.peer.protocol.link.peer_lanes


async def test_with_one_lane_all_take_it() -> None:
    async with duo(Desk(), limits=Limits(lanes=1)) as ends:
        assert await taken(ends, [1000, 10, 1000]) == [LANE] * 3


async def test_with_a_peer_that_knows_one_lane_all_take_it() -> None:
    async with duo(Desk()) as ends:
        ends.here.peer.protocol.link.features = FEATURES - {LANES}
        assert await taken(ends, [1000] * 3) == [LANE] * 3


async def test_where_the_peer_allows_no_more_streams_those_that_are_there_take_turns() -> None:
    async with duo(Desk()) as ends:
        protocol = ends.here.peer.protocol
        allowed = [ends.here.peer.connection.open_stream(), None]
        lanes = Lanes(protocol, Limits(lanes=8), lambda: allowed.pop(0))
        assert [lanes.take() for _ in range(4)] == [4, LANE, 4, LANE]
        assert not allowed
