"""The registry's tables. Rows are read anywhere and written by `registry` alone.

A SQLModel table class does not validate: a wrong value fails only when it is read. So the state column refuses a word
that is no SessionState when it is written. Times are seconds since the epoch.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, Column, Enum, Index, text
from sqlalchemy.orm import RelationshipProperty, relationship
from sqlmodel import Field, Relationship, SQLModel

from broker.controller.registry.grant import SessionGrant, is_deleted_snapshot
from broker.controller.registry.operation import Operation
from broker.controller.registry.upgrade_offer import UpgradeOffer
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


def _only(condition: str) -> dict[str, Any]:
    """Return the arguments of an index that has only the rows for which the condition, in SQL, holds."""
    return {"sqlite_where": text(condition), "postgresql_where": text(condition)}


class JobRow(SQLModel, table=True):
    """A requested job of a session.

    The session's row has the numbers of its present job and of the successor. All other rows are history.
    """

    __tablename__ = "job"

    session_id: str = Field(primary_key=True, foreign_key="session.id", max_length=26)
    submission: int = Field(primary_key=True)
    job_id: int | None = Field(default=None, sa_type=BigInteger, index=True)
    options: list[str] = Field(default_factory=list, sa_type=JSON)
    """The owner's options of sbatch for this job; the options of site and profile are added at submission."""
    gpus: float = 0.0
    """The number of requested GPUs."""
    resizes: bool = False
    """Whether the job has other resources than its predecessor, and replaces it."""
    beside: bool = False
    """Whether the predecessor then ends only when this job can take over (ADR 144); else when it is in the queue."""
    continuation_default: str = ""
    """The continuation policy of the profile, or else of the site, at the request; the owner may choose another."""
    idle_default: str = ""
    """The idle time of the profile, or else of the site, at the request."""

    asked_at: float
    attempted_at: float | None = None
    """Time at which the last sbatch for the job began, or ended without a clear answer."""
    submitted_at: float | None = None
    started_at: float | None = None
    began_at: float | None = None
    """Time at which a held job began this run of the session: then it had another run before (ADR 136)."""
    ends_at: float | None = None
    """Time of the job's time limit."""
    ended_at: float | None = None
    missing_since: float | None = None
    """Time from which slurmctld's answers lack the job."""
    cancelled_at: float | None = None
    """Time of the last request to Slurm to cancel the job."""
    successor_at: float | None = None
    """Time of the last request for a successor of this job."""

    restarts: int = 0
    node: str = ""
    port: int = 0
    fingerprint: str = ""
    """The fingerprint of the host key that the job has announced; empty before it was ready."""
    idle_since: float | None = None
    """Time from which the session is idle, as its job reports."""
    gpu_idle_since: float | None = None
    idle_stop_at: float | None = None
    """Time at which the session is stopped unless it is used."""

    node_condition: str = ""
    """A value of slurm.node_state.NodeCondition, as Slurm last reported it of the job's node."""
    node_reason: str = ""
    """The operators' explanation of the node's condition."""
    interruption: str = ""
    """The reason why the session's previous run ended, if that was the loss of its node, a requeue or preemption."""
    interrupted_at: float | None = None

    outcome: str = ""
    reason: str = ""
    """The reason of the job's end."""

    def view(self) -> JobView:
        """Return the job as the API shows it to the session's owner."""
        return JobView(**self.model_dump(include=set(JobView.model_fields)))


def _job_numbered(pointer: str) -> RelationshipProperty[Any]:
    """Relate a session to the job whose number is in the column `pointer`. One query reads both rows.

    Only the registry writes the rows of jobs.
    """
    return relationship(
        "JobRow",
        primaryjoin=f"and_(foreign(Session.id) == JobRow.session_id, foreign(Session.{pointer}) == JobRow.submission)",
        viewonly=True,
        lazy="joined",
    )


