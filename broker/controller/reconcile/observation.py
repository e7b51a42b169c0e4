"""Match Slurm's jobs to sessions, and derive what the registry records, as pure functions."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from broker.controller.reconcile.job_comment import JOB_PREFIX, announced, other_host_key, read
from broker.controller.reconcile.state import CANCELLED_OUTSIDE, Outcome, cancelled_by, next_state
from broker.controller.reconcile.succession import (
    CARRIED,
    goes_on,
    may_be_carried_on,
    next_submission,
    taken_over,
    time_was_up,
)
from broker.controller.registry.manifest import CHANGING
from broker.controller.registry.registry import EventEntry, JobChange
from broker.schema.sessions import LIVE, OTHER_HOST_KEY, SessionState
from broker.ssh.keys import PublicKey
from slurm.state import JobState

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from broker.controller.registry.models import Session
    from broker.controller.registry.registry import RowChange, Transition
    from slurm.scheduler import Job

TIME_WAS_UP = "the job's time was up"

FORGOTTEN_S = 360.0
"""Time after the request for a successor from which an answer of Slurm without its job means that the job has ended and
is forgotten. Slurm forgets a job MinJobAge after its end, by default 300 s (slurm.conf(5))."""


@dataclass(frozen=True, slots=True)
class Matched:
    """Slurm's jobs, matched to sessions by id."""

    own: dict[str, Job] = field(default_factory=dict)
    """The one that carries the session."""
    heirs: dict[str, Job] = field(default_factory=dict)
    """The one that is to carry it on."""
    strays: list[Job] = field(default_factory=list)
    """Live ones that carry a session's name and are neither."""


def match(sessions: Iterable[Session], jobs: Iterable[Job]) -> Matched:
    """Whose the jobs are.

    A session's own job has its name and owner, and the id that was recorded or, while none is, the session's
    present submission in its comment; of several the oldest, as a repeated sbatch can only have added younger ones.
    The same holds for its successor.
    """
    wanted = {session.id: session for session in sessions}
    found = Matched()
    for job in sorted(jobs, key=lambda job: job.id):
        session = wanted.get(session_id(job))
        its = _whose(session, job, found) if session is not None and job.user == session.owner else None
        if its is not None:
            its[session_id(job)] = job
        elif not job.state.ended:
            found.strays.append(job)
    return found


def _whose(session: Session, job: Job, found: Matched) -> dict[str, Job] | None:
    """Where the job belongs among those that were found for its session; None if nowhere."""
    if session.id not in found.own and _is(job, session.job.job_id, session.submission):
        return found.own
    if session.id not in found.heirs and _is_heir(session, job):
        return found.heirs
    return None


def session_id(job: Job) -> str:
    return job.name.removeprefix(JOB_PREFIX)


def _is(job: Job, recorded: int | None, submission: int) -> bool:
    if recorded is not None:
        return job.id == recorded
    said = read(job)
    return said is not None and said.submission == submission


def _is_heir(session: Session, job: Job) -> bool:
    counts = session.successor != 0 and session.state in CARRIED
    return counts and _is(job, session.next_job_id, session.successor)


def is_newer(job: Job, session: Session) -> bool:
    """Whether the job is of a submission that the registry does not know of: an old copy of it was put in place."""
    said = read(job)
    return said is not None and said.submission > session.submissions


def observation(session: Session, job: Job, heir: Job | None, now: float) -> RowChange:
    """What is recorded of `session` now that Slurm shows its job, and its successor if it has one, as these."""
    known = _known_keys(session)
    said = announced(job, *known)
    outcome = next_state(session.state, job, None if said is None else said.endpoint)
    if outcome.state is SessionState.STARTING and known and (other := other_host_key(job, *known)):
        outcome = replace(outcome, reason=f"{OTHER_HOST_KEY} ({other}): `berth stop {session.name}` and start it again")
    values: dict[str, Any] = {"state": outcome.state, "reason": outcome.reason}
    columns: dict[str, Any] = {
        "job_id": job.id,
        "outcome": outcome.outcome,
        "missing_since": None,
        "submitted_at": session.job.submitted_at or job.submitted_at,
        "expected_start_at": job.started_at if job.state.waits else None,
        "ahead": job.ahead if job.state.waits else None,
    }
    if job.state.runs:
        columns |= {"node": job.node, "started_at": job.started_at}
    if job.state is not JobState.COMPLETING:  # one that will be requeued counts the next run already
        columns |= {"restarts": job.restarts}
    if job.state.runs and job.state is not JobState.COMPLETING:  # whose end is when it ended, and not its limit
        columns |= {"ends_at": job.ends_at}
    if job.state.waits:  # a requeued job has left its node
        columns |= {"node": "", "started_at": None, "ends_at": None}
    if job.state.runs:
        columns |= {"idle_since": said and said.idle_since, "gpu_idle_since": said and said.gpu_idle_since}
    if outcome.endpoint is not None:
        columns |= {"port": outcome.endpoint.port, "fingerprint": outcome.endpoint.fingerprint}
    if job.state.ended:
        columns |= {"ended_at": job.ends_at or now, "attempted_at": None}
        return without_job(session, values, columns, heir, now)
    if job.state.waits and heir is not None and not heir.state.ended and session.job.fingerprint:
        # Requeued, and there is a job that waits for its end: that one goes on at once, and this one is a stray.
        return _succession(session, {"outcome": "REQUEUED", "reason": "", "ended_at": now}, heir)
    dropped = {"successor": 0} if _has_lost_successor(session, heir, now) else {}
    waiting = {} if heir is None or dropped else {"job_id": heir.id}
    return JobChange(values | dropped, _entry(session, values, columns), job=columns, next_job=waiting)


