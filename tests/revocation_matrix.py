"""The matrix of revocations, from the lists of the code: every role, way in and cause, and which cells cannot exist.

tests/lab/test_revocations.py runs each cell that can; tests/unit/controller/sessions/test_revocation_matrix.py fails if
a role, permission or reason of the code has no place here.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.controller.sessions.access import ENTRY_ROLES, ROLE_PERMISSIONS
from broker.controller.sessions.guests import GuestEnd
from broker.schema.grants import Role
from broker.schema.permissions import Permission

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOGIN = frozenset(ENTRY_ROLES.values())
ENTRIES: dict[str, frozenset[Permission]] = {
    "gateway": _LOGIN,
    "login node": _LOGIN,
    "browser": frozenset({Permission.VISIT}),
    "API": frozenset(
        {
            Permission.SEE,
            Permission.LOG,
            Permission.START,
            Permission.STOP,
            Permission.EXTEND,
            Permission.SNAPSHOT,
        }
    ),
    "clone": frozenset({Permission.CLONE_SHARED}),
}
"""Each way in, and the permissions of which a guest needs one there. A role has the ways for which it gives one."""

SSH = ("gateway", "login node")
BEGINS = {Role.WATCH: "{0}: terminal", Role.PAIR: "{0}: terminal", Role.USE: "in {0} you work as alice"}
"""The first words that a guest sees who logs in with the role."""


@dataclass(frozen=True)
class Cause:
    """Something that ends an access."""

    reason: GuestEnd
    """What the owner's events say of a guest who was in by ssh."""
    is_acknowledged: bool = False
    """Whether a command causes it, and returns when gateways and berth-web have closed."""


CAUSES = {
    "unshare": Cause(GuestEnd.REVOKED, is_acknowledged=True),
    "leave": Cause(GuestEnd.REVOKED, is_acknowledged=True),
    "expiry": Cause(GuestEnd.EXPIRED),
    "group": Cause(GuestEnd.REVOKED),
    "group of the policy": Cause(GuestEnd.REVOKED),
    "account": Cause(GuestEnd.ACCOUNT_GONE),
    "other role": Cause(GuestEnd.OTHER_ROLE, is_acknowledged=True),
    "unshare after a crash": Cause(GuestEnd.REVOKED, is_acknowledged=True),
    "role of the site": Cause(GuestEnd.REVOKED),
    "end of the session": Cause(GuestEnd.RUN_ENDED),
}
"""The owner takes the grant back; the guest leaves; its time is over; the guest leaves the group that has it, or one
for which the site has the role; the account is deleted; the owner gives another role; the controller is killed, and the
next one revokes; the site drops the role; the session stops."""

NO_REVOCATIONS = {
    GuestEnd.HAS_LEFT: "the guest has closed the connection: test_guest_roles.py",
    GuestEnd.NEVER_CAME: "there was no connection: test_guests.py",
}
"""Reasons that end no connection, and the tests of their leases."""


def why_not(role: Role, entry: str, cause: str) -> str:
    """Return why there is no such cell; empty if there is one."""
    if not ROLE_PERMISSIONS[role] & ENTRIES[entry]:
        return f"{role} gives nothing by {entry}: it is refused there at all times"
    if cause == "other role" and entry not in SSH:
        return "services and snapshots stand beside another role, and by the API another role gives the same or less"
    if cause == "end of the session" and entry in {"API", "clone"}:
        return "a stopped session is still shared: it can be shown, started and cloned"
    if cause == "account" and entry in {"API", "clone"}:
        return "the API knows its callers by uid, and keeps a name that the directory has lost for an hour (GRACE_S)"
    return ""


def entries(role: Role, cause: str) -> list[str]:
    """Return the ways in for which there is a cell."""
    return [entry for entry in ENTRIES if not why_not(role, entry, cause)]


def scenes() -> Iterator[tuple[Role, str, bool]]:
    """Yield each role and cause with a cell, and whether it runs each time.

    Of each cause one does: with the role that has the fewest so far, so that each role and each way in is among them.
    """
    chosen = Counter[Role]()
    for cause in CAUSES:
        roles = [role for role in Role if entries(role, cause)]
        always = min(roles, key=lambda role: chosen[role])
        chosen[always] += 1
        for role in roles:
            yield role, cause, role is always


def cells() -> Iterator[tuple[Role, str, str, str]]:
    """Yield each role, way in and cause, with the reason why there is no such cell."""
    for role, entry, cause in itertools.product(Role, ENTRIES, CAUSES):
        yield role, entry, cause, why_not(role, entry, cause)
