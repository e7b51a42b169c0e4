"""The content of run/job.env, with which a session's job starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.format import format_time
from broker.schema.states import NOT_READY

if TYPE_CHECKING:
    from broker.controller.registry.models import JobRow, Session

LOCK_WAIT_S = 300
"""Seconds that a job waits for its predecessor to release the volumes. If the predecessor's node is unreachable, slurmd
must return there and end it, or the file server must revoke its lock (NFS: after a lease of 90 s)."""

BESIDE_LOCK_WAIT_S = 3600
"""The same for a job that may run beside its predecessor, which first completes a copy of the running session:
COPY_TIMEOUT_S in broker/volumes/live_snapshot.py."""


def before(jobs: list[JobRow]) -> str:
    """Return the login notice about the end of the session's last job; empty if that end needs no explanation."""
    ended = [job for job in jobs if job.job_id is not None and job.ended_at is not None]
    last = max(ended, key=lambda job: job.submission, default=None)
    if last is None or last.ended_at is None or not last.reason:
        return ""
    what = "".join(char for char in last.reason.partition(";")[0] if char.isprintable())
    who = "" if last.outcome == NOT_READY else f"job {last.job_id} ended "
    return f"{who}{format_time(last.ended_at, 0)}: {what}"


def job_env(session: Session, number: int, binds: list[str], offset: int, before: str = "") -> str:
    """Return the content of run/job.env for the job with that number: see docs/reference/session-job.md."""
    policy, job = session.policy, session.job_of(number)
    lock_wait = BESIDE_LOCK_WAIT_S if job is not None and job.beside else LOCK_WAIT_S
    values = {
        "BERTH_SESSION_ID": session.id,
        "BERTH_SESSION_NAME": session.name,
        "BERTH_OWNER": session.owner,
        "BERTH_SUBMISSION": str(number),
        "BERTH_IMAGE": session.image_path,
        "BERTH_IMAGE_SIZE": str(session.image_size),
        "BERTH_IMAGE_OFFSET": str(offset),
        "BERTH_BINDS": ",".join(binds),
        "BERTH_PROFILE": session.profile,
        "BERTH_PROFILE_VERSION": session.version,
        "BERTH_HOME": policy.home,
        "BERTH_SYSTEM": policy.system,
        "BERTH_KEEP": ",".join(_absolute_path(path, session.owner) for path in policy.keep),
        "BERTH_FRESH": ",".join(_absolute_path(path, session.owner) for path in policy.fresh),
        "BERTH_LOCK_WAIT": str(lock_wait),
        "BERTH_BEFORE": before,
    }
    if session.root:
        values["BERTH_ROOT"] = "yes"
    return "".join(f"{name}={value}\n" for name, value in values.items())


def _absolute_path(path: str, owner: str) -> str:
    return f"/home/{owner}/{path[2:]}" if path.startswith("~/") else path


def tmp_directories(paths: list[str]) -> str:
    """Return the line of run/job.env with the node's directories for /tmp."""
    return f"BERTH_TMP_DIRECTORIES={','.join(paths)}\n"
