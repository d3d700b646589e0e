"""docs/reference/protocol.md says what the code does: kinds, flags, features, limits, codes and states."""

from __future__ import annotations

import re

from echostream.config import ALPN, PROTOCOL_VERSION, Limits
from echostream.errors import CloseCode, Status
from echostream.protocol.decoders import _OPTIONAL_FLAGS, _OPTIONAL_KINDS, DECODERS
from echostream.protocol.flow import ITEM_COST_BYTES
from echostream.protocol.frames import Flag, FrameKind
from echostream.protocol.hello import _MAX_FEATURES, _MAX_TEXT, FEATURES, Hello, PeerLimits
from echostream.protocol.payload import MAX_NAME_BYTES
from echostream.types import Role
from tests.protocol import page


def test_the_states_are_those_of_the_table_in_the_code() -> None:
    assert page.text() == page.with_states(page.text()), "run python -m tests.protocol.page"


def test_the_kinds_and_their_flags_are_those_of_the_codec() -> None:
    listed = {int(row[0]): (row[1], row[4]) for row in page.rows("number | kind")}
    names = {kind: kind.name.title().replace("_", "") for kind in FrameKind}
    assert {number: kind for number, (kind, _) in listed.items()} == names
    flags = {number: sum(Flag[name] for name in re.findall(r"[A-Z_]+", cell)) for number, (_, cell) in listed.items()}
    assert flags == {number: allowed for number, (allowed, _, _) in DECODERS.items()}


def test_the_flags_are_those_of_the_code() -> None:
    listed = [(row[1], int(row[0], 16)) for row in page.rows("bit") if row[1]]
    assert listed == [(name, flag.value) for name, flag in Flag.__members__.items()]
    assert _OPTIONAL_FLAGS == 0x40 | 0x80
    assert f"Kinds from 0x{_OPTIONAL_KINDS:02x} ({_OPTIONAL_KINDS}) on are optional" in page.text()


def test_every_kind_has_a_vector() -> None:
    assert {vector.says["frame"] for vector in page.vectors("vector")} == set(FrameKind.__members__)


def test_the_reserved_kinds_are_free() -> None:
    reserved = [int(number) for row in page.rows("kind | for") for number in row[0].split(", ")]
    assert reserved == sorted(set(reserved))
    assert set(reserved).isdisjoint(FrameKind)


def test_the_keys_of_the_hello_are_those_of_the_code() -> None:
    assert [row[0] for row in page.rows("key")] == list(Hello.__slots__)
    assert [row[0] for row in page.rows("feature")] == sorted(FEATURES)
    assert f"Texts have at most {_MAX_TEXT} characters" in page.text()
    assert f"at most {_MAX_FEATURES}; both use" in page.text()
    assert (Hello(role=Role.CLIENT).version, PROTOCOL_VERSION) == (1, 1)


def test_the_limits_in_the_hello_have_the_defaults_and_least_values_of_the_code() -> None:
    least = {name: Limits.__dataclass_fields__[name].metadata["low"] for name in PeerLimits.__slots__}
    listed = [(row[0], int(row[1]), int(row[2])) for row in page.rows("limit | default | least")]
    assert listed == [(name, getattr(PeerLimits(), name), low) for name, low in least.items()]
    assert PeerLimits() == PeerLimits.of(Limits())


def test_the_other_limits_have_the_defaults_of_the_code() -> None:
    listed = {row[0]: float(row[1]) for row in page.rows("limit | default | above it")}
    assert listed == {name: getattr(Limits(), name) for name in listed}
    assert f"above {Limits().large_payload_bytes >> 10} KiB" in page.text()


def test_the_close_codes_are_those_of_the_code() -> None:
    assert [(int(row[0]), row[1]) for row in page.rows("code")] == [(code.value, code.name) for code in CloseCode]


def test_the_statuses_are_those_of_the_code() -> None:
    listed = [(row[at], row[at + 1]) for at in (0, 3) for row in page.rows("number | name") if row[at]]
    assert listed == [(str(status.value), status.name) for status in Status]


def test_the_numbers_in_the_text_are_those_of_the_code() -> None:
    assert f"ALPN `{ALPN}`" in page.text()
    assert f"at most {MAX_NAME_BYTES:,} bytes" in page.text()
    assert f"payload plus {ITEM_COST_BYTES} bytes" in page.text()
