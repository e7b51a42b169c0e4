"""`queue-tick`: a tick with 1,600 queued sessions after a job has left the queue, against a tick with none."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.bench.ground import HERE
from tests.bench.harness import narrate
from tests.bench.reconcile import cancel_waiting, follow_program, without_controller
from tests.bench.report import Result, Target, UnmeasurableError, result
from tests.lab_cluster import wait_for
from tests.site.deploy import SERVICE_ACCOUNT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.bench.ground import Ground
    from tests.lab_cluster import Lab

NAME = "queue-tick"
TARGET = Target(2)
SESSIONS = 1600
LEADERS = 100
"""Jobs ahead of the sessions, of which one is cancelled before each tick."""
PARTITION = "urgent"


def measure(ground: Ground, runs: int) -> Result:
    sides: dict[str, list[float]] = {"ours": [], "peer": [], "bare": []}
    with without_controller(ground), _queue(ground.lab):
        program = [f"{HERE}/queue_ticks.py", str(runs), str(SESSIONS)]
        for line in follow_program(NAME, ground.lab, program, SERVICE_ACCOUNT):
            for side, seconds in json.loads(line).items():
                sides[side].append(seconds)
            shown = "   ".join(f"{side} {values[-1]:.3f}" for side, values in sides.items())
            narrate(f"{NAME}: run {len(sides['ours'])} of {runs}: {shown} s")
    bare = result(NAME, sides["ours"], sides["bare"], "s", TARGET)
    narrate(f"{NAME}: for comparison, against a query that finds no job: ratio {bare.ratio:.2f}")
    return result(NAME, sides["ours"], sides["peer"], "s", TARGET)


@contextmanager
def _queue(lab: Lab) -> Iterator[None]:
    """Have jobs of alice's wait during the block, in a partition that starts none, for the same reason."""
    lab.sh(f"scontrol update PartitionName={PARTITION} State=DOWN")
    try:
        began = time.monotonic()
        for count, one_in in ((LEADERS, 0), (SESSIONS, 1)):
            program = [f"{HERE}/crowd.py", str(count), str(one_in), PARTITION, "alice"]
            for line in follow_program(NAME, lab, program, "root"):
                narrate(f"{NAME}: {line.strip()} of {count} jobs in the queue after {time.monotonic() - began:.0f} s")
        wait_for(lambda: len(_reasons(lab)) == 1, what="one reason for all waits", seconds=180)
        yield
    finally:
        wait_for(lambda: not cancel_waiting(lab), what="an empty queue", seconds=120)
        lab.sh(f"scontrol update PartitionName={PARTITION} State=UP")


def _reasons(lab: Lab) -> set[str]:
    reasons = set(lab.sh(f"squeue -h -p {PARTITION} -o %r").split("\n"))
    if not reasons - {""}:
        raise UnmeasurableError(f"{NAME}: no job waits")
    return reasons
