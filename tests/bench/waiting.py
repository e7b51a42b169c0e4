"""The time that a job waited in the queue, from the daemons' logs: accounting knows whole seconds only."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from slurm.lab.spec import COMPUTE, LOGIN
from tests.bench.report import UnmeasurableError

if TYPE_CHECKING:
    from tests.lab_cluster import Lab


def wait_of(lab: Lab, job_id: int) -> float:
    """Seconds between slurmctld's taking the job and a slurmd's launching its batch script."""
    controller = lab.place.log(LOGIN, "slurmctld").read_text(errors="replace")
    nodes = "".join(lab.place.log(node, "slurmd").read_text(errors="replace") for node in COMPUTE)
    return launched(nodes, job_id) - submitted(controller, job_id)


def submitted(slurmctld_log: str, job_id: int) -> float:
    """Return the time at which slurmctld took the job, in seconds since the epoch, to the millisecond."""
    return _stamp(slurmctld_log, rf"_slurm_rpc_submit_batch_job: JobId={job_id}\b")


def launched(slurmd_log: str, job_id: int) -> float:
    """Return the time at which slurmd launched the job's batch script."""
    return _stamp(slurmd_log, rf"Launching batch JobId={job_id}\b")


def completed(slurmctld_log: str, job_id: int) -> float:
    """Return the time at which slurmctld learned that the job's batch script had ended."""
    return _stamp(slurmctld_log, rf"_job_complete: JobId={job_id} ")


def _stamp(log: str, line: str) -> float:
    found = re.search(rf"^\[(\S+)\] {line}", log, re.MULTILINE)
    if found is None:
        raise UnmeasurableError(f"Slurm's logs do not have the line {line!r}")
    return datetime.fromisoformat(found[1]).replace(tzinfo=UTC).timestamp()
