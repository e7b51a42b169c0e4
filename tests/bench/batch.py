"""`sbatch`: `berth sbatch` of a trivial script, against sbatch itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.bench.ground import ROOM
from tests.bench.harness import in_turns
from tests.bench.report import Result, Target, result

if TYPE_CHECKING:
    from tests.bench.ground import Ground

NAME = "sbatch"
TARGET = Target(3)


def measure(ground: Ground, runs: int) -> Result:
    ground.sh(f"printf '#!/bin/sh\\n#SBATCH --output=/dev/null --time=1\\ntrue\\n' >{ROOM}/trivial.sh")

    def submit(command: str) -> float:
        """Seconds that the command takes in a shell that is there already."""
        clock = "began=$EPOCHREALTIME; {}; ended=$EPOCHREALTIME; echo $((${{ended/./}} - ${{began/./}}))"
        return int(ground.sh(clock.format(f"{command} {ROOM}/trivial.sh >/dev/null"))) / 1e6

    seconds = in_turns(
        {"ours": lambda: submit("berth sbatch"), "peer": lambda: submit("sbatch")}, runs, name=NAME, unit="s"
    )
    return result(NAME, seconds["ours"], seconds["peer"], "s", TARGET)
