"""API types of sessions: validated at the edge, and shared by server, command line, gateway and TUI.

Nothing here knows the database. Times are seconds since the epoch (float, UTC), sizes are bytes.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AfterValidator, FailFast, Field, StringConstraints

from broker.names import (
    CONTINUATION_PATTERN,
    IDLE_PATTERN,
    PERSISTENT_PATH_PATTERN,
)
from broker.schema.base import MAX_ITEMS, Name, Strict, Version


def _without_steps_up(path: str) -> str:
    if set(path.split("/")[1:]) & {"", ".", ".."}:
        raise ValueError("must be a plain path: no empty parts, `.` or `..`")
    return path


MAX_CONNECT_WAIT_S = 86400.0


PersistentPath = Annotated[
    str, StringConstraints(pattern=PERSISTENT_PATH_PATTERN, max_length=1024), AfterValidator(_without_steps_up)
]
"""An absolute path, or one below `~/`, that Apptainer's --bind can take."""


Continuation = Annotated[str, StringConstraints(pattern=CONTINUATION_PATTERN)]
"""Whether a session goes on in another job when one has to end: `always`, `never`, or while it was used within the time
before, such as `12h` or `7d`."""


IdleTime = Annotated[str, StringConstraints(pattern=IDLE_PATTERN)]
"""After which time without use a session is stopped, such as `8h`, or `never`."""


class SessionState(StrEnum):
    """Where a session is; docs/behaviour.md has the table of transitions."""

    SUBMITTING = "submitting"  # the intent is recorded; Slurm has not acknowledged the job yet
    QUEUED = "queued"  # the job waits in Slurm
    STARTING = "starting"  # the job runs; its sshd is not announced yet
    READY = "ready"  # the endpoint is announced
    STOPPING = "stopping"  # the job was cancelled and has not ended yet
    STOPPED = "stopped"  # no job; the data is kept
    CHANGING = "changing"  # no job; its volumes are being changed
    FAILED = "failed"  # the job ended by itself in a bad way; the data is kept, `start` tries again
    DELETING = "deleting"  # the data is being removed
    DELETED = "deleted"  # a tombstone: the name is free, a late job is cancelled


class Endpoint(Strict):
    """Where a running session listens, as its own job announced it."""

    node: str
    port: Annotated[int, Field(ge=1, le=65535)]
    fingerprint: str
    """`SHA256:…` of the session's host key, as ssh-keygen(1) prints it."""


Options = Annotated[list[str], Field(max_length=MAX_ITEMS), FailFast()]
"""Checked up to the first fault: an error for each of 100,000 elements takes seconds."""
Paths = Annotated[list[PersistentPath], Field(max_length=MAX_ITEMS), FailFast()]


class Persistence(Strict):
    """What of a session is kept over a stop, and what comes from its profile at each start."""

    home: Literal["keep", "fresh"] = "keep"
    system: Literal["keep", "fresh"] = "keep"
    """Everything outside the home."""
    keep: Paths = []
    """Paths that are kept although their side is fresh; `~/` is the home."""
    fresh: Paths = []
    """Paths that come from the profile at each start although their side is kept."""


class StartRequest(Strict):
    """Start a session; an existing one may leave `profile` out and then starts as it is."""

    profile: Name | None = None
    version: Version | None = None
    options: Options = []
    """sbatch resource options as `--name=value` or `--flag`, checked against slurm.sbatch's table."""
    defaults: Options = []
    """The same, for a new session only, and where `options` says nothing else: what the user's environment asks for."""
    persistence: Persistence | None = None
    """Instead of the profile's, for this session from this start on."""


class ConnectPolicy(Strict):
    """What connecting to a session does that is not ready; what is None is as the site has it."""

    start: bool | None = None
    """Whether a stopped one is started."""
    wait: Annotated[float, Field(ge=0, le=MAX_CONNECT_WAIT_S)] | None = None
    """Seconds for which a connection waits for one that is on its way, before it is told how far that is."""


class ContinuationChoice(Strict):
    continuation: Continuation | None
    """None: as its profile, or else the site, has it."""


class IdleChoice(Strict):
    idle: IdleTime | None
    """None: as its profile, or else the site, has it."""


class StopTime(Strict):
    at: Annotated[float, Field(ge=0, lt=2**40, allow_inf_nan=False)] | None
    """None: it is not to be stopped at any time."""
    keep: bool = False
    """Until then it goes on in other jobs, whatever its policy says."""


class ExtendRequest(Strict):
    seconds: Annotated[float, Field(gt=0, le=366 * 86400)]
    """How much is added to the job's time; made whole minutes, rounded up."""


class ResizeRequest(Strict):
    options: Annotated[Options, Field(min_length=1)]
    """As StartRequest.options; each replaces the session's own of the same kind."""


