"""The kinds of volume operations: one table with everything that distinguishes them.

The code that runs each kind is in `broker.controller.reconcile.operation_steps`.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from broker.schema.permissions import Permission


class OperationKind(NamedTuple):
    """One kind of operation. Its key in OPERATIONS is the operation's `verb` in the API and in a session's row.

    No dataclass, which `berth list` would take long to import.
    """

    participle: str
    """The words for its progress, as in `dev is rolling back`."""
    permission: Permission | None
    """The permission that it needs on the session named in the request; None if the request names no session."""
    job: Literal["forbidden", "optional", "required"] = "forbidden"
    """Whether the session has a job meanwhile. `forbidden`: a running session is stopped first. `optional`: its job
    does the work, or the launcher if the session has no job."""
    in_manifest: bool = False
    """Whether the manifest records it before it begins, because the session's image depends on its result."""
    rewrites_manifest: bool = False
    """Whether it writes the changed session into the manifest: after a failure the former one is written again."""
    creates_session: bool = False
    """Whether it makes the session: if it fails, the session is deleted."""
    has_source: bool = False
    """Whether the session's data is copied from elsewhere, which messages name. After a failure the copy is purged."""
    resets_state: bool = True
    """Whether a session that has failed counts as stopped afterwards."""
    ends_root_mode: bool = False
    """Whether it may be requested in root mode, which ends with it."""
    enters_root_mode: bool = False
    """Whether the session is started in root mode afterwards."""

    takes_version: bool = False
    """Whether the next run has to pass checks, in whatever job it is; else the operation is undone, and the session
    does not take that version by itself any more."""

    @property
    def needs_stopped(self) -> bool:
        return self.job == "forbidden"


OPERATIONS: dict[str, OperationKind] = {
    "snapshot": OperationKind(
        participle="taking a snapshot", permission=Permission.SNAPSHOT, job="optional", resets_state=False
    ),
    "rollback": OperationKind(participle="rolling back", permission=Permission.ROLLBACK, in_manifest=True),
    "switch": OperationKind(participle="switching its profile", permission=Permission.SWITCH, in_manifest=True),
    "upgrade": OperationKind(
        participle="taking a new version", permission=Permission.SWITCH, in_manifest=True, takes_version=True
    ),
    "clone": OperationKind(
        participle="being cloned", permission=Permission.CLONE, creates_session=True, has_source=True
    ),
    "promote": OperationKind(
        participle="being created from a batch job", permission=None, creates_session=True, has_source=True
    ),
    "rename": OperationKind(
        participle="being renamed", permission=Permission.RENAME, resets_state=False, rewrites_manifest=True
    ),
    "restore": OperationKind(participle="being restored", permission=Permission.RESTORE, creates_session=True),
    "restart": OperationKind(participle="restarting", permission=Permission.RESTART, ends_root_mode=True),
    "root": OperationKind(participle="entering root mode", permission=Permission.ROOT, enters_root_mode=True),
    "commit-root": OperationKind(
        participle="keeping the changes of root mode", permission=Permission.ROOT, job="required"
    ),
}


def permission_for(verb: str) -> Permission:
    """Return the permission that an operation needs on the session named in its request."""
    permission = OPERATIONS[verb].permission
    assert permission is not None, f"{verb} names no session"
    return permission
