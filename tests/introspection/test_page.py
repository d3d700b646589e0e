"""Tests for echostream.introspection.page: all of it is there, nothing is fetched, and no text becomes markup."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from echostream.introspection.model import EventDescription, MethodDescription, ServiceDescription
from echostream.introspection.page import page
from tests.introspection.shop import make_server

VOID = {"meta"}


class Reader(HTMLParser):
    """Collects text and checks that what is opened is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.add(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


def test_everything_that_is_served_is_on_the_page() -> None:
    services = make_server().describe()
    text = read(page(services)).text
    for one in services:
        names = [*(x.name for x in one.methods), *(x.name for x in one.events), *(x.name for x in one.streams)]
        assert [name for name in names if name not in text] == []
    assert "buy(order: Order, note: str" in text
    assert "Buy what is in the order." in text
    assert "requires shop:buy" in text
    assert "in euros; default 1.0" in text
    assert "Nothing of it is left." in text


def test_the_page_needs_nothing_else() -> None:
    text = page(make_server().describe(), title="Shop")
    assert "<title>Shop</title>" in text
    assert read(text).seen.isdisjoint({"script", "link", "img", "iframe"})
    assert re.findall(r"https?://|url\(|@import", text) == []


def test_what_a_server_says_never_becomes_markup() -> None:
    bad = '"><script>alert(1)</script>'
    schema = {
        "type": "object",
        "title": bad,
        "properties": {bad: {"type": "string", "description": bad, "default": bad}},
    }
    method = MethodDescription(name=f"s.{bad}", doc=bad, arguments=schema, result=schema, requires=bad)
    event = EventDescription(name=bad, direction="sent", doc=bad, payload=schema)
    service = ServiceDescription(name=bad, version=bad, doc=bad, methods=[method], events=[event])
    assert "script" not in read(page([service], title=bad)).seen
