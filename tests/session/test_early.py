"""Tests for echostream.session.early: how much a client says early. The rest is in tests/system/test_early_data.py."""

from __future__ import annotations

import sys
from typing import Any
from unittest.mock import Mock

import pytest

from echostream.config import MAX_EARLY_BYTES, Limits
from echostream.protocol.codec import FrameCodec
from echostream.protocol.payload import PayloadCodec, encode_name
from echostream.session.early import EarlyCalls
from echostream.session.lanes import Lanes
from echostream.session.pending import CallRequest
from echostream.types import Metadata


def make() -> tuple[EarlyCalls, Any, Lanes]:
    protocol = Mock()
    lanes = Lanes(protocol, Limits(), lambda: None)
    return EarlyCalls(protocol, lanes, Mock()), protocol, lanes


@pytest.mark.parametrize("metadata", [None, {"tenant": "\N{CAT FACE}" * 20, "key-bin": b"x" * 30}])
@pytest.mark.parametrize("method", ["m", "service.\N{CAT FACE}" * 10])
@pytest.mark.parametrize("size", [0, 1, 100, 3000])
def test_all_requests_together_keep_to_the_limit(size: int, method: str, metadata: Metadata | None) -> None:
    early, _, _ = make()
    codec, payload = FrameCodec(PayloadCodec(Limits())), bytes(size)
    sent = 0
    while early.admit(CallRequest(method, ([], {}), None, metadata), payload):
        sent += len(codec.request(1, encode_name(method), payload, timeout_ns=1, metadata=metadata, flags=0))
    assert 1000 < sent <= MAX_EARLY_BYTES


def test_early_calls_keep_to_the_first_lane() -> None:
    before = Lanes(Mock(), Limits(), lambda: None).from_bytes
    early, protocol, lanes = make()
    protocol.presume.assert_called_once()
    assert lanes.from_bytes == sys.maxsize
    early.end()
    assert lanes.from_bytes == before
