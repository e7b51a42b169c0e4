"""A session as text: one line for progress, a row for `berth list`, a page for `berth show`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from broker.cli.volume_text import last_operation, policy, volumes
from broker.format import clock, duration
from broker.schema.sessions import SessionState
from broker.status_text import continuation_words, doing, idle_time_words, idle_words, pending, state_words
from slurm.gres import requested_gres

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.schema.sessions import SessionView

HEADINGS = ("NAME", "STATE", "PROFILE", "NODE/REASON", "JOB", "GPU", "TIME LEFT")

DELETED_HEADINGS = ("NAME", "PROFILE", "KEPT UNTIL", "SNAPSHOTS")

ENDED = frozenset({SessionState.STOPPED, SessionState.FAILED})
"""No job, data kept: what can be started or deleted."""

_WITH_JOB = frozenset({SessionState.SUBMITTING, SessionState.QUEUED, SessionState.STARTING, SessionState.READY})


def state_line(view: SessionView, now: float | None = None) -> str:
    """Where the session is, such as `dev: queued: Resources (waiting for free resources), expected to start 12:30`."""
    now = time.time() if now is None else now
    return f"{view.name}: {state_words(view, now)}{stale(view, now)}"


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
    elif unused := idle_words(view, now):
        where += f", {unused}"
    elif view.state is SessionState.CHANGING and operation:
        where = doing(operation.verb)
    job = "" if view.job_id is None else str(view.job_id)
    left = duration(view.ends_at - now) if view.endpoint and view.ends_at is not None else ""
    if view.next_job_id is not None:
        left += f", then job {view.next_job_id}"
    return (view.name, state, f"{view.profile}@{view.version}", where, job, gpu(view.options), left)


def deleted_row(view: SessionView, now: float) -> tuple[str, ...]:
    """One line of `berth list --deleted`, under DELETED_HEADINGS."""
    until = clock(view.kept_until, now) if view.kept_until is not None else ""
    return (view.name, f"{view.profile}@{view.version}", until, str(view.volumes.snapshots if view.volumes else 0))


def has_job(view: SessionView) -> bool:
    """Whether the session has a job, or may have one, that nobody has told to end."""
    return view.state in _WITH_JOB


def _how_long(view: SessionView, now: float) -> Iterator[tuple[str, str]]:
    """When it is to end, and whether it outlives its job."""
    if stops := stop_time(view, now):
        yield "stops", f"it {stops}"
    if view.continuation:
        used = f"; it was used {duration(now - view.used_at)} ago" if view.used_at is not None else ""
        yield "goes on", continuation_words(view.continuation) + used
    if unused := idle_words(view, now):
        yield "idle", unused
    if view.idle:
        yield "when idle", f"it is {idle_time_words(view.idle)}"


def stop_time(view: SessionView, now: float) -> str:
    """When it is to be stopped, if it has a job and that was asked for."""
    if view.stop_at is None or view.state not in _WITH_JOB:
        return ""
    until = ", and goes on until then" if view.stays else ""
    return f"is stopped {clock(view.stop_at, now)} (in {duration(view.stop_at - now)}){until}"


def gpu(options: list[str]) -> str:
    """What the session asks of GPUs, from its sbatch options: `gpu:intel:1`, `shard:1`."""
    return ",".join(requested_gres(options))


def page(view: SessionView, domain: str, now: float) -> Iterator[tuple[str, str]]:
    """Everything about a session, as titled lines; what does not apply is left out."""
    yield "state", state_words(view, now)
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
    yield from _how_long(view, now)
    if view.connecting.model_dump(exclude_none=True):
        yield "connecting", connecting(view)
    yield "kept", policy(view)
    yield from volumes(view)
    yield "ssh", f"ssh {view.name}.{domain}"
    if view.host_key_fingerprint:
        yield "host key", view.host_key_fingerprint
    yield "created", clock(view.created_at, now)
    yield "id", view.id


def connecting(view: SessionView) -> str:
    """What connecting to it does when it is not ready."""
    start = {True: "connecting starts it", False: "connecting does not start it", None: ""}[view.connecting.start]
    wait = "" if view.connecting.wait is None else f"connections wait for {duration(view.connecting.wait)}"
    return ", ".join(each for each in (start, wait) if each) or "connecting does what it does at this site"


def _remarks(view: SessionView, now: float) -> Iterator[tuple[str, str]]:
    """What is out of the ordinary with the session."""
    if operation := last_operation(view, now):
        yield "operation", operation
    if view.root:
        yield "root mode", f"for `berth exec --root`; `berth stop {view.name}` ends it, and nothing of it is kept"
    if view.kept_until is not None:
        yield "deleted", f"`berth restore {view.name}` brings it back until {clock(view.kept_until, now)}"


def _times(view: SessionView, now: float) -> str:
    parts = []
    if view.submitted_at is not None:
        parts.append(f"submitted {clock(view.submitted_at, now)}")
    if view.started_at is not None:
        parts.append(f"started {clock(view.started_at, now)}")
    if view.ends_at is not None and view.state not in ENDED:
        parts.append(f"ends {clock(view.ends_at, now)} (in {duration(view.ends_at - now)})")
    return ", ".join(parts)
