"""The registry's tables. Rows are read anywhere and written by `registry` alone.

A SQLModel table class does not validate (measured: a wrong state was committed and failed only on reading), so rows
are made by the functions here, and the state column refuses a word that is no SessionState when it is written.
Times are seconds since the epoch.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, Column, Enum, Index, UniqueConstraint, text
from sqlmodel import Field, SQLModel

from broker.controller.registry.operation import Operation
from broker.schema.connections import ConnectionView
from broker.schema.sessions import ConnectPolicy, Endpoint, JobView, Persistence, SessionState, SessionView, Volumes
from broker.ssh.keys import PublicKey


def _state_column() -> Column[Any]:
    states = Enum(
        SessionState,
        values_callable=lambda members: [member.value for member in members],
        native_enum=False,
        length=16,
        validate_strings=True,
    )
    return Column("state", states, nullable=False)


class Session(SQLModel, table=True):
    """A session, whatever job it has now.

    A deleted one stays as a tombstone, so that a late job of it is recognised.
    """

    __table_args__ = (
        Index(
            "session_name",
            "owner",
            "name",
            unique=True,
            sqlite_where=text("state <> 'deleted'"),
            postgresql_where=text("state <> 'deleted'"),
        ),
        Index("session_state", "state"),
        Index("session_kept_until", "kept_until"),
    )

    id: str = Field(primary_key=True, max_length=26)
    name: str = Field(max_length=39)
    owner: str = Field(max_length=32)
    state: SessionState = Field(sa_column=_state_column())
    reason: str = ""
    profile: str
    version: str
    digest: str
    image_path: str
    image_size: int = Field(sa_type=BigInteger)
    options: list[str] = Field(default_factory=list, sa_type=JSON)
    """What the user asked of Slurm; site and profile defaults are added at each submission."""
    host_key: str = ""
    """The session's public host key, one line; the private half never leaves the user's directory."""
    created_at: float

    submission: int = 0
    """Which of the jobs that were asked for carries it; with the restart count it makes the generation."""
    submissions: int = 0
    """How many jobs were asked for; the last of them may be the successor."""
    successor: int = 0
    """The submission whose job waits behind the one that carries it, to carry it on; 0 if there is none. It counts
    while the session is `starting` or `ready`."""
    successor_job: int | None = Field(default=None, sa_type=BigInteger)
    successor_at: float | None = None
    """When a successor was last asked for in this submission."""
    resize: dict[str, Any] | None = Field(default=None, sa_type=JSON)
    """`options` and `gpus` of the successor, if these differ: its job ends as soon as the successor's is queued."""
    gpus: float = 0.0
    """How many GPUs its job was asked for with."""
    continuation: str = ""
    """As schema.Continuation, if its owner chose."""
    continuation_default: str = ""
    """What its profile, or else the site, said when its job was asked for."""
    idle: str = ""
    """As schema.IdleTime, if its owner chose."""
    idle_default: str = ""
    """What its profile, or else the site, said when its job was asked for."""
    idle_since: float | None = None
    """Since when nothing uses it, as its job says."""
    gpu_idle_since: float | None = None
    active_at: float | None = None
    """When its connections last carried more than what keeps them alive. Written without a new revision."""
    idle_stop_at: float | None = None
    """When it is stopped unless something uses it until then."""
    stop_reason: str = ""
    """Why it is being stopped, if not because somebody said so just then."""
    used_at: float | None = None
    """When it was last seen to be used: started by somebody, or with somebody connected. Written without a new
    revision."""
    stop_at: float | None = None
    """When it is to be stopped, whatever job carries it then."""
    stays: bool = False
    """Whether it goes on in other jobs until then, whatever its policy."""
    restarts: int = 0
    job_id: int | None = Field(default=None, sa_type=BigInteger)
    node: str = ""
    port: int = 0
    fingerprint: str = ""
    submitted_at: float | None = None
    attempted_at: float | None = None
    """When the last sbatch for this submission was begun or gave up without a clear answer."""
    started_at: float | None = None
    expected_start_at: float | None = None
    ahead: int | None = None
    """How many jobs are before its own in the queue."""
    ends_at: float | None = None
    ended_at: float | None = None
    outcome: str = ""
    missing_since: float | None = None
    """Since when slurmctld has answered without this job."""
    cancelled_at: float | None = None
    """When Slurm was last asked to end the job."""
    keys_digest: str = ""
    """Of the authorized_keys that were last written for it."""
    first_start: bool = False
    """It was made by the start that is under way: should Slurm refuse that, it goes again."""
    persistence: dict[str, Any] = Field(default_factory=dict, sa_type=JSON)
    """What is kept, as schema.Persistence: its profile's policy unless `persistence_chosen`."""
    persistence_chosen: bool = False
    """Whether its owner chose the policy: then it stays when the profile is switched."""
    volumes: dict[str, Any] | None = Field(default=None, sa_type=JSON)
    """As schema.Volumes, as the launcher told last; the truth is in volumes.json beside the data."""
    operation: dict[str, Any] | None = Field(default=None, sa_type=JSON)
    """As intent.Intent: what is being done to its volumes, or was done last."""
    root: bool = False
    """Whether its job runs in root mode, or is to."""
    connecting: dict[str, Any] = Field(default_factory=dict, sa_type=JSON)
    """What connecting to it does, as schema.ConnectPolicy."""
    kept_until: float | None = None
    """Set while a deleted session's data, or that of one being deleted, is kept: until when."""
    revision: int = 0

    @property
    def intent(self) -> Operation | None:
        """What is being done to its volumes, or was done last."""
        return None if self.operation is None else Operation.model_validate(self.operation)

    @property
    def pending(self) -> Operation | None:
        """What is being done to its volumes now."""
        return self.intent if self.operation is not None and self.operation["status"] == "pending" else None

    @property
    def image(self) -> dict[str, Any]:
        """Return its image as launcher.arguments.ImageArguments names its fields."""
        return {"profile": self.profile, "version": self.version, "digest": self.digest}

    def options_of(self, submission: int) -> list[str]:
        """What its owner asks of Slurm for that submission."""
        resized = self.resize is not None and submission == self.successor
        return list(self.resize["options"]) if resized and self.resize else self.options

    @property
    def policy(self) -> Persistence:
        return Persistence.model_validate(self.persistence)

    @property
    def connect_policy(self) -> ConnectPolicy:
        return ConnectPolicy.model_validate(self.connecting)

    @property
    def continuation_in_force(self) -> str:
        """Whether it goes on in another job, as schema.Continuation; empty before its first job."""
        return self.continuation or self.continuation_default

    @property
    def idle_in_force(self) -> str:
        """After which time without use it is stopped, as schema.IdleTime; empty before its first job."""
        return self.idle or self.idle_default

    @property
    def unused_since(self) -> float | None:
        """Since when nothing uses it, as its job and its connections tell; None while that is not known."""
        if self.idle_since is None or self.endpoint is None:
            return None
        return max(self.idle_since, self.active_at or 0, self.started_at or 0)

    @property
    def generation(self) -> str:
        return f"{self.submission}.{self.restarts}"

    @property
    def endpoint(self) -> Endpoint | None:
        if self.state is not SessionState.READY:
            return None
        return Endpoint(node=self.node, port=self.port, fingerprint=self.fingerprint)

    def view(self, stale_since: float | None = None) -> SessionView:
        """As the API shows it to its owner."""
        return SessionView(
            id=self.id,
            name=self.name,
            owner=self.owner,
            state=self.state,
            reason=self.reason,
            profile=self.profile,
            version=self.version,
            digest=self.digest,
            options=self.options,
            job_id=self.job_id,
            generation=self.generation,
            endpoint=self.endpoint,
            host_key_fingerprint=PublicKey.parse(self.host_key).fingerprint if self.host_key else "",
            created_at=self.created_at,
            submitted_at=self.submitted_at,
            started_at=self.started_at,
            expected_start_at=self.expected_start_at,
            ahead=self.ahead,
            ends_at=self.ends_at,
            ended_at=self.ended_at,
            outcome=self.outcome,
            persistence=self.policy,
            volumes=None if self.volumes is None else Volumes.model_validate(self.volumes),
            operation=None if self.intent is None else self.intent.view(),
            root=self.root,
            connecting=self.connect_policy,
            continuation=self.continuation_in_force,
            next_job_id=self.successor_job if self.endpoint else None,
            resizing=self.resize is not None,
            idle=self.idle_in_force,
            idle_since=self.unused_since,
            gpu_idle_since=self.gpu_idle_since if self.endpoint else None,
            idle_stop_at=self.idle_stop_at,
            used_at=self.used_at,
            stop_at=self.stop_at,
            stays=self.stays,
            kept_until=self.kept_until,
            revision=self.revision,
            stale_since=stale_since,
        )


