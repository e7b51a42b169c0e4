"""API types of sessions, for the server, the command line, the gateway and the TUI.

Times are seconds since the epoch (float, UTC), sizes are bytes.
"""

# ruff: noqa: PLC0414 - the states are a part of this schema

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, FailFast, Field, StringConstraints

from broker.names import (
    CONTINUATION_PATTERN,
    IDLE_PATTERN,
    MAX_CONNECT_WAIT_S,
    MAX_EXTENSION_S,
    MAX_ITEMS,
    MAX_PATH_CHARS,
    PERSISTENT_PATH_PATTERN,
)
from broker.schema.base import Name, ProfileReference, Strict, Version
from broker.schema.states import LIVE as LIVE
from broker.schema.states import MOVING as MOVING
from broker.schema.states import STARTABLE as STARTABLE
from broker.schema.states import SessionState as SessionState


def _without_steps_up(path: str) -> str:
    if set(path.split("/")[1:]) & {"", ".", ".."}:
        raise ValueError("must be a plain path: no empty parts, `.` or `..`")
    return path


PersistentPath = Annotated[
    str,
    StringConstraints(pattern=PERSISTENT_PATH_PATTERN, max_length=MAX_PATH_CHARS),
    AfterValidator(_without_steps_up),
]
"""An absolute path, or one below `~/`, that is valid for Apptainer's --bind."""


Continuation = Annotated[str, StringConstraints(pattern=CONTINUATION_PATTERN)]
"""Whether a session continues in a new job when its job has to end: `always`, `never`, or if it was used within a time
such as `12h` or `7d`."""


IdleTime = Annotated[str, StringConstraints(pattern=IDLE_PATTERN)]
"""Idle time after which a session is stopped, such as `8h`, or `never`."""


class Endpoint(Strict):
    """The address and host key of a running session, as its job announced them."""

    node: str
    port: Annotated[int, Field(ge=1, le=65535)]
    fingerprint: str
    """`SHA256:…` of the session's host key, as ssh-keygen(1) prints it."""


Options = Annotated[list[str], Field(max_length=MAX_ITEMS), FailFast()]
"""Checked up to the first fault: an error for each of 100,000 elements takes seconds."""
Paths = Annotated[list[PersistentPath], Field(max_length=MAX_ITEMS), FailFast()]


class Persistence(Strict):
    """The parts of a session that are kept after a stop, and those that come from its profile at each start."""

    home: Literal["keep", "fresh"] = "keep"
    system: Literal["keep", "fresh"] = "keep"
    """Everything outside the home."""
    keep: Paths = []
    """Paths that are kept although their volume is fresh; `~/` is the home."""
    fresh: Paths = []
    """Paths that come from the profile at each start although their volume is kept."""


class StartRequest(Strict):
    """A request to start a session. For an existing session, `profile` is optional."""

    profile: ProfileReference | None = None
    version: Version | None = None
    options: Options = []
    """sbatch resource options as `--name=value` or `--flag`, checked against slurm.sbatch's table. Each replaces an
    existing session's option of the same name."""
    reset_options: bool = False
    """Drop an existing session's options, so that `options` are added to the profile's."""
    defaults: Options = []
    """Options of the user's environment, for a new session only; `options` have precedence."""
    persistence: Persistence | None = None
    """Replaces the profile's persistence for this session, from this start on."""


VersionReason = Annotated[str, StringConstraints(max_length=600, pattern=r"^[^\x00-\x1f\x7f]*$")]
"""The reason for which a session does not take a version, one line."""


class FollowChoice(Strict):
    """The version of its profile that a session follows."""

    follow: Version | None
    """`stable`, `candidate`, or a version; None: the session keeps its image."""


class OfferView(Strict):
    """A newer version of the session's profile."""

    version: Version
    obstacle: str = ""
    """The reason why the session does not take it at its next start; empty if it does."""
    packages: list[str] = []
    """The packages that the session has installed, if they are the obstacle."""
    files: list[str] = []
    """The files outside the home that belong to no package, if they are the obstacle."""


