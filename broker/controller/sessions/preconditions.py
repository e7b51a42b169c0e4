"""Check what several requests need of a session: no other operation, a state that can be copied, no waiting resize."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.errors import ConflictError
from broker.schema.sessions import STARTABLE, SessionState

if TYPE_CHECKING:
    from broker.controller.registry.models import Session


def check_free(session: Session, *, root: bool = False) -> None:
    """Raise ConflictError while another operation is pending, or in root mode unless `root` is set."""
    pending = session.pending
    if pending is not None:
        raise pending.conflict(session.name)
    if session.root and not root:
        raise ConflictError(
            f"{session.name} is in root mode, for commands as root", hint=f"`berth stop {session.name}` ends it"
        )


def check_copyable(session: Session) -> None:
    """Raise ConflictError unless the session is ready or without a job: else neither can copy its volumes."""
    if session.state not in STARTABLE | {SessionState.READY}:
        raise ConflictError(f"{session.name} is {session.state.value}", hint="try again when it is ready, or stopped")


def check_source(session: Session) -> None:
    """Raise ConflictError unless the session's present state can be copied for a clone or an environment."""
    check_free(session)
    check_copyable(session)
    if session.takeover_begun:  # the job that would make the copy is ending
        raise resize_conflict(session)


def resize_conflict(session: Session) -> ConflictError:
    """Return the error of a request that the session's pending resize does not allow."""
    successor = "another job" if session.next_job_id is None else f"job {session.next_job_id}"
    if session.takeover_begun:
        return ConflictError(
            f"{session.name} is moving to {successor}, which has other resources",
            hint=f"`berth show {session.name}` shows its state; try again when it is ready there",
        )
    return ConflictError(
        f"a resize of {session.name} waits for {successor}",
        hint=f"`berth resize {session.name} --cancel` keeps the present job; then try again",
    )
