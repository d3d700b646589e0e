"""Tests for echostream.transport.quic.demux."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from echostream.transport.quic.demux import LongHeader, RetryTokens, version_negotiation_packet

ADDRESS = ("192.0.2.1", 4433)
VERSION_2 = 0x6B3343CF


def initial(*, first: int = 0xC3, version: int = 1, token: bytes = b"", length: int = 20, rest: int = 20) -> bytes:
    head = struct.pack("!BI", first, version) + b"\x08DESTINAT" + b"\x04SRC1"
    return head + bytes([len(token)]) + token + struct.pack("!H", 0x4000 | length) + bytes(rest)


# The client Initial of RFC 9001 appendix A.2, up to its packet number, and as long as its length says.
RFC_9001_CLIENT_INITIAL = bytes.fromhex("c000000001088394c8f03e5157080000449e7b9aec34") + bytes(1182 - 4)


def test_the_initial_of_rfc_9001_is_read() -> None:
    header = LongHeader.parse(RFC_9001_CLIENT_INITIAL)
    assert header == LongHeader(1, bytes.fromhex("8394c8f03e515708"), b"", is_initial=True, token=b"")


def test_an_initial_with_a_token_is_read() -> None:
    header = LongHeader.parse(initial(token=b"a token"))
    assert header == LongHeader(1, b"DESTINAT", b"SRC1", is_initial=True, token=b"a token")


@pytest.mark.parametrize(
    ("first", "version", "is_initial"),
    [
        (0xC0, 1, True),
        (0xD0, 1, False),
        (0xE0, 1, False),
        (0xF0, 1, False),
        (0x80, 1, False),  # the fixed bit is missing
        (0xD0, VERSION_2, True),
        (0xC0, VERSION_2, False),
        (0xC0, 0, False),
    ],
)
def test_packet_types_depend_on_the_version(first: int, version: int, is_initial: bool) -> None:
    header = LongHeader.parse(initial(first=first, version=version))
    assert header is not None
    assert header.is_initial == is_initial


def test_every_truncation_is_refused() -> None:
    packet = initial(token=b"token")
    assert LongHeader.parse(packet) is not None
    for size in range(len(packet)):
        assert LongHeader.parse(packet[:size]) is None


def test_a_connection_id_over_20_bytes_is_refused() -> None:
    assert LongHeader.parse(b"\xe0\x00\x00\x00\x01\x15" + bytes(21) + b"\x00") is None
    assert LongHeader.parse(b"\xe0\x00\x00\x00\x01\x00\x15" + bytes(21)) is None


@given(st.binary(max_size=80))
def test_random_bytes_are_read_or_refused(packet: bytes) -> None:
    header = LongHeader.parse(b"\xc0" + packet)
    assert header is None or len(header.destination) <= 20


def test_version_negotiation_swaps_the_ids() -> None:
    header = LongHeader.parse(initial(version=0x0A0A0A0A))
    assert header is not None
    packet = version_negotiation_packet(header, (1, VERSION_2))
    answer = LongHeader.parse(packet)
    assert answer == LongHeader(0, b"SRC1", b"DESTINAT", is_initial=False, token=b"")
    assert packet[-8:] == struct.pack("!II", 1, VERSION_2)


class TestRetryTokens:
    tokens = RetryTokens()

    def make(self, **changes: object) -> bytes:
        return self.tokens.make(ADDRESS, original=b"ORIGINAL", retry_source=b"RETRYSRC", now=100.0)

    def test_a_token_returns_the_original_id(self) -> None:
        assert self.tokens.check(self.make(), ADDRESS, destination=b"RETRYSRC", now=109.9) == b"ORIGINAL"

    def test_a_token_expires(self) -> None:
        assert self.tokens.check(self.make(), ADDRESS, destination=b"RETRYSRC", now=110.1) is None

    @pytest.mark.parametrize("address", [("192.0.2.2", 4433), ("192.0.2.1", 4434), ("2001:db8::1", 4433, 0, 0)])
    def test_a_token_is_bound_to_its_address(self, address: tuple[str, int]) -> None:
        assert self.tokens.check(self.make(), address, destination=b"RETRYSRC", now=100.0) is None

    def test_a_token_is_bound_to_its_connection_id(self) -> None:
        assert self.tokens.check(self.make(), ADDRESS, destination=b"RETRYSRX", now=100.0) is None

    def test_a_token_of_another_server_is_refused(self) -> None:
        assert RetryTokens().check(self.make(), ADDRESS, destination=b"RETRYSRC", now=100.0) is None

    def test_no_bit_of_a_token_may_change(self) -> None:
        token = self.make()
        for index in range(len(token)):
            forged = token[:index] + bytes([token[index] ^ 1]) + token[index + 1 :]
            assert self.tokens.check(forged, ADDRESS, destination=b"RETRYSRC", now=100.0) is None

    def test_a_short_token_is_refused(self) -> None:
        for size in range(24):
            assert self.tokens.check(bytes(size), ADDRESS, destination=b"RETRYSRC", now=100.0) is None

    def test_a_clock_may_count_from_anywhere(self) -> None:
        token = self.tokens.make(ADDRESS, original=b"O" * 8, retry_source=b"R" * 8, now=-5.0)
        assert self.tokens.check(token, ADDRESS, destination=b"R" * 8, now=4.0) == b"O" * 8
        assert self.tokens.check(token, ADDRESS, destination=b"R" * 8, now=6.0) is None

    def test_a_link_local_address_with_a_zone_is_fine(self) -> None:
        address = ("fe80::1%eth0", 4433, 0, 2)
        token = self.tokens.make(address, original=b"O" * 8, retry_source=b"R" * 8, now=1.0)
        assert self.tokens.check(token, address, destination=b"R" * 8, now=1.0) == b"O" * 8
