"""Match Slurm's jobs to sessions, and derive what the registry records, as pure functions."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from broker.controller.reconcile.interruption import NO_NODE, interruption_columns, node_columns, requeue_columns
from broker.controller.reconcile.job_comment import JOB_PREFIX, matching_announcement, other_host_key, read
from broker.controller.reconcile.job_takeover import (
    copied_sources,
    describe_lost_successor,
    has_lost_successor,
    reason_of_end,
    should_begin_takeover,
)
from broker.controller.reconcile.reversal import after_failed_start, has_failed_to_start
from broker.controller.reconcile.state import CANCELLED_OUTSIDE, Outcome, cancellation_reason, next_state
from broker.controller.reconcile.succession import (
    CONTINUABLE_STATES,
    can_continue_after,
    continue_with_successor,
    has_reached_time_limit,
    is_same_run,
    next_submission,
    should_continue,
)
from broker.controller.reconcile.upgrading import takes_offer, upgrade_of_offer
from broker.controller.registry.manifest import CHANGING
from broker.controller.registry.registry import EventEntry, JobChange
from broker.schema.sessions import LIVE, MOVING, OTHER_HOST_KEY, SessionState
from broker.ssh.keys import PublicKey
from broker.text.status import describe_node_condition
from slurm.state import JobState

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from broker.controller.reconcile.job_comment import Announcement
    from broker.controller.registry.models import Session
    from broker.controller.registry.operation import Operation
    from broker.controller.registry.registry import RowChange, Transition
    from slurm.nodes import Node
    from slurm.scheduler import FinishedJob, Job

TIME_LIMIT_REACHED = "the job reached its time limit"

_UNKNOWN: Mapping[str, Node] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Matched:
    """Slurm's jobs, matched to sessions by id."""

    own: dict[str, Job] = field(default_factory=dict)
    """The job of each session, by the session's id."""
    successors: dict[str, Job] = field(default_factory=dict)
    """The successor of each session's job, by the session's id."""
    orphans: list[Job] = field(default_factory=list)
    """Live jobs that have a session's name and are neither its job nor its successor."""
    copied: set[str] = field(default_factory=set)
    """The ids of the sessions whose running jobs make copies for clones and environments."""


def match(
    sessions: Iterable[Session], jobs: Iterable[Job], changing: Iterable[Session] = (), copied: Iterable[str] = ()
) -> Matched:
    """Match jobs to sessions.

    A session's job has its name and owner, and the recorded id. While no id is recorded, the job's comment must have
    the session's present submission; the oldest such job counts, because a repeated sbatch only adds newer ones. What
    is left of a refused job does not count. The same rules hold for the successor. `changing`: the sessions without a
    job, some of which may be new clones; `copied`: the ids of sessions that are copied for requests without a row.
    """
    by_id = {session.id: session for session in sessions}
    matched = Matched(copied=copied_sources(changing) | {*copied})
    for job in sorted(jobs, key=lambda job: job.id):
        session = by_id.get(session_id(job))
        role = _role(session, job, matched) if session is not None and job.user == session.owner else None
        if role is not None:
            role[session_id(job)] = job
        elif not job.state.ended:
            matched.orphans.append(job)
    return matched


def _role(session: Session, job: Job, matched: Matched) -> dict[str, Job] | None:
    """Return the mapping of `matched` to which the job belongs; None if it is neither job nor successor."""
    if session.id not in matched.own and _is(job, session.job.job_id, session.submission):
        return matched.own
    if session.id not in matched.successors and _is_successor(session, job):
        return matched.successors
    return None


def session_id(job: Job) -> str:
    return job.name.removeprefix(JOB_PREFIX)


def _is(job: Job, recorded: int | None, submission: int) -> bool:
    if recorded is not None:
        return job.id == recorded
    announcement = read(job)
    return announcement is not None and announcement.submission == submission and not _was_refused(job)


def _was_refused(job: Job) -> bool:
    """Whether this is what slurmctld keeps, for MinJobAge, of a job that sbatch was refused: failed, without a node.

    It can be seen before the answer of sbatch, which has the reason, is recorded.
    """
    return job.state is JobState.FAILED and not job.node


def _is_successor(session: Session, job: Job) -> bool:
    counts = session.successor != 0 and session.state in CONTINUABLE_STATES
    return counts and _is(job, session.next_job_id, session.successor)


def is_newer(job: Job, session: Session) -> bool:
    """Whether the job's submission is newer than the registry, as after the restore of an old copy of it."""
    announcement = read(job)
    return announcement is not None and announcement.submission > session.submissions


