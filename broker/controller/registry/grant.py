"""A grant as the session's row and its manifest store it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from broker.schema.base import Timestamp
from broker.schema.grants import Grantee, Role


class SessionGrant(BaseModel):
    """The permission of a user or a group to act on a session, until it is revoked or `until` has come."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    grantee: Grantee
    role: Role
    until: Timestamp | None = None
    granted_at: Timestamp

    def is_active(self, now: float) -> bool:
        return self.until is None or now < self.until

    def record(self) -> dict[str, Any]:
        """Return the JSON object that the row and the manifest store."""
        return self.model_dump(mode="json")


def without_unknown_roles(grants: object) -> object:
    """Return the stored grants without those of roles that this version does not know: they give nothing."""
    if not isinstance(grants, list):
        return grants
    return [each for each in grants if not isinstance(each, dict) or each.get("role") in set(Role)]