class JobRecord(SQLModel, table=True):
    """One submission of a session and its outcome: the job-to-session registry."""

    __tablename__ = "job"

    session_id: str = Field(primary_key=True, foreign_key="session.id", max_length=26)
    submission: int = Field(primary_key=True)
    job_id: int | None = Field(default=None, sa_type=BigInteger, index=True)
    node: str = ""
    gpus: float = 0.0
    asked_at: float
    submitted_at: float | None = None
    started_at: float | None = None
    ended_at: float | None = None
    restarts: int = 0
    outcome: str = ""
    reason: str = ""

    def view(self) -> JobView:
        """As the API shows it to the session's owner."""
        return JobView(**self.model_dump(exclude={"session_id"}))


class Key(SQLModel, table=True):
    """A public key that a user added with `berth key add`."""

    __table_args__ = (UniqueConstraint("owner", "fingerprint"),)

    id: int | None = Field(default=None, primary_key=True)
    owner: str = Field(max_length=32, index=True)
    fingerprint: str = Field(max_length=64)
    public_key: str
    comment: str = ""
    added_at: float


class Event(SQLModel, table=True):
    """An action of a user or of Berth on a session; never changed afterwards."""

    id: int | None = Field(default=None, primary_key=True)
    at: float = Field(index=True)
    actor: str = Field(max_length=32)
    owner: str = Field(max_length=32, index=True)
    session_id: str = Field(max_length=26, index=True)
    session: str = Field(max_length=39)
    action: str = Field(max_length=32)
    detail: str = ""