def observation(
    session: Session, job: Job, successor: Job | None, now: float, nodes: Mapping[str, Node] = _UNKNOWN
) -> RowChange:
    """Return the change of `session` when Slurm shows its job, its successor if it has one, and nodes as these."""
    known = _known_keys(session)
    announcement = matching_announcement(job, session.submission, *known)
    outcome = next_state(session.state, job, None if announcement is None else announcement.endpoint)
    if outcome.state is SessionState.STARTING and known and (other := other_host_key(job, session.submission, *known)):
        outcome = replace(outcome, reason=f"{OTHER_HOST_KEY} ({other}): `berth stop {session.name}` and start it again")
    values: dict[str, Any] = {"state": outcome.state, "reason": outcome.reason, "held_job_id": None}
    columns: dict[str, Any] = {
        "job_id": job.id,
        "outcome": outcome.outcome,
        "missing_since": None,
        "submitted_at": session.job.submitted_at or job.submitted_at,
    }
    columns |= _of_run(session, job, announcement, now)
    if outcome.endpoint is not None:
        columns |= {"port": outcome.endpoint.port, "fingerprint": outcome.endpoint.fingerprint}
    columns |= node_columns(session, job, nodes) | requeue_columns(session, job, nodes, now)
    if has_failed_to_start(session, job):
        return after_failed_start(session, values, columns, now)
    if job.state.ended:
        columns |= {"ended_at": job.ends_at or now, "attempted_at": None}
        return without_job(session, values, columns, successor, now)
    if job.state.waits and successor is not None and not successor.state.ended and session.job.fingerprint:
        # Requeued while a successor waits: the successor continues the session, and this job becomes an orphan.
        reason = columns.get("interruption", session.job.interruption)
        return _succession(session, {"outcome": "REQUEUED", "reason": reason, "ended_at": now}, successor)
    entry = _entry(session, values, columns)
    if has_lost_successor(session, job, successor, now):
        values["successor"], columns["cancelled_at"] = 0, None
        if session.resizing:  # the present job still gets a successor at its time limit
            columns["successor_at"] = None
        return JobChange(values, entry or describe_lost_successor(session, successor), job=columns)
    waiting = {} if successor is None else {"job_id": successor.id}
    return JobChange(values, entry, job=columns, next_job=waiting)


def _of_run(session: Session, job: Job, announcement: Announcement | None, now: float) -> dict[str, Any]:
    """Return the columns that depend on whether the job runs or waits."""
    columns: dict[str, Any] = {}
    if job.state.runs:
        columns |= {"node": job.node, "started_at": _start_of_run(session, job)}
    if job.state is not JobState.COMPLETING:  # in which a requeued job already has the count of its next run
        columns |= {"restarts": job.restarts}
    if job.state.runs and job.state is not JobState.COMPLETING:  # which has its end in `ends_at`, not its limit
        columns |= {"ends_at": job.ends_at}
    if session.held_job_id == job.id:  # the answer of the request to begin in it was lost
        columns |= {"began_at": now}
    if job.state.waits:  # a requeued job has left its node
        columns |= {"node": "", "started_at": None, "ends_at": None}
    if job.state.runs:
        columns |= {
            "idle_since": announcement and announcement.idle_since,
            "gpu_idle_since": announcement and announcement.gpu_idle_since,
        }
    return columns


def _start_of_run(session: Session, job: Job) -> float | None:
    """Return the start of the session's run: later than the job's if an earlier run of the session was in it."""
    began_at = session.job.began_at
    return job.started_at if began_at is None or job.started_at is None else max(began_at, job.started_at)


def _known_keys(session: Session) -> list[str]:
    """Return the fingerprints of the host keys that the session's job may announce.

    A ready session's job keeps the key with which it was accepted, even if its owner has replaced the file since then
    and the successor has a certificate for the new key.
    """
    known = [_fingerprint(session.host_key)] if session.host_key else []
    believed = session.job.fingerprint if session.state is SessionState.READY else ""
    return [*known, believed] if believed else known


def change_at_end(session: Session, end: Outcome, successor: Job | None, now: float) -> RowChange:
    """Return the change of a session whose job is missing from Slurm's answer and ended with the outcome `end`."""
    values = {"state": end.state, "reason": end.reason}
    columns = {
        "outcome": end.outcome,
        "ended_at": session.job.ended_at or end.at or now,
        "missing_since": None,
        "attempted_at": None,
    }
    columns |= NO_NODE
    return without_job(session, values, columns, successor, now)


def without_job(
    session: Session,
    values: dict[str, Any],
    columns: dict[str, Any],
    successor: Job | None,
    now: float,
    *,
    operation: Operation | None = None,
) -> RowChange:
    """Return the change of a session whose job has ended as in `columns`.

    A pending operation begins, which may be a changed one, another job continues the session, or the session ends.
    """
    successor = None if successor is None or successor.state.ended else successor
    on = can_continue_after(session, columns["outcome"], columns["ended_at"], waits=successor is not None)
    on = on and (successor is not None or session.takeover_begun or should_continue(session, now))
    reason = values["reason"]
    if on and session.takeover_begun:
        reason = reason_of_end(session, successor)
    elif on:  # without the remedy
        reason = reason.partition(";")[0]
    if session.state is SessionState.STOPPING and session.stop_reason:
        reason = session.stop_reason
    if reason and has_reached_time_limit(session, columns["outcome"], columns["ended_at"]):
        reason = TIME_LIMIT_REACHED if on else f"{TIME_LIMIT_REACHED}; `berth start {session.name}` starts it again"
    values |= {"reason": reason, "root": False, "held_job_id": None}
    columns |= {"reason": reason}
    operation = operation or session.pending
    if operation is not None:
        # The session gets its own state back if the operation fails.
        operation = operation.replace(state=values["state"], why=reason, start=operation.start or on)
        values |= {"state": SessionState.CHANGING, "reason": CHANGING, "operation": operation.record()}
    elif on and successor is None and takes_offer(session):
        operation = upgrade_of_offer(session, state=values["state"], why=reason)
        values |= {"state": SessionState.CHANGING, "reason": CHANGING, "operation": operation.record()}
    elif on:
        return _succession(session, columns, successor)
    return JobChange(values, _entry(session, values, columns), job=columns)


