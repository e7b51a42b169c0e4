"""Schedule the next attempt after a failure: the pause doubles each time."""

from __future__ import annotations

from broker.controller import clock


class Backoff:
    """The time of the next attempt for each key. A key without a failure is due at once."""

    def __init__(self, first: float, last: float) -> None:
        """`first` and `last`: the first and the longest pause, in seconds."""
        self._first = first
        self._last = last
        self._pauses: dict[str, float] = {}
        self._due: dict[str, float] = {}

    def is_due(self, key: str) -> bool:
        return clock.monotonic() >= self._due.get(key, 0.0)

    def record_failure(self, key: str) -> None:
        """Record a failed attempt: the next one is due after a longer pause."""
        pause = min(2 * self._pauses[key], self._last) if key in self._pauses else self._first
        self._pauses[key] = pause
        self._due[key] = clock.monotonic() + pause

    def forget(self, key: str) -> None:
        """Reset the key, after a success or when it is given up."""
        self._pauses.pop(key, None)
        self._due.pop(key, None)
