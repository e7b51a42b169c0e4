"""The report of `berth sbatch --env dev --json`: what a CI server needs to know of a job in an environment."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from broker.schema.environments import EnvironmentView

SCONTROL_TIMEOUT_S = 30.0
_OUTPUT = re.compile(r"^ *StdOut=(?P<path>/.*)$", re.MULTILINE)
"""A line of `scontrol show job`, which has the path with all patterns such as %j replaced."""


class JobReport:
    """Collects the report of one job."""

    def __init__(self, environment: EnvironmentView) -> None:
        self._environment = environment
        self._job_id: int | None = None
        self._log = ""

    def note(self, job_id: int) -> None:
        """Record the job's id, and ask Slurm for the path of its output while it knows the job."""
        self._job_id = job_id
        self._log = _find_log(job_id)

    def result(self, exit_code: int | None) -> dict[str, Any]:
        """Return the report. `exit_code` is None if nothing has waited for the job's end."""
        environment = self._environment
        return {
            "job_id": self._job_id,
            "exit_code": exit_code,
            "log": self._log or None,
            "environment": {
                "id": environment.id,
                "of": environment.of,
                "snapshot": environment.snapshot,
                "profile": environment.profile,
                "version": environment.version,
                "digest": environment.digest,
                "layers": None if environment.layers is None else environment.layers.model_dump(),
            },
        }


def _find_log(job_id: int) -> str:
    """Return the path of the job's output; empty if Slurm does not say it, as for a job array."""
    command = ["scontrol", "show", "job", str(job_id)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SCONTROL_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = _OUTPUT.findall(done.stdout)
    return found[0] if len(found) == 1 else ""