class Session(SQLModel, table=True):
    """A session. The data of its jobs is in the rows of the jobs (ADR 130).

    A deleted session's row remains, so that the controller recognises a late job of the session.
    """

    __table_args__ = (
        Index("session_name", "owner", "name", unique=True, **_only("state <> 'deleted'")),
        # Rows of deleted sessions are kept for a long time, and no query of a tick may read them.
        Index("session_state", "state", **_only("state <> 'deleted'")),
        Index("session_deleted_name", "owner", "name", **_only("state = 'deleted'")),
        Index("session_kept_until", "kept_until", **_only("kept_until IS NOT NULL")),
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
    """The owner's options of sbatch; the options of site and profile are added at each submission."""
    host_key: str = ""
    """The session's public host key, one line. The private key never leaves the user's directory."""
    former_host_keys: list[dict[str, Any]] = Field(default_factory=list, sa_type=JSON)
    """Replaced host keys that may have certificates: `key`, one line, and `replaced_at`."""
    created_at: float

    submission: int = 0
    """The number of the session's present or last job, 0 before the first one. It begins the run id."""
    submissions: int = 0
    """The number of requested jobs; the last one may be the successor."""
    successor: int = 0
    """The number of the successor, which waits for the end of the present job; 0 if there is none. It counts while the
    session is `queued`, `starting` or `ready`."""
    held_job_id: int | None = Field(default=None, sa_type=BigInteger)
    """The job that has given up the volumes, and waits for the session's next run (ADR 136)."""
    job_row: JobRow | None = Relationship(sa_relationship=_job_numbered("submission"))
    next_job: JobRow | None = Relationship(sa_relationship=_job_numbered("successor"))
    """The successor, which waits for the end of the present job."""

    continuation: str = ""
    """The owner's continuation policy, as schema.Continuation; empty without one."""
    idle: str = ""
    """The owner's idle time, as schema.IdleTime; empty without one."""
    active_at: float | None = None
    """Time at which a connection last carried more than keep-alive messages. Written without a new revision."""
    stop_reason: str = ""
    """The reason of the stop, unless a user requested it."""
    used_at: float | None = None
    """Time of the last start by a user, or of the last report of a connection. Written without a new revision."""
    stop_at: float | None = None
    """The scheduled stop time, which outlives the present job."""
    stays: bool = False
    """Whether other jobs continue the session until its stop time, even against its policy."""
    keys_digest: str = ""
    """The digest of the authorized_keys in the session's directory, which both its jobs read."""
    first_start: bool = False
    """Whether the pending start has created the session: if Slurm refuses it, the session is removed."""
    persistence: dict[str, Any] = Field(default_factory=dict, sa_type=JSON)
    """The persistence policy, as schema.Persistence: the profile's unless `persistence_chosen`."""
    persistence_chosen: bool = False
    """Whether the owner chose the policy: then a switch of the profile does not change it."""
    volumes: dict[str, Any] | None = Field(default=None, sa_type=JSON)
    """The volumes as the launcher last reported them, as VolumesAnswer; the truth is in volumes.json."""
    operation: dict[str, Any] | None = Field(default=None, sa_type=JSON)
    """The pending or last operation on the volumes, as operation.Operation."""
    root: bool = False
    """Whether the present or next job runs in root mode."""
    connecting: dict[str, Any] = Field(default_factory=dict, sa_type=JSON)
    """The action of a connection, as schema.ConnectPolicy."""
    grants: list[dict[str, Any]] = Field(default_factory=list, sa_type=JSON)
    """The grants to other users, as grant.SessionGrant, also those whose time is over."""
    follow: str = ""
    """The channel or the version of its profile that the session follows; empty if it keeps its image."""
    offer: dict[str, Any] | None = Field(default=None, sa_type=JSON)
    """The newer version that is offered to it, as upgrade_offer.UpgradeOffer."""
    held_versions: list[dict[str, Any]] = Field(default_factory=list, sa_type=JSON)
    """Versions that it does not take by itself, as upgrade_offer.HeldVersion."""
    kept_until: float | None = None
    """The end of the grace time of a session that is or will be deleted; None without kept data."""
    revision: int = 0

    @property
    def full_name(self) -> str:
        """Return `OWNER.NAME`."""
        return f"{self.owner}.{self.name}"

    @property
    def log_name(self) -> str:
        """Return the session's user, name and id as fields of a line in the log."""
        return f"user={self.owner} session={self.name} id={self.id}"

    @property
    def last_operation(self) -> Operation | None:
        """Return the pending or last operation on the volumes."""
        return None if self.operation is None else Operation.model_validate(self.operation)

    @property
    def pending(self) -> Operation | None:
        """Return the pending operation on the volumes."""
        return self.last_operation if self.operation is not None and self.operation["status"] == "pending" else None

    @property
    def image(self) -> dict[str, Any]:
        """Return the session's image as the fields of launcher.arguments.ImageArguments."""
        return {"profile": self.profile, "version": self.version, "digest": self.digest}

    @property
    def job(self) -> JobRow:
        """Return the session's present or last job; before the first one, an empty job."""
        if self.job_row is None:
            return JobRow(
                session_id=self.id, submission=self.submission, asked_at=self.created_at, options=self.options
            )
        return self.job_row

    @property
    def resizing(self) -> bool:
        """Whether the successor has other resources, and so replaces the present job."""
        return self.next_job is not None and self.next_job.resizes

    @property
    def takeover_begun(self) -> bool:
        """Whether Berth cancels the present job for the successor: the resize cannot be withdrawn any more."""
        return self.resizing and self.job.cancelled_at is not None

    @property
    def next_job_id(self) -> int | None:
        """Return the successor's job id, None without a successor or before its submission."""
        return None if self.next_job is None else self.next_job.job_id

    def job_of(self, submission: int) -> JobRow | None:
        """Return the row of the present job or the successor with that number; None for any other number."""
        if submission == self.successor:
            return self.next_job
        return self.job_row if submission == self.submission else None

    def options_of(self, submission: int) -> list[str]:
        """Return the owner's options for that submission."""
        job = self.job_of(submission)
        return self.options if job is None else job.options

    @property
    def policy(self) -> Persistence:
        return Persistence.model_validate(self.persistence)

    @property
    def valid_grants(self) -> list[SessionGrant]:
        """The stored grants, without those of deleted snapshots."""
        return [each for each in map(SessionGrant.model_validate, self.grants) if not self.has_deleted(each.snapshot)]

    def active_grants(self, now: float) -> list[SessionGrant]:
        """Return the valid grants that have not expired."""
        return [each for each in self.valid_grants if each.is_active(now)]

    @property
    def upgrade_offer(self) -> UpgradeOffer | None:
        return None if self.offer is None else UpgradeOffer.model_validate(self.offer)

    def has_deleted(self, snapshot: int | None) -> bool:
        """Whether the volumes, as last reported, show that the snapshot of this number was deleted."""
        return snapshot is not None and is_deleted_snapshot(snapshot, (self.volumes or {}).get("numbers"))

    @property
    def _volumes_view(self) -> Volumes | None:
        if self.volumes is None:
            return None
        return Volumes.model_validate(
            {name: self.volumes[name] for name in Volumes.model_fields if name in self.volumes}
        )

    @property
    def connect_policy(self) -> ConnectPolicy:
        return ConnectPolicy.model_validate(self.connecting)

    @property
    def continuation_in_force(self) -> str:
        """Return the continuation policy that applies, as schema.Continuation; empty before the first job."""
        return self.continuation or self.job.continuation_default

    @property
    def idle_in_force(self) -> str:
        """Return the idle time that applies, as schema.IdleTime; empty before the first job."""
        return self.idle or self.job.idle_default

    @property
    def unused_since(self) -> float | None:
        """Return the time from which job and connections are idle; None while that is unknown."""
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

    @property
    def _starts_in_held_job(self) -> bool:
        """Whether the job of the session's last run is held for its next one, or begins it."""
        if self.state is SessionState.SUBMITTING:
            return self.held_job_id is not None
        return self.state is SessionState.QUEUED and self.job.began_at is not None and not self.job.restarts

    def view(
        self,
        stale_since: float | None = None,
        *,
        ahead: int | None = None,
        expected_start_at: float | None = None,
        next_job_reason: str = "",
        clients: list[str] | None = None,
    ) -> SessionView:
        """Return the session as the API shows it to its owner, with its job's place in the queue and its clients."""
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
            image=self.image_path,
            options=self.options,
            job_id=job.job_id,
            generation=self.generation,
            keeps_job=self._starts_in_held_job,
            endpoint=self.endpoint,
            host_key_fingerprint=PublicKey.parse(self.host_key).fingerprint if self.host_key else "",
            created_at=self.created_at,
            submitted_at=job.submitted_at,
            started_at=job.started_at,
            expected_start_at=expected_start_at,
            ahead=ahead,
            ends_at=job.ends_at,
            ended_at=job.ended_at,
            outcome=job.outcome,
            persistence=self.policy,
            volumes=self._volumes_view,
            operation=None if self.last_operation is None else self.last_operation.view(),
            follow=self.follow,
            offer=None if self.offer is None else UpgradeOffer.model_validate(self.offer).view(),
            root=self.root,
            connecting=self.connect_policy,
            continuation=self.continuation_in_force,
            next_job_id=self.next_job_id if self.endpoint else None,
            next_job_reason=next_job_reason if self.endpoint else "",
            resizing=self.endpoint is not None and self.resizing,
            beside=self.endpoint is not None and self.next_job is not None and self.next_job.beside,
            idle=self.idle_in_force,
            idle_since=self.unused_since,
            gpu_idle_since=job.gpu_idle_since if self.endpoint else None,
            idle_stop_at=job.idle_stop_at,
            node_condition=job.node_condition,
            node_reason=job.node_reason,
            interruption=job.interruption,
            interrupted_at=job.interrupted_at,
            used_at=self.used_at,
            clients=clients or [],
            stop_at=self.stop_at,
            stays=self.stays,
            kept_until=self.kept_until,
            revision=self.revision,
            stale_since=stale_since,
        )
