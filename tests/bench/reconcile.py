"""`reconcile`: one tick over 1,000 sessions among 10,000 jobs, against one `squeue` of the same jobs by hand."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from slurm.lab.spec import LOGIN
from tests.bench.crowd import HELD
from tests.bench.ground import HERE, PYTHON
from tests.bench.harness import narrate
from tests.bench.report import Result, Target, UnmeasurableError, result
from tests.lab_cluster import wait_for
from tests.site.deploy import SERVICE_ACCOUNT, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.bench.ground import Ground
    from tests.lab_cluster import Lab

NAME = "reconcile"
TARGET = Target(2)
JOBS = 10_000
SESSIONS = 1_000
ONE_IN = JOBS // SESSIONS
OWNERS = ("alice", "bob", "carol")
LIMIT = 300
"""Seconds for each of the two programs in the lab."""


def measure(ground: Ground, runs: int) -> Result:
    with without_controller(ground), _crowd(ground.lab):
        chosen = _ticks(ground.lab, "auto", runs)
        if chosen["backend"] != "commands":
            other = _result(_ticks(ground.lab, "commands", runs))
            narrate(f"{NAME}: for comparison, by Slurm's commands: ratio {other.ratio:.2f}")
    if chosen["queries"] != 1:
        raise UnmeasurableError(f"{NAME}: a tick made {chosen['queries']} queries; the target holds for one")
    return _result(chosen)


def _result(said: dict[str, Any]) -> Result:
    return result(NAME, said["ours"], said["peer"], "s", TARGET)


def _ticks(lab: Lab, backend: str, runs: int) -> dict[str, Any]:
    """Return the report of tick.py: the back end, the queries of one tick, and the seconds of both sides' runs."""
    said: dict[str, Any] = {"ours": [], "peer": []}
    for line in follow_program(NAME, lab, [f"{HERE}/tick.py", backend, str(runs), str(SESSIONS)], SERVICE_ACCOUNT):
        record = json.loads(line)
        if "ours" not in record:
            said |= record
            narrate(f"{NAME}: asking by {record['backend']}, {record['queries']} query a tick")
            continue
        for side in ("ours", "peer"):
            said[side].append(record[side])
        narrate(f"{NAME}: run {len(said['ours'])} of {runs}: ours {record['ours']:.3f}   peer {record['peer']:.3f} s")
    return said


def follow_program(name: str, lab: Lab, command: Sequence[str], user: str) -> Iterator[str]:
    """The lines that one of this folder's programs prints in the lab; UnmeasurableError unless it ends well."""
    process = lab.popen(["timeout", str(LIMIT), *PYTHON, *command], user=user)
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            yield line.decode()
        errors = process.stderr.read().decode(errors="replace")
    if process.returncode != 0:
        raise UnmeasurableError(f"{name}: {command[0]} ended with {process.returncode}: {errors[-2000:].strip()}")


@contextmanager
def without_controller(ground: Ground) -> Iterator[None]:
    """Keep the site's own controller from asking Slurm during the block."""
    ground.site.kill("broker")
    try:
        yield
    finally:
        ground.site.start("broker")
        wait_until(ground.site.api_answers, "the controller to answer", 60)


@contextmanager
def _crowd(lab: Lab) -> Iterator[None]:
    """Have 10,000 held jobs in the queue during the block, a tenth of them sessions'."""
    began = time.monotonic()
    for line in follow_program(NAME, lab, [f"{HERE}/crowd.py", str(JOBS), str(ONE_IN), HELD, *OWNERS], "root"):
        narrate(f"{NAME}: {line.strip()} of {JOBS} jobs in the queue after {time.monotonic() - began:.0f} s")
    try:
        yield
    finally:
        wait_for(lambda: not cancel_waiting(lab), what="an empty queue", seconds=120)


def cancel_waiting(lab: Lab) -> str:
    """Cancel what is held, of which slurmctld takes a part at a time; what is left of it."""
    cancel = "; ".join(f"scancel --ctld --state=PENDING --user={owner}" for owner in OWNERS)
    return lab.sh(f"{cancel}; squeue -h -t PENDING -o %i | head -1", node=LOGIN)