def _known_keys(session: Session) -> list[str]:
    """Fingerprints of host keys that the session's job may have announced. One that is ready was believed with the key
    that it has still, though its owner may have replaced the file, and its successor got a certificate for that.
    """
    known = [_fingerprint(session.host_key)] if session.host_key else []
    believed = session.job.fingerprint if session.state is SessionState.READY else ""
    return [*known, believed] if believed else known


def _has_lost_successor(session: Session, heir: Job | None, now: float) -> bool:
    """Whether a user or Slurm has cancelled the successor, or Slurm has forgotten it."""
    if heir is not None:
        return heir.state.ended
    job = session.next_job
    if job is None or job.job_id is None or session.state not in CARRIED:
        return False
    return now - (job.submitted_at or job.attempted_at or job.asked_at) >= FORGOTTEN_S


def ending(session: Session, end: Outcome, heir: Job | None, now: float) -> RowChange:
    """What is recorded of a session whose job Slurm does not show any more, and of which this is known."""
    values = {"state": end.state, "reason": end.reason}
    columns = {
        "outcome": end.outcome,
        "ended_at": session.job.ended_at or end.at or now,
        "missing_since": None,
        "attempted_at": None,
    }
    return without_job(session, values, columns, heir, now)


def without_job(
    session: Session, values: dict[str, Any], columns: dict[str, Any], heir: Job | None, now: float
) -> RowChange:
    """What is recorded when the session's job has ended as in `columns`: another job carries it on, or what waited for
    the end begins, or that is all.
    """
    heir = None if heir is None or heir.state.ended else heir
    on = may_be_carried_on(session, columns["outcome"], columns["ended_at"], waits=heir is not None)
    on = on and (heir is not None or goes_on(session, now))
    reason = values["reason"]
    if on and session.resizing:
        reason = "its resources were changed"
    if session.state is SessionState.STOPPING and session.stop_reason:
        reason = session.stop_reason
    if reason and time_was_up(session, columns["outcome"], columns["ended_at"]):
        reason = TIME_WAS_UP if on else f"{TIME_WAS_UP}; `berth start {session.name}` starts it again"
    values |= {"reason": reason, "root": False}
    columns |= {"reason": reason}
    intent = session.pending
    if intent is not None:
        # What it is otherwise, it becomes if nothing comes of that.
        intent = intent.but(state=values["state"], why=reason, start=intent.start or on)
        values |= {"state": SessionState.CHANGING, "reason": CHANGING, "operation": intent.record()}
    elif on:
        return _succession(session, columns, heir)
    return JobChange(values, _entry(session, values, columns), job=columns)


def _succession(session: Session, former: Mapping[str, Any], heir: Job | None) -> JobChange:
    because = " ".join(part for part in (former["outcome"], former["reason"]) if part)
    if heir is None:
        (values, job), then = next_submission(session), "another is asked for"
    else:
        (values, job), then = taken_over(session, heir.id), f"job {heir.id} carries it on"
    entry = EventEntry("berth", "continue", f"job {session.job.job_id} has ended ({because}); {then}")
    return JobChange(values, entry, job=job, former=former)


@functools.lru_cache(maxsize=4096)
def _fingerprint(host_key: str) -> str:
    return PublicKey.parse(host_key).fingerprint


def observe(seen: Session, job: Job, heir: Job | None, asked_at: float) -> Transition:
    """Record what the answer to a question of that time shows."""

    def decide(now: Session) -> RowChange | None:
        if not _same_run(seen, now) or now.job.job_id not in {None, job.id}:
            return None
        return observation(now, job, heir if now.successor == seen.successor else None, asked_at)

    return decide


def end(seen: Session, outcome: Outcome, heir: Job | None, asked_at: float) -> Transition:
    """Record how a job that Slurm does not show any more has ended."""

    def decide(now: Session) -> RowChange | None:
        if not _same_run(seen, now) or now.job.job_id != seen.job.job_id:
            return None
        return ending(now, outcome, heir if now.successor == seen.successor else None, asked_at)

    return decide


def mark(seen: Session, values: Mapping[str, Any], entry: EventEntry | None = None) -> Transition:
    """Set columns that are about the job which the session had when it was seen."""
    return lambda now: JobChange({}, entry, job=values) if _same_run(seen, now) else None


def told_who(seen: Session, user: str) -> Transition:
    """Record who has cancelled the job of a session that was stopped by that."""

    def decide(now: Session) -> RowChange | None:
        if now.submission != seen.submission or now.reason != CANCELLED_OUTSIDE:
            return None
        reason = {"reason": cancelled_by(user)}
        return JobChange(reason, None, job=reason)

    return decide


def _same_run(seen: Session, now: Session) -> bool:
    """Whether what was seen is still about this submission in this phase: a stop or a new start in between is newer."""
    return (
        now.submission == seen.submission
        and now.state in LIVE
        and (now.state is seen.state or now.state is not SessionState.STOPPING)
    )


def _entry(session: Session, values: Mapping[str, Any], columns: Mapping[str, Any]) -> EventEntry | None:
    state: SessionState = values["state"]
    if state is session.state:
        return None
    detail = " ".join(part for part in (columns["outcome"], values["reason"]) if part)
    return EventEntry("berth", state.value, detail)
