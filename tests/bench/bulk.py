"""`bulk-up`, `bulk-down` and `bulk-four`: many bytes through `ssh -J`, the gateway against OpenSSH as jump host.

The whole command is timed, login included, as a user waits for it who copies a file.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from tests.bench import route
from tests.bench.harness import in_turns
from tests.bench.report import Result, Target, UnmeasurableError, result

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench.ground import Ground

UP = "bulk-up"
DOWN = "bulk-down"
FOUR = "bulk-four"
TARGET = Target(0.9, more_is_better=True)
MEGABYTES = 300
SOURCE = f"head -c {MEGABYTES}MB /dev/zero"
PART = MEGABYTES // 4
SOURCE_OF_PART = f"head -c {PART}MB /dev/zero"


def measure_up(ground: Ground, runs: int) -> Result:
    return _measure(ground, runs, UP, lambda host: f"{SOURCE} | {shlex.join(route.ssh(host, 'wc -c'))}")


def measure_down(ground: Ground, runs: int) -> Result:
    return _measure(ground, runs, DOWN, lambda host: f"{shlex.join(route.ssh(host, SOURCE))} | wc -c")


def measure_four(ground: Ground, runs: int) -> Result:
    """Four connections at once, each with a quarter of the bytes, two in each direction."""

    def script(host: str) -> str:
        up = f"{SOURCE_OF_PART} | {shlex.join(route.ssh(host, 'wc -c'))}"
        down = f"{shlex.join(route.ssh(host, SOURCE_OF_PART))} | wc -c"
        streams = "\n".join(f"({each}) & pids+=($!)" for each in (up, down, up, down))
        waits = "for pid in ${pids[@]}; do wait $pid; done"
        return f"pids=()\n{{ {streams}\n{waits}\n}} | awk '{{ n += $1 }} END {{ print n }}'"

    return _measure(ground, runs, FOUR, script)


def _measure(ground: Ground, runs: int, name: str, script: Callable[[str], str]) -> Result:
    """Let both ways carry the bytes; each script prints how many have arrived."""

    def megabytes_per_second(host: str) -> float:
        took, counted = ground.timed(["bash", "-o", "pipefail", "-c", script(host)], seconds=180)
        if int(counted) != MEGABYTES * 10**6:
            raise UnmeasurableError(f"{name}: {counted.decode().strip()} bytes arrived")
        return MEGABYTES / took

    with route.session(ground):
        rates = in_turns(
            {"ours": lambda: megabytes_per_second(route.GATEWAY), "peer": lambda: megabytes_per_second(route.JUMP)},
            runs,
            name=name,
            unit="MB/s",
        )
    return result(name, rates["ours"], rates["peer"], "MB/s", TARGET)
