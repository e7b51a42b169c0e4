"""`start`: from the command to the first byte of a shell, without the wait in the queue; against the same by hand."""

from __future__ import annotations

import itertools
import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.bench.ground import HERE, PROFILE, ROOM, SSH_CONFIG, Ground
from tests.bench.harness import in_turns
from tests.bench.report import Result, Target, result
from tests.bench.waiting import wait_of
from tests.lab_cluster import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "start"
TARGET = Target(1.25)
SHELL = "echo ready"
"""The command for the shell: the first byte of its output stops the clock."""


@dataclass(frozen=True, slots=True)
class Start:
    """Every run is a session, and a directory, of its own; what it left is cleared away off the clock."""

    ground: Ground
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def ours(self) -> float:
        """`berth start`, then the ssh command that it prints."""
        name = f"start-{next(self.numbers)}"
        command = (
            f"berth start {name} --profile {PROFILE} --mem=1G >/dev/null && "
            f"exec ssh -F {SSH_CONFIG} {name}.berth {shlex.quote(SHELL)}"
        )
        took = self.ground.seconds_to_first_byte(["bash", "-c", command])
        job_id = int(self.ground.berth(f"show {name}")["job_id"])
        self.ground.sh(f"berth stop {name} && berth delete --yes {name}")
        return took - self._wait_of(job_id)

    def bare(self) -> float:
        """sbatch, apptainer exec and sshd, by a script that a careful user would write."""
        directory = f"{ROOM}/bare-{next(self.numbers)}"
        took = self.ground.seconds_to_first_byte([f"{HERE}/bare_start.sh", directory, self.ground.image, SHELL])
        job_id = int(self.ground.sh(f"cat {directory}/job"))
        self.ground.sh(f"scancel {job_id}")
        return took - self._wait_of(job_id)

    def _wait_of(self, job_id: int) -> float:
        """The job's wait, once it has ended, so that the next run finds the nodes as this one did."""
        still = f"squeue -h -j {job_id} -o %T | grep -q ."
        wait_for(lambda: self.ground.lab.run(["sh", "-c", still]).returncode != 0, what=f"the end of job {job_id}")
        return wait_of(self.ground.lab, job_id)


def measure(ground: Ground, runs: int) -> Result:
    start = Start(ground)
    seconds = in_turns({"ours": start.ours, "peer": start.bare}, runs, name=NAME, unit="s")
    return result(NAME, seconds["ours"], seconds["peer"], "s", TARGET)
