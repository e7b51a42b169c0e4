"""A session in words: one line for progress, a row for `berth list`, a page for `berth show`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from broker.cli.keeping import doing, last_operation, pending, policy, volumes
from broker.cli.output import clock, duration
from broker.schema import SessionState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.schema import SessionView

HEADINGS = ("NAME", "STATE", "PROFILE", "NODE/REASON", "JOB", "GPU", "TIME LEFT")

DELETED_HEADINGS = ("NAME", "PROFILE", "KEPT UNTIL", "SNAPSHOTS")

ENDED = frozenset({SessionState.STOPPED, SessionState.FAILED})
"""No job, data kept: what can be started or deleted."""

_WITH_JOB = frozenset({SessionState.SUBMITTING, SessionState.QUEUED, SessionState.STARTING, SessionState.READY})

_REASONS = {
    "BeginTime": "its start time has not come",
    "Dependency": "the session's former job is still ending",
    "Licenses": "waiting for a licence",
    "Priority": "others are before it",
    "QOSMaxJobsPerUserLimit": "you have as many jobs as your QOS allows",
    "ReqNodeNotAvail": "a node it needs is down or reserved",
    "Resources": "waiting for free resources",
}
"""Slurm's commonest reasons for waiting, in words; after "Job Reasons" of Slurm's manual."""


def state_line(view: SessionView, now: float | None = None) -> str:
    """Where the session is, such as `dev: queued: Resources (waiting for free resources), expected to start 12:30`."""
    now = time.time() if now is None else now
    return f"{view.name}: {_state(view, now)}{stale(view, now)}"


def stale(view: SessionView, now: float | None = None) -> str:
    """` (as of 12:03; Slurm does not answer)` while it does not; else nothing."""
    if view.stale_since is None:
        return ""
    return f" (as of {clock(view.stale_since, now)}; Slurm does not answer)"


def row(view: SessionView, now: float) -> tuple[str, ...]:
    """One line of `berth list`, under HEADINGS. A `?` after the state marks what may have changed since."""
    state = str(view.state) + ("?" if view.stale_since is not None else "")
    operation = pending(view)
    where = view.endpoint.node if view.endpoint else view.reason
    if view.root and view.endpoint:
        where += ", root mode"
    elif view.state is SessionState.CHANGING and operation:
        where = doing(operation.verb)
    job = "" if view.job_id is None else str(view.job_id)
    left = duration(view.ends_at - now) if view.endpoint and view.ends_at is not None else ""
    return (view.name, state, f"{view.profile}@{view.version}", where, job, gpu(view.options), left)


def deleted_row(view: SessionView, now: float) -> tuple[str, ...]:
    """One line of `berth list --deleted`, under DELETED_HEADINGS."""
    until = clock(view.kept_until, now) if view.kept_until is not None else ""
    return (view.name, f"{view.profile}@{view.version}", until, str(view.volumes.snapshots if view.volumes else 0))


def has_job(view: SessionView) -> bool:
    """Whether the session has a job, or may have one, that nobody has told to end."""
    return view.state in _WITH_JOB


def gpu(options: list[str]) -> str:
    """What the session asks of GPUs, from its sbatch options: `gpu:intel:1`, `shard:1`."""
    wanted = []
    for option in options:
        name, _, value = option.partition("=")
        if name == "--gres":
            wanted += value.removeprefix("gres/").split(",")
        elif name.startswith("--gpus"):
            wanted.append(f"{name.removeprefix('--')}={value}")
    return ",".join(wanted)


def page(view: SessionView, domain: str, now: float) -> Iterator[tuple[str, str]]:
    """Everything about a session, as titled lines; what does not apply is left out."""
    yield "state", _state(view, now)
    if view.stale_since is not None:
        yield "stale", f"as of {clock(view.stale_since, now)}; Slurm does not answer"
    yield "profile", f"{view.profile}@{view.version} ({view.digest})"
    yield from _remarks(view, now)
    if view.options:
        yield "options", " ".join(view.options)
    if view.job_id is not None:
        yield "job", f"{view.job_id} (generation {view.generation})"
    if times := _times(view, now):
        yield "times", times
    if view.state in ENDED and view.outcome:
        ended = f" {clock(view.ended_at, now)}" if view.ended_at is not None else ""
        yield "last job", f"{view.outcome}{ended}"
    if view.endpoint:
        yield "endpoint", f"{view.endpoint.node} port {view.endpoint.port}"
    yield "kept", policy(view)
    yield from volumes(view)
    yield "ssh", f"ssh {view.name}.{domain}"
    if view.host_key_fingerprint:
        yield "host key", view.host_key_fingerprint
    yield "created", clock(view.created_at, now)
    yield "id", view.id


def _remarks(view: SessionView, now: float) -> Iterator[tuple[str, str]]:
    """What is out of the ordinary with the session."""
    if operation := last_operation(view, now):
        yield "operation", operation
    if view.root:
        yield "root mode", f"for `berth exec --root`; `berth stop {view.name}` ends it, and nothing of it is kept"
    if view.kept_until is not None:
        yield "deleted", f"`berth restore {view.name}` brings it back until {clock(view.kept_until, now)}"


def _state(view: SessionView, now: float) -> str:
    operation = pending(view)
    if operation is None:
        return _bare_state(view, now)
    if view.state is SessionState.CHANGING:
        return doing(operation.verb)
    then = "; then " if view.state is SessionState.STOPPING else "; "
    return _bare_state(view, now) + then + doing(operation.verb)


def _bare_state(view: SessionView, now: float) -> str:
    because = f": {_reason(view.reason)}" if view.reason else ""
    if view.state is SessionState.SUBMITTING:
        return f"submitting the job to Slurm{because}"
    if view.state is SessionState.QUEUED:
        expected = view.expected_start_at
        return f"queued{because}{_expected(expected, now) if expected is not None else ''}"
    if view.state is SessionState.STARTING:
        return view.reason or "starting"
    if view.state is SessionState.READY and view.endpoint:
        return f"ready on {view.endpoint.node}"
    return f"{view.state}{because}"


def _reason(reason: str) -> str:
    words = _REASONS.get(reason)
    return f"{reason} ({words})" if words else reason


def _expected(at: float, now: float) -> str:
    """Slurm's estimate; one that has passed means that Slurm will look again soon."""
    return f", expected to start {clock(at, now)} (in {duration(at - now)})" if at > now else ", expected to start now"


def _times(view: SessionView, now: float) -> str:
    parts = []
    if view.submitted_at is not None:
        parts.append(f"submitted {clock(view.submitted_at, now)}")
    if view.started_at is not None:
        parts.append(f"started {clock(view.started_at, now)}")
    if view.ends_at is not None and view.state not in ENDED:
        parts.append(f"ends {clock(view.ends_at, now)} (in {duration(view.ends_at - now)})")
    return ", ".join(parts)
