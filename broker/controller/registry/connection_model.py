"""The registry's table of connections to sessions. Times are seconds since the epoch."""

from __future__ import annotations

from sqlalchemy import BigInteger, Index
from sqlmodel import Field, SQLModel

from broker.schema.connections import ConnectionView

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
    """The session's name at that time."""
    owner: str = Field(max_length=32)
    user: str = Field(max_length=32)
    fingerprint: str = Field(max_length=64)
    peer: str = Field(max_length=80)
    gateway: str = Field(max_length=253)
    generation: str = Field(max_length=40)
    began_at: float
    seen_at: float = Field(index=True)
    """Time of the last report, by the controller's clock."""
    ended_at: float | None = None
    sent: int = Field(sa_type=BigInteger)
    received: int = Field(sa_type=BigInteger)
    end: str = Field(max_length=40)

    def is_same(self, other: Connection) -> bool:
        """Whether both records are of one connection: from the same gateway or user, of the same user and job."""
        return all(getattr(self, name) == getattr(other, name) for name in _CONNECTION_IDENTITY)

    def view(self) -> ConnectionView:
        """Return the connection as the API shows it to the session's owner."""
        return ConnectionView(**self.model_dump(exclude={"session_id", "owner"}))