def _succession(session: Session, former: Mapping[str, Any], successor: Job | None) -> JobChange:
    because = " ".join(part for part in (former["outcome"], former["reason"]) if part)
    if successor is None:
        (values, job), then = next_submission(session), "requesting another one"
    else:
        (values, job), then = (
            continue_with_successor(session, successor.id),
            f"job {successor.id} continues the session",
        )
    job |= interruption_columns(former)
    entry = EventEntry("berth", "continue", f"job {session.job.job_id} has ended ({because}); {then}")
    return JobChange(values, entry, job=job, former=former)


@functools.lru_cache(maxsize=4096)
def _fingerprint(host_key: str) -> str:
    return PublicKey.parse(host_key).fingerprint


def observe(
    observed: Session, job: Job, successor: Job | None, asked_at: float, nodes: Mapping[str, Node] = _UNKNOWN
) -> Transition:
    """Record what Slurm's answers to the queries of that time show."""

    def decide(current: Session) -> RowChange | None:
        if not is_same_run(observed, current) or current.job.job_id not in {None, job.id}:
            return None
        same = successor if current.successor == observed.successor else None
        return observation(current, job, same, asked_at, nodes)

    return decide


def record_end(observed: Session, outcome: Outcome, successor: Job | None, asked_at: float) -> Transition:
    """Record the end of a job that is missing from Slurm's answer."""

    def decide(current: Session) -> RowChange | None:
        if not is_same_run(observed, current) or current.job.job_id != observed.job.job_id:
            return None
        return change_at_end(current, outcome, successor if current.successor == observed.successor else None, asked_at)

    return decide


def mark(observed: Session, values: Mapping[str, Any], entry: EventEntry | None = None) -> Transition:
    """Set columns of the job that the session had when it was observed."""
    return lambda current: JobChange({}, entry, job=values) if is_same_run(observed, current) else None


def record_canceller(observed: Session, user: str) -> Transition:
    """Record the user who cancelled the session's job which stopped the session."""

    def decide(current: Session) -> RowChange | None:
        if current.submission != observed.submission or current.reason != CANCELLED_OUTSIDE:
            return None
        reason = {"reason": cancellation_reason(user)}
        return JobChange(reason, None, job=reason)

    return decide


def _entry(session: Session, values: Mapping[str, Any], columns: Mapping[str, Any]) -> EventEntry | None:
    state: SessionState = values["state"]
    if "interruption" in columns and state in LIVE:
        return EventEntry("berth", "requeued", f"job {columns['job_id']}: {columns['interruption']}")
    node = _node_text(session, columns) if state in {SessionState.STARTING, SessionState.READY} else ""
    if state is session.state:
        return EventEntry("berth", "node", node) if node else None
    text = " ".join(part for part in (columns["outcome"], values["reason"]) if part)
    return EventEntry("berth", state.value, "; ".join(part for part in (text, node) if part))


def _node_text(session: Session, columns: Mapping[str, Any]) -> str:
    """Describe the condition of the running job's node if it has changed; else return an empty text."""
    before, name = session.job.node_condition, columns.get("node", session.job.node)
    condition = columns.get("node_condition", before)
    if condition == before or (not condition and name != session.job.node):
        return ""
    ends_at = columns.get("ends_at", session.job.ends_at)
    return describe_node_condition(name, condition, columns["node_reason"], ends_at)


def has_to_end(session: Session, found: Matched) -> bool:
    """Whether the session's job is to end, or its run: for a stop, or for a successor with other resources."""
    successor = found.successors.get(session.id)
    takes_over = successor is not None and should_begin_takeover(session, successor, copied=session.id in found.copied)
    return session.id in found.own and (takes_over or session.state is SessionState.STOPPING)


def record_of(session: Session, records: Mapping[int, FinishedJob] | None) -> FinishedJob | None:
    """Return the accounting record of the session's job. Name and user must match, because Slurm reuses job ids."""
    record = (records or {}).get(session.job.job_id or 0)
    matches = record is not None and record.name == JOB_PREFIX + session.id and record.user == session.owner
    return record if matches else None


def any_moves(sessions: Iterable[Session]) -> bool:
    """Whether a session is in a transitional state, has a pending operation, or moves to a job with other resources.

    Data that could not be removed does not count: the next attempt is much later.
    """
    moving = MOVING - {SessionState.DELETING}
    return any(session.state in moving or session.pending is not None or session.resizing for session in sessions)
