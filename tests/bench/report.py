"""The judgement of measurements: medians, ratios against targets, a table for people and JSON for programs."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

FEWEST_RUNS = 5


@dataclass(frozen=True, slots=True)
class Target:
    """The target of the ratio `ours / peer`: at most `bound`, or at least `bound` if more is better."""

    bound: float
    more_is_better: bool = False

    def met(self, ratio: float) -> bool:
        return ratio >= self.bound if self.more_is_better else ratio <= self.bound

    def __str__(self) -> str:
        return f"{'>=' if self.more_is_better else '<='} {self.bound:g}"


@dataclass(frozen=True, slots=True)
class Result:
    """One benchmark: the medians of both sides, in `unit`, over `runs` runs each."""

    name: str
    ours: float
    peer: float
    unit: str
    target: Target
    runs: int

    @property
    def ratio(self) -> float:
        return self.ours / self.peer

    @property
    def met(self) -> bool:
        return self.target.met(self.ratio)


class UnmeasurableError(Exception):
    """A benchmark could not measure; the message says what stood in its way."""


def result(name: str, ours: Sequence[float], peer: Sequence[float], unit: str, target: Target) -> Result:
    """Reduce the runs of both sides to a Result.

    UnmeasurableError if there are too few of them, or if the peer's median says that there was nothing to measure.
    """
    if len(ours) != len(peer) or len(ours) < FEWEST_RUNS:
        raise UnmeasurableError(f"{name}: {len(ours)} and {len(peer)} runs; at least {FEWEST_RUNS} of both are needed")
    medians = statistics.median(ours), statistics.median(peer)
    if medians[1] <= 0:
        raise UnmeasurableError(f"{name}: the other side's median is {medians[1]:.4g} {unit}: lost in the noise")
    return Result(name, *medians, unit, target, len(ours))


def table(results: Sequence[Result]) -> str:
    """Lay the results out for people, one line each; a missed target is said to be missed."""
    rows = [("benchmark", "ours", "peer", "unit", "ratio", "target", "runs", "")]
    rows += [
        (
            each.name,
            f"{each.ours:.4g}",
            f"{each.peer:.4g}",
            each.unit,
            f"{each.ratio:.2f}",
            str(each.target),
            str(each.runs),
            "met" if each.met else "MISSED",
        )
        for each in results
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    numbers = {1, 2, 4, 6}
    lines = [
        "  ".join(
            cell.rjust(width) if column in numbers else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def as_json(results: Sequence[Result]) -> str:
    """Give what build/bench.json holds: docs/reference/benchmarks.md has its fields."""
    objects = [
        {
            "name": each.name,
            "ours": each.ours,
            "peer": each.peer,
            "unit": each.unit,
            "ratio": each.ratio,
            "target": each.target.bound,
            "runs": each.runs,
        }
        for each in results
    ]
    return json.dumps(objects, indent=1) + "\n"
