"""Types that every part of the API uses."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from broker.names import (
    IDENTIFIER,
    NAME_PATTERN,
    PROFILE_PATTERN,
    USER_PATTERN,
    VERSION_PATTERN,
)

Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
"""A session's or profile's name: safe as host name label (RFC 1123), path component and Slurm job name."""


ProfileReference = Annotated[str, StringConstraints(pattern=PROFILE_PATTERN)]
"""A profile's name: `NAME`, or `own/NAME` or `site/NAME` if it must be the user's own or the site's."""


UserName = Annotated[str, StringConstraints(pattern=USER_PATTERN)]
"""A login name as useradd(8) accepts it by default, dots allowed for directory services."""


Version = Annotated[str, StringConstraints(pattern=VERSION_PATTERN)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class KnownSession(Strict):
    """A session and its revision, as the gateway knows them."""

    session_id: Annotated[str, StringConstraints(pattern=f"^{IDENTIFIER.pattern}$")]
    revision: Annotated[int, Field(ge=0, lt=2**31)]


class SessionWait(KnownSession):
    """The change that a connection waits for: a revision above this one, for at most `seconds`."""

    seconds: float


class ErrorBody(Strict):
    """The body of every response that is not a success."""

    reason: str
    message: str
    hint: str = ""
    waiting: SessionWait | None = None
    """Only with the reason `waiting`, for a request with `hold` false."""


Timestamp = Annotated[float, Field(ge=0, lt=1e11, allow_inf_nan=False)]
"""Seconds since the epoch; a larger number would be milliseconds by mistake."""
