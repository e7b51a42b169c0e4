"""The registry's tables. Rows are read anywhere and written by `registry` alone.

A SQLModel table class does not validate (measured: a wrong state was committed and failed only on reading), so rows
are made by the functions here, and the state column refuses a word that is no SessionState when it is written.
Times are seconds since the epoch.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, Column, Enum, Index, UniqueConstraint, text
from sqlalchemy.orm import RelationshipProperty, relationship
from sqlmodel import Field, Relationship, SQLModel

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


class Job(SQLModel, table=True):
    """A job that was asked for to carry a session.

    The session's row has the numbers of the present job and of its successor; all other rows are history.
    """

    session_id: str = Field(primary_key=True, foreign_key="session.id", max_length=26)
    submission: int = Field(primary_key=True)
    job_id: int | None = Field(default=None, sa_type=BigInteger, index=True)
    options: list[str] = Field(default_factory=list, sa_type=JSON)
    """What the session's owner asked of Slurm for it; site and profile defaults come before."""
    gpus: float = 0.0
    """How many GPUs it was asked for with."""
    resizes: bool = False
    """Whether it has other resources than the job before it, which ends as soon as this one is in the queue."""
    continuation_default: str = ""
    """The continuation that its profile, or else the site, had when it was asked for; the session's owner may choose
    another."""
    idle_default: str = ""
    """The idle time that its profile, or else the site, had when it was asked for."""

    asked_at: float
    attempted_at: float | None = None
    """When the last sbatch for it was begun or gave up without a clear answer."""
    submitted_at: float | None = None
    expected_start_at: float | None = None
    ahead: int | None = None
    """How many jobs are before it in the queue."""
    started_at: float | None = None
    ends_at: float | None = None
    """When its time limit is over."""
    ended_at: float | None = None
    missing_since: float | None = None
    """Since when slurmctld has answered without it."""
    cancelled_at: float | None = None
    """When Slurm was last asked to end it."""
    successor_at: float | None = None
    """When a successor was last asked for while it carried the session."""

    restarts: int = 0
    node: str = ""
    port: int = 0
    fingerprint: str = ""
    """Of the host key that it has announced; empty before it was ready."""
    idle_since: float | None = None
    """Since when nothing uses the session, as the job says."""
    gpu_idle_since: float | None = None
    idle_stop_at: float | None = None
    """When the session is stopped unless something uses it until then."""

    outcome: str = ""
    reason: str = ""
    """Why it ended."""

    def view(self) -> JobView:
        """As the API shows it to the session's owner."""
        return JobView(**self.model_dump(include=set(JobView.model_fields)))


def _job_numbered(pointer: str) -> RelationshipProperty[Any]:
    """The row of the session's job whose number the column `pointer` has, read with the session in one query.

    Only the registry writes these rows.
    """
    return relationship(
        "Job",
        primaryjoin=f"and_(foreign(Session.id) == Job.session_id, foreign(Session.{pointer}) == Job.submission)",
        viewonly=True,
        lazy="joined",
    )


