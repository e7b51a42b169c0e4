"""Parse the Slurm comment of a session's job, which holds the endpoint record.

MUNGE ensures that only the job's owner can write the comment. It is `berth:<session id>:<submission>` from the
submission on. Once sshd listens, `:<restarts>:<node>:<port>:<fingerprint>` follows. While one of the two is known,
`:<idle since>:<GPU idle since>` follows, in seconds since the epoch. In a job that waits because its last run did not
become ready, `:<restarts>:not-ready` follows the submission; in a job that waits for its predecessor to release the
volumes, `:<restarts>:waits`. If the site shows names, a space and the session's name follow, for people only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.names import NAME_PATTERN
from broker.schema.sessions import Endpoint

if TYPE_CHECKING:
    from slurm.scheduler import Job

JOB_PREFIX = "berth-"

_COMMENT = re.compile(
    r"berth:(?P<session>[0-9a-hjkmnp-tv-z]{26}):(?P<submission>\d{1,9})"
    r"(?::(?P<restarts>\d{1,9}):(?P<node>[A-Za-z0-9][A-Za-z0-9.-]{0,252}):(?P<port>\d{1,5}):(?P<fingerprint>SHA256:[A-Za-z0-9+/]{43})"
    r"(?::(?P<idle>\d{0,12}):(?P<gpu_idle>\d{0,12}))?"
    r"|:(?P<other_restarts>\d{1,9}):(?P<word>not-ready|waits))?"
    rf"(?: {NAME_PATTERN[1:-1]})?"
)


@dataclass(frozen=True, slots=True)
class Announcement:
    """A parsed job comment. `endpoint` is set once the job's sshd listens, `restarts` with the job's first report."""

    session_id: str
    submission: int
    restarts: int | None = None
    endpoint: Endpoint | None = None
    idle_since: float | None = None
    gpu_idle_since: float | None = None
    not_ready: bool = False
    """Whether the job waits because its last run did not become ready."""


def read(job: Job) -> Announcement | None:
    """Parse the comment of `job`; None unless it is well formed and names the same session as the job's name."""
    match = _COMMENT.fullmatch(job.comment)
    if match is None or job.name != JOB_PREFIX + match["session"]:
        return None
    submission = int(match["submission"])
    if match["word"] is not None:
        not_ready = match["word"] == "not-ready"
        return Announcement(match["session"], submission, int(match["other_restarts"]), not_ready=not_ready)
    if match["port"] is None or not 1 <= int(match["port"]) <= 65535:
        return Announcement(match["session"], submission)
    endpoint = Endpoint(node=match["node"], port=int(match["port"]), fingerprint=match["fingerprint"])
    idle_since, gpu_idle_since = (float(match[name]) if match[name] else None for name in ("idle", "gpu_idle"))
    return Announcement(match["session"], submission, int(match["restarts"]), endpoint, idle_since, gpu_idle_since)


def matching_announcement(job: Job, submission: int, *fingerprints: str) -> Announcement | None:
    """Return the endpoint record if it belongs to the present run of the session, else None.

    The job must run, submission, restart count and node must match, and the host key must be one of `fingerprints`. An
    earlier run of a requeued or held job may have left its record in the comment.
    """
    announcement = _of_this_run(job, submission)
    return (
        announcement
        if announcement is not None and announcement.endpoint and announcement.endpoint.fingerprint in fingerprints
        else None
    )


def can_take_over(job: Job, submission: int) -> bool:
    """Whether the job runs and has passed its checks: it waits for the volumes, or has them already."""
    announcement = read(job)
    return (
        job.state.runs
        and announcement is not None
        and (announcement.submission, announcement.restarts) == (submission, job.restarts)
    )


def other_host_key(job: Job, submission: int, *fingerprints: str) -> str:
    """Return the fingerprint that the present run has announced, if it is not one of `fingerprints`; else empty."""
    announcement = _of_this_run(job, submission)
    other = announcement is not None and announcement.endpoint and announcement.endpoint.fingerprint not in fingerprints
    return announcement.endpoint.fingerprint if announcement is not None and announcement.endpoint and other else ""


def _of_this_run(job: Job, submission: int) -> Announcement | None:
    announcement = read(job)
    if announcement is None or announcement.endpoint is None or not job.state.runs:
        return None
    if announcement.submission != submission:
        return None
    return announcement if announcement.restarts == job.restarts and announcement.endpoint.node == job.node else None
