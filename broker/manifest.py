"""What is written beside a session's data, so that a lost registry can be rebuilt."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from broker.keys import PublicKey
from broker.models import Session
from broker.schema import Name, SessionState, UserName, Version


def _public_key(line: str) -> str:
    if line:
        PublicKey.parse(line)
    return line


Line = Annotated[str, StringConstraints(max_length=4096, pattern=r"^[^\x00-\x1f\x7f]*$")]
HostKey = Annotated[Line, AfterValidator(_public_key)]
"""A public key, or nothing yet."""


class Manifest(BaseModel):
    """All of a session that cannot be worked out again. Later versions may add keys: unknown ones are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    format: int = Field(default=1, ge=1, le=1)
    id: str = Field(pattern=r"^[0-9a-hjkmnp-tv-z]{26}$")
    name: Name
    owner: UserName
    profile: Name
    version: Version
    digest: Line
    image_path: Line
    image_size: int = Field(ge=0, lt=2**63)
    options: list[Line] = Field(max_length=200)
    host_key: HostKey
    created_at: float = Field(ge=0, lt=2**40, allow_inf_nan=False)
    submission: int = Field(ge=1, lt=10**9)

    @classmethod
    def of(cls, session: Session) -> Manifest:
        return cls.model_validate({name: getattr(session, name) for name in cls.model_fields if name != "format"})

    def session(self) -> Session:
        """The session as it was, stopped; its job, if it has one, is found by asking Slurm."""
        values = self.model_dump(exclude={"format"})
        return Session(**values, state=SessionState.STOPPED, reason="restored from its manifest")
