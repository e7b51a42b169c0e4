"""The settings of sharing."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from broker.config.section import Section
from broker.names import MAX_GRANTS


class SharingSettings(Section):
    """Sharing: users let others operate their sessions."""

    enabled: bool = True
    """Whether users may share sessions. Without it, no grant gives anything, also earlier ones. Personal mode has no
    other users, and no sharing."""
    max_grants: Annotated[int, Field(ge=1, le=MAX_GRANTS)] = 50
    """Users and groups with whom one session is shared at once. A smaller number ends no grant."""