class ConnectPolicy(Strict):
    """The policy for connections to a session that is not ready; None: the site's default."""

    start: bool | None = None
    """Whether a connection starts a stopped session."""
    wait: Annotated[float, Field(ge=0, le=MAX_CONNECT_WAIT_S)] | None = None
    """Seconds for which a connection waits until the session is ready."""


class ContinuationChoice(Strict):
    continuation: Continuation | None
    """None: the default of the profile, or else of the site."""


class IdleChoice(Strict):
    idle: IdleTime | None
    """None: the default of the profile, or else of the site."""


class StopTime(Strict):
    at: Annotated[float, Field(ge=0, lt=2**40, allow_inf_nan=False)] | None
    """None: no stop time."""
    keep: bool = False
    """Whether it continues in new jobs until then, whatever its policy is."""


class ExtendRequest(Strict):
    seconds: Annotated[float, Field(gt=0, le=MAX_EXTENSION_S)]
    """Time to add to the job's limit; rounded up to whole minutes."""


PresentJob = Literal["auto", "keep", "end"]
"""The treatment of the present job by a resize. `keep`: it runs until the next job runs, and the request is refused if
Slurm does not expect to start that job beside it. `end`: it ends when the next job is in the queue. `auto`: as `keep`
if Slurm expects that, else as `end`."""


class ResizeRequest(Strict):
    options: Annotated[Options, Field(min_length=1)]
    """As StartRequest.options; each replaces the session's option of the same name."""
    present_job: PresentJob = "auto"
    """Whether the session keeps its present job until the next one runs."""


class RenameRequest(Strict):
    name: Name
    """The new name."""


class JobView(Strict):
    """A job of a session: the present one, a former one, or a successor."""

    submission: int
    job_id: int | None = None
    """None if Slurm has not accepted it."""
    node: str = ""
    gpus: float = 0.0
    """Number of requested GPUs."""
    asked_at: float
    submitted_at: float | None = None
    started_at: float | None = None
    """Start of its last run."""
    ended_at: float | None = None
    restarts: int = 0
    """Number of times that Slurm has requeued it."""
    interruption: str = ""
    """Reason of the interruption before its present run, such as `node c1 failed`."""
    interrupted_at: float | None = None
    outcome: str = ""
    """Slurm's final state of the job; HELD or NOT_READY for a run whose job was kept for the session's next run."""
    reason: str = ""
    """Explanation of the outcome."""


class JobList(Strict):
    jobs: list[JobView]


class Volumes(Strict):
    """The storage of a session's home and system."""

    driver: str
    """`overlay`, `reflink` or `plain`: chosen by a probe of the file system when the session was made."""
    promises: list[str] = []
    """Descriptions of the driver's guarantees and limits."""
    layers: dict[str, int] = {}
    """Number of immutable layers of `home` and `system`."""
    snapshots: int = 0
    unflattened: str = ""
    """The reason why the last attempt to merge the layers failed; empty if it did not fail."""


class OperationView(Strict):
    """The current or last operation on a session's volumes."""

    id: str
    verb: str
    """`snapshot`, `rollback`, `switch`, `upgrade`, `clone`, `promote`, `restore`, `rename`, `restart`, `root` or
    `commit-root`."""
    status: Literal["pending", "done", "failed"]
    asked_at: float
    reason: str = ""
    """For a failure, the reason as in ErrorBody."""
    message: str = ""
    """The result, or the cause of a failure, which changed nothing."""
    hint: str = ""
    undo: str = ""
    """The command that undoes it."""
    reversed: bool = False
    """Whether it was carried out and then undone, because the session did not become ready. Its status is `done` first,
    `pending` while it is undone, and `failed` in the end."""
    snapshot: int | None = None
    """The snapshot that it took: the requested one, or one of the state before the operation."""


