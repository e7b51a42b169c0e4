"""`echo-p50` and `echo-p99`: a keystroke beside two bulk streams, through the gateway and through OpenSSH.

`stall`: a keystroke through the gateway while strangers send it everything that they may.
"""

from __future__ import annotations

import json
import statistics
from typing import TYPE_CHECKING

from slurm.lab.spec import LOGIN
from tests.bench import route
from tests.bench.ground import HERE, PYTHON, SSH_CONFIG, USER
from tests.bench.harness import in_turns
from tests.bench.report import Result, Target, UnmeasurableError, result
from tests.site.deploy import GATEWAY_PORT

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from tests.bench.ground import Ground

P50 = "echo-p50"
P99 = "echo-p99"
STALL = "stall"
BEGUN = b"begun\n"
STREAMS = 2
KEYSTROKES = 150
LONGEST = 100.0
"""Milliseconds for which strangers may delay a user."""


def measure_p50(ground: Ground, runs: int) -> Result:
    return _measure(ground, runs, P50, statistics.median, Target(4))


def measure_p99(ground: Ground, runs: int) -> Result:
    return _measure(ground, runs, P99, lambda times: statistics.quantiles(times, n=100)[98], Target(1.2))


def measure_stall(ground: Ground, runs: int) -> Result:
    """The longest that any keystroke takes, against what the issue of it is: 100 ms."""

    def longest() -> float:
        ground.site.new_gateway_workers()  # to which nobody there is a stranger yet
        with ground.lab.popen(["timeout", "90", *_command(route.GATEWAY, 0)], user=USER) as typist:
            _begun(typist)
            strangers = ground.lab.popen([*PYTHON, f"{HERE}/strangers.py", LOGIN, str(GATEWAY_PORT)], user=USER)
            with strangers:
                _begun(strangers)
                said, errors = typist.communicate(b"\n")
                strangers.kill()
        if typist.returncode != 0:
            raise UnmeasurableError(f"{STALL}: {errors.decode(errors='replace')[-2000:]}")
        return max(_times(said))

    with route.session(ground):
        times = in_turns({"ours": longest}, runs, name=STALL, unit="ms")
        ground.site.new_gateway_workers()
    return result(STALL, times["ours"], [LONGEST] * runs, "ms", Target(1))


def _measure(ground: Ground, runs: int, name: str, reduce: Callable[[list[float]], float], target: Target) -> Result:
    with route.session(ground):
        times = in_turns(
            {
                "ours": lambda: reduce(_typed(ground, route.GATEWAY)),
                "peer": lambda: reduce(_typed(ground, route.JUMP)),
            },
            runs,
            name=name,
            unit="ms",
        )
    return result(name, times["ours"], times["peer"], "ms", target)


def _typed(ground: Ground, host: str) -> list[float]:
    return _times(ground.timed(_command(host, STREAMS), seconds=90)[1].partition(BEGUN)[2])


def _command(host: str, streams: int) -> list[str]:
    return ["python3", f"{HERE}/keystrokes.py", SSH_CONFIG, host, str(KEYSTROKES), str(streams)]


def _begun(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    if process.stdout.readline() != BEGUN:
        process.kill()
        raise UnmeasurableError(f"{STALL}: not begun: {process.communicate()[1].decode(errors='replace')[-2000:]}")


def _times(said: bytes) -> list[float]:
    return [float(each) for each in json.loads(said)]
