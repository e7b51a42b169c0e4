"""API types of the environments of batch jobs. Units are those of `sessions`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from broker.names import PROFILE_PATTERN, VERSION_PATTERN
from broker.schema.base import Name, Strict, Version
from broker.schema.volumes import SnapshotReference

EnvironmentName = Annotated[str, StringConstraints(pattern=f"{PROFILE_PATTERN[:-1]}(@{VERSION_PATTERN[1:-1]})?$")]
"""A session, or a profile with or without a version."""

JobKey = Annotated[str, StringConstraints(pattern="^[1-9][0-9]{0,9}(_[0-9]{1,9})?(@[A-Za-z0-9.-]{1,255})?$")]
"""A job's id; for a job array's task the array's id, `_` and the index, as in Slurm's commands. With `@NODE.STEP`, the
output of a step on another node than the script's."""


class EnvironmentRequest(Strict):
    of: EnvironmentName
    """The session or profile with the image, system and home for the job; a session has precedence."""
    at: SnapshotReference | None = None
    """A snapshot of the session; default: its present state."""


class EnvironmentLayers(Strict):
    """The layers of an environment, oldest first. A layer never changes, and no other layer has its id."""

    home: list[str]
    system: list[str]


class BatchJob(Strict):
    """The data that a job, or a task of a job array, reports when it begins."""

    key: JobKey
    top: str
    """The directory with its home: with the driver `overlay` only the files that it wrote, else all files."""
    node: str
    work: str
    """The directory of its submission, outside the environment."""
    inside: str
    """Its working directory in the environment."""
    running: bool


class EnvironmentView(Strict):
    """The environment of a batch job; its directory is like that of a session without a name."""

    id: str
    of: str
    """The session's name, or the profile's with its version."""
    profile: Name
    version: Version
    digest: str = ""
    """The image's; empty for an environment of an earlier version of Berth."""
    snapshot: int | None = None
    """The number of the session's snapshot that was chosen for it; None for the state at submission."""
    layers: EnvironmentLayers | None = None
    """The layers with which it began. None for a stopped session's state and a profile, and if it is not new."""
    directory: str
    shows_submission_directory: bool = True
    """Whether profile and site allow jobs to see the directory of submission. Only in a new environment's view."""
    binds: list[str] = Field(default_factory=list)
    """Binds of the site, as `SRC:DEST` or `SRC:DEST:ro`. Only in a new environment's view."""
    variables: dict[str, str] = Field(default_factory=dict)
    """Variables of the profile's `environment`. Only in a new environment's view."""
    driver: str = ""
    base: str = ""
    """The directory of the home as of submission, if each job's `top` has all files; else empty."""
    created_at: float
    used_at: float
    """Time when a job last began or ended in it, or of its creation."""
    job_id: int | None = None
    """The job that was submitted for it, if known."""
    jobs: list[BatchJob] = Field(default_factory=list)
    """The jobs and tasks that have begun."""


class EnvironmentList(Strict):
    environments: list[EnvironmentView]


class PromoteRequest(Strict):
    name: Name
    """The new session's name."""
    job: JobKey
