"""How long each test file takes: recorded in build/durations.json by each whole run, for the order of the next."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

FILE = Path(__file__).parents[1] / "build/durations.json"


class Durations:
    """A plugin that adds up the seconds of each file's tests, with their fixtures."""

    def __init__(self) -> None:
        self._seconds: defaultdict[str, float] = defaultdict(float)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._seconds[report.nodeid.partition("::")[0]] += report.duration

    def pytest_sessionfinish(self) -> None:
        FILE.parent.mkdir(exist_ok=True)
        slowest = sorted(self._seconds.items(), key=lambda item: -item[1])
        FILE.write_text(json.dumps({name: round(seconds, 1) for name, seconds in slowest}, indent=1) + "\n")
