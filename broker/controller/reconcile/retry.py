"""Schedule the next try after a failure: the pause doubles with each one."""

from __future__ import annotations

import time


class Backoff:
    """The time of the next try for each key. A key that never failed is due at once."""

    def __init__(self, first: float, last: float) -> None:
        """Seconds after the first failure, and at most."""
        self._first = first
        self._last = last
        self._pauses: dict[str, float] = {}
        self._due: dict[str, float] = {}

    def due(self, key: str) -> bool:
        return time.monotonic() >= self._due.get(key, 0.0)

    def failed(self, key: str) -> None:
        """It did not succeed: the next try comes later."""
        pause = min(2 * self._pauses[key], self._last) if key in self._pauses else self._first
        self._pauses[key] = pause
        self._due[key] = time.monotonic() + pause

    def forget(self, key: str) -> None:
        """It has succeeded, or is given up."""
        self._pauses.pop(key, None)
        self._due.pop(key, None)
