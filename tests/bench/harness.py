"""Measuring two or more ways of doing one thing fairly: in turns, so that a busy moment of the machine hits all."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def narrate(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def in_turns(
    sides: Mapping[str, Callable[[], float]], runs: int, *, name: str, unit: str, say: Callable[[str], None] = narrate
) -> dict[str, list[float]]:
    """Run every side once without counting it, and then `runs` times; what each gave, by side.

    Within a round the sides take turns in going first, since the second may find caches warm and the machine hot.
    """
    say(f"{name}: warming up")
    for measure in sides.values():
        measure()
    values: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(runs):
        order = list(sides)
        first = number % len(order)
        for side in order[first:] + order[:first]:
            values[side].append(sides[side]())
        shown = "   ".join(f"{side} {values[side][-1]:.3f}" for side in sides)
        say(f"{name}: run {number + 1} of {runs}: {shown} {unit}")
    return values