class Session(SQLModel, table=True):
    """A session, whatever job it has now. Facts about a job are in the job's row (ADR 130).

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
    """The number of the job that carries the session, or was the last to; with the restart count it makes the
    generation. 0 before the first job."""
    submissions: int = 0
    """How many jobs were asked for; the last of them may be the successor."""
    successor: int = 0
    """The number of the job that waits behind the one that carries the session, to follow it; 0 if there is none. It
    counts while the session is `queued`, `starting` or `ready`."""
    job_row: Job | None = Relationship(sa_relationship=_job_numbered("submission"))
    next_job: Job | None = Relationship(sa_relationship=_job_numbered("successor"))
    """The job that waits behind the one that carries the session."""

    continuation: str = ""
    """As schema.Continuation, if its owner chose."""
    idle: str = ""
    """As schema.IdleTime, if its owner chose."""
    active_at: float | None = None
    """When its connections last carried more than what keeps them alive. Written without a new revision."""
    stop_reason: str = ""
    """Why it is being stopped, if not because somebody said so just then."""
    used_at: float | None = None
    """When it was last seen to be used: started by somebody, or with somebody connected. Written without a new
    revision."""
    stop_at: float | None = None
    """When it is to be stopped, whatever job carries it then."""
    stays: bool = False
    """Whether it goes on in other jobs until then, whatever its policy."""
    keys_digest: str = ""
    """Of the authorized_keys that were last written into its directory, where both its jobs read them."""
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

    @property
    def job(self) -> Job:
        """The job that carries the session, or was the last to; before the first, one of which nothing is known."""
        if self.job_row is None:
            return Job(session_id=self.id, submission=self.submission, asked_at=self.created_at, options=self.options)
        return self.job_row

    @property
    def resizing(self) -> bool:
        """Whether its job ends as soon as the next one, which has other resources, is in the queue."""
        return self.next_job is not None and self.next_job.resizes

    @property
    def next_job_id(self) -> int | None:
        """Slurm's id of the job that waits behind the present one, if there is one and its id is known."""
        return None if self.next_job is None else self.next_job.job_id

    def job_of(self, submission: int) -> Job | None:
        """The row of its present job or of the next one, if that has the number."""
        if submission == self.successor:
            return self.next_job
        return self.job_row if submission == self.submission else None

    def options_of(self, submission: int) -> list[str]:
        """What its owner asks of Slurm for that submission."""
        job = self.job_of(submission)
        return self.options if job is None else job.options

    @property
    def policy(self) -> Persistence:
        return Persistence.model_validate(self.persistence)

    @property
    def connect_policy(self) -> ConnectPolicy:
        return ConnectPolicy.model_validate(self.connecting)

    @property
    def continuation_in_force(self) -> str:
        """Whether it goes on in another job, as schema.Continuation; empty before its first job."""
        return self.continuation or self.job.continuation_default

    @property
    def idle_in_force(self) -> str:
        """After which time without use it is stopped, as schema.IdleTime; empty before its first job."""
        return self.idle or self.job.idle_default

    @property
    def unused_since(self) -> float | None:
        """Since when nothing uses it, as its job and its connections tell; None while that is not known."""
        job = self.job
        if job.idle_since is None or self.endpoint is None:
            return None
        return max(job.idle_since, self.active_at or 0, job.started_at or 0)

    @property
    def generation(self) -> str:
        return f"{self.submission}.{self.job.restarts}"

    @property
    def endpoint(self) -> Endpoint | None:
        if self.state is not SessionState.READY:
            return None
        job = self.job
        return Endpoint(node=job.node, port=job.port, fingerprint=job.fingerprint)

    def view(self, stale_since: float | None = None) -> SessionView:
        """As the API shows it to its owner."""
        job = self.job
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
            job_id=job.job_id,
            generation=self.generation,
            endpoint=self.endpoint,
            host_key_fingerprint=PublicKey.parse(self.host_key).fingerprint if self.host_key else "",
            created_at=self.created_at,
            submitted_at=job.submitted_at,
            started_at=job.started_at,
            expected_start_at=job.expected_start_at,
            ahead=job.ahead,
            ends_at=job.ends_at,
            ended_at=job.ended_at,
            outcome=job.outcome,
            persistence=self.policy,
            volumes=None if self.volumes is None else Volumes.model_validate(self.volumes),
            operation=None if self.intent is None else self.intent.view(),
            root=self.root,
            connecting=self.connect_policy,
            continuation=self.continuation_in_force,
            next_job_id=self.next_job_id if self.endpoint else None,
            resizing=self.resizing,
            idle=self.idle_in_force,
            idle_since=self.unused_since,
            gpu_idle_since=job.gpu_idle_since if self.endpoint else None,
            idle_stop_at=job.idle_stop_at,
            used_at=self.used_at,
            stop_at=self.stop_at,
            stays=self.stays,
            kept_until=self.kept_until,
            revision=self.revision,
            stale_since=stale_since,
        )


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
