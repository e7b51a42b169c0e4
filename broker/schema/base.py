"""Types that every part of the API uses."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from broker.names import (
    IDENTIFIER,
    NAME_PATTERN,
    USER_PATTERN,
    VERSION_PATTERN,
)

Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
"""A session's or profile's name: safe as host name label (RFC 1123), path component and Slurm job name."""


UserName = Annotated[str, StringConstraints(pattern=USER_PATTERN)]
"""A login name as useradd(8) accepts it by default, dots allowed for directory services."""


Version = Annotated[str, StringConstraints(pattern=VERSION_PATTERN)]


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


MAX_ITEMS = 500
"""Elements of a list in a request; sbatch has some 130 options."""


Timestamp = Annotated[float, Field(ge=0, lt=1e11, allow_inf_nan=False)]
"""Seconds since the epoch; above that they are milliseconds by mistake."""
