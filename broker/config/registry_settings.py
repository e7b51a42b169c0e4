"""The settings of the registry: the database of all sessions."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from broker.config.section import Section


class RegistrySettings(Section):
    """The database of all sessions."""

    url: str | None = None
    """An SQLAlchemy URL: `sqlite:////var/lib/berth/registry.db` (the default) or `postgresql+psycopg://…`."""
    connection_days: Annotated[float, Field(gt=0, le=36500)] = 90.0
    """Days for which records of connections are kept: user, session and client address."""
    connection_records: Annotated[int, Field(ge=1000, le=10_000_000)] = 10_000
    """Records of connections that are kept for the sessions of one user. The gateway's log has all connections."""
    history_days: Annotated[float, Field(ge=30, le=36500)] = 730.0
    """Days for which events, ended jobs of sessions, and the records of deleted sessions are kept. A session that is
    not deleted stays whatever its age."""
