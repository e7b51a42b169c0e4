"""The settings of sharing."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from broker.config.section import Section
from broker.names import MAX_GRANTS


class SharingSettings(Section):
    """Sharing: users let others operate or watch their sessions, clone snapshots, or open a service."""

    enabled: bool = True
    """Whether users may share sessions. Without it, no grant gives anything, also earlier ones. Personal mode has no
    other users, and no sharing."""
    roles: Annotated[tuple[Literal["operate", "watch", "port", "snapshot"], ...], Field(min_length=1)] = (
        "operate",
        "watch",
        "snapshot",
    )
    """The roles that users may grant: `operate` acts through Berth alone, `watch` sees terminals that the owner shows,
    `port` opens one service of the session in a browser, which needs web access, and `snapshot` clones one snapshot.
    Grants of other roles, also earlier ones, give nothing. Without `watch` and `port`, there is no live sharing."""
    max_grants: Annotated[int, Field(ge=1, le=MAX_GRANTS)] = 50
    """Grants of one session at once; each service and each snapshot that is shared counts. A smaller number ends no
    grant."""
