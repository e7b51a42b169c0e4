"""API types of the environments of batch jobs. `sessions` says the units."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from broker.names import NAME_PATTERN, VERSION_PATTERN
from broker.schema.base import Name, Strict, Version

EnvironmentName = Annotated[str, StringConstraints(pattern=f"{NAME_PATTERN[:-1]}(@{VERSION_PATTERN[1:-1]})?$")]
"""A session, or a profile with or without a version."""

JobKey = Annotated[str, StringConstraints(pattern="^[1-9][0-9]{0,9}(_[0-9]{1,9})?(@[A-Za-z0-9.-]{1,255})?$")]
"""A job's id; of a job array's task the array's id, `_` and the index, as Slurm's commands write it. With `@NODE.STEP`
it stands for what a step wrote on another node than the script's."""


class EnvironmentRequest(Strict):
    of: EnvironmentName
    """Whose image, system and home the job is to have; a session goes before a profile of the same name."""


class BatchJob(Strict):
    """What one job, or one task of a job array, has told of itself when it began."""

    key: JobKey
    top: str
    """The directory that has what it wrote to its home: with the driver `overlay` only that, else all of the home."""
    node: str
    work: str
    """Where it was submitted from, outside of the environment."""
    inside: str
    """Its working directory in the environment."""
    running: bool


class EnvironmentView(Strict):
    """The environment that a batch job runs in: its directory is a session's in all but that it has no name."""

    id: str
    of: str
    """The session's name, or the profile's with its version."""
    profile: Name
    version: Version
    directory: str
    shows_submission_directory: bool = True
    """Whether profile and site show a job the directory that it was submitted from. Only a new environment has it."""
    binds: list[str] = Field(default_factory=list)
    """Binds of the site, as `SRC:DEST` or `SRC:DEST:ro`. Only a new environment has them."""
    variables: dict[str, str] = Field(default_factory=dict)
    """Variables that the profile's `environment` sets. Only a new environment has them."""
    driver: str = ""
    base: str = ""
    """The directory that has the home as of submission, where each job's `top` has all of it; else empty."""
    created_at: float
    used_at: float
    """When a job last began or ended in it, or when it was made."""
    job_id: int | None = None
    """The job that was submitted for it, as far as it is known."""
    jobs: list[BatchJob] = Field(default_factory=list)
    """Those that have begun."""


class EnvironmentList(Strict):
    environments: list[EnvironmentView]


class PromoteRequest(Strict):
    name: Name
    """Of the new session."""
    job: JobKey
