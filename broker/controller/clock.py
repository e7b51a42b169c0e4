"""The controller's clock: what decides by the time asks it here, so that a test can set the time in one place."""

from __future__ import annotations

import time


def now() -> float:
    """Return the seconds since the epoch."""
    return time.time()


def monotonic() -> float:
    """Return seconds that only increase, from an unknown start; for intervals."""
    return time.monotonic()
