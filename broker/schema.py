"""What the HTTP API speaks: the validated types at the edge, shared by server, command line, gateway and TUI.

Nothing here knows the database. Times are seconds since the epoch (float, UTC), sizes are bytes.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, FailFast, Field, StringConstraints

from broker.identifiers import IDENTIFIER
from broker.names import (
    CONTINUATION_PATTERN,
    IDLE_PATTERN,
    NAME_PATTERN,
    PERSISTENT_PATH_PATTERN,
    USER_PATTERN,
    VERSION_PATTERN,
)


def _without_steps_up(path: str) -> str:
    if set(path.split("/")[1:]) & {"", ".", ".."}:
        raise ValueError("must be a plain path: no empty parts, `.` or `..`")
    return path


LONGEST_CONNECT_WAIT = 86400.0
MOST_WAITED_FOR = 2000
"""Sessions in one question of a gateway's; it has up to 70 bytes for each, and a request to the controller 256 KiB."""

Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
"""A session's or profile's name: safe as host name label (RFC 1123), path component and Slurm job name."""

UserName = Annotated[str, StringConstraints(pattern=USER_PATTERN)]
"""A login name as useradd(8) accepts it by default, dots allowed for directory services."""

Version = Annotated[str, StringConstraints(pattern=VERSION_PATTERN)]

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


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class KnownSession(Strict):
    """A session as a gateway knows it."""

    session_id: Annotated[str, StringConstraints(pattern=f"^{IDENTIFIER.pattern}$")]
    revision: Annotated[int, Field(ge=0, lt=2**31)]


class SessionWait(KnownSession):
    """The change that a connection waits for: a revision above this one, for at most so many seconds."""

    seconds: float


class ErrorBody(Strict):
    """The body of every answer that is not a success."""

    reason: str
    message: str
    hint: str = ""
    waiting: SessionWait | None = None
    """With the reason `waiting`, for a question with `hold` false; missing everywhere else."""


class Endpoint(Strict):
    """Where a running session listens, as its own job announced it."""

    node: str
    port: Annotated[int, Field(ge=1, le=65535)]
    fingerprint: str
    """`SHA256:…` of the session's host key, as ssh-keygen(1) prints it."""


MAX_ITEMS = 500
"""Elements of a list in a request; sbatch has some 130 options."""
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
    wait: Annotated[float, Field(ge=0, le=LONGEST_CONNECT_WAIT)] | None = None
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


class Operation(Strict):
    """What is being done, or was done last, to a session's volumes."""

    id: str
    verb: str
    """`snapshot`, `rollback`, `clone`, `switch`, `root`, `commit-root`, `restore` or `promote`."""
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
    operation: Operation | None = None
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


class EventView(Strict):
    at: float
    actor: str
    """The user or `berth` itself."""
    session: str
    action: str
    detail: str = ""


class EventList(Strict):
    events: list[EventView]


class KeyAdd(Strict):
    public_key: Annotated[str, StringConstraints(max_length=16384)]
    """One line of an authorized_keys file, without options."""


class KeyView(Strict):
    fingerprint: str
    algorithm: str
    comment: str = ""
    source: str
    """`berth` for keys added with `berth key add`, `authorized_keys` for those found in the user's own file."""
    added_at: float | None = None


class KeyList(Strict):
    keys: list[KeyView]


class LogText(Strict):
    text: str


class SiteView(Strict):
    """What a client needs in order to write its ssh configuration."""

    user: str
    domain: str
    """The suffix of session host names, such as `berth`: `<owner>.<name>.<domain>`."""
    gateway_host: str
    """Empty when the site runs no gateway (personal mode)."""
    gateway_port: int
    login_host: str
    """Where `ssh <login_host> berth connect %h` works."""
    ca_public_keys: list[str]
    """OpenSSH public-key lines: whose host certificates of sessions and gateway are to be believed."""
    revoked_host_keys: list[str] = []
    """Those of the caller's deleted sessions, for as long as a certificate for them may be valid."""
    login_with: Literal["keys", "certificates", "both"] = "keys"
    """What lets the caller in."""
    mode: str
    """`site` or `personal`."""


class DoctorCheck(Strict):
    name: str
    ok: bool
    detail: str
    hint: str = ""


class DoctorReport(Strict):
    checks: list[DoctorCheck]


class GatewayKeys(Strict):
    """The public keys that may log in to the gateway as `user`; one authorized_keys line each."""

    user: str
    keys: list[str]
    notices: list[str] = []
    """What to tell them when they have logged in, one line each; only for a gateway that asks for it."""
    authorities: list[str] = []
    """Whose certificates for `user` let them in; only for a gateway that asks for it, as `revoked`."""
    revoked: list[str] = []
    """Keys whose certificates do not."""


class ResolveRequest(Strict):
    """A connection that the gateway, or a user's own `berth connect`, wants to make."""

    user: str
    """Who connects. From anyone but the gateway's account it must be the caller."""
    target: Annotated[str, StringConstraints(max_length=255)]
    """The host name that the client asked for: `name`, `name.<domain>` or `owner.name.<domain>`."""
    root: bool = False
    """For `berth exec --root`: a session in root mode, which is refused otherwise, as it lets in nobody but `root`."""
    waited: Annotated[float, Field(ge=0)] = 0.0
    """Seconds for which the one who connects has been waiting, after answers that it is on its way."""
    patient: bool = False
    """They see how far it is, and wait as long as it takes."""
    hold: bool = True
    """Whether the controller may keep the question while the session is on its way; a gateway waits by itself."""


