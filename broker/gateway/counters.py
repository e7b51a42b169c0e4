"""Numbers for the site's monitoring: how many logins, forwards, refusals and bytes one worker process has had.

The gateway's modules only count here. `metrics` writes the numbers to a file and serves the sums of all workers to
Prometheus. No code decides anything by them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

BUCKETS = (0.005, 0.02, 0.1, 0.5, 2.0, 10.0)
"""Seconds; the upper bounds of what an answer of the controller may have taken."""

OTHER = "other"
MAX_SERIES = 256
"""Names with their labels; the program has some forty. Beyond that a label is counted as OTHER."""


class Counters:
    """Totals since the worker's start by name and label, and functions that return present values."""

    def __init__(self) -> None:
        self._totals: Counter[str] = Counter()
        self._seconds: Counter[str] = Counter()
        self.now: dict[str, Callable[[], int]] = {}
        """By name: how many there are."""

    def count(self, name: str, label: str = "", by: int = 1) -> None:
        """`label`: a word of our own, never one that a client chose."""
        key = f"{name} {label}"
        if key not in self._totals and len(self._totals) >= MAX_SERIES:
            key = f"{name} {OTHER}"
        self._totals[key] += by

    def measure(self, name: str, label: str, seconds: float) -> None:
        """Something of that kind has taken so long."""
        index = bisect_left(BUCKETS, seconds)
        bound = f"{BUCKETS[index]:g}" if index < len(BUCKETS) else "+Inf"
        self._totals[f"{name} {label} {bound}"] += 1
        self._seconds[f"{name} {label}"] += seconds  # type: ignore[assignment]  # Counter is typed for int alone

    def snapshot(self) -> dict[str, Mapping[str, float]]:
        """All of it, for JSON."""
        return {
            "totals": dict(self._totals),
            "seconds": dict(self._seconds),
            "now": {name: tell() for name, tell in self.now.items()},
        }
