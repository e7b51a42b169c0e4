"""What is written beside a session's data, so that a lost registry can be rebuilt."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from broker.models import Session
from broker.schema import Name, SessionState, UserName, Version


class Manifest(BaseModel):
    """All of a session that cannot be worked out again. Later versions may add keys: unknown ones are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    format: int = Field(default=1, ge=1, le=1)
    id: str = Field(pattern=r"^[0-9a-hjkmnp-tv-z]{26}$")
    name: Name
    owner: UserName
    profile: Name
    version: Version
    digest: str
    image_path: str
    image_size: int
    options: list[str]
    host_key: str
    created_at: float
    submission: int = Field(ge=1)

    @classmethod
    def of(cls, session: Session) -> Manifest:
        return cls.model_validate({name: getattr(session, name) for name in cls.model_fields if name != "format"})

    def session(self) -> Session:
        """The session as it was, stopped; its job, if it has one, is found by asking Slurm."""
        values = self.model_dump(exclude={"format"})
        return Session(**values, state=SessionState.STOPPED, reason="restored from its manifest")
