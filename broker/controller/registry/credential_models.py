"""The registry's tables of credentials: public keys and login certificates. Times are seconds since the epoch."""

from __future__ import annotations

from sqlalchemy import BigInteger, UniqueConstraint
from sqlmodel import Field, SQLModel


class Key(SQLModel, table=True):
    """A public key that a user added with `berth key add`."""

    __table_args__ = (UniqueConstraint("owner", "fingerprint"),)

    id: int | None = Field(default=None, primary_key=True)
    owner: str = Field(max_length=32, index=True)
    fingerprint: str = Field(max_length=64)
    public_key: str
    comment: str = ""
    added_at: float


class Certificate(SQLModel, table=True):
    """The last certificate of a user's key."""

    owner: str = Field(primary_key=True, max_length=32)
    fingerprint: str = Field(primary_key=True, max_length=64)
    """The fingerprint of the key."""
    public_key: str
    serial: int = Field(sa_type=BigInteger)
    issued_at: float
    valid_before: float
    """The latest end of the key's certificates."""
    revoked_at: float | None = None
