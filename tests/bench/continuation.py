"""`continue`: from the end of one of a session's jobs to readiness in the next; against a job submitted by hand."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from slurm.lab.spec import LOGIN
from tests.bench.ground import HERE, PROFILE, ROOM, Ground
from tests.bench.harness import in_turns
from tests.bench.report import Result, Target, UnmeasurableError, result
from tests.bench.waiting import completed
from tests.lab_cluster import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "continue"
TARGET = Target(1.25)
SESSION = "goes-on"
LIMIT = 60
"""Seconds of one job: Slurm's shortest time limit."""


@dataclass(frozen=True, slots=True)
class Continue:
    """One session whose jobs end every minute; the bare job runs in between."""

    ground: Ground
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def ours(self) -> float:
        """From slurmctld's hearing of the end of a job until the registry has the session ready in the next."""
        before = self._show()
        wait_for(lambda: self._ready_after(before), what="the session to go on", seconds=2 * LIMIT)
        log = self.ground.lab.place.log(LOGIN, "slurmctld").read_text(errors="replace")
        return self._ready_at() - completed(log, before["job_id"])

    def bare(self) -> float:
        """From before sbatch until sshd answers; the wait in the queue counts, as it does for the successor."""
        directory = f"{ROOM}/next-{next(self.numbers)}"
        took = self.ground.seconds_to_first_byte([f"{HERE}/bare_start.sh", directory, self.ground.image])
        self.ground.sh(f"scancel $(cat {directory}/job)")
        return took

    def _show(self) -> dict[str, Any]:
        view: dict[str, Any] = self.ground.berth(f"show {SESSION}")
        return view

    def _ready_after(self, before: dict[str, Any]) -> bool:
        view = self._show()
        if view["state"] in {"stopped", "failed"}:
            raise UnmeasurableError(f"the session has not gone on: {view['reason']}")
        return bool(view["state"] == "ready" and view["job_id"] != before["job_id"])

    def _ready_at(self) -> float:
        events = self.ground.berth(f"events {SESSION}")["events"]
        return float(next(event["at"] for event in reversed(events) if event["action"] == "ready"))


def measure(ground: Ground, runs: int) -> Result:
    ground.sh(f"berth start {SESSION} --profile {PROFILE} --mem=1G --time=1 && berth set {SESSION} --continue always")
    try:
        going = Continue(ground)
        seconds = in_turns({"ours": going.ours, "peer": going.bare}, runs, name=NAME, unit="s")
    finally:
        ground.sh(f"berth stop {SESSION} && berth delete --yes {SESSION}", seconds=120)
    return result(NAME, seconds["ours"], seconds["peer"], "s", TARGET)
