"""The takeover of a session by a job with other resources (ADR 144), as pure functions.

The successor may run beside the present job. Then the present job ends only when the successor can take over, and the
session keeps it if the successor ends before that, or its owner withdraws the resize.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.controller.reconcile.job_comment import can_take_over
from broker.controller.reconcile.succession import CONTINUABLE_STATES, is_same_run
from broker.controller.registry.registry import EventEntry, JobChange
from broker.schema.sessions import SessionState
from slurm.state import JobState

if TYPE_CHECKING:
    from collections.abc import Iterable

    from broker.controller.registry.models import Session
    from broker.controller.registry.registry import RowChange, Transition
    from slurm.scheduler import Job

FORGOTTEN_S = 360.0
"""Time after the request for a successor from which a missing job counts as ended. Slurm forgets a job MinJobAge after
its end, by default 300 s (slurm.conf(5))."""
ENDING_S = 60.0
"""Seconds after the cancel of a job within which it counts as ending: Slurm may not have accepted the cancel."""


def copied_sources(changing: Iterable[Session]) -> set[str]:
    """Return the ids of the sources whose running jobs still make the copies for the clones among `changing`."""
    pending = (session.pending for session in changing if session.state is SessionState.CHANGING)
    return {
        str(operation.arguments["source"])
        for operation in pending
        if operation is not None
        and operation.kind.has_source
        and operation.arguments.get("job_id") is not None
        and operation.arguments["snapshot"] is None
    }


def should_begin_takeover(session: Session, successor: Job, *, copied: bool = False) -> bool:
    """Whether the present job is to end for the successor with other resources.

    A successor that may run beside it must have said that it can take over; a copy of the running session, which the
    present job makes, is completed first. `copied`: it makes one for a clone.
    """
    if not session.resizing or successor.state.ended or copied:
        return False
    if session.takeover_begun or session.next_job is None or not session.next_job.beside:
        return True
    return session.pending is None and can_take_over(successor, session.successor)


def begin_takeover(observed: Session, at: float) -> Transition:
    """Record, before the fact, that Berth cancels the present job for its successor: nothing withdraws the resize then.

    The row is unchanged if the resize was withdrawn, the session stopped, or an operation requested, since it was
    observed.
    """

    def decide(current: Session) -> RowChange | None:
        same = is_same_run(observed, current) and current.successor == observed.successor
        is_free = current.state is not SessionState.STOPPING and observed.operation == current.operation
        if not (same and is_free):
            return None
        return JobChange({}, None, job={"cancelled_at": at})

    return decide


def has_lost_successor(session: Session, job: Job, successor: Job | None, now: float) -> bool:
    """Whether the successor has ended, or Slurm has forgotten it, so that the session keeps its present `job`."""
    cancelled_at = session.job.cancelled_at
    if session.takeover_begun and cancelled_at is not None:
        ends = job.state is JobState.COMPLETING or now - cancelled_at < ENDING_S
        if ends:
            return False  # another job continues the session after that end
    if successor is not None:
        return successor.state.ended
    next_job = session.next_job
    if next_job is None or next_job.job_id is None or session.state not in CONTINUABLE_STATES:
        return False
    return now - (next_job.submitted_at or next_job.attempted_at or next_job.asked_at) >= FORGOTTEN_S


def describe_lost_successor(session: Session, successor: Job | None) -> EventEntry | None:
    """Return the event of a resize to which nothing came; None if the successor had the same resources."""
    if not session.resizing:
        return None
    end = "is gone" if successor is None else f"has ended as {successor.state.value}"
    text = f"job {session.next_job_id} {end}; the session continues in its present job"
    return EventEntry("berth", "not-resized", text)


def reason_of_end(session: Session, successor: Job | None) -> str:
    """Return why the job has ended that Berth has cancelled for its successor."""
    if successor is not None:
        return "its resources were changed"
    return f"job {session.next_job_id} was to take over, and ended before it could"
