"""A grant as the session's row and its manifest store it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from broker.schema.base import Timestamp
from broker.schema.grants import Grantee, Role
from broker.schema.services import ServiceName

GrantKey = tuple[str, int | None, str | None]


class SessionGrant(BaseModel):
    """The permission of a user or a group to act on a session, until it is revoked or `until` has come."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    grantee: Grantee
    role: Role
    until: Timestamp | None = None
    granted_at: Timestamp
    snapshot: Annotated[int, Field(ge=1, lt=10**9)] | None = None
    """The number of the snapshot, with the role `snapshot` alone."""
    service: ServiceName | None = None
    """The service that is opened, with the role `port` alone."""

    @property
    def key(self) -> GrantKey:
        """The grantee, and the snapshot or the service: a session has one grant for each. A grant without either is of
        `operate` or `watch`.
        """
        return self.grantee, self.snapshot, self.service

    def is_active(self, now: float) -> bool:
        return self.until is None or now < self.until

    def record(self) -> dict[str, Any]:
        """Return the JSON object that the row and the manifest store."""
        return self.model_dump(mode="json")


def is_deleted_snapshot(snapshot: int, numbers: dict[str, Any] | None) -> bool:
    """Whether these SnapshotNumbers of a session show that the snapshot was deleted. Then it stays so: no number is
    used twice.
    """
    if numbers is None:
        return False
    in_range: bool = numbers["first"] <= snapshot <= numbers["last"]
    return in_range and snapshot not in numbers["existing"]


def without_unknown_roles(grants: object) -> object:
    """Return the stored grants without those that give nothing: of roles that this version does not know, of `snapshot`
    without a snapshot, of `port` without a service, and of another role with either.
    """
    if not isinstance(grants, list):
        return grants
    return [each for each in grants if not isinstance(each, dict) or _is_known(each)]


def _is_known(grant: dict[str, Any]) -> bool:
    role = grant.get("role")
    has_object = (grant.get("snapshot") is not None, grant.get("service") is not None)
    return role in set(Role) and has_object == (role == Role.SNAPSHOT, role == Role.PORT)
