"""What the HTTP API speaks: the validated types at the edge, shared by server, command line, gateway and TUI.

Nothing here knows the database. Times are seconds since the epoch (float, UTC), sizes are bytes.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from broker.names import NAME_PATTERN, USER_PATTERN, VERSION_PATTERN

Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
"""A session's or profile's name: safe as host name label (RFC 1123), path component and Slurm job name."""

UserName = Annotated[str, StringConstraints(pattern=USER_PATTERN)]
"""A login name as useradd(8) accepts it by default, dots allowed for directory services."""

Version = Annotated[str, StringConstraints(pattern=VERSION_PATTERN)]


class SessionState(StrEnum):
    """Where a session is; docs/behaviour.md has the table of transitions."""

    SUBMITTING = "submitting"  # the intent is recorded; Slurm has not acknowledged the job yet
    QUEUED = "queued"  # the job waits in Slurm
    STARTING = "starting"  # the job runs; its sshd is not announced yet
    READY = "ready"  # the endpoint is announced
    STOPPING = "stopping"  # the job was cancelled and has not ended yet
    STOPPED = "stopped"  # no job; the data is kept
    FAILED = "failed"  # the job ended by itself in a bad way; the data is kept, `start` tries again
    DELETING = "deleting"  # the data is being removed
    DELETED = "deleted"  # a tombstone: the name is free, a late job is cancelled


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ErrorBody(Strict):
    """The body of every answer that is not a success."""

    reason: str
    message: str
    hint: str = ""


class Endpoint(Strict):
    """Where a running session listens, as its own job announced it."""

    node: str
    port: Annotated[int, Field(ge=1, le=65535)]
    fingerprint: str
    """`SHA256:…` of the session's host key, as ssh-keygen(1) prints it."""


class StartRequest(Strict):
    """Start a session; an existing one may leave `profile` out and then starts as it is."""

    profile: Name | None = None
    version: Version | None = None
    options: list[str] = []
    """sbatch resource options as `--name=value` or `--flag`, checked against slurm.sbatch's table."""


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
    ends_at: float | None = None
    """When the job's time limit ends it."""
    ended_at: float | None = None
    outcome: str = ""
    """How the last job ended: Slurm's state word, such as OUT_OF_MEMORY."""
    revision: int
    """Grows with every change; `GET …?after=REVISION&wait=SECONDS` waits for the next one."""
    stale_since: float | None = None
    """Set while Slurm does not answer: what is shown was true then."""


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
    ca_public_key: str
    """One OpenSSH public-key line; signs host certificates of sessions and gateway."""
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


class ResolveRequest(Strict):
    """A connection that the gateway, or a user's own `berth connect`, wants to make."""

    user: str
    """Who connects. From anyone but the gateway's account it must be the caller."""
    target: Annotated[str, StringConstraints(max_length=255)]
    """The host name that the client asked for: `name`, `name.<domain>` or `owner.name.<domain>`."""


class ResolveAnswer(Strict):
    session_id: str
    owner: str
    name: str
    generation: str
    host: str
    port: int
    fingerprint: str


class CertificateRequest(Strict):
    """The gateway asks for a certificate of its own host key."""

    public_key: Annotated[str, StringConstraints(max_length=16384)]


class CertificateAnswer(Strict):
    certificate: str
    """One line, as in ssh_host_ed25519_key-cert.pub."""


class RebuildReport(Strict):
    """What `berth registry rebuild` found."""

    restored: list[str]
    """`owner/name` of every session that was brought back."""
    skipped: list[str] = []
    """Manifests that could not be used, each with its reason."""
