"""From times to ratios. Pure.

A round is a list of times per path, measured within a second of each other. A path's figure is
divided by the same figure of its baseline in the same round, and the median over the rounds is
quoted: what slows the whole machine down for a moment falls out of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

Round = Mapping[str, Sequence[float]]

FIGURES = ("p10", "median", "minimum")


@dataclass(frozen=True)
class Figure:
    """One figure of one path: its ratio to the baseline, and its time in microseconds."""

    ratio: float
    lower_quartile: float
    upper_quartile: float
    microseconds: float


@dataclass(frozen=True)
class PathFigures:
    """All figures of one path."""

    name: str
    baseline: str
    p10: Figure
    median: Figure
    minimum: Figure


def of_times(times: Sequence[float]) -> dict[str, float]:
    """p10, median and minimum of one round's times."""
    ordered = sorted(times)
    return {"p10": ordered[len(ordered) // 10], "median": median(ordered), "minimum": ordered[0]}


def compare(rounds: Sequence[Round], baselines: Mapping[str, str]) -> list[PathFigures]:
    """The figures of every path in ``baselines``, in its order. Needs one round at least."""
    reduced = [{name: of_times(times) for name, times in each.items()} for each in rounds]
    return [
        PathFigures(name, baseline, *(_figure(reduced, name, baseline, f) for f in FIGURES))
        for name, baseline in baselines.items()
    ]


def _figure(
    rounds: Sequence[Mapping[str, Mapping[str, float]]], name: str, baseline: str, figure: str
) -> Figure:
    ratios = sorted(each[name][figure] / each[baseline][figure] for each in rounds)
    return Figure(
        ratio=median(ratios),
        lower_quartile=ratios[len(ratios) // 4],
        upper_quartile=ratios[(3 * len(ratios)) // 4],
        microseconds=median(each[name][figure] for each in rounds) * 1e6,
    )
