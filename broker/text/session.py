"""A session as text: one line for progress, a row for `berth list`, a page for `berth show`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from broker.format import format_duration, format_time
from broker.schema.states import SessionState
from broker.text.job import describe_outcome
from broker.text.status import (
    describe_continuation,
    describe_idle,
    describe_idle_policy,
    describe_interruption,
    describe_operation,
    describe_state,
    pending_operation,
)
from broker.text.upgrade import offer_mark, upgrade_rows
from broker.text.volume import describe_last_operation, describe_persistence, volume_rows
from slurm.gres import requested_gres

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from broker.schema.sessions import SessionView

HEADINGS = ("NAME", "STATE", "PROFILE", "NODE/REASON", "JOB", "GPU", "TIME LEFT")
WIDE_HEADINGS = ("SINCE", "OPTIONS", "ID")
_PROFILE = HEADINGS.index("PROFILE")
SHRINKING_COLUMN = HEADINGS.index("NODE/REASON")
"""The column of `berth list` that is shortened if the table does not fit the terminal."""

DELETED_HEADINGS = ("NAME", "PROFILE", "KEPT UNTIL", "SNAPSHOTS")

ENDED = frozenset({SessionState.STOPPED, SessionState.FAILED})
"""States without a job, in which the session can be started or deleted."""

_WITH_JOB = frozenset({SessionState.SUBMITTING, SessionState.QUEUED, SessionState.STARTING, SessionState.READY})


def state_line(view: SessionView, now: float | None = None) -> str:
    """Return a line such as `dev: queued: Resources (waiting for free resources), expected to start 12:30`."""
    now = time.time() if now is None else now
    return f"{view.name}: {describe_state(view, now)}{stale_note(view, now)}"


def stale_note(view: SessionView, now: float | None = None) -> str:
    """Return ` (as of 12:03; Slurm does not answer)` while Slurm does not answer; else an empty text."""
    if view.stale_since is None:
        return ""
    return f" (as of {format_time(view.stale_since, now)}; Slurm does not answer)"


def session_row(view: SessionView, now: float) -> tuple[str, ...]:
    """Return a row of `berth list`, under HEADINGS. A `?` after the state means that the state may be out of date."""
    state = str(view.state) + ("?" if view.stale_since is not None else "")
    operation = pending_operation(view)
    where = view.endpoint.node if view.endpoint else view.reason
    if view.root and view.endpoint:
        where += ", root mode"
    elif idle := describe_idle(view, now):
        where += f", {idle}"
    elif view.state is SessionState.CHANGING and operation:
        where = describe_operation(operation.verb)
    elif view.state is SessionState.QUEUED and view.interruption:
        where = f"{view.interruption}; {where}" if where else view.interruption
    if view.endpoint and view.node_condition:
        where += f", node {view.node_condition}"
    job = "" if view.job_id is None else str(view.job_id)
    left = format_duration(view.ends_at - now) if view.endpoint and view.ends_at is not None else ""
    if view.next_job_id is not None:
        left += f", then job {view.next_job_id}"
    return (
        view.name,
        state,
        f"{view.profile}@{view.version}{offer_mark(view)}",
        where,
        job,
        describe_gpu(view.options),
        left,
    )


def session_table(
    views: Sequence[SessionView], now: float, *, wide: bool = False, stores: Sequence[str] = ()
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return the headings and rows of `berth list`; the wide ones tell profiles in the site's `stores` from others."""
    stops = any(_describe_stop(view, now) for view in views)
    headings = HEADINGS + (("STOPS",) if stops else ()) + (WIDE_HEADINGS if wide else ())
    rows = []
    for view in views:
        row = session_row(view, now) + ((_describe_stop(view, now),) if stops else ())
        if wide:
            row = (*row[:_PROFILE], profile_with_owner(view, stores) + offer_mark(view), *row[_PROFILE + 1 :])
            row += (format_time(view.created_at, now), " ".join(view.options), view.id)
        rows.append(row)
    return headings, rows


def profile_with_owner(view: SessionView, stores: Sequence[str]) -> str:
    """Return `site/base@1` or `own/mine@1`, by the site's stores; `base@1` without stores, as in personal mode."""
    owner = profile_owner(view, stores)
    version = f"{view.profile}@{view.version}"
    return f"{owner}/{version}" if owner else version


def profile_owner(view: SessionView, stores: Sequence[str]) -> str:
    """Return `site` or `own`, by the site's stores; empty without stores, as in personal mode."""
    if not stores or not view.image:
        return ""
    store = view.image.rsplit("/", 3)[0]  # of <store>/<name>/<version>/image.sif
    return "site" if store in stores else "own"


def _describe_stop(view: SessionView, now: float) -> str:
    """Describe the scheduled stop in a few characters; empty if the session has no job or no stop time."""
    if view.stop_at is None or view.state not in _WITH_JOB:
        return ""
    return f"{'until' if view.stays else 'at'} {format_time(view.stop_at, now)}"


