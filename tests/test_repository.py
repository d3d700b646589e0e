"""The promises of the files around the code: roadmap, README, changelog, licence, and nothing of anyone's machine."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

FEATURES = {
    "A": 8, "B": 4, "C": 3, "D": 4, "E": 3, "F": 4, "G": 4, "H": 4, "I": 4, "J": 6, "K": 7, "L": 7, "M": 5,
    "O": 4, "Q": 3, "N": 7,
}  # fmt: skip
"""Rows of the product by group: A1 to A8, and so on. A row may be added, none may vanish."""

ROW = re.compile(r"^- \[(?P<tick>[ x])\] \*\*(?P<id>[A-Z]\d+)\*\* (?P<text>.+)$", re.MULTILINE)
EVIDENCE = re.compile(r"`((?:tests|benches)/[\w/.-]+\.py)(?:::\w+)?`")

TOP_LEVEL = frozenset((
    ".ci", ".editorconfig", ".github", ".gitignore", ".pre-commit-config.yaml", "CHANGELOG.md", "CONTRIBUTING.md",
    "LICENSE", "Makefile", "README.md", "ROADMAP.md", "benches", "docs", "echostream", "echostream_derive", "examples",
    "pyproject.toml", "tests",
))  # fmt: skip

# Split, so that this file does not hold what it looks for.
REGISTRY = re.compile("|".join(("pypi" + r"\.org", "pythonhosted" + r"\.org", "registry" + r"\.npmjs")), re.IGNORECASE)
MACHINE_PATH = re.compile("(?<![\\w.~])/" + r"(?:home|Users|root|work|tmp)/\w")


def test_the_roadmap_carries_every_row_once(root: Path) -> None:
    expected = [f"{group}{number}" for group, count in FEATURES.items() for number in range(1, count + 1)]
    rows = [match["id"] for match in ROW.finditer((root / "ROADMAP.md").read_text("utf-8"))]
    assert rows == expected


def test_a_tick_names_a_test_or_a_bench_that_exists(root: Path) -> None:
    assert unproven_ticks((root / "ROADMAP.md").read_text("utf-8"), root) == []


def test_a_tick_without_evidence_is_seen(root: Path) -> None:
    roadmap = (
        "- [ ] **A1** open\n- [x] **A2** bare\n- [x] **A3** gone — `tests/test_gone.py`\n"
        "- [x] **A4** shown — `tests/test_repository.py::test_a_tick_without_evidence_is_seen`\n"
    )
    assert unproven_ticks(roadmap, root) == ["A2", "A3"]


def test_every_make_command_in_the_texts_is_a_target(root: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (root / "Makefile").read_text("utf-8"), re.MULTILINE))
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benches/README.md", ".ci/run"):
        text = (root / name).read_text("utf-8")
        used = set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE))
        assert used <= targets, name
    readme = (root / "README.md").read_text("utf-8")
    assert {"demo", "test"} <= set(re.findall(r"^make ([a-z-]+)", readme, re.MULTILINE))


def test_every_link_to_a_file_leads_somewhere(root: Path) -> None:
    for name in ("README.md", "CONTRIBUTING.md", "ROADMAP.md", "CHANGELOG.md"):
        links = re.findall(r"\]\((?!https?:|#)([^)#]+)", (root / name).read_text("utf-8"))
        assert [link for link in links if not (root / link).exists()] == [], name


def test_the_changelog_has_a_place_for_what_comes_next(root: Path) -> None:
    headings = re.findall(r"^## \[(.+?)\]", (root / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert headings[0] == "Unreleased"


def test_the_licence_is_mit_and_said_once_more_in_the_package(root: Path) -> None:
    assert (root / "LICENSE").read_text("utf-8").startswith("MIT License\n")
    assert _project(root)["license"] == "MIT"


def test_the_core_needs_five_libraries_and_no_more(root: Path) -> None:
    names = [re.split(r"[^\w-]", need)[0] for need in _project(root)["dependencies"]]
    assert names == ["aioquic", "cryptography", "msgpack", "pydantic", "zeroconf"]


def test_both_packages_say_that_they_are_typed(root: Path) -> None:
    assert [(root / name / "py.typed").is_file() for name in ("echostream", "echostream_derive")] == [True, True]


def test_the_top_level_holds_what_a_newcomer_expects(root: Path) -> None:
    assert {path.partition("/")[0] for path in _tracked(root)} <= TOP_LEVEL


def test_no_file_names_a_registry_or_a_folder_of_some_machine(root: Path) -> None:
    for path in _tracked(root):
        try:
            text = (root / path).read_text("utf-8")
        except UnicodeDecodeError:
            continue  # not a text
        assert REGISTRY.search(text) is None, path
        assert MACHINE_PATH.search(text) is None, path


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("see https://" + "pypi" + ".org/simple", True),
        ("reads " + "/ho" + "me/ann/key.pem", True),
        ("writes '/t" + "mp/x'", True),
        ("~/.local/state, https://example.org/home/page and docs/work/x", False),
    ],
)
def test_the_patterns_see_what_they_must(text: str, seen: bool) -> None:
    assert bool(REGISTRY.search(text) or MACHINE_PATH.search(text)) is seen


def unproven_ticks(roadmap: str, root: Path) -> list[str]:
    """Return the ids of ticked rows that name no existing test or bench."""
    return [
        row["id"]
        for row in ROW.finditer(roadmap)
        if row["tick"] == "x" and not any((root / path).is_file() for path in EVIDENCE.findall(row["text"]))
    ]


def _project(root: Path) -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    return project


def _tracked(root: Path) -> list[str]:
    """Return the files under version control that are there."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True, timeout=15)
    return [path for path in done.stdout.split("\0") if path and (root / path).is_file()]
