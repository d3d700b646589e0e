"""docs/reference/errors.md has a part for every error, status and close code, and says nothing that is no longer so."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import echostream
import echostream.testing
from echostream import CloseCode, EchoStreamError, SignatureError, Status

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "reference" / "errors.md"
TREE = [getattr(echostream.errors, name) for name in echostream.errors.__all__ if name.endswith("Error")]
BESIDE = [SignatureError, echostream.testing.SimDeadlockError, echostream.testing.SimTimeLimitError]

MESSAGE = re.compile(r"^\| `` (.+?) `` \| .+ \|.*\|$", re.MULTILINE)
SILENT = ("EchoStream itself says it nowhere", "not sent yet")
LEAST = 12
"""Characters of an excerpt of one literal: fewer may stand anywhere."""


def section(heading: str) -> str:
    return PAGE.read_text("utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def parts(heading: str) -> dict[str, str]:
    """The parts of a section, by their headings."""
    _, *found = re.split(r"^### ", section(heading), flags=re.MULTILINE)
    split = [part.partition("\n") for part in found]
    assert len({title for title, _, _ in split}) == len(split), "two parts have one heading"
    return {title: text.strip() for title, _, text in split}


CLASSES, STATUSES, CLOSES = parts("The classes"), parts("Status codes"), parts("Close codes")


def test_every_error_has_a_part_and_no_other() -> None:
    assert set(CLASSES) == {cls.__name__ for cls in (*TREE, *BESIDE)}


def test_every_code_has_a_part_and_no_other() -> None:
    assert list(STATUSES) == [f"{status.value} {status.name}" for status in Status]
    assert list(CLOSES) == [f"{code.value} {code.name}" for code in CloseCode]


@pytest.mark.parametrize("cls", [*TREE, *BESIDE], ids=lambda cls: cls.__name__)
def test_a_part_says_what_the_error_is(cls: type[Exception]) -> None:
    first = CLASSES[cls.__name__].partition(".")[0]
    assert re.findall(r"`(\w+)`", first) == [base.__name__ for base in cls.__bases__]
    code = re.search(r"with the code (\w+)$", first)
    assert (code and code[1]) == (cls.code.name if issubclass(cls, EchoStreamError) else None)


@pytest.mark.parametrize("cls", TREE, ids=lambda cls: cls.__name__)
def test_a_part_names_what_the_error_has(cls: type[EchoStreamError]) -> None:
    documented = re.findall(r"^ {8}(\w+): ", (cls.__doc__ or "").partition("Attributes:")[2], re.MULTILINE)
    public = [name for name in vars(cls) if not name.startswith("_")]
    own = {*documented, *public} - {"code", "of", "reason"} if cls is not EchoStreamError else {*documented}
    assert [name for name in sorted(own) if not re.search(rf"`{name}(\(\))?`", CLASSES[cls.__name__])] == []


def test_the_tree_on_the_page_is_the_tree_of_the_code() -> None:
    drawn = section("The tree").partition("```text\n")[2].partition("```")[0]
    parents: list[type] = []
    seen = set[type]()
    for line in drawn.splitlines():
        name = re.search(r"\w+", line)
        if name is None or "(your own)" in line:
            continue
        depth = name.start() // 4
        cls = getattr(echostream, name[0], Exception if name[0] == "Exception" else TypeError)
        assert not depth or parents[depth - 1] in cls.__bases__, line
        parents[depth:] = [cls]
        seen.add(cls)
    assert seen == {*TREE, Exception, TypeError, SignatureError}


@pytest.mark.parametrize(("enum", "found"), [(Status, STATUSES), (CloseCode, CLOSES)])
def test_a_code_that_is_said_has_causes_with_their_texts(enum: type[Status | CloseCode], found: dict[str, str]) -> None:
    said = {code for name, code in uses() if name == enum.__name__} | {cls.code.name for cls in TREE if enum is Status}
    for member in set(enum) - {Status.OK, Status.UNKNOWN, CloseCode.NORMAL}:  # the last without a text
        part = found[f"{member.value} {member.name}"]
        assert ("| you see |" in part or "](#" in part) is (member.name in said), member
        assert any(text in part for text in SILENT) is (member.name not in said), member
    assert len(said) > 3


@cache
def uses() -> frozenset[tuple[str, str]]:
    """Codes that EchoStream puts into errors, responses and closes: in a call, or where it names none."""
    found = set[tuple[str, str]]()
    for node in nodes():
        given: list[ast.expr | None] = []
        if isinstance(node, ast.Call):
            given = [*node.args, *(item.value for item in node.keywords)]
        elif isinstance(node, ast.arguments):
            given = [*node.defaults, *node.kw_defaults]
        for item in given:
            if isinstance(item, ast.Attribute) and isinstance(item.value, ast.Name):
                found.add((item.value.id, item.attr))
    return frozenset(found)


@pytest.mark.parametrize("shown", MESSAGE.findall(PAGE.read_text("utf-8")))
def test_a_text_on_the_page_is_one_that_the_code_says(shown: str) -> None:
    assert [piece for piece in shown.split("…") if not is_said(piece)] == []


def test_a_text_that_the_code_does_not_say_is_seen() -> None:
    assert is_said("no answer within ")
    assert is_said("; nothing else was seen either: check that the server runs")
    assert not is_said("; nothing else was seen at all: check that the server runs")
    assert not is_said("no answer beneath ")


def is_said(piece: str) -> bool:
    """Whether the code has this text, put together of whole literals; the outer ones may be excerpts."""
    reached, end = {0}, len(piece)
    for start in range(end):
        if start in reached:
            reached |= {stop for stop in range(start + 1, end + 1) if piece[start:stop] in literals()}
            if not start:
                reached |= {stop for stop in range(LEAST, end + 1) if piece[:stop] in everything()}
            if end - start >= LEAST and piece[start:] in everything():
                return True
    return end in reached


@cache
def literals() -> frozenset[str]:
    """Every text in the code, in f-strings what stands between the values; short ones only without letters."""
    texts = {node.value for node in nodes() if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return frozenset(text for text in texts if len(text) > 2 or not text.isalpha())


@cache
def everything() -> str:
    return "\0".join(text for text in literals() if "\n" not in text)


def nodes() -> Iterator[ast.AST]:
    for package in ("echostream", "echostream_derive"):
        for path in sorted((ROOT / package).rglob("*.py")):
            yield from ast.walk(ast.parse(path.read_text("utf-8")))
