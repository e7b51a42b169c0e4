"""The site's rule for one role: which users may grant it, and which may have it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.config.sharing_settings import RoleRule
    from broker.schema.grants import Role


@dataclass(frozen=True, slots=True)
class RolePolicy:
    """Unix groups, without `@`, of the users between whom grants of a role count."""

    granted_by: frozenset[str] | None = None
    """Owners in one of them may grant the role; None: all."""
    given_to: frozenset[str] | None = None
    """Users in one of them may have it; None: all."""

    @classmethod
    def of(cls, rule: RoleRule) -> RolePolicy:
        """Return the policy of a rule of the configuration."""
        return cls(_groups(rule.granted_by), _groups(rule.given_to))

    def allows(self, owner_groups: frozenset[str], guest_groups: frozenset[str]) -> bool:
        """Whether grants of an owner in these groups count for a guest in those."""
        return _is_member(owner_groups, self.granted_by) and _is_member(guest_groups, self.given_to)

    def check_owner(self, role: Role, groups: frozenset[str]) -> None:
        """RefusedError unless an owner in these groups may grant the role."""
        if not _is_member(groups, self.granted_by):
            raise RefusedError(
                f"this site does not let you share with the role {role}",
                hint=f"members of {_names(self.granted_by)} may",
            )

    def check_guest(self, role: Role, user: str, groups: frozenset[str]) -> None:
        """RefusedError unless `user`, who is in these groups, may have the role."""
        if not _is_member(groups, self.given_to):
            raise RefusedError(
                f"this site does not let {user} have the role {role}", hint=f"members of {_names(self.given_to)} may"
            )


def _is_member(groups: frozenset[str], wanted: frozenset[str] | None) -> bool:
    return wanted is None or not wanted.isdisjoint(groups)


def _groups(names: Sequence[str] | None) -> frozenset[str] | None:
    return None if names is None else frozenset(name.removeprefix("@") for name in names)


def _names(groups: frozenset[str] | None) -> str:
    return ", ".join(f"@{group}" for group in sorted(groups or ()))
