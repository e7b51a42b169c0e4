"""The part of a suite that runs in `make test`, where the whole suite is for `make soak`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Collection

    from _pytest.mark.structures import ParameterSet


def pairs(first: Collection[object], second: Collection[object]) -> list[ParameterSet]:
    """Return all pairs of two parameters as parameters. Those that `make test` leaves out are marked `soak`.

    Each value of `first` is in one pair of `make test`, and each value of `second` in one at least if there are not
    more of them.
    """
    return [
        pytest.param(one, other, marks=[pytest.mark.soak] * (number % len(second) != index))
        for number, one in enumerate(first)
        for index, other in enumerate(second)
    ]


def mostly_soak(short: object, *rest: object) -> list[object]:
    """Return these values of a parameter; all but the first are marked `soak`."""
    return [short, *(pytest.param(each, marks=pytest.mark.soak) for each in rest)]
