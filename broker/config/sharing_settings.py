"""The settings of sharing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, WithJsonSchema, field_validator

from broker.config.operator_settings import UnixGroup
from broker.config.section import Section
from broker.names import MAX_GRANTS

RoleWord = Literal["operate", "watch", "pair", "use", "port", "snapshot"]
MAX_RULE_GROUPS = 50
RuleGroups = Annotated[tuple[UnixGroup, ...], Field(min_length=1, max_length=MAX_RULE_GROUPS)]


class RoleRule(Section):
    """A role of the site, and the Unix groups for which it is."""

    role: RoleWord
    granted_by: RuleGroups | None = None
    """Owners in one of them may grant it; None: all."""
    given_to: RuleGroups | None = None
    """Users in one of them may have it; None: all."""

    @property
    def is_limited(self) -> bool:
        return self.granted_by is not None or self.given_to is not None


def _as_rule(value: object) -> object:
    """Take a role's name alone as a rule for everybody."""
    if not isinstance(value, str | Mapping | RoleRule):
        raise ValueError("must be a role, or have `role`, and `granted_by` or `given_to`")
    return {"role": value} if isinstance(value, str) else value


_SCHEMA: dict[str, Any] = {"enum": list(get_args(RoleWord))}


class SharingSettings(Section):
    """Sharing: users let others operate, watch or use their sessions, clone snapshots, or open a service."""

    enabled: bool = True
    """Whether users may share sessions. Without it, no grant gives anything, also earlier ones. Personal mode has no
    other users, and no sharing."""
    roles: Annotated[
        tuple[Annotated[RoleRule, BeforeValidator(_as_rule), WithJsonSchema(_SCHEMA)], ...],
        Field(min_length=1, validate_default=True),
    ] = ("operate", "watch", "snapshot")  # type: ignore[assignment]  # validated, as a file's
    """The roles that users may grant: `operate` acts through Berth alone, `watch` sees terminals that the owner shows,
    `pair` also types there while the owner lets it, `use` has a shell as the owner, `port` opens one service of the
    session in a browser, which needs web access, and `snapshot` clones one snapshot. Grants of other roles, also
    earlier ones, give nothing. Without `watch`, `pair`, `use` and `port`, there is no live sharing.

    An entry such as `{role: pair, granted_by: ['@staff'], given_to: ['@staff', '@tutors']}` is a role for some users
    alone: owners in a group of `granted_by` may grant it, and it counts for users in a group of `given_to`. Both are
    looked up at each use. Without one of them, that side is everybody."""
    max_grants: Annotated[int, Field(ge=1, le=MAX_GRANTS)] = 50
    """Grants of one session at once; each service and each snapshot that is shared counts. A smaller number ends no
    grant."""

    @field_validator("roles")
    @classmethod
    def _once(cls, roles: tuple[RoleRule, ...]) -> tuple[RoleRule, ...]:
        words = [rule.role for rule in roles]
        twice = sorted({word for word in words if words.count(word) > 1})
        if twice:
            raise ValueError(f"names {', '.join(twice)} more than once")
        return roles