def deleted_row(view: SessionView, now: float) -> tuple[str, ...]:
    """Return a row of `berth list --deleted`, under DELETED_HEADINGS."""
    until = format_time(view.kept_until, now) if view.kept_until is not None else ""
    return (view.name, f"{view.profile}@{view.version}", until, str(view.volumes.snapshots if view.volumes else 0))


def has_job(view: SessionView) -> bool:
    """Whether the session has, or may have, a job that was not cancelled."""
    return view.state in _WITH_JOB


def _policies(view: SessionView, now: float) -> Iterator[tuple[str, str]]:
    if stops := describe_stop_time(view, now):
        yield "stop time", stops
    if view.continuation:
        used = f"; last used {format_duration(now - view.used_at)} ago" if view.used_at is not None else ""
        yield "job's end", describe_continuation(view.continuation) + used
    if idle := describe_idle(view, now):
        yield "usage", idle
    if view.idle:
        yield "idle stop", describe_idle_policy(view.idle)


def describe_stop_time(view: SessionView, now: float) -> str:
    """Describe the scheduled stop; empty if the session has no job or no stop time."""
    if view.stop_at is None or view.state not in _WITH_JOB:
        return ""
    until = " and continues until then" if view.stays else ""
    return f"will stop at {format_time(view.stop_at, now)} (in {format_duration(view.stop_at - now)}){until}"


def describe_gpu(options: list[str]) -> str:
    """Return the GPUs that sbatch options request, such as `gpu:intel:1` or `shard:1`."""
    return ",".join(requested_gres(options))


def session_page(view: SessionView, domain: str, now: float, stores: Sequence[str] = ()) -> Iterator[tuple[str, str]]:
    """Yield titles and texts of `berth show`: those that apply to the session, and that a guest of it may see."""
    yield "state", describe_state(view, now)
    if view.stale_since is not None:
        yield "stale", f"as of {format_time(view.stale_since, now)}; Slurm does not answer"
    if interruption := describe_interruption(view, now):
        yield "before", interruption
    yield "profile", f"{profile_with_owner(view, stores)} ({view.digest})"
    yield from upgrade_rows(view)
    yield from _remarks(view, now)
    if view.options:
        yield "options", " ".join(view.options)
    if view.job_id is not None:
        yield "job", f"{view.job_id} (run id {view.generation})"
    if times := _times(view, now):
        yield "times", times
    if view.state in ENDED and view.outcome:
        ended = f" {format_time(view.ended_at, now)}" if view.ended_at is not None else ""
        yield "last job", f"{describe_outcome(view.outcome)}{ended}"
    if view.endpoint:
        yield "address", f"{view.endpoint.node} port {view.endpoint.port}"
    yield from _policies(view, now)
    if view.connecting.start is not None or view.connecting.wait is not None:
        yield "connecting", describe_connect_policy(view)
    yield from _rows_of_the_owner(view, domain)
    yield "created", format_time(view.created_at, now)
    yield "id", view.id


def _rows_of_the_owner(view: SessionView, domain: str) -> Iterator[tuple[str, str]]:
    """Yield lines about files and logins, which a guest does not get."""
    if "." not in view.name:
        yield "kept", describe_persistence(view)
        yield from volume_rows(view)
        yield "ssh", f"ssh {view.name}.{domain}"
        if view.host_key_fingerprint:
            yield "host key", view.host_key_fingerprint


def describe_connect_policy(view: SessionView) -> str:
    """Describe how a connection to the session behaves while the session is not ready."""
    start = {True: "connecting starts it", False: "connecting does not start it", None: ""}[view.connecting.start]
    wait = "" if view.connecting.wait is None else f"connections wait for {format_duration(view.connecting.wait)}"
    return ", ".join(filter(None, (start, wait))) or "as the site configures it"


def _remarks(view: SessionView, now: float) -> Iterator[tuple[str, str]]:
    """Yield lines about unusual conditions of the session."""
    if operation := describe_last_operation(view, now):
        yield "operation", operation
    if view.root:
        yield "root mode", f"for commands as root; `berth stop {view.name}` ends it and discards its changes"
    if view.kept_until is not None:
        yield "deleted", f"`berth restore {view.name}` restores it until {format_time(view.kept_until, now)}"


def _times(view: SessionView, now: float) -> str:
    parts = []
    if view.submitted_at is not None:
        parts.append(f"submitted {format_time(view.submitted_at, now)}")
    if view.started_at is not None:
        parts.append(f"started {format_time(view.started_at, now)}")
    if view.ends_at is not None and view.state not in ENDED:
        parts.append(f"ends {format_time(view.ends_at, now)} (in {format_duration(view.ends_at - now)})")
    return ", ".join(parts)
