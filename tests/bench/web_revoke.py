"""`web-revoke`: from a logout to the end of the browser's open WebSocket, against what the issue of it is: 100 ms."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.bench import web_ground
from tests.bench.ground import PYTHON
from tests.bench.harness import in_turns
from tests.bench.report import FEWEST_RUNS, Result, Target, result

if TYPE_CHECKING:
    from tests.bench.ground import Ground

NAME = "web-revoke"
LONGEST_MS = 100.0
TIMES, AT_ONCE = 100, 20
"""Logouts altogether, of which the slowest counts; and those of one program."""


def measure(ground: Ground, runs: int) -> Result:
    """Measure the worst of TIMES; the result has it FEWEST_RUNS times."""
    times: list[float] = []

    def worst() -> float:
        command = [*PYTHON, "/opt/berth/src/tests/bench/web_logouts.py", web_ground.SESSION, web_ground.ECHO]
        times.extend(json.loads(ground.timed([*command, str(AT_ONCE)], seconds=180)[1]))
        return max(times[-AT_ONCE:])

    del runs
    with web_ground.opened(ground):
        in_turns({"ours": worst}, TIMES // AT_ONCE, name=NAME, unit="ms")
    return result(NAME, [max(times[-TIMES:])] * FEWEST_RUNS, [LONGEST_MS] * FEWEST_RUNS, "ms", Target(1))
