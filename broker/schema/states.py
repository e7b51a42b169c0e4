"""The states of a session. This module imports little, for commands that only show sessions."""

from __future__ import annotations

from enum import StrEnum


class SessionState(StrEnum):
    """The states of a session; docs/behaviour.md has the table of transitions."""

    SUBMITTING = "submitting"  # the submission is recorded; Slurm has not acknowledged the job yet
    QUEUED = "queued"  # the job waits in Slurm
    STARTING = "starting"  # the job runs; its sshd is not announced yet
    READY = "ready"  # the endpoint is announced
    STOPPING = "stopping"  # a stop is recorded: the controller cancels the job and waits for its end
    STOPPED = "stopped"  # no job; the data is kept
    CHANGING = "changing"  # no job; its volumes are being changed
    FAILED = "failed"  # the job ended with an error; the data is kept, `start` tries again
    DELETING = "deleting"  # the data is being removed
    DELETED = "deleted"  # a tombstone: the name is free, a late job is cancelled


LIVE = frozenset(
    {
        SessionState.SUBMITTING,
        SessionState.QUEUED,
        SessionState.STARTING,
        SessionState.READY,
        SessionState.STOPPING,
    }
)
"""States in which a session has, or may have, a job."""


STARTABLE = frozenset({SessionState.STOPPED, SessionState.FAILED})


END_STATES = STARTABLE | {SessionState.DELETING, SessionState.DELETED}
"""States of a session that end its visits. While it continues in another job, they last."""


MOVING = frozenset(LIVE - {SessionState.READY} | {SessionState.CHANGING, SessionState.DELETING})
"""Transient states: while a session is in one, Slurm is queried often."""


HELD = "HELD"
"""The outcome of a run whose job was held; it is no state of Slurm's."""
NOT_READY = "NOT_READY"
"""The outcome of a run that did not become ready in a kept job; it is no state of Slurm's."""
