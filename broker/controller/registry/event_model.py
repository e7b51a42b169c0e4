"""The table of events."""

from __future__ import annotations

from sqlmodel import Field, SQLModel


class Event(SQLModel, table=True):
    """An action of a user or of Berth on a session; never changed afterwards."""

    id: int | None = Field(default=None, primary_key=True)
    at: float = Field(index=True)
    actor: str = Field(max_length=32)
    owner: str = Field(max_length=32, index=True)
    session_id: str = Field(max_length=26, index=True)
    session: str = Field(max_length=39)
    action: str = Field(max_length=32)
    detail: str = ""
