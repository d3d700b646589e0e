"""What is wanted, and the explanation when nothing fits."""

from __future__ import annotations

from typing import Any

import pytest

from echostream.discovery.query import Found, Query, not_found_error
from echostream.discovery.service import ServiceInfo
from echostream.errors import ConfigurationError, Status


def server(name: str = "orders", *, address: str = "127.0.0.1", version: str = "1.4.2", **more: str) -> ServiceInfo:
    return ServiceInfo(name, f"{name}-1", (address,), 4433, version=version, services=(name,), metadata=more)


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        (Query(), None),
        (Query("orders", "1.4", {"zone": "a"}, lambda info: info.port == 4433), None),
        (Query("stock"), "another service"),
        (Query("orders", "2"), "version 1.4.2 instead of 2"),
        (Query("orders", metadata={"zone": "b"}), "zone=a instead of b"),
        (Query("orders", metadata={"rack": "1"}), "no rack"),
        (Query("orders", where=lambda info: info.port == 1), "refused by where="),
    ],
)
def test_why_a_server_is_not_taken(query: Query, reason: str | None) -> None:
    info = server(zone="a")
    assert query.misfit(info) == reason
    assert query.fits(info) == (reason is None)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"version": 1.4}, "version: this must be a text, got 1.4: put it in quotes"),
        ({"metadata": {"zone": 1}}, "metadata: the value of 'zone' must be a text, got 1"),
    ],
)
def test_what_is_no_text_is_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        Query(**options)


def test_a_server_that_cannot_be_dialled_does_not_fit() -> None:
    assert Query().misfit(server(address="0.0.0.0")) == "no usable address"
    assert Query("orders", "1").misfit(server(version="")) == "version unknown instead of 1"


def error(query: Query, *seen: ServiceInfo, where: str = "127.0.0.1") -> str:
    return not_found_error(query, [Found([], seen, where)], 3.0).message


def test_the_reasons_of_those_with_the_name_come_first() -> None:
    found = not_found_error(
        Query("orders", "2"),
        [Found([], [server()], "the default interface"), Found([], [server("stock")], "the static list")],
        3.0,
    )
    assert found.code is Status.NOT_FOUND
    assert found.message == (
        "no service 'orders' that fits answered within 3 s on the default interface, the static list; "
        "seen instead: 'orders' (version 1.4.2 instead of 2); "
        'or name an address: RpcClient.connect("quic://host:4433")'
    )
    assert found.details == {"seen": ["orders", "stock"]}


def test_a_near_name_is_a_hint() -> None:
    assert "seen instead: 'orders' (did you mean 'orders'?); or name" in error(Query("order"), server())
    assert "did you mean" not in error(Query("printer"), server())
    assert "did you mean" not in error(Query(version="2"), server())


def test_few_names_are_listed_and_what_they_hide_is_escaped() -> None:
    seen = [ServiceInfo(f"\x1b{index:02}", f"i{index}", (), 1) for index in range(12)]
    message = error(Query("x"), *seen)
    assert "\x1b" not in message
    assert message.count("x1b") == 10
    assert " and 2 more; or name" in message


def test_without_anything_seen_the_causes_are_named() -> None:
    message = error(Query("x"))
    assert message.startswith(
        "no service 'x' that fits answered within 3 s on 127.0.0.1; nothing else was seen either: "
    )
    for cause in ("enable_discovery()", "0.0.0.0", "containers", "5353", 'RpcClient.connect("quic://host:4433")'):
        assert cause in message
    assert error(Query()).startswith("no service that fits answered")