_CONNECTION_IDENTITY = ("id", "owner", "user", "session_id", "generation", "gateway", "fingerprint", "peer")


class Connection(SQLModel, table=True):
    """A connection of a user to a session, as in schema.ConnectionRecord."""

    __table_args__ = (
        Index("connection_session", "session_id", "began_at"),
        Index("connection_owner", "owner", "began_at"),
    )

    id: str = Field(primary_key=True, max_length=26)
    session_id: str = Field(max_length=26)
    session: str = Field(max_length=39)
    """What the session was called then."""
    owner: str = Field(max_length=32)
    user: str = Field(max_length=32)
    fingerprint: str = Field(max_length=64)
    peer: str = Field(max_length=80)
    gateway: str = Field(max_length=253)
    generation: str = Field(max_length=40)
    began_at: float
    seen_at: float = Field(index=True)
    """When it was last told of, by the controller's clock."""
    ended_at: float | None = None
    sent: int = Field(sa_type=BigInteger)
    received: int = Field(sa_type=BigInteger)
    end: str = Field(max_length=40)

    def is_same(self, other: Connection) -> bool:
        """Whether both records are of one connection: from the same gateway or user, of the same user and job."""
        return all(getattr(self, name) == getattr(other, name) for name in _CONNECTION_IDENTITY)

    def view(self) -> ConnectionView:
        """As the API shows it to the session's owner."""
        return ConnectionView(**self.model_dump(exclude={"session_id", "owner"}))


class Certificate(SQLModel, table=True):
    """The last certificate for a user's key that lets the user in."""

    owner: str = Field(primary_key=True, max_length=32)
    fingerprint: str = Field(primary_key=True, max_length=64)
    """Of the key."""
    public_key: str
    serial: int = Field(sa_type=BigInteger)
    issued_at: float
    valid_before: float
    """When the last of them ends."""
    revoked_at: float | None = None
