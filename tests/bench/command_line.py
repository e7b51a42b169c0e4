"""`cli-list` and `cli-help`: the shortest commands of `berth`, against squeue and the bare start of Python."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from tests.bench.ground import PROFILE
from tests.bench.harness import in_turns
from tests.bench.report import Result, Target, result
from tests.bench.volumes import timed

if TYPE_CHECKING:
    from tests.bench.ground import Ground

LIST, HELP = "cli-list", "cli-help"
SESSIONS = tuple(f"listed-{number}" for number in range(3))
MORE = 3
"""Rounds for each one of another benchmark: a run takes some hundredths of a second."""


def measure_list(ground: Ground, runs: int) -> Result:
    """List three running sessions of alice's, and their three jobs."""
    names = " ".join(SESSIONS)
    ground.sh(f"berth start {names} --profile {PROFILE} --mem=1G >/dev/null", seconds=180)
    try:
        return _measure(ground, runs, LIST, {"ours": "berth list", "peer": "squeue --me"}, Target(15))
    finally:
        ground.sh(f"berth stop {names}; berth delete --yes --purge {names}", seconds=180)


def measure_help(ground: Ground, runs: int) -> Result:
    return _measure(ground, runs, HELP, {"ours": "berth --help", "peer": "python3 -c pass"}, Target(4))


def _measure(ground: Ground, runs: int, name: str, commands: dict[str, str], target: Target) -> Result:
    sides = {side: functools.partial(timed, ground, command) for side, command in commands.items()}
    seconds = in_turns(sides, MORE * runs, name=name, unit="s")
    return result(name, seconds["ours"], seconds["peer"], "s", target)
