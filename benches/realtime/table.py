"""What a real-time bench is given and gives: a plan, figures, and the table they make."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

__all__ = ("HEADER", "Figure", "Plan", "line", "number", "percentile", "summary", "write_json")

HEADER: Final = (
    f"{'':4} {'figure':<66} {'value':>12} {'goal':>10} {'met':<6} {'anchor on the same samples':>38} {'ratio':>7}"
)


@dataclass(frozen=True)
class Plan:
    """How much to simulate."""

    seeds: int
    """Runs of each scenario; their seeds are 0, 1, 2, ..."""
    is_long: bool = False
    """Whether the slow rows are wanted: a simulated day."""
    tell: Callable[[str], None] = lambda _: None
    """Hears what is done now, for people who wait."""


@dataclass
class Figure:
    """One line of the table, one object of the JSON."""

    id: str
    name: str
    value: float | None = None
    unit: str = "us"
    goal: float | None = None
    at_least: bool = False
    """Whether more is better."""
    anchors: dict[str, float] = field(default_factory=dict[str, float])
    """What others make of the same samples; the best of them has to be beaten."""
    why: str = ""
    """Why it is missed, or not run."""
    met: bool | None = None
    """Whether goal and anchors are reached; None when it was not run, or nothing was asked."""
    anchor: str | None = None
    """Who is the best of the anchors."""
    ratio: float | None = None
    """Of the value to the best anchor's."""
    details: dict[str, Any] = field(default_factory=dict[str, Any])
    """More figures of the same runs, for the JSON only."""

    @property
    def at_goal(self) -> bool:
        """Whether the goal is reached, whatever the anchors do."""
        if self.value is None or self.goal is None:
            return self.value is not None
        return self.value >= self.goal if self.at_least else self.value <= self.goal

    def judge(self) -> Figure:
        """Compare with the goal and with the best of the anchors."""
        if self.value is None:
            return self
        if self.goal is not None:
            self.met = self.at_goal
        if self.anchors:
            self.anchor = (max if self.at_least else min)(self.anchors, key=lambda name: self.anchors[name])
            best = self.anchors[self.anchor]
            self.ratio = self.value / best if best else None
            self.met = self.at_goal and (self.value >= best if self.at_least else self.value <= best)
        return self


def percentile(values: Sequence[float], share: float) -> float:
    """Return what `share` of the values do not pass, such as 0.99."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def line(figure: Figure) -> str:
    """Return a row of the table."""
    name = f"{figure.id:4} {figure.name:<66}"
    if figure.value is None:
        return f"{name} {figure.why}"
    goal = "" if figure.goal is None else ("" if figure.at_least else "<=") + f"{figure.goal:g}"
    goal = f">={goal}" if figure.goal is not None and figure.at_least else goal
    anchor = "" if figure.anchor is None else f"{figure.anchor} {number(figure.anchors[figure.anchor], figure.unit)}"
    ratio = "" if figure.ratio is None else f"{figure.ratio:.2f}x"
    met = {None: "", True: "yes", False: "behind" if figure.at_goal else "MISSED"}[figure.met]
    text = f"{name} {number(figure.value, figure.unit):>12} {goal:>10} {met:<6} {anchor:>38} {ratio:>7}".rstrip()
    return f"{text}\n     {figure.why}" if figure.why else text


def number(value: float, unit: str) -> str:
    """Return a figure with its unit."""
    digits = f"{value:.3g}" if abs(value) < 10 else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}"
    return f"{digits} {unit}".rstrip()


def summary(figures: Sequence[Figure]) -> str:
    """Return one line about all of them."""
    failed = [figure for figure in figures if figure.met is False]
    behind = sum(figure.at_goal for figure in failed)
    met, not_run = sum(figure.met is True for figure in figures), sum(figure.value is None for figure in figures)
    return (
        f"{len(figures)} figures: {met} reached, {len(failed) - behind} missed, {behind} behind another, "
        f"{not_run} not run"
    )


def write_json(figures: Sequence[Figure], versions: dict[str, str], file: Path) -> None:
    """Write everything measured so far over what was written before."""
    rows = [asdict(figure) | {"versions": versions} for figure in figures]
    file.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