class ResolveAnswer(Strict):
    session_id: str
    owner: str
    name: str
    generation: str
    host: str
    port: int
    fingerprint: str


Timestamp = Annotated[float, Field(ge=0, lt=1e11, allow_inf_nan=False)]
"""Seconds since the epoch; above that they are milliseconds by mistake."""


class GatewayWait(Strict):
    """The sessions that clients of one worker of a gateway wait for."""

    sessions: Annotated[list[KnownSession], Field(min_length=1, max_length=MOST_WAITED_FOR)]
    seconds: Annotated[float, Field(ge=0, le=60)]
    """Seconds for which the controller may keep the question."""


class GatewayWaitAnswer(Strict):
    changed: list[str]
    """The ids of those whose revision is another one; none after `seconds`."""


class ConnectionRecord(Strict):
    """One connection to a session, as whoever carries it knows it; the same again, newer, as it goes on."""

    id: Annotated[str, StringConstraints(pattern=f"^{IDENTIFIER.pattern}$")]
    user: UserName
    fingerprint: Annotated[str, StringConstraints(pattern=r"^(SHA256:[A-Za-z0-9+/]{43})?$")] = ""
    """Of the key that opened the gateway; empty where something else let the user in."""
    peer: Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z.:%-]{0,80}$")] = ""
    """Where the client is: its address and port."""
    session_id: Annotated[str, StringConstraints(max_length=26)]
    generation: Annotated[str, StringConstraints(max_length=40)]
    began_at: Timestamp
    ended_at: Timestamp | None = None
    sent: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Bytes from the client to the session."""
    received: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Bytes from the session to the client."""
    end: Annotated[str, StringConstraints(max_length=40)] = ""
    """How it ended: `closed`, `client lost`, `session lost`, `gateway stopped`; `not followed` if nobody looked on."""


class ConnectionReport(Strict):
    """News of connections, from a gateway or from somebody's own `berth connect`."""

    gateway: Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z._-]{0,253}$")] = ""
    """Which one; of anybody but the gateway's account it is not believed."""
    connections: Annotated[list[ConnectionRecord], Field(max_length=MAX_ITEMS), FailFast()]


class ConnectionsNoted(Strict):
    noted: int
    """Those of sessions that nobody knows are not."""


class ConnectionView(Strict):
    """A connection to a session, as the session's owner sees it."""

    id: str
    session: str
    user: str
    fingerprint: str
    peer: str
    gateway: str
    """The gateway that carries it; empty for `berth connect` and `berth ssh`."""
    generation: str
    began_at: float
    seen_at: float
    """When it was last told of; bytes are as of then."""
    ended_at: float | None
    sent: int
    received: int
    end: str
    """Empty while it stands."""


class ConnectionList(Strict):
    connections: list[ConnectionView]


class CertificateRequest(Strict):
    """The gateway asks for a certificate of its own host key."""

    public_key: Annotated[str, StringConstraints(max_length=16384)]


class CertificateAnswer(Strict):
    certificate: str
    """One line, as in ssh_host_ed25519_key-cert.pub."""


class UserCertificateRequest(Strict):
    """The caller wants a certificate for a key of theirs."""

    public_key: Annotated[str, StringConstraints(max_length=16384)]
    hours: Annotated[float, Field(gt=0, le=24 * 31)] | None = None
    """For how long; no longer than the site allows, which is the default."""


class UserCertificateView(Strict):
    """What is remembered of the certificates for one of the user's keys."""

    fingerprint: str
    comment: str
    serial: int
    """Of the last one."""
    issued_at: float
    valid_before: float
    revoked_at: float | None


class UserCertificateAnswer(Strict):
    certificate: str
    """One line, as in id_ed25519-cert.pub."""
    view: UserCertificateView


class UserCertificateList(Strict):
    certificates: list[UserCertificateView]


AuthorityKind = Literal["host", "user"]
"""Whether an authority signs for sessions and gateway, or for users."""


class AuthorityKeyView(Strict):
    """A key of one of the certificate authorities."""

    kind: AuthorityKind
    fingerprint: str
    public_key: str
    standing: Literal["announced", "signing", "former"]
    """`announced`: signs from the next rotation on. `former`: believed still for what it has signed."""
    since: float


class AuthorityList(Strict):
    keys: list[AuthorityKeyView]


class RotateRequest(Strict):
    now: bool = False
    """Do not wait for those who have not learnt the key that is announced."""


class RetireRequest(Strict):
    fingerprint: Annotated[str, StringConstraints(max_length=64)]
    now: bool = False
    """Although certificates that it has signed may be valid."""


class RebuildReport(Strict):
    """What `berth registry rebuild` found."""

    restored: list[str]
    """`owner/name` of every session that was brought back."""
    skipped: list[str] = []
    """Manifests that could not be used, each with its reason."""
