"""A request that has passed all checks of its arguments: what would change, and the job that would follow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.errors import ConflictError
from broker.schema.sessions import LIVE, STARTABLE, SessionState

if TYPE_CHECKING:
    from broker.controller.registry.models import Session
    from broker.controller.registry.registry import Transition
    from profiles.recipe.spec import Profile


@dataclass(frozen=True, slots=True)
class NextJob:
    """The profile and the user's options of the job in which a session would continue."""

    profile: Profile
    options: list[str]


@dataclass(frozen=True, slots=True)
class PlannedChange:
    """A change of a session. Each request is planned first; a check ends there, and the request itself applies it."""

    session: Session
    decide: Transition
    """Returns the change of the session's row. Raises ConflictError if the row does not allow it; changes nothing."""
    next_job: NextJob | None = None
    keeps_job: bool = False
    """Whether the session continues in the same job."""

    @property
    def ends_job(self) -> bool:
        """Whether it ends the programs of a running session, which is started again, in another job or the same."""
        return self.next_job is not None and has_next_job(self.session)

    def check(self) -> None:
        """Raise ConflictError if the session does not allow the change now."""
        self.decide(self.session)


def has_next_job(session: Session) -> bool:
    """Whether the session has a job, and no stop is requested: after a change it continues in another one."""
    return session.state in LIVE - {SessionState.STOPPING}


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


def resize_conflict(session: Session) -> ConflictError:
    """Return the error of a request that the session's pending resize does not allow."""
    successor = "another job" if session.next_job_id is None else f"job {session.next_job_id}"
    if session.gives_way:
        return ConflictError(
            f"{session.name} is moving to {successor}, which has other resources",
            hint=f"`berth show {session.name}` shows its state; try again when it is ready there",
        )
    return ConflictError(
        f"a resize of {session.name} waits for {successor}",
        hint=f"`berth resize {session.name} --cancel` keeps the present job; then try again",
    )