class SessionView(Strict):
    """A session as its owner sees it."""

    id: str
    name: str
    """For a guest `OWNER.NAME`; then the fields that are its owner's alone are empty."""
    owner: str
    state: SessionState
    reason: str = ""
    """Explanation of the state; for `queued` Slurm's reason."""
    profile: str
    version: str
    digest: str
    image: str = ""
    """Path of the image. In a store of the site (`profile_stores` of the site), it is the site's profile; in another
    one, the user's own."""
    options: list[str] = []
    job_id: int | None = None
    generation: str = ""
    """`<submission>.<restart count>`: changes with each new job and each requeue."""
    keeps_job: bool = False
    """Whether it starts again in the job of its last run, which waits for that. Only in `submitting` and `queued`."""
    endpoint: Endpoint | None = None
    host_key_fingerprint: str = ""
    created_at: float
    submitted_at: float | None = None
    started_at: float | None = None
    expected_start_at: float | None = None
    ahead: int | None = None
    """Number of jobs ahead of its job in the queue, as far as Slurm shows them."""
    ends_at: float | None = None
    """End of the job's time limit."""
    ended_at: float | None = None
    outcome: str = ""
    """Slurm's final state of the last job, such as OUT_OF_MEMORY."""
    persistence: Persistence = Persistence()
    """The session's persistence, or its profile's."""
    volumes: Volumes | None = None
    """None until the session's directory is created."""
    operation: OperationView | None = None
    follow: Version | Literal[""] = ""
    """The channel or the version of its profile that it follows; empty if it keeps its image."""
    offer: OfferView | None = None
    """The version that it gets at its next start."""
    root: bool = False
    """Whether its job runs in root mode, for `berth exec --root`."""
    connecting: ConnectPolicy = ConnectPolicy()
    continuation: Continuation | Literal[""] = ""
    """Whether it continues in a new job when its job has to end; empty before its first job."""
    next_job_id: int | None = None
    """The successor: the job in which it will continue."""
    next_job_reason: str = ""
    """Slurm's reason for the wait of that job, as of the last answer; empty if it does not wait."""
    resizing: bool = False
    """Whether the successor has other resources, and so replaces the present job."""
    beside: bool = False
    """Whether the present job then ends only when the successor runs; otherwise it ends when that is queued."""
    used_at: float | None = None
    """Time of the last known use: its start, or a connection."""
    clients: list[str] = []
    """Addresses with an open connection, the newest first and at most 8, as gateways and `berth connect` have reported
    them in the last minutes; empty text for a connection without a gateway. No revision of the session."""
    idle: IdleTime | Literal[""] = ""
    """Idle time after which it is stopped; empty before its first job."""
    idle_since: float | None = None
    """Time since when it is idle; None while it is used, and while that is unknown."""
    gpu_idle_since: float | None = None
    """Time since when its GPU is idle."""
    idle_stop_at: float | None = None
    """Time at which it will be stopped unless it is used."""
    node_condition: str = ""
    """Condition of its node: `draining` (the node takes no new jobs), `not responding` or `down`; else empty."""
    node_reason: str = ""
    """The operators' explanation of that."""
    interruption: str = ""
    """Reason of the interruption before its present run: the loss of its node, a requeue or preemption."""
    interrupted_at: float | None = None
    stop_at: float | None = None
    """Scheduled time of its stop."""
    stays: bool = False
    """Whether it continues until `stop_at`, whatever `continuation` is."""
    kept_until: float | None = None
    """For a deleted session: the time until which `berth restore` can restore it."""
    revision: int
    """Grows with every change; `GET …?after=REVISION&wait=SECONDS` waits for the next one."""
    stale_since: float | None = None
    """Set while Slurm does not answer: the view is of that time."""


class DeletedList(Strict):
    sessions: list[SessionView]


class SessionList(Strict):
    sessions: list[SessionView]


OTHER_HOST_KEY = "its job has another host key than Berth knows"
"""Beginning of a session's reason when its key was replaced after its certificate was made."""
