"""ServiceInfo: what is announced, what is made of what others announce, and what a terminal shows of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from echostream.discovery.service import ServiceInfo, decode_txt, encode_txt, safe_text
from echostream.errors import ConfigurationError
from echostream.transport.base import Address

FINGERPRINT = "ab" * 32


def describe(**changes: object) -> ServiceInfo:
    options: dict[str, object] = {
        "addresses": ["192.0.2.1"],
        "port": 4433,
        "version": "1.4.2",
        "services": ["orders", "billing"],
        "metadata": {"zone": "a"},
        "fingerprint": FINGERPRINT,
        "id": "feed",
    }
    return ServiceInfo.create("orders", **{**options, **changes})  # type: ignore[arg-type]


def raw(txt: dict[str, str]) -> dict[bytes, bytes | None]:
    return {key.encode(): value.encode() for key, value in txt.items()}


def decode(txt: Mapping[bytes, bytes | None], instance: str = "orders-1") -> ServiceInfo:
    found = decode_txt(instance, ["192.0.2.1"], 4433, "quic", txt)
    assert found is not None
    return found


def test_txt_record_has_the_agreed_keys() -> None:
    assert encode_txt(describe()) == {
        "txtvers": "1",
        "v": "1",
        "id": "feed",
        "name": "orders",
        "ver": "1.4.2",
        "svc": "orders,billing",
        "fp": FINGERPRINT,
        "m.zone": "a",
    }


def test_empty_entries_are_left_out_but_empty_metadata_is_kept() -> None:
    info = describe(version="", services=[], fingerprint=None, metadata={"flag": ""})
    assert encode_txt(info) == {"txtvers": "1", "v": "1", "id": "feed", "name": "orders", "m.flag": ""}


def test_what_is_announced_is_what_is_read() -> None:
    info = describe()
    assert decode_txt(info.instance, info.addresses, info.port, "quic", raw(encode_txt(info))) == info


def test_instances_of_one_service_have_names_and_ids_of_their_own() -> None:
    one, two = describe(id=None), describe(id=None)
    assert one.instance != two.instance
    assert one.id != two.id
    assert one.instance.startswith("orders-")
    assert len(("x" * 54 + one.instance.removeprefix("orders")).encode()) <= 63


@pytest.mark.parametrize("name", ["", "a\nb", "\x1b[31m", "x" * 55, "é" * 28])
def test_name_that_cannot_be_announced_is_refused(name: str) -> None:
    with pytest.raises(
        ConfigurationError, match=r"name: .* cannot be announced, expected 1 to 54 bytes of printable text"
    ):
        ServiceInfo.create(name, addresses=[], port=1)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"metadata": {"zone": "x" * 249}},
            "metadata: takes 256 bytes with its key 'm.zone', an announcement has room",
        ),
        (
            {"services": ["orders", "s" * 260]},
            "services: takes 265 bytes with its key 'svc2', an announcement has room for 255",
        ),
        ({"version": "1" * 300}, "version: takes 304 bytes with its key 'ver'"),
        ({"fingerprint": "a" * 300}, "fingerprint: takes 303 bytes"),
        ({"id": "a" * 300}, "id: takes 303 bytes"),
        (
            {"metadata": {f"key{index}": "x" * 200 for index in range(6)}},
            r"the announcement takes 1\d{3} bytes, the limit is 1300; its largest entry is 'm.key0' \(207 bytes\)",
        ),
        ({"metadata": {"Zone": "a"}}, "metadata: key 'Zone' cannot be announced, expected 1 to 64 of a-z"),
        ({"metadata": {"": "a"}}, "metadata: key '' cannot be announced"),
        ({"metadata": {"zone": "\ud800"}}, "metadata: the value of 'zone' is no text"),
        ({"metadata": {"zone": 1}}, "metadata: the value of 'zone' must be a text, got 1: put it in quotes"),
        ({"version": 1.4}, "version: this must be a text, got 1.4: put it in quotes"),
        ({"services": ["a,b"]}, "services: 'a,b' cannot be announced: a comma, or not printable"),
        ({"services": ["a\n"]}, "services: .* cannot be announced: a comma, or not printable"),
    ],
)
def test_what_does_not_fit_an_announcement_names_the_field(changes: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        describe(**changes)


@pytest.mark.parametrize("count", [1, 9, 40])
def test_many_services_take_several_entries(count: int) -> None:
    services = tuple(f"service.{number:017}" for number in range(count))
    txt = encode_txt(described := describe(services=services))
    assert [key for key in txt if key.startswith("svc")] == ["svc", "svc2", "svc3", "svc4", "svc5"][: -(-count // 9)]
    assert decode(raw(txt)) == dataclasses.replace(described, instance="orders-1")


def test_largest_entry_of_255_bytes_fits() -> None:
    assert len(encode_txt(describe(metadata={"zone": "x" * 248}))["m.zone"]) == 248


def test_missing_entries_become_empty() -> None:
    found = decode({}, "some instance")
    assert found == ServiceInfo("some instance", "some instance", ("192.0.2.1",), 4433)


def test_keys_are_read_in_any_case_and_the_first_one_counts() -> None:
    assert decode({b"NAME": b"one", b"name": b"two"}).name == "one"


def test_binary_values_are_replaced_and_wrong_fingerprints_dropped() -> None:
    found = decode(
        {b"name": b"\xff\xfe", b"fp": b"zz", b"\xffkey": b"", b"m.\xff": b"x", b"svc": b",,a,", b"ver": None}
    )
    assert found.name == "\ufffd\ufffd"
    assert found.fingerprint is None
    assert found.services == ("a",)
    assert found.version == ""


def test_upper_case_fingerprint_is_understood() -> None:
    assert decode({b"fp": FINGERPRINT.upper().encode()}).fingerprint == FINGERPRINT


def test_huge_record_is_cut_at_its_limit() -> None:
    found = decode({f"m.{index}".encode(): b"x" * 200 for index in range(10_000)} | {b"name": b"late"})
    assert len(found.metadata) == 6
    assert found.name == "orders-1"
    assert decode({b"m.huge": b"x" * 256, b"name": b"n"}).metadata == {}


def test_record_of_an_unknown_version_is_left_alone() -> None:
    assert decode_txt("x", [], 1, "quic", {b"txtvers": b"2"}) is None


def test_addresses_are_capped() -> None:
    found = decode_txt("x", [f"192.0.2.{index}" for index in range(100)], 1, "quic", {})
    assert found is not None
    assert len(found.addresses) == len(found.urls) == 16


@given(st.dictionaries(st.binary(max_size=300), st.one_of(st.none(), st.binary(max_size=300)), max_size=20))
def test_any_record_can_be_read_and_printed(txt: dict[bytes, bytes | None]) -> None:
    found = decode_txt("instance", ["192.0.2.1"], 4433, "quic", txt)
    if found is not None:
        assert found.escaped.isprintable()
        assert found.matches(found.name, found.version, found.metadata)


@pytest.mark.parametrize(
    ("addresses", "expected"),
    [
        (["fd00::1", "192.0.2.1"], ["quic://192.0.2.1:4433", "quic://[fd00::1]:4433"]),
        (["::1", "127.0.0.1"], ["quic://127.0.0.1:4433", "quic://[::1]:4433"]),
        (["127.0.0.1", "192.0.2.1"], ["quic://192.0.2.1:4433"]),
        (["fe80::1", "fe80::1%2", "fd00::1"], ["quic://[fd00::1]:4433", "quic://[fe80::1%2]:4433"]),
        (["0.0.0.0", "::", "224.0.0.251", "ff02::fb", "rubbish", "192.0.2.1", "192.0.2.1"], ["quic://192.0.2.1:4433"]),
        ([], []),
    ],
)
def test_urls_are_usable_and_in_order(addresses: list[str], expected: list[str]) -> None:
    urls = describe(addresses=addresses).urls
    assert list(urls) == expected
    assert [str(Address.parse(url)) for url in urls] == expected


@pytest.mark.parametrize("port", [0, -1, 65_536])
def test_impossible_port_has_no_url(port: int) -> None:
    assert describe(port=port).urls == ()


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({}, True),
        ({"name": "orders"}, True),
        ({"name": "billing"}, True),
        ({"name": "order"}, False),
        ({"version": "1.4.2"}, True),
        ({"version": "1.4"}, True),
        ({"version": "1"}, True),
        ({"version": "1.4.20"}, False),
        ({"version": "1."}, False),
        ({"metadata": {"zone": "a"}}, True),
        ({"metadata": {"zone": "b"}}, False),
        ({"metadata": {"zone": "a", "rack": "1"}}, False),
        ({"name": "orders", "version": "2"}, False),
    ],
)
def test_matches(wanted: dict[str, object], expected: bool) -> None:
    assert describe().matches(**wanted) is expected  # type: ignore[arg-type]


def test_line_for_a_terminal_is_escaped() -> None:
    assert describe().escaped == "orders 1.4.2 quic://192.0.2.1:4433 zone=a"
    assert decode({b"name": b"\x1b[2Jboo\r\n"}).escaped == r"\x1b[2Jboo\r\n quic://192.0.2.1:4433"


def test_safe_text_escapes_what_could_deceive_and_cuts_what_is_long() -> None:
    assert safe_text("grüße 世界 🎉") == "grüße 世界 🎉"
    assert safe_text("a\u202eb\u200bc\x07\u2028") == r"a\u202eb\u200bc\x07\u2028"
    assert safe_text("x" * 501) == "x" * 500 + "..."
    assert safe_text("\ud800") == r"\ud800"


def test_a_load_that_is_no_number_is_none() -> None:
    txt: dict[bytes, bytes | None] = {b"name": b"orders", b"load": b"12"}
    assert _read(txt).load == 12
    for said in (b"-1", b"1e9", b"1" * 10, b"\xd9\xa1", b""):
        assert _read({**txt, b"load": said}).load == 0


def test_a_given_url_is_dialled_as_it_is() -> None:
    info = ServiceInfo("orders", "i", ("orders.example",), 4433, given_url="quic://orders.example:4433")
    assert info.urls == ("quic://orders.example:4433",)


def _read(txt: dict[bytes, bytes | None]) -> ServiceInfo:
    info = decode_txt("i", ["127.0.0.1"], 4433, "quic", txt)
    assert info is not None
    return info
