"""Tests for echostream.cli.describe: what a server serves, for people and for tools."""

from __future__ import annotations

import json

from tests.cli.running import echostream

SHOP = """\
shop 1.2.0
  Sells things.
  place(order: Order, note: str = "", *, urgent: bool = false) -> Order
      Place an order.
  say(text: str) -> str
"""

PLACE = """\
shop 1.2.0
  Sells things.
  place(order: Order, note: str = "", *, urgent: bool = false) -> Order
      Place an order.

      It is answered with itself.
      Order
          symbol: str
          qty: int  (default 1)
          due: date | None  (default null)
"""


def test_everything_is_described(url: str) -> None:
    done = echostream("describe", "-u", url)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(SHOP)
    assert "  event wish.*  (received)\n" in done.out
    assert "  event price.changed: PriceChanged  (received)\n" in done.out
    assert done.out.endswith("(no service)\n  ping() -> str\n")


def test_a_method_is_described_in_full(url: str) -> None:
    done = echostream("describe", "-u", url, "shop.place")
    assert [line.rstrip() for line in done.out.splitlines()] == PLACE.splitlines()


def test_limits_and_choices_are_described(url: str) -> None:
    assert "      at_most: the limit; at most 10\n" in echostream("describe", "-u", url, "shop.size_of").out
    assert "      Size: 1 | 2\n" in echostream("describe", "-u", url, "shop.label").out


def test_a_service_is_described(url: str) -> None:
    assert echostream("describe", "-u", url, "shop").out.startswith("shop 1.2.0\n")
    assert "ping" not in echostream("describe", "-u", url, "shop").out


def test_an_unknown_name_gets_near_ones(url: str) -> None:
    done = echostream("describe", "-u", url, "shop.plaice")
    assert (done.code, done.err) == (
        2,
        "error: the server has no 'shop.plaice'; did you mean shop.place or shop.prices or shop.label?\n",
    )


def test_the_description_is_json_for_tools(url: str) -> None:
    done = echostream("describe", "-u", url, "shop.add", "--json")
    (service,) = json.loads(done.out)
    assert service["methods"][0]["arguments"]["properties"]["b"] == {"type": "integer", "default": 0}