class JobView(Strict):
    """One job that carries, carried or was to carry a session."""

    submission: int
    job_id: int | None = None
    """None if Slurm has not taken it."""
    node: str = ""
    gpus: float = 0.0
    """How many it was asked for with."""
    asked_at: float
    submitted_at: float | None = None
    started_at: float | None = None
    """Of its last run, if Slurm has started it more than once."""
    ended_at: float | None = None
    restarts: int = 0
    """How often Slurm has requeued it."""
    outcome: str = ""
    """How it ended: Slurm's state word."""
    reason: str = ""
    """Why, in words."""


class JobList(Strict):
    jobs: list[JobView]


class Volumes(Strict):
    """How a session's home and system lie on the shared file system."""

    driver: str
    """`overlay`, `reflink` or `plain`: chosen by a probe of the file system when the session was made."""
    promises: list[str] = []
    """What this driver promises, and what it cannot, in words."""
    layers: dict[str, int] = {}
    """How many immutable layers `home` and `system` each have under their top."""
    snapshots: int = 0
    unflattened: str = ""
    """The reason why the last attempt to join the layers failed; empty if it did not fail."""


class OperationView(Strict):
    """What is being done, or was done last, to a session's volumes."""

    id: str
    verb: str
    """`snapshot`, `rollback`, `switch`, `clone`, `promote`, `restore`, `root` or `commit-root`."""
    status: Literal["pending", "done", "failed"]
    asked_at: float
    reason: str = ""
    """A failure's short constant, as in ErrorBody."""
    message: str = ""
    """What came of it, in words; for a failure why, after which nothing is changed."""
    hint: str = ""
    undo: str = ""
    """The command that takes it back."""
    snapshot: int | None = None
    """The snapshot that it made: of what was before it, or the one that was asked for."""


class SessionView(Strict):
    """A session as its owner sees it."""

    id: str
    name: str
    owner: str
    state: SessionState
    reason: str = ""
    """Why it is in this state, in words; for `queued` Slurm's own reason."""
    profile: str
    version: str
    digest: str
    options: list[str] = []
    job_id: int | None = None
    generation: str = ""
    """`<submission>.<restart count>`: changes whenever another job, or the same one anew, carries the session."""
    endpoint: Endpoint | None = None
    host_key_fingerprint: str = ""
    created_at: float
    submitted_at: float | None = None
    started_at: float | None = None
    expected_start_at: float | None = None
    ahead: int | None = None
    """How many jobs are before its own in the queue, as far as Slurm shows them."""
    ends_at: float | None = None
    """When the job's time limit ends it."""
    ended_at: float | None = None
    outcome: str = ""
    """How the last job ended: Slurm's state word, such as OUT_OF_MEMORY."""
    persistence: Persistence = Persistence()
    """What is kept, by the session's own choice or its profile's."""
    volumes: Volumes | None = None
    """None until the session's directory is made."""
    operation: OperationView | None = None
    root: bool = False
    """Whether its job runs in root mode, for `berth exec --root`."""
    connecting: ConnectPolicy = ConnectPolicy()
    continuation: Continuation | Literal[""] = ""
    """Whether it goes on in another job when this one has to end; empty before its first job."""
    next_job_id: int | None = None
    """The job that waits to carry it on."""
    resizing: bool = False
    """Whether that one is to have other resources, so that its present job ends as soon as it is queued."""
    used_at: float | None = None
    """When it was last seen to be used: started, or with somebody connected."""
    idle: IdleTime | Literal[""] = ""
    """After which time without use it is stopped; empty before its first job."""
    idle_since: float | None = None
    """Since when nothing uses it; None while something does, and while that is not known."""
    gpu_idle_since: float | None = None
    """The same of its GPU."""
    idle_stop_at: float | None = None
    """When it is stopped unless something uses it until then."""
    stop_at: float | None = None
    """When it is to be stopped."""
    stays: bool = False
    """Whether it goes on until then, whatever `continuation` says."""
    kept_until: float | None = None
    """Of a deleted session: until when `berth restore` brings it back."""
    revision: int
    """Grows with every change; `GET …?after=REVISION&wait=SECONDS` waits for the next one."""
    stale_since: float | None = None
    """Set while Slurm does not answer: what is shown was true then."""


class DeletedList(Strict):
    sessions: list[SessionView]


class SessionList(Strict):
    sessions: list[SessionView]


LIVE = frozenset(
    {
        SessionState.SUBMITTING,
        SessionState.QUEUED,
        SessionState.STARTING,
        SessionState.READY,
        SessionState.STOPPING,
    }
)
"""States in which a session has, or may have, a job in Slurm."""


STARTABLE = frozenset({SessionState.STOPPED, SessionState.FAILED})


MOVING = frozenset(LIVE - {SessionState.READY} | {SessionState.CHANGING, SessionState.DELETING})
"""States that end by themselves: while a session is in one, Slurm is asked often."""


OTHER_HOST_KEY = "its job has another host key than Berth knows"
"""Beginning of a session's reason when its key was replaced after its certificate was made."""
