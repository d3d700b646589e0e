"""What each side says first: fields, limits, and whether two sides fit."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given

from echostream.config import Limits
from echostream.errors import CloseCode, RemoteProtocolError
from echostream.protocol.hello import FEATURES, Hello, PeerLimits
from echostream.protocol.payload import PayloadCodec
from echostream.types import Role
from tests.protocol.strategies import deterministic, values

codec = PayloadCodec()


def refusal(said: Any) -> RemoteProtocolError:
    with pytest.raises(RemoteProtocolError) as caught:
        Hello.decode(codec.encode(said), codec)
    return caught.value


@pytest.mark.parametrize(
    "hello",
    [
        Hello(role=Role.CLIENT),
        Hello(
            role=Role.SERVER,
            version=0xFFFF,
            features=frozenset({"a", "b"}),
            required=frozenset({"b"}),
            epoch=(1 << 64) - 1,
            session="s" * 4096,
            agent="test/1",
            credentials="",
            limits=PeerLimits(1, 2, 1024, 4, 1024, 1 << 40),
        ),
    ],
)
def test_decoding_gives_back_what_was_encoded(hello: Hello) -> None:
    assert Hello.decode(hello.encode(codec), codec) == hello


def test_credentials_that_are_not_there_are_not_sent() -> None:
    assert "credentials" not in codec.decode(Hello(role=Role.CLIENT).encode(codec))


def test_missing_keys_have_their_defaults_and_unknown_ones_are_skipped() -> None:
    said = {
        "role": "server",
        "colour": "red",
        7: None,
        "limits": {"max_streams": 9, "colour": "red"},
        "credentials": None,
    }
    expected = Hello(role=Role.SERVER, features=frozenset(), limits=PeerLimits(max_streams=9))
    assert Hello.decode(codec.encode(said), codec) == expected


def test_the_limits_a_side_states_are_its_own() -> None:
    limits = Limits(max_streams=3, max_payload_bytes=2048)
    assert PeerLimits.of(limits) == PeerLimits(max_streams=3, max_payload_bytes=2048)


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ([], "bad hello: expected a map, got list"),
        ({}, "bad hello: role '' is neither client nor server"),
        ({"role": "peer"}, "bad hello: role 'peer' is neither client nor server"),
        ({"role": 1}, "bad hello: role must be text of at most 4096 characters"),
        ({"version": 65_536}, "bad hello: version must be a number from 0 to 65535"),
        ({"version": "1"}, "bad hello: version must be a number from 0 to 65535"),
        ({"version": True}, "bad hello: version must be a number from 0 to 65535"),
        ({"version": 1.0}, "bad hello: version must be a number from 0 to 65535"),
        ({"epoch": -1}, "bad hello: epoch must be a number from 0 to 18446744073709551615"),
        ({"features": "progress"}, "bad hello: features must be a list of at most 64 names"),
        ({"features": ["f"] * 65}, "bad hello: features must be a list of at most 64 names"),
        ({"required": [1]}, "bad hello: required must be a list of at most 64 names"),
        ({"session": "s" * 4097}, "bad hello: session must be text of at most 4096 characters"),
        ({"agent": b"a"}, "bad hello: agent must be text of at most 4096 characters"),
        ({"credentials": 1}, "bad hello: credentials must be text of at most 4096 characters"),
        ({"limits": []}, "bad hello: limits must be a map"),
        ({"limits": None}, "bad hello: limits must be a map"),
        (
            {"limits": {"max_payload_bytes": 1023}},
            "bad hello: max_payload_bytes must be a number from 1024 to 18446744073709551615",
        ),
        (
            {"limits": {"max_streams": 0}},
            "bad hello: max_streams must be a number from 1 to 18446744073709551615",
        ),
        (
            {"limits": {"call_window_bytes": None}},
            "bad hello: call_window_bytes must be a number from 1024 to 18446744073709551615",
        ),
    ],
)
def test_a_bad_hello_is_refused(said: Any, text: str) -> None:
    error = refusal(said if not isinstance(said, dict) or not said else {"role": "client", **said})
    assert (error.message, error.close_code) == (text, CloseCode.PROTOCOL_ERROR)


@pytest.mark.parametrize("name", PeerLimits.__slots__)
def test_a_limit_below_its_least_is_refused(name: str) -> None:
    least = Limits.__dataclass_fields__[name].metadata["low"]
    assert refusal({"role": "client", "limits": {name: least - 1}}).message.startswith(f"bad hello: {name} must be")


def test_the_least_limits_pass() -> None:
    least = {name: Limits.__dataclass_fields__[name].metadata["low"] for name in PeerLimits.__slots__}
    said = codec.encode({"role": "client", "limits": least})
    assert Hello.decode(said, codec).limits == PeerLimits(**least)


def test_a_hello_that_is_no_msgpack_is_refused() -> None:
    with pytest.raises(
        RemoteProtocolError, match=r"bad hello: payload is not valid msgpack: unpack\(b\) received extra"
    ):
        Hello.decode(b"\x80\x80", codec)
    with pytest.raises(RemoteProtocolError, match="bad hello: payload has more than 100000 elements"):
        Hello.decode(b"\xdd\x00\x0f\x42\x40" + b"\x80" * 1_000_000, codec)


@deterministic
@given(values)
def test_any_value_for_any_key_is_taken_or_refused(value: Any) -> None:
    for key in Hello.__slots__:
        try:
            hello = Hello.decode(codec.encode({"role": "client", key: value}), codec)
        except RemoteProtocolError as error:
            assert re.match("bad hello: ", error.message)  # noqa: PT017 - either outcome is right
        else:
            assert hello.role in set(Role)


# Agreement


def test_both_use_the_features_that_both_have() -> None:
    mine = Hello(role=Role.CLIENT)
    yours = Hello(role=Role.SERVER, features=frozenset({"progress", "telepathy"}), required=frozenset({"event-ack"}))
    assert mine.agree(yours) == {"progress"}
    assert mine.agree(Hello(role=Role.SERVER)) == FEATURES


@pytest.mark.parametrize(
    ("peer", "text", "code"),
    [
        (Hello(role=Role.CLIENT), "both sides say that they are the client", CloseCode.PROTOCOL_ERROR),
        (
            Hello(role=Role.SERVER, version=2),
            "peer speaks protocol version 2, this side 1: update the older program",
            CloseCode.UNSUPPORTED_VERSION,
        ),
        (
            Hello(role=Role.SERVER, required=frozenset({"telepathy", "magic", "progress"})),
            "peer requires 'magic, telepathy', which this side does not have: update this program",
            CloseCode.UNSUPPORTED_VERSION,
        ),
    ],
)
def test_sides_that_do_not_fit_part(peer: Hello, text: str, code: CloseCode) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        Hello(role=Role.CLIENT).agree(peer)
    assert (caught.value.message, caught.value.close_code) == (text, code)


@pytest.mark.parametrize("peer", [Hello(role=Role.CLIENT, required=frozenset({"line\nbreak", "f" * 4000}))])
def test_a_refusal_repeats_little_of_what_the_peer_said_and_on_one_line(peer: Hello) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        Hello(role=Role.SERVER).agree(peer)
    assert len(caught.value.message) < 200
    assert caught.value.message.isprintable()
