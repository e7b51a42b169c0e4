"""Seconds per test file: recorded by whole runs, kept in tests/durations.json, and the order of the next run.

A run with several workers writes what it measured to the file named in TEST_DURATIONS, or build/durations.json.
`python -m tests.durations` (`make durations`) takes what the lanes of the last run wrote into the record.
"""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pytest

CHECKOUT = Path(__file__).parents[1]
RECORD = Path(__file__).with_suffix(".json")
MEASURED = CHECKOUT / "build/durations"
"""The folder with one file per lane."""
SHORTEST_S = 5
"""Files that take less have no line in the record: their order does not matter, and the record changes seldom."""
UNKNOWN_S = 3
"""Seconds per test of a file that is not in the record, where the longest come first: it may be a new one."""
SHORT_S = 1
"""Seconds of a file that is not in the record, where the shortest come first: most such files of unit tests last less
than SHORTEST_S."""


class Durations:
    """A plugin that adds up the seconds of each file's tests, with their fixtures."""

    def __init__(self) -> None:
        self._seconds: defaultdict[str, float] = defaultdict(float)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._seconds[report.nodeid.partition("::")[0]] += report.duration

    def pytest_sessionfinish(self) -> None:
        file = Path(os.environ.get("TEST_DURATIONS", CHECKOUT / "build/durations.json"))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(_text({name: round(seconds, 1) for name, seconds in self._seconds.items()}))


def sort_by_duration(items: list[pytest.Item], *, shortest_first: bool) -> None:
    """Sort tests by the seconds of their file; the order within each file stays.

    With the longest first, files that are marked `waits` come before all others. With the shortest first, a file's
    seconds are divided by the number of its tests, so that most tests have run early.
    """
    recorded = json.loads(RECORD.read_text())
    tests = Counter(_file(item) for item in items)
    if shortest_first:
        mean = {file: recorded.get(file, SHORT_S) / number for file, number in tests.items()}
        items.sort(key=lambda item: (mean[_file(item)], _file(item)))
        return
    seconds = {file: recorded.get(file, min(number * UNKNOWN_S, 60)) for file, number in tests.items()}
    waits = {_file(item) for item in items if item.get_closest_marker("waits") is not None}
    items.sort(key=lambda item: (_file(item) not in waits, -seconds[_file(item)], _file(item)))


def _file(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]


def _text(seconds: Mapping[str, float]) -> str:
    return json.dumps(dict(sorted(seconds.items(), key=lambda each: (-each[1], each[0]))), indent=1) + "\n"


def main() -> None:
    """Replace the record's numbers by measured ones, rounded; files that no longer exist leave the record."""
    seconds: dict[str, float] = json.loads(RECORD.read_text())
    for lane in sorted(MEASURED.glob("*.json")):
        seconds |= json.loads(lane.read_text())
    kept = {file: round(each) for file, each in seconds.items() if each >= SHORTEST_S and (CHECKOUT / file).exists()}
    RECORD.write_text(_text(kept))


if __name__ == "__main__":
    main()
