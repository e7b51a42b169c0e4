"""API types of checks: requests for a session that the controller validates and does not carry out."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from broker.schema.base import Strict, Timestamp
from broker.schema.sessions import Persistence, ResizeRequest, SessionView
from broker.schema.volumes import RollbackRequest, SnapshotReference, SwitchRequest, UpgradeRequest


class CheckRequest(Strict):
    """The request to check: exactly one field beside `estimate` is set."""

    rollback: RollbackRequest | None = None
    switch: SwitchRequest | None = None
    upgrade: UpgradeRequest | None = None
    resize: ResizeRequest | None = None
    delete_snapshot: SnapshotReference | None = None
    root: bool = False
    """Start it in root mode."""
    restart: bool = False
    """Stop it, and start it with its present options."""
    delete: bool = False
    estimate: bool = True
    """Ask Slurm when it would start the next job; this takes some 0.1 s, and at most some seconds."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if sum(bool(getattr(self, name)) for name in type(self).model_fields if name != "estimate") != 1:
            raise ValueError("must have exactly one request")
        return self


class StartEstimate(Strict):
    """Slurm's answer to the question when it would start the session's next job if it were submitted now.

    The resources of the present job count as taken.
    """

    at: Timestamp | None = None
    """None if Slurm would not start it at present."""
    refusal: str = ""
    """Slurm's message in that case."""
    waiting: Annotated[int, Field(ge=0)] | None = None
    """Number of other jobs that wait for resources; None if that is unknown."""


class SwitchPreview(Strict):
    """The image that a switch would give the session, and what it changes beside the files."""

    profile: str
    version: str
    description: str = ""
    options: list[str]
    """sbatch options of the session's jobs with it. The session's own override the profile's, which override the
    site's."""
    present_options: list[str] | None = None
    """The same with the present image; None if Berth cannot read or use it."""
    persistence: Persistence


class CheckReport(Strict):
    """The request would be accepted now."""

    session: SessionView
    ends_job: bool
    """Whether it ends the session's programs, and the session is started again."""
    keeps_job: bool = False
    """Whether it is started again in the same job; otherwise in another one, for which it may have to wait."""
    unchanged: bool = False
    """For a resize: whether the job has the requested resources already, so that the request would change nothing."""
    switch: SwitchPreview | None = None
    """Only for a switch."""
    beside: bool = False
    """For a resize: whether the present job is kept until the next one runs, which Slurm expects to start beside it.
    Always false without `estimate`."""
    estimate: StartEstimate | None = None
    """Only if it ends the job and requests another one, and Slurm has answered in time."""
