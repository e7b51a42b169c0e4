"""Parse the Slurm comment of a session's job, in which the job announces its endpoint.

MUNGE makes sure that only the job's owner can write it. The comment is `berth:<session id>:<submission>` from
submission on, with `:<restarts>:<node>:<port>:<fingerprint>` once sshd listens, and then with
`:<since when nothing uses the session>:<the same of its GPU>` for as long as one of the two is known.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.schema.sessions import Endpoint

if TYPE_CHECKING:
    from slurm.scheduler import Job

JOB_PREFIX = "berth-"

_COMMENT = re.compile(
    r"berth:(?P<session>[0-9a-hjkmnp-tv-z]{26}):(?P<submission>\d{1,9})"
    r"(?::(?P<restarts>\d{1,9}):(?P<node>[A-Za-z0-9][A-Za-z0-9.-]{0,252}):(?P<port>\d{1,5}):(?P<fingerprint>SHA256:[A-Za-z0-9+/]{43})"
    r"(?::(?P<idle>\d{0,12}):(?P<gpu_idle>\d{0,12}))?)?"
)


@dataclass(frozen=True, slots=True)
class Announcement:
    """A parsed job comment. `restarts` and `endpoint` are there once the job listens."""

    session_id: str
    submission: int
    restarts: int | None = None
    endpoint: Endpoint | None = None
    idle_since: float | None = None
    gpu_idle_since: float | None = None


def read(job: Job) -> Announcement | None:
    """What `job` says of itself; None unless its comment is well formed and about the session in its name."""
    match = _COMMENT.fullmatch(job.comment)
    if match is None or job.name != JOB_PREFIX + match["session"]:
        return None
    submission = int(match["submission"])
    if match["port"] is None or not 1 <= int(match["port"]) <= 65535:
        return Announcement(match["session"], submission)
    endpoint = Endpoint(node=match["node"], port=int(match["port"]), fingerprint=match["fingerprint"])
    idle_since, gpu_idle_since = (float(match[name]) if match[name] else None for name in ("idle", "gpu_idle"))
    return Announcement(match["session"], submission, int(match["restarts"]), endpoint, idle_since, gpu_idle_since)


def announced(job: Job, *fingerprints: str) -> Announcement | None:
    """Return the job's words about its endpoint and its use, if they are true of this very run.

    That is a running job with the same restart count and node, and with one of the session's own host keys. None
    otherwise, such as for words that an earlier run of a requeued job left in the comment.
    """
    said = _of_this_run(job)
    return said if said is not None and said.endpoint and said.endpoint.fingerprint in fingerprints else None


def other_host_key(job: Job, *fingerprints: str) -> str:
    """Return the fingerprint that this run of the job has announced, if it is none of these; empty otherwise."""
    said = _of_this_run(job)
    other = said is not None and said.endpoint and said.endpoint.fingerprint not in fingerprints
    return said.endpoint.fingerprint if said is not None and said.endpoint and other else ""


def _of_this_run(job: Job) -> Announcement | None:
    said = read(job)
    if said is None or said.endpoint is None or not job.state.runs:
        return None
    return said if said.restarts == job.restarts and said.endpoint.node == job.node else None
